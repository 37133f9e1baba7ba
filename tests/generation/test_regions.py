from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagline.errors import ConfigError
from generation import regions
from generation.regions import Region, Regions, Stroke

SQUARE = ((10.0, 10.0), (29.0, 10.0), (29.0, 49.0), (10.0, 49.0))
SIDES = st.integers(1, 120)


def drawing(*parts: Region, width_px: int = 40, height_px: int = 60) -> Regions:
    return Regions(width_px, height_px, parts)


def line(width_px: float, *points: tuple[float, float], **more: Any) -> Region:
    return Region("scratch", more.pop("role", "mask"), strokes=(Stroke(points, width_px),), **more)


NAMES = st.text(min_size=1, max_size=8).filter(str.strip)
POSITIONS = st.one_of(st.integers(-50, 99).map(float), st.floats(-50, 99))
INSIDE = st.tuples(st.floats(0, 39), st.floats(0, 59))  # makes sure that the region shows
POINTS = st.lists(st.tuples(POSITIONS, POSITIONS), min_size=2, max_size=6)
STROKES = st.builds(lambda first, points, width: Stroke((first, *points), width), INSIDE, POINTS, st.floats(0.1, 9))
POLYGONS = st.builds(lambda first, points: (first, *points), INSIDE, POINTS)
ROLES = st.sampled_from(regions.ROLES)
REGIONS = st.one_of(
    st.builds(Region, name=NAMES, role=ROLES, polygon=POLYGONS),
    st.builds(Region, name=NAMES, role=ROLES, strokes=st.lists(STROKES, min_size=1, max_size=3).map(tuple)),
)
DRAWINGS = st.lists(REGIONS, min_size=1, max_size=4).map(lambda parts: drawing(*parts))


@settings(max_examples=60)
@given(drawn=DRAWINGS)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, drawn: Regions) -> None:
    path = tmp_path_factory.getbasetemp() / "drawing.json"
    regions.write(path, drawn)
    assert regions.read(path) == drawn


def test_an_eraser_is_read_back_and_the_file_is_one_region_a_line(tmp_path: Path) -> None:
    drawn = drawing(Region("Naht ü", "mask", SQUARE), line(3, (12, 12), erase=True))
    regions.write(tmp_path / "drawing.json", drawn)
    text = (tmp_path / "drawing.json").read_text(encoding="utf-8")
    assert regions.read(tmp_path / "drawing.json") == drawn
    assert len(text.splitlines()) == 4 and "Naht ü" in text
    assert [path.name for path in tmp_path.iterdir()] == ["drawing.json"]


@settings(max_examples=80)
@given(drawn=DRAWINGS, height_px=SIDES, width_px=SIDES)
def test_at_any_size_every_mask_shows_and_the_allowed_region_is_never_empty(
    drawn: Regions, height_px: int, width_px: int
) -> None:
    found = drawn.masks(height_px, width_px)
    assert [name for name, _ in found] == [part.name for part in drawn.regions if part.role == "mask"]
    assert drawn.mask_names == tuple(name for name, _ in found)
    allowed = drawn.allowed(height_px, width_px)
    assert (allowed is None) == all(part.role == "mask" for part in drawn.regions)
    for mask in [mask for _, mask in found] + ([] if allowed is None else [allowed]):
        assert mask.shape == (height_px, width_px) and mask.dtype == np.uint8
        assert mask.any() and set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_a_polygon_covers_its_pixels_and_scales_with_the_picture(scale: int) -> None:
    ((_, mask),) = drawing(Region("dent", "mask", SQUARE)).masks(60 * scale, 40 * scale)
    expected = np.zeros((60 * scale, 40 * scale), bool)
    expected[10 * scale : 50 * scale, 10 * scale : 30 * scale] = True
    rows, columns = np.nonzero(mask)
    # Corners stand at pixel centres, so half a pixel of the drawing may miss on each side.
    assert (mask[~expected] == 0).all()
    assert rows.min() - 10 * scale <= scale / 2 and 50 * scale - 1 - rows.max() <= scale / 2
    assert columns.min() - 10 * scale <= scale / 2 and 30 * scale - 1 - columns.max() <= scale / 2
    if scale == 1:
        assert np.array_equal(mask > 0, expected)


@pytest.mark.parametrize("scale", [0.05, 0.2, 1.0, 3.0])
def test_thin_strokes_never_break_or_vanish(scale: float) -> None:
    drawn = drawing(line(1, (5.0, 7.0), (190.0, 280.0)), width_px=200, height_px=300)
    height_px, width_px = round(300 * scale), round(200 * scale)
    ((_, mask),) = drawn.masks(height_px, width_px)
    rows = np.nonzero(mask.any(axis=1))[0]
    assert len(rows) == np.ptp(rows) + 1 and len(rows) >= int(0.85 * height_px)
    assert (mask > 0).sum(axis=1).max() <= max(2, 2 * scale + 2)


