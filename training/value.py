"""Does synthetic data help? Held-out real escape with and without each method, prompt or kind.

Per seed, one teacher learns from the real and all synthetic pictures, one from the real alone,
and one from all but each group. They are compared on the validation split's real pictures, which
neither train nor choose an epoch here; the test split is not opened, as the verdict chooses. Every
network stands at the threshold at which it rejects at most `overkill` of the good parts, so that
none buys its escape with false calls. Leaves out: painting, and how one trial runs (`trials.py`).

A verdict must hold for other training seeds and for other parts, so its 95 % interval is the wider
one, on each side, of two: Student's t over the paired differences of the seeds, honest for a
handful of seeds but blind to which parts were held out; and the pigeonhole bootstrap, which draws
groups of parts and seeds anew, the threshold with them, but is too narrow for few seeds. Fewer than 3 seeds
decide nothing. Each interval stands for itself: of 20 groups without any effect one is expected
to be judged.

Source: Owen 2007, "The pigeonhole bootstrap"; Bouthillier et al. 2021, "Accounting for variance in
machine learning benchmarks".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats  # type: ignore[import-untyped]

from diagline.config import Config
from diagline.config_checks import one_of, within
from diagline.errors import DatasetError
from diagline.metrics import average_precision
from diagline.samples import DEFECT, GOOD, Sample, SampleSet
from generation.worker import Worker
from training import intervals, trials
from training.trials import Result, Trial

KEYS: dict[str, Callable[[Sample], str]] = {
    "method": lambda sample: sample.source,
    "prompt": lambda sample: str((sample.provenance or {}).get("prompt", "")),
    "kind": lambda sample: sample.kind,
}
ALL = "all synthetic"
FEWEST_DEFECTS = 5
FEWEST_SEEDS = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """One group of synthetic pictures; shares are 0 to 1.

    Attributes:
        name: the method, prompt or kind; `ALL` for all of them against none.
        pictures: that train.
        escape_with, escape_without: means over the seeds, at matched overkill.
        difference: with minus without; below 0 the group helps. low, high: its 95 % interval.
        ap_difference: likewise of AP, above 0 the group helps; means over the seeds.
        verdict: keep, drop or undecided.
        by_seed: the difference of each seed.
    """

    name: str
    pictures: int
    escape_with: float
    escape_without: float
    difference: float
    low: float
    high: float
    ap_difference: float
    verdict: str
    by_seed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What was found, and on how much.

    Attributes:
        rows: all of them first (where real defects can train alone), then a group each.
        good, defects: held-out real pictures.
    """

    by: str
    overkill: float
    seeds: tuple[int, ...]
    good: int
    defects: int
    rows: tuple[Judged, ...]
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def judge(
    config: Config, real: SampleSet, synthetic: Sequence[SampleSet], by: str, seeds: int, overkill: float
) -> Value:
    """Train what is missing and judge every group.

    Args:
        config: of the line; results go to `config.output / "value" / by`.
        real: the line's pictures; with `data.shots = "zero"` its defects are only measured on.
        synthetic: every set that may train; only split train does.
        by: "method", "prompt" or "kind".
        seeds: how many, from the config's on.
        overkill: largest share of good parts a network may reject.

    Raises:
        ConfigError: a value out of range.
        DatasetError: nothing synthetic, nothing to tell apart, or too few held-out defects.
        TrainingError: as `trials.run`.
    """
    one_of("by", by, tuple(KEYS))
    within("seeds", seeds, 1, 1000)
    within("overkill", overkill, 0.0, 0.999999)
    held = _held_out(real)
    groups, kept_in = _groups([one.split("train") for one in synthetic], by)
    mine = real.split("train") if config.data.shots == "full" else real.split("train").labelled(GOOD)
    has_defects = len(mine.labelled(DEFECT)) > 0
    if not has_defects and len(groups) == 1 and not kept_in:
        raise DatasetError(
            f"{by} {next(iter(groups))!r} is the only one, and no real defects train here (data.shots = "
            f'"{config.data.shots}"): without it there is no positive to learn from, so it cannot be judged; '
            f'paint another {by} beside it, or set data.shots = "full"'
        )
    chosen = tuple(config.seed + place for place in range(seeds))
    arms = {ALL: [one.split("train") for one in synthetic], **{name: _without(synthetic, name, by) for name in groups}}
    names = _file_names(arms)
    queue = []
    for seed in chosen:
        for name, painted in arms.items():
            train = (mine, *(one for one in painted if len(one)))
            if len(train) > 1:  # else it is what the real pictures alone teach
                queue.append(_trial(config, f"{names[name]}-seed{seed}", train, seed, held))
        if has_defects:
            queue.append(_trial(config, f"real-seed{seed}", (mine,), seed, held))
    folder = config.output / "value" / by
    results, _ = trials.run(queue, folder / "trials", Worker.here())
    if len(results) < len(queue):  # not the first process: the others' trials are its business
        return Value(by, overkill, chosen, 0, 0, (), ())
    full = [results[f"{names[ALL]}-seed{seed}"] for seed in chosen]
    alone = [results[f"real-seed{seed}"] for seed in chosen] if has_defects else []
    judged = [_compare(ALL, sum(groups.values()) + kept_in, full, alone, held, overkill, config)] if alone else []
    for name, pictures in groups.items():
        without = [results.get(f"{names[name]}-seed{seed}") for seed in chosen]
        other = [one for one in without if one is not None] or alone
        judged.append(_compare(name, pictures, full, other, held, overkill, config))
    notes = _notes(by, kept_in, seeds, has_defects)
    return Value(by, overkill, chosen, len(held.labelled(GOOD)), len(held.labelled(DEFECT)), tuple(judged), notes)


