"""How good a network is: one set of figures for teacher, student and every exported format.

Works on labels and logits, so that whatever made them (torch, ONNX Runtime, LiteRT, a board)
is measured alike; `scores` makes them with a torch module. Leaves out: intervals and seeds
(`intervals.py`), and the certificate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score
from torch import nn

from diagline.console import track
from diagline.errors import DatasetError
from diagline.metrics import average_precision, checked, escape_and_overkill
from diagline.preprocess import InputContract, preprocess
from diagline.samples import DEFECT, GOOD, Sample, SampleSet
from training.precision import to_pixels


@dataclass(frozen=True, slots=True)
class Metrics:
    """What was measured on one set of pictures; shares are 0 to 1.

    Attributes:
        ap: average precision by steps, no threshold.
        auroc: area under the ROC curve, no threshold.
        best_f1: highest F1 over all thresholds of this same data: the paper's rule, optimistic.
        precision_at_best_f1: at that threshold.
        recall_at_best_f1: at that threshold.
        precision: share of the rejected that are defects, at the given threshold; 0 when none is rejected.
        recall: share of the defects that are rejected.
        escape: share of the defects that pass.
        overkill: share of the good parts that are rejected.
        threshold: the given threshold, a logit; REJECT at or above it.
        images: pictures measured.
        defects: those labelled 1.
        ap_trapezoid: area under the precision-recall curve by trapezoids, as KSDD2's authors give AP.
    """

    ap: float
    auroc: float
    best_f1: float
    precision_at_best_f1: float
    recall_at_best_f1: float
    precision: float
    recall: float
    escape: float
    overkill: float
    threshold: float
    images: int
    defects: int
    ap_trapezoid: float


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of defect among all good parts.

    Attributes:
        defects: pictures of this kind.
        missed: those that pass at the given threshold.
        recall, escape: shares of `defects` at that threshold.
        ap: average precision of this kind's pictures against every good one.
        ap_trapezoid: the same by trapezoids.
    """

    defects: int
    missed: int
    recall: float
    escape: float
    ap: float
    ap_trapezoid: float


@dataclass(frozen=True, slots=True)
class Case:
    """One picture that was judged wrongly; `index` is its place in the list that was measured."""

    sample: Sample
    logit: float
    index: int


