"""A box as a service of its machine: what has to be there, said step by step, and done once.

Each step says what it does, and does nothing where that is so already; installing twice changes
nothing. Enabling and starting stay with the integrator, who chooses when the line may stand. Leaves
out: the unit's text (`unit.py`) and the engine's record (`bench/recorded.py`).
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diagline import files, signing
from diagline.bundle import MANIFEST, Bundle
from diagline.errors import BundleError, ConfigError, OutputError
from edge_runtime import box_config
from edge_runtime.bench.recorded import engine_file, record_engine, recorded_engine
from edge_runtime.box_config import BoxConfig
from edge_runtime.service import unit as units
from edge_runtime.service.unit import Unit

UNITS = Path("/etc/systemd/system")
RUNNING = Path("/run/systemd/system")  # there where systemd runs the machine (sd_booted(3))
DEVICE_GROUPS = ("video", "render", "dialout", "gpio", "plugdev")
COMMAND_S = 60.0


def read_box(path: Path) -> BoxConfig:
    """The config of a box that is to be a service: its paths are absolute, as a service starts in another folder.

    Raises:
        ConfigError: as `box_config.load`, or a relative path.
    """
    box = box_config.load(path)
    for key, found in (("bundle", box.bundle), ("folder", box.folder)):
        if not found.is_absolute():
            raise ConfigError(
                f"{path}: {key} = {str(found)!r}; expected an absolute path, as a service starts elsewhere"
            )
    return box


def writable(box: BoxConfig) -> tuple[Path, ...]:
    """The folders that the box writes to, none of them in another."""
    lines = (box.lines.folder,) if box.lines is not None else ()
    others = (box.spool.folder, box.page.token_file.parent, *lines)
    return (box.folder, *dict.fromkeys(one for one in others if not one.is_relative_to(box.folder)))


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to bring about.

    Attributes:
        what: it, in words that begin with a verb.
        done: it is so already.
        act: does it; may return what else there is to say.
    """

    what: str
    done: bool
    act: Callable[[], object]


def take(steps: Sequence[Step], dry_run: bool = False) -> Iterator[str]:
    """Take the steps in their order and say each, after it was done; the first that raises ends it."""
    for step in steps:
        if step.done:
            yield f"is so already: {step.what}"
        elif dry_run:
            yield f"would: {step.what}"
        else:
            said = step.act()
            yield f"done: {step.what}" + (f" ({said})" if isinstance(said, str) else "")


def make_unit(
    config: Path, box: BoxConfig, user: str, memory_max_mib: int | None = None, allow_unsigned: bool = False
) -> Unit:
    """The unit of a box on this machine, with those device groups that this machine has."""
    present = {group.gr_name for group in grp.getgrall()}
    groups = [name for name in DEVICE_GROUPS if name in present]
    return Unit(box.name, config.resolve(), user, groups, writable(box), memory_max_mib, allow_unsigned)


def check_root(unit_dir: Path | None, dry_run: bool) -> None:
    """Refuse to change the machine without the right to.

    Raises:
        OutputError: not root, and no folder for the unit is named.
    """
    if unit_dir is None and not dry_run and os.geteuid() != 0:
        raise OutputError(f"{UNITS}: belongs to root; expected to run as root; use sudo, or give --unit-dir DIR")


