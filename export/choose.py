"""Which int8 ONNX file of a network is kept: that of the ranges which leave most verdicts as they are.

Every method's file is judged on held-out pictures, executed plainly, so that the choice is the
same on every processor. Leaves out: the methods (`export/calibrate.py`), and TFLite, whose
converter knows the least and the greatest value alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from diagline import files
from diagline.bundle import Format
from diagline.config import ExportConfig
from diagline.console import console, track
from diagline.preprocess import InputContract
from diagline.samples import SampleSet
from export import parity
from export.calibrate import METHODS
from export.parity import Picture
from export.quantise import Measured, QuantisedModel, quantise

FEW = 50  # held-out pictures; with fewer a single verdict may choose the method


@dataclass(frozen=True, slots=True)
class Judges:
    """What files are chosen by.

    Attributes:
        network: the float network.
        threshold: its, a logit.
        val: held-out pictures: neither calibrated on nor of the test split.
    """

    network: nn.Module
    threshold: float
    val: Sequence[SampleSet]
    contract: InputContract


def choose(
    measured: Measured, asked: ExportConfig, judges: Judges, what: str, methods: Sequence[str] = METHODS
) -> tuple[QuantisedModel, dict[str, Any]]:
    """An int8 file, and how it came about as plain data.

    Args:
        asked: `calibration` is one of `METHODS`, or "best" of `methods`: fewest flipped verdicts, then
            the least mean distance of the logits from the float ones, then their order.
        what: names the file in progress bars.

    Returns:
        The file, and `{"calibration": method, "weights": "full" or "reduced"}`, with "best" also
        `"pictures"`, how many judged, and `"scores": {method: {"flips", "mean_difference"}}`.

    Raises:
        ExportError: as `quantise`.
        DatasetError: a held-out picture cannot be read.
    """
    weights, pictures = asked.weights, [(one, sample) for one in judges.val for sample in one]
    method, how = asked.calibration, {"weights": weights}
    if method != "best":
        return quantise(measured, method, weights == "reduced"), {"calibration": method, **how}
    if len(pictures) < FEW:
        console.print(
            f"{what}: {len(pictures)} validation pictures choose among {', '.join(methods)}: with fewer than {FEW} a "
            f"single verdict may decide; add some, or set export.calibration to one of them"
        )
    made = {name: quantise(measured, name, weights == "reduced") for name in track(methods, f"{what}: ranges")}
    scores = _scores(made, judges, pictures, what)
    best = min(
        methods, key=lambda name: (scores[name]["flips"], scores[name]["mean_difference"])
    )  # the first of equals
    return made[best], {"calibration": best, **how, "pictures": len(pictures), "scores": scores}


def _scores(
    made: dict[str, QuantisedModel], judges: Judges, pictures: Sequence[Picture], what: str
) -> dict[str, dict[str, float]]:
    """Per method the flipped verdicts and the mean distance of the logits, on every held-out picture."""
    if not pictures:
        return {name: {"flips": 0, "mean_difference": 0.0} for name in made}
    with tempfile.TemporaryDirectory() as folder:
        formats, runners = {}, {}
        for name, model in made.items():
            fmt = Format(f"{name}.onnx", "uint8", "int8", model.scale, model.zero_point, 0)
            formats[name] = replace(fmt, threshold=parity.threshold_for(fmt, judges.threshold))
            files.write_bytes(Path(folder) / fmt.file, model.data)
            runners[name] = parity.run_plainly(Path(folder) / fmt.file, "onnx_int8", fmt)
        said = parity.compare(judges.network, runners, pictures, judges.contract, f"{what}: choosing its ranges")
    return {
        name: {
            "flips": len(said.flips(name, fmt, judges.threshold)),
            "mean_difference": float(np.abs(said.logits_of(name, fmt) - said.logits).mean()),
        }
        for name, fmt in formats.items()
    }
