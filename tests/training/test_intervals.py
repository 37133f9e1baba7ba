"""Intervals cover what they say, and groups and seeds count as what they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from diagline.errors import DatasetError
from training import evaluate, intervals
from training.intervals import FIGURES, Interval

Rows = list[tuple[int, float, int]]


def parts(count: int, seed: int, gap: float = 1.5) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels (a third defective), overlapping scores, and a group for each picture."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 3 == 0).astype(int)
    return labels, rng.normal(gap * labels, 1.0), [str(index) for index in range(count)]


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3).map(float), st.integers(0, 3)), min_size=2, max_size=25),
    st.floats(-4, 4),
)
def test_weighted_figures_equal_scikit_learns_ties_and_zero_weights_included(rows: Rows, threshold: float) -> None:
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    if not all(weights[labels == label].sum() for label in (0, 1)):
        return
    found = {name: float(value[0]) for name, value in intervals.figures(labels, scores, threshold, [weights]).items()}
    precisions, recalls, _ = precision_recall_curve(labels, scores, sample_weight=weights)
    assert found["ap"] == pytest.approx(average_precision_score(labels, scores, sample_weight=weights))
    assert found["ap_trapezoid"] == pytest.approx(auc(recalls, precisions))
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    repeated = evaluate.measure(np.repeat(labels, weights), np.repeat(scores, weights), threshold)
    assert (found["escape"], found["overkill"]) == (pytest.approx(repeated.escape), pytest.approx(repeated.overkill))


def test_undrawn_weights_give_the_figures_themselves() -> None:
    labels, scores, _ = parts(60, 0)
    found = intervals.figures(labels, scores, 0.7, np.ones((1, 60)))
    whole = evaluate.measure(labels, scores, 0.7)
    assert {name: found[name][0] for name in FIGURES} == pytest.approx({name: getattr(whole, name) for name in FIGURES})


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=2, max_size=20))
def test_no_draw_lacks_a_class_and_groups_stay_whole(rows: list[tuple[int, int]]) -> None:
    labels, home = (np.array(column) for column in zip(*rows, strict=True))
    if len(set(labels)) == 1:
        return
    weights = np.concatenate(list(intervals.draws(labels, [str(name) for name in home], 40, 0)))
    assert weights.shape == (40, len(labels))
    assert (weights[:, labels == 0].sum(1) > 0).all() and (weights[:, labels == 1].sum(1) > 0).all()
    for name in set(home):
        assert (np.ptp(weights[:, home == name], axis=1) == 0).all()


def test_draws_in_blocks_are_as_many_and_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, _, groups = parts(30, 0)
    monkeypatch.setattr(intervals, "BLOCK", 210)
    blocks = list(intervals.draws(labels, groups, 17, 0))
    assert [len(block) for block in blocks] == [7, 7, 3]
    assert (np.concatenate(blocks).sum(1) == 30).all()


def test_pictures_of_one_part_are_no_independent_evidence() -> None:
    labels, scores, groups = parts(90, 1)
    alone = intervals.bootstrap(labels, scores, 0.7, groups, 1000, 0)
    copies = intervals.bootstrap(*(np.tile(one, 4) for one in (labels, scores)), 0.7, groups * 4, 1000, 0)
    blind = intervals.bootstrap(
        *(np.tile(one, 4) for one in (labels, scores)), 0.7, [str(index) for index in range(360)], 1000, 0
    )
    for name in FIGURES:
        one, four, wrong = alone[name], copies[name], blind[name]
        assert one and four and wrong
        assert (four.low, four.high) == (pytest.approx(one.low), pytest.approx(one.high))  # four looks at one part
        assert wrong.high - wrong.low < 0.7 * (one.high - one.low)


def test_equal_seeds_draw_equally_and_others_do_not() -> None:
    labels, scores, groups = parts(60, 2)
    first, same, other = (intervals.bootstrap(labels, scores, 0.7, groups, 200, seed) for seed in (5, 5, 6))
    assert first == same != other


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    good, bad = np.random.default_rng(0).normal(size=(2, 400_000))
    truth = float(np.mean(bad + 1.5 > good))
    inside = 0
    for trial in range(200):
        labels, logits, groups = parts(120, trial + 10)
        interval = intervals.bootstrap(labels, logits, 0.7, groups, 200, trial)["auroc"]
        inside += interval is not None and interval.low <= truth <= interval.high
    assert 176 <= inside <= 198  # 95 % of 200 is 190; a percentile interval of 120 pictures falls a little short


def test_the_interval_of_a_rate_is_the_binomials_middle_95_per_cent() -> None:
    labels, scores = np.repeat([1, 1, 0], [60, 140, 100]), np.repeat([0.0, 1.0, 0.0], [60, 140, 100])
    found = intervals.bootstrap(labels, scores, 0.5, [str(index) for index in range(300)], 20_000, 0)["escape"]
    assert found is not None
    assert (found.low, found.high) == pytest.approx(binom.ppf([0.025, 0.975], 200, 0.3) / 200, abs=1 / 200 + 1e-9)


@pytest.mark.parametrize(
    ("groups", "missing"),
    [
        (["a", "a", "b", "c"], {"ap", "ap_trapezoid", "auroc", "escape"}),
        (["a", "b", "c", "c"], {"ap", "ap_trapezoid", "auroc", "overkill"}),
    ],
)
def test_one_group_alone_gives_no_interval(groups: list[str], missing: set[str]) -> None:
    found = intervals.bootstrap([1, 1, 0, 0], [0.9, 0.2, 0.5, 0.1], 0.3, groups, 100, 0)
    assert {name for name, interval in found.items() if interval is None} == missing


def test_what_cannot_be_measured_has_no_interval_either() -> None:
    with pytest.raises(DatasetError, match="both good and defective"):
        intervals.bootstrap([1, 1], [0.1, 0.2], 0.0, ["a", "b"], 100, 0)
    with pytest.raises(DatasetError, match="score 1 is nan"):
        intervals.over_seeds([1, 0], [([0.1, float("nan")], 0.0)], ["a", "b"], 100, 0)


def test_one_seed_has_the_pictures_interval_and_no_deviation() -> None:
    labels, scores, groups = parts(60, 3)
    assert intervals.over_seeds(labels, [(scores, 0.7)], groups, 300, 4) == intervals.bootstrap(
        labels, scores, 0.7, groups, 300, 4
    )
    only = intervals.spread([0.5])
    assert (only.mean, only.std, only.low, only.high, only.least, only.most) == (0.5, None, None, None, 0.5, 0.5)


def test_a_spread_is_that_of_a_sample() -> None:
    found = intervals.spread([0.2, 0.4, 0.9], Interval(0.1, 0.8))
    assert found.mean == pytest.approx(0.5)
    assert found.std == pytest.approx(np.sqrt((0.09 + 0.01 + 0.16) / 2))  # n - 1
    assert (found.low, found.high, found.least, found.most, found.values) == (0.1, 0.8, 0.2, 0.9, (0.2, 0.4, 0.9))


def test_seeds_that_disagree_widen_the_interval_of_their_mean() -> None:
    labels, scores, groups = parts(120, 4)
    noise = np.random.default_rng(1).normal(size=(5, 120))
    alike = intervals.over_seeds(labels, [(scores, 0.7)] * 5, groups, 500, 0)
    single = intervals.over_seeds(labels, [(scores, 0.7)], groups, 500, 0)["ap"]
    apart = intervals.over_seeds(labels, [(scores + k * noise[k], 0.7) for k in range(5)], groups, 500, 0)
    one, many = alike["ap"], apart["ap"]
    assert one and single and (one.low, one.high) == pytest.approx((single.low, single.high))  # equal runs are one run
    assert many and many.high - many.low > one.high - one.low


def test_the_mean_lies_inside_the_interval_of_the_mean() -> None:
    labels, scores, groups = parts(120, 5)
    runs = [(scores + np.random.default_rng(k).normal(0, 0.3, 120), 0.7) for k in range(5)]
    found = intervals.over_seeds(labels, runs, groups, 500, 0)
    for name in FIGURES:
        mean = np.mean([getattr(evaluate.measure(labels, logits, 0.7), name) for logits, _ in runs])
        interval = found[name]
        assert interval and interval.low < mean < interval.high
