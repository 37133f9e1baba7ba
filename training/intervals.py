"""How sure a figure is: what it would have been on other pictures, and with other seeds.

Pictures of one group (one part, one commutator) fail together, so a group is what is drawn
again. Every form of one test split is measured on the same draws. Works on labels and logits
alone. Leaves out: the exact bound that a certificate rests on (a rate of 0 has a resampled
interval of 0 to 0, however few the pictures).

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile
intervals) and section 8.4 (strata); Owen 2007, "The pigeonhole bootstrap" (pictures crossed with seeds).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diagline.metrics import checked
from diagline.samples import DEFECT, GOOD

SHARE = 0.95
"""Of the resamples lies inside an interval."""
FIGURES = ("ap", "ap_trapezoid", "auroc", "escape", "overkill")
"""The names of `evaluate.Metrics` that have an interval."""
NEEDS = {name: (GOOD, DEFECT) for name in FIGURES} | {"escape": (DEFECT,), "overkill": (GOOD,)}
BLOCK = 2_000_000
"""Weights held at a time: blocks of resamples keep the memory flat."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """The middle `SHARE` of what the resamples gave."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over several seeds.

    Attributes:
        mean: over the seeds.
        std: sample standard deviation (n - 1); None for fewer than 2 seeds.
        low, high: of the mean's interval over pictures and seeds; None where it cannot be had.
        least, most: over the seeds.
        values: a seed each, in their order.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    least: float
    most: float
    values: tuple[float, ...]


def bootstrap(
    labels: ArrayLike, scores: ArrayLike, threshold: float, groups: Sequence[str], resamples: int, seed: int
) -> dict[str, Interval | None]:
    """The interval of each of `FIGURES`.

    The threshold stays where it is. None where fewer than two groups hold the pictures a figure
    is about: drawing one group again says nothing.

    Args:
        labels: (N,) int, 1 = defect.
        scores: (N,) float, REJECT at or above `threshold`.
        groups: N names; pictures of one name are drawn together.
        resamples: how often the groups are drawn; equal seeds draw equally.

    Raises:
        DatasetError: as `evaluate.measure`.
    """
    truth, values = checked(labels, scores)
    drawn = [figures(truth, values, threshold, weights) for weights in draws(truth, groups, resamples, seed)]
    return _intervals({name: np.concatenate([part[name] for part in drawn]) for name in FIGURES}, truth, groups)


def over_seeds(
    labels: ArrayLike, runs: Sequence[tuple[ArrayLike, float]], groups: Sequence[str], resamples: int, seed: int
) -> dict[str, Interval | None]:
    """The interval of each figure's mean over seeds: a resample draws groups and seeds anew, each with repeats.

    All seeds see the same test pictures, so the two are crossed: one draw of groups holds for all
    seeds of a resample. With one seed it is `bootstrap`.

    Args:
        runs: scores (N,) and threshold of each seed.

    Raises:
        DatasetError: as `evaluate.measure`.

    Source: Owen 2007, section 3.
    """
    truth = np.asarray(labels, np.int64).reshape(-1)
    checks = [(checked(truth, scores)[1], threshold) for scores, threshold in runs]
    rng = np.random.default_rng([seed, 1])
    means: dict[str, list[Floats]] = {name: [] for name in FIGURES}
    for weights in draws(truth, groups, resamples, seed):
        chosen = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), len(weights)) / len(runs)
        found = [figures(truth, values, threshold, weights) for values, threshold in checks]
        for name in FIGURES:
            means[name].append((np.stack([one[name] for one in found], 1) * chosen).sum(1))
    return _intervals({name: np.concatenate(parts) for name, parts in means.items()}, truth, groups)


def spread(values: Sequence[float], interval: Interval | None = None) -> Spread:
    """Mean, deviation and range of one figure, a value a seed."""
    found = tuple(float(value) for value in values)
    std = float(np.std(found, ddof=1)) if len(found) > 1 else None
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Spread(float(np.mean(found)), std, low, high, min(found), max(found), found)


