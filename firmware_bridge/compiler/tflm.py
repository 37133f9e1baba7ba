"""TFLite Micro: what the engine is held against, and where those go who stay with it.

Its reference kernels on this machine, the arena it needs, and a network as C sources for its
interpreter. Leaves out: TFLite Micro itself.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline import files
from diagline.errors import ExportError, require
from firmware_bridge.compiler import tflite_file
from firmware_bridge.compiler.compile import Network
from firmware_bridge.compiler.golden import Answer, Runner

ARENA_BYTES = 1 << 24  # the package's own guess, ten times the file, is too little for small networks
ALIGNMENT = 16


def micro(network: Network) -> Runner:
    """The network on TFLite Micro's reference kernels.

    Raises:
        MissingExtraError: tflite-micro is not installed.
    """
    interpreter = _interpreter(network.tflite)
    header = network.header
    count = 2 if header.heat_rows else 1

    def run(image_u8: NDArray[np.uint8]) -> Answer:
        interpreter.set_input((image_u8 ^ 0x80).view(np.int8)[None], 0)
        interpreter.invoke()
        ends = [interpreter.get_output(number) for number in range(count)]
        first = next(i for i, end in enumerate(ends) if end.size == header.outputs)
        heat = ends[1 - first].reshape(header.heat_rows, header.heat_columns) if count == 2 else None
        return ends[first].reshape(-1), heat

    return run


def arena_bytes(tflite: bytes) -> int:
    """What TFLite Micro's interpreter allocates for a file, its own bookkeeping included, on this machine.

    Raises:
        MissingExtraError: tflite-micro is not installed.
    """
    found = tflite_file.read(tflite)
    interpreter = _interpreter(tflite)
    shape = found.tensors[found.inputs[0]].shape
    said = _said(lambda: _fill(interpreter, shape))
    match = re.search(r"Arena allocation total (\d+) bytes", said)
    if match is None:
        raise ExportError(f"tflite-micro said {said.strip()[:80]!r}; expected its arena; install the pinned version")
    return int(match.group(1))


def _fill(interpreter: Any, shape: tuple[int, ...]) -> None:
    interpreter.set_input(np.zeros(shape, np.int8), 0)
    interpreter.invoke()
    interpreter.print_allocations()


def _interpreter(tflite: bytes) -> Any:
    runtime = require("tflite_micro.python.tflite_micro.runtime", "workstation")
    return runtime.Interpreter.from_bytes(tflite, arena_size=ARENA_BYTES)


def _said(call: Callable[[], None]) -> str:
    """What a call writes to file descriptor 2, from C++ too."""
    with tempfile.TemporaryFile() as stream:
        with _descriptor(2, stream.fileno()):
            call()
        stream.seek(0)
        return stream.read().decode(errors="replace")


@contextmanager
def _descriptor(number: int, to: int) -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(number)
    try:
        os.dup2(to, number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def write_sources(folder: Path, name: str, tflite: bytes) -> list[Path]:
    """Write a network as C for TFLite Micro's interpreter: the file as an array, and the operators that it needs.

    Args:
        name: becomes part of file names and symbols.

    Returns:
        The files written: NAME_model.h, NAME_model.c, NAME_ops.h (C++).

    Raises:
        ExportError: a name that gives no C symbol.
        OutputError: the folder cannot be written to.
    """
    symbol = re.sub(r"\W", "_", name)
    if not re.match(r"[A-Za-z_]", symbol):
        raise ExportError(f"name {name!r}; expected one that begins with a letter; choose one with --name")
    guard = f"{symbol.upper()}_MODEL_H"
    rows = (", ".join(f"0x{byte:02x}" for byte in tflite[at : at + 16]) for at in range(0, len(tflite), 16))
    operators = sorted({operator.name for operator in tflite_file.read(tflite).operators})
    added = "\n".join(f"    if (resolver.Add{_method(one)}() != kTfLiteOk) return kTfLiteError;" for one in operators)
    texts = {
        f"{symbol}_model.h": (
            f"#ifndef {guard}\n#define {guard}\n\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n"
            f"extern const unsigned char {symbol}_model[];\nextern const unsigned int {symbol}_model_bytes;\n"
            f"#ifdef __cplusplus\n}}\n#endif\n\n#endif\n"
        ),
        f"{symbol}_model.c": (
            f'#include "{symbol}_model.h"\n\nconst unsigned int {symbol}_model_bytes = {len(tflite)};\n'
            f"_Alignas({ALIGNMENT}) const unsigned char {symbol}_model[] = {{\n    "
            + ",\n    ".join(rows)
            + ",\n};\n"
        ),
        f"{symbol}_ops.h": (
            f"// The operators of {symbol}_model: a resolver for tflite::MicroInterpreter.\n#pragma once\n"
            f'#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"\n\n'
            f"using {symbol}_resolver = tflite::MicroMutableOpResolver<{len(operators)}>;\n\n"
            f"inline TfLiteStatus {symbol}_add_ops({symbol}_resolver& resolver) {{\n"
            f"{added}\n    return kTfLiteOk;\n}}\n"
        ),
    }  # fmt: skip
    for file, text in texts.items():
        files.write_bytes(folder / file, text.encode())
    return [folder / file for file in texts]


def _method(operator: str) -> str:
    """CONV_2D as `MicroMutableOpResolver` names it: Conv2D."""
    return "".join(word.capitalize() if word.isalpha() else word for word in operator.split("_"))
