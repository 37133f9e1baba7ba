"""Defect-free part surfaces, painted from nothing: what the demo and the tests look at.

Each surface is a height map and a colour, lit from one side and photographed: pattern position,
lighting, vignette, focus, tint and sensor noise differ from part to part, as on a line. Grain is
scaled with the picture (`unit`: 1 at a short side of 128 px). Leaves out: defects (`flaws.py`),
and any claim to replace pictures of a real line.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
MIN_SIDE_PX = 16


def paint_surface(name: str, height_px: int, width_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint one good part whose surface fills the picture.

    Args:
        name: one of `SURFACES`.

    Returns:
        `(height_px, width_px, 3)` uint8 BGR.

    Raises:
        ValueError: an unknown name, or a side below 16 px.
    """
    if name not in _PAINTERS:
        raise ValueError(f"surface {name!r}; expected one of {', '.join(SURFACES)}")
    if min(height_px, width_px) < MIN_SIDE_PX:
        raise ValueError(f"surface of {width_px}x{height_px} px; expected at least {MIN_SIDE_PX}x{MIN_SIDE_PX}")
    unit = min(height_px, width_px) / 128.0
    return _photograph(_PAINTERS[name]((height_px, width_px), unit, rng), unit, rng)


def smooth_noise(shape: tuple[int, int], grain_y: float, grain_x: float, rng: np.random.Generator) -> Field:
    """Band-limited noise of the given grain in px; mean 0, deviation a little below 1.

    Drawn on a coarse grid and interpolated, so its cost hardly depends on the grain; a grain
    below 1 px counts as 1.
    """
    height_px, width_px = shape
    step_y, step_x = max(grain_y, 1.0), max(grain_x, 1.0)
    coarse = rng.standard_normal((int(height_px / step_y) + 4, int(width_px / step_x) + 4), np.float32)
    shift_y, shift_x = rng.uniform(0, 1, 2)  # where the pattern lies on the part
    place = np.array([[1 / step_x, 0, 0.5 + shift_x], [0, 1 / step_y, 0.5 + shift_y]], np.float32)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cast(Field, cv2.warpAffine(coarse, place, (width_px, height_px), flags=flags, borderMode=cv2.BORDER_REFLECT))


def coordinates(shape: tuple[int, int]) -> tuple[Field, Field]:
    """Rows `(h, 1)` and columns `(1, w)` from -1 to 1."""
    rows = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    return rows, columns


def relief(height: Field, angle_rad: float) -> Field:
    """Brightness change of a height map under grazing light from `angle_rad`."""
    kernel = np.array([-0.5, 0.0, 0.5], np.float32)
    one = np.ones(1, np.float32)
    across = cv2.sepFilter2D(height, cv2.CV_32F, kernel, one)
    down = cv2.sepFilter2D(height, cv2.CV_32F, one, kernel)
    return cast(Field, across * np.float32(np.cos(angle_rad)) + down * np.float32(np.sin(angle_rad)))


def _brushed_metal(shape: tuple[int, int], unit: float, rng: np.random.Generator) -> Field:
    """Stainless steel brushed across the picture: long streaks and the soft band of an anisotropic highlight."""
    long = max(shape)
    streaks = np.zeros(shape, np.float32)
    for width, length, share in ((1.0, 0.35, 0.35), (1.3, 0.9, 0.45), (2.6, 1.6, 0.35), (7.0, 2.5, 0.25)):
        streaks += np.float32(share) * smooth_noise(shape, width * unit, length * long, rng)
    tilt = cv2.getRotationMatrix2D((shape[1] / 2, shape[0] / 2), float(rng.normal(0, 1.2)), 1.03)
    streaks = cv2.warpAffine(streaks, tilt, (shape[1], shape[0]), borderMode=cv2.BORDER_REFLECT).astype(np.float32)
    rows, columns = coordinates(shape)
    place, spread = np.float32(rng.uniform(-0.6, 0.6)), np.float32(rng.uniform(0.5, 0.9))
    band = np.exp(-(((columns + 0.08 * rows - place) / spread) ** 2))
    grey = np.float32(rng.uniform(112, 134)) + 46 * band + (8 + 6 * band) * streaks
    return _tinted(grey, (1.02, 1.0, 0.985))


