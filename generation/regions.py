"""The expert's drawing: where defects may go, and the masks of defects, in one JSON file.

    {"version": 1, "width_px": 224, "height_px": 632, "regions": [
      {"name": "weld", "role": "allow", "polygon": [[20, 40], [200, 40], [200, 600]]},
      {"name": "scratch", "role": "mask", "strokes": [{"points": [[30, 50], [90, 80]], "width_px": 5}]},
      {"name": "scratch end", "role": "mask", "erase": true, "strokes": [...]}
    ]}

Positions are (x, y) in px of a picture of that size, whole numbers at pixel centres; the drawing
scales with the picture it is laid over. Leaves out: drawing itself (the studio page), and
procedural masks (`shapes.py`).
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline import files
from diagline.errors import ConfigError
from generation.masks import fit_mask

Image = NDArray[np.uint8]
Point = tuple[float, float]
VERSION = 1
_JSON_NAMES = {dict: "a table", list: "a list", str: "a string", int: "a whole number", bool: "true or false"}
ROLES = ("allow", "mask")
MAX_SIDE_PX = 16_384
_SHIFT, _SUBPIXEL = 4, 16  # OpenCV's binary digits below a pixel
_FAR_PX = 2**20  # drawn positions stay below it, so that they fit OpenCV's integers
_FARTHEST_PX = 100_000  # beyond it a coordinate is a mistake, not a stroke that leaves the picture


@dataclass(frozen=True, slots=True)
class Stroke:
    """A brush stroke: round ends, one point makes a dot."""

    points: tuple[Point, ...]
    width_px: float

    def __post_init__(self) -> None:
        if not self.points:
            raise ConfigError("a stroke of 0 points; expected at least one")
        _check_points("stroke", self.points)
        if not 0 < self.width_px <= _FARTHEST_PX:
            raise ConfigError(f"stroke.width_px = {self.width_px}; expected more than 0, at most {_FARTHEST_PX}")


@dataclass(frozen=True, slots=True)
class Region:
    """One polygon, or the strokes of one brush.

    Attributes:
        name: what the expert calls it.
        role: "allow" (defects may go here) or "mask" (this is a defect).
        polygon: at least 3 points, closed by itself; empty where there are strokes.
        erase: takes its area away from all regions of its role before it. An allow region that
            erases first leaves the rest of the picture.
    """

    name: str
    role: str
    polygon: tuple[Point, ...] = ()
    strokes: tuple[Stroke, ...] = ()
    erase: bool = False

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("a region without a name; expected what the expert calls it; set name")
        if self.role not in ROLES:
            raise ConfigError(f"region {self.name!r}: role = {self.role!r}; expected allow or mask")
        if bool(self.polygon) == bool(self.strokes):
            what = "both polygon and strokes" if self.polygon else "neither polygon nor strokes"
            raise ConfigError(f"region {self.name!r}: has {what}; expected one of them; make it two regions or draw it")
        if self.polygon and len(self.polygon) < 3:
            raise ConfigError(
                f"region {self.name!r}: polygon of {len(self.polygon)} points; expected at least 3; draw it again"
            )
        _check_points(f"region {self.name!r}", self.polygon)


@dataclass(frozen=True, slots=True)
class Regions:
    """A drawing over a picture of `width_px` by `height_px`; every region shows at that size.

    Raises:
        ConfigError: a side out of range, no regions, or a region that covers no pixel.
    """

    width_px: int
    height_px: int
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        for name in ("width_px", "height_px"):
            if not 1 <= getattr(self, name) <= MAX_SIDE_PX:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected 1 to {MAX_SIDE_PX}, as the picture's")
        if not self.regions:
            raise ConfigError("regions is empty; expected at least one; draw where defects go")
        for region in self.regions:
            if not self._raster(region, self.height_px, self.width_px).any():
                raise ConfigError(
                    f"region {region.name!r}: covers no pixel of the {self.width_px}x{self.height_px} px picture; "
                    f"expected it inside; draw it again, or remove it"
                )
        first = next((region for region in self.regions if region.role == "mask"), None)
        if first is not None and first.erase:
            raise ConfigError(f"region {first.name!r}: erases before any mask is drawn; expected a mask; move it down")
        left = self._masks(self.height_px, self.width_px)
        allowed = self._allowed(self.height_px, self.width_px)
        for name, area in left if allowed is None else [*left, ("allow", allowed)]:
            if not area.any():
                raise ConfigError(f"region {name!r}: wholly erased by a later one; expected a pixel left; remove both")

    @property
    def mask_names(self) -> tuple[str, ...]:
        """Names of the drawn defects, in the order of `masks`."""
        return tuple(region.name for region in self.regions if region.role == "mask" and not region.erase)

    def allowed(self, height_px: int, width_px: int) -> Image | None:
        """Where defects may go in a picture of this size.

        Returns:
            `(height_px, width_px)` uint8 0/255, the union of the allow regions less what was erased,
            never empty; None when there are none: everywhere.
        """
        allowed = self._allowed(height_px, width_px)
        if allowed is None or allowed.any():
            return allowed
        whole = self._allowed(self.height_px, self.width_px)
        return None if whole is None else fit_mask(whole, height_px, width_px)

    def masks(self, height_px: int, width_px: int) -> list[tuple[str, Image]]:
        """The drawn defects in a picture of this size, in the file's order: the same list at every size.

        Returns:
            Names, and masks `(height_px, width_px)` uint8 0/255, never empty: lines are at least 1 px wide.
        """
        found = self._masks(height_px, width_px)
        if all(mask.any() for _, mask in found):
            return found
        # What an eraser leaves may be thinner than a pixel of this picture: then every touched pixel counts.
        whole = self._masks(self.height_px, self.width_px)
        return [
            (name, mask if mask.any() else fit_mask(drawn, height_px, width_px))
            for (name, mask), (_, drawn) in zip(found, whole, strict=True)
        ]

    def _allowed(self, height_px: int, width_px: int) -> Image | None:
        allowed: Image | None = None
        for region in self.regions:
            if region.role == "allow":
                if allowed is None:
                    allowed = np.full((height_px, width_px), 255 if region.erase else 0, np.uint8)
                allowed[self._raster(region, height_px, width_px) > 0] = 0 if region.erase else 255
        return allowed

    def _masks(self, height_px: int, width_px: int) -> list[tuple[str, Image]]:
        found: list[tuple[str, Image]] = []
        for region in self.regions:
            if region.role == "mask":
                drawn = self._raster(region, height_px, width_px)
                if region.erase:
                    for _, mask in found:
                        mask[drawn > 0] = 0
                else:
                    found.append((region.name, drawn))
        return found

    def _raster(self, region: Region, height_px: int, width_px: int) -> Image:
        canvas: Image = np.zeros((height_px, width_px), np.uint8)
        scale = np.array([width_px / self.width_px, height_px / self.height_px])
        if region.polygon:
            cv2.fillPoly(canvas, [_scaled(region.polygon, scale)], 255)  # its outline counts: never thinner than 1 px
        for stroke in region.strokes:
            brush_px = min(stroke.width_px * math.sqrt(scale[0] * scale[1]), _FAR_PX)
            _brush(canvas, _scaled(stroke.points, scale), brush_px)
        return canvas


def read(path: Path) -> Regions:
    """Read a drawing.

    Raises:
        ConfigError: no such file, not JSON, an unknown version or key, or a value that cannot be used.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: not found; expected the expert's drawing; make one with diagline studio") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error}); correct the file") from error
    try:
        table = _table(table, ("version", "width_px", "height_px", "regions"), (), "the file")
        if table["version"] != VERSION or isinstance(table["version"], bool):
            raise ConfigError(f"version = {table['version']!r}; expected {VERSION}; draw it with this diagline")
        sides = [_typed(table[name], int, name) for name in ("width_px", "height_px")]
        regions = [_region(item, f"regions[{at}]") for at, item in enumerate(_typed(table["regions"], list, "regions"))]
        return Regions(sides[0], sides[1], tuple(regions))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def write(path: Path, regions: Regions) -> None:
    """Write a drawing in one step, a region a line; `read` gives back an equal one.

    Raises:
        OutputError: the folder cannot be written to.
    """
    lines = []
    for region in regions.regions:
        plain = dataclasses.asdict(region)
        lines.append(json.dumps({key: value for key, value in plain.items() if value}, ensure_ascii=False))
    head = f'"version": {VERSION}, "width_px": {regions.width_px}, "height_px": {regions.height_px}'
    files.write_text(path, "{" + head + ', "regions": [\n  ' + ",\n  ".join(lines) + "\n]}\n")


