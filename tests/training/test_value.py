"""What a verdict rests on: matched overkill, paired seeds, an interval wide enough for few of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diagline.config import Config, DataConfig
from diagline.errors import DatasetError
from diagline.samples import DEFECT, GOOD, SampleSet
from training import evaluate, value
from training.trials import Result, Trial

Paint = Callable[..., SampleSet]
SEEDS = 5


@pytest.fixture
def real(paint: Paint) -> SampleSet:
    """Train, val and test in one set."""
    parts = [paint(6, 3), paint(12, 10, "val"), paint(3, 3, "test")]
    moved = [
        replace(one, image=f"{part.root.name}/{one.image}", mask=None, group=f"{part.root.name}/{one.image}")
        for part in parts
        for one in part
    ]
    return SampleSet(parts[0].root.parent, tuple(moved))


@pytest.fixture
def painted(paint: Paint) -> list[SampleSet]:
    """Nine pictures: three of each prompt; one of them is of another kind and method."""
    made = paint(0, 9, seed=5)
    words = ("white marks", "copper scratches", "green dots")
    samples = tuple(
        replace(
            one,
            source="diag" if place else "in_and_out",
            kind="spot" if place else "crack",
            provenance={"prompt": words[place // 3]},
        )
        for place, one in enumerate(made)
    )
    return [SampleSet(made.root, samples)]


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Each trial is answered at once: "white marks" let all defects be caught, "copper scratches" spoil it,
    "green dots" do nothing."""
    seen: list[Trial] = []

    def answer(trials: list[Trial], *_: object, **__: object) -> tuple[dict[str, Result], dict[str, str]]:
        seen.extend(trials)
        found = {}
        for trial in trials:
            prompts = {(one.provenance or {}).get("prompt") for part in trial.train for one in part}
            labels = np.array([one.label for one in trial.measured], np.int64)
            caught = 5 + 4 * ("white marks" in prompts) - 4 * ("copper scratches" in prompts)
            logits = np.where(labels == GOOD, 0.0, -1.0) + np.random.default_rng(trial.config.seed).normal(0, 0.1, 22)
            logits[np.flatnonzero(labels == DEFECT)[:caught]] = 2
            figures = {name: getattr(evaluate.measure(labels, logits, 0), name) for name in ("ap", "escape")}
            found[trial.name] = Result(labels, logits, figures, 1.0)
        return found, {}

    monkeypatch.setattr(value.trials, "run", answer)
    return seen


def test_each_prompt_is_judged_by_what_leaving_it_out_does(
    config: Config, real: SampleSet, painted: list[SampleSet], answered: list[Trial]
) -> None:
    found = value.judge(config, real, painted, "prompt", SEEDS, 0.05)
    assert {row.name: (row.pictures, row.verdict) for row in found.rows} == {
        value.ALL: (9, "undecided"), "white marks": (3, "keep"), "copper scratches": (3, "drop"),
        "green dots": (3, "undecided"),
    }  # fmt: skip
    row = next(row for row in found.rows if row.name == "white marks")
    assert (row.escape_with, row.escape_without) == pytest.approx((0.5, 0.9))
    assert row.difference == pytest.approx(-0.4) and row.low <= -0.4 <= row.high < 0 < row.ap_difference
    assert (found.good, found.defects, len(found.seeds)) == (12, 10, SEEDS)


