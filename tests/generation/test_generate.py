from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagline import files, samples
from diagline.config_generate import GenerateConfig, QualityConfig
from diagline.errors import DatasetError, OutputError
from diagline.samples import GOOD, SampleSet
from generation import generate as room
from generation import surfaces
from generation.generate import generate
from generation.memseg import MemSegPainter, MemSegSettings
from generation.painting import Job, Painted
from generation.plan import Draws
from generation.quality import pyramid_features
from generation.repaint import repaint
from generation.worker import Worker

OPEN = QualityConfig(gate=False)
SETTINGS = GenerateConfig(count=12, quality=OPEN)
STRICT = replace(SETTINGS, quality=QualityConfig(visible_quantile=0.999, distance_margin=1.0, budget=2.0))


class Counting:
    """MemSeg that counts its calls, in batches of two."""

    name, batch_size, keeps_outside = "memseg", 2, True

    def __init__(self) -> None:
        self.painter, self.batches = MemSegPainter(MemSegSettings()), 0

    def paint(self, jobs: Sequence[Job]) -> list[Painted]:
        self.batches += 1
        return self.painter.paint(jobs)

    def check_words(self, prompt: str, negative_prompt: str) -> None:
        """Reads none."""

    def facts(self) -> dict[str, Any]:
        return self.painter.facts()


def make(
    normals: SampleSet,
    target: Path,
    settings: GenerateConfig = SETTINGS,
    counts: dict[str, int] | None = None,
    seed: int = 7,
    painter: Any = None,
    **more: Any,
) -> SampleSet:
    draws = Draws(normals, settings, seed, counts or {"train": settings.count}, normals)
    return generate(draws, painter or MemSegPainter(MemSegSettings()), pyramid_features, target, **more)


@pytest.fixture
def textures(tmp_path: Path) -> Path:
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (30, 30, 3), np.uint8)
        samples.write_image(tmp_path / "textures" / f"{number}.png", image)
    return tmp_path / "textures"


def test_the_set_is_whole_labelled_and_keeps_the_normals_group_and_split(normals: SampleSet, tmp_path: Path) -> None:
    made = make(normals, tmp_path / "out", counts={"train": 12, "val": 4})
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
    assert not (tmp_path / "out.part").exists()


@pytest.mark.parametrize("masks", ["perlin", "shapes"])
def test_every_picture_is_painted_again_from_its_record(
    normals: SampleSet, textures: Path, tmp_path: Path, masks: str
) -> None:
    make(normals, tmp_path / "out", replace(SETTINGS, textures=textures, masks=masks))
    loaded = samples.load(tmp_path / "out")
    assert {sample.provenance["drawn"]["source"] for sample in loaded} == {"texture", "structure"}
    for sample in loaded:
        again = repaint(normals.root, sample)
        assert np.array_equal(again.image_bgr, loaded.read_image(sample))
        assert np.array_equal(again.mask, loaded.read_mask(sample))


def test_a_picture_does_not_depend_on_how_many_are_painted(normals: SampleSet, tmp_path: Path) -> None:
    few = make(normals, tmp_path / "few", counts={"train": 2, "val": 3})
    many = make(normals, tmp_path / "many", counts={"train": 6, "val": 4})
    for split in ("train", "val"):
        for sample, same in zip(few.split(split), many.split(split), strict=False):
            assert sample.provenance["pixels_sha256"] == same.provenance["pixels_sha256"]
            assert np.array_equal(few.read_image(sample), many.read_image(same))


