"""An altered picture is one of the training pictures, changed at a place, and the same whenever it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from diagline.config_train import StudentConfig
from diagline.errors import ConfigError
from diagline.preprocess import InputContract
from diagline.samples import SampleSet
from training import altered
from training.data import Batch, Pictures

Paint = Callable[..., SampleSet]


def surface(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(1).normal(110, 12, shape).clip(0, 255).astype(np.uint8)


@given(
    some.integers(0, 2**32),
    some.sampled_from([1, 3]),
    some.tuples(some.integers(16, 90), some.integers(16, 90)),
)
def test_any_picture_can_be_altered_in_any_way(seed: int, channels: int, size: tuple[int, int]) -> None:
    image = surface((channels, *size))
    before = image.copy()
    shown = altered.show(image, np.random.default_rng(seed), (0, 1, 2, 3))
    assert shown.shape == image.shape and shown.dtype == np.uint8
    assert np.array_equal(image, before)
    assert np.array_equal(shown, altered.show(image, np.random.default_rng(seed), (0, 1, 2, 3)))


def test_an_alteration_leaves_most_of_a_picture_as_it_was_and_nearly_always_shows() -> None:
    image = surface((1, 96, 96))
    changed = [(altered.alter(image, np.random.default_rng(seed)) != image).mean() for seed in range(300)]
    assert np.mean(np.array(changed) > 0) > 0.9
    assert np.median(changed) < 0.3


def test_ways_are_altered_where_that_is_asked_and_the_first_is_the_picture_itself(paint: Paint) -> None:
    samples, contract = paint(3, 2), InputContract(48, 48, 1)
    plain = Pictures([samples], contract, "none", 9)
    moved, changed = (Pictures([samples], contract, "none", 9, views=4, shown=how) for how in ("moved", "altered"))

    def way(pictures: Pictures, variant: int) -> np.ndarray:
        return pictures.images(Batch(np.arange(5), np.full(5, variant)))

    assert np.array_equal(way(changed, 0), way(plain, 0))
    for variant in (1, 2, 3):
        assert not np.array_equal(way(changed, variant), way(moved, variant))
    assert not np.array_equal(way(changed, 1), way(changed, 2))


@pytest.mark.parametrize("wrong", [{"soft_share": 0.9}, {"views": 0}])
def test_labels_may_not_speak_of_altered_pictures(wrong: dict[str, float]) -> None:
    right = {"shown": "altered", "soft_share": 1.0, "views": 3}
    assert StudentConfig(**right).shown == "altered"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'student\.shown = "altered" with soft_share = .*; expected soft_share = 1'):
        replace(StudentConfig(**right), **wrong)  # type: ignore[arg-type]