def _cast(shape: tuple[int, int], unit: float, rng: np.random.Generator) -> Field:
    """Sand-cast aluminium: a grainy skin under grazing light, with dark pores between the grains."""
    bumps = np.zeros(shape, np.float32)
    for grain, share in ((1.7, 0.55), (3.2, 0.8), (7.0, 0.7)):
        bumps += np.float32(share) * smooth_noise(shape, grain * unit, grain * unit, rng)
    shade = relief(bumps, float(np.deg2rad(rng.normal(-125, 10)))) * np.float32(unit)  # slope per grain, not per px
    pores = np.minimum(smooth_noise(shape, 2.4 * unit, 2.4 * unit, rng) + 1.5, 0.0)
    glints = np.maximum(smooth_noise(shape, 1.5 * unit, 1.5 * unit, rng) - 1.9, 0.0)
    mottle = smooth_noise(shape, 22 * unit, 22 * unit, rng)
    grey = np.float32(rng.uniform(118, 136)) + 17 * shade + 5 * bumps + 13 * pores + 26 * glints + 3 * mottle
    return _tinted(grey, (1.01, 1.0, 0.98))


def _ceramic(shape: tuple[int, int], unit: float, rng: np.random.Generator) -> Field:
    """A glazed tile: even, faintly flecked white and the soft reflection of a lamp."""
    orange_peel = smooth_noise(shape, 9 * unit, 9 * unit, rng)
    mottle = smooth_noise(shape, 30 * unit, 30 * unit, rng)
    flecks = np.maximum(smooth_noise(shape, 1.6 * unit, 1.6 * unit, rng) - 2.1, 0.0)
    rows, columns = coordinates(shape)
    x, tilt = np.float32(rng.uniform(-0.8, 0.8)), np.float32(rng.uniform(-0.25, 0.25))
    across = (columns + tilt * rows - x) / 0.42 + 0.035 * orange_peel  # the glaze ripples the lamp's edge
    lamp = np.exp(-(across**4)) * (1 - 0.25 * rows**2)
    grey = np.float32(rng.uniform(190, 202)) + 1.3 * mottle + 0.8 * orange_peel - 30 * flecks + 17 * lamp
    return _tinted(grey, (0.965, 0.99, 1.0))


def _textile(shape: tuple[int, int], unit: float, rng: np.random.Generator) -> Field:
    """Plain-woven cloth: warp and weft threads that pass over and under each other, unevenly spun."""
    pitch = 6.5 * unit
    wander_y, wander_x = (0.9 * unit * smooth_noise(shape, 24 * unit, 40 * unit, rng) for _ in range(2))
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + wander_y + np.float32(rng.uniform(0, 2 * pitch))
    columns = np.arange(shape[1], dtype=np.float32)[None, :] + wander_x + np.float32(rng.uniform(0, 2 * pitch))
    weft, warp = np.sin(np.pi * rows / pitch), np.sin(np.pi * columns / pitch)
    over = weft * warp  # > 0: the weft thread lies on top
    top = np.float32(1) / (1 + np.exp(-10 * over))
    roundness = np.sqrt(np.abs(weft) * top + np.abs(warp) * (1 - top))
    spun = smooth_noise(shape, pitch, 30 * unit, rng) * top + smooth_noise(shape, 30 * unit, pitch, rng) * (1 - top)
    fibres = smooth_noise(shape, 1.2 * unit, 1.2 * unit, rng)
    grey = 44 + 62 * roundness * (0.72 + 0.28 * np.abs(over)) + 4 * spun + 4 * fibres + 9 * top
    return _tinted(grey + np.float32(rng.uniform(-6, 6)), (1.15, 0.97, 0.84))


_PAINTERS = {"brushed_metal": _brushed_metal, "cast": _cast, "ceramic": _ceramic, "textile": _textile}
SURFACES = tuple(_PAINTERS)


def _tinted(grey: Field, bgr: tuple[float, float, float]) -> Field:
    return grey[:, :, None] * np.array(bgr, np.float32)


def _photograph(colour: Field, unit: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Uneven light, vignette, focus, white balance and sensor noise; `(h, w, 3)` float to uint8."""
    shape = (colour.shape[0], colour.shape[1])
    rows, columns = coordinates(shape)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.float32(rng.uniform(0.0, 0.07))
    light = 1 + slope * (np.float32(np.cos(angle)) * columns + np.float32(np.sin(angle)) * rows)
    vignette = 1 - np.float32(rng.uniform(0.02, 0.07)) * (rows**2 + columns**2) / 2
    exposure = np.asarray(rng.normal(1.0, 0.03) * rng.normal(1.0, 0.004, 3), np.float32)
    lit = colour * ((light * vignette)[:, :, None] * exposure)
    seen = cv2.GaussianBlur(lit, (0, 0), float(rng.uniform(0.35, 0.55) * max(unit, 1.0)))
    noise = rng.standard_normal(lit.shape, np.float32) * np.float32(rng.uniform(1.0, 1.8))
    return cast(NDArray[np.uint8], np.clip(seen + noise + 0.5, 0, 255).astype(np.uint8))
