"""A TFLite file as the engine's graph.

Here a fully connected layer becomes the convolution that it is, PAD and RESHAPE disappear, and
whatever the engine cannot do is refused by its operator's and tensor's name. Leaves out: the
arithmetic of a filter (`filters.py`).
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from diagline.errors import ExportError
from firmware_bridge.compiler import filters, fixed_point
from firmware_bridge.compiler.graph import Graph, Map, Node
from firmware_bridge.compiler.tflite_file import Operator, Tensor, TfliteFile
from firmware_bridge.image import MAX_OUTPUTS, MAX_SIDE, Channel, Kind, Method

ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}
SAME = 0
MAX_KERNEL, MAX_STRIDE, MAX_DEPTH = 255, 255, 65535


def read_graph(file: TfliteFile) -> Graph:
    """The network of a file.

    Raises:
        ExportError: an operator, shape or type that the engine does not know, with its tensor's name.
    """
    return _Reader(file).graph()


class _Reader:
    """Walks the operators once; `_same_as` holds tensors that are another one seen differently."""

    def __init__(self, file: TfliteFile) -> None:
        self._file = file
        self._maps: dict[int, Map] = {}
        self._nodes: list[Node] = []
        self._same_as: dict[int, int] = {}
        self._pads: dict[int, tuple[int, int, int, int]] = {}  # by tensor: top, bottom, left, right

    def graph(self) -> Graph:
        source = self._source()
        for operator in self._file.operators:
            match operator.name:
                case "CONV_2D":
                    self._convolution(operator)
                case "DEPTHWISE_CONV_2D":
                    self._depthwise(operator)
                case "FULLY_CONNECTED":
                    self._connected(operator)
                case "ADD":
                    self._add(operator)
                case "AVERAGE_POOL_2D" | "MAX_POOL_2D":
                    self._pool(operator)
                case "MEAN" | "REDUCE_MAX":
                    self._reduce(operator)
                case "RESHAPE" | "SQUEEZE":
                    self._reshape(operator)
                case "PAD":
                    self._pad(operator)
                case _:
                    self._refuse(operator, "the engine has no such operator")
        outputs, heat = self._ends()
        return Graph(self._maps, self._nodes, source, outputs, heat)

    # ---- what goes in and out ----

    def _source(self) -> int:
        if len(self._file.inputs) != 1:
            raise ExportError(f"{len(self._file.inputs)} inputs; expected one picture")
        number = self._file.inputs[0]
        tensor = self._file.tensors[number]
        shape = tensor.shape
        if len(shape) != 4 or shape[0] != 1 or not 1 <= shape[3] <= 4 or max(shape) > MAX_SIDE:
            raise ExportError(f"input {tensor}; expected one picture, 1 x height x width x 1 to 4 channels")
        if tensor.dtype is not np.int8 or tensor.scales.size != 1:
            raise ExportError(f"input {tensor}; expected int8 (uint8 - 128); convert with inference_input_type int8")
        self._maps[number] = _map(tensor)
        return number

    def _ends(self) -> tuple[int, int | None]:
        outputs: int | None = None
        heat: int | None = None
        for number in self._file.outputs:
            end = self._map_of(number)
            here = self._maps[end]
            vector = here.height == here.width == 1 and here.channels <= MAX_OUTPUTS
            if vector and outputs is None:
                outputs = end
            elif here.channels == 1 and heat is None:
                heat = end
            else:
                raise ExportError(
                    f"output {self._file.tensors[number]}; expected a vector of at most {MAX_OUTPUTS} logits and, "
                    f"besides it, at most one heat map of one channel"
                )
        if outputs is None:
            raise ExportError("no output is a vector of logits; expected one of at most 16 beside any heat map")
        return outputs, heat

    def _map_of(self, number: int) -> int:
        while number in self._same_as:
            number = self._same_as[number]
        if number not in self._maps:
            raise ExportError(f"tensor {self._file.tensors[number]} is used before it is computed; convert it again")
        return number

    def _refuse(self, operator: Operator, why: str) -> NoReturn:
        tensor = self._file.tensors[operator.outputs[0]]
        raise ExportError(f"{operator.name} at tensor {tensor}: {why}; change the network, or stay with TFLite Micro")

    def _in(self, operator: Operator, index: int = 0, padded: bool = False) -> int:
        number = operator.inputs[index]
        if number in self._pads and not padded:
            self._refuse(operator, "PAD is known before a convolution only")
        return self._map_of(number)

    def _out(self, operator: Operator) -> tuple[int, Map]:
        number = operator.outputs[0]
        tensor = self._file.tensors[number]
        if tensor.dtype is not np.int8 or tensor.scales.size != 1:
            self._refuse(operator, "expected an int8 tensor with one scale")
        shape = tensor.shape
        if (
            len(shape) not in (2, 4)
            or shape[0] != 1
            or min(shape) < 1
            or max(shape) > MAX_DEPTH
            or max(shape[1:-1], default=1) > MAX_SIDE
        ):
            self._refuse(operator, "expected one picture's map or vector")
        self._maps[number] = found = _map(tensor)
        return number, found

    def _clamp(self, operator: Operator, out: Map) -> tuple[int, int]:
        name = ACTIVATIONS.get(operator.options.get("fusedActivationFunction", 0))
        if name is None:
            self._refuse(operator, f"its activation is none of {', '.join(ACTIVATIONS.values())}")
        return fixed_point.activation_range(name, out.scale, out.zero_point)

    # ---- operators with weights ----

    def _filter(self, operator: Operator) -> tuple[Tensor, NDArray[np.int8], NDArray[np.int64]]:
        tensor = self._file.tensors[operator.inputs[1]]
        if tensor.dtype is not np.int8 or tensor.data is None or tensor.scales.size == 0 or tensor.zero_point != 0:
            self._refuse(operator, f"its weights {tensor} are no int8 constant with zero point 0")
        outputs = self._file.tensors[operator.outputs[0]].shape[-1]
        bias = np.zeros(outputs, np.int64)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            found = self._file.tensors[operator.inputs[2]]
            if found.dtype is not np.int32 or found.data is None or found.data.shape != (outputs,):
                self._refuse(operator, f"its bias {found} is no int32 constant, one an output")
            bias = found.data.astype(np.int64)
        return tensor, tensor.data.copy(), bias

    def _channels(
        self, operator: Operator, source: Map, out: Map, weights: NDArray[np.int8], bias: NDArray[np.int64],
        scales: NDArray[np.float32], connected: bool = False,
    ) -> tuple[Channel, ...]:  # fmt: skip
        """As `filters.channels`, whose refusal gets the operator's name."""
        clamp = self._clamp(operator, out)
        try:
            return filters.channels(source, out, weights, bias, scales, clamp, connected)
        except ValueError as error:
            self._refuse(operator, str(error))

    def _window(
        self, operator: Operator, source: Map, out: Map, kernel: tuple[int, int], depth: int
    ) -> tuple[tuple[int, int], tuple[int, int, int]]:
        """Strides and pads of a convolution."""
        options = operator.options
        if options["dilationWFactor"] != 1 or options["dilationHFactor"] != 1:
            self._refuse(operator, "dilated convolutions are not known")
        stride = (int(options["strideH"]), int(options["strideW"]))
        if max(kernel) > MAX_KERNEL or max(stride) > MAX_STRIDE or depth > MAX_DEPTH:
            self._refuse(operator, f"kernel {kernel}, stride {stride}, depth {depth}; expected less")
        top, bottom, left, right = self._pads.get(operator.inputs[0], (0, 0, 0, 0))
        if options["padding"] == SAME:
            if top or bottom or left or right:
                self._refuse(operator, "PAD before a convolution that pads, too")
            top, _ = _same(source.height, out.height, kernel[0], stride[0])
            left, right = _same(source.width, out.width, kernel[1], stride[1])
        right = max(right, (out.width - 1) * stride[1] + kernel[1] - source.width - left)
        if top >= kernel[0] or max(left, right) >= kernel[1] or bottom >= kernel[0]:
            self._refuse(operator, f"padding as wide as its kernel {kernel}")
        return stride, (top, left, right)

    def _convolution(self, operator: Operator) -> None:
        tensor, weights, bias = self._filter(operator)
        source = self._in(operator, padded=True)
        number, _ = self._out(operator)
        outputs, rows, columns, depth = weights.shape
        if depth != self._maps[source].channels:
            self._refuse(operator, f"{depth} input channels of {self._maps[source].channels}; grouped is not known")
        self._convolve(operator, source, number, weights.reshape(outputs, -1), bias, tensor, (rows, columns))

    def _convolve(
        self, operator: Operator, source: int, number: int, flat: NDArray[np.int8], bias: NDArray[np.int64],
        tensor: Tensor, kernel: tuple[int, int],
    ) -> None:  # fmt: skip
        inside, out = self._maps[source], self._maps[number]
        stride, pads = self._window(operator, inside, out, kernel, flat.shape[1])
        channels = self._channels(operator, inside, out, flat, bias, tensor.scales)
        plain = kernel == stride == (1, 1) and pads == (0, 0, 0)
        self._nodes.append(
            Node(
                Kind.POINTWISE if plain else Kind.CONV, (source,), number, kernel, stride, pads, flat, channels,
                *self._clamp(operator, out), macs=flat.size * out.width,
            )
        )  # fmt: skip

    def _depthwise(self, operator: Operator) -> None:
        tensor, weights, bias = self._filter(operator)
        source = self._in(operator, padded=True)
        number, out = self._out(operator)
        inside = self._maps[source]
        _, rows, columns, outputs = weights.shape
        if inside.channels == 1:  # then every output sees the one channel, as in a convolution
            flat = np.ascontiguousarray(weights[0].transpose(2, 0, 1)).reshape(outputs, -1)
            self._convolve(operator, source, number, flat, bias, tensor, (rows, columns))
            return
        if outputs != inside.channels:
            self._refuse(operator, f"{outputs} outputs of {inside.channels} channels; one of each is known")
        by_column = np.ascontiguousarray(weights[0].transpose(2, 1, 0)).reshape(outputs, -1)
        stride, pads = self._window(operator, inside, out, (rows, columns), by_column.shape[1])
        channels = self._channels(operator, inside, out, by_column, bias, tensor.scales)
        self._nodes.append(
            Node(
                Kind.DEPTHWISE, (source,), number, (rows, columns), stride, pads, by_column, channels,
                *self._clamp(operator, out), macs=by_column.size * out.width,
            )
        )  # fmt: skip

    def _connected(self, operator: Operator) -> None:
        tensor, weights, bias = self._filter(operator)
        source = self._in(operator)
        number, out = self._out(operator)
        inside = self._maps[source]
        kernel = (inside.height, inside.width)
        if weights.shape[1] != inside.height * inside.width * inside.channels or max(kernel) > MAX_KERNEL:
            self._refuse(operator, f"{weights.shape[1]} inputs; expected all of {inside.name!r}, {kernel} at most 255")
        if weights.shape[1] > MAX_DEPTH:
            self._refuse(operator, f"{weights.shape[1]} inputs; expected at most {MAX_DEPTH}")
        channels = self._channels(operator, inside, out, weights, bias, tensor.scales, connected=True)
        self._nodes.append(
            Node(
                Kind.POINTWISE if kernel == (1, 1) else Kind.CONV, (source,), number, kernel, (1, 1), (0, 0, 0),
                weights, channels, *self._clamp(operator, out), macs=weights.size,
            )
        )  # fmt: skip

    # ---- operators without ----

    def _add(self, operator: Operator) -> None:
        one, other = self._in(operator, 0), self._in(operator, 1)
        number, out = self._out(operator)
        first, second = self._maps[one], self._maps[other]
        if any(
            (each.height, each.width, each.channels) != (out.height, out.width, out.channels)
            for each in (first, second)
        ):
            self._refuse(operator, "its inputs are not of one shape; broadcasting is not known")
        if one == other:
            self._refuse(operator, "a map added to itself is not known")
        scales = fixed_point.add_multipliers(first.scale, second.scale, out.scale)
        biases = (-first.zero_point, -second.zero_point, 0)
        channels = tuple(fixed_point.channel(bias, *scale) for bias, scale in zip(biases, scales, strict=True))
        least, most = self._clamp(operator, out)
        self._nodes.append(Node(Kind.ADD, (one, other), number, channels=channels, least=least, most=most))

    def _pool(self, operator: Operator) -> None:
        source = self._in(operator)
        number, out = self._out(operator)
        inside, options = self._maps[source], operator.options
        whole = (options["filterHeight"], options["filterWidth"]) == (inside.height, inside.width)
        if not whole or (out.height, out.width) != (1, 1):
            self._refuse(operator, "only pooling over the whole map is known")
        method = Method.AVERAGE if operator.name == "AVERAGE_POOL_2D" else Method.MAXIMUM
        self._reduced(operator, source, number, method, self._clamp(operator, out))

    def _reduce(self, operator: Operator) -> None:
        source = self._in(operator)
        number, _ = self._out(operator)
        axes = self._file.tensors[operator.inputs[1]].data
        if axes is None or sorted(int(axis) % 4 for axis in np.atleast_1d(axes)) != [1, 2]:
            self._refuse(operator, "only over the whole height and width is known")
        method = Method.MEAN if operator.name == "MEAN" else Method.MAXIMUM
        self._reduced(operator, source, number, method, (-128, 127))

    def _reduced(self, operator: Operator, source: int, number: int, method: Method, clamp: tuple[int, int]) -> None:
        inside, out = self._maps[source], self._maps[number]
        cells = inside.height * inside.width
        if out.channels != inside.channels or cells > 1 << 23:
            self._refuse(operator, f"{cells} cells of {inside.channels} channels to {out.channels}")
        channels: tuple[Channel, ...] = ()
        if method is Method.MEAN:
            scale = fixed_point.mean_multiplier(inside.scale, out.scale, cells)
            channels = (fixed_point.channel(-inside.zero_point * cells, *scale),)
        elif (inside.scale, inside.zero_point) != (out.scale, out.zero_point):
            self._refuse(operator, "its input and output have different scales")
        self._nodes.append(
            Node(Kind.POOL, (source,), number, channels=channels, least=clamp[0], most=clamp[1], method=method)
        )

    def _reshape(self, operator: Operator) -> None:
        source = self._map_of(operator.inputs[0])
        number = operator.outputs[0]
        inside, tensor = self._maps[source], self._file.tensors[number]
        flat = np.prod(tensor.shape, dtype=int) == inside.height * inside.width * inside.channels
        users = {one.name for one in self._file.operators if number in one.inputs}
        if inside.height == inside.width == 1 or (flat and users <= {"FULLY_CONNECTED"}) or tensor.shape == (
            1, inside.height, inside.width, inside.channels
        ):  # fmt: skip
            self._same_as[number] = source
        else:
            self._refuse(operator, "only a vector, or a map before FULLY_CONNECTED, may be reshaped")

    def _pad(self, operator: Operator) -> None:
        source = self._in(operator)
        sides = self._file.tensors[operator.inputs[1]].data
        if sides is None or sides.shape != (4, 2) or sides[[0, 3]].any() or (sides < 0).any():
            self._refuse(operator, "only height and width may be padded")
        number = operator.outputs[0]
        tensor, inside = self._file.tensors[number], self._maps[source]
        if (tensor.scale, tensor.zero_point) != (inside.scale, inside.zero_point):
            self._refuse(operator, "its input and output have different scales")
        (top, bottom), (left, right) = sides[1].tolist(), sides[2].tolist()
        self._pads[number] = (top, bottom, left, right)
        self._same_as[number] = source


def _map(tensor: Tensor) -> Map:
    shape = tensor.shape if len(tensor.shape) == 4 else (1, 1, 1, tensor.shape[-1])
    return Map(tensor.name, shape[1], shape[2], shape[3], tensor.scale, tensor.zero_point)


def _same(size: int, out: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME along one side; the odd one comes after."""
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
