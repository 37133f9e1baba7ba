"""The ways a training picture is shown beyond mirroring: turned, scaled, moved, relit, mixed with another.

The teacher learns from such ways too (`teacher.views`): one that does not takes a turned good part
for a defect, and teaches that. Each way is a pure function of seed, picture and number, so that a
teacher can be asked about it once and a killed run shows it again. Leaves out: which ways a step
takes (`data.py`).

Source: Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent"
(teacher and student see the same crop, mixed pictures included); Yun et al. 2019 (CutMix).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

TURN_DEG, SHIFT, LIGHT = 12.0, 0.12, 0.15
"""Most a picture is turned, moved (share of its side) and relit (share of full scale)."""
SCALE = (-0.25, 0.35)
"""Natural logarithms of the scales between which a picture is shown."""

Read = Callable[[int], NDArray[np.uint8]]


def show(
    read: Read, index: int, count: int, rng: np.random.Generator, mirrors: tuple[int, ...], mix: float
) -> NDArray[np.uint8]:
    """One picture in one way.

    Args:
        read: picture number to (C, H, W) uint8.
        index: the picture's number, of `count`.
        rng: draws the way.
        mirrors: the mirrorings to draw from, as `data.VARIANTS` has them.
        mix: share of the ways in which another picture is mixed in: half of them a rectangle of
            it, half of them as a double exposure.

    Returns:
        (C, H, W) uint8.
    """
    shown = _warp(read(index), rng, mirrors)
    if rng.random() >= mix:
        return shown
    other = _warp(read(int(rng.integers(count))), rng, mirrors)
    if rng.random() < 0.5:
        share = rng.uniform(0.3, 0.7)
        return cast(NDArray[np.uint8], cv2.addWeighted(shown, share, other, 1 - share, 0))
    height, width = shown.shape[1:]
    rows, columns = (max(1, int(side * rng.uniform(0.3, 0.7))) for side in (height, width))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    place = (slice(None), slice(top, top + rows), slice(left, left + columns))
    shown[place] = other[place]
    return shown


def _warp(image: NDArray[np.uint8], rng: np.random.Generator, mirrors: tuple[int, ...]) -> NDArray[np.uint8]:
    """Mirrored, turned, scaled and moved, what comes in at the edge reflected; then relit."""
    height, width = image.shape[1:]
    mirror = int(rng.choice(np.array(mirrors)))
    middle = ((width - 1) / 2, (height - 1) / 2)
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D(middle, rng.uniform(-TURN_DEG, TURN_DEG), np.exp(rng.uniform(*SCALE)))
    matrix[:2, 2] += rng.uniform(-SHIFT, SHIFT, 2) * (width, height)
    flip = np.eye(3)
    if mirror & 1:
        flip[0] = (-1, 0, width - 1)
    if mirror & 2:
        flip[1] = (0, -1, height - 1)
    contrast, brightness = rng.uniform(-LIGHT, LIGHT, 2)
    levels = (np.arange(256) - 127.5) * (1 + contrast) + 127.5 + 255 * brightness
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    turned = (matrix @ flip)[:2]
    planes = [cv2.warpAffine(plane, turned, (width, height), borderMode=cv2.BORDER_REFLECT_101) for plane in image]
    return cast(NDArray[np.uint8], table[np.stack(planes)])
