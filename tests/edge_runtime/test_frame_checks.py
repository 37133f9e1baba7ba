"""A frame that a fault made is never judged, and one that a sensor made always is."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from diagline.errors import ConfigError
from edge_runtime.camera.checks import CHECKS, ChecksConfig, FrameChecks, Refusal, same_picture
from edge_runtime.camera.frames import Frame

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

Image = NDArray[np.uint8]
FRAME_NS = 40_000_000


def part(
    seed: int, height: int = 96, width: int = 128, level: float = 100, noise: float = 2, slope: float = 20
) -> Image:
    """A surface under a light from the side, as a sensor gives it: with noise that is never the same twice."""
    rng = np.random.default_rng(seed)
    light = level + slope * np.linspace(-0.5, 0.5, width)[None, :, None]
    return rng.normal(light, noise, (height, width, 3)).clip(0, 255).astype(np.uint8)


class Source:
    """Frames 40 ms apart, looked at and used at once."""

    def __init__(self, **config: object) -> None:
        self.checks = FrameChecks(ChecksConfig(**config))  # type: ignore[arg-type]
        self.number = 0

    def give(self, image: Image, use: bool = True) -> Refusal | None:
        frame = Frame(image.copy(), self.number, "", self.number * FRAME_NS)
        self.number += 1
        refusal = self.checks.look(frame)
        return self.checks.use(frame, frame.taken_ns) if refusal is None and use else refusal


seeds = st.integers(0, 2**32 - 1)
surfaces = st.fixed_dictionaries(
    {
        "height": st.integers(20, 200),
        "width": st.integers(16, 200),
        "level": st.floats(30, 220),
        "noise": st.floats(1, 25),
        "slope": st.floats(0, 60),
    }
)


@settings(max_examples=60)
@given(surfaces, seeds)
def test_what_a_sensor_gives_is_never_refused(surface: dict[str, float], seed: int) -> None:
    source = Source()
    assert [source.give(part(seed + index, **surface)) for index in range(8)] == [None] * 8  # type: ignore[arg-type]


def uniform(image: Image, colour: tuple[int, int, int]) -> Image:
    return np.full_like(image, colour)


def covered(image: Image, seed: int) -> Image:
    return np.random.default_rng(seed).normal(4, 2, image.shape).clip(0, 255).astype(np.uint8)


@settings(max_examples=60)
@given(surfaces, seeds, st.tuples(*[st.integers(0, 255)] * 3))
def test_no_light_and_nothing_to_see_are_refused(
    surface: dict[str, float], seed: int, colour: tuple[int, int, int]
) -> None:
    good = part(seed, **surface)  # type: ignore[arg-type]
    expected = {"black"} if max(colour) <= 12 else {"flat"}
    for image, checks in ((covered(good, seed), {"black"}), (uniform(good, colour), expected)):
        refusal = Source().give(image)
        assert refusal is not None and refusal.check in checks, refusal


@settings(max_examples=60)
@given(surfaces, seeds, st.data())
def test_a_cut_transfer_is_refused_whatever_fills_the_rest(
    surface: dict[str, float], seed: int, data: st.DataObject
) -> None:
    before, image = part(seed, **surface), part(seed + 1, **surface)  # type: ignore[arg-type]
    rows = data.draw(st.integers(16, len(image) - 1))
    source = Source()
    assert source.give(before) is None
    filling = data.draw(st.sampled_from(["a value", "a row", "the frame before"]))
    rest = {"a value": data.draw(st.integers(0, 255)), "a row": image[0], "the frame before": before[-rows:]}[filling]
    image[-rows:] = rest
    refusal = source.give(image)
    assert refusal is not None
    if refusal.check not in ("flat", "black"):  # which it may be, with hardly a row left
        assert refusal.check == "truncated"
        assert int(refusal.cause.split()[3]) - rows in (0, 1)  # the row above may be the same by chance


def cut_jpeg(image: Image) -> Image:
    """The upper half of the picture as it is, the rest grey, as libjpeg leaves it."""
    image = image.copy()
    image[len(image) // 2 :] = 128
    return image


def good_then(*faulty: Callable[[Image], Image]) -> Callable[[Source], Refusal | None]:
    """A good frame, then the faulty ones; the last one's refusal."""

    def play(source: Source) -> Refusal | None:
        assert source.give(part(1)) is None
        return [source.give(fault(part(2)), use=len(faulty) == 1) for fault in faulty][-1]

    return play


def again(image: Image) -> Image:
    return part(1)


def late(source: Source) -> Refusal | None:
    frame = Frame(part(1), 0, "", 0)
    return source.checks.look(frame) or source.checks.use(frame, 1_001_000_000)


