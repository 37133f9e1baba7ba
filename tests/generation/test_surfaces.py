from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagline import samples
from diagline.errors import DatasetError, OutputError
from generation import surfaces
from generation.surfaces import DEFECTS, SURFACES, paint_defect, paint_surface, render_film, repaint_part, write_parts

SIDES = st.integers(16, 140)


def surface(name: str = "cast", height_px: int = 64, width_px: int = 48, seed: int = 0) -> np.ndarray:
    return paint_surface(name, height_px, width_px, np.random.default_rng(seed))


@settings(max_examples=40)
@given(name=st.sampled_from(SURFACES), height_px=SIDES, width_px=SIDES, seed=st.integers(0, 2**32 - 1))
def test_a_surface_has_the_asked_size_texture_and_exposure(name: str, height_px: int, width_px: int, seed: int) -> None:
    image = surface(name, height_px, width_px, seed)
    assert image.shape == (height_px, width_px, 3) and image.dtype == np.uint8
    assert 20 < image.mean() < 235 and image.std() > 1
    assert (image == 255).mean() < 0.02 and (image == 0).mean() < 0.02


@pytest.mark.parametrize("name", SURFACES)
def test_a_seed_paints_one_surface_and_another_seed_another(name: str) -> None:
    assert np.array_equal(surface(name, seed=1), surface(name, seed=1))
    assert np.abs(surface(name, seed=1).astype(int) - surface(name, seed=2)).mean() > 1


def test_surfaces_differ_more_between_names_than_between_seeds() -> None:
    def look(image: np.ndarray) -> np.ndarray:
        """Mean colour and the strength of edges across and down: what tells the surfaces apart."""
        grey = image.mean(axis=2)
        return np.array([*image.mean(axis=(0, 1)) / 10, *(np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1))])

    looks = {name: np.array([look(surface(name, 96, 96, seed)) for seed in range(6)]) for name in SURFACES}
    for name, own in looks.items():
        spread = np.linalg.norm(own - own.mean(axis=0), axis=1).max()
        for other in set(SURFACES) - {name}:
            assert np.linalg.norm(own.mean(axis=0) - looks[other].mean(axis=0)) > spread, (name, other)


@settings(max_examples=60)
@given(
    name=st.sampled_from(DEFECTS),
    on=st.sampled_from(SURFACES),
    height_px=SIDES,
    width_px=SIDES,
    seed=st.integers(0, 2**32 - 1),
)
def test_a_defect_changes_every_pixel_of_its_mask_and_no_other(
    name: str, on: str, height_px: int, width_px: int, seed: int
) -> None:
    image = surface(on, height_px, width_px, seed)
    painted, mask = paint_defect(image, name, np.random.default_rng(seed))
    assert mask.shape == image.shape[:2] and set(np.unique(mask)) == {0, 255}
    changed = (painted != image).any(axis=2)
    assert np.array_equal(changed, mask > 0)


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("on", SURFACES)
def test_a_defect_stands_out_from_its_surface_and_stays_small(name: str, on: str) -> None:
    for seed in range(8):
        image = surface(on, 96, 96, seed)
        painted, mask = paint_defect(image, name, np.random.default_rng([seed, 1]))
        change = np.abs(painted.astype(int) - image).max(axis=2)[mask > 0]
        assert np.quantile(change, 0.9) >= 10
        assert (mask > 0).mean() < 0.35


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_deepened_until_a_rough_surface_cannot_hide_it(name: str) -> None:
    noise = np.random.default_rng(1).normal(128, 25, (96, 96, 1)).clip(0, 255)
    image = np.repeat(noise, 3, axis=2).astype(np.uint8)
    for seed in range(12):
        painted, mask = paint_defect(image, name, np.random.default_rng([seed, 2]))
        change = np.abs(painted.astype(int) - image).max(axis=2)[mask > 0]
        assert np.quantile(change, 0.95) >= 25


@pytest.mark.parametrize("name", DEFECTS)
def test_where_a_picture_cannot_get_brighter_or_darker_the_mask_marks_nothing(name: str) -> None:
    image = np.full((64, 64, 3), 255, np.uint8)
    image[:, 32:] = 0
    for seed in range(12):
        painted, mask = paint_defect(image, name, np.random.default_rng([seed, 3]))
        assert np.array_equal((painted != image).any(axis=2), mask > 0)


def test_unknown_names_and_pictures_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="'velvet'; expected one of brushed_metal"):
        surface("velvet")
    with pytest.raises(ValueError, match="'dent'; expected one of scratch"):
        paint_defect(surface(), "dent", np.random.default_rng(0))
    with pytest.raises(ValueError, match="8x64 px; expected at least 16x16"):
        surface(width_px=8)
    with pytest.raises(ValueError, match="8x64 px; expected at least 16x16"):
        paint_defect(surface()[:, :8], "pit", np.random.default_rng(0))


COUNTS = {"train": (5, 0), "test": (4, 6)}


def test_parts_are_a_sample_set_with_masks_of_the_defective_ones(tmp_path: Path) -> None:
    written = write_parts(tmp_path / "parts", 7, COUNTS, 48, 40)
    loaded = samples.load(tmp_path / "parts")
    assert loaded.samples == written.samples
    assert samples.split_bad(loaded)[1] == []
    assert loaded.counts() == {
        ("train", "good"): 5,
        ("test", "good"): 4,
        **{("test", kind): sum(sample.kind == kind for sample in loaded) for kind in sorted(DEFECTS)},
    }
    assert {sample.kind for sample in loaded.labelled(samples.DEFECT)} == set(DEFECTS)
    assert len({sample.group for sample in loaded}) == len(loaded) == 15
    assert {sample.source for sample in loaded} == {"painted"}
    for sample in loaded:
        assert loaded.read_image(sample).shape == (48, 40, 3)
        assert (sample.mask is not None) == (sample.label == samples.DEFECT)
        assert sample.mask is None or loaded.read_mask(sample).any()