def escape_at(labels: ArrayLike, scores: ArrayLike, overkill: float, weights: ArrayLike) -> Floats:
    """Escape at the lowest threshold that rejects at most `overkill` of the good, (B,) float64.

    Args:
        labels, scores: (N,), 1 = defect, higher = more likely one.
        overkill: 0 to 1.
        weights: (B, N): how often each picture counts.
    """
    _, hits, false_calls = intervals.rejections(labels, scores, weights)
    allowed = (false_calls <= overkill * false_calls[:, -1:] + 1e-9).sum(1)
    caught = np.concatenate([np.zeros((len(hits), 1)), hits], 1)[np.arange(len(hits)), allowed]
    return np.asarray(1 - caught / hits[:, -1], np.float64)


def interval(by_seed: Sequence[float], resampled: ArrayLike) -> tuple[float, float]:
    """The wider, on each side, of Student's t over the seeds and the middle 95 % of the resamples."""
    between = intervals.middle(resampled)
    low, high = between.low, between.high
    spread = float(stats.sem(by_seed)) if len(by_seed) > 1 else 0.0
    if spread > 0:
        t_low, t_high = stats.t.interval(intervals.SHARE, len(by_seed) - 1, loc=float(np.mean(by_seed)), scale=spread)
        low, high = min(low, t_low), max(high, t_high)
    return float(low), float(high)


def verdict(low: float, high: float, seeds: int) -> str:
    """keep, drop or undecided, of the interval of (escape with - escape without)."""
    if seeds < FEWEST_SEEDS or low <= 0 <= high:
        return "undecided"
    return "keep" if high < 0 else "drop"


def _compare(
    name: str,
    pictures: int,
    full: Sequence[Result],
    other: Sequence[Result],
    held: SampleSet,
    overkill: float,
    config: Config,
) -> Judged:
    labels, once = full[0].labels, np.ones((1, len(held)))
    escapes = [[float(escape_at(labels, one.logits, overkill, once)[0]) for one in arm] for arm in (full, other)]
    aps = [np.mean([average_precision(labels, one.logits) for one in arm]) for arm in (full, other)]
    by_seed = tuple(a - b for a, b in zip(*escapes, strict=True))
    low, high = interval(by_seed, _resampled(labels, full, other, held, overkill, config))
    with_it, without = (float(np.mean(arm)) for arm in escapes)
    found = verdict(low, high, len(by_seed))
    ap = float(aps[0] - aps[1])
    return Judged(name, pictures, with_it, without, float(np.mean(by_seed)), low, high, ap, found, by_seed)