def test_arms_differ_in_the_group_alone_and_never_see_what_they_are_judged_on(
    config: Config, real: SampleSet, painted: list[SampleSet], answered: list[Trial]
) -> None:
    value.judge(config, real, painted, "prompt", SEEDS, 0.05)
    assert len(answered) == SEEDS * 5  # all, real alone, and three left out
    held = {one.image for one in real.split("val")}
    for trial in answered:
        assert not trial.val and trial.config.teacher.keep == "last", "nothing is chosen on the held-out pictures"
        assert {one.image for one in trial.measured} == held
        assert all(one.split == "train" for part in trial.train for one in part)
        assert sum(one.source == "real" for part in trial.train for one in part) == 9
    by_seed = {trial.config.seed: 0 for trial in answered}
    for trial in answered:
        by_seed[trial.config.seed] += 1
    assert set(by_seed.values()) == {5} and len(by_seed) == SEEDS, "every arm has the same seeds"
    sizes = sorted(sum(len(part) for part in trial.train) - 9 for trial in answered if trial.config.seed == config.seed)
    assert sizes == [0, 6, 6, 6, 9]


@pytest.mark.parametrize(("by", "names"), [("method", ["diag", "in_and_out"]), ("kind", ["crack", "spot"])])
def test_methods_and_kinds_are_judged_alike(
    by: str, names: list[str], config: Config, real: SampleSet, painted: list[SampleSet], answered: list[Trial]
) -> None:
    assert [row.name for row in value.judge(config, real, painted, by, 3, 0.05).rows] == [value.ALL, *names]


def test_zero_shot_trains_without_real_defects_and_needs_two_groups(
    config: Config, real: SampleSet, painted: list[SampleSet], answered: list[Trial]
) -> None:
    zero = replace(config, data=DataConfig(Path("data"), shots="zero"))
    found = value.judge(zero, real, painted, "prompt", 3, 0.05)
    assert value.ALL not in [row.name for row in found.rows] and len(found.rows) == 3 and found.notes
    assert not [one for trial in answered for part in trial.train for one in part if one.label and one.source == "real"]
    one = [painted[0].where(lambda sample: sample.provenance["prompt"] == "white marks")]  # type: ignore[index]
    with pytest.raises(DatasetError, match=r"'white marks' is the only one.*cannot be judged"):
        value.judge(zero, real, one, "prompt", 3, 0.05)


def test_the_only_group_is_judged_against_the_real_pictures_alone(
    config: Config, real: SampleSet, painted: list[SampleSet], answered: list[Trial]
) -> None:
    one = [painted[0].where(lambda sample: sample.provenance["prompt"] == "white marks")]  # type: ignore[index]
    rows = value.judge(config, real, one, "prompt", SEEDS, 0.05).rows
    assert len(answered) == 2 * SEEDS
    assert rows[0].difference == rows[1].difference < 0 and {row.verdict for row in rows} == {"keep"}


def test_fewer_than_three_seeds_decide_nothing(
    config: Config, real: SampleSet, painted: list[SampleSet], answered: list[Trial]
) -> None:
    found = value.judge(config, real, painted, "prompt", 2, 0.05)
    assert {row.verdict for row in found.rows} == {"undecided"} and "decide nothing" in found.notes[0]


def test_pictures_without_a_prompt_say_so(
    config: Config, real: SampleSet, painted: list[SampleSet], answered: list[Trial]
) -> None:
    bare = replace(painted[0], samples=tuple(replace(one, source="memseg", provenance={}) for one in painted[0]))
    with pytest.raises(DatasetError, match=r"none of its 9 pictures \(memseg\) was painted from a prompt.*--by method"):
        value.judge(config, real, [bare], "prompt", 3, 0.05)
    found = value.judge(config, real, [bare, painted[0]], "prompt", 3, 0.05)
    assert "9 pictures have no prompt" in found.notes[0] and found.rows[0].pictures == 18
    with pytest.raises(DatasetError, match=r"no synthetic training pictures.*diagline generate"):
        value.judge(config, real, [], "method", 3, 0.05)