def test_no_two_parts_are_equal(tmp_path: Path) -> None:
    written = write_parts(tmp_path / "parts", 7, COUNTS, 32, 32)
    assert len({written.read_image(sample).tobytes() for sample in written}) == len(written)


def test_a_part_is_painted_again_from_its_record_bit_for_bit(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", 7, COUNTS, 48, 40)
    loaded = samples.load(tmp_path / "parts")
    for sample in loaded:
        image, mask = repaint_part(sample)
        assert np.array_equal(image, loaded.read_image(sample))
        assert (mask is None) == (sample.mask is None)
        assert mask is None or np.array_equal(mask, loaded.read_mask(sample))


def test_a_part_does_not_depend_on_how_many_others_are_painted(tmp_path: Path) -> None:
    few = write_parts(tmp_path / "few", 7, {"test": (1, 1)}, 32, 32)
    many = write_parts(tmp_path / "many", 7, {"train": (3, 0), "test": (2, 2)}, 32, 32)
    images = {sample.group: many.read_image(sample) for sample in many}
    for sample in few:
        assert np.array_equal(few.read_image(sample), images[sample.group])


@pytest.mark.parametrize("counts", [{}, {"train": (0, 0)}, {"training": (1, 0)}, {"train": (-1, 2)}])
def test_counts_that_cannot_be_painted_leave_nothing_behind(tmp_path: Path, counts: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(DatasetError, match="expected"):
        write_parts(tmp_path / "parts", 7, counts, 32, 32)
    assert list(tmp_path.iterdir()) == []


def read_film(path: Path) -> list[np.ndarray]:
    film, frames = cv2.VideoCapture(str(path)), []
    while (read := film.read())[0]:
        frames.append(read[1])
    film.release()
    return frames


@pytest.mark.parametrize("name", ["film.avi", "film.mp4"])
def test_the_films_record_agrees_with_the_frames_read_back(tmp_path: Path, name: str) -> None:
    facts = render_film(tmp_path / name, 3, 5, 64, 48)
    assert json.loads((tmp_path / "film.json").read_text()) == facts
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "film.json"])
    frames = read_film(tmp_path / name)
    assert len(frames) == len(facts) and {frame.shape for frame in frames} == {(64, 48, 3)}
    assert [fact["frame"] for fact in facts] == list(range(len(facts)))
    assert [fact["part"] for fact in facts] == sorted(fact["part"] for fact in facts)
    for part in range(5):
        own = [fact for fact in facts if fact["part"] == part]
        assert sum(not fact["transition"] for fact in own) == 5
        assert sum(fact["transition"] for fact in own) <= 2
        assert len({(fact["label"], fact["kind"]) for fact in own}) == 1
    labels = {fact["part"]: fact["label"] for fact in facts}
    assert sum(labels.values()) == 2  # 0.4 of 5
    assert all((fact["kind"] == "good") == (fact["label"] == 0) for fact in facts)


def test_the_belt_shows_in_transition_frames_alone_and_no_two_frames_are_equal(tmp_path: Path) -> None:
    facts = render_film(tmp_path / "film.avi", 3, 4, 64, 48, surfaces=("ceramic",))
    frames = read_film(tmp_path / "film.avi")
    for fact, frame in zip(facts, frames, strict=True):
        dark_columns = (frame.mean(axis=(0, 2)) < 60).sum()  # belt; ceramic is bright
        assert (dark_columns > 0) == fact["transition"]
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def test_a_seed_films_one_line_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        render_film(tmp_path / f"{name}.avi", seed, 2, 32, 32)
    first, again, other = (read_film(tmp_path / f"{name}.avi") for name in "abc")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("film.gif", (2, 32, 32)), ("film.avi", (0, 32, 32)), ("film.avi", (2, 33, 32)), ("film.avi", (2, 32, 31))],
)
def test_a_film_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, name: str, arguments: tuple[int, int, int]
) -> None:
    with pytest.raises(OutputError, match="expected"):
        render_film(tmp_path / name, 1, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_reads_back_short_is_refused_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "film.avi").write_bytes(b"old")
    monkeypatch.setattr(surfaces, "_pass_by", lambda *_: iter([(np.zeros((32, 32, 3), np.uint8), False)] * 3))
    real = cv2.VideoWriter

    class Lossy:
        """A full disk: the writer drops frames and says nothing."""

        fourcc = staticmethod(real.fourcc)

        def __init__(self, *arguments: object) -> None:
            self.writer, self.frames = real(*arguments), 0

        def __getattr__(self, name: str) -> object:
            return getattr(self.writer, name)

        def write(self, frame: np.ndarray) -> None:
            self.frames += 1
            if self.frames != 2:
                self.writer.write(frame)

    monkeypatch.setattr(cv2, "VideoWriter", Lossy)
    with pytest.raises(OutputError, match="wrote 3 frames of 32x32 px and read back 2"):
        render_film(tmp_path / "film.avi", 1, 1, 32, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["film.avi"]
    assert (tmp_path / "film.avi").read_bytes() == b"old"


def test_a_film_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected a writable folder"):
        render_film(tmp_path / "file" / "film.avi", 1, 1, 32, 32)
