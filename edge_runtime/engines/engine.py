"""One picture in, one raw logit out: what the loop needs of an inference engine, and what engines share.

Everything serves latency at batch 1: input and output buffers are made once and the uint8 to int8
step is one XOR into them. An engine refuses a file that is not what the manifest says. Leaves out:
which engine runs which file (`choice.py`), thresholds and verdicts (`loop.py`), and engines on an
accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Format
from diagline.errors import BundleError

OPENVINO_BF16 = "openvino_bf16"
"""OpenVINO computing a float file in bf16, as it does by itself where the processor can. Its outputs stray far more
than another engine's rounding, so it is there to time a reference by, and no box runs it as its fastest."""
LIBRARIES = {
    "onnxruntime": ("onnxruntime", "edge"),
    "litert": ("ai_edge_litert.interpreter", "edge"),
    "openvino": ("openvino", "openvino"),
    OPENVINO_BF16: ("openvino", "openvino"),
}
"""What an engine imports, and the extra that brings it."""
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