def test_strokes_are_as_wide_as_the_brush_and_a_click_is_a_dot() -> None:
    ((_, flat), (_, dot)) = drawing(line(5, (8, 30), (32, 30)), line(7, (20, 15))).masks(60, 40)
    assert (flat[:, 20] > 0).sum() == 5
    assert (dot[15] > 0).sum() == 7 and (dot[:, 20] > 0).sum() == 7
    assert (dot > 0).sum() == pytest.approx(np.pi / 4 * 7**2, rel=0.1)  # round
    ((_, fine),) = drawing(line(1, (20, 15))).masks(60, 40)
    assert np.argwhere(fine).tolist() == [[15, 20]]
    ((_, slope),) = drawing(line(6, (5, 5), (35, 35))).masks(60, 40)
    assert (slope[:, 20] > 0).sum() == pytest.approx(6 * 2**0.5, abs=1)
    ((_, flat), _) = drawing(line(5, (8, 30), (32, 30)), line(7, (20, 15))).masks(180, 120)
    assert abs((flat[:, 60] > 0).sum() - 15) <= 1


def test_the_allowed_region_is_the_union_and_masks_do_not_count() -> None:
    left, right = ((0, 0), (9, 0), (9, 59), (0, 59)), ((30, 0), (39, 0), (39, 59), (30, 59))
    drawn = drawing(Region("a", "allow", left), Region("b", "allow", right), line(3, (20, 20)))
    allowed = drawn.allowed(60, 40)
    expected = np.zeros((60, 40), bool)
    expected[:, :10], expected[:, 30:] = True, True
    assert np.array_equal(allowed > 0, expected)
    assert drawing(line(3, (20, 20))).allowed(60, 40) is None


def test_an_eraser_takes_from_what_stands_before_it_in_its_role_only() -> None:
    hole = ((15, 20), (25, 20), (25, 40), (15, 40))
    first, later = Region("first", "mask", SQUARE), Region("later", "mask", hole)
    drawn = drawing(Region("a", "allow", SQUARE), first, Region("rub", "mask", hole, erase=True), later)
    (_, before), (_, after) = drawn.masks(60, 40)
    assert drawn.mask_names == ("first", "later")
    assert not before[20:41, 15:26].any() and before[15, 12] == 255
    assert after[30, 20] == 255 and drawn.allowed(60, 40)[30, 20] == 255


def test_an_eraser_that_comes_first_allows_the_rest_of_the_picture() -> None:
    allowed = drawing(Region("not here", "allow", SQUARE, erase=True)).allowed(60, 40)
    assert np.array_equal(allowed == 0, drawing(Region("x", "mask", SQUARE)).masks(60, 40)[0][1] > 0)


def test_what_an_eraser_leaves_survives_shrinking() -> None:
    rest = Region("rub", "mask", ((10, 10), (28, 10), (28, 49), (10, 49)), erase=True)  # one column is left
    drawn = drawing(Region("dent", "mask", SQUARE), rest)
    assert (drawn.masks(60, 40)[0][1] > 0).sum() == 40
    for height_px, width_px in [(30, 20), (6, 4), (1, 1), (60, 3)]:
        assert drawn.masks(height_px, width_px)[0][1].any()
        kept = drawing(Region("dent", "allow", SQUARE), Region("rub", "allow", rest.polygon, erase=True))
        assert kept.allowed(height_px, width_px).any()


def test_what_leaves_the_picture_is_clipped() -> None:
    drawn = drawing(Region("edge", "mask", ((30, -500), (99_000, -500), (99_000, 99_000), (30, 99_000))))
    ((_, mask),) = drawn.masks(60, 40)
    assert (mask[:, 30:] == 255).all() and not mask[:, :30].any()


GOOD = {
    "version": 1,
    "width_px": 40,
    "height_px": 60,
    "regions": [
        {"name": "weld", "role": "allow", "polygon": [[10, 10], [29, 10], [29, 49]]},
        {"name": "scratch", "role": "mask", "strokes": [{"points": [[3, 5], [9, 8]], "width_px": 5}], "erase": False},
    ],
}


def change(*path: str | int, to: Any) -> Callable[[Any], None]:
    def apply(table: Any) -> None:
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = to

    return apply


