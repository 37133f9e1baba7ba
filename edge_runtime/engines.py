"""One picture in, one raw logit out: the inference engines behind one small Protocol.

`open_engine` pairs a bundle's file with an engine and refuses a file that is not what the manifest
says. Each family has an engine of its own (ONNX Runtime for `onnx_*`, LiteRT for `tflite_*`), and
OpenVINO (`openvino_engine.py`) runs both. An engine's library is imported when its file is opened, so
a box needs only the one it uses. Everything serves latency at batch 1: input and output buffers
are made once and the uint8 to int8 step is one XOR into them. Leaves out: thresholds and verdicts
(`loop.py`), and engines on an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Format
from diagline.errors import BundleError, ConfigError, MissingExtraError, require
from diagline.preprocess import InputContract
from diagline.record import cpu_flags
from edge_runtime.quiet import native_stderr_off

OPENVINO_BF16 = "openvino_bf16"
"""OpenVINO computing a float file in bf16, as it does by itself where the processor can. Its outputs stray far more
than another engine's rounding, so it is there to time a reference by, and no box runs it as its fastest."""
ENGINES = {"onnx": ("onnxruntime", "openvino", OPENVINO_BF16), "tflite": ("litert", "openvino")}
"""The engines of each family of formats, its own first: the golden outputs are that one's."""
LIBRARIES = {
    "onnxruntime": ("onnxruntime", "edge"),
    "litert": ("ai_edge_litert.interpreter", "edge"),
    "openvino": ("openvino", "openvino"),
    OPENVINO_BF16: ("openvino", "openvino"),
}
"""What an engine imports, and the extra that brings it."""
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
Tensor = tuple[str, tuple[int, ...]]
"""Type and shape of one input or output."""


class Engine(Protocol):
    """What the loop needs of an inference engine.

    Attributes:
        name: as bundles and tables name it.
        precision: what it computes in: fp32, int8 or bf16; a mix is joined by `+`, what most layers use first.
    """

    name: str
    precision: str

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
        format_name: a name of `diagline.bundle.FORMATS`; it decides the engines.
        fmt: what the manifest says of the file.
        contract: the input that `preprocess` makes.
        engine: the engine asked for; None means the format's own.
        threads: processor threads of one inference.

    Raises:
        ConfigError: `engine` does not run this format, or not on this processor.
        MissingExtraError: the engine's library is not installed.
        BundleError: the file does not open, or its input or output is not what the manifest says.
    """
    known = engines_of(format_name)
    engine = engine or known[0]
    if engine not in known:
        raise ConfigError(
            f"engine {engine!r} does not run {format_name}; expected one of {', '.join(known)}; leave the engine out"
        )
    if engine == OPENVINO_BF16 and not BF16_FLAGS & cpu_flags():
        raise ConfigError(
            f"engine {engine!r}: this processor has no bf16; expected {' or '.join(sorted(BF16_FLAGS))}; "
            f"take openvino, which computes in fp32"
        )
    if engine == "onnxruntime":
        return OnnxEngine(path, fmt, contract, threads, format_name.partition("_")[2])
    if engine == "litert":
        return LiteRtEngine(path, fmt, contract, threads, format_name.partition("_")[2])
    from edge_runtime.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(path, fmt, contract, threads, engine)


def engines_of(format_name: str) -> tuple[str, ...]:
    """The engines that run a format, by the format's name, its own first.

    Raises:
        ConfigError: no engine runs it.
    """
    family, _, precision = format_name.partition("_")
    if family not in ENGINES:
        known = ", ".join(f"{name}_*" for name in ENGINES)
        raise ConfigError(f"format {format_name!r}: no engine runs it; expected one of {known}")
    return tuple(name for name in ENGINES[family] if name != OPENVINO_BF16 or precision == "fp32")


def missing(engine: str) -> str | None:
    """Why an engine cannot run on this machine, in one line; None where it can."""
    if engine not in LIBRARIES:
        return f"this diagline knows no engine {engine!r}"
    try:
        require(*LIBRARIES[engine])
    except MissingExtraError as error:
        return str(error)
    return "this processor has no bf16" if engine == OPENVINO_BF16 and not BF16_FLAGS & cpu_flags() else None


class OnnxEngine:
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


class FakeEngine:
    """An engine that answers from a list, in turn, and counts; an exception in the list is raised."""

    def __init__(self, answers: Sequence[float | Exception], name: str = "fake") -> None:
        self.name, self.precision = name, "none"
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


def writer(dtype: str) -> Callable[[NDArray[np.uint8], NDArray[Any]], None]:
    """What writes a picture into an input buffer of that type."""
    return shift_to_i8 if dtype == "int8" else copy_u8


def _ort(dtype: str) -> str:
    return {"float32": "tensor(float)"}.get(dtype, f"tensor({dtype})")


def outputs_of(fmt: Format, found: Sequence[tuple[str, Sequence[int]]], tflite: bool) -> list[Tensor]:
    """The outputs a file must have; `found` says which shape the logit of an older TFLite file has."""
    logit = (1, 1, 1, 1) if tflite and list(found[0][1]) != [1, 1] else (1, 1)  # (1, 1) was a FULLY_CONNECTED
    expected: list[Tensor] = [(fmt.output_dtype, logit)]
    if fmt.heat is not None:
        rows, columns = fmt.heat.grid.size
        expected.append((fmt.heat.dtype, (1, rows, columns, 1) if tflite else (1, 1, rows, columns)))
    return expected


def check_tensors(
    path: Path, what: str, found: Sequence[tuple[str, Sequence[int]]], expected: Sequence[Tensor]
) -> None:
    """Refuse a file whose inputs or outputs are not what the manifest says.

    Raises:
        BundleError: says what the file has and what was expected.
    """
    if [(kind, tuple(size)) for kind, size in found] != list(expected):
        held, said = (", ".join(f"{kind} {list(size)}" for kind, size in some) for some in (found, expected))
        raise BundleError(f"{path}: {what} is {held or 'none'}; the manifest says {said}; export it again")


def check_done(done: bool) -> None:
    """Refuse a heat map where no inference made one, as `Engine.heat`."""
    if not done:
        raise RuntimeError("no heat map: nothing was inferred yet, or the last inference failed")


def one_line(error: Exception) -> str:
    """A library's error in one line."""
    return " ".join(str(error).split())[:200]
