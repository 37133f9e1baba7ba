"""Which pictures become golden vectors, and which engines give them.

A golden picture is one that a healthy machine cannot get wrong and a faulty one does: hard,
yet farther from every threshold than a fast kernel's rounding strays from the plain one's.
Leaves out: running them on the box (`edge_runtime/selftest.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Format
from diagline.preprocess import InputContract, preprocess
from diagline.samples import DEFECT, GOOD, SampleSet
from diagline.verdict import decide
from edge_runtime import selftest
from edge_runtime.engines.engine import Engine
from export.parity import Parity, Picture

# Margins in steps: what the box's self-test allows an output to stray, one step for int8.
SAFE_STEPS = 10.0  # XNNPACK was seen 8 steps from TFLite's reference kernels, ONNX Runtime 3 from plain ONNX
LEAST_STEPS = 2.0  # nearer than this, what the self-test allows could flip a verdict
CANDIDATES = 4  # pictures looked at for each golden one


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Golden pictures and what plain execution of each format says of them.

    Attributes:
        shown: the pictures they are.
        frames: raw pictures, (h, w, 3) uint8 BGR.
        inputs: the same as the network is fed.
        labels: 0 good, 1 defect.
        outputs: per format (N,) float64 raw outputs.
    """

    shown: tuple[Picture, ...]
    frames: tuple[NDArray[np.uint8], ...]
    inputs: tuple[NDArray[np.uint8], ...]
    labels: tuple[int, ...]
    outputs: dict[str, NDArray[np.float64]]

    def verify(self, name: str, fmt: Format, engine: Engine) -> NDArray[np.float64] | None:
        """An engine's own outputs, (N,) float64, or None where a verdict is not the plain one's.

        An engine that throws or answers twice differently has failed as well.
        """
        try:
            first, second = ([engine.infer(image) for image in self.inputs] for _ in range(2))
        except Exception:  # whatever a library throws, its engine is not to be trusted
            return None
        pairs = zip(first, self.outputs[name], strict=True)
        agree = all(_agree(found, plain, fmt) for found, plain in pairs)
        return np.array(first, np.float64) if agree and first == second else None


def _agree(found: float, plain: float, fmt: Format) -> bool:
    """Whether two outputs are one verdict, or as near as rounding brings them."""
    near = abs(found - plain) < SAFE_STEPS * _step(fmt)  # a NaN is near nothing
    return near or (math.isfinite(found) and decide(found, fmt.threshold) is decide(plain, fmt.threshold))


def _step(fmt: Format) -> float:
    return selftest.tolerance(fmt, fmt.threshold)


def candidates(val: Sequence[SampleSet], train: Sequence[SampleSet], count: int, seed: int) -> list[Picture]:
    """Pictures to choose `count` golden ones from: validation ones, and training ones where they are too few.

    As many good as defective ones, where there are as many; drawn by `seed`.
    """
    found: list[Picture] = []
    for number, label in enumerate((GOOD, DEFECT)):
        pool = _of(val, label)
        if len(pool) < (count + 1) // 2:
            pool += _of(train, label)
        order = np.random.default_rng([seed, number]).permutation(len(pool))[: CANDIDATES * count // 2]
        found += [pool[index] for index in sorted(order)]
    return found


def choose(
    pictures: Sequence[Picture], known: Parity, formats: Mapping[str, Format], threshold: float, count: int,
    contract: InputContract,
) -> GoldenSet:  # fmt: skip
    """The golden set among `pictures`, of which plain execution said `known`.

    Raises:
        DatasetError: a picture cannot be read.
    """
    chosen = select(known.labels, margins(known, formats, threshold), count)
    frames = tuple(home.read_image(sample) for home, sample in (pictures[index] for index in chosen))
    return GoldenSet(
        tuple(pictures[index] for index in chosen),
        frames,
        tuple(preprocess(frame, contract) for frame in frames),
        tuple(int(known.labels[index]) for index in chosen),
        {name: known.outputs[name][chosen] for name in formats},
    )


def margins(known: Parity, formats: Mapping[str, Format], threshold: float) -> NDArray[np.float64]:
    """How safely each picture's verdict stands: (N,) float64, in steps of the format where it stands worst.

    Negative where a format's verdict is not torch's.
    """
    sides = np.where(known.logits >= threshold, 1.0, -1.0)
    worst = np.full(len(known.logits), np.inf)
    for name, fmt in formats.items():
        # Half a step: at the threshold is a REJECT, the step below it a PASS.
        worst = np.minimum(worst, sides * ((known.outputs[name] - fmt.threshold) / _step(fmt) + 0.5))
    return worst


def select(labels: NDArray[np.int64], margin: NDArray[np.float64], count: int) -> list[int]:
    """Indices of `count` golden pictures, ascending; fewer where fewer will do.

    Half of them good and half defective, as far as there are. One half of each class are the
    hardest that are safe (`SAFE_STEPS`), the others spread over the safe rest. Where a class has
    too few safe ones, the safest of its others fill up, none of them nearer than `LEAST_STEPS`
    unless the class had none at all.
    """
    good, bad = (np.flatnonzero(labels == label) for label in (GOOD, DEFECT))
    of_bad = min(len(bad), max(count - len(good), count // 2))
    return sorted(_pick(good, margin, min(len(good), count - of_bad)) + _pick(bad, margin, of_bad))


def _pick(indices: NDArray[np.int64], margin: NDArray[np.float64], count: int) -> list[int]:
    ranked = [int(index) for index in sorted(indices, key=lambda index: margin[index])]
    safe = [index for index in ranked if margin[index] >= SAFE_STEPS]
    if len(safe) <= count:
        others = [index for index in reversed(ranked) if LEAST_STEPS <= margin[index] < SAFE_STEPS]
        return (safe + others)[:count] or ranked[-1:]
    hard, rest = safe[: (count + 1) // 2], safe[(count + 1) // 2 :]
    spread = np.linspace(0, len(rest) - 1, count - len(hard)).round().astype(int)
    return hard + [rest[place] for place in spread]


def _of(sets: Sequence[SampleSet], label: int) -> list[Picture]:
    return [(one, sample) for one in sets for sample in one if sample.label == label]
