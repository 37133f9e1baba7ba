"""Pictures reach the loop with the record's label, in a plan that repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from diagline.errors import DatasetError, TrainingError
from diagline.preprocess import InputContract, preprocess
from diagline.samples import SampleSet
from training import data
from training.data import Batch, Pictures, check_trainable

Paint = Callable[..., SampleSet]
CONTRACT = InputContract(48, 48, 1)


def test_a_thin_scratch_keeps_its_label_however_small_the_input(paint: Paint) -> None:
    samples = paint(2, 3, scratch_px=1)
    assert samples.read_mask(samples.samples[-1]).any()
    pictures = Pictures([samples], InputContract(16, 16, 1), "none", 0)
    assert pictures.labels.tolist() == [0, 0, 1, 1, 1]
    assert [pictures[i][1] for i in range(5)] == [0, 0, 1, 1, 1]


def test_an_item_is_the_one_preprocessing_in_channels_first(paint: Paint) -> None:
    samples, contract = paint(1, 1), InputContract(40, 24, 3)
    image, label, index = Pictures([samples], contract, "none", 0)[1]
    expected = preprocess(samples.read_image(samples.samples[1]), contract)
    assert (label, index, tuple(image.shape)) == (1, 1, (3, 24, 40))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_pictures_too_many_for_memory_are_the_same(paint: Paint, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = paint(3, 3)
    kept = Pictures([samples], CONTRACT, "both", 5)
    monkeypatch.setattr(data, "CACHE_BYTES", 0)
    read_each_time = Pictures([samples], CONTRACT, "both", 5)
    for batch in kept.plan(0, 4, balance=True):
        np.testing.assert_array_equal(kept.images(batch), read_each_time.images(batch))


@pytest.mark.parametrize(("variant", "axes"), [(0, ()), (1, (2,)), (2, (1,)), (3, (1, 2))])
def test_variants_mirror_and_leave_the_original(paint: Paint, variant: int, axes: tuple[int, ...]) -> None:
    pictures = Pictures([paint(1, 1)], CONTRACT, "both", 0)
    upright = pictures[1][0].numpy()
    shown = pictures.images(Batch(np.array([1]), np.array([variant])))[0]
    np.testing.assert_array_equal(shown, np.flip(upright, axes))
    np.testing.assert_array_equal(pictures[1][0].numpy(), upright)
    assert variant == 0 or (shown != upright).any()


@pytest.mark.parametrize("balance", [False, True])
def test_a_plan_repeats_and_each_epoch_has_its_own(paint: Paint, balance: bool) -> None:
    def listed(seed: int, epoch: int) -> list[tuple[int, int]]:
        batches = Pictures([samples], CONTRACT, "both", seed).plan(epoch, 4, balance)
        return [pair for batch in batches for pair in zip(batch.indices, batch.variants, strict=True)]

    samples = paint(9, 4)
    assert listed(1, 0) == listed(1, 0)
    assert listed(1, 0) != listed(1, 1)
    assert listed(1, 0) != listed(2, 0)
    assert {variant for _, variant in listed(1, 0) + listed(1, 1)} == {0, 1, 2, 3}


def test_without_balance_each_picture_comes_once(paint: Paint) -> None:
    plan = Pictures([paint(9, 4)], CONTRACT, "none", 1).plan(3, 4, balance=False)
    assert sorted(np.concatenate([batch.indices for batch in plan])) == list(range(13))


def test_balance_draws_both_classes_equally_and_deals_each_out_evenly(paint: Paint) -> None:
    pictures = Pictures([paint(17, 3)], CONTRACT, "none", 1)
    drawn = Counter(int(i) for batch in pictures.plan(0, 4, balance=True) for i in batch.indices)
    assert sum(drawn[i] for i in range(17)) == sum(drawn[i] for i in range(17, 20)) == 10
    assert max(drawn[i] for i in range(17)) == 1
    assert {drawn[i] for i in range(17, 20)} == {3, 4}


@pytest.mark.parametrize("count", [1, 8, 9, 10])
def test_no_batch_of_one_which_batch_norm_cannot_train_on(paint: Paint, count: int) -> None:
    sizes = [len(batch.indices) for batch in Pictures([paint(count, 0)], CONTRACT, "none", 1).plan(0, 4, False)]
    assert sum(sizes) == count
    assert count == 1 or min(sizes) > 1


def test_a_network_is_not_trained_on_one_class(paint: Paint) -> None:
    with pytest.raises(TrainingError, match=r"4 training pictures, none defective.*diagline generate"):
        check_trainable([paint(4, 0)])
    with pytest.raises(TrainingError, match="3 training pictures, all defective"):
        check_trainable([paint(0, 3)])
    with pytest.raises(DatasetError, match="no training pictures"):
        check_trainable([paint(0, 0)])
    check_trainable([paint(4, 0), paint(0, 3, seed=1)])


def test_a_picture_that_cannot_be_read_is_named(paint: Paint) -> None:
    samples = paint(2, 2)
    (samples.root / "2.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"2\.png: not an image"):
        Pictures([samples], CONTRACT, "none", 0)