def drop(*path: str | int) -> Callable[[Any], None]:
    def apply(table: Any) -> None:
        for key in path[:-1]:
            table = table[key]
        del table[path[-1]]

    return apply


BAD = {
    "version of tomorrow": (change("version", to=2), "version = 2; expected 1"),
    "version true": (change("version", to=True), "version = True; expected 1"),
    "no version": (drop("version"), "missing key version"),
    "unknown key": (change("hight_px", to=3), "unknown key hight_px in the file; did you mean height_px"),
    "unknown region key": (change("regions", 0, "poligon", to=[]), r"unknown key poligon.*did you mean polygon"),
    "unknown stroke key": (change("regions", 1, "strokes", 0, "color", to=1), r"color.*known keys: points, width_px"),
    "side of 0": (change("width_px", to=0), "width_px = 0; expected 1 to"),
    "side that is huge": (change("height_px", to=10**9), "height_px = 1000000000; expected 1 to"),
    "side with a fraction": (change("width_px", to=40.5), "width_px = '40.5'; expected a whole number"),
    "no regions": (change("regions", to=[]), "regions is empty; expected at least one"),
    "regions that are no list": (change("regions", to={}), "expected a list"),
    "a region that is no table": (change("regions", 0, to=7), r"regions\[0\] = '7'; expected a table"),
    "no role": (drop("regions", 0, "role"), r"missing key role in regions\[0\]"),
    "unknown role": (change("regions", 0, "role", to="deny"), "role = 'deny'; expected allow or mask"),
    "no name": (change("regions", 0, "name", to=" "), "a region without a name"),
    "polygon of two points": (change("regions", 0, "polygon", to=[[1, 1], [5, 5]]), "polygon of 2 points.*at least 3"),
    "polygon and strokes": (change("regions", 1, "polygon", to=[[1, 1]] * 3), "has both polygon and strokes"),
    "neither": (drop("regions", 0, "polygon"), "has neither polygon nor strokes"),
    "a word for a number": (
        change("regions", 0, "polygon", 0, 0, to="10"),
        r"polygon\[0\]\[0\] = '10'; expected a num",
    ),
    "true for a number": (
        change("regions", 0, "polygon", 0, 1, to=True),
        r"polygon\[0\]\[1\] = 'True'; expected a num",
    ),
    "not a number": (change("regions", 0, "polygon", 0, 0, to=float("nan")), "expected numbers of px"),
    "without end": (change("regions", 0, "polygon", 0, 0, to=float("inf")), "expected numbers of px"),
    "beyond all": (change("regions", 0, "polygon", 0, 0, to=10**400), "expected numbers of px"),
    "a point of three": (change("regions", 0, "polygon", 1, to=[1, 2, 3]), r"polygon\[1\] = .*expected \[x, y\]"),
    "a stroke without points": (change("regions", 1, "strokes", 0, "points", to=[]), "a stroke of 0 points"),
    "a brush of width 0": (
        change("regions", 1, "strokes", 0, "width_px", to=0),
        "width_px = 0.0; expected more than 0",
    ),
    "a brush without end": (change("regions", 1, "strokes", 0, "width_px", to=float("nan")), "expected more than 0"),
    "erase in words": (change("regions", 1, "erase", to="no"), "erase = 'no'; expected true or false"),
    "outside the picture": (
        change("regions", 0, "polygon", to=[[50, 70], [60, 70], [60, 90]]),
        r"region 'weld': covers no pixel of the 40x60 px picture",
    ),
    "erased before it is drawn": (change("regions", 1, "erase", to=True), "erases before any mask is drawn"),
    "no table": (lambda table: None, "expected a table"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_what_was_expected(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    table: Any = json.loads(json.dumps(GOOD))
    spoil(table)
    path = tmp_path / "drawing.json"
    path.write_text(json.dumps([table] if name == "no table" else table))
    with pytest.raises(ConfigError, match=message) as refused:
        regions.read(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


def test_the_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "drawing.json"
    path.write_text(json.dumps(GOOD))
    assert [part.name for part in regions.read(path).regions] == ["weld", "scratch"]


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"", b"[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "drawing.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"drawing\.json: cannot be read as JSON"):
        regions.read(tmp_path / "drawing.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.json: not found; expected the expert's drawing"):
        regions.read(tmp_path / "nothing.json")


@pytest.mark.parametrize("role", regions.ROLES)
def test_a_region_that_is_wholly_erased_is_refused(role: str) -> None:
    with pytest.raises(ConfigError, match="wholly erased by a later one"):
        drawing(Region("dent", role, SQUARE), Region("rub", role, SQUARE, erase=True))
