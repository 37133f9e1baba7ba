"""Small int8 TFLite files written straight from numbers, without TensorFlow: any graph in a millisecond.

Weights and scales are drawn so that outputs use much of int8's range, and some saturate.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from training.student_spec import StudentSpec

INT8, INT32 = 9, 2
NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3
SAME, VALID = 0, 1


class Net:
    """A TFLite file in the making; maps are numbers of tensors, which the methods return.

    Args:
        seed: of weights, biases and scales.
        shape: height, width, channels of the picture.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        self._rng = np.random.default_rng(seed)
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.operatorCodes, self._model.buffers = [], [schema.BufferT()]
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._model.subgraphs = [self._graph]
        self.image = self._map("image", (1, *shape), 1 / 255, -128)

    # ---- tensors ----

    def shape(self, number: int) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(int(side) for side in self._graph.tensors[number].shape)

    def _map(self, name: str, shape: tuple[int, ...], scale: float, zero_point: int) -> int:
        return self._tensor(name, shape, INT8, np.array([scale], np.float32), zero_point, None)

    def _tensor(
        self, name: str, shape: tuple[int, ...], dtype: int, scales: NDArray[np.float32], zero_point: int,
        data: NDArray[Any] | None, axis: int = 0,
    ) -> int:  # fmt: skip
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name.encode(), np.array(shape, np.int32), dtype
        if scales.size:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = np.full(scales.size, zero_point, np.int64)
            tensor.quantization.quantizedDimension = axis
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(self, name: str, inputs: list[int], output: int, options: Any = None, kind: int = 0) -> int:
        code = getattr(schema.BuiltinOperator, name)
        found = schema.OperatorCodeT()
        found.builtinCode, found.deprecatedBuiltinCode, found.version = code, min(code, 127), 3
        self._model.operatorCodes.append(found)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self._model.operatorCodes) - 1
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        self._graph.operators.append(operator)
        return output

    def _next(self, name: str, shape: tuple[int, ...], spread: float, activation: int) -> int:
        """An output whose scale fits values of about `spread`."""
        if activation in (RELU, RELU6) and self._rng.random() < 0.8:
            return self._map(name, shape, float(2.5 * spread / 255), -128)
        return self._map(name, shape, float(5 * spread / 255), int(self._rng.integers(-128, 128)))

    def _spread(self, number: int) -> float:
        quantisation = self._graph.tensors[number].quantization
        return float(quantisation.scale[0]) * 128

    # ---- operators ----

    def convolve(
        self, source: int, outputs: int, kernel: tuple[int, int] = (1, 1), stride: tuple[int, int] = (1, 1),
        padding: int = SAME, activation: int = RELU6, depthwise: bool = False, bias: bool = True,
    ) -> int:  # fmt: skip
        """CONV_2D, or DEPTHWISE_CONV_2D of `outputs` channels."""
        _, height, width, channels = self.shape(source)
        size = [
            -(-side // step) if padding == SAME else (side - edge) // step + 1
            for side, edge, step in zip((height, width), kernel, stride, strict=True)
        ]
        depth = kernel[0] * kernel[1] * (1 if depthwise else channels)
        shape = (1, *kernel, outputs) if depthwise else (outputs, *kernel, channels)
        output = self._weighted(
            source, shape, outputs, depth, (1, *size, outputs), activation, bias, 3 if depthwise else 0
        )
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = padding, stride[0], stride[1]
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = activation
        if depthwise:
            options.depthMultiplier = outputs // channels
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        kind = schema.BuiltinOptions.DepthwiseConv2DOptions if depthwise else schema.BuiltinOptions.Conv2DOptions
        return self._operator(name, self._inputs, output, options, kind)

    def connect(self, source: int, outputs: int) -> int:
        """FULLY_CONNECTED over all of a map, one scale for all weights."""
        depth = int(np.prod(self.shape(source)))
        output = self._weighted(source, (outputs, depth), outputs, depth, (1, outputs), NONE, True, None)
        options = schema.FullyConnectedOptionsT()
        return self._operator(
            "FULLY_CONNECTED", self._inputs, output, options, schema.BuiltinOptions.FullyConnectedOptions
        )

    def _weighted(
        self, source: int, shape: tuple[int, ...], outputs: int, depth: int, out: tuple[int, ...], activation: int,
        bias: bool, axis: int | None,
    ) -> int:  # fmt: skip
        rng, quantisation = self._rng, self._graph.tensors[source].quantization
        name = f"t{len(self._graph.operators)}"
        weights = rng.integers(-127, 128, shape, np.int8)
        scales = (rng.uniform(0.5, 2.0, 1 if axis is None else outputs) / (74 * depth**0.5)).astype(np.float32)
        spread = self._spread(source) * float(rng.uniform(0.3, 1.5))
        self._inputs = [source, self._tensor(f"{name}/w", shape, INT8, scales, 0, weights, axis or 0)]
        if bias:
            units = quantisation.scale[0] * scales
            values = np.round(rng.normal(0, spread / 3, outputs) / units).astype(np.int32)
            self._inputs.append(self._tensor(f"{name}/b", (outputs,), INT32, units.astype(np.float32), 0, values))
        else:
            self._inputs.append(-1)
        return self._next(name, out, spread, activation)

    def add(self, one: int, other: int, activation: int = NONE) -> int:
        """ADD of two maps of one shape."""
        spread = (self._spread(one) + self._spread(other)) / 2
        output = self._next(f"t{len(self._graph.operators)}", self.shape(one), spread, activation)
        options = schema.AddOptionsT()
        options.fusedActivationFunction = activation
        return self._operator("ADD", [one, other], output, options, schema.BuiltinOptions.AddOptions)

    def pool(self, source: int, kind: str) -> int:
        """Global pooling: AVERAGE_POOL_2D, MAX_POOL_2D, MEAN or REDUCE_MAX."""
        _, height, width, channels = self.shape(source)
        quantisation = self._graph.tensors[source].quantization
        scale, zero_point = float(quantisation.scale[0]), int(quantisation.zeroPoint[0])
        if kind in ("MEAN", "REDUCE_MAX"):
            if kind == "MEAN":
                scale, zero_point = scale * float(self._rng.uniform(0.3, 1.2)), zero_point // 2
            axes = self._tensor("axes", (2,), INT32, np.array([], np.float32), 0, np.array([1, 2], np.int32))
            options = schema.ReducerOptionsT()
            options.keepDims = bool(self._rng.random() < 0.5)
            shape = (1, 1, 1, channels) if options.keepDims else (1, channels)
            output = self._map("pool", shape, scale, zero_point)
            return self._operator(kind, [source, axes], output, options, schema.BuiltinOptions.ReducerOptions)
        options = schema.Pool2DOptionsT()
        options.padding, options.strideH, options.strideW = VALID, height, width
        options.filterHeight, options.filterWidth = height, width
        output = self._map("pool", (1, 1, 1, channels), scale, zero_point)
        return self._operator(kind, [source], output, options, schema.BuiltinOptions.Pool2DOptions)

    def pad(self, source: int, sides: tuple[int, int, int, int]) -> int:
        """PAD with zeros: top, bottom, left, right."""
        _, height, width, channels = self.shape(source)
        top, bottom, left, right = sides
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        quantisation = self._graph.tensors[source].quantization
        output = self._map(
            f"t{len(self._graph.operators)}", (1, height + top + bottom, width + left + right, channels),
            float(quantisation.scale[0]), int(quantisation.zeroPoint[0]),
        )  # fmt: skip
        known = self._tensor("sides", (4, 2), INT32, np.array([], np.float32), 0, amounts)
        return self._operator("PAD", [source, known], output, schema.PadOptionsT(), schema.BuiltinOptions.PadOptions)

    def reshape(self, source: int, shape: tuple[int, ...]) -> int:
        """RESHAPE."""
        quantisation = self._graph.tensors[source].quantization
        output = self._map("flat", shape, float(quantisation.scale[0]), int(quantisation.zeroPoint[0]))
        known = self._tensor("shape", (len(shape),), INT32, np.array([], np.float32), 0, np.array(shape, np.int32))
        return self._operator("RESHAPE", [source, known], output)

    def unary(self, name: str, source: int) -> int:
        """SOFTMAX (beta 1) or another operator of one input."""
        output = self._map(name.lower(), self.shape(source), 1 / 256, -128)
        if name != "SOFTMAX":
            return self._operator(name, [source], output)
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self._operator(name, [source], output, options, schema.BuiltinOptions.SoftmaxOptions)

    def finish(self, *outputs: int) -> bytes:
        """The file."""
        self._graph.inputs = np.array([self.image], np.int32)
        self._graph.outputs = np.array(outputs, np.int32)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def of_spec(spec: StudentSpec, seed: int, heat: bool = True) -> bytes:
    """A student of a spec as its export lays it out, with random numbers."""
    net = Net(seed, (spec.height_px, spec.width_px, spec.channels))
    first, *rest = spec.convolutions()
    x = net.convolve(net.image, first.out_channels, (first.kernel,) * 2, (first.stride,) * 2)
    for block, depthwise, pointwise in zip(spec.blocks, rest[::2], rest[1::2], strict=True):
        y = net.convolve(x, depthwise.out_channels, (3, 3), (depthwise.stride,) * 2, depthwise=True)
        y = net.convolve(y, pointwise.out_channels, activation=NONE if block.residual else RELU6)
        x = net.add(x, y, RELU6) if block.residual else y
    pooled = net.pool(x, "MEAN" if spec.pool == "average" else "MAX_POOL_2D")
    logit = net.connect(pooled, 1) if len(net.shape(pooled)) == 2 else net.convolve(pooled, 1, activation=NONE)
    return net.finish(*([logit, net.convolve(x, 1, activation=NONE)] if heat else [logit]))


def of_anything(seed: int) -> bytes:
    """A network of any shape that the engine knows: kernels, strides, paddings, three kinds of residuals, poolings."""
    rng = np.random.default_rng([seed, 1])
    channels, height, width = int(rng.integers(1, 5)), int(rng.integers(9, 40)), int(rng.integers(9, 40))
    net = Net(seed, (height, width, channels))
    x = net.image
    for _ in range(int(rng.integers(1, 5))):
        x = _block(net, x, rng)
    heat = net.convolve(x, 1, activation=NONE) if rng.random() < 0.5 and net.shape(x)[1] > 1 else None
    if rng.random() < 0.2:
        x = net.reshape(x, (1, int(np.prod(net.shape(x))))) if np.prod(net.shape(x)) < 4000 else net.pool(x, "MEAN")
        # a map as it is, all of it connected
        if len(net.shape(x)) == 2:
            x = net.connect(x, int(rng.integers(1, 17)))
            return net.finish(*(number for number in (x, heat) if number is not None))
    x = net.pool(x, str(rng.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "REDUCE_MAX"])))
    outputs = int(rng.integers(1, 17))
    x = (
        net.connect(x, outputs)
        if rng.random() < 0.5 or len(net.shape(x)) == 2
        else net.convolve(x, outputs, activation=NONE)
    )
    return net.finish(*(number for number in (x, heat) if number is not None))