def draws(labels: ArrayLike, groups: Sequence[str], resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each picture is drawn: blocks (b, N) int64 of `resamples` rows in all.

    Groups of good pictures alone, of defective ones alone, and mixed ones are drawn apart, as
    many of each as there are: no resample lacks a class.
    """
    truth = np.asarray(labels, np.int64).reshape(-1)
    _, home = np.unique(np.asarray(groups, str), return_inverse=True)
    count = int(home.max()) + 1
    holds = [np.bincount(home[truth == label], minlength=count) > 0 for label in (GOOD, DEFECT)]
    strata = [np.flatnonzero((holds[0] == good) & (holds[1] == bad)) for good, bad in ((1, 0), (0, 1), (1, 1))]
    rng = np.random.default_rng([seed, 0])
    block = max(1, BLOCK // len(truth))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        times = np.zeros((rows, count), np.int64)
        for members in strata:
            if len(members):
                times[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), rows)
        yield times[:, home]


def figures(labels: ArrayLike, scores: ArrayLike, threshold: float, weights: ArrayLike) -> dict[str, Floats]:
    """`FIGURES` of weighted pictures, (B,) float64 each; equal to scikit-learn's with `sample_weight`.

    Args:
        labels, scores: (N,).
        weights: (B, N), 0 or more; each row keeps some weight on both classes.
    """
    values, hits, false_calls = rejections(labels, scores, weights)
    defects, good = hits[:, -1:], false_calls[:, -1:]
    rejected = hits + false_calls
    precision = np.divide(hits, rejected, out=np.ones_like(hits), where=rejected > 0)
    before = np.concatenate([np.ones_like(defects), precision[:, :-1]], 1)
    rise = np.diff(hits / defects, axis=1, prepend=0)
    passed_good = good - (false_calls + np.concatenate([np.zeros_like(good), false_calls[:, :-1]], 1)) / 2
    above = int(np.sum(values >= threshold))
    escape = 1 - hits[:, above - 1] / defects[:, 0] if above else np.ones(len(hits))
    overkill = false_calls[:, above - 1] / good[:, 0] if above else np.zeros(len(hits))
    return {
        "ap": (rise * precision).sum(1),
        "ap_trapezoid": (rise * (precision + before) / 2).sum(1),
        "auroc": (rise * passed_good / good).sum(1),
        "escape": escape,
        "overkill": overkill,
    }


def rejections(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """What is rejected as the threshold falls from step to step; equal scores are one step.

    Args:
        labels, scores: (N,), 1 = defect, higher = more likely one.
        weights: (B, N): how often each picture counts.

    Returns:
        The scores of the steps, falling, (S,), and the rejected defects and good pictures at each, (B, S).
    """
    truth, values = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    drawn = np.asarray(weights, np.float64)[:, order]
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    hits = np.cumsum(drawn * (truth == DEFECT), 1)[:, last]
    false_calls = np.cumsum(drawn * (truth == GOOD), 1)[:, last]
    return values[last], hits, false_calls


def middle(resampled: ArrayLike) -> Interval:
    """The middle `SHARE` of what resamples gave, (B,)."""
    low, high = np.percentile(np.asarray(resampled), [50 * (1 - SHARE), 50 * (1 + SHARE)])
    return Interval(float(low), float(high))


def group_counts(labels: ArrayLike, groups: Sequence[str]) -> dict[int, int]:
    """Number of groups that hold good (key 0) and defective (key 1) pictures; a mixed group counts in both."""
    truth = np.asarray(labels, np.int64)
    names = np.asarray(groups, str)
    return {label: len(np.unique(names[truth == label])) for label in (GOOD, DEFECT)}


def _intervals(drawn: Mapping[str, Floats], truth: ArrayLike, groups: Sequence[str]) -> dict[str, Interval | None]:
    counts = group_counts(truth, groups)
    found: dict[str, Interval | None] = {}
    for name in FIGURES:
        enough = all(counts[label] > 1 for label in NEEDS[name])
        found[name] = middle(drawn[name]) if enough else None
    return found
