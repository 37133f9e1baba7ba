"""Teacher, student and every exported format on the same pictures, side by side.

The figures a format earns come through its own file and a real engine, never from the torch
network it was made of. Leaves out: where two of them part ways (`export/parity.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagline import bundle as bundles
from diagline.config import Config
from diagline.console import track
from diagline.preprocess import preprocess
from diagline.samples import SampleSet
from edge_runtime.engines import open_engine
from training import evaluate, student, teacher


@dataclass(frozen=True, slots=True)
class Row:
    """One network in one form on the test split.

    Attributes:
        logits: `(N,)` float64, real-valued whatever the format's own domain.
        threshold: REJECT at or above; on the scale of `logits`.
        size_bytes: size of the file that would be shipped.
    """

    metrics: evaluate.Metrics
    logits: NDArray[np.float64]
    threshold: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows, and the pictures all of them saw.

    Attributes:
        labels: `(N,)` int, in the order of `test` and of each row's logits.
        rows: by name: teacher, student, then the bundle's formats.
    """

    test: SampleSet
    labels: NDArray[np.int64]
    rows: dict[str, Row]


def compare(config: Config, test: SampleSet, thresholds: dict[str, float]) -> Comparison:
    """Score what is there: the teacher, the student, and the bundle's formats once exported.

    Args:
        thresholds: logit threshold of "teacher" and "student", chosen on validation.

    Raises:
        TrainingError: teacher or student was not trained.
        DatasetError: the test split holds one class only.
    """
    rows: dict[str, Row] = {}
    labels = np.array([sample.label for sample in test], np.int64)
    for name, room in (("teacher", teacher), ("student", student)):
        path = config.output / name / f"{name}.pt"
        network = room.load(path)
        _, logits, _ = evaluate.scores(network, [test], config.input, batch_size=16)
        rows[name] = _row(labels, logits.astype(np.float64), thresholds[name], path)
    if (config.bundle / bundles.MANIFEST).is_file():
        rows.update(_formats(bundles.read(config.bundle), test, labels))
    return Comparison(test, labels, rows)


def _formats(bundle: bundles.Bundle, test: SampleSet, labels: NDArray[np.int64]) -> dict[str, Row]:
    contract = bundle.manifest.input
    pictures = [preprocess(test.read_image(sample), contract) for sample in test]
    rows = {}
    for name, fmt in bundle.manifest.formats.items():
        engine = open_engine(bundle.path(name), name, fmt, contract, engine=None, threads=2)
        outputs = [engine.infer(picture) for picture in track(pictures, f"scoring {name}")]
        logits = np.array([fmt.to_logit(output) for output in outputs], np.float64)  # as exact as the threshold
        rows[name] = _row(labels, logits, fmt.to_logit(fmt.threshold), bundle.path(name))
    return rows


def _row(labels: NDArray[np.int64], logits: NDArray[np.float64], threshold: float, path: Path) -> Row:
    return Row(evaluate.measure(labels, logits, threshold), logits, threshold, path.stat().st_size)
