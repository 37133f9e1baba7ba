"""Runs images in an engine built under AddressSanitizer and UBSan, whole and then changed at random.

    LD_PRELOAD=libasan.so python sanitised_engine.py LIBRARY CHANGES IMAGE ...

Every changed image gets its SHA-256 anew, so that only the parser stands between it and the
engine; those it accepts are run, in buffers of exactly the stated size. Prints how many of the
changed ones were accepted. A finding ends the process with the sanitiser's report.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import struct
import sys
from pathlib import Path

import numpy as np

from diagline.errors import FlashError
from firmware_bridge import image
from firmware_bridge.emulation.engine import Engine


def changed(data: bytes, rng: random.Random) -> bytes:
    """The image with one to three fields of header or steps set to something else."""
    header, _ = image.read(data)
    made = bytearray(data)
    fields = image.Header.LAYOUT.size + header.step_count * image.Step.LAYOUT.size
    for _ in range(rng.randint(1, 3)):
        size = rng.choice((1, 2, 4))
        at = rng.randrange(8, fields - size) // size * size
        value = rng.choice((0, 1, 2, 3, 255, 4096, 65535, 2**31, 2**32 - 1, rng.getrandbits(32), rng.getrandbits(8)))
        made[at : at + size] = struct.pack("<I", value & 0xFFFFFFFF)[:size]
    body = bytes(made[: -image.TRAILER_BYTES])
    return body + hashlib.sha256(body).digest() + image.NO_MAC


def main() -> None:
    library, changes, *paths = sys.argv[1:]
    rng, accepted = random.Random(7), 0
    for path in map(Path, paths):
        data = path.read_bytes()
        engine = Engine(data, Path(library))
        assert engine.selftest() == engine.header.golden_count
        for _ in range(int(changes)):
            try:
                broken = Engine(changed(data, rng), Path(library))
            except FlashError:
                continue
            if broken.header.arena_bytes > 1 << 22 or broken.header.width_px * broken.header.height_px > 1 << 16:
                continue
            accepted += 1
            shape = (broken.header.height_px, broken.header.width_px, broken.header.channels)
            broken.run(np.full(shape, rng.randrange(256), np.uint8))
    print(accepted)
    ctypes.CDLL(None).fflush(None)


if __name__ == "__main__":
    main()
