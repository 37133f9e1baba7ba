"""The student as a fully int8 TFLite file, for LiteRT and for microcontrollers.

TensorFlow's own converter quantises the Keras twin: int8 per channel, ranges from the
calibration pictures, which it reads one at a time. Only operators that the C engine knows may
come out. Leaves out: the twin itself (`export/to_keras.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from diagline.errors import ExportError, require
from export.quantise import PIXEL_SCALE, PIXEL_ZERO_POINT, QuantisedModel, Steps, checked
from export.to_keras import keras_twin, silenced, tensorflow
from training.student import Student

OPERATORS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN"})


def student_tflite(student: Student, calibration: Iterable[NDArray[np.uint8]], heat: bool = True) -> QuantisedModel:
    """The student in int8: (1, H, W, C) int8 (uint8 - 128) to (1, 1, 1, 1) int8 logit.

    Args:
        calibration: `(height_px, width_px, channels)` uint8 network inputs, read once.
        heat: with a second output after the logit, (1, rows, columns, 1) int8.

    Raises:
        ExportError: no calibration picture, one of another shape or dtype than the network's input,
            an input scale that is not 1/255, or an operator outside `OPERATORS`.
        MissingExtraError: TensorFlow is not installed.
    """
    spec = student.spec
    rest = checked(calibration, (spec.height_px, spec.width_px, spec.channels))
    first = next(rest).copy()
    first[0, 0], first[0, 1] = 0, 255  # two pixels fix the input's range: 0..1, whatever was photographed

    def pictures() -> Iterator[list[NDArray[np.float32]]]:
        for picture in itertools.chain([first], rest):
            yield [picture[None].astype(np.float32) * PIXEL_SCALE]

    tf = tensorflow()
    twin = keras_twin(student, heat)
    converter = tf.lite.TFLiteConverter.from_keras_model(twin)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = pictures
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        with silenced():
            data = _logit_first(converter.convert())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"the student cannot become TFLite ({reason}); expected a StudentSpec's layers") from error
    _check_operators(data)
    return _quantised(data)


def operators(data: bytes) -> list[str]:
    """Names of a TFLite file's operators in the order they run."""
    schema = require("ai_edge_litert.schema_py_generated", "edge")
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = schema.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    used = (graph.Operators(index).OpcodeIndex() for index in range(graph.OperatorsLength()))
    return [names[model.OperatorCodes(index).BuiltinCode()] for index in used]


def _logit_first(data: bytes) -> bytes:
    """The file with its outputs in the twin's order, which the converter does not keep."""
    schema = require("ai_edge_litert.schema_py_generated", "edge")
    changed = bytearray(data)
    model = schema.Model.GetRootAsModel(changed, 0)
    named = model.SignatureDefs(0)
    outputs = sorted((named.Outputs(i).Name(), named.Outputs(i).TensorIndex()) for i in range(named.OutputsLength()))
    places = model.Subgraphs(0).OutputsAsNumpy()  # a view: what is written to it stands in the file
    places[:] = [place for _, place in outputs]  # output_0, output_1
    return bytes(changed)


def _check_operators(data: bytes) -> None:
    schema = require("ai_edge_litert.schema_py_generated", "edge")
    graph = schema.Model.GetRootAsModel(data, 0).Subgraphs(0)
    other = [
        f"{name} (operator {index}, {graph.Tensors(graph.Operators(index).Outputs(0)).Name().decode()})"
        for index, name in enumerate(operators(data))
        if name not in OPERATORS
    ]
    if other:
        raise ExportError(
            f"int8 TFLite holds {', '.join(other)}; expected only {', '.join(sorted(OPERATORS))}; build the student "
            f"of a StudentSpec's layers, or install the TensorFlow of constraints.txt, which converts them"
        )


def _quantised(data: bytes) -> QuantisedModel:
    """The file with its outputs' scales, once its input is what `uint8 - 128` means."""
    schema = require("ai_edge_litert.schema_py_generated", "edge")
    graph = schema.Model.GetRootAsModel(data, 0).Subgraphs(0)
    ends = [graph.Tensors(index) for index in (graph.Inputs(0), *graph.OutputsAsNumpy().tolist())]
    (in_scale, in_zero_point), logit, *heat = (
        (float(tensor.Quantization().Scale(0)), int(tensor.Quantization().ZeroPoint(0))) for tensor in ends
    )
    integers = all(tensor.Type() == schema.TensorType.INT8 for tensor in ends)
    if not integers or (np.float32(in_scale), in_zero_point) != (PIXEL_SCALE, PIXEL_ZERO_POINT):
        raise ExportError(
            f"TFLite input has scale {in_scale} and zero point {in_zero_point}; expected int8 with 1/255 and -128; "
            f"this TensorFlow quantises differently: install the version in constraints.txt"
        )
    return QuantisedModel(data, *logit, heat=Steps("int8", *heat[0]) if heat else None)