def install_steps(
    unit: Unit,
    box: BoxConfig,
    bundle: Bundle,
    keys: Sequence[Path] = (),
    unit_dir: Path | None = None,
    seconds: float = 3.0,
) -> list[Step]:
    """What it takes until systemd can start the box.

    Args:
        bundle: the box's, read and trusted.
        keys: NAME.pub files that count as trusted beside this user's.
        unit_dir: put the unit there and leave users, folders and systemd alone; None: install on this machine.
        seconds: how long each engine is timed.

    Raises:
        ConfigError: there is a unit of that name, of another box.
    """
    path, user = (unit_dir or UNITS) / unit.file, unit.user
    _check_ours(path, unit)
    text, here = unit.text(), unit_dir is None
    fresh = not path.exists() or path.read_text(encoding="utf-8") != text
    read = [unit.config, bundle.root / MANIFEST]
    steps = [Step(f"verify {unit.file}", False, lambda: units.verify(unit))]
    if here:
        steps.append(Step(f"make the system user {user}", _uid(user) is not None, lambda: _run(*_useradd(user))))
        steps += [
            Step(f"make {folder}, of {user}", _owns(user, folder), _owner(folder, user)) for folder in unit.writable
        ]
    if bundle.public_key is not None:
        pem = _public_file(bundle, keys).read_bytes()
        trusted = units.trusted_beside(unit.config) / f"{bundle.signer}.pub"
        read.append(trusted)
        there = trusted.exists() and trusted.read_bytes() == pem
        steps.append(Step(f"trust key {bundle.signer} in {trusted}", there, lambda: files.write_bytes(trusted, pem)))
    if here:
        steps.append(Step(f"see that {user} reads the box and its programs", False, lambda: _check_reads(user, read)))
    threads = box.engine.threads
    timed = recorded_engine(unit.config, bundle, threads)
    what = f"record the fastest engine at {threads} threads in {engine_file(unit.config)}"
    steps.append(Step(what, timed is not None, lambda: _timed(unit.config, bundle, threads, seconds)))
    steps.append(Step(f"write {path}", not fresh, lambda: files.write_text(path, text)))
    if here and RUNNING.is_dir():
        steps.append(Step("let systemd read it", False, lambda: _run("systemctl", "daemon-reload")))
    return steps


def uninstall_steps(unit: Unit, unit_dir: Path | None = None) -> list[Step]:
    """What takes the box from systemd; archive, spool, user and trusted keys stay.

    Raises:
        ConfigError: the unit of that name is of another box.
    """
    path, record = (unit_dir or UNITS) / unit.file, engine_file(unit.config)
    _check_ours(path, unit)
    gone, systemd = not path.exists(), unit_dir is None and RUNNING.is_dir()
    steps = [Step(f"stop and disable {unit.file}", gone, lambda: _run("systemctl", "disable", "--now", unit.file))]
    return [
        *(steps if systemd else []),
        *(Step(f"remove {one}", not one.exists(), partial(_remove, one)) for one in (path, record)),
        *([Step("let systemd forget it", gone, lambda: _run("systemctl", "daemon-reload"))] if systemd else []),
    ]


def _check_ours(path: Path, unit: Unit) -> None:
    if path.exists() and (path.read_text(encoding="utf-8").splitlines() or [""])[0] != unit.head:
        raise ConfigError(
            f"{path}: not written by an install of {unit.config}; expected no other box or service of that name; "
            f"change name in the config, or remove that file"
        )


def _public_file(bundle: Bundle, keys: Sequence[Path]) -> Path:
    """The NAME.pub that holds the key of who signed a bundle."""
    for path in (*keys, signing.trusted_folder() / f"{bundle.signer}.pub"):
        with contextlib.suppress(BundleError):
            if signing.public_key(path) == bundle.public_key:
                return path
    raise BundleError(f"{bundle.root}: signed by {bundle.signer}; expected its public key; give --key NAME.pub")


def _timed(config: Path, bundle: Bundle, threads: int, seconds: float) -> str:
    found = record_engine(config, bundle, threads, seconds)
    return f"{found.format} on {found.engine}, p50 {found.p50_ms:.3g} ms"


def _useradd(user: str) -> list[str]:
    nologin = shutil.which("nologin", path="/usr/sbin:/sbin") or "/bin/false"
    return ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/", "--shell", nologin, user]


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _owns(user: str, folder: Path) -> bool:
    return folder.is_dir() and folder.stat().st_uid == _uid(user)


def _owner(folder: Path, user: str) -> Callable[[], None]:
    def make() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        except OSError as error:
            raise OutputError(f"cannot make {folder}: {error.strerror}; expected a folder for {user}") from error

    return make


def _check_reads(user: str, paths: Sequence[Path]) -> None:
    """Start this very Python as the service's user, and let it import diagline and open the paths."""
    entry = pwd.getpwnam(user)
    code = "import sys, diagline.cli\nfor path in sys.argv[1:]: open(path, 'rb').close()"
    _run(
        sys.executable, "-I", "-c", code, *map(str, paths), mend=f"let {user} read it (diagline in /opt, say)",
        user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], cwd="/",
    )  # fmt: skip


def _run(*command: str, mend: str = "mend this", **options: Any) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutputError(f"{error}; {mend} and install again") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise OutputError(f"{Path(command[0]).name}: {said}; {mend} and install again")


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}; expected a writable folder") from error