def _block(net: Net, x: int, rng: np.random.Generator) -> int:
    channels, height, width = net.shape(x)[3], *net.shape(x)[1:3]
    activation = int(rng.choice([NONE, RELU, RELU6, RELU_N1_TO_1]))
    wide = int(rng.integers(1, 41))
    match str(rng.choice(["convolve", "depthwise", "separable", "residual", "inverted", "shortcut", "padded"])):
        case "convolve":
            kernel = (int(rng.integers(1, min(height, 6) + 1)), int(rng.integers(1, min(width, 6) + 1)))
            stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
            return net.convolve(
                x, wide, kernel, stride, int(rng.choice([SAME, VALID])), activation, bias=bool(rng.random() < 0.8)
            )
        case "depthwise":
            kernel = (int(rng.integers(1, min(height, 6) + 1)), int(rng.integers(1, min(width, 6) + 1)))
            stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
            outputs = channels if channels > 1 else wide
            return net.convolve(x, outputs, kernel, stride, int(rng.choice([SAME, VALID])), activation, depthwise=True)
        case "residual":
            y = net.convolve(x, channels, (3, 3), depthwise=channels > 1)
            return net.add(*rng.permutation([x, net.convolve(y, channels, activation=NONE)]).tolist(), activation)
        case "inverted":
            y = net.convolve(net.convolve(x, channels + 3), channels + 3, (3, 3), depthwise=True)
            y = net.convolve(y, channels, activation=NONE)
            return net.add(y, net.add(x, y), activation) if rng.random() < 0.3 else net.add(x, y, activation)
        case "shortcut":
            y = net.convolve(x, channels, (5, 5), (2, 2), depthwise=channels > 1)
            return net.add(net.convolve(x, wide, (1, 1), (2, 2), activation=NONE), net.convolve(y, wide), activation)
        case "padded":
            if min(height, width) > 2:
                x = net.pad(x, tuple(rng.integers(0, 2, 4).tolist()))
            return net.convolve(x, wide, (3, 3), (2, 2), VALID if min(height, width) > 2 else SAME, activation)
        case _:
            stride = (int(rng.integers(1, 3)),) * 2
            y = net.convolve(x, channels, (3, 3), stride, activation=activation, depthwise=channels > 1)
            return net.convolve(y, wide, activation=activation)


def pictures(seed: int, shape: tuple[int, int, int], count: int) -> list[NDArray[np.uint8]]:
    """(height, width, channels) uint8: patches of random brightness and contrast, so that outputs vary."""
    rng = np.random.default_rng([seed, 2])
    made = []
    for _ in range(count):
        side = int(rng.integers(1, 12))
        grid = (shape[0] // side + 1, shape[1] // side + 1, shape[2])
        patches = rng.normal(rng.uniform(0, 255), rng.uniform(5, 120), grid).repeat(side, 0).repeat(side, 1)
        made.append(patches[: shape[0], : shape[1]].clip(0, 255).astype(np.uint8))
    return made
