"""Static int8 quantisation of the student's ONNX file.

QDQ, per channel, U8S8: symmetric int8 weights and uint8 activations, for ONNX Runtime computes
in uint8 on x86 and turns int8 maps into uint8 ones by itself only where one layer alone reads
them. The file takes the uint8 picture as it is and returns the int8 logit (and uint8 heat),
with no float work at either end. Ranges are the least and the greatest value seen on the
calibration pictures, one picture in memory at a time. Leaves out: finer ranges, reduced range
for processors without VNNI, and TFLite (`export/to_tflite.py`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

from diagline.errors import ExportError
from export.to_onnx import HEAT, IMAGE, LOGIT, PIXELS

PIXEL_SCALE = np.float32(1 / 255)
PIXEL_ZERO_POINT = -128  # with this scale int8 = uint8 - 128 stands for exactly uint8 / 255


OPERATORS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Conv", "Add", "GlobalAveragePool", "MaxPool", "Flatten", "Gemm"}
)


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


def quantise_onnx(fp32: bytes, calibration: Iterable[NDArray[np.uint8]]) -> QuantisedModel:
    """Quantise what `student_onnx` wrote.

    Args:
        fp32: the float file.
        calibration: `(height_px, width_px, channels)` uint8 network inputs, read once.

    Returns:
        A file with `image` (1, H, W, C) uint8, `logit` (1, 1) int8 and, where the float file has
        it, `heat` (1, 1, rows, columns) uint8.

    Raises:
        ExportError: no calibration picture, or a graph that does not come out in integers.
    """
    reader = _Reader(calibration)
    if reader.next is None:
        raise ExportError("no calibration picture; expected 1 or more; give training pictures to calibrate on")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        core, prepared, target = (Path(folder) / name for name in ("core.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(_float_core(onnx.load_model_from_string(fp32)), core)
        quant_pre_process(core, prepared, skip_symbolic_shape=True)  # all its shapes are plain numbers
        _quantise(prepared, target, reader)
        model = onnx.load(target)
    _check_operators(model)
    _feed_integers(model)
    steps = {output.name: _return_integers(model, output) for output in model.graph.output}
    onnx.checker.check_model(model, full_check=True)
    logit = steps[LOGIT]
    return QuantisedModel(model.SerializeToString(deterministic=True), logit.scale, logit.zero_point, steps.get(HEAT))


def _quantise(source: Path, target: Path, reader: CalibrationDataReader) -> None:
    pixels = {
        "quant_type": QuantType.QUInt8,
        "scale": np.array(PIXEL_SCALE),
        "zero_point": np.array(0, np.uint8),
    }
    quantize_static(
        source,
        target,
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"WeightSymmetric": True, "TensorQuantOverrides": {PIXELS: [pixels]}},
    )


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands ONNX Runtime one calibration picture at a time.

    Attributes:
        next: the picture to be handed out next; None at the end.
    """

    def __init__(self, pictures: Iterable[NDArray[np.uint8]]) -> None:
        self._pictures = iter(pictures)
        self.next = next(self._pictures, None)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next picture as float planes (1, C, H, W) in 0..1."""
        picture = self.next
        if picture is None:
            return None
        self.next = next(self._pictures, None)
        return {PIXELS: picture.transpose(2, 0, 1)[None].astype(np.float32) * PIXEL_SCALE}


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
    other = sorted({node.op_type for node in model.graph.node} - OPERATORS)
    if other:
        raise ExportError(
            f"int8 ONNX holds {', '.join(other)}; expected only {', '.join(sorted(OPERATORS))}; "
            f"this onnxruntime quantises differently: install the version in constraints.txt"
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
    used = {name for node in graph.node for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(kept)
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, (1, channels, height, width)))
    return model