def _scaled(points: tuple[Point, ...], scale: NDArray[np.float64]) -> NDArray[np.int32]:
    """Pixel centres of the drawing to those of a picture, as OpenCV scales pictures."""
    scaled = np.floor((np.asarray(points, np.float64) + 0.5) * scale)
    return np.clip(scaled, -_FAR_PX, _FAR_PX).astype(np.int32)


def _brush(canvas: Image, path: NDArray[np.int32], width_px: float) -> None:
    """A round brush along a path; OpenCV's own thick lines are up to 2 px wider than asked."""
    if len(path) == 1:
        path = np.repeat(path, 2, axis=0)
    cv2.polylines(canvas, [path], False, 255, 1)
    radius = round((width_px - 1) / 2 * _SUBPIXEL)  # what is filled reaches half a pixel further
    if radius <= 0:
        return
    fixed = path * _SUBPIXEL
    for start, end in itertools.pairwise(fixed):
        cv2.circle(canvas, (int(end[0]), int(end[1])), radius, 255, -1, cv2.LINE_8, _SHIFT)
        length = math.hypot(*(end - start))
        if length > 0:
            aside = np.array([start[1] - end[1], end[0] - start[0]]) * (radius / length)
            corners = np.stack([start + aside, end + aside, end - aside, start - aside])
            cv2.fillConvexPoly(canvas, np.round(corners).astype(np.int32), 255, cv2.LINE_8, _SHIFT)
    cv2.circle(canvas, (int(fixed[0][0]), int(fixed[0][1])), radius, 255, -1, cv2.LINE_8, _SHIFT)


