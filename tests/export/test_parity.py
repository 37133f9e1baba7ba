"""What threshold_for and Parity promise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_students import lively, logits, pictures

from diagline.bundle import Format
from diagline.errors import DatasetError, ExportError
from diagline.preprocess import InputContract
from diagline.samples import Sample, SampleSet
from diagline.verdict import State, decide
from export.parity import Parity, Picture, compare, run_plainly, threshold_for
from export.to_onnx import student_onnx
from training.student_spec import spec

FLOAT = Format("model.fp32.onnx", "uint8", "float32", 1.0, 0, 0.0)
scales = st.floats(1e-4, 1.0)
zero_points = st.integers(-128, 127)


def int8(scale: float, zero_point: int, threshold: float = 0) -> Format:
    return Format("model.int8.tflite", "int8", "int8", float(np.float32(scale)), zero_point, threshold)


def quantised(fmt: Format, logit: float) -> int:
    return int(np.clip(round(logit / fmt.scale) + fmt.zero_point, -128, 127))


@given(scales, zero_points, st.floats(-50, 50), st.floats(0, 50))
def test_a_reject_one_step_above_the_threshold_stays_one(
    scale: float, zero_point: int, threshold: float, more: float
) -> None:
    fmt = int8(scale, zero_point)
    logit = threshold + fmt.scale * 1.0001 + more
    assert decide(quantised(fmt, logit), threshold_for(fmt, threshold)) is State.REJECT


@given(scales, zero_points, st.floats(-50, 50), st.floats(0, 50))
def test_a_pass_one_step_below_it_stays_one_where_int8_can_say_so(
    scale: float, zero_point: int, threshold: float, less: float
) -> None:
    fmt = int8(scale, zero_point)
    assume(fmt.to_logit(-127) <= threshold <= fmt.to_logit(127))
    logit = threshold - fmt.scale * 1.0001 - less
    assert decide(quantised(fmt, logit), threshold_for(fmt, threshold)) is State.PASS


@given(scales, zero_points, st.floats(-50, 50))
def test_the_int8_threshold_is_the_least_step_at_or_above(scale: float, zero_point: int, threshold: float) -> None:
    fmt = int8(scale, zero_point)
    at_or_above = [step for step in range(-128, 128) if fmt.to_logit(step) >= threshold]
    assert threshold_for(fmt, threshold) == min(at_or_above, default=127)


def test_a_saturated_output_is_a_reject_when_the_threshold_lies_beyond_int8() -> None:
    assert decide(127, threshold_for(int8(0.1, 0), 1000.0)) is State.REJECT
    assert decide(-128, threshold_for(int8(0.1, 0), -1000.0)) is State.REJECT


def test_a_float_threshold_stays_itself() -> None:
    assert threshold_for(FLOAT, -0.37) == -0.37


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_that_is_no_number_is_refused(threshold: float) -> None:
    with pytest.raises(ExportError, match="expected a finite logit"):
        threshold_for(FLOAT, threshold)


def test_flips_and_differences_are_found_in_each_formats_own_numbers() -> None:
    fmt = int8(0.5, 10, threshold=12)  # a logit of 1.0
    home = SampleSet(Path(), tuple(Sample(name, None, 0, "x", name, "test") for name in "abcd"))
    found = Parity(
        tuple((home, sample) for sample in home),
        np.array([0.9, 1.1, -3.0, 4.0]),
        {"tflite_int8": np.array([12.0, 11.0, 4.0, 17.0])},
    )
    assert found.flips("tflite_int8", fmt, 1.0) == ("a", "b")
    assert found.largest_difference("tflite_int8", fmt) == pytest.approx(0.6)


@pytest.fixture
def shown(tmp_path: Path) -> list[Picture]:
    made = spec("S10", InputContract(40, 32))
    samples = []
    for index, image in enumerate(pictures(made, 20)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image[:, :, ::-1])
        samples.append(Sample(f"{index}.png", None, index % 2, "x", str(index), "test"))
    home = SampleSet(tmp_path, tuple(samples))
    return [(home, sample) for sample in home]


def test_every_form_sees_the_same_pictures_in_order(shown: list[Picture], tmp_path: Path) -> None:
    made = spec("S10", InputContract(40, 32))
    network, images = lively(made), pictures(made, 20)
    path = tmp_path / "model.onnx"
    path.write_bytes(student_onnx(network))
    seen: list[NDArray[np.uint8]] = []

    def spy(image: NDArray[np.uint8]) -> float:
        seen.append(image)
        return 2.0

    runners = {"onnx_fp32": run_plainly(path, "onnx_fp32", FLOAT), "spy": spy}
    found = compare(network, runners, shown, InputContract(40, 32), "test")
    np.testing.assert_array_equal(seen, images)
    np.testing.assert_allclose(found.logits, logits(network, images), atol=1e-4)
    np.testing.assert_allclose(found.outputs["onnx_fp32"], found.logits, atol=1e-4)
    assert found.labels.tolist() == [0, 1] * 10 and found.pictures[3] == "3.png"
    assert found.outputs["spy"].tolist() == [2.0] * 20


def test_a_picture_that_cannot_be_read_is_named(shown: list[Picture], tmp_path: Path) -> None:
    (tmp_path / "5.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"5\.png"):
        compare(lively(spec("S10", InputContract(40, 32))), {}, shown, InputContract(40, 32), "test")
