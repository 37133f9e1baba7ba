"""A way of showing a picture is a pure function, and keeps the picture a picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diagline.preprocess import InputContract
from diagline.samples import SampleSet
from training import views
from training.data import Batch, Pictures

Paint = Callable[..., SampleSet]
CONTRACT = InputContract(48, 48, 1)


def test_a_way_is_the_same_whenever_and_with_whomever_it_is_asked_for(paint: Paint) -> None:
    samples = paint(5, 3)
    first, again = (Pictures([samples], CONTRACT, "both", 9, views=6) for _ in range(2))
    whole = [first.images(Batch(np.arange(8), np.full(8, variant))) for variant in first.variants]
    for index in (6, 0, 3):
        for variant in reversed(first.variants):
            assert np.array_equal(again.images(Batch(np.array([index]), np.array([variant])))[0], whole[variant][index])
    other = Pictures([samples], CONTRACT, "both", 10, views=6)
    assert not np.array_equal(other.images(Batch(np.arange(8), np.full(8, 1))), whole[1])


def test_the_first_way_is_the_picture_as_it_is_and_the_others_differ(paint: Paint) -> None:
    pictures = Pictures([paint(2, 2)], CONTRACT, "both", 9, views=4)
    plain = Pictures([paint(2, 2)], CONTRACT, "none", 9)
    batches = [pictures.images(Batch(np.arange(4), np.full(4, variant))) for variant in range(4)]
    assert np.array_equal(batches[0], plain.images(Batch(np.arange(4), np.zeros(4, np.int64))))
    assert all(
        not np.array_equal(batches[0][index], batches[variant][index]) for variant in (1, 2, 3) for index in range(4)
    )


def test_only_light_and_place_change() -> None:
    for seed in range(40):
        shown = views.show(np.full((3, 20, 30), 120, np.uint8), np.random.default_rng(seed), (0, 1, 2, 3))
        assert shown.shape == (3, 20, 30) and shown.dtype == np.uint8 and len(np.unique(shown)) == 1
        assert abs(int(shown[0, 0, 0]) - 120) <= 256 * views.LIGHT + 2


def test_a_defect_in_the_middle_stays_in_the_picture() -> None:
    image = np.zeros((1, 48, 48), np.uint8)
    image[0, 20:28, 20:28] = 255
    for seed in range(100):
        shown = views.show(image, np.random.default_rng(seed), (0, 1, 2, 3))
        assert (shown > shown.min() + 100).sum() > 30
