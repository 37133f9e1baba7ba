"""Ways of showing a training picture that alter it at a place: strokes, chips, stains, pasted pieces, blur.

A student that has only seen good parts and one painter's defects knows nothing of others; its
teacher does. So the teacher is asked about pictures that are odd in many ways, and its word is the
only one: an alteration may be invisible or look like dirt, no label goes with it. Each way is a
pure function, as those of `views.py`. Leaves out: defects that labels stand for (`generation/`).

Source: Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent" (a
teacher's function is learned on more than its own pictures); Li et al. 2021, "CutPaste", for
the pasted pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from training import views

Plane = NDArray[np.float32]

REACH = 0.25
"""How far a picture is moved before it is altered, as a share of what `views.show` does: good parts stay good."""
MOVED, ALTERED = 0.6, 0.8
"""Shares of the ways that move and relight the picture, and that alter it."""
UNIT = 1 / 160
"""Sizes are in this share of the picture's short side."""
SUBPIXEL_BITS = 4


def show(image: NDArray[np.uint8], rng: np.random.Generator, mirrors: tuple[int, ...]) -> NDArray[np.uint8]:
    """A picture (C, H, W) uint8 in one way: moved a little and relit, or not; altered at one or two places, or not.

    Args:
        rng: draws the way.
        mirrors: the mirrorings to draw from, as `data.VARIANTS` has them.
    """
    if rng.random() < MOVED:
        image = views.show(image, rng, mirrors, REACH)
    if rng.random() < ALTERED:
        for _ in range(int(rng.choice([1, 1, 1, 2]))):
            image = alter(image, rng)
    return image


def alter(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy of a picture (C, H, W) uint8, altered where a soft-edged shape lies; all of it drawn from `rng`."""
    height, width = image.shape[1:]
    unit = min(height, width) * UNIT
    shape = (_stroke, _stroke, _blot, _blot, _speckle, _chip, _chip)[int(rng.integers(7))]
    share = shape((height, width), unit, rng) * np.float32(rng.uniform(0.3, 1.0))  # 0 to 1
    before = image.astype(np.float32)
    after = before + share * (_filled(before, unit, rng) - before)
    return np.clip(np.rint(after), 0, 255).astype(np.uint8)


def _stroke(size: tuple[int, int], unit: float, rng: np.random.Generator) -> Plane:
    """One to three lines, straight to crooked, mostly thin."""
    drawn = np.zeros(size, np.float32)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        steps = int(rng.integers(6, 40))
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.uniform(0.02, 0.5), steps))
        path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * rng.uniform(2, 5) * unit
        path += _place(size, rng) - path.mean(0)
        thickness_px = max(1, round(rng.exponential(1.3) * unit + 0.5))
        cv2.polylines(drawn, [_fixed(path)], False, 1.0, thickness_px, cv2.LINE_AA, SUBPIXEL_BITS)
    return _soft(drawn, rng.uniform(0.4, 1.5) * unit)


def _blot(size: tuple[int, int], unit: float, rng: np.random.Generator) -> Plane:
    """One to four ragged spots, from a dot to a quarter of the side."""
    drawn = np.zeros(size, np.float32)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        radius = np.exp(rng.uniform(np.log(2), np.log(40))) * unit
        corners = int(rng.integers(6, 14))
        around, far = np.sort(rng.uniform(0, 2 * np.pi, corners)), radius * rng.uniform(0.5, 1.3, corners)
        flat = rng.uniform(0.3, 1.0)
        edge = _place(size, rng) + np.stack([np.cos(around) * far, np.sin(around) * far * flat], 1)
        cv2.fillPoly(drawn, [_fixed(edge)], 1.0, cv2.LINE_AA, SUBPIXEL_BITS)
    return _soft(drawn, rng.uniform(0.4, 4.0) * unit)


def _speckle(size: tuple[int, int], unit: float, rng: np.random.Generator) -> Plane:
    """Cloudy flecks inside a circle."""
    grain = 2.0 ** rng.integers(2, 6) * unit
    noise = _clouds(size, grain, rng) > rng.uniform(0.8, 1.6)
    window = np.zeros(size, np.float32)
    x, y = _place(size, rng)
    cv2.circle(window, (int(x), int(y)), int(rng.uniform(0.1, 0.5) * min(size)), 1.0, -1)
    return _soft(noise * window, rng.uniform(0.3, 2.0) * unit)


def _chip(size: tuple[int, int], unit: float, rng: np.random.Generator) -> Plane:
    """A ragged piece along one of the picture's edges."""
    height, width = size
    side, corners = int(rng.integers(4)), int(rng.integers(4, 12))
    length = height if side < 2 else width
    start, end = np.sort(rng.uniform(-0.2, 1.2, 2)) * length
    along = np.linspace(start, end, corners)
    deep = np.abs(rng.normal(1, 0.5, corners)) * rng.exponential(0.08) * min(size)
    deep[0] = deep[-1] = 0
    x, y = ((deep, along), (width - deep, along), (along, deep), (along, height - deep))[side]
    drawn = np.zeros(size, np.float32)
    cv2.fillPoly(drawn, [_fixed(np.stack([x, y], 1))], 1.0, cv2.LINE_AA, SUBPIXEL_BITS)
    return _soft(drawn, rng.uniform(0.3, 2.0) * unit)


def _filled(before: Plane, unit: float, rng: np.random.Generator) -> Plane:
    """What stands where the shape lies, (C, H, W) grey levels: another light, a foreign surface, the part elsewhere."""
    channels, height, width = before.shape
    kind = int(rng.integers(7))
    if kind < 3:
        tint = rng.uniform(0.6, 1.4, (channels, 1, 1)) if channels > 1 else 1.0
        return before + np.float32(rng.choice([-1, 1], p=[0.65, 0.35]) * rng.uniform(8, 110)) * np.float32(tint)
    if kind == 3:
        grain = _clouds((height, width), 3 * unit, rng) * rng.uniform(2, 30)
        return rng.uniform(0, 255, (channels, 1, 1)).astype(np.float32) + grain.astype(np.float32)
    if kind == 4:
        middle = (width / 2, height / 2)
        matrix = cv2.getRotationMatrix2D(middle, rng.uniform(-180, 180), np.exp(rng.uniform(-0.5, 0.7)))
        matrix[:, 2] = matrix[:, 2] + rng.uniform(-0.4, 0.4, 2) * (width, height)
        return _each(
            before, lambda plane: cv2.warpAffine(plane, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        )
    if kind == 5:
        sigma = rng.uniform(1.5, 8.0) * unit
        return _each(before, lambda plane: cv2.GaussianBlur(plane, (0, 0), sigma))
    mean = before.mean((1, 2), keepdims=True)
    return cast(Plane, (before - mean) * np.float32(rng.uniform(-1.5, 3.0)) + mean + np.float32(rng.normal(0, 20)))


def _each(image: Plane, change: Callable[[Plane], NDArray[Any]]) -> Plane:
    return np.stack([change(plane) for plane in image]).astype(np.float32)


def _clouds(size: tuple[int, int], grain: float, rng: np.random.Generator) -> Plane:
    """Smooth noise of about unit variance, its spots `grain` pixels wide."""
    coarse = rng.normal(size=[max(2, int(side / grain) + 2) for side in size]).astype(np.float32)
    return cast(Plane, cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC))


def _soft(drawn: NDArray[Any], sigma: float) -> Plane:
    return np.clip(cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), max(sigma, 0.3)), 0, 1)


def _place(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.uniform(0, 1, 2) * (size[1], size[0])


def _fixed(points: NDArray[Any]) -> NDArray[np.int32]:
    return np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)
