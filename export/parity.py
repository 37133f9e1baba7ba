"""Where the forms of one network part ways: verdicts and logits on the same pictures.

Every form is fed with what `preprocess` makes. Each is judged at its own threshold, which
`threshold_for` carries from torch's logits into the form's own numbers. Leaves out: what is made
of it (`ladder.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from diagline.bundle import INT8_MAX, INT8_MIN, Format
from diagline.console import track
from diagline.errors import ExportError, require
from diagline.preprocess import InputContract, preprocess
from diagline.samples import Sample, SampleSet
from diagline.verdict import decide
from edge_runtime.engines.engine import copy_u8, shift_to_i8
from export.kernels import Kernels, reference
from training.evaluate import predict

Runner = Callable[[NDArray[np.uint8]], float]
"""A `(height_px, width_px, channels)` uint8 network input to one raw output."""
Picture = tuple[SampleSet, Sample]
"""A sample and the set it is read from."""
CHUNK = 16  # pictures per turn: engines that take turns at each one disturb each other's threads


@dataclass(frozen=True, slots=True)
class Parity:
    """What each form said of each picture.

    Attributes:
        shown: the N pictures.
        logits: (N,) float64, torch's; NaN where there was no torch network.
        outputs: per form (N,) float64 raw outputs.
    """

    shown: tuple[Picture, ...]
    logits: NDArray[np.float64]
    outputs: dict[str, NDArray[np.float64]]

    @property
    def pictures(self) -> tuple[str, ...]:
        """Names of the N pictures."""
        return tuple(sample.image for _, sample in self.shown)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) int64."""
        return np.array([sample.label for _, sample in self.shown], np.int64)

    def flips(self, name: str, fmt: Format, threshold: float) -> tuple[str, ...]:
        """Names of the pictures that a format judges otherwise than torch at `threshold` does."""
        pairs = zip(self.pictures, self.logits, self.outputs[name], strict=True)
        return tuple(
            picture for picture, logit, output in pairs if decide(logit, threshold) is not decide(output, fmt.threshold)
        )

    def largest_difference(self, name: str, fmt: Format) -> float:
        """The largest distance of a format's logit from torch's."""
        return float(np.max(np.abs(self.logits_of(name, fmt) - self.logits)))

    def logits_of(self, name: str, fmt: Format) -> NDArray[np.float64]:
        """(N,) float64: a format's outputs as logits."""
        return fmt.scale * (self.outputs[name] - fmt.zero_point)


def threshold_for(fmt: Format, threshold: float) -> float:
    """A float logit threshold in a format's own numbers.

    For int8 it is the least step whose logit is at or above the threshold, so a torch REJECT one
    step or more above it stays one. A threshold beyond what int8 can say becomes the end it
    lies beyond: a saturated output is a REJECT then, never a PASS of everything.

    Raises:
        ExportError: the threshold is not finite.
    """
    if not math.isfinite(threshold):
        raise ExportError(
            f"threshold {threshold}; expected a finite logit; choose it again with: diagline distill CONFIG"
        )
    if fmt.output_dtype != "int8":
        return threshold
    steps = range(INT8_MIN, INT8_MAX + 1)
    return next((step for step in steps if fmt.to_logit(step) >= threshold), INT8_MAX)


def compare(
    network: nn.Module | None, runners: Mapping[str, Runner], pictures: Sequence[Picture], contract: InputContract,
    what: str,
) -> Parity:  # fmt: skip
    """Show every picture to torch and to every form, some pictures in memory at a time.

    Args:
        network: takes float (N, C, H, W) in 0..1, returns (N,) logits; None where it is not at hand.
        runners: one per form.
        what: the progress bar's name.

    Raises:
        DatasetError: a picture cannot be read.
    """
    logits: list[float] = []
    outputs: dict[str, list[float]] = {name: [] for name in runners}
    shown = track(pictures, what)
    while chunk := list(itertools.islice(shown, CHUNK)):
        images = [preprocess(home.read_image(sample), contract) for home, sample in chunk]
        if network is None:
            logits.extend([math.nan] * len(images))
        else:
            logits.extend(predict(network, [np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))]).tolist())
        for name, runner in runners.items():
            outputs[name].extend(runner(image) for image in images)
    return Parity(
        tuple(pictures),
        np.array(logits, np.float64),
        {name: np.array(values, np.float64) for name, values in outputs.items()},
    )


def run_plainly(path: Path, format_name: str, fmt: Format) -> Runner:
    """A file executed without any optimisation: what fast engines are held against.

    ONNX runs node by node as written, so int8 as floats between explicit roundings; TFLite runs
    on its reference kernels.

    Raises:
        MissingExtraError: the engine's library is not installed.
    """
    if format_name.startswith("onnx"):
        ort = require("onnxruntime", "edge")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        source = session.get_inputs()[0].name

        def run(image_u8: NDArray[np.uint8]) -> float:
            return float(session.run(None, {source: _fed(image_u8, fmt)})[0].reshape(-1)[0])

        return run
    return on_kernels(reference(path.read_bytes()), fmt)


def on_kernels(kernels: Kernels, fmt: Format) -> Runner:
    """The raw logit of a TFLite file on one set of kernels."""

    def run(image_u8: NDArray[np.uint8]) -> float:
        return float(kernels(_fed(image_u8, fmt))[0].reshape(-1)[0])

    return run


def _fed(image_u8: NDArray[np.uint8], fmt: Format) -> NDArray[Any]:
    fed = np.empty((1, *image_u8.shape), fmt.input_dtype)
    (shift_to_i8 if fmt.input_dtype == "int8" else copy_u8)(image_u8, fed[0])
    return fed
