"""Can one see the defect? The change inside a mask against the surface's own noise.

A change is looked at in several views (fine, fine in a small part of the mask, coarse, texture,
colour), each in units of the local noise of the good surface as the same view sees it. What a view
shows when good surface is redrawn as good surface (`redrawn`) is what a visible defect must exceed.
Leaves out: thresholds and verdicts (`gate.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from generation import masks
from generation.painting import Image

Plane = NDArray[np.float32]

VIEWS = ("fine", "sparse", "coarse", "texture", "colour", "colour_coarse")
# A view's change that nobody sees, however smooth the surface: the noise counts as at least FLOOR
# grey levels (colour: two), and LEAST such units are never enough; texture in octaves of contrast.
FLOOR_LEVELS = 1.0
LEAST = np.array([1.5, 3.0, 1.5, 0.5, 1.5, 1.5])
_COARSE_PX = 4  # side of a cell of the coarse views
_MARGIN_PX = 32  # surface around the mask that its noise is taken from
_COARSER_PX = 17  # redrawn surface keeps everything coarser than this window's median
_TEXTURE_PX = 9  # side of the window of the texture's contrast
_DEVIATION = np.float32(1.2533)  # standard deviation of Gaussian noise of mean magnitude 1
_AROUND_CELLS = 9  # window of a place's noise
_TINY = np.float32(1e-3)
# Luma, and two colour differences, of BGR.
_PLANES = np.array([[0.114, 0.587, 0.299], [0.0, -1.0, 1.0], [1.0, -0.5, -0.5]], np.float32)


def change_views(normal_bgr: Image, painted_bgr: Image, mask: Image) -> NDArray[np.float64]:
    """How much each of `VIEWS` sees of the change inside a mask.

    Args:
        normal_bgr, painted_bgr: `(h, w, 3)` uint8, of one size.
        mask: `(h, w)` uint8 0/255, not empty.

    Returns:
        `(len(VIEWS),)` float64 from 0: multiples of the surface's noise; texture in octaves.

    Raises:
        ValueError: sizes that differ, or an empty mask.
    """
    if not normal_bgr.shape == painted_bgr.shape == (*mask.shape, 3):
        raise ValueError(f"shapes {normal_bgr.shape}, {painted_bgr.shape}, mask {mask.shape}; expected one size")
    left, top, width_px, height_px = cv2.boundingRect(mask)
    if not width_px:
        raise ValueError("an empty mask; expected some defect")
    window = (
        slice(max(0, top - _MARGIN_PX), top + height_px + _MARGIN_PX),
        slice(max(0, left - _MARGIN_PX), left + width_px + _MARGIN_PX),
    )
    normal, painted = normal_bgr[window], painted_bgr[window]
    inside = mask[window] > 127
    weight = inside.astype(np.float32)
    views = np.zeros(len(VIEWS))
    surface, change = _planes(normal, painted, weight)
    cover, cells_weight = _blur(weight), _cells(weight)
    cells_cover, cells_inside = _blur(cells_weight), cells_weight > 0
    for plane, (good, changed) in enumerate(zip(surface, change, strict=True)):
        floor = np.float32(FLOOR_LEVELS if plane == 0 else 2 * FLOOR_LEVELS)
        soft, soft_change = _blur(good), _blur(changed)
        seen = _against_noise(good, soft, soft_change, cover, inside, floor)
        cells = _cells(good)
        coarse = _against_noise(cells, _blur(cells), _blur(_cells(changed)), cells_cover, cells_inside, floor)
        if plane == 0:
            views[:2] = _quantiles(seen, 0.75, 0.98)
            views[2:3] = _quantiles(coarse, 0.75)
            after = cast(Plane, good + changed - soft - soft_change / np.maximum(cover, _TINY))
            views[3:4] = _quantiles(_octaves(good - soft, after, weight, inside), 0.75)
        else:
            views[4:] = np.maximum(views[4:], [*_quantiles(seen, 0.75), *_quantiles(coarse, 0.75)])
    return views


def redrawn(normal_bgr: Image, mask: Image, donor_bgr: Image, place: tuple[float, float]) -> Image:
    """Good surface redrawn as good surface: the mask filled with a donor's texture.

    Local mean and local contrast stay the normal's: rough texture on a smooth place is a defect one sees.

    Args:
        normal_bgr: `(h, w, 3)` uint8.
        mask: `(h, w)` uint8 0/255.
        donor_bgr: `(h', w', 3)` uint8, another good picture, or the same; any size.
        place: shift of the donor's texture, shares of its sides (y, x), wrapped around.
    """
    low, _, contrast = _split_texture(normal_bgr)
    _, donor, donor_contrast = _split_texture(donor_bgr)
    rows, columns = (
        (np.arange(side) + int(share * around)) % around
        for side, share, around in zip(normal_bgr.shape, place, donor_bgr.shape, strict=False)
    )
    gain = np.minimum((contrast + 0.5) / (donor_contrast[rows][:, columns] + 0.5), np.float32(4))
    filled = np.clip(low + donor[rows][:, columns] * gain[..., None] + 0.5, 0, 255).astype(np.uint8)
    return cast(Image, np.where(mask[..., None] > 127, filled, normal_bgr))


def _split_texture(image: Image) -> tuple[Plane, Plane, Plane]:
    """A picture's coarse part, its texture, and the texture's local contrast (one for all channels)."""
    whole = image.astype(np.float32)
    # A median keeps the part's outline out of the texture.
    low = cv2.medianBlur(image, _COARSER_PX).astype(np.float32)
    fine = whole - low
    return low, fine, cv2.GaussianBlur(np.abs(fine).mean(axis=2), (0, 0), 8.0)


def random_mask(height_px: int, width_px: int, rng: np.random.Generator) -> Image:
    """A line 1 to 3 px wide, a blob, or MemSeg's noise, with equal chance; never empty."""
    kind = int(rng.integers(3))
    mask: Image = np.zeros((height_px, width_px), np.uint8)
    short = min(height_px, width_px)
    if kind == 2:
        for _ in range(8):
            mask = masks.perlin_mask(height_px, width_px, rng)
            if 0 < cv2.countNonZero(mask) <= 0.6 * mask.size:
                return mask
        mask = np.zeros((height_px, width_px), np.uint8)
    x, y = (int(rng.integers(0, side)) for side in (width_px, height_px))
    if kind == 0:
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5) * short
        end = int(x + length * np.cos(angle)), int(y + length * np.sin(angle))
        cv2.line(mask, (x, y), end, 255, int(rng.integers(1, 4)))
    else:
        axes = [max(1, int(short * rng.uniform(0.02, 0.15))) for _ in range(2)]
        cv2.ellipse(mask, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    mask[y, x] = 255
    return mask


def _planes(normal: Image, painted: Image, weight: Plane) -> tuple[Sequence[Plane], Sequence[Plane]]:
    """Surface and change as luma and two colour differences; a change without colour as luma alone."""
    surface = cv2.split(cv2.transform(normal.astype(np.float32), _PLANES))
    changed = cv2.split(cv2.transform(cv2.subtract(painted, normal, dtype=cv2.CV_32F), _PLANES))
    change = [cast(Plane, cv2.multiply(plane, weight)) for plane in changed]
    planes = 3 if max(cv2.norm(plane, cv2.NORM_INF) for plane in change[1:]) > 0 else 1
    return [cast(Plane, plane) for plane in surface[:planes]], change[:planes]


def _against_noise(
    surface: Plane, soft: Plane, soft_change: Plane, cover: Plane, inside: NDArray[np.bool_], floor: np.float32
) -> Plane:
    """The change of the mask's pixels, smoothed within the mask, in units of the surface's noise around them.

    Smoothing within the mask leaves thin masks their contrast. Where the mask covers less of the
    kernel, less noise is smoothed away: the unit lies between the pixels' noise and the smoothed.
    """
    base = cv2.boxFilter(surface, -1, (15, 15))
    rough, fine = (_local_noise(cast(Plane, cv2.absdiff(plane, base)))[inside] for plane in (surface, soft))
    share = np.clip(cover[inside], _TINY, 1)
    return cast(Plane, np.abs(soft_change[inside]) / share / np.maximum(rough + (fine - rough) * share, floor))


def _octaves(before: Plane, after: Plane, weight: Plane, inside: NDArray[np.bool_]) -> Plane:
    """How far the contrast of the finest texture has risen or fallen at the mask's pixels."""
    size = (_TEXTURE_PX, _TEXTURE_PX)
    share = np.maximum(cv2.boxFilter(weight, -1, size)[inside], _TINY)
    energies = (cv2.boxFilter(plane * plane * weight, -1, size)[inside] / share for plane in (before, after))
    low, high = (np.sqrt(np.maximum(energy, 0)) + np.float32(FLOOR_LEVELS / 2) for energy in energies)
    return cast(Plane, np.abs(np.log2(high / low)))


def _cells(plane: Plane) -> Plane:
    size = tuple(max(1, -(-side // _COARSE_PX)) for side in plane.shape[::-1])
    return cast(Plane, cv2.resize(plane, size, interpolation=cv2.INTER_AREA))


def _blur(plane: Plane) -> Plane:
    return cast(Plane, cv2.GaussianBlur(plane, (5, 5), 1.0))


def _local_noise(size: Plane) -> Plane:
    """Noise around every pixel, from its magnitude: the median of cells, which a part's outline does not move."""
    steps = np.minimum(_cells(size) * 4 + np.float32(0.5), 255).astype(np.uint8)  # quarters of a level, up to 64
    around = cv2.resize(cv2.medianBlur(steps, _AROUND_CELLS), size.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return cast(Plane, around.astype(np.float32) * (_DEVIATION / 4))


def _quantiles(values: Plane, *shares: float) -> list[float]:
    """Nearest-rank quantiles, without interpolation."""
    ranks = [round(share * (values.size - 1)) for share in shares]
    ordered = np.partition(values, ranks)
    return [float(ordered[rank]) for rank in ranks]
