"""What the factory writes into a device: its name, its key and the camera it looks through.

The layout stands in PROTOCOL.md; firmware/params.c reads the same. Leaves out: how the bytes get
into the flash, which is the programmer's business, and for emulated devices a write into a file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from diagline.errors import FlashError

LAYOUT = struct.Struct("<4sHHHHB3x32s32s44x")
assert LAYOUT.size == 124
MAX_SIDE = 4096


@dataclass(frozen=True, slots=True)
class Parameters:
    """A device's parameters. A camera of (0, 0, 0) is any; no key accepts development images alone.

    Raises:
        FlashError: a name longer than 31 bytes, a key that is not 32 bytes, a camera that cannot be.
    """

    name: str = ""
    key: bytes | None = None
    camera: tuple[int, int, int] = (0, 0, 0)  # width_px, height_px, channels

    def __post_init__(self) -> None:
        if len(self.name.encode()) > 31 or "\0" in self.name:
            raise FlashError(f"device name {self.name!r} is too long; expected at most 31 bytes of UTF-8")
        if self.key is not None and len(self.key) != 32:
            raise FlashError(f"a device key of {len(self.key)} bytes; expected 32")
        width, height, channels = self.camera
        if not (0 <= width <= MAX_SIDE and 0 <= height <= MAX_SIDE and 0 <= channels <= 4):
            raise FlashError(f"camera {width}x{height}x{channels}; expected sides up to {MAX_SIDE} and 1 to 4 channels")

    def encode(self) -> bytes:
        """The 128 bytes that lie at the start of the device's flash."""
        flags = 1 if self.key is not None else 0
        body = LAYOUT.pack(b"DLDP", 1, flags, *self.camera, self.name.encode(), self.key or b"")
        return body + struct.pack("<I", zlib.crc32(body))
