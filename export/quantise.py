"""Static int8 quantisation of the student's and the teacher's ONNX files.

QDQ, per channel, U8S8: symmetric int8 weights and uint8 activations, for ONNX Runtime computes
in uint8 on x86 and turns int8 maps into uint8 ones by itself only where one layer alone reads
them. A student's file takes the uint8 picture as it is and returns the int8 logit (and uint8
heat), with no float work at either end; a teacher's scales and normalises the picture, and makes
the logit of its pooled map, in float. Leaves out: where the ranges come from
(`export/calibrate.py`, `export/choose.py`), and TFLite (`export/to_tflite.py`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quant_pre_process, quantize_static
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

from diagline.errors import ExportError
from export import calibrate
from export.calibrate import Histogram
from export.to_onnx import HEAT, IMAGE, LOGIT, PIXELS

PIXEL_SCALE = np.float32(1 / 255)
PIXEL_ZERO_POINT = -128  # with this scale int8 = uint8 - 128 stands for exactly uint8 / 255
PIXEL_STEPS = {"quant_type": QuantType.QUInt8, "scale": np.array(PIXEL_SCALE), "zero_point": np.array(0, np.uint8)}

OPERATORS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Conv", "Add", "GlobalAveragePool", "MaxPool", "Flatten", "Gemm"}
)
TEACHER_OPERATORS = ["Conv", "Relu", "Add", "MaxPool"]  # the rest of it stays float


@dataclass(frozen=True, slots=True)
class Steps:
    """How integers stand for floats: real = scale * (output - zero_point)."""

    dtype: str
    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class QuantisedModel:
    """An int8 network; logit = scale * (output - zero_point).

    Attributes:
        heat: how its heat map is stored; None where it has none.
    """

    data: bytes
    scale: float
    zero_point: int
    heat: Steps | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A float network ready for the quantiser, and what its tensors held on the calibration pictures.

    Attributes:
        prepared: a student's graph from the float planes on; a teacher's whole.
        histograms: by the tensor's name.
    """

    prepared: bytes
    histograms: dict[str, Histogram]


def measure(fp32: bytes, calibration: Iterable[NDArray[np.uint8]]) -> Measured:
    """Run what `student_onnx` or `teacher_onnx` wrote on the calibration pictures.

    Args:
        fp32: the float file.
        calibration: `(height_px, width_px, channels)` uint8 network inputs, read once, one in memory at a time.

    Raises:
        ExportError: no calibration picture, one of another shape or dtype than the network's input,
            or a network that gives values which are not finite.
    """
    model = onnx.load_model_from_string(fp32)
    shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    pictures = checked(calibration, shape)
    feeds: Iterator[dict[str, NDArray[Any]]]
    if any(PIXELS in node.output for node in model.graph.node):
        model = _float_core(model)
        feeds = ({PIXELS: one.transpose(2, 0, 1)[None].astype(np.float32) * PIXEL_SCALE} for one in pictures)
    else:
        feeds = ({IMAGE: one[None]} for one in pictures)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, prepared = (Path(folder) / name for name in ("float.onnx", "prepared.onnx"))
        onnx.save(model, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # all its shapes are plain numbers
        return Measured(prepared.read_bytes(), calibrate.measure(prepared, feeds))


def checked(pictures: Iterable[NDArray[np.uint8]], shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """The calibration pictures, each seen to be what the network takes.

    Args:
        shape: `(height_px, width_px, channels)`.

    Raises:
        ExportError: there is none, or one of another shape or dtype. Says which.
    """
    number = 0
    for number, picture in enumerate(pictures, 1):
        if picture.shape != shape or picture.dtype != np.uint8:
            raise ExportError(
                f"calibration picture {number} is {picture.shape} {picture.dtype}; expected {shape} uint8 (rows, "
                f"columns, {'grey' if shape[2] == 1 else 'RGB'}); make it with diagline.preprocess.preprocess"
            )
        yield picture
    if not number:
        raise ExportError("no calibration picture; expected 1 or more; give training pictures to calibrate on")


def quantise_onnx(
    fp32: bytes, calibration: Iterable[NDArray[np.uint8]], method: str = "minmax", reduced: bool = False
) -> QuantisedModel:
    """`measure`, then `quantise`."""
    return quantise(measure(fp32, calibration), method, reduced)


def quantise(measured: Measured, method: str, reduced: bool) -> QuantisedModel:
    """An int8 file.

    Args:
        method: a name of `calibrate.METHODS`. The outputs keep their whole range with any: a logit
            that is cut off tells no longer how sure a verdict is.
        reduced: weights of 7 bits. A processor without VNNI adds pairs of products in 16 bits, and
            255 * 64 * 2 still fits.

    Returns:
        A file with `image` (1, H, W, C) uint8, `logit` (1, 1) int8 and, where the float file has
        it, `heat` (1, 1, rows, columns) uint8.

    Raises:
        ExportError: a student's graph that does not come out in integers.
    """
    student = PIXELS in measured.histograms
    ends = {
        name: histogram.ends("minmax" if name in (LOGIT, HEAT) else method)
        for name, histogram in measured.histograms.items()
    }
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, ranges, target = (Path(folder) / name for name in ("float.onnx", "ranges.json", "int8.onnx"))
        source.write_bytes(measured.prepared)
        pairs = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ends.items()}
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, pairs), ranges)
        quantize_static(
            source,
            target,
            None,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=None if student else TEACHER_OPERATORS,
            per_channel=True,
            reduce_range=reduced,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibration_cache_path=ranges,
            extra_options={"WeightSymmetric": True, "TensorQuantOverrides": {PIXELS: [PIXEL_STEPS]} if student else {}},
        )
        model = onnx.load(target)
    if student:
        _check_operators(model)
        _feed_integers(model)
        steps = {output.name: _return_integers(model, output) for output in model.graph.output}
    else:
        steps = {LOGIT: _round_logit(model, *ends[LOGIT])}
    _drop_unused(model.graph)
    onnx.checker.check_model(model, full_check=True)
    logit = steps[LOGIT]
    return QuantisedModel(model.SerializeToString(deterministic=True), logit.scale, logit.zero_point, steps.get(HEAT))


