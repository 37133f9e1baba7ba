"""The ways a training picture is shown beyond mirroring: turned, scaled, moved, relit.

The teacher learns from such ways too (`teacher.views`): one that does not takes a turned good part
for a defect, and teaches that. Each way is a pure function of seed, picture and number, so that a
teacher can be asked about it once and a killed run shows it again. Leaves out: which ways a step
takes (`data.py`).

Source: Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent"
(teacher and student see the same crop).
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

TURN_DEG, SHIFT, LIGHT = 12.0, 0.12, 0.15
"""Most a picture is turned, moved (share of its side) and relit (share of full scale)."""
SCALE = (-0.25, 0.35)
"""Natural logarithms of the scales between which a picture is shown."""


def show(
    image: NDArray[np.uint8], rng: np.random.Generator, mirrors: tuple[int, ...], reach: float = 1.0
) -> NDArray[np.uint8]:
    """A picture (C, H, W) uint8 in one way: mirrored, turned, scaled and moved, reflected at the edge; then relit.

    Args:
        rng: draws the way.
        mirrors: the mirrorings to draw from, as `data.VARIANTS` has them.
        reach: share of the greatest turn, scale and shift that is drawn from; light changes alike.
    """
    height, width = image.shape[1:]
    mirror = int(rng.choice(np.array(mirrors)))
    middle = ((width - 1) / 2, (height - 1) / 2)
    matrix = np.eye(3)
    turn_deg, scale = rng.uniform(-TURN_DEG, TURN_DEG), np.exp(reach * rng.uniform(*SCALE))
    matrix[:2] = cv2.getRotationMatrix2D(middle, reach * turn_deg, scale)
    matrix[:2, 2] += reach * rng.uniform(-SHIFT, SHIFT, 2) * (width, height)
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
