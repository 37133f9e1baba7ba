"""What the Keras twin and the TFLite file promise. TensorFlow takes seconds to load: few tests, one conversion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from small_students import lively, logits, pictures, random_spec, residual_spec

from diagline.errors import ExportError
from diagline.preprocess import InputContract
from export import to_tflite
from export.quantise import QuantisedModel
from export.to_keras import keras_twin
from export.to_tflite import OPERATORS, operators, student_tflite
from training.student import Student, fold
from training.student_spec import POOLS, spec

SMALL = spec("S10", InputContract(48, 64, 3))


@pytest.fixture(scope="module")
def student() -> Student:
    return fold(lively(SMALL))


@pytest.fixture(scope="module")
def int8(student: Student) -> QuantisedModel:
    return student_tflite(student, dim(24))


def dim(count: int) -> list[NDArray[np.uint8]]:
    """Calibration pictures that hold neither black nor white."""
    return [(image // 2 + 40).astype(np.uint8) for image in pictures(SMALL, count)]


def run(model: bytes, images: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (source,), target = interpreter.get_input_details(), interpreter.get_output_details()[0]
    assert source["dtype"] is np.int8 and target["dtype"] is np.int8 and target["shape"].tolist() == [1] * 4
    found = []
    for image in images:
        interpreter.set_tensor(source["index"], (image.astype(np.int16) - 128).astype(np.int8)[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(target["index"]).item())
    return np.array(found, np.float64)


@pytest.mark.parametrize("seed", range(8))
def test_the_keras_twin_gives_torchs_logits_at_any_size(seed: int) -> None:
    network = lively(random_spec(seed), seed)
    images = pictures(network.spec, 3, seed)
    twin = keras_twin(network)
    found = [twin(image[None].astype(np.float32) / 255)[0].numpy().item() for image in images]
    np.testing.assert_allclose(found, logits(network, images), atol=1e-4)


def test_tflite_holds_only_what_the_c_engine_knows(int8: QuantisedModel) -> None:
    blocks = ["DEPTHWISE_CONV_2D", "CONV_2D"] * len(SMALL.blocks)
    found = operators(int8.data)
    heads = found[1 + len(blocks) :]  # the heat map's convolution, wherever the converter puts it beside the pool
    assert found[: 1 + len(blocks)] == ["CONV_2D", *blocks]
    assert sorted(heads) == ["CONV_2D", "CONV_2D", "MEAN"]


@pytest.mark.parametrize("pool", POOLS)
def test_int8_agrees_with_residuals_grey_odd_and_either_pool(pool: str) -> None:
    network = lively(residual_spec(pool))
    images = pictures(network.spec, 24)
    made = student_tflite(network, images)
    assert set(operators(made.data)) <= OPERATORS
    expected = logits(network, images)
    apart = made.scale * (run(made.data, images) - made.zero_point) - expected
    assert np.abs(apart).mean() < np.ptp(expected) / 20


def test_int8_is_within_a_few_steps_of_most_random_students() -> None:
    medians = []
    for seed in range(6):
        network = lively(random_spec(seed), seed)
        images = pictures(network.spec, 16, seed)
        made = student_tflite(network, images)
        apart = run(made.data, images) - made.zero_point - logits(network, images) / made.scale
        medians.append(float(np.median(np.abs(apart))))
    print([f"{median:.1f}" for median in medians])
    assert sum(median < 5 for median in medians) >= 4 and max(medians) < 40


def test_tflite_stays_within_a_few_steps_of_torch(student: Student, int8: QuantisedModel) -> None:
    images = dim(24)
    apart = int8.scale * (run(int8.data, images) - int8.zero_point) - logits(student, images)
    assert np.abs(apart).max() < 8 * int8.scale
    assert np.abs(apart).mean() < 3 * int8.scale


def test_its_input_is_uint8_minus_128_though_no_picture_is_black_or_white(int8: QuantisedModel) -> None:
    from ai_edge_litert.interpreter import Interpreter

    (source,) = Interpreter(model_content=int8.data).get_input_details()
    assert source["quantization"] == (np.float32(1 / 255), -128)


def test_equal_students_give_equal_bytes_and_nothing_is_printed(
    student: Student, int8: QuantisedModel, capfd: pytest.CaptureFixture[str]
) -> None:
    images = dim(24)
    assert student_tflite(student, images) == int8
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(images, dim(24))  # two pixels are marked for the converter, in a copy


def test_an_operator_the_c_engine_lacks_is_refused_by_name_and_place(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_tflite, "OPERATORS", OPERATORS - {"MEAN"})
    where = r"MEAN \(operator \d+, \S+\)"
    with pytest.raises(ExportError, match=rf"^int8 TFLite holds {where}; expected only ADD, .*; build"):
        student_tflite(student, dim(2))


def test_no_calibration_picture_is_refused(student: Student) -> None:
    with pytest.raises(ExportError, match="no calibration picture"):
        student_tflite(student, [])


def test_what_reading_a_picture_raises_comes_through(student: Student) -> None:
    def broken() -> Iterator[NDArray[np.uint8]]:
        yield dim(1)[0]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        student_tflite(student, broken())
