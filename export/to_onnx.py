"""The student and the teacher as float ONNX files that take the uint8 picture itself.

The student's graph is written node by node from its spec and folded weights: no exporter in
between, so equal weights give equal bytes, and lopsided padding stays an attribute of Conv.
Leaves out: int8 (`export/quantise.py`).
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from diagline.errors import ExportError
from diagline.preprocess import InputContract
from training.student import Student, fold
from training.student_spec import Convolution

OPSET = 17
IMAGE, PIXELS, LOGIT, HEAT = "image", "pixels", "logit", "heat"


def student_onnx(student: Student, heat: bool = True) -> bytes:
    """The student as ONNX: `image` (1, H, W, C) uint8 RGB or grey to `logit` (1, 1) float32.

    With `heat` there is a second output `heat` (1, 1, rows, columns) float32, as `Student.heat`
    gives it: a 1x1 convolution beside the pool, which leaves the logit's bits as they are.
    """
    folded = student if student.folded else fold(student)
    graph = _Graph(folded)
    spec = folded.spec
    graph.node("Transpose", [IMAGE], "planes", perm=[0, 3, 1, 2])
    graph.node("Cast", ["planes"], "counts", to=TensorProto.FLOAT)
    graph.node("Mul", ["counts", graph.constant("to_unit", np.float32(1 / 255))], PIXELS)
    first, *rest = spec.convolutions()
    x = graph.convolution(first, PIXELS)
    for block, depthwise, pointwise in zip(spec.blocks, rest[::2], rest[1::2], strict=True):
        y = graph.convolution(pointwise, graph.convolution(depthwise, x))
        x = graph.relu6(graph.node("Add", [x, y], f"{pointwise.name}.sum")) if block.residual else y
    if spec.pool == "average":
        pooled = graph.node("GlobalAveragePool", [x], "pooled")
    else:  # a MaxPool over the whole map: unlike GlobalMaxPool, ONNX Runtime runs it in int8
        pooled = graph.node("MaxPool", [x], "pooled", kernel_shape=list(spec.map_size))
    graph.node("Flatten", [pooled], "features")
    graph.node("Gemm", ["features", graph.weight("fc.weight"), graph.weight("fc.bias")], LOGIT, transB=1)
    outputs: dict[str, tuple[int, ...]] = {LOGIT: (1, 1)}
    if heat:
        # Constants of its own: the quantiser would have to give one bias the scales of two layers.
        kernel = graph.constant("heat.weight", graph.weights["fc.weight"].numpy()[:, :, None, None])
        bias = graph.constant("heat.bias", graph.weights["fc.bias"].numpy())
        graph.node("Conv", [x, kernel, bias], HEAT, kernel_shape=[1, 1])
        outputs[HEAT] = (1, 1, *spec.map_size)
    return _model(graph, (1, spec.height_px, spec.width_px, spec.channels), outputs)


class _Graph:
    """Nodes and constants in the order they were added."""

    def __init__(self, folded: Student) -> None:
        self.weights = folded.state_dict()
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}:{output}", **attributes))
        return output

    def constant(self, name: str, value: NDArray[np.float32] | np.float32) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name].numpy())

    def relu6(self, x: str) -> str:
        bounds = [self.constant("zero", np.float32(0)), self.constant("six", np.float32(6))]
        return self.node("Clip", [x, *bounds], f"{x}.relu6")

    def convolution(self, layer: Convolution, x: str) -> str:
        y = self.node(
            "Conv",
            [x, self.weight(f"{layer.name}.conv.weight"), self.weight(f"{layer.name}.conv.bias")],
            layer.name,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=list(layer.pads),
            group=layer.in_channels if layer.depthwise else 1,
        )
        return self.relu6(y) if layer.relu6 else y


def _model(graph: _Graph, shape: tuple[int, ...], outputs: dict[str, tuple[int, ...]]) -> bytes:
    inputs = [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in outputs.items()]
    body = helper.make_graph(graph.nodes, "student", inputs, ends, list(graph.constants.values()))
    # IR version 8 goes with the opset; make_model would write the installed library's newest.
    model = helper.make_model(
        body, producer_name="diagline", ir_version=8, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(model, full_check=True)
    return cast(bytes, model.SerializeToString(deterministic=True))


class _FromPicture(nn.Module):
    """Puts the uint8 NHWC input before a network that takes float (N, C, H, W) in 0..1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """(1, H, W, C) uint8 to (1, 1) float."""
        return cast(Tensor, self.network(image.permute(0, 3, 1, 2).float() / 255)).reshape(1, 1)


def teacher_onnx(teacher: nn.Module, contract: InputContract) -> bytes:
    """A torch network as ONNX: `image` (1, H, W, C) uint8 to `logit` (1, 1) float32.

    Args:
        teacher: takes float (N, C, H, W) in 0..1, returns (N,) or (N, 1) logits; normalises inside.

    Raises:
        ExportError: torch cannot trace it.
    """
    device, training = next(teacher.parameters()).device, teacher.training
    wrapped = _FromPicture(teacher).eval().cpu()
    image = torch.zeros((1, *contract.shape), dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own notes on its exporter
            program = torch.onnx.export(
                wrapped,
                (image,),
                dynamo=True,
                input_names=[IMAGE],
                output_names=[LOGIT],
                opset_version=18,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{type(teacher).__name__} cannot become ONNX ({reason}); use operators that ONNX has"
        ) from error
    finally:
        teacher.to(device).train(training)
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ):
        del part.metadata_props[:]  # stack traces, which hold this machine's paths
    return cast(bytes, model.SerializeToString(deterministic=True))
