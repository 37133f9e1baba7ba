from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from diagline.errors import DatasetError
from generation import regions
from generation.studio.kept_regions import keep


def drawn() -> np.ndarray:
    mask = np.zeros((90, 60), np.uint8)
    cv2.circle(mask, (30, 30), 18, 255, -1)
    cv2.circle(mask, (30, 30), 6, 0, -1)  # a hole
    mask[70, 10:50] = 255  # one pixel wide
    mask[85, 5] = 255  # a dot
    return mask


def test_a_drawing_comes_back_from_the_file_pixel_by_pixel(tmp_path: Path) -> None:
    keep(tmp_path / "regions.json", drawn(), "rim", "allow")
    allowed = regions.read(tmp_path / "regions.json").allowed(90, 60)
    assert np.array_equal(allowed, drawn())


def test_every_piece_is_a_defect_of_its_own_and_drawings_add_up(tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    keep(path, drawn(), "scuff", "mask")
    assert len(regions.read(path).masks(90, 60)) == 3
    wider = np.zeros((180, 120), np.uint8)
    wider[20:60, 100:110] = 255
    kept = keep(path, wider, "dent", "mask")
    assert (kept.width_px, kept.height_px) == (60, 90), "a drawing of another size is scaled to the file's"
    (name, mask) = regions.read(path).masks(180, 120)[-1]
    assert name == "dent" and ((mask > 0) != (wider > 0)).mean() < 0.01
    assert regions.read(path).allowed(90, 60) is None


def test_nothing_drawn_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    keep(tmp_path / "regions.json", drawn(), "rim", "allow")
    before = (tmp_path / "regions.json").read_bytes()
    with pytest.raises(DatasetError, match="nothing is marked"):
        keep(tmp_path / "regions.json", drawn() * 0, "rim", "allow")
    assert (tmp_path / "regions.json").read_bytes() == before
