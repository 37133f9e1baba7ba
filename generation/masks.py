"""Where a defect goes: Perlin masks, as MemSeg draws them, and the part in the picture.

Leaves out: what is painted there (`memseg.py`), and masks of real or hand-drawn defects.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

SCALE_EXPONENTS = 6  # scales 2^0 to 2^5
MAX_ROTATION_DEG = 90.0
THRESHOLD = 0.5


def perlin_noise(
    height_px: int, width_px: int, scale_y: int, scale_x: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Perlin noise with `scale_y` by `scale_x` lattice cells over the picture.

    A side that its scale does not divide gets cells of the next whole size; the noise is what
    padding to whole cells and cropping gives. It is zero on the lattice itself.

    Returns:
        `(height_px, width_px)` float32, about -1 to 1.

    Raises:
        ValueError: a side or a scale below 1.

    Source: K. Perlin, *Improving noise* (2002), with unit gradients and the factor sqrt(2).
    """
    if min(height_px, width_px, scale_y, scale_x) < 1:
        raise ValueError(f"noise of {width_px}x{height_px} px, scale {scale_x}x{scale_y}; expected at least 1 each")
    cells_px = (-(-height_px // scale_y), -(-width_px // scale_x))
    return _lattice_noise(height_px, width_px, cells_px, rng)


def perlin_mask(height_px: int, width_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One draw of MemSeg's mask; it may be empty or cover much (the caller draws again).

    The scales 2^k, k = 0 to 5, are drawn independently for the two axes, the noise is rotated by
    -90 to 90 degrees and thresholded at 0.5. The noise is laid out on the smallest canvas whose
    rotation fills the picture: turning the picture itself would leave the ends of a long one
    without defects.

    Returns:
        `(height_px, width_px)` uint8, 0 or 255.

    Raises:
        ValueError: a side below 1.

    Source: MemSeg (arXiv 2205.00908), section 3.1, step 1.
    """
    if min(height_px, width_px) < 1:
        raise ValueError(f"mask of {width_px}x{height_px} px; expected at least 1x1")
    scale_y, scale_x = (int(scale) for scale in 2 ** rng.integers(0, SCALE_EXPONENTS, 2))
    angle_deg = float(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG))
    cosine, sine = abs(np.cos(np.deg2rad(angle_deg))), abs(np.sin(np.deg2rad(angle_deg)))
    canvas_height = int(np.ceil(height_px * cosine + width_px * sine)) + 2
    canvas_width = int(np.ceil(height_px * sine + width_px * cosine)) + 2
    cells_px = (-(-height_px // scale_y), -(-width_px // scale_x))
    noise = _lattice_noise(canvas_height, canvas_width, cells_px, rng)
    centre = ((canvas_width - 1) / 2, (canvas_height - 1) / 2)
    turn = np.asarray(cv2.getRotationMatrix2D(centre, angle_deg, 1.0), np.float64)
    turn[:, 2] += (width_px - canvas_width) / 2, (height_px - canvas_height) / 2
    turned = cv2.warpAffine(noise, turn, (width_px, height_px), flags=cv2.INTER_LINEAR)
    return cast(NDArray[np.uint8], np.where(turned > THRESHOLD, np.uint8(255), np.uint8(0)))


def foreground_mask(image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of a picture in which it stands on a background: Otsu's threshold, largest component.

    Of the two sides of the threshold the background is the one that holds more of the picture's
    border. Holes in the part are filled.

    Args:
        image_bgr: `(h, w, 3)` uint8.

    Returns:
        `(h, w)` uint8, 0 or 255; all 255 when the picture is of one grey.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY), (5, 5), 0)
    if grey.min() == grey.max():
        return np.full(grey.shape, 255, np.uint8)
    _, part = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    border = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    if (border > 0).mean() > 0.5:
        part = cv2.bitwise_not(part)
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled: NDArray[np.uint8] = np.zeros(grey.shape, np.uint8)
    largest = max(contours, key=cv2.contourArea)
    cv2.drawContours(filled, [largest], -1, 255, cv2.FILLED)
    return filled


def _lattice_noise(
    height_px: int, width_px: int, cells_px: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Perlin noise with cells of `cells_px` (y, x), as two matrix products.

    A pixel's value is the sum over its cell's corners of fade_y * fade_x * (gradient . offset).
    Each factor depends on one axis alone, so the sum over all lattice points (rows of y-weights,
    columns of x-weights, zero away from the cell) is the picture.
    """
    fade_y, slope_y = _weights(height_px, cells_px[0])  # (h, lattice rows)
    fade_x, slope_x = _weights(width_px, cells_px[1])  # (w, lattice columns)
    angle = rng.uniform(0.0, 2.0 * np.pi, (fade_y.shape[1], fade_x.shape[1])).astype(np.float32)
    noise = (slope_y @ np.sin(angle)) @ fade_x.T + (fade_y @ np.cos(angle)) @ slope_x.T
    return cast(NDArray[np.float32], noise * np.float32(np.sqrt(2.0)))


def _weights(side_px: int, cell_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each pixel of a side the fade of its two lattice points, and fade times offset from them."""
    position = np.arange(side_px, dtype=np.float32) / np.float32(cell_px)
    left = position.astype(np.int64)
    offset = position - left
    fade = offset**3 * (offset * (offset * 6 - 15) + 10)
    rows = np.arange(side_px)
    weight = np.zeros((side_px, int(left[-1]) + 2), np.float32)
    slope = np.zeros_like(weight)
    weight[rows, left], weight[rows, left + 1] = 1 - fade, fade
    slope[rows, left], slope[rows, left + 1] = (1 - fade) * offset, fade * (offset - 1)
    return weight, slope