def _region(value: Any, where: str) -> Region:
    table = _table(value, ("name", "role"), ("polygon", "strokes", "erase"), where)
    strokes = []
    for at, item in enumerate(_typed(table.get("strokes", []), list, f"{where}.strokes")):
        stroke = _table(item, ("points", "width_px"), (), f"{where}.strokes[{at}]")
        width_px = _number(stroke["width_px"], f"{where}.strokes[{at}].width_px")
        strokes.append(Stroke(_points(stroke["points"], f"{where}.strokes[{at}].points"), width_px))
    return Region(
        _typed(table["name"], str, f"{where}.name"),
        _typed(table["role"], str, f"{where}.role"),
        _points(table.get("polygon", []), f"{where}.polygon"),
        tuple(strokes),
        _typed(table.get("erase", False), bool, f"{where}.erase"),
    )


def _table(value: Any, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> dict[str, Any]:
    table: dict[str, Any] = _typed(value, dict, where)
    known = required + optional
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {key} in {where}; {hint}")
    for key in required:
        if key not in table:
            raise ConfigError(f"missing key {key} in {where}; expected it; add it")
    return table


def _typed(value: Any, kind: type[Any], where: str) -> Any:
    if type(value) is not kind:
        raise ConfigError(f"{where} = {str(value)[:60]!r}; expected {_JSON_NAMES[kind]}")
    return value


def _points(value: Any, where: str) -> tuple[Point, ...]:
    points = []
    for at, point in enumerate(_typed(value, list, where)):
        if type(point) is not list or len(point) != 2:
            raise ConfigError(f"{where}[{at}] = {str(point)[:60]!r}; expected [x, y]")
        points.append((_number(point[0], f"{where}[{at}][0]"), _number(point[1], f"{where}[{at}][1]")))
    return tuple(points)


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float):
        raise ConfigError(f"{where} = {str(value)[:60]!r}; expected a number of px")
    return float(value) if abs(value) <= _FARTHEST_PX else math.inf  # refused, with NaN, where the points are held


def _check_points(where: str, points: tuple[Point, ...]) -> None:
    for x, y in points:
        if not (abs(x) <= _FARTHEST_PX and abs(y) <= _FARTHEST_PX):  # NaN fails both
            raise ConfigError(f"{where}: point ({x}, {y}); expected numbers of px, at most {_FARTHEST_PX} off")
