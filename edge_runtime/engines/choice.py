"""Which engines run a format, and opening a file with one of them.

Each family of formats has an engine of its own (ONNX Runtime for `onnx_*`, LiteRT for `tflite_*`), and
OpenVINO runs both. An engine's library is imported when its file is opened, so a box needs only the
one it uses. Leaves out: which of them is the fastest on a box (`bench/recorded.py`).
"""

from __future__ import annotations

from pathlib import Path

from diagline.bundle import Format
from diagline.errors import ConfigError, MissingExtraError, require
from diagline.preprocess import InputContract
from diagline.record import cpu_flags
from edge_runtime.engines.engine import LIBRARIES, OPENVINO_BF16, Engine
from edge_runtime.engines.litert_engine import LiteRtEngine
from edge_runtime.engines.openvino_engine import OpenVinoEngine
from edge_runtime.engines.ort_engine import OrtEngine

ENGINES = {"onnx": ("onnxruntime", "openvino", OPENVINO_BF16), "tflite": ("litert", "openvino")}
"""The engines of each family of formats, its own first: the golden outputs are that one's."""
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


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
        return OrtEngine(path, fmt, contract, threads, format_name.partition("_")[2])
    if engine == "litert":
        return LiteRtEngine(path, fmt, contract, threads, format_name.partition("_")[2])
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
