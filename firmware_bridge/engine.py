"""The C engine on this machine: built with its C compiler, called through ctypes.

The library is made once per source, compiler and flags and lies in the user's cache folder. It is
the last rung of the parity ladder and what golden answers fall back on. Leaves out: the device
around it (`emulator.py`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagline.errors import FlashError
from firmware_bridge import image
from firmware_bridge.golden import Answer

FIRMWARE = Path(__file__).with_name("firmware")
SOURCES = ("rowstream.c", "image.c", "golden.c", "sha256.c", "kernels_generic.c")
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-O2")
STATUS = {
    0: "OK", -1: "not an image of this version, or a wrong offset or shape in it", -2: "its SHA-256 does not match",
    -3: "not signed with this key", -4: "too little RAM", -5: "not aligned", -6: "rows missing or too many",
    -7: "golden pictures answered otherwise than promised",
}  # fmt: skip
NET_BYTES = 64  # more than rs_net takes on any host


def compiler() -> str:
    """The machine's C compiler.

    Raises:
        FlashError: there is none.
    """
    named = os.environ.get("CC")
    for name in (named,) if named else ("cc", "gcc", "clang"):
        if shutil.which(name):
            return name
    raise FlashError(f"no C compiler ({named or 'cc, gcc, clang'}); expected one; install it with: apt-get install gcc")


def library(flags: Sequence[str] = ()) -> Path:
    """The engine as a shared library, built if this source was not built before.

    Raises:
        FlashError: no compiler, or it refuses the source.
    """
    command = [compiler(), *FLAGS, *flags, "-shared", "-fPIC"]
    key = hashlib.sha256(repr(command).encode())
    for path in sorted([*FIRMWARE.glob("*.h"), *FIRMWARE.glob("*.c")]):
        key.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diagline"
    target = cache / f"rowstream-{key.hexdigest()[:16]}.so"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / target.name
            sources = [str(FIRMWARE / name) for name in SOURCES]
            done = subprocess.run([*command, "-o", str(made), *sources], capture_output=True, text=True)
            if done.returncode:
                raise FlashError(f"{command[0]} cannot build the engine: {done.stderr.strip().splitlines()[-1]}")
            made.replace(target)
    return target


class Engine:
    """An image, opened.

    Args:
        data: a model image.
        lib: the library to run it in; by default the one built here.

    Raises:
        FlashError: no compiler, or the engine refuses the image.
    """

    def __init__(self, data: bytes, lib: Path | None = None) -> None:
        self._lib = ctypes.CDLL(str(lib or library()))
        self.header, _ = image.read(data)
        self._size = len(data)
        self._image = _aligned(len(data))
        ctypes.memmove(self._image, data, len(data))
        self._arena = _aligned(self.header.arena_bytes)
        self._net = _aligned(NET_BYTES)
        info = _aligned(256)
        self._lib.rs_heat.restype = ctypes.c_void_p
        self._check("rs_parse", self._lib.rs_parse(self._image, ctypes.c_size_t(self._size), info))
        opened = self._lib.rs_open(
            self._net, self._image, ctypes.c_size_t(self._size), self._arena, ctypes.c_size_t(self.header.arena_bytes)
        )
        self._check("rs_open", opened)

    def _check(self, what: str, status: int) -> None:
        if status:
            reason = STATUS.get(status, f"status {status}")
            raise FlashError(f"{self.header.name}: {what}: {reason}; make the image again with: diagline image")

    def run(self, image_u8: NDArray[np.uint8]) -> Answer:
        """What the network says of a (height_px, width_px, channels) uint8 picture.

        Raises:
            ValueError: a picture of another shape or dtype.
        """
        header = self.header
        if image_u8.shape != (header.height_px, header.width_px, header.channels) or image_u8.dtype != np.uint8:
            raise ValueError(f"{image_u8.shape} {image_u8.dtype}; expected uint8 as the image's input")
        rows = np.ascontiguousarray(image_u8)
        self._check("rs_begin", self._lib.rs_begin(self._net))
        for row in rows:
            self._check("rs_push_row", self._lib.rs_push_row(self._net, row.ctypes.data_as(ctypes.c_void_p)))
        outputs = np.empty(header.outputs, np.int8)
        self._check("rs_finish", self._lib.rs_finish(self._net, outputs.ctypes.data_as(ctypes.c_void_p)))
        heat = None
        if header.heat_rows:
            cells = header.heat_rows * header.heat_columns
            found = ctypes.string_at(self._lib.rs_heat(self._net), cells)
            heat = np.frombuffer(found, np.int8).reshape(header.heat_rows, header.heat_columns)
        return outputs, heat

    def selftest(self) -> int:
        """Golden pictures that were answered right, of `header.golden_count`; stops at the first wrong one."""
        row = _aligned(self.header.width_px * self.header.channels)
        passed = ctypes.c_uint32()
        self._lib.rs_selftest(self._net, row, ctypes.byref(passed))
        return passed.value


def _aligned(size: int) -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * -(-size // 4))()
