from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagline.config_generate import SHAPE_KINDS, ShapesConfig
from diagline.errors import DatasetError
from generation import shapes

CONFIG = ShapesConfig()
SIDES = st.integers(16, 200)
SEEDS = st.integers(0, 2**32 - 1)
KINDS = st.sampled_from(SHAPE_KINDS)


def draw(kind: str, height_px: int, width_px: int, seed: int, region: np.ndarray | None = None) -> np.ndarray:
    return shapes.draw(kind, height_px, width_px, np.random.default_rng([2, seed]), CONFIG, region)[0]


def long_axis_deg(mask: np.ndarray) -> float:
    """Heading of a mask's long axis, 0 to 180."""
    points = np.argwhere(mask)[:, ::-1].astype(float)
    points -= points.mean(axis=0)
    _, axes = np.linalg.eigh(points.T @ points)
    return float(np.rad2deg(np.arctan2(axes[1, -1], axes[0, -1])) % 180)


def largest(mask: np.ndarray) -> np.ndarray:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    return labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))


@settings(max_examples=150)
@given(
    kind=KINDS, height_px=SIDES, width_px=SIDES, seed=SEEDS, sizes=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1))
)
def test_every_mask_has_the_asked_size_is_never_empty_and_never_the_whole_picture(
    kind: str, height_px: int, width_px: int, seed: int, sizes: tuple[float, float]
) -> None:
    config = replace(CONFIG, size_min=min(sizes), size_max=max(sizes))
    mask, facts = shapes.draw(kind, height_px, width_px, np.random.default_rng(seed), config)
    assert mask.shape == (height_px, width_px) and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
    assert facts["kind"] == kind and min(sizes) <= facts["size"] <= max(sizes)
    assert facts["cover"] == pytest.approx((mask > 0).mean())
    assert json.loads(json.dumps(facts)) == facts
    again, same = shapes.draw(kind, height_px, width_px, np.random.default_rng(seed), config)
    assert np.array_equal(mask, again) and facts == same


@settings(max_examples=100)
@given(kind=KINDS, height_px=SIDES, width_px=SIDES, seed=SEEDS, corners=st.integers(3, 8))
def test_masks_stay_inside_the_region_also_where_it_is_ragged(
    kind: str, height_px: int, width_px: int, seed: int, corners: int
) -> None:
    rng = np.random.default_rng(seed)
    region = np.zeros((height_px, width_px), np.uint8)
    cv2.fillPoly(region, [rng.integers(0, (width_px, height_px), (corners, 2)).astype(np.int32)], 255)
    mask = shapes.draw(kind, height_px, width_px, rng, CONFIG, region)[0]
    assert mask.any() and not (mask[region == 0] > 0).any()


@pytest.mark.parametrize("kind", SHAPE_KINDS)
@pytest.mark.parametrize("place", [(0, 0), (20, 31), (59, 79)])
def test_a_region_of_one_pixel_gets_that_pixel(kind: str, place: tuple[int, int]) -> None:
    region = np.zeros((60, 80), np.uint8)
    region[place] = 255
    assert np.array_equal(draw(kind, 60, 80, 0, region), region)


@pytest.mark.parametrize("kind", SHAPE_KINDS)
def test_places_are_spread_over_the_whole_region(kind: str) -> None:
    region = np.zeros((96, 128), np.uint8)
    region[8:88, 16:40], region[8:88, 80:120] = 255, 255  # two islands, 24 and 40 wide
    drawn = np.array([draw(kind, 96, 128, seed, region) > 0 for seed in range(200)])
    for half in (drawn[:, :48, :64], drawn[:, 48:, :64], drawn[:, :48, 64:], drawn[:, 48:, 64:]):
        assert 0.07 < half.any(axis=(1, 2)).mean() < 0.75


def test_a_shape_prefers_the_place_that_does_not_cut_it() -> None:
    region = np.zeros((200, 200), np.uint8)
    region[70:130, 70:130] = 255
    config = replace(CONFIG, size_min=0.15, size_max=0.15)  # 30 px in a region of 60
    for seed in range(40):
        cut = shapes.draw("spot", 200, 200, np.random.default_rng(seed), config, region)[0]
        assert (cut > 0).sum() > 0.6 * np.pi / 4 * 30**2 * 0.7


