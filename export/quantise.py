"""Static int8 quantisation of the student's ONNX file.

QDQ, per channel, S8S8: symmetric int8 weights and int8 activations. The file takes the uint8
picture as it is and returns the int8 logit, with no float work at either end. (On x86 ONNX
Runtime turns inner int8 maps into uint8 ones; it could not turn an int8 input of the graph,
and would run the stem in floats.) Ranges are the least and the greatest value seen on the
calibration pictures, one picture in memory at a time. Leaves out: finer ranges, reduced
range for processors without VNNI, and TFLite (`export/to_tflite.py`).
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
from export.to_onnx import IMAGE, LOGIT, PIXELS

PIXEL_SCALE = np.float32(1 / 255)
PIXEL_ZERO_POINT = -128  # with this scale int8 = uint8 - 128 stands for exactly uint8 / 255


OPERATORS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Conv", "Add", "GlobalAveragePool", "MaxPool", "Flatten", "Gemm"}
)


@dataclass(frozen=True, slots=True)
class QuantisedModel:
    """An int8 network; logit = scale * (output - zero_point)."""

    data: bytes
    scale: float
    zero_point: int


def quantise_onnx(fp32: bytes, calibration: Iterable[NDArray[np.uint8]]) -> QuantisedModel:
    """Quantise what `student_onnx` wrote.

    Args:
        fp32: the float file.
        calibration: `(height_px, width_px, channels)` uint8 network inputs, read once.

    Returns:
        A file with `image` (1, H, W, C) uint8 and `logit` (1, 1) int8.

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
    scale, zero_point = _return_integers(model)
    onnx.checker.check_model(model, full_check=True)
    return QuantisedModel(model.SerializeToString(deterministic=True), scale, zero_point)


def _quantise(source: Path, target: Path, reader: CalibrationDataReader) -> None:
    pixels = {
        "quant_type": QuantType.QInt8,
        "scale": np.array(PIXEL_SCALE),
        "zero_point": np.array(PIXEL_ZERO_POINT, np.int8),
    }
    quantize_static(
        source,
        target,
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
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
    if scale != PIXEL_SCALE or zero_point != PIXEL_ZERO_POINT:
        raise ExportError(
            f"int8 input has scale {scale} and zero point {zero_point}; expected 1/255 and -128; "
            f"this onnxruntime ignores the override: install the version in constraints.txt"
        )
    _, channels, height, width = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    reader = next(node for node in graph.node if front.output[0] in node.input)
    reader.input[0], reader.input[2] = "planes", "picture_zero_point"
    place = list(graph.node).index(front)
    graph.node.remove(front)
    graph.node.insert(
        place, helper.make_node("Transpose", [IMAGE], ["planes"], name="Transpose:planes", perm=[0, 3, 1, 2])
    )
    old = next(item for item in graph.initializer if item.name == front.input[2])
    old.CopyFrom(numpy_helper.from_array(np.array(0, np.uint8), "picture_zero_point"))
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, (1, height, width, channels)))


def _return_integers(model: onnx.ModelProto) -> tuple[float, int]:
    """Drop the last DequantizeLinear; the scale and zero point it would have used."""
    graph = model.graph
    back = next(node for node in graph.node if LOGIT in node.output)
    maker = next(node for node in graph.node if back.input[0] in node.output)
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    graph.node.remove(back)
    maker.output[0] = LOGIT
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(LOGIT, TensorProto.INT8, (1, 1)))
    return float(constants[back.input[1]].item()), int(constants[back.input[2]].item())


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