def _round_logit(model: onnx.ModelProto, low: float, high: float) -> Steps:
    """Return the float logit in the int8 steps that divide its range."""
    graph = model.graph
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255 or 1)
    zero_point = np.int8(round(-128 - low / float(scale)))
    maker = next(node for node in graph.node if LOGIT in node.output)
    maker.output[0] = "logit_float"
    for name, value in (("logit_scale", scale), ("logit_zero_point", zero_point)):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    graph.node.append(
        helper.make_node(
            "QuantizeLinear", ["logit_float", "logit_scale", "logit_zero_point"], [LOGIT], name="QuantizeLinear:logit"
        )
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    return Steps("int8", float(scale), int(zero_point))


def _feed_integers(model: onnx.ModelProto) -> None:
    """Take the uint8 picture in place of the float planes that the graph quantises itself."""
    graph = model.graph
    front = next(node for node in graph.node if PIXELS in node.input)
    scale, zero_point = (
        numpy_helper.to_array(item) for name in front.input[1:] for item in graph.initializer if item.name == name
    )
    if scale != PIXEL_SCALE or zero_point != 0:
        raise ExportError(
            f"int8 input has scale {scale} and zero point {zero_point}; expected 1/255 and 0; "
            f"this onnxruntime ignores the override: install the version in constraints.txt"
        )
    _, channels, height, width = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    reader = next(node for node in graph.node if front.output[0] in node.input)
    reader.input[0] = "planes"
    place = list(graph.node).index(front)
    graph.node.remove(front)
    graph.node.insert(
        place, helper.make_node("Transpose", [IMAGE], ["planes"], name="Transpose:planes", perm=[0, 3, 1, 2])
    )
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, (1, height, width, channels)))


def _return_integers(model: onnx.ModelProto, output: onnx.ValueInfoProto) -> Steps:
    """Drop an output's DequantizeLinear; how the integers before it are stored. The logit becomes int8."""
    graph = model.graph
    back = next(node for node in graph.node if output.name in node.output)
    maker = next(node for node in graph.node if back.input[0] in node.output)
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    graph.node.remove(back)
    maker.output[0] = output.name
    zero_point, kind = constants[back.input[2]], TensorProto.UINT8
    if output.name == LOGIT:
        zero_point, kind = (zero_point.astype(np.int16) - 128).astype(np.int8), TensorProto.INT8
        maker.input[2] = "logit_zero_point_int8"
        graph.initializer.append(numpy_helper.from_array(zero_point, maker.input[2]))
    output.type.tensor_type.elem_type = kind
    return Steps(zero_point.dtype.name, float(constants[back.input[1]].item()), int(zero_point))


def _check_operators(model: onnx.ModelProto) -> None:
    other = [
        f"{node.op_type} (node {index}, {node.name or node.output[0]})"
        for index, node in enumerate(model.graph.node)
        if node.op_type not in OPERATORS
    ]
    if other:
        raise ExportError(
            f"int8 ONNX holds {', '.join(other)}; expected only {', '.join(sorted(OPERATORS))}; build the student "
            f"of a StudentSpec's layers, or install the onnxruntime of constraints.txt, which quantises them"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice, which goes to the root logger, from the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _float_core(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph from the scaled float planes on, without the uint8 front."""
    graph = model.graph
    start = next(index for index, node in enumerate(graph.node) if PIXELS in node.output)
    _, height, width, channels = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    del graph.node[: start + 1]
    _drop_unused(graph)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, (1, channels, height, width)))
    return model


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Leave no constant that no node reads: engines warn of each."""
    used = {name for node in graph.node for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
