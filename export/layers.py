"""Every form of one student, layer by layer: where an error between two of them is born.

A map is read from each form as real numbers: torch's on the way, ONNX's as further outputs of
the graph, TFLite's by naming other tensors as the file's outputs, so that the kernels at hand
compute it as they would on the way to the logit. Leaves out: networks without a StudentSpec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.nn import functional

from diagline.errors import ExportError, require
from edge_runtime.engines.engine import shift_to_i8
from export.to_onnx import LOGIT
from export.to_tflite import operators
from training.student import DepthwiseSeparable, Student
from training.student_spec import StudentSpec

POOLED = "pooled"
FLOAT_ROUNDING = 1e-5  # share of a map; two float forms were seen 3e-7 apart
Maps = dict[str, NDArray[np.float32]]
"""By layer, in the order of `names`: (rows, columns, channels) float32; the pool's and the logit's are (1, 1, n)."""
Reader = Callable[[NDArray[np.uint8]], Maps]
"""The maps of a `(height_px, width_px, channels)` uint8 network input."""


def names(spec: StudentSpec) -> list[str]:
    """The layers of a student from the stem to the logit; they are the names of the ONNX file's tensors."""
    found = []
    for layer in spec.convolutions():
        found.append(f"{layer.name}.relu6" if layer.relu6 else layer.name)
        if not layer.relu6:
            found.append(f"{layer.name}.sum.relu6")
    return [*found, POOLED, LOGIT]


def of_torch(network: Student) -> Reader:
    """The maps of the torch form, in eval mode on the CPU."""
    blocks = cast(Sequence[DepthwiseSeparable], network.blocks)

    @torch.inference_mode()
    def read(image_u8: NDArray[np.uint8]) -> Maps:
        x = torch.from_numpy(np.ascontiguousarray(image_u8.transpose(2, 0, 1)[None])).float() / 255
        x = functional.relu6(network.stem(x))
        seen = [x]
        for block in blocks:
            y = functional.relu6(block.depthwise(x))
            z = block.pointwise(y)
            x = functional.relu6(x + z if block.residual else z)
            seen += [y, z, x] if block.residual else [y, x]
        pooled = network.pool(x)
        seen += [pooled, network.fc(pooled)]
        return {name: _rows_first(value.numpy()) for name, value in zip(names(network.spec), seen, strict=True)}

    return read


def of_onnx(data: bytes, spec: StudentSpec) -> Reader:
    """The maps of a float or an int8 ONNX file on ONNX Runtime.

    Raises:
        ExportError: the file does not hold the spec's layers.
    """
    ort = require("onnxruntime", "edge")
    model = onnx.load_model_from_string(data)
    graph = model.graph
    held = {output for node in graph.node for output in node.output}
    steps = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    read_from = {name: _first(held, (f"{name}_DequantizeLinear_Output", name)) for name in names(spec)}
    for tensor in set(read_from.values()) - {output.name for output in graph.output}:
        graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    # An int8 logit is in steps: the QuantizeLinear that makes it says which.
    ends = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name

    def read(image_u8: NDArray[np.uint8]) -> Maps:
        values = session.run(list(read_from.values()), {source: image_u8[None]})
        maps = dict(zip(read_from, values, strict=True))
        if LOGIT in ends:
            scale, zero_point = (steps[name].astype(np.float32) for name in ends[LOGIT].input[1:])
            maps[LOGIT] = scale * (maps[LOGIT].astype(np.float32) - zero_point)
        return {name: _rows_first(value) for name, value in maps.items()}

    return read


