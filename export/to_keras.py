"""The student's Keras twin: the form that TensorFlow's converter reads.

Built from the same spec and folded weights as the ONNX file; Keras's "same" padding is what
the spec's pads are, so no layer pads on its own. Leaves out: training, which happens in torch
alone. TensorFlow takes seconds to import, so nothing imports it until a twin is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from diagline.errors import require
from training.student import Student, fold
from training.student_spec import Convolution


def keras_twin(student: Student, heat: bool = True) -> Any:
    """A `keras.Model` that gives the student's logits, one picture at a time.

    Its input is (1, height_px, width_px, channels) float in 0..1, its outputs logits (1, 1, 1, 1) and,
    with `heat`, heat (1, rows, columns, 1), as `Student.heat` gives it; without, the logits alone.
    The batch is fixed so that the converted file holds no arithmetic on shapes. The fully connected
    layer is a 1x1 convolution: TFLite's int8 FULLY_CONNECTED rounds once in LiteRT and twice in
    TFLite Micro (one step apart on 14 of 2000 pictures), its CONV_2D the same in both.

    Raises:
        MissingExtraError: TensorFlow is not installed.
    """
    keras = tensorflow().keras
    layers = keras.layers
    folded = student if student.folded else fold(student)
    spec = folded.spec
    first, *rest = spec.convolutions()

    def convolve(layer: Convolution, x: Any) -> Any:
        y = _convolution(layers, layer)(x)
        return layers.ReLU(6.0, name=f"{layer.name}.relu6")(y) if layer.relu6 else y

    image = layers.Input((spec.height_px, spec.width_px, spec.channels), batch_size=1, name="image")
    x = convolve(first, image)
    for block, depthwise, pointwise in zip(spec.blocks, rest[::2], rest[1::2], strict=True):
        y = convolve(pointwise, convolve(depthwise, x))
        if block.residual:
            y = layers.ReLU(6.0, name=f"{pointwise.name}.sum.relu6")(layers.Add(name=f"{pointwise.name}.sum")([x, y]))
        x = y
    if spec.pool == "average":
        pooled = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    else:
        pooled = layers.MaxPooling2D(spec.map_size, name="pool")(x)
    logit = layers.Conv2D(1, 1, name="fc")(pooled)
    twin = keras.Model(image, [logit, layers.Conv2D(1, 1, name="heat")(x)] if heat else logit, name="student")

    weights = {name: value.numpy() for name, value in folded.state_dict().items()}
    for layer in spec.convolutions():
        kernel = weights[f"{layer.name}.conv.weight"]  # (out, in, k, k); depthwise (channels, 1, k, k)
        order = (2, 3, 0, 1) if layer.depthwise else (2, 3, 1, 0)
        twin.get_layer(layer.name).set_weights([kernel.transpose(order), weights[f"{layer.name}.conv.bias"]])
    for name in ("fc", "heat") if heat else ("fc",):
        twin.get_layer(name).set_weights([weights["fc.weight"].T[None, None], weights["fc.bias"]])
    return twin


def _convolution(layers: Any, layer: Convolution) -> Any:
    if layer.depthwise:
        return layers.DepthwiseConv2D(layer.kernel, layer.stride, padding="same", name=layer.name)
    return layers.Conv2D(layer.out_channels, layer.kernel, layer.stride, padding="same", name=layer.name)


def tensorflow() -> Any:
    """TensorFlow, imported without its notes on processors and GPUs.

    Raises:
        MissingExtraError: TensorFlow is not installed.
    """
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    # First what torch loads late: Triton, loaded after TensorFlow, kills the process (two LLVMs).
    importlib.import_module("torch._dynamo")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read once, when its C++ part is loaded
    with silenced():
        tf = require("tensorflow", "workstation")
    tf.get_logger().setLevel("ERROR")
    return tf


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drop what a library writes to the terminal, from C++ too, and its warnings.

    What it raises comes through, and so do our progress bars: they write to `sys.stderr`, which
    is given a way around the closed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    shown = sys.stderr is sys.__stderr__
    with open(os.devnull, "w") as nowhere, open(os.dup(2), "w", buffering=1) as terminal, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for number in kept:
                os.dup2(nowhere.fileno(), number)
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(terminal if shown else sys.stderr):
                yield
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
