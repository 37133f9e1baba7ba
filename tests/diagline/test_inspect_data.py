"""`data inspect` counts and measures what is there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from diagline import layouts, samples
from diagline.errors import DatasetError
from diagline.inspect_data import describe


def test_a_set_is_counted_and_measured(tmp_path, picture, mask):
    rows = ["image,mask,label,kind,group,split"]
    for name, shape, label, split in (
        ("a", (10, 40), 0, "train"),
        ("b", (20, 20), 1, "train"),
        ("c", (30, 10), 1, "test"),
    ):
        picture(tmp_path / f"{name}.png", shape)
        painted = np.zeros(shape, np.uint8)
        painted[:2, :5] = 255 * label * (name != "c")
        samples.write_image(tmp_path / f"{name}_mask.png", painted)
        rows.append(f"{name}.png,{name}_mask.png,{label},{'crack' if label else 'good'},g{name},{split}")
    picture(tmp_path / "stray.png")
    (tmp_path / "split.csv").write_text("\n".join(rows))
    found = layouts.open_data(tmp_path, "auto", 1)
    said = describe(found)
    assert json.loads(json.dumps(said)) == said
    assert said["counts"] == {"train": {"good": 1, "crack": 1}, "test": {"crack": 1}}
    assert said["groups"] == {"test": 1, "train": 2} and (said["images"], said["masks"]) == (3, 3)
    assert said["width_px"] == {"min": 10, "median": 20.0, "max": 40}
    assert said["height_px"] == {"min": 10, "median": 20.0, "max": 30}
    assert said["defect_share"] == {"min": 0.025, "median": 0.025, "max": 0.025}
    assert said["empty_defect_masks"] == {"count": 1, "images": ["c.png"]}
    assert said["strays"] == {"count": 1, "images": ["stray.png"]}
    assert said["sources"] == {"real": 3} and said["hash"] == found.hash()


def test_without_masks_there_is_no_defect_share(make, tmp_path):
    said = describe(layouts.open_data(make("good_bad", tmp_path), "auto", 1))
    assert said["defect_share"] is None and said["masks"] == 0


def test_a_corrupt_picture_is_named(make, tmp_path):
    root = make("good_bad", tmp_path)
    (root / "bad/4.jpg").write_text("no picture")
    with pytest.raises(DatasetError, match=r"bad/4\.jpg"):
        describe(layouts.open_data(root, "auto", 1))
