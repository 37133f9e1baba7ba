"""Defects for painted parts: what the demo's camera must find and MemSeg has never shown it.

They stand in for a line's real defects, so nothing of them is shared with `memseg.py`: thin
lines, hollows with a lit rim, discolourations, branching cracks, each with soft edges and a
severity of its own. Leaves out: defects on real pictures; those are real or generated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from generation.materials import MIN_SIDE_PX, Field, relief, smooth_noise

_SUBPIXEL_BITS = 4
_VISIBLE_LEVELS = 2  # a change below this is no part of the defect
_CLEAR_LEVELS = 14.0  # its strongest tenth changes the picture at least so much,
_CLEAR_TEXTURE = 1.6  # and this many deviations of the surface's own texture
_TRIES = 20


def paint_defect(
    image_bgr: NDArray[np.uint8], name: str, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Paint one defect on a good part; every pixel outside the mask is the input's, bit for bit.

    The mask is where the defect changes the picture by at least two grey levels. A defect that
    the surface's own texture would hide is deepened until it shows.

    Args:
        image_bgr: `(h, w, 3)` uint8.
        name: one of `DEFECTS`.

    Returns:
        The picture and its mask, `(h, w)` uint8 0/255, never empty.

    Raises:
        ValueError: an unknown name, or a picture below 16 px a side.
    """
    if name not in _PAINTERS:
        raise ValueError(f"defect {name!r}; expected one of {', '.join(DEFECTS)}")
    shape = (image_bgr.shape[0], image_bgr.shape[1])
    if min(shape) < MIN_SIDE_PX:
        raise ValueError(f"picture of {shape[1]}x{shape[0]} px; expected at least {MIN_SIDE_PX}x{MIN_SIDE_PX}")
    unit = min(shape) / 128.0
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY).astype(np.float32)
    clear = max(_CLEAR_LEVELS, _CLEAR_TEXTURE * float((grey - _soften(grey, 8 * unit)).std()))
    for _ in range(_TRIES):
        factor, offset = _PAINTERS[name](shape, unit, rng)
        change = image_bgr * (factor - 1) + offset
        size = np.abs(change).max(axis=2)
        if not (size >= _VISIBLE_LEVELS).any():
            continue
        deepen = max(1.0, clear / float(np.quantile(size[size >= _VISIBLE_LEVELS], 0.9)))
        whole = np.clip(image_bgr + change * np.float32(deepen) + 0.5, 0, 255).astype(np.uint8)
        mask = cv2.absdiff(whole, image_bgr).max(axis=2) >= _VISIBLE_LEVELS
        if mask.any():
            return np.where(mask[:, :, None], whole, image_bgr), mask.astype(np.uint8) * np.uint8(255)
    raise ValueError(f"{name}: changed no pixel in {_TRIES} draws; expected a picture that is not all black or white")


def _scratch(shape: tuple[int, int], unit: float, rng: np.random.Generator) -> tuple[Field, Field]:
    """A shallow groove: one side catches the light, the other lies in shadow; it fades at both ends."""
    groove = np.zeros(shape, np.float32)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        length = rng.uniform(0.3, 0.8) * min(shape)
        heading, bend = rng.uniform(0, np.pi), rng.normal(0, 0.25)
        turn = heading + bend * np.linspace(-0.5, 0.5, 24)
        path = np.cumsum(np.stack([np.cos(turn), np.sin(turn)], axis=1), axis=0) * (length / 24)
        path += _place(shape, rng) - path.mean(axis=0)
        depth = np.sin(np.linspace(0.12, np.pi - 0.12, 23)) * rng.uniform(0.75, 1.0, 23)
        groove = np.maximum(groove, _stroke(shape, path, depth, max(1, round(rng.uniform(0.8, 2.0) * unit))))
    groove = _soften(groove, rng.uniform(0.55, 0.8) * max(unit, 1.0))
    severity = rng.uniform(0.5, 1.0)
    bright = rng.random() < 0.7  # bare metal, or dirt in the groove
    level = severity * (rng.uniform(45, 75) if bright else -rng.uniform(45, 70))
    shade = relief(groove, rng.uniform(0, 2 * np.pi)) * np.float32(30 * severity)
    return _ones(shape), _grey(np.float32(level) * groove + shade)


def _pit(shape: tuple[int, int], unit: float, rng: np.random.Generator) -> tuple[Field, Field]:
    """One or a few small hollows: dark inside, with a lit rim on one side."""
    depth = np.zeros(shape, np.float32)
    centre = _place(shape, rng)
    for _ in range(int(rng.integers(1, 5))):
        radius = rng.uniform(2.2, 5.5) * unit
        place = centre + rng.normal(0, 9 * unit, 2)
        depth = np.maximum(depth, _blob(shape, place, (radius, radius * rng.uniform(0.65, 1.0)), 0.35, 2.5, rng))
    depth = _soften(depth, 0.6 * max(unit, 1.0))
    severity = rng.uniform(0.45, 1.0)
    rim = relief(_soften(depth, 0.7 * unit), rng.uniform(0, 2 * np.pi)) * np.float32(95 * severity * unit)
    return _colour(1 - np.float32(0.6 * severity) * depth, (1, 1, 1)), _grey(rim)


