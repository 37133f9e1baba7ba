"""A TFLite file as plain data: tensors and operators of its one subgraph.

Read with the schema that LiteRT brings, so no TensorFlow is needed. Leaves out: what the operators
mean (`read_graph.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline.errors import ExportError, MissingExtraError, require

_DTYPES: dict[int, Any] = {0: np.float32, 2: np.int32, 3: np.uint8, 4: np.int64, 7: np.int16, 9: np.int8}
ENDINGS = ("SOFTMAX", "LOGISTIC")
"""Operators that may end a network and are left off: they do not change which logit is the larger."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor.

    Attributes:
        dtype: None for one that no device of ours holds.
        scales: (channels,) or (1,) float32; empty where it is not quantised.
        data: its constant value in its shape; None for one that is computed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    scales: NDArray[np.float32]
    zero_point: int
    data: NDArray[Any] | None

    def __str__(self) -> str:
        dtype = "an unknown type" if self.dtype is None else np.dtype(self.dtype).name
        return f"{self.name!r} ({'x'.join(map(str, self.shape))} {dtype})"

    @property
    def scale(self) -> float:
        """The scale of a tensor that has one for all of it."""
        return float(self.scales[0])


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator: its name, tensor numbers (-1: none) and options as the schema names them."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TfliteFile:
    """A network in the order in which it is computed."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read(data: bytes) -> TfliteFile:
    """Read a TFLite file.

    Raises:
        ExportError: not a TFLite file, or one with several subgraphs.
        MissingExtraError: LiteRT is not installed.
    """
    try:
        return _plain(_model(data))
    except (ExportError, MissingExtraError):
        raise
    except Exception as error:  # whatever a broken offset leads to
        raise ExportError(f"not a whole TFLite file ({error}); copy or convert it again") from error


def _plain(model: Any) -> TfliteFile:
    if len(model.subgraphs) != 1:
        raise ExportError(f"{len(model.subgraphs)} subgraphs; expected one; convert the network without control flow")
    graph = model.subgraphs[0]
    names = {code: name for name, code in vars(_schema().BuiltinOperator).items() if isinstance(code, int)}
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return TfliteFile(
        tuple(_tensor(tensor, model.buffers[tensor.buffer].data) for tensor in graph.tensors),
        tuple(
            Operator(
                names.get(codes[one.opcodeIndex], f"operator {codes[one.opcodeIndex]}"),
                _numbers(one.inputs),
                _numbers(one.outputs),
                vars(one.builtinOptions) if one.builtinOptions is not None else {},
            )
            for one in graph.operators
        ),
        _numbers(graph.inputs),
        _numbers(graph.outputs),
    )


def without_ending(data: bytes) -> bytes:
    """The same file without a last SOFTMAX or LOGISTIC, whose input becomes the output; as it is without one.

    Raises:
        ExportError, MissingExtraError: as `read`.
    """
    found = read(data)
    last = found.operators[-1]
    if last.name not in ENDINGS or last.outputs[0] not in found.outputs:
        return data
    model = _model(data)
    graph = model.subgraphs[0]
    graph.operators.pop()
    graph.outputs = [last.inputs[0] if number == last.outputs[0] else number for number in found.outputs]
    model.signatureDefs = None  # they name the tensor that is gone
    builder = require("flatbuffers", "firmware").Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _schema() -> Any:
    return require("ai_edge_litert.schema_py_generated", "firmware")


def _model(data: bytes) -> Any:
    schema = _schema()
    if data[4:8] != b"TFL3":
        raise ExportError("not a TFLite file: it does not say TFL3; expected an int8 .tflite, as in a bundle")
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))


def _tensor(tensor: Any, data: NDArray[np.uint8] | None) -> Tensor:
    shape = tuple(int(side) for side in tensor.shape) if tensor.shape is not None else ()
    dtype = _DTYPES.get(tensor.type)
    quantisation = tensor.quantization
    scales = quantisation.scale if quantisation is not None and quantisation.scale is not None else ()
    zeros = quantisation.zeroPoint if quantisation is not None and quantisation.zeroPoint is not None else (0,)
    name = tensor.name.decode(errors="replace")
    value = None
    if data is not None and len(data) and dtype is not None:
        value = np.frombuffer(bytes(data), dtype)
        if value.size != np.prod(shape, dtype=int):
            raise ExportError(f"tensor {name!r} holds {value.size} numbers; expected {shape}; convert it again")
        value = value.reshape(shape)
    return Tensor(name, shape, dtype, np.array(scales, np.float32), int(zeros[0]), value)


def _numbers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values) if values is not None else ()