def of_tflite(data: bytes, spec: StudentSpec, open_file: Callable[[bytes], Any]) -> Reader:
    """The maps of an int8 TFLite file on whatever kernels `open_file` brings.

    Args:
        open_file: contents of a file to a function from `(1, H, W, C)` int8 to its outputs, raw, in order.

    Raises:
        ExportError: the file does not hold the spec's layers.
    """
    tensors = _tensors(data, spec)
    pairs = [tensors[start : start + 2] for start in range(0, len(tensors), 2)]
    runs = [(pair, open_file(_ending_in(data, [one.place for one in pair]))) for pair in pairs]

    def read(image_u8: NDArray[np.uint8]) -> Maps:
        fed = np.empty((1, *image_u8.shape), np.int8)
        shift_to_i8(image_u8, fed[0])
        maps: Maps = {}
        for pair, run in runs:
            for tensor, raw in zip(pair, run(fed), strict=False):  # a lone last tensor is read twice
                real = np.float32(tensor.scale) * (raw.astype(np.float32) - np.float32(tensor.zero_point))
                maps[tensor.name] = real[0]
        return maps

    return read


class _Tensor:
    """A layer's output in a TFLite file."""

    def __init__(self, name: str, place: int, tensor: Any) -> None:
        self.name, self.place = name, place
        self.scale = float(tensor.Quantization().Scale(0))
        self.zero_point = int(tensor.Quantization().ZeroPoint(0))


def _tensors(data: bytes, spec: StudentSpec) -> list[_Tensor]:
    """The layers' tensors in the order of `names`: the file's operators in theirs, without the heat map's."""
    schema = require("ai_edge_litert.schema_py_generated", "edge")
    graph = schema.Model.GetRootAsModel(data, 0).Subgraphs(0)
    outputs = [graph.Operators(index).Outputs(0) for index in range(graph.OperatorsLength())]
    chain = [place for place in outputs if place not in graph.OutputsAsNumpy()[1:]]
    wanted = names(spec)
    if len(chain) != len(wanted):
        raise ExportError(
            f"the TFLite file holds {len(chain)} layers ({', '.join(operators(data))}); expected {len(wanted)} and "
            f"the heat map's; export it again"
        )
    return [_Tensor(name, place, graph.Tensors(place)) for name, place in zip(wanted, chain, strict=True)]


def _ending_in(data: bytes, places: Sequence[int]) -> bytes:
    """The file with other tensors as its outputs; a single one stands there twice."""
    schema = require("ai_edge_litert.schema_py_generated", "edge")
    changed = bytearray(data)
    ends = schema.Model.GetRootAsModel(changed, 0).Subgraphs(0).OutputsAsNumpy()  # a view: written into the file
    ends[:] = (list(places) * 2)[: len(ends)]
    return bytes(changed)


def _first(held: set[str], tensors: Sequence[str]) -> str:
    for tensor in tensors:
        if tensor in held:
            return tensor
    raise ExportError(f"the ONNX file holds no {tensors[-1]}; expected every layer of its spec; export it again")


def _rows_first(value: NDArray[Any]) -> NDArray[np.float32]:
    """(1, C, H, W), or what holds n numbers alone, as (rows, columns, channels) float32."""
    single = value.reshape(1, 1, -1) if value.ndim < 4 or value.shape[2:] == (1, 1) else value[0].transpose(1, 2, 0)
    return single.astype(np.float32)


def errors(before: Reader, after: Reader, images: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """How far `after` lies from `before` at each layer: root of sum (b - a)^2 over sum a^2 of all pictures."""
    apart: dict[str, float] = {}
    whole: dict[str, float] = {}
    for image in images:
        first, second = before(image), after(image)
        for name in [name for name in first if name in second]:
            a, b = first[name].astype(np.float64), second[name].astype(np.float64)
            apart[name] = apart.get(name, 0.0) + float(np.sum((b - a) ** 2))
            whole[name] = whole.get(name, 0.0) + float(np.sum(a**2))
    return {name: (apart[name] / whole[name]) ** 0.5 if whole[name] else float(apart[name] > 0) for name in apart}


def born(shares: dict[str, float]) -> str | None:
    """The layer at which the error rises most; None where none is more than float rounding."""
    if max(shares.values(), default=0.0) < FLOAT_ROUNDING:
        return None
    return max(_rises(shares), key=lambda one: one[1])[0]


def _rises(shares: dict[str, float]) -> Iterator[tuple[str, float]]:
    before = 0.0
    for name, share in shares.items():
        yield name, share - before
        before = share