@pytest.mark.parametrize("kind", ["scratch", "crack"])
@pytest.mark.parametrize("heading_deg", [0.0, 45.0, 90.0, 150.0])
def test_scratches_and_cracks_keep_to_the_asked_heading(kind: str, heading_deg: float) -> None:
    config = replace(CONFIG, size_min=0.4, angle_min_deg=heading_deg - 5, angle_max_deg=heading_deg + 5)
    region = np.zeros((300, 300), np.uint8)
    region[80:220, 80:220] = 255  # whole ones: a cut one has another long axis
    off = []
    for seed in range(30):
        mask, facts = shapes.draw(kind, 300, 300, np.random.default_rng(seed), config, region)
        assert heading_deg - 5 <= facts["angle_deg"] <= heading_deg + 5
        off.append(abs((long_axis_deg(mask) - heading_deg + 90) % 180 - 90))
    assert np.median(off) < 15 and np.quantile(off, 0.8) < 30


def width_px(mask: np.ndarray) -> float:
    return 2 * float(cv2.distanceTransform(mask, cv2.DIST_L2, 5).max())


@pytest.mark.parametrize("side_px", [64, 224, 800])
def test_scratches_and_cracks_are_thin_and_the_other_kinds_compact(side_px: int) -> None:
    for seed in range(25):
        for kind in ("scratch", "crack"):
            assert width_px(draw(kind, side_px, side_px, seed)) <= max(4.5, 0.04 * side_px), kind
    config = replace(CONFIG, size_min=0.3, size_max=0.3)
    middle = np.zeros((side_px, side_px), np.uint8)
    middle[side_px // 4 : -side_px // 4, side_px // 4 : -side_px // 4] = 255
    for kind in ("spot", "stain"):
        masks = [shapes.draw(kind, side_px, side_px, np.random.default_rng(s), config, middle)[0] for s in range(25)]
        assert np.median([width_px(mask) for mask in masks]) > 0.1 * side_px, kind


def test_stains_are_more_ragged_than_spots_and_cracks_than_scratches() -> None:
    config = replace(CONFIG, size_min=0.3, size_max=0.3)
    middle = np.zeros((256, 256), np.uint8)
    middle[70:186, 70:186] = 255

    def solidity(kind: str, seed: int) -> float:
        mask = shapes.draw(kind, 256, 256, np.random.default_rng(seed), config, middle)[0]
        outline = max(
            cv2.findContours(largest(mask).astype(np.uint8), 0, cv2.CHAIN_APPROX_NONE)[0], key=cv2.contourArea
        )
        return cv2.contourArea(outline) / max(cv2.contourArea(cv2.convexHull(outline)), 1.0)

    mean = {
        kind: np.mean([solidity(kind, seed) for seed in range(25)]) for kind in ("spot", "stain", "crack", "scratch")
    }
    assert mean["spot"] > 0.96 > 0.94 > mean["stain"] > 0.6
    assert mean["crack"] < 0.25 < mean["scratch"]


def test_pits_are_small_and_several() -> None:
    counts, widest = [], []
    for seed in range(30):
        mask = draw("pit", 256, 256, seed)
        counts.append(cv2.connectedComponents(mask)[0] - 1)
        widest.append(width_px(mask))
    assert np.median(counts) >= 2 and max(widest) < 0.12 * 256


@settings(max_examples=60)
@given(height_px=SIDES, width_px=SIDES, seed=SEEDS)
def test_edge_chips_touch_the_pictures_edge(height_px: int, width_px: int, seed: int) -> None:
    mask = draw("edge_chip", height_px, width_px, seed)
    assert np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()


def test_edge_chips_bite_into_the_regions_border() -> None:
    region = np.zeros((120, 120), np.uint8)
    cv2.circle(region, (60, 60), 40, 255, -1)
    border = (region > 0) & (cv2.erode(region, np.ones((3, 3), np.uint8)) == 0)
    config = replace(CONFIG, size_min=0.2)
    sides = []
    for seed in range(60):
        mask, facts = shapes.draw("edge_chip", 120, 120, np.random.default_rng(seed), config, region)
        assert (border & (mask > 0)).sum() >= 3 and not (mask[region == 0] > 0).any()
        assert not (mask[border] > 0).all()
        rows, columns = np.nonzero(mask)
        inwards = np.array([60 - facts["place"][0], 60 - facts["place"][1]])
        assert inwards @ np.array([columns.mean() - facts["place"][0], rows.mean() - facts["place"][1]]) > 0
        sides.append(np.arctan2(*inwards))
    assert np.ptp(sides) > 5  # all round


def test_edge_chips_are_as_deep_as_they_say_and_widest_at_the_edge() -> None:
    config = replace(CONFIG, size_min=0.3, size_max=0.4)
    for seed in range(40):
        mask, facts = shapes.draw("edge_chip", 200, 300, np.random.default_rng(seed), config)
        column, row = facts["place"]
        if row not in (0, 199) or not 60 < column < 240:  # another side, or a corner
            continue
        turned = mask if row == 0 else mask[::-1]
        widths = (turned > 0).sum(axis=1)
        depth_px = int((widths > 0).sum())
        assert 0.55 * facts["depth_px"] < depth_px <= facts["depth_px"] + 2
        assert widths[0] >= 0.9 * widths.max() and widths[0] > depth_px


def test_cracks_branch_and_scratches_do_not() -> None:
    config = replace(CONFIG, size_min=0.4, angle_min_deg=90, angle_max_deg=90)
    for kind, low, high in (("crack", 0.6, 1.0), ("scratch", 0.0, 0.0)):
        forked = []
        for seed in range(40):
            mask, facts = shapes.draw(kind, 400, 400, np.random.default_rng(seed), config)
            if facts.get("lines", 1) == 1:
                lane = np.pad(largest(mask), ((0, 0), (1, 0))).astype(int)
                runs = (np.diff(lane, axis=1) == 1).sum(axis=1)  # how many lines each row crosses
                forked.append((runs >= 2).sum() > 12)
        assert low <= np.mean(forked) <= high, kind


@pytest.mark.parametrize("kind", SHAPE_KINDS)
def test_masks_scale_with_the_picture(kind: str) -> None:
    small, large = ([(draw(kind, side, 2 * side, seed) > 0).mean() for seed in range(60)] for side in (160, 480))
    assert 0.6 < np.mean(small) / np.mean(large) < 1.9


def test_size_bounds_the_extent() -> None:
    config = replace(CONFIG, size_min=0.2, size_max=0.25)
    for kind in SHAPE_KINDS:
        for seed in range(25):
            rows, columns = np.nonzero(shapes.draw(kind, 200, 300, np.random.default_rng(seed), config)[0])
            slack = 2.0 if kind in ("crack", "scratch", "stain") else 1.6  # branches, lines beside, splashes
            assert max(np.ptp(rows), np.ptp(columns)) < slack * 50, (kind, seed)


@pytest.mark.parametrize("kind", SHAPE_KINDS)
def test_a_region_without_a_pixel_is_refused(kind: str) -> None:
    with pytest.raises(DatasetError, match=rf"{kind}: the allowed region covers no pixel of the 40x30 px picture; .*"):
        draw(kind, 30, 40, 0, np.zeros((30, 40), np.uint8))


def test_a_picture_that_every_mask_would_cover_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"spot: no mask .* 1x1 px in 24 draws; expected a larger picture"):
        draw("spot", 1, 1, 0)


@pytest.mark.parametrize(
    "arguments", [("dent", 30, 40, None), ("spot", 0, 40, None), ("spot", 30, 40, np.ones((40, 30), np.uint8))]
)
def test_values_only_a_programmer_can_pass_are_value_errors(arguments: tuple[str, int, int, np.ndarray]) -> None:
    kind, height_px, width, region = arguments
    with pytest.raises(ValueError, match="expected"):
        draw(kind, height_px, width, 0, region)
