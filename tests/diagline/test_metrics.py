"""The box measures by the definition of scikit-learn, without scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from diagline.errors import DatasetError
from diagline.metrics import average_precision, escape_and_overkill

DRAWN = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=2, max_size=40).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@given(DRAWN)
def test_average_precision_is_scikit_learns_also_with_equal_scores(pairs: list[tuple[int, int]]) -> None:
    labels, scores = zip(*pairs, strict=True)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_at_the_threshold_a_part_is_rejected() -> None:
    assert escape_and_overkill([1, 1, 1, 1, 0, 0], [0.9, 1.0, 2.0, 3.0, 1.0, 0.5], 1.0) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("labels", "scores", "said"),
    [
        ([0, 1], [0.1], "2 labels and 1 scores"),
        ([0, 0], [0.1, 0.2], "expected both"),
        ([0, 1], [0.1, np.nan], "score 1 is nan"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels: list[int], scores: list[float], said: str) -> None:
    for measure in (lambda: average_precision(labels, scores), lambda: escape_and_overkill(labels, scores, 0.0)):
        with pytest.raises(DatasetError, match=said):
            measure()
