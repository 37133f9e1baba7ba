"""The C engine on this machine: built with its C compiler, called through ctypes.

It is the last rung of the parity ladder, and what golden answers fall back on. Leaves out: the device
around it (`emulator.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagline.errors import FlashError
from firmware_bridge import image
from firmware_bridge.compiler.golden import Answer
from firmware_bridge.emulation import build

SOURCES = ("rowstream.c", "image.c", "golden.c", "sha256.c", "kernels_generic.c")
STATUS = {
    0: "OK", -1: "not an image of this version, or a wrong offset or shape in it", -2: "its SHA-256 does not match",
    -3: "not signed with this key", -4: "too little RAM", -5: "not aligned", -6: "rows missing or too many",
    -7: "golden pictures answered otherwise than promised",
}  # fmt: skip
NET_BYTES = 64  # more than rs_net takes on any host


def library(flags: Sequence[str] = ("-O2",)) -> Path:
    """The engine as a shared library, built if this source was not built before; raises as `build.program`."""
    return build.program("rowstream.so", SOURCES, (*flags, "-shared", "-fPIC"))


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
        self.header = image.Header.unpack(data)
        self._size = len(data)
        self._image = _aligned(len(data))
        ctypes.memmove(self._image, data, len(data))
        info = _aligned(256)
        self._lib.rs_heat.restype = ctypes.c_void_p
        self._check("rs_parse", self._lib.rs_parse(self._image, ctypes.c_size_t(self._size), info))
        self._arena = _aligned(self.header.arena_bytes)
        self._net = _aligned(NET_BYTES)
        opened = self._lib.rs_open(
            self._net, self._image, ctypes.c_size_t(self._size), self._arena, ctypes.c_size_t(self.header.arena_bytes)
        )
        self._check("rs_open", opened)

    def _check(self, what: str, status: int) -> None:
        if status:
            reason = STATUS.get(status, f"status {status}")
            raise FlashError(f"{self.header.name}: {what}: {reason}; expected a whole image and all its rows")

    def begin(self) -> None:
        """Begin a new picture; one that was not finished is dropped."""
        self._check("rs_begin", self._lib.rs_begin(self._net))

    def push(self, row_u8: NDArray[np.uint8]) -> None:
        """Take the next row from the top, (width_px, channels) uint8.

        Raises:
            ValueError: a row of another shape or dtype.
            FlashError: all rows were pushed already.
        """
        header = self.header
        if row_u8.shape != (header.width_px, header.channels) or row_u8.dtype != np.uint8:
            raise ValueError(f"{row_u8.shape} {row_u8.dtype}; expected a uint8 row of the image's input")
        row = np.ascontiguousarray(row_u8)
        self._check("rs_push_row", self._lib.rs_push_row(self._net, row.ctypes.data_as(ctypes.c_void_p)))

    def finish(self) -> Answer:
        """What the network says of the picture.

        Raises:
            FlashError: rows are missing.
        """
        header = self.header
        outputs = np.empty(header.outputs, np.int8)
        self._check("rs_finish", self._lib.rs_finish(self._net, outputs.ctypes.data_as(ctypes.c_void_p)))
        if not header.heat_rows:
            return outputs, None
        cells = header.heat_rows * header.heat_columns
        heat = np.frombuffer(ctypes.string_at(self._lib.rs_heat(self._net), cells), np.int8)
        return outputs, heat.reshape(header.heat_rows, header.heat_columns)

    def run(self, image_u8: NDArray[np.uint8]) -> Answer:
        """What the network says of a (height_px, width_px, channels) uint8 picture; raises as `push` and `finish`."""
        self.begin()
        for row in image_u8:
            self.push(row)
        return self.finish()

    def selftest(self) -> int:
        """Golden pictures that were answered right, of `header.golden_count`; stops at the first wrong one."""
        row = _aligned(self.header.width_px * self.header.channels)
        passed = ctypes.c_uint32()
        self._lib.rs_selftest(self._net, row, ctypes.byref(passed))
        return passed.value


def _aligned(size: int) -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * -(-size // 4))()
