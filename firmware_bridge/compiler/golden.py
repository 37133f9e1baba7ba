"""Golden pictures: made from a seed on host and device alike, and what a network must answer to them.

They prove at every boot that engine, image and processor give the bits that TFLite Micro gives.
Leaves out: the bundle's golden pictures, which prove the verdicts of real parts (`flash.py`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.compiler.compile import Network
from firmware_bridge.image import Golden

SEEDS = (0, 2, 3, 0xD1A60008, 0xD1A60013, 0xD1A6001D)
"""Flat black and white, a ramp, noise in cells of 1, 8 and 32 pixels."""
Answer = tuple[NDArray[np.int8], NDArray[np.int8] | None]
"""(outputs,) int8 and (heat_rows, heat_columns) int8, None without a heat map."""
Runner = Callable[[NDArray[np.uint8]], Answer]
"""A (height_px, width_px, channels) uint8 picture to what the network says of it."""


def picture(seed: int, height_px: int, width_px: int, channels: int) -> NDArray[np.uint8]:
    """(height_px, width_px, channels) uint8, as `rs_golden_row` makes it (firmware/image.h states how)."""
    if seed < 3:
        return np.full((height_px, width_px, channels), (0, 128, 255)[seed], np.uint8)
    y, x, c = np.ogrid[:height_px, :width_px, :channels]
    if seed == 3:
        return (x + y + c).astype(np.uint8)
    shift = seed & 7
    rows = np.arange(height_px, dtype=np.uint32) >> shift
    state = np.uint32(seed) ^ (rows * np.uint32(0x9E3779B9))
    state[state == 0] = 1
    made = np.empty((height_px, width_px, channels), np.uint8)
    for column in range(width_px):
        if column & ((1 << shift) - 1):
            made[:, column] = made[:, column - 1]
            continue
        for channel in range(channels):
            state ^= state << np.uint32(13)
            state ^= state >> np.uint32(17)
            state ^= state << np.uint32(5)
            made[:, column, channel] = state >> np.uint32(24)
    return made


def answers(network: Network, run: Runner, seeds: Sequence[int] = SEEDS) -> list[Golden]:
    """What a runner says of the golden pictures."""
    header = network.header
    found = []
    for seed in seeds:
        outputs, heat = run(picture(seed, header.height_px, header.width_px, header.channels))
        crc = 0 if heat is None else zlib.crc32(heat.tobytes())
        found.append(Golden(seed, crc, tuple(outputs.tolist())))
    return found
