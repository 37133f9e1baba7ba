from __future__ import annotations

import numpy as np
import pytest

from generation.sheet import outline, sheet


def tile(height_px: int, width_px: int, bgr: tuple[int, int, int]) -> np.ndarray:
    return np.full((height_px, width_px, 3), bgr, np.uint8)


def area(image: np.ndarray, bgr: tuple[int, int, int]) -> int:
    return int((image == bgr).all(axis=2).sum())


def test_every_picture_stands_on_the_sheet_at_one_height_with_its_aspect() -> None:
    red, blue = (0, 0, 255), (255, 0, 0)
    made = sheet([("good", [tile(20, 10, red)]), ("none", []), ("bad", [tile(40, 60, blue)])], tile_height_px=80)
    assert made.dtype == np.uint8 and made.ndim == 3
    assert area(made, red) == 80 * 40
    assert area(made, blue) == 80 * 120


def test_a_row_too_wide_goes_on_below_and_no_picture_is_cut() -> None:
    red = (0, 0, 255)
    made = sheet([("row", [tile(50, 50, red)] * 9)], tile_height_px=50, max_width_px=200)
    assert made.shape[1] <= 200
    assert area(made, red) == 9 * 50 * 50
    wide = sheet([("wide", [tile(20, 400, red)])], tile_height_px=50, max_width_px=200)
    assert wide.shape[1] <= 200 and area(wide, red) > 0


def test_masks_are_shown_as_grey_and_labels_are_written() -> None:
    mask = np.zeros((30, 30), np.uint8)
    mask[:15] = 255
    made = sheet([("masks", [mask])], tile_height_px=30)
    assert area(made, (0, 0, 0)) == 15 * 30
    unlabelled = sheet([("", [mask])], tile_height_px=30)
    assert (made < 200).sum() > (unlabelled < 200).sum()


def test_a_sheet_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        sheet([])


def test_an_outline_leaves_the_defect_itself_as_it_is() -> None:
    image = tile(20, 20, (90, 90, 90))
    mask = np.zeros((20, 20), np.uint8)
    mask[5:10, 5:10] = 255
    drawn = outline(image, mask)
    assert (drawn[mask > 0] == 90).all()
    assert area(drawn, (40, 40, 230)) == 7 * 7 - 5 * 5
    assert (image == 90).all()