def test_one_seed_gives_one_set_and_another_seed_another(normals: SampleSet, tmp_path: Path) -> None:
    first, again, other = (
        make(normals, tmp_path / name, seed=seed).hash() for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first == again != other


def test_painted_parts_serve_as_normals(tmp_path: Path) -> None:
    parts = surfaces.write_parts(tmp_path / "parts", 1, {"train": (3, 0), "val": (2, 1)}, 32, 24)
    assert len(make(parts, tmp_path / "out", counts={"train": 3, "val": 2})) == 5


def test_the_plan_is_written_before_the_first_picture(
    normals: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(jobs: Sequence[Job]) -> list[Painted]:
        plan = json.loads((tmp_path / "out.part" / "plan.json").read_text())
        assert len(plan["entries"]) == 12 and not list((tmp_path / "out.part").rglob("*.png"))
        raise KeyboardInterrupt

    painter = Counting()
    monkeypatch.setattr(painter, "paint", stop)
    with pytest.raises(KeyboardInterrupt):
        make(normals, tmp_path / "out", painter=painter)


def test_a_finished_set_is_not_painted_again(normals: SampleSet, tmp_path: Path) -> None:
    painter = Counting()
    made = make(normals, tmp_path / "out", painter=painter)
    before = painter.batches
    assert make(normals, tmp_path / "out", painter=painter).samples == made.samples
    assert painter.batches == before == 6


def test_a_run_killed_at_any_write_goes_on_and_ends_with_the_same_set(
    normals: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(STRICT, count=4)
    whole = make(normals, tmp_path / "whole", settings, painter=Counting()).hash()
    writes = [0]
    real = files.write_bytes

    def dying(path: Path, data: bytes) -> None:
        writes[0] -= 1
        if writes[0] == 0:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(files, "write_bytes", dying)
    stopped = 0
    for last in range(1, 200):
        shutil.rmtree(tmp_path / "out.part", ignore_errors=True)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        writes[0] = last
        painter = Counting()
        try:
            make(normals, tmp_path / "out", settings, painter=painter)
        except KeyboardInterrupt:
            stopped += 1
            assert not (tmp_path / "out").exists()
            writes[0] = 10**6
            assert make(normals, tmp_path / "out", settings, painter=painter).hash() == whole
            assert not (tmp_path / "out.part").exists()
        else:
            break
    assert stopped > 15 and last < 199


def test_finished_batches_are_not_painted_again(normals: SampleSet, tmp_path: Path) -> None:
    painter = Counting()
    real, painted = painter.paint, []

    def stop_at_the_fourth(jobs: Sequence[Job]) -> list[Painted]:
        if len(painted) == 3:
            raise KeyboardInterrupt
        painted.append(jobs)
        return real(jobs)

    painter.paint = stop_at_the_fourth  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        make(normals, tmp_path / "out", painter=painter)
    painter.paint, painter.batches = real, 0  # type: ignore[method-assign]
    assert len(make(normals, tmp_path / "out", painter=painter)) == 12
    assert painter.batches == 3


def test_any_number_of_processes_ends_with_the_same_set(
    normals: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(normals, tmp_path / "alone", STRICT, painter=Counting())
    local = threading.local()
    monkeypatch.setattr(room.Worker, "here", classmethod(lambda cls: local.worker))

    class Meeting:
        def __init__(self, count: int) -> None:
            self._barrier = threading.Barrier(count, timeout=60)

        def wait_for_everyone(self) -> None:
            self._barrier.wait()

    for count in (2, 3):
        meeting, painters = Meeting(count), [Counting() for _ in range(count)]
        found: list[Any] = [None] * count

        def one(index: int, meeting: Any, painters: Any, found: Any, count: int = count) -> None:
            local.worker = Worker(index, count, meeting)
            found[index] = make(normals, tmp_path / f"by{count}", STRICT, painter=painters[index]).hash()

        threads = [threading.Thread(target=one, args=(index, meeting, painters, found)) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found) == {whole.hash()}
        assert all(painter.batches for painter in painters)


def test_the_rejected_are_kept_with_their_reason_and_their_slots_painted_again(
    normals: SampleSet, tmp_path: Path
) -> None:
    made = make(normals, tmp_path / "out", STRICT, painter=Counting())
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    rejected = samples.load(tmp_path / "out" / "rejected")
    assert len(rejected) > 0 and result["painted"] == len(made) + len(rejected) and result["kept"] == len(made)
    assert all(sample.provenance["rejected"] for sample in rejected)
    assert sum(result["rejected"].values()) == len(rejected)
    assert all("rejected" not in sample.provenance for sample in made)
    attempts = Counter(sample.provenance["entry"]["slot"] for sample in [*made, *rejected])
    kept_late = [sample for sample in made if sample.provenance["entry"]["attempt"] > 0]
    assert kept_late and all(attempts[sample.provenance["entry"]["slot"]] > 1 for sample in kept_late)
    for sample in rejected:
        assert np.array_equal(repaint(normals.root, sample).image_bgr, rejected.read_image(sample))


def test_the_budget_bounds_what_is_painted(normals: SampleSet, tmp_path: Path) -> None:
    never = replace(SETTINGS, quality=QualityConfig(distance_margin=0.1, budget=1.5))
    make(normals, tmp_path / "out", never)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["painted"] == 18 and result["asked"] == 12 and result["kept"] < 12


def test_an_unfinished_run_with_other_settings_is_refused_until_it_is_thrown_away(
    normals: SampleSet, tmp_path: Path
) -> None:
    painter = Counting()
    real = painter.paint
    painter.paint = lambda jobs: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        make(normals, tmp_path / "out", painter=painter)
    painter.paint = real  # type: ignore[method-assign]
    with pytest.raises(OutputError, match=r"out\.part: holds an unfinished run that differs in entries, seed.*restart"):
        make(normals, tmp_path / "out", painter=painter, seed=8)
    assert len(make(normals, tmp_path / "out", painter=painter, seed=8, restart=True)) == 12


def test_a_changed_normal_is_not_repainted(normals: SampleSet, tmp_path: Path) -> None:
    made = make(normals, tmp_path / "out", replace(SETTINGS, count=1))
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
    sample = make(normals, tmp_path / "out", replace(SETTINGS, count=1)).samples[0]
    assert sample.provenance is not None
    other = replace(sample, provenance={**sample.provenance, "stream": [8, 0, 0, 0]})
    with pytest.raises(DatasetError, match=r"painted differently here.*numpy"):
        repaint(normals.root, other)
    with pytest.raises(DatasetError, match="expected a generated picture with its record"):
        repaint(normals.root, normals.samples[0])


@pytest.mark.parametrize("counts", [{"train": 0}, {"train": -1}, {"training": 3}])
def test_nothing_to_paint_is_an_error(normals: SampleSet, tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match="expected"):
        make(normals, tmp_path / "out", counts=counts)
    assert not (tmp_path / "out").exists()


def test_a_split_without_good_pictures_is_an_error(normals: SampleSet, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no good pictures in split train"):
        make(normals.labelled(1), tmp_path / "out")
    with pytest.raises(DatasetError, match="no good pictures in split train"):
        make(normals.split("test"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made", [False, True])
def test_a_textures_folder_that_is_missing_or_empty_is_an_error(normals: SampleSet, tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "none"
    if made:
        folder.mkdir()
        (folder / "notes.txt").write_text("no picture")
    with pytest.raises(DatasetError, match=r"generate\.textures = '.*none': (holds no pictures|not a folder)"):
        make(normals, tmp_path / "out", replace(SETTINGS, textures=folder))


def test_a_failure_half_way_names_the_file_keeps_what_is_finished_and_leaves_the_old_set(
    normals: SampleSet, tmp_path: Path
) -> None:
    old = make(normals, tmp_path / "out", replace(SETTINGS, count=2)).hash()
    painter, whole = Counting(), (normals.root / "1.png").read_bytes()
    real = painter.paint

    def spoil(jobs: Sequence[Job]) -> list[Painted]:
        (normals.root / "1.png").write_bytes(b"\x89PNG broken")
        return real(jobs)

    painter.paint = spoil  # type: ignore[method-assign]
    with pytest.raises(DatasetError, match=r"1\.png"):
        make(normals, tmp_path / "out", painter=painter, seed=9)
    assert len(list((tmp_path / "out.part" / "candidates").glob("*.json"))) == 2  # it failed after a batch
    assert samples.load(tmp_path / "out").hash() == old
    (normals.root / "1.png").write_bytes(whole)
    painter.paint = real  # type: ignore[method-assign]
    assert len(make(normals, tmp_path / "out", painter=painter, seed=9)) == 12


def test_a_full_disk_is_named_and_the_finished_pictures_stay(
    normals: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    real, left = os.fsync, [9]

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        make(normals, tmp_path / "out")
    monkeypatch.setattr(os, "fsync", real)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.part" / "candidates").glob("*.json")}
    assert kept and not list((tmp_path / "out.part").rglob(".*"))
    assert len(make(normals, tmp_path / "out")) == 12
