"""What the maps of a float ONNX network hold, and between which ends int8 is to divide each.

One histogram a tensor, filled one picture at a time: its bins double in width where a value lies
outside, so memory grows neither with the pictures nor with their values (ONNX Runtime's own
collector keeps a reader's every activation, and adds bins without end after a faint first picture).
Every method takes its ends from the same histograms.
Leaves out: quantising with them (`export/quantise.py`), and which method to take (`export/choose.py`).

Source of "entropy": Migacz, "8-bit Inference with TensorRT", GTC 2017; here with unequal ends, and
with what lies beyond them as lost instead of moved onto them, which would make the narrowest the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

from diagline.errors import ExportError

METHODS = ("minmax", "percentile", "entropy", "mse")
BINS = 4096
LEVELS = 256  # of uint8
PERCENTILE = 99.99  # of the values lie within; half of the rest beyond each end
SHARES = np.geomspace(1, 1 / 32, 100)  # of the way from zero to an end, tried by the methods that search
LEAST = 1e-4  # of a value: what a bin beyond the ends is taken to hold, that its logarithm be finite

Cost = Callable[[float, float], float]
"""How much is lost between two ends."""


@dataclass(slots=True)
class Histogram:
    """How often each value of one tensor was seen, and the least and greatest of them.

    Attributes:
        counts: (BINS,) int64; bin i holds `start + i * width` up to the next bin's start.
        width: a power of two, so that merged bins hold exactly what they would have been given.
    """

    low: float = math.inf
    high: float = -math.inf
    start: float = 0.0
    width: float = 2.0**-40
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Count some more values, of any shape.

        Raises:
            ValueError: one of them is not finite.
        """
        low, high = float(values.min()), float(values.max())
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError(f"values from {low} to {high}; expected finite ones")
        while low < self.start:
            self.start -= BINS * self.width
            self._merge(left=True)
        while high >= self.start + BINS * self.width:
            self._merge(left=False)
        self.low, self.high = min(self.low, low), max(self.high, high)
        places = ((values.ravel().astype(np.float64) - self.start) / self.width).astype(np.int64)
        self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)

    def _merge(self, left: bool) -> None:
        """Twice as wide bins, the new ones on the left or on the right."""
        empty = np.zeros(BINS // 2, np.int64)
        pairs = self.counts.reshape(-1, 2).sum(1)
        self.counts = np.concatenate([empty, pairs] if left else [pairs, empty])
        self.width *= 2

    def ends(self, method: str) -> tuple[float, float]:
        """Least and greatest value that int8 is to tell apart, by a name of `METHODS`."""
        if method == "percentile":
            seen, tail = np.cumsum(self.counts), self.counts.sum() * (1 - PERCENTILE / 100) / 2
            first, last = np.searchsorted(seen, tail, "right"), np.searchsorted(seen, seen[-1] - tail)
            edges = self.start + self.width * np.array([first, last + 1])
            return max(self.low, float(edges[0])), min(self.high, float(edges[1]))
        if method == "minmax" or self.low == self.high:
            return self.low, self.high
        return self._search({"entropy": self._divergence, "mse": self._squared_error}[method]())

    def _search(self, cost: Cost) -> tuple[float, float]:
        """The cheapest ends: first the upper one, then the lower one for it; of equal ones the widest."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)  # zero is always one of int8's values
        high = min((high * share for share in SHARES), key=lambda end: cost(low, end)) if high else high
        low = min((low * share for share in SHARES), key=lambda end: cost(end, high)) if low else low
        return float(low), float(high)

    def _filled(self) -> tuple[NDArray[np.floating[Any]], NDArray[np.int64]]:
        """Middles of the bins that hold something, and their counts."""
        bins = np.flatnonzero(self.counts)
        return self.start + self.width * (bins + 0.5), self.counts[bins]

    def _squared_error(self) -> Cost:
        values, counts = self._filled()

        def cost(low: float, high: float) -> float:
            step = (high - low) / (LEVELS - 1)
            rounded = low + step * _levels(values, low, step)
            return float(counts @ np.square(values - rounded))

        return cost

    def _divergence(self) -> Cost:
        values, counts = self._filled()
        above = int(np.searchsorted(values, self.width / 2, "right"))
        if 0 < above < len(values) and values[above - 1] > -self.width / 2:
            counts[above - 1] = counts[above]  # int8 has a zero: the crowd there that ReLU makes loses nothing

        def cost(low: float, high: float) -> float:
            first, last = np.searchsorted(values, [low, high])
            levels = _levels(values[first:last], low, (high - low) / (LEVELS - 1))
            mass, bins = np.bincount(levels, counts[first:last], LEVELS), np.bincount(levels, minlength=LEVELS)
            told = np.full(len(counts), LEAST)
            told[first:last] = mass[levels] / bins[levels]  # int8 tells a level's bins no longer apart
            was, told = counts / counts.sum(), told / told.sum()
            return float(was @ np.log(was / told))

        return cost


def _levels(values: NDArray[np.floating[Any]], low: float, step: float) -> NDArray[np.int64]:
    levels: NDArray[np.int64] = np.rint((values - low) / step).clip(0, LEVELS - 1).astype(np.int64)
    return levels


def measure(path: Path, feeds: Iterable[dict[str, NDArray[Any]]]) -> dict[str, Histogram]:
    """Run a float network on every feed, and count the values of each float tensor that is not a constant.

    Args:
        path: what `quant_pre_process` made; a second file is written beside it.
        feeds: its inputs, read once, one in memory at a time.

    Raises:
        ExportError: a tensor that is not finite. Names it.
    """
    calibrator = create_calibrator(
        path, augmented_model_path=str(path.with_suffix(".all.onnx")), calibrate_method=CalibrationMethod.Percentile
    )
    found = {name: Histogram() for name in sorted(calibrator.tensors_to_calibrate)}
    for feed in feeds:
        for (name, histogram), values in zip(
            found.items(), calibrator.infer_session.run(list(found), feed), strict=True
        ):
            try:
                histogram.add(values)
            except ValueError as error:
                raise ExportError(f"{name} of the float network: {error}; train it again") from None
    return found
