"""One picture in, one raw logit out: the inference engines behind one small Protocol.

`open_engine` pairs a bundle's file with its engine (`onnx_*` with ONNX Runtime, `tflite_*` with
LiteRT) and refuses a file that is not what the manifest says. An engine's library is imported
when its file is opened, so a box needs only the one it uses. Everything serves latency at
batch 1: input and output buffers are made once and the uint8 to int8 step is one XOR into them.
Leaves out: thresholds and verdicts (`loop.py`), and engines on an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Format
from diagline.errors import BundleError, ConfigError, require
from diagline.preprocess import InputContract
from edge_runtime.quiet import native_stderr_off

ENGINES = {"onnx": "onnxruntime", "tflite": "litert"}
Tensor = tuple[str, tuple[int, ...]]
"""Type and shape of one input or output."""


class Engine(Protocol):
    """What the loop needs of an inference engine.

    Attributes:
        name: as bundles and tables name it.
    """

    name: str

    def infer(self, image_u8: NDArray[np.uint8]) -> float:
        """The raw output, in the file's own domain, for a `(height_px, width_px, channels)` uint8 picture."""
        ...

    def heat(self) -> NDArray[np.float32] | None:
        """Where the last `infer` saw a defect: `(rows, columns)` of logits; None where the file has no heat map.

        The inference made it already; only those who ask pay for fetching it.

        Raises:
            RuntimeError: no `infer` since the start, or the last one failed.
        """
        ...


def open_engine(
    path: Path, format_name: str, fmt: Format, contract: InputContract, engine: str | None = None, threads: int = 2
) -> Engine:
    """Open a format's file with its engine.

    Args:
        path: the file.
        format_name: a name of `diagline.bundle.FORMATS`; it decides the engine.
        fmt: what the manifest says of the file.
        contract: the input that `preprocess` makes.
        engine: the engine asked for; None means the format's own.
        threads: processor threads of one inference.

    Raises:
        ConfigError: `engine` does not run this format.
        MissingExtraError: the engine's library is not installed.
        BundleError: the file does not open, or its input or output is not what the manifest says.
    """
    own = engine_of(format_name)
    if engine not in (None, own):
        raise ConfigError(f"engine {engine!r} does not run {format_name}; expected {own}; leave the engine out")
    if own == "onnxruntime":
        return OnnxEngine(path, fmt, contract, threads)
    return LiteRtEngine(path, fmt, contract, threads)


def engine_of(format_name: str) -> str:
    """The engine that runs a format, by the format's name.

    Raises:
        ConfigError: no engine runs it.
    """
    family = format_name.partition("_")[0]
    if family not in ENGINES:
        known = ", ".join(f"{name}_*" for name in ENGINES)
        raise ConfigError(f"format {format_name!r}: no engine runs it; expected one of {known}")
    return ENGINES[family]


class OnnxEngine:
    """ONNX Runtime on the processor, input and output bound to buffers made once."""

    name = "onnxruntime"

    def __init__(self, path: Path, fmt: Format, contract: InputContract, threads: int) -> None:
        """Open the file; raises as `open_engine`."""
        ort = require("onnxruntime", "edge")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors alone; they come back as exceptions too
        # Threads that spin between frames hold a whole core, and beside other work they tripled p90.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class of their own
            raise BundleError(f"{path}: ONNX Runtime cannot open it ({_line(error)}); export it again") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = [(item.type, item.shape) for item in inputs]
        _check(path, "input", found, [(_ort(fmt.input_dtype), (1, *contract.shape))])
        expected: list[Tensor] = [(_ort(fmt.output_dtype), (1, 1))]
        if fmt.heat is not None:
            expected.append((_ort(fmt.heat.dtype), (1, 1, *fmt.heat.grid.size)))
        _check(path, "output", [(item.type, item.shape) for item in outputs], expected)
        self._input = np.zeros((1, *contract.shape), fmt.input_dtype)
        self._output = np.zeros((1, 1), fmt.output_dtype)
        self._write = _writer(fmt.input_dtype)
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
        _check_done(self._done)
        return self._heat.to_logits(self._heat_output) if self._heat is not None else None


class LiteRtEngine:
    """LiteRT (TensorFlow Lite's runtime) with XNNPACK, written to and read from in place."""

    name = "litert"

    def __init__(self, path: Path, fmt: Format, contract: InputContract, threads: int) -> None:
        """Open the file; raises as `open_engine`."""
        litert = require("ai_edge_litert.interpreter", "edge")
        try:
            with native_stderr_off():  # "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
                self._interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"{path}: LiteRT cannot open it ({_line(error)}); export it again") from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        found = [(np.dtype(item["dtype"]).name, item["shape"].tolist()) for item in inputs]
        _check(path, "input", found, [(fmt.input_dtype, (1, *contract.shape))])
        expected: list[Tensor] = [(fmt.output_dtype, (1, 1, 1, 1))]
        if fmt.heat is not None:
            expected.append((fmt.heat.dtype, (1, *fmt.heat.grid.size, 1)))
        found = [(np.dtype(item["dtype"]).name, item["shape"].tolist()) for item in outputs]
        if found and found[0][1] == [1, 1]:  # made before the last layer was a convolution
            expected[0] = (fmt.output_dtype, (1, 1))
        _check(path, "output", found, expected)
        # Calls that give a fresh view each: a view that was kept would forbid the next invoke.
        self._input: Callable[[], NDArray[Any]] = self._interpreter.tensor(inputs[0]["index"])
        self._output: Callable[[], NDArray[Any]] = self._interpreter.tensor(outputs[0]["index"])
        self._write = _writer(fmt.input_dtype)
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
        _check_done(self._done)
        return self._heat.to_logits(self._heat_output()) if self._heat is not None else None


class FakeEngine:
    """An engine that answers from a list, in turn, and counts; an exception in the list is raised."""

    def __init__(self, answers: Sequence[float | Exception], name: str = "fake") -> None:
        self.name = name
        self.answers = tuple(answers)
        self.calls = 0

    def infer(self, image_u8: NDArray[np.uint8]) -> float:
        """The next answer; the list starts again at its end."""
        answer = self.answers[self.calls % len(self.answers)]
        self.calls += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def heat(self) -> None:
        """None: a list of answers has no place in a picture."""


def copy_u8(image_u8: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Copy a picture into an input buffer of the same shape."""
    np.copyto(out, image_u8)


def shift_to_i8(image_u8: NDArray[np.uint8], out: NDArray[np.int8]) -> None:
    """Write `image_u8 - 128` into an int8 buffer of the same shape: flipping the top bit is exactly that."""
    np.bitwise_xor(image_u8, np.uint8(0x80), out=out.view(np.uint8))


def _writer(dtype: str) -> Callable[[NDArray[np.uint8], NDArray[Any]], None]:
    return shift_to_i8 if dtype == "int8" else copy_u8


def _ort(dtype: str) -> str:
    return {"float32": "tensor(float)"}.get(dtype, f"tensor({dtype})")


def _check(path: Path, what: str, found: Sequence[tuple[str, Sequence[int]]], expected: Sequence[Tensor]) -> None:
    if [(kind, tuple(size)) for kind, size in found] != list(expected):
        held, said = (", ".join(f"{kind} {list(size)}" for kind, size in some) for some in (found, expected))
        raise BundleError(f"{path}: {what} is {held or 'none'}; the manifest says {said}; export it again")


def _check_done(done: bool) -> None:
    if not done:
        raise RuntimeError("no heat map: nothing was inferred yet, or the last inference failed")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
