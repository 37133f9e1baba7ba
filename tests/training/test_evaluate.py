"""The figures mean what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diagline.errors import DatasetError
from diagline.preprocess import InputContract
from diagline.samples import Sample, SampleSet
from training import evaluate

Paint = Callable[..., SampleSet]
LABELS, SCORES = [0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9]


def test_metrics_equal_those_counted_by_hand() -> None:
    metrics = evaluate.measure(LABELS, SCORES, threshold=0.55)
    # by falling score: defect, good, defect, good -> precision 1/1, 1/2, 2/3, 2/4 at recall 1/2, 1/2, 1, 1
    assert metrics.ap == pytest.approx(1.0 * 0.5 + 2 / 3 * 0.5)
    assert metrics.ap_trapezoid == pytest.approx(0.5 * 1.0 + 0.5 * (1 / 2 + 2 / 3) / 2)
    assert metrics.auroc == pytest.approx(3 / 4)
    assert metrics.best_f1 == pytest.approx(0.8)
    assert (metrics.precision_at_best_f1, metrics.recall_at_best_f1) == (pytest.approx(2 / 3), 1.0)
    assert (metrics.precision, metrics.recall, metrics.escape, metrics.overkill) == (0.5, 0.5, 0.5, 0.5)
    assert (metrics.images, metrics.defects, metrics.threshold) == (4, 2, 0.55)


def test_a_score_at_the_threshold_is_rejected() -> None:
    assert evaluate.measure(LABELS, SCORES, threshold=0.9).recall == 0.5
    above = evaluate.measure(LABELS, SCORES, threshold=0.95)
    assert (above.precision, above.recall, above.escape, above.overkill) == (0.0, 0.0, 1.0, 0.0)


def test_threshold_stands_halfway_between_classes_that_separate() -> None:
    threshold = evaluate.choose_threshold([0, 1, 0, 1], [-3.0, 2.0, -1.0, 4.0])
    assert threshold == 0.5
    metrics = evaluate.measure([0, 1, 0, 1], [-3.0, 2.0, -1.0, 4.0], threshold)
    assert (metrics.precision, metrics.recall) == (1.0, 1.0)


def test_of_equal_f1_the_threshold_that_lets_fewer_defects_escape_wins() -> None:
    # F1 is 2/3 at 0.9 (1 hit, no false call, 1 miss) and at 0.2 (2 hits, 2 false calls)
    assert evaluate.choose_threshold([0, 1, 0, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.9]) == pytest.approx(0.15)


def test_threshold_that_rejects_everything_is_just_below_the_lowest_score() -> None:
    assert evaluate.choose_threshold([1, 1, 0], [0.1, 0.2, 0.3]) == pytest.approx(0.1 - 1e-3)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-30, 30, width=32)), min_size=2, max_size=40))
def test_the_chosen_threshold_reaches_the_best_f1(pairs: list[tuple[int, float]]) -> None:
    labels, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(set(labels)) == 1:
        with pytest.raises(DatasetError, match="both good and defective"):
            evaluate.choose_threshold(labels, scores)
        return
    metrics = evaluate.measure(labels, scores, evaluate.choose_threshold(labels, scores))
    f1 = 2 * metrics.precision * metrics.recall / (metrics.precision + metrics.recall)
    assert f1 == pytest.approx(metrics.best_f1)


def test_each_kind_stands_against_all_good_parts_and_its_defects_are_counted() -> None:
    kinds = ["good", "good", "crack", "crack", "hole"]
    found = evaluate.by_kind(kinds, [0, 0, 1, 1, 1], [0.1, 0.6, 0.5, 0.9, 0.05], threshold=0.55)
    assert list(found) == ["crack", "hole"]
    crack, hole = found["crack"], found["hole"]
    assert (crack.defects, crack.missed, crack.recall, crack.escape) == (2, 1, 0.5, 0.5)
    assert crack.ap == pytest.approx(1.0 * 0.5 + 2 / 3 * 0.5)  # as above: the hole is not there
    assert (hole.defects, hole.missed, hole.recall, hole.escape) == (1, 1, 0.0, 1.0)
    assert hole.ap == pytest.approx(1 / 3)


@given(st.lists(st.tuples(st.sampled_from(["good", "a", "b", "c"]), st.floats(-9, 9, width=16)), min_size=2))
def test_kinds_miss_together_what_the_whole_misses(pairs: list[tuple[str, float]]) -> None:
    kinds, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    labels = [int(kind != "good") for kind in kinds]
    if len(set(labels)) == 1:
        return
    whole, found = evaluate.measure(labels, scores, 0.5), evaluate.by_kind(kinds, labels, scores, 0.5)
    assert set(found) == set(kinds) - {"good"}
    assert sum(kind.defects for kind in found.values()) == whole.defects
    assert sum(kind.missed for kind in found.values()) == pytest.approx(whole.escape * whole.defects)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_class_cannot_be_measured(labels: list[int]) -> None:
    with pytest.raises(DatasetError, match=r"3 pictures, [03] of them defective"):
        evaluate.measure(labels, [0.1, 0.2, 0.3], 0.0)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DatasetError, match="score 2 is nan"):
        evaluate.measure([0, 1, 1], [0.1, 0.2, float("nan")], 0.0)
    with pytest.raises(DatasetError, match="3 labels and 2 scores"):
        evaluate.measure([0, 1, 1], [0.1, 0.2], 0.0)


def test_worst_cases_come_worst_first_and_only_wrong_ones() -> None:
    samples = [Sample(f"{i}.png", None, label, "k", str(i), "test") for i, label in enumerate([1, 1, 0, 0, 1, 0])]
    logits = [0.4, -2.0, 3.0, 0.6, 1.0, 0.1]
    misses, false_calls = evaluate.worst(samples, [1, 1, 0, 0, 1, 0], logits, 0.5, 5)
    assert [case.sample.image for case in misses] == ["1.png", "0.png"]
    assert [(case.index, case.logit) for case in false_calls] == [(2, 3.0), (3, 0.6)]
    assert len(evaluate.worst(samples, [1, 1, 0, 0, 1, 0], logits, 0.5, 1)[0]) == 1


def test_scores_follow_the_order_of_the_sets_and_not_the_batch(paint: Paint, tiny: nn.Module) -> None:
    sets = [paint(3, 2, "test"), paint(2, 2, "test", seed=1)]
    contract = InputContract(32, 32, 1)
    tiny.train()
    labels, together, samples = evaluate.scores(tiny, sets, contract, batch_size=4)
    _, alone, _ = evaluate.scores(tiny, sets, contract, batch_size=1)
    assert labels.tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 1]
    assert samples == [*sets[0], *sets[1]]
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)  # batch norm and dropout did not train
    assert tiny.training and isinstance(tiny[1], nn.BatchNorm2d) and tiny[1].training


def test_nothing_to_score_is_an_error(paint: Paint) -> None:
    with pytest.raises(DatasetError, match="no pictures to score"):
        evaluate.scores(nn.Linear(1, 1), [paint(0, 0)], InputContract(32, 32, 1), 4)


def test_predict_scales_pixels_to_one() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (images.mean((1, 2, 3)) * self.one)[:, None]

    batch = np.stack([np.full((1, 4, 4), value, np.uint8) for value in (0, 255)])
    assert evaluate.predict(Mean(), [batch]).tolist() == [0.0, 1.0]
