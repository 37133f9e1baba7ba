"""Procedural masks: where a scratch, crack, spot, pit, stain or edge chip goes, without any real defect.

Zero-shot means no positives, and that includes their masks. Every length follows the picture's
shorter side, so a mask looks alike at any resolution. Leaves out: what is painted there, the
expert's own masks (`regions.py`), and the demo's stand-ins for real defects (`flaws.py`), with
which nothing but the noise is shared: training must not see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline.config_generate import SHAPE_KINDS, ShapesConfig
from diagline.errors import DatasetError
from generation.materials import smooth_noise

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
TRIES = 24
_KEPT = 0.7  # a shape that loses more of itself to the region's border is drawn again, while tries last
_SHIFT = 4  # OpenCV's binary digits below a pixel


def draw(
    kind: str,
    height_px: int,
    width_px: int,
    rng: np.random.Generator,
    settings: ShapesConfig,
    region: Image | None = None,
) -> tuple[Image, dict[str, Any]]:
    """Draw one mask.

    Its middle is uniform over the region's pixels; an edge chip's is uniform over the region's border
    (the picture's edge where there is no region). What reaches beyond the region is cut off; of
    shapes that lose much, the one that loses least is taken.

    Args:
        kind: one of `SHAPE_KINDS`.
        region: `(height_px, width_px)` uint8, allowed where > 0; None: everywhere.

    Returns:
        The mask, `(height_px, width_px)` uint8 0/255, never empty and never the whole picture, and
        plain facts: kind, size (share of the shorter side), angle_deg (of a spot, a pit and a chip it says
        nothing), place (x, y in px), tries, cover (share of the picture), and the kind's own.

    Raises:
        DatasetError: the region is empty, or no usable mask in `TRIES` draws.
        ValueError: an unknown kind, a side below 1 px, or a region of another size.
    """
    if kind not in _PAINTERS:
        raise ValueError(f"shape {kind!r}; expected one of {', '.join(SHAPE_KINDS)}")
    if min(height_px, width_px) < 1:
        raise ValueError(f"mask of {width_px}x{height_px} px; expected at least 1x1")
    if region is not None and region.shape != (height_px, width_px):
        raise ValueError(f"region of shape {region.shape}; expected {(height_px, width_px)}")
    allowed = np.full((height_px, width_px), 255, np.uint8) if region is None else region
    places = np.flatnonzero(_border(allowed) if kind == "edge_chip" else allowed)
    if not len(places):
        raise DatasetError(
            f"{kind}: the allowed region covers no pixel of the {width_px}x{height_px} px picture; "
            f"expected at least one; enlarge it in the regions file"
        )
    best: tuple[float, Image, dict[str, Any]] | None = None
    for attempt in range(1, TRIES + 1):
        row, column = divmod(int(places[rng.integers(len(places))]), width_px)
        size = float(rng.uniform(settings.size_min, settings.size_max))
        angle_deg = float(rng.uniform(settings.angle_min_deg, settings.angle_max_deg))
        extent_px = max(size * min(height_px, width_px), 1.0)
        mask: Image = np.zeros((height_px, width_px), np.uint8)
        own = _PAINTERS[kind](mask, allowed, np.array([column, row], np.float64), extent_px, np.deg2rad(angle_deg), rng)
        drawn_px = cv2.countNonZero(mask)
        if region is not None:
            mask[region == 0] = 0
        area_px = cv2.countNonZero(mask)
        kept = area_px / max(drawn_px, 1)
        if 0 < area_px < mask.size and (best is None or kept > best[0]):
            facts = {"kind": kind, "size": size, "angle_deg": angle_deg, "place": [column, row], "tries": attempt}
            best = kept, mask, facts | {"cover": area_px / mask.size} | own
            if kept >= _KEPT or kind == "edge_chip":  # a chip reaches over the border on purpose
                break
    if best is None:
        raise DatasetError(
            f"{kind}: no mask that is neither empty nor the whole picture of {width_px}x{height_px} px in {TRIES} "
            f"draws; expected a larger picture; lower generate.shapes.size_max = {settings.size_max}"
        )
    return best[1], best[2]


def _scratch(
    mask: Image, allowed: Image, place: Points, extent_px: float, angle: float, rng: np.random.Generator
) -> dict[str, Any]:
    """A long thin line, a little bent, that tapers at both ends; at times with fainter ones beside it."""
    width_px = _thin(rng.uniform(0.006, 0.017), mask, extent_px / 6)
    bend = float(rng.normal(0.0, 0.25))
    turn = angle + bend * np.linspace(-0.5, 0.5, 24)
    steps = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (extent_px / 24)
    path = np.cumsum(steps, axis=0)
    path += place - path[12]
    t, peak = np.linspace(0.0, 1.0, 24), rng.uniform(0.3, 0.7)
    taper = np.sin(np.pi * np.clip(np.where(t < peak, 0.5 * t / peak, 0.5 + 0.5 * (t - peak) / (1 - peak)), 0, 1))
    _ribbon(mask, path, width_px * np.sqrt(taper))
    lines = int(rng.choice([1, 1, 1, 2, 3]))
    across = np.array([-np.sin(angle), np.cos(angle)])
    for _ in range(lines - 1):
        first, last = int(rng.integers(0, 10)), int(rng.integers(14, 25))
        aside = across * (rng.choice([-1.0, 1.0]) * rng.uniform(2.5, 6.0) * width_px)
        _ribbon(mask, path[first:last] + aside, 0.7 * width_px * np.sqrt(np.sin(np.linspace(0, np.pi, last - first))))
    return {"width_px": width_px, "lines": lines}


def _crack(
    mask: Image, allowed: Image, place: Points, extent_px: float, angle: float, rng: np.random.Generator
) -> dict[str, Any]:
    """A jagged line that keeps its heading, narrows as it runs, and throws off thinner branches."""
    width_px = _thin(rng.uniform(0.007, 0.016), mask, extent_px / 6)
    trunk = _jagged(extent_px, angle, rng)
    trunk += place - trunk[len(trunk) // 2]
    _ribbon(mask, trunk, width_px * np.linspace(1.0, 0.35, len(trunk)))
    branches = int(rng.integers(1, 5)) if extent_px >= 12 else int(rng.integers(0, 2))
    grown = [trunk]
    for _ in range(branches):
        parent = grown[int(rng.integers(0, min(len(grown), 2)))]
        at = int(rng.integers(len(parent) // 5, len(parent) - len(parent) // 5))
        ahead = parent[-1] - parent[0]
        heading = float(np.arctan2(ahead[1], ahead[0]) + rng.choice([-1.0, 1.0]) * rng.uniform(0.45, 1.05))
        branch = _jagged(float(np.hypot(*ahead)) * rng.uniform(0.2, 0.45), heading, rng)
        branch += parent[at] - branch[0]
        _ribbon(mask, branch, 0.65 * width_px * np.linspace(1.0, 0.3, len(branch)))
        grown.append(branch)
    return {"width_px": width_px, "branches": branches}


def _spot(
    mask: Image, allowed: Image, place: Points, extent_px: float, angle: float, rng: np.random.Generator
) -> dict[str, Any]:
    """A round-ish patch with a calm outline: a droplet, a blister, a burn."""
    aspect = float(rng.uniform(0.72, 1.0))
    _blob(mask, place, extent_px / 2, aspect, 0.05, rng)
    return {"aspect": aspect}


def _pit(
    mask: Image, allowed: Image, place: Points, extent_px: float, angle: float, rng: np.random.Generator
) -> dict[str, Any]:
    """A cluster of small hollows of different size; the larger ones in its middle."""
    count = int(rng.integers(3, 6)) + int(rng.integers(0, 1 + max(1, round(14 * extent_px / min(mask.shape)))))
    widest_px = min(0.045 * min(mask.shape), 0.3 * extent_px)
    spread = rng.normal(0.0, 0.22 * extent_px, (count, 2))
    spread *= np.minimum(1.0, 0.5 * extent_px / np.maximum(np.hypot(spread[:, 0], spread[:, 1]), 1e-9))[:, None]
    spread[0] = 0.0
    near = 1.0 - np.hypot(spread[:, 0], spread[:, 1]) / extent_px  # 1 in the middle, 0.5 at the rim
    for offset, closeness in zip(spread, near, strict=True):
        diameter_px = widest_px * closeness * rng.uniform(0.4, 1.0)
        _blob(mask, place + offset, max(diameter_px, 1.0) / 2, float(rng.uniform(0.7, 1.0)), 0.05, rng)
    return {"pits": count}


def _stain(
    mask: Image, allowed: Image, place: Points, extent_px: float, angle: float, rng: np.random.Generator
) -> dict[str, Any]:
    """A pool with a ragged outline, run together from drops, with a few splashes beside it."""
    side = int(1.5 * extent_px) + 8
    pool: Image = np.zeros((side, side), np.uint8)
    middle, run = np.full(2, side / 2), rng.uniform(0.0, np.pi)
    along, across = np.array([np.cos(run), np.sin(run)]), np.array([-np.sin(run), np.cos(run)])
    narrow = float(rng.uniform(0.35, 1.0))
    drops = int(rng.integers(6, 11))
    for index in range(drops):
        radius_px = extent_px * rng.uniform(0.12, 0.22)
        reach = 0.0 if index == 0 else (0.5 * extent_px - radius_px) * np.sqrt(rng.random())
        turn = rng.uniform(0.0, 2.0 * np.pi)
        _blob(pool, middle + reach * (np.cos(turn) * along + narrow * np.sin(turn) * across), radius_px, 0.9, 0.1, rng)
    soft = cv2.GaussianBlur(pool.astype(np.float32) / 255, (0, 0), max(0.05 * extent_px, 0.4))
    ragged = soft + 0.17 * smooth_noise((side, side), 0.2 * extent_px, 0.2 * extent_px, rng)
    ragged += 0.1 * smooth_noise((side, side), 0.06 * extent_px, 0.06 * extent_px, rng)
    stain = np.where((ragged > 0.5) & (soft > 0.12), np.uint8(255), np.uint8(0))
    splashes = int(rng.integers(0, 5))
    for _ in range(splashes):
        turn, reach = rng.uniform(0.0, 2.0 * np.pi), extent_px * rng.uniform(0.45, 0.6)
        _blob(stain, middle + reach * np.array([np.cos(turn), np.sin(turn)]), 0.035 * extent_px, 0.8, 0.1, rng)
    stain[side // 2, side // 2] = 255
    _paste(mask, stain, int(place[0]) - side // 2, int(place[1]) - side // 2)
    return {"drops": drops, "splashes": splashes}


def _edge_chip(
    mask: Image, allowed: Image, place: Points, extent_px: float, angle: float, rng: np.random.Generator
) -> dict[str, Any]:
    """A bite out of the edge, wider than deep, with the straight facets of a brittle fracture."""
    inward = _inward(allowed, place, extent_px)
    depth_px = max(extent_px * float(rng.uniform(0.3, 0.65)), 1.0)
    facets = int(rng.integers(3, 7))
    turn = np.linspace(np.pi, 0.0, facets + 1)
    turn[1:-1] += rng.uniform(-0.35, 0.35, facets - 1) * np.pi / facets
    radius = np.concatenate([[1.0], rng.uniform(0.6, 1.0, facets - 1), [1.0]])
    along, deep = radius * np.cos(turn) * extent_px / 2, radius * np.sin(turn) * depth_px
    beyond = 0.3 * extent_px  # the base lies outside the border, so that the bite leaves no rim
    along = np.concatenate([along, along[[-1, 0]]])
    deep = np.concatenate([deep, [-beyond, -beyond]])
    tangent = np.array([-inward[1], inward[0]])
    _fill(mask, place + along[:, None] * tangent + deep[:, None] * inward)
    return {"depth_px": depth_px, "facets": facets}


_Painter = Callable[[Image, Image, Points, float, float, np.random.Generator], dict[str, Any]]
_PAINTERS: dict[str, _Painter] = {
    "scratch": _scratch,
    "crack": _crack,
    "spot": _spot,
    "pit": _pit,
    "stain": _stain,
    "edge_chip": _edge_chip,
}


def _thin(share: float, mask: Image, most_px: float) -> float:
    """A line's width in px: a share of the picture's shorter side, 1 px at least."""
    return float(max(min(share * min(mask.shape), most_px), 1.0))


def _jagged(length_px: float, heading: float, rng: np.random.Generator) -> Points:
    """A path of `(n, 2)` points that strays from its heading and comes back to it, `length_px` end to end."""
    count = int(np.clip(length_px / 4, 4, 26))
    stray = np.zeros(count)
    kicks = rng.normal(0.0, 0.5, count)
    for index in range(1, count):
        stray[index] = 0.45 * stray[index - 1] + kicks[index]
    turn = heading + stray
    path = np.cumsum(np.stack([np.cos(turn), np.sin(turn)], axis=1), axis=0)
    path -= path[0]
    return path * (length_px / max(float(np.hypot(*path[-1])), 1e-9))


def _blob(mask: Image, place: Points, radius_px: float, aspect: float, uneven: float, rng: np.random.Generator) -> None:
    """Fill an ellipse, turned at random, whose radius wavers by a few waves of amplitude `uneven`."""
    theta = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    wave = rng.normal(0.0, uneven, (3, 2)) / np.array([[1.0], [1.5], [2.0]])
    radius = radius_px * (1 + sum(a * np.cos(k * theta) + b * np.sin(k * theta) for k, (a, b) in enumerate(wave, 2)))
    turn = rng.uniform(0.0, np.pi)
    x, y = radius * np.cos(theta), aspect * radius * np.sin(theta)
    _fill(mask, place + np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1))


def _ribbon(mask: Image, path: Points, widths_px: NDArray[np.float64]) -> None:
    """Fill a line through `path` of the given width at each point; never thinner than 1 px."""
    along = np.gradient(path, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    aside = across * (np.maximum(widths_px - 1.0, 0.0) / 2)[:, None]  # fillPoly adds half a pixel on both sides
    _fill(mask, np.concatenate([path + aside, (path - aside)[::-1]]))
    cv2.polylines(mask, [_fixed(path)], False, 255, 1, cv2.LINE_8, _SHIFT)


def _fill(mask: Image, outline: Points) -> None:
    cv2.fillPoly(mask, [_fixed(outline)], 255, cv2.LINE_8, _SHIFT)


def _fixed(points: Points) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _border(allowed: Image) -> Image:
    """The allowed pixels that touch a forbidden one or the picture's edge."""
    inner = cv2.erode(allowed, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.where(inner == 0, allowed, np.uint8(0))


def _inward(allowed: Image, place: Points, reach_px: float) -> Points:
    """Unit vector from a border pixel towards the allowed pixels around it."""
    x, y, reach = int(place[0]), int(place[1]), max(2, round(reach_px / 2))
    top, left = max(0, y - reach), max(0, x - reach)
    rows, columns = np.nonzero(allowed[top : y + reach + 1, left : x + reach + 1])
    towards = np.array([columns.mean() + left - x, rows.mean() + top - y])
    length = float(np.hypot(*towards))
    return towards / length if length > 1e-6 else np.array([0.0, 1.0])  # a lone pixel or a line has no inside


def _paste(mask: Image, patch: Image, left: int, top: int) -> None:
    """Lay a patch over the mask; what falls outside is lost."""
    y, x = max(0, top), max(0, left)
    seen = patch[y - top : max(mask.shape[0] - top, 0), x - left : max(mask.shape[1] - left, 0)]
    part = mask[y : y + seen.shape[0], x : x + seen.shape[1]]
    np.maximum(part, seen, out=part)
