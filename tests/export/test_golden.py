"""What the choice of golden pictures and the proof of an engine promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagline.bundle import Format
from diagline.samples import Sample, SampleSet
from edge_runtime.engines.engine import FakeEngine
from export.golden import LEAST_STEPS, SAFE_STEPS, GoldenSet, candidates, margins, select
from export.parity import Parity

INT8 = Format("model.int8.tflite", "int8", "int8", 0.1, 0, 5)
FLOAT = Format("model.fp32.onnx", "uint8", "float32", 1.0, 0, 0.5)
PICTURE = np.zeros((4, 4, 3), np.uint8)


def golden(*outputs: float) -> GoldenSet:
    count = len(outputs)
    return GoldenSet((), (PICTURE,) * count, (PICTURE,) * count, (0,) * count, {"tflite_int8": np.array(outputs)})


def test_margins_are_steps_to_the_nearest_flip_in_the_worst_format() -> None:
    known = Parity(
        (),
        np.array([2.5, -1.0, 0.4]),  # REJECT, PASS, PASS at 0.5
        {"int8": np.array([25.0, -10.0, 5.0]), "fp32": np.array([2.5, -1.0, 0.499])},
    )
    found = margins(known, {"int8": INT8, "fp32": FLOAT}, 0.5)
    assert found[:2].tolist() == [20.5, 14.5]  # 20 steps above the threshold, 15 below it
    assert found[2] < 0  # the int8 form rejects what torch passes
    assert margins(known, {"fp32": FLOAT}, 0.5)[2] == pytest.approx(0.5)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-20, 200)), min_size=1, max_size=60), st.integers(2, 20))
def test_selected_pictures_are_distinct_balanced_and_never_unsafe_without_need(
    drawn: list[tuple[int, float]], count: int
) -> None:
    labels = np.array([label for label, _ in drawn])
    margin = np.array([value for _, value in drawn])
    chosen = select(labels, margin, count)
    assert chosen == sorted(set(chosen)) and 0 < len(chosen) <= count
    for label in (0, 1):
        of_class = [index for index in chosen if labels[index] == label]
        there = int((labels == label).sum())
        assert bool(of_class) == (there > 0)
        if there and (margin[labels == label] >= SAFE_STEPS).sum() >= count:
            assert all(margin[index] >= SAFE_STEPS for index in of_class)
        if len(of_class) > 1:
            assert all(margin[index] >= LEAST_STEPS for index in of_class)


def test_the_hardest_safe_pictures_are_among_them() -> None:
    margin = np.array([1.0, 11.0, 90.0, 80.0, 12.0, 70.0, 60.0, 13.0, 50.0, 40.0])
    labels = np.array([0] * 5 + [1] * 5)
    chosen = select(labels, margin, 4)
    assert {1, 7 if 13.0 < 40.0 else 9} <= set(chosen)
    assert 0 not in chosen and len(chosen) == 4


def test_candidates_come_from_validation_and_from_training_only_where_it_is_too_small(tmp_path: Path) -> None:
    def some(name: str, good: int, bad: int) -> SampleSet:
        labels = [0] * good + [1] * bad
        return SampleSet(
            tmp_path / name,
            tuple(Sample(f"{name}{i}.png", None, label, "x", f"{name}{i}", "val") for i, label in enumerate(labels)),
        )

    val, train = some("val", 20, 1), some("train", 40, 40)
    found = candidates([val], [train], 8, seed=1)
    homes = {(home.root.name, sample.label) for home, sample in found}
    assert homes == {("val", 0), ("val", 1), ("train", 1)} or homes == {("val", 0), ("train", 1)}
    assert len(found) == len({sample.image for _, sample in found}) == 32
    assert found == candidates([val], [train], 8, seed=1)


def test_an_engine_is_verified_by_its_verdicts_and_keeps_its_own_outputs() -> None:
    engine = FakeEngine([40, -30])
    outputs = golden(42, -31).verify("tflite_int8", INT8, engine)
    assert outputs is not None and outputs.tolist() == [40, -30]


def test_rounding_at_the_threshold_is_no_fault_of_an_engine() -> None:
    assert golden(5).verify("tflite_int8", INT8, FakeEngine([4])) is not None


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([40, 30, 40, 30], id="verdict flips"),
        pytest.param([40, -30, 41, -30], id="not twice the same"),
        pytest.param([40, RuntimeError("dead"), 40, -30], id="throws"),
        pytest.param([40, float("nan"), 40, float("nan")], id="not a number"),
    ],
)
def test_an_engine_that_cannot_be_trusted_is_not_verified(answers: list[float | Exception]) -> None:
    assert golden(42, -31).verify("tflite_int8", INT8, FakeEngine(answers)) is None
