"""The heat lies on the picture where the network saw it, and a cold picture stays as it was."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from diagline.heat import Grid, enlarge, overlay
from diagline.preprocess import RESIZE_RULES, InputContract, placement, preprocess

GRID = Grid(5, 4, 16, 7, 7)


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 120, np.uint8)


def hot(row: int, column: int) -> NDArray[np.float32]:
    heat = np.full(GRID.size, -4, np.float32)
    heat[row, column] = 6
    return heat


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    different: NDArray[np.bool_] = (before != after).any(2)
    return different


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(80, 64), (200, 64), (61, 300), (1000, 800), (23, 17)])
def test_the_hottest_place_of_the_picture_is_the_one_that_the_hot_cell_saw(size: tuple[int, int], resize: str) -> None:
    contract = InputContract(64, 80, 3, resize)
    top, left, height, width = placement(*size, contract)
    on_part = 0
    for row, column in itertools.product(range(1, GRID.rows - 1), range(1, GRID.columns - 1)):
        at = np.array([GRID.top_px + 16 * row, GRID.left_px + 16 * column])
        if (at >= np.array([top, left]) + 3).all() and (at < np.array([top + height, left + width]) - 3).all():
            spread = enlarge(hot(row, column), GRID, contract, size)
            assert spread.shape == size and spread.dtype == np.float32
            # Painted onto the frame, the hot place goes through preprocess to where the cell looks.
            frame = np.where(spread >= spread.max() - 1, 255, 0).astype(np.uint8)
            fed = preprocess(frame, InputContract(64, 80, 1, resize))[top : top + height, left : left + width, 0]
            middle = [np.average(np.arange(len(sums)), weights=sums) for sums in (fed.sum(1), fed.sum(0))]
            step_px = max(1.0, height / size[0], width / size[1])
            assert np.abs(middle + np.array([top, left]) - at).max() <= step_px
            on_part += 1
    assert on_part >= 2


def test_a_letterboxed_part_takes_the_heat_along_and_the_grey_bars_take_theirs_away() -> None:
    contract = InputContract(64, 80, 3, "letterbox")
    wide = grey(100, 400)
    assert placement(100, 400, contract) == (32, 0, 16, 64)
    shown = overlay(wide, hot(2, 1), 0.0, GRID, contract)  # its centre, row 39 and column 23, lies on the part
    rows, columns = np.nonzero(changed(wide, shown))
    assert abs(columns.mean() - (23.5 * 400 / 64 - 0.5)) < 3 and rows.min() < 20
    np.testing.assert_array_equal(overlay(wide, hot(0, 1), 0.0, GRID, contract), wide)  # row 7 is a bar


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(RESIZE_RULES))
def test_an_even_heat_is_even_at_any_size(height: int, width: int, resize: str) -> None:
    spread = enlarge(np.full(GRID.size, -2.5), GRID, InputContract(64, 80, 3, resize), (height, width))
    np.testing.assert_allclose(spread, np.full((height, width), -2.5), atol=1e-5)


def test_placement_is_where_preprocess_puts_the_frame() -> None:
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 300, (40, 2)):
        contract = InputContract(int(rng.integers(16, 99)), int(rng.integers(16, 99)), 1, "letterbox")
        fed = preprocess(np.full((height, width), 255, np.uint8), contract)[:, :, 0]
        top, left, inner_height, inner_width = placement(int(height), int(width), contract)
        expected = np.full(fed.shape, 114)
        expected[top : top + inner_height, left : left + inner_width] = 255
        np.testing.assert_array_equal(fed, expected)


def test_only_places_at_or_above_the_threshold_are_coloured_and_the_hottest_most() -> None:
    contract = InputContract(64, 80)
    heat = np.full(GRID.size, -4, np.float32)
    heat[1, 1], heat[3, 2] = 6, 1
    before = grey(160, 128)
    kept = before.copy()
    shown = overlay(before, heat, 0.0, GRID, contract)
    np.testing.assert_array_equal(before, kept)
    cold = enlarge(heat, GRID, contract, (160, 128)) < 0
    near_edge = cv2.dilate((~cold).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert not (changed(before, shown) & ~near_edge).any()
    assert changed(before, shown)[~cold].all()
    strong, faint = (shown[2 * (7 + 16 * row), 2 * (7 + 16 * column)].astype(int) for row, column in ((1, 1), (3, 2)))
    assert np.abs(strong - 120).sum() > 1.5 * np.abs(faint - 120).sum()
    assert strong[2] > 170 and strong[1] < 90  # red
    assert faint[2] > faint[0] and faint[1] > strong[1]  # amber


def test_a_cold_picture_stays_as_it_was_and_a_grey_one_gets_colours() -> None:
    contract = InputContract(64, 80, 1)
    cold = np.full(GRID.size, -0.01, np.float32)
    np.testing.assert_array_equal(overlay(grey(50, 40), cold, 0.0, GRID, contract), grey(50, 40))
    assert overlay(grey(50, 40)[:, :, 0], hot(2, 2), 0.0, GRID, contract).shape == (50, 40, 3)


def test_heat_of_another_size_than_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\); expected \(5, 4\)"):
        overlay(grey(80, 64), np.zeros((4, 5), np.float32), 0.0, GRID, InputContract(64, 80))
