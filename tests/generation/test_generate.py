from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diagline import samples
from diagline.config import GenerateConfig
from diagline.errors import DatasetError
from diagline.samples import GOOD, SampleSet
from generation import generate as room
from generation import surfaces
from generation.generate import generate, repaint

SETTINGS = GenerateConfig(count=12)


@pytest.fixture
def textures(tmp_path: Path) -> Path:
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (30, 30, 3), np.uint8)
        samples.write_image(tmp_path / "textures" / f"{number}.png", image)
    return tmp_path / "textures"


def test_the_set_is_whole_labelled_and_keeps_the_normals_group_and_split(normals: SampleSet, tmp_path: Path) -> None:
    made = generate(normals, SETTINGS, 7, tmp_path / "out", {"train": 12, "val": 4})
    loaded = samples.load(tmp_path / "out")
    assert loaded.samples == made.samples and samples.split_bad(loaded)[1] == []
    assert loaded.counts() == {("train", "memseg"): 12, ("val", "memseg"): 4}
    by_image = {sample.image: sample for sample in normals}
    for sample in loaded:
        normal = by_image[sample.provenance["normal"]["image"]]
        assert normal.label == GOOD and (sample.group, sample.split) == (normal.group, normal.split)
        assert (sample.label, sample.source) == (1, "memseg")
        changed = (loaded.read_image(sample) != normals.read_image(normal)).any(axis=2)
        mask = loaded.read_mask(sample)
        assert mask.any() and not changed[mask == 0].any()
    SampleSet(normals.root, normals.samples + loaded.samples).check_groups()


def test_without_counts_the_configs_count_is_painted_for_training(normals: SampleSet, tmp_path: Path) -> None:
    assert Counter(sample.split for sample in generate(normals, SETTINGS, 7, tmp_path / "out")) == {"train": 12}


def test_every_picture_is_painted_again_from_its_record(normals: SampleSet, textures: Path, tmp_path: Path) -> None:
    generate(normals, replace(SETTINGS, textures=textures), 7, tmp_path / "out")
    loaded = samples.load(tmp_path / "out")
    assert {sample.provenance["drawn"]["source"] for sample in loaded} == {"texture", "structure"}
    for sample in loaded:
        assert np.array_equal(repaint(normals.root, sample), loaded.read_image(sample))


def test_a_picture_does_not_depend_on_how_many_are_painted(normals: SampleSet, tmp_path: Path) -> None:
    few = generate(normals, SETTINGS, 7, tmp_path / "few", {"train": 2, "val": 3})
    many = generate(normals, SETTINGS, 7, tmp_path / "many", {"train": 6, "val": 4})
    for split in ("train", "val"):
        for sample, same in zip(few.split(split), many.split(split), strict=False):
            assert sample.provenance == same.provenance
            assert np.array_equal(few.read_image(sample), many.read_image(same))


def test_one_seed_gives_one_set_and_another_seed_another(normals: SampleSet, tmp_path: Path) -> None:
    first, again, other = (
        generate(normals, SETTINGS, seed, tmp_path / name).hash() for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first == again != other


def test_every_good_picture_of_the_split_is_drawn_from(normals: SampleSet, tmp_path: Path) -> None:
    made = generate(normals, replace(SETTINGS, count=30), 7, tmp_path / "out")
    drawn = Counter(sample.provenance["normal"]["image"] for sample in made)
    assert set(drawn) == {"0.png", "1.png"} and min(drawn.values()) >= 8


def test_painted_parts_serve_as_normals(tmp_path: Path) -> None:
    parts = surfaces.write_parts(tmp_path / "parts", 1, {"train": (3, 0), "val": (2, 1)}, 32, 24)
    made = generate(parts, SETTINGS, 7, tmp_path / "out", {"train": 3, "val": 2})
    assert len(made) == 5


def test_a_changed_normal_is_not_repainted(normals: SampleSet, tmp_path: Path) -> None:
    made = generate(normals, replace(SETTINGS, count=1), 7, tmp_path / "out")
    source = normals.root / made.samples[0].provenance["normal"]["image"]
    image = samples.read_image(source)
    image[0, 0] ^= 1
    samples.write_image(source, image)
    with pytest.raises(DatasetError, match=rf"{source.name}: changed since"):
        repaint(normals.root, made.samples[0])
    source.unlink()
    with pytest.raises(DatasetError, match=rf"{source.name}: not found"):
        repaint(normals.root, made.samples[0])


def test_a_repaint_that_differs_is_refused(normals: SampleSet, tmp_path: Path) -> None:
    sample = generate(normals, replace(SETTINGS, count=1), 7, tmp_path / "out").samples[0]
    assert sample.provenance is not None
    other = replace(sample, provenance={**sample.provenance, "stream": [8, 0, 0]})
    with pytest.raises(DatasetError, match=r"painted differently by numpy .* install numpy"):
        repaint(normals.root, other)
    with pytest.raises(DatasetError, match="expected a memseg picture"):
        repaint(normals.root, normals.samples[0])


@pytest.mark.parametrize("counts", [{"train": 0}, {}, {"train": -1}, {"training": 3}])
def test_nothing_to_paint_is_an_error(normals: SampleSet, tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match="expected"):
        generate(normals, SETTINGS, 7, tmp_path / "out", counts)
    with pytest.raises(DatasetError, match=r"generate\.count = 0"):
        generate(normals, replace(SETTINGS, count=0), 7, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_without_good_pictures_is_an_error(normals: SampleSet, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no good pictures in split train"):
        generate(normals.labelled(1), SETTINGS, 7, tmp_path / "out")
    with pytest.raises(DatasetError, match="no good pictures in split train"):
        generate(normals.split("test"), SETTINGS, 7, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made", [False, True])
def test_a_textures_folder_that_is_missing_or_empty_is_an_error(normals: SampleSet, tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "none"
    if made:
        folder.mkdir()
        (folder / "notes.txt").write_text("no picture")
    with pytest.raises(DatasetError, match=r"generate\.textures = '.*none': (holds no pictures|not a folder)"):
        generate(normals, replace(SETTINGS, textures=folder), 7, tmp_path / "out")


def test_a_failure_half_way_names_the_file_and_leaves_the_old_set(
    normals: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = generate(normals, replace(SETTINGS, count=2), 7, tmp_path / "out").hash()
    (normals.root / "1.png").write_bytes(b"\x89PNG broken")
    written = []
    real = samples.write_image
    monkeypatch.setattr(room.samples, "write_image", lambda path, image: (written.append(path), real(path, image)))
    with pytest.raises(DatasetError, match=r"1\.png"):
        generate(normals, SETTINGS, 9, tmp_path / "out")
    assert written  # it failed after some pictures
    assert samples.load(tmp_path / "out").hash() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["normals", "out"]