def _stain(shape: tuple[int, int], unit: float, rng: np.random.Generator) -> tuple[Field, Field]:
    """A dried spot of oil or rust: a ragged discolouration, darker towards its edge."""
    radius = rng.uniform(9, 24) * unit
    axes = (radius, radius * rng.uniform(0.5, 1.0))
    spot = _blob(shape, _place(shape, rng), axes, 0.3, 9.0, rng)
    ring = spot - _soften(spot, 2.2 * unit) * spot
    cloud = 1 + 0.2 * smooth_noise(shape, 7 * unit, 7 * unit, rng)
    body = _soften(np.clip((0.75 * spot + 0.9 * ring) * cloud, 0, 1.3), 0.9 * unit)
    severity = rng.uniform(0.16, 0.42)
    absorbs = ((1.0, 0.75, 0.5), (0.9, 0.9, 0.9), (0.55, 0.75, 1.0))[int(rng.integers(3))]  # rust, oil, coolant
    return _colour(1 - np.float32(severity) * body, absorbs), np.zeros((*shape, 3), np.float32)


def _crack(shape: tuple[int, int], unit: float, rng: np.random.Generator) -> tuple[Field, Field]:
    """A jagged dark line that narrows as it runs and may branch, with a faintly lifted edge."""
    line = np.zeros(shape, np.float32)
    step = 3.2 * unit
    stack = [(_place(shape, rng), rng.uniform(0, 2 * np.pi), int(rng.uniform(14, 34)), 1.0)]
    branches = int(rng.integers(0, 4))
    while stack:
        place, heading, steps, depth = stack.pop()
        turns = heading + np.cumsum(rng.normal(0, 0.22, steps)) + rng.normal(0, 0.5, steps)
        path = place + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], axis=1), axis=0) * step
        path = np.concatenate([place[None], path])
        depths = depth * np.linspace(1.0, 0.45, steps) * rng.uniform(0.8, 1.0, steps)
        thickness = max(1, round(rng.uniform(0.9, 1.9) * unit * depth))
        line = np.maximum(line, _stroke(shape, path, depths, thickness))
        if branches and steps > 6:
            branches -= 1
            at = int(rng.integers(2, steps - 2))
            side = float(rng.choice([-1, 1]) * rng.uniform(0.5, 1.1))
            stack.append((path[at], turns[at] + side, steps // 2, depth * 0.8))
            stack.append((path[-1], turns[-1], 4, depth * 0.5))
    line = _soften(line, rng.uniform(0.5, 0.7) * max(unit, 1.0))
    severity = rng.uniform(0.5, 1.0)
    lip = relief(_soften(line, unit), rng.uniform(0, 2 * np.pi)) * np.float32(28 * severity * max(unit, 1.0))
    return _colour(1 - np.float32(0.8 * severity) * line, (1, 1, 1)), _grey(lip)


_Painter = Callable[[tuple[int, int], float, np.random.Generator], tuple[Field, Field]]
# Each returns what the picture is multiplied by and what is added to it, both (h, w, 3).
_PAINTERS: dict[str, _Painter] = {"scratch": _scratch, "pit": _pit, "stain": _stain, "crack": _crack}
DEFECTS = tuple(_PAINTERS)


def _place(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """A point (x, y) that keeps off the picture's edge."""
    return rng.uniform(0.2, 0.8, 2) * (shape[1], shape[0])


def _stroke(shape: tuple[int, int], path: NDArray[np.float64], depth: NDArray[np.float64], thickness_px: int) -> Field:
    """An antialiased line through `path` (n, 2), each of its n - 1 pieces of its own depth (0 to 1)."""
    canvas: NDArray[np.uint8] = np.zeros(shape, np.uint8)
    points = np.round(path * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    for start, end, value in zip(points[:-1], points[1:], depth, strict=True):
        piece = np.zeros_like(canvas)
        ends = (int(start[0]), int(start[1])), (int(end[0]), int(end[1]))
        cv2.line(piece, *ends, round(255 * float(value)), thickness_px, cv2.LINE_AA, _SUBPIXEL_BITS)
        canvas = cast(NDArray[np.uint8], cv2.max(canvas, piece))
    return cast(Field, canvas.astype(np.float32) / 255)


def _blob(
    shape: tuple[int, int],
    place: NDArray[np.float64],
    axes_px: tuple[float, float],
    raggedness: float,
    sharpness: float,
    rng: np.random.Generator,
) -> Field:
    """A ragged ellipse, 1 inside and 0 outside; `sharpness` is how steeply it falls at its edge."""
    turn = rng.uniform(0, np.pi)
    y = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(place[1])
    x = np.arange(shape[1], dtype=np.float32)[None, :] - np.float32(place[0])
    along = (x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))) / np.float32(axes_px[0])
    across = (y * np.float32(np.cos(turn)) - x * np.float32(np.sin(turn))) / np.float32(axes_px[1])
    grain = 0.8 * float(np.mean(axes_px))
    distance = np.sqrt(along**2 + across**2) + raggedness * smooth_noise(shape, grain, grain, rng)
    return cast(Field, np.clip((1 - distance) * np.float32(sharpness) + 0.5, 0, 1).astype(np.float32))


def _soften(field: Field, sigma_px: float) -> Field:
    return cast(Field, cv2.GaussianBlur(field, (0, 0), max(float(sigma_px), 0.3)))


def _ones(shape: tuple[int, int]) -> Field:
    return np.ones((*shape, 3), np.float32)


def _grey(field: Field) -> Field:
    return cast(Field, np.repeat(field[:, :, None], 3, axis=2))


def _colour(factor: Field, absorbs_bgr: tuple[float, float, float]) -> Field:
    return 1 - (1 - factor)[:, :, None] * np.array(absorbs_bgr, np.float32)