FAULTS: dict[str, Callable[[Source], Refusal | None]] = {
    "size": good_then(lambda image: image[:, :-2]),
    "black": good_then(lambda image: image // 20),
    "flat": good_then(lambda image: uniform(image, (255, 255, 255))),
    "truncated": good_then(cut_jpeg),
    "frozen": good_then(*[again] * 6),
    "duplicated": good_then(again),
    "stale": late,
}


def test_every_check_has_its_fault_here() -> None:
    assert tuple(FAULTS) == CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_a_fault_is_refused_with_the_figure_and_the_limit_and_can_be_switched_off(check: str) -> None:
    refusal = FAULTS[check](Source())
    assert refusal is not None and refusal.check == check
    figure, mark, limit = refusal.cause.partition("; ")
    assert any(sign.isdigit() for sign in figure) or check == "duplicated", refusal.cause
    assert mark and limit.startswith(("limit", "expected")), refusal.cause
    assert "\n" not in refusal.cause
    assert FAULTS[check](Source(off=(check, "truncated"))) is None  # one value all over is one row over and over


def test_a_picture_may_come_twice_but_not_stay() -> None:
    source = Source(off=("duplicated",))
    found = [source.give(part(1)) for _ in range(9)]
    assert [refusal is not None for refusal in found] == [False] * 6 + [True] * 3
    assert source.give(part(2)) is None and source.give(part(2)) is None


def test_a_slow_source_is_frozen_by_the_clock() -> None:
    checks = FrameChecks(ChecksConfig())
    assert checks.look(Frame(part(1), 0, "", 0)) is None
    refusal = checks.look(Frame(part(1), 1, "", 1_500_000_000))
    assert refusal is not None and "1 times in 1.5 s" in refusal.cause


def test_one_changed_bit_is_another_picture() -> None:
    image = part(1)
    assert same_picture(image, image.copy())
    for row, column, channel in itertools.product((0, 5, 47, 95), (0, 7, 127), range(3)):
        changed = image.copy()
        changed[row, column, channel] ^= 1
        assert not same_picture(image, changed), (row, column, channel)


def test_the_first_good_frame_sets_the_size_and_a_bad_one_does_not() -> None:
    source = Source()
    refusal = source.give(uniform(part(1, 40, 50), (0, 0, 0)))
    assert refusal is not None and refusal.check == "black"
    assert source.give(part(1, 60, 70)) is None
    refusal = source.give(part(2, 40, 50))
    assert refusal is not None and "50x40; expected 70x60" in refusal.cause


def test_the_size_that_is_asked_for_holds_from_the_first_frame() -> None:
    refusal = Source(width_px=64, height_px=48).give(part(1, 60, 70))
    assert refusal is not None and "70x60; expected 64x48" in refusal.cause
    assert Source(width_px=70).give(part(1, 60, 70)) is None


@pytest.mark.parametrize(
    "image",
    [part(1)[:, :, 0], part(1)[:, :, :2], np.zeros((0, 9, 3), np.uint8), np.zeros(9, np.uint8), part(1) / 255],
    ids=["grey", "two channels", "empty", "a line", "float"],
)
@pytest.mark.parametrize("off", [(), CHECKS], ids=["on", "off"])
def test_what_is_no_colour_picture_is_always_refused(image: Image, off: tuple[str, ...]) -> None:
    refusal = Source(off=off).give(image)
    assert refusal is not None and refusal.check == "size"


def test_a_frame_from_before_the_trigger_is_stale() -> None:
    checks = FrameChecks(ChecksConfig())
    frame = Frame(part(1), 0, "", 10_000_000)
    refusal = checks.use(frame, 12_000_000, from_ns=15_000_000)
    assert refusal is not None and "5 ms before the trigger" in refusal.cause
    assert checks.use(frame, 12_000_000, from_ns=10_000_000) is None


def test_a_picture_that_is_compared_with_cannot_be_drawn_on() -> None:
    checks, frame = FrameChecks(ChecksConfig()), Frame(part(1), 0, "", 0)
    assert checks.look(frame) is None and frame.frame_bgr is not None
    with pytest.raises(ValueError, match="read-only"):
        frame.frame_bgr[0] = 0


@pytest.mark.parametrize("config", [{"off": ("blak",)}, {"contrast": 0}, {"black_level": 255}, {"max_age_ms": 0.0}])
def test_a_threshold_that_cannot_be_is_refused_by_its_key(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"camera\.checks\." + next(iter(config))):
        ChecksConfig(**config)  # type: ignore[arg-type]


def real(folder: str, pattern: str) -> Iterator[Path]:
    place = os.environ.get("DIAGLINE_REAL_DATA")
    if place is None or not (Path(place) / folder).is_dir():
        pytest.skip(f"DIAGLINE_REAL_DATA names no folder with {folder}/")
    found = sorted((Path(place) / folder).rglob(pattern))
    assert found
    return iter(found)


@pytest.mark.parametrize("folder", ["magnetic_tile", "kolektorsdd1"])
def test_no_real_part_is_refused_even_with_a_quarter_of_the_light(folder: str) -> None:
    source = Source(off=("size",))
    for path in real(folder, "*.jpg"):
        image = np.asarray(cv2.imread(str(path)), np.uint8)
        assert source.give(image) is None, path
        assert source.give(image // 4) is None, path


def test_no_frame_of_a_real_film_is_refused() -> None:
    for path in real("videos", "*.mp4"):
        film, source = cv2.VideoCapture(str(path)), Source()
        while film.grab():
            image = np.asarray(film.retrieve()[1], np.uint8)
            assert source.give(image) is None, (path, source.number)
        assert source.number > 0
