"""Pictures reach the loop with the record's label, in a plan that repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diagline.errors import DatasetError, TrainingError
from diagline.preprocess import InputContract, preprocess
from diagline.samples import DEFECT, GOOD, Sample, SampleSet, write_image
from training import data
from training.data import Batch, Pictures, ahead, check_labels, check_trainable

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


def test_batches_come_in_order_and_are_made_ready_ahead_of_the_step(
    paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Pictures([paint(20, 12)], CONTRACT, "both", 5)
    plan = pictures.plan(0, 4, balance=True)
    asked: set[int] = set()
    fourth, real = Event(), pictures.images

    def images(batch: Batch) -> NDArray[np.uint8]:
        asked.add(next(place for place, one in enumerate(plan) if one is batch))
        if len(asked) == data.AHEAD:
            fourth.set()
        assert fourth.wait(30), "the others wait for the step"
        return real(batch)

    monkeypatch.setattr(pictures, "images", images)
    found = list(ahead(pictures, plan))
    assert asked == set(range(len(plan)))
    for ready, batch in zip(found, plan, strict=True):
        assert ready.batch is batch and ready.error is None
        np.testing.assert_array_equal(ready.images.numpy(), real(batch))


def test_what_is_waited_for_is_counted_once_the_device_has_settled(
    paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = Pictures([paint(3, 3)], CONTRACT, "none", 5)
    settled, real = Event(), pictures.images

    def images(batch: Batch) -> NDArray[np.uint8]:
        assert settled.wait(30)  # not ready before the loop has asked the device
        return real(batch)

    monkeypatch.setattr(pictures, "images", images)
    assert len(list(ahead(pictures, pictures.plan(0, 2, False), settle=settled.set))) == 3


def masked(root: Path, masks: list[NDArray[np.uint8]]) -> SampleSet:
    """Defects with these masks."""
    samples = []
    for index, mask in enumerate(masks):
        write_image(root / f"{index}.png", np.zeros((*mask.shape, 3), np.uint8))
        write_image(root / f"{index}_mask.png", mask)
        samples.append(Sample(f"{index}.png", f"{index}_mask.png", DEFECT, "line", str(index), "train"))
    return SampleSet(root, tuple(samples))


def lines(width_px: int, count: int = 40) -> list[NDArray[np.uint8]]:
    """Masks 224x632, each with an upright or a lying bar."""
    made = []
    for index in range(count):
        rng, mask = np.random.default_rng([width_px, index]), np.zeros((632, 224), np.uint8)
        top, left = int(rng.integers(20, 500)), int(rng.integers(20, 120))
        height, width = (80, width_px) if index % 2 else (width_px, 80)
        mask[top : top + height, left : left + width] = 255
        made.append(mask)
    return made


def there_and_back(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What DIAG's script did to a mask: bicubic to 1024x1024 and back."""
    square = Image.fromarray(mask).resize((1024, 1024), Image.Resampling.BICUBIC)
    return np.asarray(square.resize(mask.shape[::-1], Image.Resampling.BICUBIC))


def lost(root: Path, masks: list[NDArray[np.uint8]], contract: InputContract) -> float:
    return float(1 - Pictures([masked(root, masks)], contract, "none", 0, labels="mask").labels.mean())


def test_the_papers_label_rule_loses_thin_defects_of_soft_masks_and_the_record_none(tmp_path: Path) -> None:
    paper = InputContract(256, 704, 1)
    shares = [lost(tmp_path / str(px), [there_and_back(mask) for mask in lines(px)], paper) for px in (3, 4, 5)]
    assert shares[0] > 0.6 and shares[1] < 0.4 and shares[2] <= 0.05
    assert lost(tmp_path / "hard", lines(3), paper) == 0, "two whole pixels side by side outlive being enlarged"
    dots = []
    for index in range(20):
        rng = np.random.default_rng(index)
        centre = int(rng.integers(10, 210)), int(rng.integers(10, 620))
        dots.append(cv2.circle(np.zeros((632, 224), np.uint8), centre, 1, 255, -1))
    assert lost(tmp_path / "dots", dots, paper) > 0.8
    assert lost(tmp_path / "same", dots, InputContract(224, 632, 1)) == 0, "nothing is resized"
    assert Pictures([masked(tmp_path / "record", dots[:3])], paper, "none", 0).labels.all()


def test_a_mask_that_touches_whole_pixels_keeps_its_label_and_good_stays_good(paint: Paint, tmp_path: Path) -> None:
    samples = paint(2, 2)
    assert Pictures([samples], InputContract(40, 44, 1), "none", 0, labels="mask").labels.tolist() == [0, 0, 1, 1]
    bare = SampleSet(samples.root, (replace(samples.samples[3], mask=None),))
    with pytest.raises(DatasetError, match=r'3\.png: a defect without a mask; .*set teacher\.labels = "record"'):
        Pictures([bare], CONTRACT, "none", 0, labels="mask")


def test_a_label_rule_that_leaves_no_defect_is_refused(tmp_path: Path) -> None:
    (dot := np.zeros((50, 50), np.uint8))[20, 20] = 255
    dots = masked(tmp_path / "dots", [dot, dot])
    with pytest.raises(TrainingError, match=r'all 2 defects lose their label .*set teacher\.labels = "record"'):
        check_labels(Pictures([dots], InputContract(47, 53, 1), "none", 0, labels="mask"))
    (bar := dot.copy())[10:20, 10:40] = 255
    pictures = Pictures([dots, masked(tmp_path / "bar", [bar])], InputContract(47, 53, 1), "none", 0, labels="mask")
    assert pictures.labels.tolist() == [GOOD, GOOD, DEFECT] and check_labels(pictures) == 2


def test_unequal_sizes_without_a_resize_rule_are_named(paint: Paint) -> None:
    samples = paint(2, 2)
    write_image(samples.root / "2.png", np.zeros((48, 50, 3), np.uint8))
    with pytest.raises(DatasetError, match=r'2\.png: 50x48 px; expected 48x48, as input\.resize = "none"; set'):
        Pictures([samples], InputContract(48, 48, 1, "none"), "none", 0)
