from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diagline import samples
from diagline.samples import DEFECT, GOOD, Sample, SampleSet
from generation.sheet import compare, outline, sheet


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


def test_normals_real_defects_and_each_method_stand_side_by_side(tmp_path: Path) -> None:
    def one(name: str, bgr: tuple[int, int, int], label: int, count: int, masked: bool = False) -> SampleSet:
        records = []
        for number in range(count):
            samples.write_image(tmp_path / name / f"{number}.png", tile(30, 20, bgr))
            if masked:
                samples.write_image(tmp_path / name / f"{number}m.png", tile(30, 20, (255, 255, 255))[:, :, 0])
            mask = f"{number}m.png" if masked else None
            records.append(Sample(f"{number}.png", mask, label, name, f"{name}{number}", "train", name))
        return SampleSet(tmp_path / name, tuple(records))

    green, red, blue = (0, 200, 0), (0, 0, 255), (255, 0, 0)
    good = one("good", green, GOOD, 30)
    shown = compare(
        good, {"memseg": one("memseg", red, DEFECT, 5, masked=True), "in_and_out": one("i", blue, DEFECT, 2)}
    )
    tile_px = 132 * 88
    assert area(shown, green) == 12 * tile_px and area(shown, red) == 5 * tile_px and area(shown, blue) == 2 * tile_px
    assert area(shown, (255, 255, 255)) >= 5 * tile_px
    assert compare(good, {}).shape[0] < shown.shape[0]
