"""OpenVINO on the processor: a second engine for ONNX and TFLite files alike, of the optional extra `openvino`.

Where the processor can, OpenVINO computes float networks in bf16 unless told otherwise; here it
is always told: fp32 as `openvino`, bf16 as `openvino_bf16`. Of an int8 file it may compute some layers in
fp32 (the first; depthwise ones of odd width); `precision` says what the compiled network does.
Leaves out: which formats it is verified on (that is decided at export) and OpenVINO's other devices.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Format
from diagline.errors import BundleError, require
from diagline.preprocess import InputContract
from edge_runtime.engines.engine import (
    LIBRARIES,
    OPENVINO_BF16,
    Tensor,
    check_done,
    check_tensors,
    one_line,
    outputs_of,
    writer,
)
from edge_runtime.engines.quiet import native_stderr_off

WEIGHTED = ("Convolution", "FullyConnected", "MatMul")
PRECISIONS = {"f32": "fp32", "u8": "int8", "i8": "int8"}


class OpenVinoEngine:
    """A file compiled for the processor, input and outputs bound to buffers made once.

    Attributes:
        name: "openvino" or "openvino_bf16".
        precision: as `Engine`, read from the compiled network.
    """

    def __init__(self, path: Path, fmt: Format, contract: InputContract, threads: int, name: str) -> None:
        """Open the file; raises as `open_engine`."""
        self.name = name
        openvino = require(*LIBRARIES[name])
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if name == OPENVINO_BF16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # a thread that is tied to a core waits for whatever else runs there
        }
        core = openvino.Core()
        try:
            with native_stderr_off():  # its readers print what they cannot read
                compiled = core.compile_model(core.read_model(path), "CPU", options)
        except RuntimeError as error:
            raise BundleError(f"{path}: OpenVINO cannot open it ({one_line(error)}); export it again") from error
        check_tensors(path, "input", _found(compiled.inputs), [(fmt.input_dtype, (1, *contract.shape))])
        found = _found(compiled.outputs)
        expected = outputs_of(fmt, found, path.suffix == ".tflite")
        check_tensors(path, "output", found, expected)
        self._input = np.zeros((1, *contract.shape), fmt.input_dtype)
        self._outputs: list[NDArray[Any]] = [np.zeros(shape, dtype) for dtype, shape in expected]
        self._write = writer(fmt.input_dtype)
        self._request = compiled.create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(self._input, shared_memory=True))
        for index, output in enumerate(self._outputs):
            self._request.set_output_tensor(index, openvino.Tensor(output, shared_memory=True))
        self.precision = _precision(compiled)
        self._heat, self._done = fmt.heat, False

    def infer(self, image_u8: NDArray[np.uint8]) -> float:
        """The raw output for a `(height_px, width_px, channels)` uint8 picture."""
        self._done = False
        self._write(image_u8, self._input[0])
        self._request.infer(share_outputs=True)  # a copy of each output otherwise
        self._done = True
        return float(self._outputs[0].item())

    def heat(self) -> NDArray[np.float32] | None:
        """The heat map of the last `infer`, as `Engine.heat`."""
        check_done(self._done)
        return self._heat.to_logits(self._outputs[1]) if self._heat is not None else None


def _found(ports: Any) -> list[Tensor]:
    return [(np.dtype(port.element_type.to_dtype()).name, tuple(port.shape)) for port in ports]


def _precision(compiled: Any) -> str:
    """What the layers with weights compute in; of a network without any, all of its layers."""
    facts = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    layers = [(fact["layerType"].value, fact["runtimePrecision"].value) for fact in facts]
    weighted = [kind for layer, kind in layers if layer in WEIGHTED]
    kinds = [PRECISIONS.get(kind, kind) for kind in weighted or (kind for layer, kind in layers if layer != "Const")]
    return "+".join(kind for kind, _ in Counter(kinds).most_common())
