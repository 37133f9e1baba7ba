"""The certificate's figures are exact, its threshold never saw the test split, and too little evidence is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from diagline.config_train import CertifyConfig
from diagline.errors import DatasetError
from diagline.samples import Sample, SampleSet
from training import certify, certify_threshold
from training.certify import Evidence, Rate

TARGETS = CertifyConfig(0.05, 0.05, 0.95)


def evidence(bad: list[float], good: list[float], groups: list[str] | None = None) -> Evidence:
    outputs = np.array([*bad, *good], np.float64)
    labels = np.array([1] * len(bad) + [0] * len(good), np.int64)
    return Evidence(labels, outputs, tuple(groups or map(str, range(len(outputs)))))


def parts(defects: int, good: int, source: str = "real") -> SampleSet:
    found = [
        Sample(f"{label}{i}.png", None, label, "scratch" if label else "good", f"{label}{i}", "test", source)
        for label, count in ((1, defects), (0, good))
        for i in range(count)
    ]
    return SampleSet(Path("data"), tuple(found))


def test_the_sentence_of_110_defects_without_a_miss_is_exact():
    found = certify.certify(evidence([1.0] * 110, [0.0] * 100), 0.5, TARGETS)
    assert found.says == (
        "escape ≤ 2.7 % at 95 % from 110 real defects (0 missed); 189 more without a miss certify 1 %"
    )
    assert found.escape.bound == pytest.approx(1 - 0.05 ** (1 / 110))
    assert found.says_overkill == "overkill ≤ 3 % at 95 % from 100 real good parts (0 rejected)"
    assert found.reached and not found.shortfall


@given(st.integers(1, 400), st.data(), st.floats(0.5, 0.9999))
@settings(max_examples=60)
def test_the_bound_is_clopper_and_pearsons_one_sided(total, data, confidence):
    wrong = data.draw(st.integers(0, total))
    expected = binomtest(wrong, total, alternative="less").proportion_ci(confidence, method="exact").high
    assert certify.upper_bound(wrong, total, confidence) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 12), st.floats(0.001, 0.5), st.floats(0.5, 0.999))
@settings(max_examples=60)
def test_one_part_fewer_than_needed_would_not_do(wrong, target, confidence):
    count = certify.needed(wrong, target, confidence)
    assert certify.upper_bound(wrong, count, confidence) <= target
    assert count == wrong + 1 or certify.upper_bound(wrong, count - 1, confidence) > target
    assert certify.most_wrong(count, target, confidence) == wrong


def test_what_is_needed_for_the_next_target_counts_the_misses_so_far():
    found = certify.certify(evidence([1.0] * 107 + [0.0] * 3, [0.0] * 100), 0.5, CertifyConfig(0.1, 0.05, 0.95))
    more = certify.needed(3, 0.05, 0.95) - 110
    assert found.says.endswith(f"(3 missed); {more} more without a miss certify 5 %")
    assert certify.upper_bound(3, 110 + more, 0.95) <= 0.05 < certify.upper_bound(3, 109 + more, 0.95)


def test_below_the_last_round_target_nothing_more_is_promised():
    assert certify.next_target(0.001) is None
    assert certify.next_target(0.0101) == 0.01


@given(st.floats(1e-6, 1))
def test_a_printed_bound_is_never_below_the_bound(share):
    printed = float(certify.percent_up(share).removesuffix(" %")) / 100
    assert share <= printed * (1 + 1e-6) and printed <= 1.1 * share + 1e-12


def test_the_bound_fails_no_more_often_than_the_confidence_allows():
    """Exactly, over all outcomes: a true escape above the bound has at most 5 % of the probability."""
    for share in (0.01, 0.03, 0.049, 0.2):
        misses = np.arange(111)
        failed = certify.upper_bounds(misses, 110, 0.95) < share
        assert binom.pmf(misses, 110, share)[failed].sum() <= 0.05


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("source", ["memseg", "diag", "in_and_out", "painted"])
def test_a_synthetic_sample_is_no_evidence_whatever_its_label(label, source):
    held = parts(100, 100)
    fake = Sample("fake.png", None, label, "scratch" if label else "good", "f", "test", source)
    with pytest.raises(DatasetError, match=rf"fake\.png.*{source}"):
        certify.check_evidence(SampleSet(held.root, (*held.samples, fake)), TARGETS)
    certify.check_evidence(held, TARGETS)


@pytest.mark.parametrize(("defects", "good", "name"), [(58, 200, "escape"), (200, 58, "overkill")])
def test_too_few_parts_are_refused_with_what_is_needed_and_what_they_can_show(defects, good, name):
    with pytest.raises(DatasetError) as caught:
        certify.check_evidence(parts(defects, good), TARGETS)
    said = str(caught.value)
    assert "58 real" in said and "needs 59" in said and "58 show 5.1 %" in said and "add 1 more" in said
    offered = float(said.rpartition(f"--{name} ")[2])
    asked = {"escape": TARGETS.escape, "overkill": TARGETS.overkill} | {name: offered}
    certify.check_evidence(parts(defects, good), CertifyConfig(**asked, confidence=0.95))


def test_no_defects_or_no_good_parts_are_refused():
    with pytest.raises(DatasetError, match="no real defects"):
        certify.check_evidence(parts(0, 100), TARGETS)
    with pytest.raises(DatasetError, match="no real good parts"):
        certify.check_evidence(parts(100, 0), TARGETS)


def test_pictures_of_one_group_get_a_caution_and_a_bound_by_group():
    groups = [f"part {i // 10}" for i in range(60)] + [f"good {i}" for i in range(60)]
    found = certify.certify(evidence([1.0] * 57 + [0.0] * 3, [0.0] * 60, groups), 0.5, TARGETS)
    assert (found.escape.wrong, found.escape.groups, found.escape.wrong_groups) == (3, 6, 1)
    assert found.escape.group_bound == pytest.approx(certify.upper_bound(1, 6, 0.95))
    note = certify.note_on_groups(found)
    assert "not independent" in note and "60 defects stand in 6 groups, 1 with" in note and "good parts" not in note
    assert not certify.note_on_groups(certify.certify(evidence([1.0] * 60, [0.0] * 60), 0.5, TARGETS))


def test_a_part_at_the_threshold_is_rejected():
    found = certify.certify(evidence([0.5, 0.4], [0.5, 0.4]), 0.5, TARGETS)
    assert (found.escape.wrong, found.overkill.wrong) == (1, 1)


def test_a_missed_target_says_what_would_mend_it():
    found = certify.certify(evidence([1.0] * 109 + [0.0] * 2, [0.0] * 100), 0.5, TARGETS)
    assert not found.reached
    more = certify.needed(2, 0.05, 0.95) - 111
    assert f"5 % asked: {more} more defects without a miss would show it" in found.shortfall
    hopeless = certify.certify(evidence([1.0] * 90 + [0.0] * 20, [1.0] * 50 + [0.0] * 50), 0.5, TARGETS)
    assert hopeless.shortfall.count("the network is not good enough") == 2


def chosen(bad: list[float], good: list[float], **options) -> certify_threshold.Choice:
    given_ = {"test_defects": 110, "test_good": 200, "targets": TARGETS, "int8": False} | options
    return certify_threshold.choose([1] * len(bad) + [0] * len(good), [*bad, *good], **given_)


def test_the_threshold_stands_between_two_scores_nearer_to_the_class_that_is_better_known():
    found = chosen([4.0] * 10, [0.0] * 30)
    assert found.threshold == pytest.approx(1.0)
    assert "both targets" in found.rule and "0 of 30 good parts rejected, 0 of 10 defects missed" in found.rule


def test_one_odd_good_part_does_not_drag_the_threshold_above_the_defects():
    bad = list(np.linspace(4, 8, 40))
    good = [*np.linspace(-3, 0, 94), 9.0]
    assert 0 < chosen(bad, good).threshold < 4


def test_the_threshold_is_as_low_as_the_test_split_can_afford():
    good = list(np.linspace(-3, 3, 2000))
    for bad in ([], [2.0, 5.0]):
        found = chosen(bad, good, test_good=2000)
        rejected = sum(value >= found.threshold for value in good)
        afford = certify.most_wrong(2000, 0.05, 0.95)
        assert 0.8 * afford < rejected < afford and "90 % sure" in found.rule


def test_where_validation_is_small_and_has_no_defects_no_good_part_of_it_is_rejected():
    few = chosen([], [1.0, 2.0, 3.0], test_good=60)
    assert 3.0 < few.threshold < 3.1
    assert "90 % sure" not in few.rule and "0 of 3 good parts rejected" in few.rule


def test_the_overkill_target_is_shown_as_often_as_the_rule_says():
    """Spending the whole target on validation would show it about every second time."""
    rng = np.random.default_rng(5)
    shown = {"rule": 0, "spent": 0}
    afford = certify.most_wrong(400, TARGETS.overkill, TARGETS.confidence)
    for _ in range(100):
        val, test = rng.normal(0, 1, 400), rng.normal(0, 1, 400)
        thresholds = {"rule": chosen([], list(val), test_good=400).threshold, "spent": np.sort(val)[-afford]}
        for name, threshold in thresholds.items():
            shown[name] += int(np.sum(test >= threshold) <= afford)
    assert shown["rule"] >= 85 and shown["spent"] <= 65, shown


@given(
    st.lists(st.integers(-128, 127), min_size=1, max_size=30), st.lists(st.integers(-128, 127), min_size=1, max_size=30)
)
@settings(max_examples=80)
def test_an_int8_threshold_is_a_step_and_stands_on_a_score_only_where_there_is_no_room(bad, good):
    steps = certify_threshold.candidates(np.sort(np.array(good, float)), np.sort(np.array(bad, float)), int8=True)
    assert ((steps == np.round(steps)) & (steps >= -128) & (steps <= 127)).all()
    found = chosen([float(x) for x in bad], [float(x) for x in good], int8=True)
    assert found.threshold in steps
    values = np.unique([*bad, *good])
    between = found.threshold not in values or found.threshold - 1 in values or found.threshold == -128
    assert between or found.threshold == 127


def test_an_int8_threshold_takes_the_one_step_between_two_scores():
    assert chosen([0.0, 0.0], [-2.0], int8=True).threshold == -1
    assert chosen([-1.0, -1.0], [-2.0], int8=True).threshold == -1


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        certify.certify(evidence([float("nan")], [0.0]), 0.5, TARGETS)


def test_rates_hold_both_ways_of_counting():
    found = certify.certify(evidence([1.0, 0.0], [0.0, 1.0], ["a", "a", "b", "c"]), 0.5, TARGETS)
    assert found.escape == Rate(1, 2, certify.upper_bound(1, 2, 0.95), 1, 1, 1.0)
    assert found.overkill.wrong_groups == 1 and found.overkill.groups == 2
