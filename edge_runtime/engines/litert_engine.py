"""LiteRT (TensorFlow Lite's runtime) on the processor: the engine of the `tflite_*` formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Format
from diagline.errors import BundleError, require
from diagline.preprocess import InputContract
from edge_runtime.engines.engine import LIBRARIES, check_done, check_tensors, one_line, outputs_of, writer
from edge_runtime.engines.quiet import native_stderr_off


class LiteRtEngine:
    """LiteRT (TensorFlow Lite's runtime) with XNNPACK, written to and read from in place."""

    name = "litert"

    def __init__(self, path: Path, fmt: Format, contract: InputContract, threads: int, precision: str) -> None:
        """Open the file; raises as `open_engine`."""
        self.precision = precision
        litert = require(*LIBRARIES[self.name])
        try:
            with native_stderr_off():  # "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
                self._interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"{path}: LiteRT cannot open it ({one_line(error)}); export it again") from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        found = [(np.dtype(item["dtype"]).name, item["shape"].tolist()) for item in inputs]
        check_tensors(path, "input", found, [(fmt.input_dtype, (1, *contract.shape))])
        found = [(np.dtype(item["dtype"]).name, item["shape"].tolist()) for item in outputs]
        check_tensors(path, "output", found, outputs_of(fmt, found, tflite=True))
        # Calls that give a fresh view each: a view that was kept would forbid the next invoke.
        self._input: Callable[[], NDArray[Any]] = self._interpreter.tensor(inputs[0]["index"])
        self._output: Callable[[], NDArray[Any]] = self._interpreter.tensor(outputs[0]["index"])
        self._write = writer(fmt.input_dtype)
        self._heat, self._done = fmt.heat, False
        if fmt.heat is not None:
            self._heat_output: Callable[[], NDArray[Any]] = self._interpreter.tensor(outputs[1]["index"])

    def infer(self, image_u8: NDArray[np.uint8]) -> float:
        """The raw output for a `(height_px, width_px, channels)` uint8 picture."""
        self._done = False
        self._write(image_u8, self._input()[0])
        self._interpreter.invoke()
        self._done = True
        return float(self._output().item())

    def heat(self) -> NDArray[np.float32] | None:
        """The heat map of the last `infer`, as `Engine.heat`."""
        check_done(self._done)
        return self._heat.to_logits(self._heat_output()) if self._heat is not None else None
