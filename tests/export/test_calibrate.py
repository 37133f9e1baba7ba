"""What calibration promises: histograms that do not grow, ends that lose least, and the best file kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from small_students import lively, logits, pictures

from diagline.config import ExportConfig
from diagline.errors import ConfigError, ExportError
from diagline.preprocess import InputContract
from diagline.samples import Sample, SampleSet
from export import choose as room
from export.calibrate import BINS, METHODS, Histogram
from export.choose import Judges, choose
from export.quantise import PIXEL_SCALE, Measured, measure, quantise, quantise_onnx
from export.to_onnx import PIXELS, student_onnx
from export.to_tflite import student_tflite
from training.student import Student, fold
from training.student_spec import spec

CONTRACT = InputContract(48, 64, 3)
SMALL = spec("S10", CONTRACT)
Values = NDArray[np.float32]


def filled(*parts: Values) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def some(seed: int) -> list[Values]:
    """Faint values first, then louder ones on both sides of zero or on one."""
    rng = np.random.default_rng(seed)
    loudness = np.sort(10.0 ** rng.uniform(-9, 4, 6))
    made = [rng.normal(rng.uniform(-1, 1), 1, 500) * one for one in loudness]
    return [np.abs(one).astype(np.float32) if seed % 2 else one.astype(np.float32) for one in made]


@pytest.mark.parametrize("seed", range(10))
def test_a_histogram_filled_bit_by_bit_is_that_of_all_values_at_once_and_no_larger(seed: int) -> None:
    parts, histogram = some(seed), Histogram()
    for part in parts:
        histogram.add(part)
        assert histogram.counts.shape == (BINS,)  # from the first faint picture to the last loud one
    every = np.concatenate(parts).astype(np.float64)
    edges = histogram.start + histogram.width * np.arange(BINS + 1)
    expected = np.histogram(every, edges)[0]
    assert np.abs(histogram.counts - expected).sum() <= 2  # a value within a rounding of an edge
    assert histogram.counts.sum() == every.size
    assert (histogram.low, histogram.high) == (every.min(), every.max())
    assert np.ptp(every) > BINS * histogram.width / 8  # as fine as 8-bit steps need


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(6))
def test_ends_lie_within_what_was_seen_or_at_zero(method: str, seed: int) -> None:
    histogram = filled(*some(seed))
    low, high = histogram.ends(method)
    assert min(histogram.low, 0) <= low < high <= max(histogram.high, 0)
    if method == "minmax":
        assert (low, high) == (histogram.low, histogram.high)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.5])
def test_a_map_of_one_value_has_ends_there(method: str, value: float) -> None:
    assert filled(np.full(100, value, np.float32)).ends(method) == (value, value)


def with_outlier(outlier: float) -> Values:
    drawn = np.random.default_rng(1).normal(0, 1, 1_000_000)
    return np.append(drawn, [outlier]).astype(np.float32)


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
@pytest.mark.parametrize("side", [1, -1])
def test_every_method_but_minmax_leaves_a_lone_outlier_out(method: str, side: int) -> None:
    low, high = filled(with_outlier(side * 40.0)).ends(method)
    assert low > -20 and high < 20 and high - low > 5


@pytest.mark.parametrize("method", METHODS)
def test_no_method_cuts_what_is_spread_evenly(method: str) -> None:
    drawn = np.random.default_rng(2).uniform(-1, 3, 200_000).astype(np.float32)
    assert filled(drawn).ends(method) == pytest.approx((-1, 3), abs=0.1)


def squared_error(values: Values, ends: tuple[float, float]) -> float:
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    step = (high - low) / 255
    return float(np.square(values - (low + step * np.rint((values - low) / step).clip(0, 255))).mean())


@pytest.mark.parametrize("seed", range(8))
def test_mse_loses_no_more_than_any_other_method(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.laplace(size=500_000) * rng.uniform(0.1, 10)).astype(np.float32)
    values = np.maximum(values, 0) if seed % 2 else values
    histogram = filled(values)
    errors = {method: squared_error(values, histogram.ends(method)) for method in METHODS}
    assert errors["mse"] <= 1.02 * min(errors.values()), errors
    assert errors["mse"] < 0.9 * max(errors.values())


def test_the_crowd_at_zero_that_relu_makes_does_not_narrow_the_ends() -> None:
    values = np.maximum(np.random.default_rng(3).normal(-1, 1, 200_000), 0).astype(np.float32)
    histogram = filled(values)
    for method in METHODS:
        low, high = histogram.ends(method)
        assert low == 0 and high > 0.7 * histogram.high


@pytest.fixture(scope="module")
def student() -> Student:
    return fold(lively(SMALL))


@pytest.fixture(scope="module")
def measured(student: Student) -> Measured:
    return measure(student_onnx(student), pictures(SMALL, 24))


def test_least_and_greatest_are_those_that_onnx_runtimes_own_calibrator_finds(
    measured: Measured, tmp_path: Path
) -> None:
    (tmp_path / "float.onnx").write_bytes(measured.prepared)
    calibrator = create_calibrator(
        tmp_path / "float.onnx",
        augmented_model_path=str(tmp_path / "all.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
    )
    feeds = [{PIXELS: one.transpose(2, 0, 1)[None].astype(np.float32) * PIXEL_SCALE} for one in pictures(SMALL, 24)]

    class Reader:
        def get_next(self) -> Any:
            return feeds.pop() if feeds else None

    calibrator.collect_data(Reader())
    theirs = {
        name: tuple(float(end.item()) for end in data.range_value) for name, data in calibrator.compute_data().items()
    }
    assert {name: histogram.ends("minmax") for name, histogram in measured.histograms.items()} == theirs


def test_a_network_that_is_not_finite_is_refused_with_the_tensors_name(student: Student) -> None:
    model = onnx.load_model_from_string(student_onnx(student))
    weight = next(item for item in model.graph.initializer if item.name == "blocks.0.depthwise.conv.weight")
    weight.raw_data = np.full(weight.dims, np.nan, np.float32).tobytes()
    with pytest.raises(ExportError, match=r"^blocks\.0\.depthwise.* of the float network: values from nan to nan"):
        measure(model.SerializeToString(), pictures(SMALL, 2))


def test_the_outputs_keep_their_whole_range_with_any_method(measured: Measured) -> None:
    made = {method: quantise(measured, method, reduced=False) for method in METHODS}
    logit = measured.histograms["logit"]
    for one in made.values():
        assert one.scale == pytest.approx((logit.high - min(logit.low, 0)) / 255, rel=1e-5) or logit.low < 0
        assert (one.scale, one.zero_point, one.heat) == (
            made["minmax"].scale,
            made["minmax"].zero_point,
            made["minmax"].heat,
        )
    assert len({one.data for one in made.values()}) == len(METHODS)


def test_reduced_weights_cannot_saturate_sixteen_bits_and_full_ones_can(measured: Measured) -> None:
    largest = {}
    for reduced in (False, True):
        graph = onnx.load_model_from_string(quantise(measured, "minmax", reduced).data).graph
        constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        makers = {node.output[0]: node for node in graph.node}
        weights = [
            constants[makers[node.input[1]].input[0]].astype(int)
            for node in graph.node
            if node.op_type in ("Conv", "Gemm")
        ]
        largest[reduced] = max(int(np.abs(one).max()) for one in weights)
    assert 255 * largest[True] * 2 <= 2**15 - 1 < 255 * largest[False] * 2


@pytest.fixture(scope="module")
def judges(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Judges:
    root, shown = tmp_path_factory.mktemp("val"), pictures(SMALL, 24, seed=9)
    said = logits(student, shown)
    threshold = float(np.median(said))
    samples = []
    for index, (image, logit) in enumerate(zip(shown, said, strict=True)):
        cv2.imwrite(str(root / f"{index:03}.png"), image[:, :, ::-1])
        samples.append(Sample(f"{index:03}.png", None, int(logit >= threshold), "x", str(index), "val"))
    return Judges(student, threshold, (SampleSet(root, tuple(samples)),), CONTRACT)


def test_the_best_methods_file_is_kept_and_what_each_scored_is_told(
    student: Student, measured: Measured, judges: Judges
) -> None:
    best, how = choose(measured, ExportConfig(weights="full"), judges, "ONNX int8")
    scores = how["scores"]
    assert list(scores) == list(METHODS) and how["pictures"] == 24 and how["weights"] == "full"
    ranked = sorted(METHODS, key=lambda name: (scores[name]["flips"], scores[name]["mean_difference"]))
    assert how["calibration"] == ranked[0]
    assert best == quantise(measured, ranked[0], reduced=False)
    (val,) = judges.val
    shown = [np.ascontiguousarray(val.read_image(sample)[:, :, ::-1]) for sample in val]
    apart = best.scale * (plain_outputs(best.data, shown) - best.zero_point) - logits(student, shown)
    assert np.abs(apart).mean() == pytest.approx(scores[ranked[0]]["mean_difference"], rel=1e-4)


def plain_outputs(model: bytes, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.array([session.run(["logit"], {"image": image[None]})[0].item() for image in images], np.float64)


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        ([(2, 0.1), (1, 0.9), (1, 0.8), (3, 0.0)], "entropy"),
        ([(1, 0.5), (0, 0.4), (0, 0.4), (0, 0.4)], "percentile"),
        ([(0, 0.2), (0, 0.2), (0, 0.2), (0, 0.1)], "mse"),
        ([(0, 0.0)] * 4, "minmax"),
    ],
)
def test_flips_decide_then_the_mean_difference_then_the_order(
    measured: Measured, judges: Judges, scored: list[tuple[int, float]], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {
        name: {"flips": flips, "mean_difference": apart} for name, (flips, apart) in zip(METHODS, scored, strict=True)
    }
    monkeypatch.setattr(room, "_scores", lambda *_: scores)
    made, how = choose(measured, ExportConfig(weights="full"), judges, "ONNX int8")
    assert how["calibration"] == expected and made == quantise(measured, expected, reduced=False)


def test_a_method_that_is_asked_for_is_taken_unjudged(measured: Measured, judges: Judges) -> None:
    nobody = replace(judges, val=())
    for method in METHODS:
        made, how = choose(measured, ExportConfig(calibration=method, weights="reduced"), nobody, "ONNX int8")
        assert how == {"calibration": method, "weights": "reduced"}
        assert made == quantise(measured, method, reduced=True)


def test_without_validation_pictures_it_says_so_and_takes_minmax(
    measured: Measured, judges: Judges, capsys: pytest.CaptureFixture[str]
) -> None:
    _, how = choose(measured, ExportConfig(), replace(judges, val=()), "ONNX int8")
    assert how["calibration"] == "minmax" and how["pictures"] == 0
    assert "0 validation pictures" in capsys.readouterr().err


def test_another_process_makes_the_same_bytes(measured: Measured) -> None:
    program = (
        "import hashlib\n"
        "from small_students import InputContract, lively, pictures, spec\n"
        "from export.quantise import measure, quantise\n"
        "from export.to_onnx import student_onnx\n"
        "small = spec('S10', InputContract(48, 64, 3))\n"
        "measured = measure(student_onnx(lively(small)), pictures(small, 24))\n"
        "for method in ('minmax', 'mse'):\n"
        "    print(hashlib.sha256(quantise(measured, method, False).data).hexdigest())\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    mine = [hashlib.sha256(quantise(measured, method, False).data).hexdigest() for method in ("minmax", "mse")]
    assert said.stdout.split() == mine


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (np.zeros((64, 48), np.uint8), r"\(64, 48\) uint8"),
        (np.zeros((3, 64, 48), np.uint8), r"\(3, 64, 48\) uint8"),
        (np.zeros((64, 48, 1), np.uint8), r"\(64, 48, 1\) uint8"),
        (np.zeros((48, 64, 3), np.uint8), r"\(48, 64, 3\) uint8"),
        (np.zeros((64, 48, 3), np.float32), r"\(64, 48, 3\) float32"),
    ],
    ids=["grey", "planes", "one channel", "other size", "float"],
)
def test_a_calibration_picture_that_is_not_the_networks_input_is_refused_by_its_number(
    student: Student, picture: Any, found: str
) -> None:
    shown = [*pictures(SMALL, 2), picture]
    says = rf"^calibration picture 3 is {found}; expected \(64, 48, 3\) uint8 \(rows, columns, RGB\); make it"
    with pytest.raises(ExportError, match=says):
        quantise_onnx(student_onnx(student), shown)
    with pytest.raises(ExportError, match=says.replace("picture 3", "picture 1")):
        student_tflite(student, shown[::-1])
    if picture.ndim == 2:  # once through the converter, which takes seconds
        with pytest.raises(ExportError, match=says):
            student_tflite(student, shown)


@pytest.mark.parametrize(("key", "near"), [("calibration", "minmax"), ("weights", "reduced")])
def test_a_misspelt_choice_is_refused_with_the_nearest(key: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"export\.{key} = .* expected one of .* did you mean '{near}'"):
        ExportConfig(**{key: near[:-1]})
