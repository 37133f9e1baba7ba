"""The figures that the workstation and the edge box both measure, on plain arrays.

Needs numpy alone, so that a box measures by the same definition as training. Leaves out: curves, best
F1 and intervals (`training/evaluate.py`, `training/intervals.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diagline.errors import DatasetError
from diagline.samples import DEFECT, GOOD


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision by steps: the sum over thresholds of the gain in recall times the precision there.

    Args:
        labels: (N,) int, 1 = defect.
        scores: (N,) float, higher = more likely a defect; equal ones fall together.

    Raises:
        DatasetError: as `checked`.

    Source: the definition of scikit-learn's average_precision_score.
    """
    truth, values = checked(labels, scores)
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=-np.inf))  # the last of each run of equal scores
    hits = np.cumsum(truth[order])[ends]
    return float(np.sum(np.diff(hits, prepend=0) * (hits / (ends + 1))) / hits[-1])


def escape_and_overkill(labels: ArrayLike, scores: ArrayLike, threshold: float) -> tuple[float, float]:
    """Share of the defects below the threshold, and of the good parts at or above it.

    Raises:
        DatasetError: as `checked`.
    """
    truth, values = checked(labels, scores)
    rejected = values >= threshold
    return float(np.mean(~rejected[truth == DEFECT])), float(np.mean(rejected[truth == GOOD]))


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels (N,) int64 and scores (N,) float64 that can be measured.

    Raises:
        DatasetError: only one class is there, the lengths differ, or a score is not finite.
    """
    truth, values = np.asarray(labels, np.int64).reshape(-1), np.asarray(scores, np.float64).reshape(-1)
    if len(truth) != len(values):
        raise DatasetError(f"{len(truth)} labels and {len(values)} scores; expected one score a picture")
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DatasetError(
            f"score {index} is {values[index]}; expected finite logits; train or export the network again"
        )
    defects = int(np.sum(truth == DEFECT))
    if defects in (0, len(truth)):
        raise DatasetError(
            f"{len(truth)} pictures, {defects} of them defective; expected both good and defective ones to "
            f"measure on; add pictures of the missing class to this split"
        )
    return truth, values
