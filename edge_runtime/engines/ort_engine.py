"""ONNX Runtime on the processor: the engine of the `onnx_*` formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Format
from diagline.errors import BundleError, require
from diagline.preprocess import InputContract
from edge_runtime.engines.engine import LIBRARIES, Tensor, check_done, check_tensors, one_line, writer


class OrtEngine:
    """ONNX Runtime on the processor, input and output bound to buffers made once."""

    name = "onnxruntime"

    def __init__(self, path: Path, fmt: Format, contract: InputContract, threads: int, precision: str) -> None:
        """Open the file; raises as `open_engine`."""
        self.precision = precision
        ort = require(*LIBRARIES[self.name])
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors alone; they come back as exceptions too
        # Threads that spin between frames hold a whole core, and beside other work they tripled p90.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Without VNNI, x86 kernels add pairs of int8 products in 16 bits, which overflow; these do not.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class of their own
            raise BundleError(f"{path}: ONNX Runtime cannot open it ({one_line(error)}); export it again") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = [(item.type, item.shape) for item in inputs]
        check_tensors(path, "input", found, [(_ort(fmt.input_dtype), (1, *contract.shape))])
        expected: list[Tensor] = [(_ort(fmt.output_dtype), (1, 1))]
        if fmt.heat is not None:
            expected.append((_ort(fmt.heat.dtype), (1, 1, *fmt.heat.grid.size)))
        check_tensors(path, "output", [(item.type, item.shape) for item in outputs], expected)
        self._input = np.zeros((1, *contract.shape), fmt.input_dtype)
        self._output = np.zeros((1, 1), fmt.output_dtype)
        self._write = writer(fmt.input_dtype)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(inputs[0].name, ort.OrtValue.ortvalue_from_numpy(self._input))
        self._binding.bind_ortvalue_output(outputs[0].name, ort.OrtValue.ortvalue_from_numpy(self._output))
        self._heat, self._done = fmt.heat, False
        if fmt.heat is not None:
            self._heat_output = np.zeros((1, 1, *fmt.heat.grid.size), fmt.heat.dtype)
            self._binding.bind_ortvalue_output(outputs[1].name, ort.OrtValue.ortvalue_from_numpy(self._heat_output))

    def infer(self, image_u8: NDArray[np.uint8]) -> float:
        """The raw output for a `(height_px, width_px, channels)` uint8 picture."""
        self._done = False
        self._write(image_u8, self._input[0])
        self._session.run_with_iobinding(self._binding)
        self._done = True
        return float(self._output[0, 0])

    def heat(self) -> NDArray[np.float32] | None:
        """The heat map of the last `infer`, as `Engine.heat`."""
        check_done(self._done)
        return self._heat.to_logits(self._heat_output) if self._heat is not None else None


def _ort(dtype: str) -> str:
    return {"float32": "tensor(float)"}.get(dtype, f"tensor({dtype})")
