"""The threshold to be certified, chosen on validation scores alone.

Of the test split only its size is known here. A threshold lies in one format's own numbers, chosen
on that format's outputs. Leaves out: carrying it into the other formats (`export/issue.py`), and
what it then shows (`certify.py`).

Source: how many of M new parts lie beyond the k-th highest of N is beta-binomial whatever their
distribution; after Wilks, "Statistical prediction with special reference to the problem of tolerance
limits", Annals of Mathematical Statistics 13 (1942).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import betabinom  # type: ignore[import-untyped]

from diagline.bundle import INT8_MAX, INT8_MIN
from diagline.config_train import CertifyConfig
from diagline.samples import DEFECT, GOOD
from training.certify import most_wrong, percent

SURE = 0.9  # how likely the test parts must be to show the overkill target before the threshold is lowered no more
FLOAT_NOISE = 1e-3  # share of a float output within which two engines may differ


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold and the rule that chose it, in words."""

    threshold: float
    rule: str


def choose(
    labels: ArrayLike, scores: ArrayLike, test_defects: int, test_good: int, targets: CertifyConfig, int8: bool
) -> Choice:
    """The lowest threshold that spends the overkill target as far as the test split can show it.

    The lowest threshold lets the fewest defects escape. For each candidate follows, from its false
    calls on validation, how likely as many good parts as the test split has are to show the target;
    the lowest one that is `SURE` is taken. To spend the whole target on validation would not do: with
    splits of equal size the test parts then fail to show it about every second time. Where validation
    is too small for any to be that sure, it is the threshold most likely to meet both targets,
    judged on its good and its defective parts; without the latter the one surest of the overkill.

    Args:
        labels: (N,) int of the real validation parts, good ones among them.
        scores: (N,) float raw outputs in their order.
        test_defects: defects that will be the evidence; their number alone, nothing of their scores.
        test_good: likewise.
        targets: what is to be certified.
        int8: thresholds are whole steps, -128 to 127.

    Raises:
        ValueError: no good part.
    """
    truth, values = np.asarray(labels), np.asarray(scores, np.float64)
    good, bad = np.sort(values[truth == GOOD]), np.sort(values[truth == DEFECT])
    if not good.size:
        raise ValueError("no good parts to choose a threshold on")
    places = candidates(good, bad, int8)
    false_calls = len(good) - np.searchsorted(good, places, "left")
    misses = np.searchsorted(bad, places, "left")
    overkill_shown = _chance(false_calls, len(good), test_good, targets.overkill, targets.confidence)
    escape_shown = _chance(misses, len(bad), test_defects, targets.escape, targets.confidence)
    if (sure := np.flatnonzero(overkill_shown >= SURE)).size:
        best, how = int(sure[0]), f"the lowest that is {percent(SURE)} sure to show the overkill target"
    else:
        shown = overkill_shown * escape_shown if bad.size else overkill_shown
        best = int(np.flatnonzero(shown >= shown.max() * (1 - 1e-9))[0])  # of equal ones the lowest
        how = f"the most likely to show {'both targets' if bad.size else 'the overkill target'}"
    seen = (
        f"{int(false_calls[best])} of {len(good)} good parts rejected, {int(misses[best])} of {len(bad)} defects missed"
    )
    return Choice(float(places[best]), f"{how} on the test split, judged on validation ({seen})")


def candidates(good: NDArray[np.float64], bad: NDArray[np.float64], int8: bool) -> NDArray[np.float64]:
    """Thresholds between every two neighbouring scores, below the lowest and above the highest; ascending.

    In a gap it stands nearer to the class of which more is known: the edge of a class of N parts is known to
    about 1/N, and the smaller class needs more room. Among the steps of int8 two neighbours leave no room
    between, and the threshold is the upper one.
    """
    values = np.unique(np.concatenate([good, bad]))
    share = len(bad) / (len(good) + len(bad)) if len(bad) else 0.5
    low, high = values[:-1], values[1:]
    between = low + (high - low) * share
    if int8:
        between = np.maximum(np.minimum(np.ceil(between), high - 1), low + 1)  # on a score only where they touch
        steps = np.concatenate([values[:1] - 1, between, values[-1:] + 1])
        return np.unique(np.clip(steps, INT8_MIN, INT8_MAX))
    room = FLOAT_NOISE * np.maximum(1.0, np.abs(values[[0, -1]]))
    between = np.where(between > low, between, high)  # two neighbouring floats leave no room either
    return np.concatenate([[values[0] - room[0]], between, [values[-1] + room[1]]])


def _chance(wrong: NDArray[np.int64], seen: int, parts: int, target: float, confidence: float) -> NDArray[np.float64]:
    """How likely `parts` new parts show the target where `wrong` of `seen` were judged wrongly, at the least; (N,)."""
    most = most_wrong(parts, target, confidence)
    return np.asarray(betabinom.cdf(most, parts, wrong + 1, np.maximum(seen - wrong, 1)), np.float64)
