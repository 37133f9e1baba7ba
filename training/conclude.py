"""What a finished run says of itself: the threshold, how it and the epoch were chosen, validation figures.

Leaves out: training (`loop.py`) and the figures themselves (`evaluate.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from diagline.config import Config
from diagline.samples import SampleSet
from training import evaluate
from training.data import Pictures, both_classes


@dataclass(frozen=True, slots=True)
class Fit:
    """What `loop.fit` did: one history row an epoch, the epoch (from 1) whose weights were kept, and why that one."""

    history: list[dict[str, Any]]
    epoch: int
    epoch_rule: str


def validation_pictures(config: Config, val: Sequence[SampleSet]) -> Pictures | None:
    """The validation pictures, or None when they cannot choose anything: empty, or of one class."""
    return Pictures(val, config.input, "none", config.seed, "validation") if both_classes(val) else None


def conclude(network: nn.Module, validation: Pictures | None, done: Fit) -> dict[str, Any]:
    """What result.json says of a trained network: threshold, how it and the epoch were chosen, validation metrics.

    Without validation pictures of both classes the threshold is logit 0, where the network
    itself puts even odds.
    """
    result: dict[str, Any] = {
        "threshold": 0.0,
        "threshold_rule": "logit 0: the validation split does not hold both classes",
        "epoch": done.epoch,
        "epoch_rule": done.epoch_rule,
        "epochs": len(done.history),
        "training_s": round(sum(row["seconds"] for row in done.history), 1),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "validation": None,
    }
    if validation is not None:
        logits = evaluate.predict(network, validation.in_order(32))
        threshold = evaluate.choose_threshold(validation.labels, logits)
        measured = asdict(evaluate.measure(validation.labels, logits, threshold))
        rule = "best F1 on the validation split, halfway between neighbouring logits"
        result.update(threshold=threshold, threshold_rule=rule, validation=measured)
    return result