def measure(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Metrics:
    """Measure logits against labels.

    Args:
        labels: (N,) int, 1 = defect.
        scores: (N,) float, higher = more likely a defect.
        threshold: REJECT when score >= threshold.

    Raises:
        DatasetError: only one class is there, the lengths differ, or a score is not finite.

    Source: DIAG, section on evaluation (AP on logits, precision and recall at the best F1).
    """
    truth, values = checked(labels, scores)
    precisions, recalls = curve(truth, values)
    f1 = _f1(precisions, recalls)
    best = int(np.argmax(f1))
    rejected = values >= threshold
    hits = int(np.sum(rejected & (truth == DEFECT)))
    false_calls = int(np.sum(rejected & (truth == GOOD)))
    defects = int(np.sum(truth == DEFECT))
    escape, overkill = escape_and_overkill(truth, values, threshold)
    return Metrics(
        ap=average_precision(truth, values),
        auroc=float(roc_auc_score(truth, values)),
        best_f1=float(f1[best]),
        precision_at_best_f1=float(precisions[best]),
        recall_at_best_f1=float(recalls[best]),
        precision=hits / (hits + false_calls) if hits + false_calls else 0.0,
        recall=hits / defects,
        escape=escape,
        overkill=overkill,
        threshold=float(threshold),
        images=len(truth),
        defects=defects,
        ap_trapezoid=float(auc(recalls, precisions)),
    )


def by_kind(kinds: Sequence[str], labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, Kind]:
    """What became of each kind of defect, by name; a kind without a defect here is not in it.

    Args:
        kinds: N names; a good part's is not looked at.
        labels, scores, threshold: as `measure`.

    Raises:
        DatasetError: as `measure`.
    """
    truth, values = checked(labels, scores)
    names = np.asarray(kinds, str)
    found = {}
    for name in sorted(set(names[truth == DEFECT])):
        mine = (truth == GOOD) | (names == name)
        one = measure(truth[mine], values[mine], threshold)
        missed = round(one.escape * one.defects)
        found[str(name)] = Kind(one.defects, missed, one.recall, one.escape, one.ap, one.ap_trapezoid)
    return found


def choose_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The threshold with the highest F1; meant for a validation split.

    It stands halfway between the lowest rejected score and the next score below it, so that
    the small shifts of int8 rounding flip neither; where everything is rejected, it is
    just below the lowest score. Of equal F1 the lowest threshold wins: an escape costs more than a
    false call.

    Raises:
        DatasetError: as `measure`.
    """
    truth, values = checked(labels, scores)
    precisions, recalls, steps = precision_recall_curve(truth, values)
    f1 = _f1(precisions[:-1], recalls[:-1])  # the curve's last point, recall 0, has no threshold
    lowest = float(steps[int(np.argmax(f1))])
    below = values[values < lowest]
    if not below.size:
        return lowest - 1e-3  # wider than the noise between two engines
    halfway = (lowest + float(below.max())) / 2
    return halfway if halfway > below.max() else lowest


def curve(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall over all thresholds, recall falling to 0; two (M,) float64 arrays.

    Raises:
        DatasetError: as `measure`.
    """
    precisions, recalls, _ = precision_recall_curve(*checked(labels, scores))
    return precisions, recalls


def scores(
    network: nn.Module, sets: Sequence[SampleSet], contract: InputContract, batch_size: int = 32
) -> tuple[NDArray[np.int64], NDArray[np.float32], list[Sample]]:
    """Run a torch network over every picture of the sets.

    Args:
        network: takes float (N, C, H, W) in 0..1, returns (N,) or (N, 1) logits; runs where its weights are.
        sets: read in order.
        contract: what the network is fed.
        batch_size: pictures at a time.

    Returns:
        labels (N,) int64, logits (N,) float32, and the samples in the same order.

    Raises:
        DatasetError: a picture cannot be read, or the sets hold none.
    """
    pairs = [(one, sample) for one in sets for sample in one]
    if not pairs:
        raise DatasetError("no pictures to score; expected at least one; check the data's split column")

    def batches() -> Iterator[NDArray[np.uint8]]:
        starts = range(0, len(pairs), batch_size)
        for start in track(starts, "scoring pictures", total=len(starts)):
            some = pairs[start : start + batch_size]
            images = [preprocess(one.read_image(sample), contract) for one, sample in some]
            yield np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))

    labels = np.array([sample.label for _, sample in pairs], np.int64)
    return labels, predict(network, batches()), [sample for _, sample in pairs]


@torch.no_grad()
def predict(network: nn.Module, batches: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Logits, (N,) float32, of batches (n, C, H, W) uint8; in eval mode and fp32, mode restored after."""
    was_training = [module.training for module in network.modules()]
    network.eval()
    device = next(network.parameters()).device
    found = []
    try:
        for batch in batches:
            found.append(network(to_pixels(batch, device)).reshape(-1).float().cpu().numpy())
    finally:
        for module, training in zip(network.modules(), was_training, strict=True):
            module.training = training
    return np.concatenate(found).astype(np.float32)


def worst(
    samples: Sequence[Sample], labels: ArrayLike, logits: ArrayLike, threshold: float, count: int
) -> tuple[list[Case], list[Case]]:
    """The worst misses (defects passed, lowest logit first) and false calls (good rejected, highest first).

    Args:
        samples: N samples; labels and logits (N,) in their order.
        threshold: REJECT when logit >= threshold.
        count: most cases of each.
    """
    truth, values = np.asarray(labels), np.asarray(logits, np.float64)
    order = np.argsort(values, kind="stable")
    misses = [i for i in order if truth[i] == DEFECT and values[i] < threshold]
    false_calls = [i for i in order[::-1] if truth[i] == GOOD and values[i] >= threshold]
    first, second = (
        [Case(samples[i], float(values[i]), int(i)) for i in some[:count]] for some in (misses, false_calls)
    )
    return first, second


def _f1(precisions: NDArray[np.float64], recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    total = precisions + recalls
    return np.divide(2 * precisions * recalls, total, out=np.zeros_like(total), where=total > 0)
