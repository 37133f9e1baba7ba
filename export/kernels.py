"""One int8 TFLite file on every set of kernels there is: XNNPACK's, the reference ones, TFLite Micro's, our C engine's.

A microcontroller runs one of the last two, which must equal the reference ones bit for bit; a box
runs XNNPACK's, which round once where those round twice. Leaves out: the box's own engine
(`edge_runtime/engines/`), which writes into buffers made once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline.errors import require
from edge_runtime.engines.quiet import native_stderr_off
from firmware_bridge.compiler.compile import Judgement, compile_tflite
from firmware_bridge.emulation import engine

Kernels = Callable[[NDArray[np.int8]], list[NDArray[Any]]]
"""A `(1, height_px, width_px, channels)` int8 picture to the file's outputs, raw, in their order."""


def xnnpack(data: bytes) -> Kernels:
    """The file on LiteRT's fast kernels.

    Raises:
        MissingExtraError: LiteRT is not installed.
    """
    return _litert(data, "AUTO")


def reference(data: bytes) -> Kernels:
    """The file on TFLite's reference kernels (`BUILTIN_REF`); raises as `xnnpack`."""
    return _litert(data, "BUILTIN_REF")


def _litert(data: bytes, resolver: str) -> Kernels:
    litert = require("ai_edge_litert.interpreter", "edge")
    with native_stderr_off():
        interpreter = litert.Interpreter(
            model_content=data,
            num_threads=1,
            experimental_op_resolver_type=litert.OpResolverType[resolver],
        )
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    ends = [item["index"] for item in interpreter.get_output_details()]

    def run(image_i8: NDArray[np.int8]) -> list[NDArray[Any]]:
        interpreter.set_tensor(source, image_i8)
        interpreter.invoke()
        return [interpreter.get_tensor(end) for end in ends]

    return run


def micro(data: bytes) -> Kernels:
    """The file on TFLite Micro's kernels, which a microcontroller would run.

    Raises:
        MissingExtraError: tflite-micro is not installed.
    """
    interpreter = require("tflite_micro.python.tflite_micro.runtime", "workstation").Interpreter.from_bytes(data)
    ends = require("ai_edge_litert.schema_py_generated", "edge").Model.GetRootAsModel(data, 0).Subgraphs(0)

    def run(image_i8: NDArray[np.int8]) -> list[NDArray[Any]]:
        interpreter.set_input(image_i8, 0)
        interpreter.invoke()
        return [interpreter.get_output(number) for number in range(ends.OutputsLength())]

    return run


def c_engine(data: bytes) -> Kernels:
    """The file as a model image in the row-streaming engine, built by this machine's C compiler; logits come first.

    Raises:
        ExportError: the engine does not know one of its operators.
        FlashError: no C compiler.
    """
    opened = engine.Engine(compile_tflite(data, Judgement("parity")).image([]))

    def run(image_i8: NDArray[np.int8]) -> list[NDArray[Any]]:
        outputs, heat = opened.run(image_i8[0].view(np.uint8) ^ 0x80)
        return [outputs] if heat is None else [outputs, heat]

    return run