def test_too_few_held_out_defects_are_refused_with_their_number(
    config: Config, real: SampleSet, painted: list[SampleSet], answered: list[Trial]
) -> None:
    bad = [one.image for one in real.split("val").labelled(DEFECT)]
    few = real.where(lambda one: one.image not in bad[4:])
    with pytest.raises(DatasetError, match=r"12 good pictures and 4 real defects.*at least 5"):
        value.judge(config, few, painted, "prompt", 3, 0.05)
    one_part = replace(real, samples=tuple(replace(one, group="a") if one.label else one for one in real))
    with pytest.raises(DatasetError, match="10 real defects of 1 parts"):
        value.judge(config, one_part, painted, "prompt", 3, 0.05)


@settings(max_examples=60)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.floats(0, 0.99),
)
def test_the_matched_threshold_is_the_lowest_that_keeps_within_the_overkill(
    good: list[int], bad: list[int], overkill: float
) -> None:
    """Against every threshold tried one by one; ties stand or fall together."""
    labels = np.array([GOOD] * len(good) + [DEFECT] * len(bad))
    scores = np.array(good + bad, float)
    allowed = [t for t in (-9, *np.unique(scores), 9) if np.mean(np.array(good) >= t) <= overkill + 1e-12]
    expected = min(float(np.mean(np.array(bad) < t)) for t in allowed)
    weights = np.stack([np.ones(len(labels)), 2 * np.ones(len(labels))])
    assert value.escape_at(labels, scores, overkill, weights) == pytest.approx([expected] * 2)


def test_weights_count_as_pictures_shown_more_often() -> None:
    labels, scores = np.array([0, 0, 0, 1, 1, 1]), np.array([0.1, 0.5, 0.9, 0.4, 0.6, 1.0])
    weights = np.array([[3, 1, 1, 2, 1, 1]])
    repeated = np.repeat(np.arange(6), weights[0])
    once = np.ones((1, len(repeated)))
    for overkill in (0.0, 0.2, 0.4):
        assert value.escape_at(labels, scores, overkill, weights) == pytest.approx(
            value.escape_at(labels[repeated], scores[repeated], overkill, once)
        )


def test_the_interval_is_the_wider_of_both_on_each_side() -> None:
    by_seed = (-0.1, -0.2, -0.05)
    t_low, t_high = stats.t.interval(0.95, 2, loc=np.mean(by_seed), scale=stats.sem(by_seed))
    assert value.interval(by_seed, np.linspace(-0.13, -0.1, 100)) == pytest.approx((t_low, t_high))
    wide = np.linspace(-1, 1, 2001)
    assert value.interval(by_seed, wide) == pytest.approx((-0.95, 0.95), abs=1e-3)
    assert value.interval((-0.1, -0.1, -0.1), [-0.1, -0.1]) == pytest.approx((-0.1, -0.1))


def test_no_effect_is_seldom_taken_for_one() -> None:
    """Equal networks, noisy seeds and few held-out defects: at most the promised share of false verdicts."""
    rng, wrong, tries = np.random.default_rng(0), 0, 60
    labels = np.array([GOOD] * 40 + [DEFECT] * 12)
    groups = [str(place) for place in range(52)]
    for _ in range(tries):
        hard = rng.normal(0, 1, 52)  # how hard a part is, for every network

        def arm(hard: np.ndarray = hard) -> list[np.ndarray]:
            return [labels * 1.5 + hard + rng.normal(0, 1, 52) for _ in range(5)]

        pairs = list(zip(arm(), arm(), strict=True))
        weights = next(value.intervals.draws(labels, groups, 200, 1))
        each = np.stack([value.escape_at(labels, a, 0.05, weights) - value.escape_at(labels, b, 0.05, weights)
                         for a, b in pairs], 1)  # fmt: skip
        drawn = rng.multinomial(5, [0.2] * 5, 200) / 5
        once = np.ones((1, 52))
        by_seed = [float((value.escape_at(labels, a, 0.05, once) - value.escape_at(labels, b, 0.05, once))[0])
                   for a, b in pairs]  # fmt: skip
        wrong += value.verdict(*value.interval(by_seed, (each * drawn).sum(1)), 5) != "undecided"
    assert wrong <= 0.05 * tries
