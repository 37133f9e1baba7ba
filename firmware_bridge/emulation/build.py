"""The firmware's C sources, compiled with this machine's compiler when somebody asks for a program of them.

Programs are kept in a cache folder under a name that is a hash of everything that went into
them, so that a changed source or compiler is a new program and nothing stale is ever run.
Leaves out: what a board's compiler and linker are told (`boards.py`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from diagline.errors import FlashError

FIRMWARE = Path(__file__).resolve().parent.parent / "firmware"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
SMALL = ("-DFLASH_SECTOR_BYTES=512u", "-DFLASH_SLOT_SECTORS=4u")
"""Slots of 2 KiB, so that every moment of an update can be tried."""


def cache_folder() -> Path:
    """Where compiled programs are kept: `$XDG_CACHE_HOME/diagline`, or `~/.cache/diagline`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diagline"


def compiler() -> str:
    """The C compiler: `$CC`, or the first of cc, gcc and clang.

    Raises:
        FlashError: there is none.
    """
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise FlashError("no C compiler found (cc, gcc or clang); install one: apt-get install gcc")


def program(name: str, sources: Sequence[str], flags: Sequence[str] = ("-O2",), cc: str | None = None) -> Path:
    """The compiled program of some of the firmware's sources, from the cache where it is there.

    Args:
        name: the program's file name.
        sources: paths of C files within firmware/.
        flags: of the compiler, after the strict ones.
        cc: another compiler than `compiler()`.

    Raises:
        FlashError: no compiler, or the sources do not compile with it; the message carries its last lines.
    """
    cc = cc or compiler()
    version = subprocess.run([cc, "--version"], capture_output=True, check=False).stdout
    command = [cc, *STRICT, *flags]
    digest = hashlib.sha256(repr((version, command, list(sources))).encode())
    for path in sorted(FIRMWARE.rglob("*.[ch]")):
        digest.update(path.relative_to(FIRMWARE).as_posix().encode() + b"\0" + path.read_bytes())
    target = cache_folder() / digest.hexdigest()[:16] / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        made = Path(aside) / name
        done = subprocess.run(
            [*command, "-I", str(FIRMWARE), *(str(FIRMWARE / source) for source in sources), "-o", str(made)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            tail = "\n".join(done.stderr.strip().splitlines()[-12:])
            raise FlashError(f"{cc} does not compile {name} (expected C11, GCC 9 or clang 9 and newer):\n{tail}")
        os.replace(made, target)
    return target


def host_port() -> Path:
    """The device as a process of this machine: `device_host FLASH_FILE [ARENA_BYTES]`, see port/host/port.c.

    Raises:
        FlashError: as `program`.
    """
    core = sorted(path.name for path in FIRMWARE.glob("*.c"))
    return program("device_host", [*core, "port/host/port.c"])