def _resampled(
    labels: NDArray[np.int64],
    full: Sequence[Result],
    other: Sequence[Result],
    held: SampleSet,
    overkill: float,
    config: Config,
) -> Floats:
    """The mean difference of each resample of groups of parts, crossed with one of the seeds."""
    rng = np.random.default_rng([config.seed, 2])
    found, groups = [], [sample.group for sample in held]
    for weights in intervals.draws(labels, groups, config.evaluate.bootstrap, config.seed):
        pairs = zip(full, other, strict=True)
        by_seed = np.stack(
            [
                escape_at(labels, a.logits, overkill, weights) - escape_at(labels, b.logits, overkill, weights)
                for a, b in pairs
            ],
            1,
        )
        drawn = rng.multinomial(len(full), np.full(len(full), 1 / len(full)), len(weights)) / len(full)
        found.append((by_seed * drawn).sum(1))
    return np.concatenate(found)


def _held_out(real: SampleSet) -> SampleSet:
    held = real.split("val")
    good, defects = len(held.labelled(GOOD)), held.labelled(DEFECT)
    parts = len({sample.group for sample in defects})
    if len(defects) < FEWEST_DEFECTS or parts < 2 or not good:
        raise DatasetError(
            f"{real.root}: the validation split holds {good} good pictures and {len(defects)} real defects of {parts} "
            f"parts; expected good ones and at least {FEWEST_DEFECTS} defects of 2 parts to judge on (the test split "
            f"chooses nothing); move some there, e.g. with a split.csv"
        )
    return held


def _groups(painted: Sequence[SampleSet], by: str) -> tuple[dict[str, int], int]:
    """Pictures of each group by its name, and how many have none; those train in every arm."""
    found: dict[str, int] = {}
    for sample in (sample for one in painted for sample in one):
        name = KEYS[by](sample)
        found[name] = found.get(name, 0) + 1
    kept_in = found.pop("", 0)
    where = ", ".join(str(one.root) for one in painted) or "no folder"
    if not found and kept_in:
        methods = ", ".join(sorted({sample.source for one in painted for sample in one}))
        raise DatasetError(
            f"{where}: none of its {kept_in} pictures ({methods}) was painted from a prompt; "
            f"expected some from diag or in_and_out; judge them --by method or --by kind"
        )
    if not found:
        raise DatasetError(f"{where}: no synthetic training pictures; paint some with: diagline generate CONFIG")
    return dict(sorted(found.items())), kept_in


def _without(synthetic: Sequence[SampleSet], name: str, by: str) -> list[SampleSet]:
    return [one.where(lambda sample: sample.split == "train" and KEYS[by](sample) != name) for one in synthetic]


def _file_names(arms: dict[str, list[SampleSet]]) -> dict[str, str]:
    words = {name: re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:40] for name in arms}
    return {name: "all" if name == ALL else f"without-{place}-{words[name]}" for place, name in enumerate(arms)}


def _trial(config: Config, name: str, train: tuple[SampleSet, ...], seed: int, held: SampleSet) -> Trial:
    # the last epoch: choosing one on the held-out pictures would judge with what it is judged by; the pooled head:
    # the other learns from good pictures alone
    learned = replace(config.teacher, head="pool", keep="last", synthetic=True)
    return Trial(name, replace(config, seed=seed, teacher=learned), train, (), held)


def _notes(by: str, kept_in: int, seeds: int, has_defects: bool) -> tuple[str, ...]:
    found = []
    if kept_in:
        found.append(f"{kept_in} pictures have no {by}; they train everywhere and are not judged.")
    if seeds < FEWEST_SEEDS:
        found.append(f"{seeds} seeds decide nothing; ask for at least {FEWEST_SEEDS}.")
    if not has_defects:
        found.append("No real defects train here, so all synthetic pictures together are not judged.")
    return tuple(found)
