"""The two public sets the project measures on, read by their own split.csv; skipped where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diagline import layouts

SPLITS = {
    "magnetic_tile": {
        "train": {"good": 476, "blowhole": 58, "break": 42, "crack": 29, "fray": 11, "uneven": 56},
        "val": {"good": 95, "blowhole": 14, "break": 4, "crack": 1, "fray": 4, "uneven": 16},
        "test": {"good": 381, "blowhole": 43, "break": 39, "crack": 27, "fray": 17, "uneven": 31},
    },
    "kolektorsdd1": {
        "train": {"good": 167, "crack": 25},
        "val": {"good": 28, "crack": 4},
        "test": {"good": 138, "crack": 21},
    },
}


@pytest.fixture(params=sorted(SPLITS))
def real(request):
    """Name and folder of a real set."""
    place = os.environ.get("DIAGLINE_REAL_DATA")
    if not place:
        pytest.skip("DIAGLINE_REAL_DATA names no folder with magnetic_tile/ and kolektorsdd1/")
    root = Path(place) / request.param
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    return request.param, root


def test_the_published_split_is_read_as_it_stands(real):
    name, root = real
    found = layouts.open_data(root, "auto", 1)
    expected = {(split, kind): count for split, kinds in SPLITS[name].items() for kind, count in kinds.items()}
    assert layouts.detect(root) == "split_csv" and found.counts() == expected


def test_the_layouts_own_reader_finds_the_same_pictures_and_labels(real):
    name, root = real
    listed = layouts.open_data(root, "split_csv", 1)
    read = layouts.open_data(root, {"kolektorsdd1": "kolektorsdd"}.get(name, name), 1)
    labels = {sample.image: (sample.label, sample.kind, sample.group) for sample in listed}
    assert {sample.image: (sample.label, sample.kind, sample.group) for sample in read} == labels
