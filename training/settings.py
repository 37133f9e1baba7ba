"""How a network is trained, as plain values, and the learning rate they come to at each step.

Leaves out: the steps (`loop.py`) and the config's own words (`diagline/config_train.py`).

Source: DIAG trains with binary cross-entropy and Adam at a constant 1e-4, last epoch kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from diagline.config_train import TeacherConfig
from training.data import Batch

WARM_UP = 0.05
"""Share of the steps over which the cosine schedule rises to the learning rate."""

Loss = Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]
"""From logits (n,) float, labels (n,) float and the batch to one number: a mean over the batch's
pictures, for under a launcher each process is given its part of the batch alone."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How `fit` trains; see TeacherConfig for the words.

    Attributes:
        batch_size: pictures a step, of all processes together.
        schedule: "constant", or "cosine": a short linear rise, then a half cosine down to 0.
        weight_decay: Adam's decoupled one (AdamW); 0 is plain Adam.
        jitter: each picture's contrast and brightness change by up to this share; 0 is none.
        keep: "best" or "last".
        average: share that the moving average of the weights keeps at each step; it is validated and kept in
            place of the newest weights. 0: none.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    balance: bool
    schedule: str = "constant"
    weight_decay: float = 0.0
    batch_norm: str = "train"
    precision: str = "fp32"
    jitter: float = 0.0
    keep: str = "best"
    average: float = 0.0


def of_teacher(config: TeacherConfig) -> Settings:
    """What `[teacher]` says of its training."""
    return Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        balance=config.balance,
        schedule=config.schedule,
        weight_decay=config.weight_decay,
        batch_norm=config.batch_norm,
        precision=config.precision,
        keep=config.keep,
        average=config.average,
    )


def rate(settings: Settings, epochs_done: float) -> float:
    """The learning rate after so many epochs, fractions included."""
    return settings.learning_rate * factor(settings, epochs_done)


def factor(settings: Settings, epochs_done: float) -> float:
    """The schedule's share of the learning rate, 0 to 1."""
    if settings.schedule == "constant":
        return 1.0
    share = epochs_done / settings.epochs
    return min(1.0, (share + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * share)) / 2


def hard_loss(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Binary cross-entropy of logits (n,) against labels (n,) 0 or 1."""
    return binary_cross_entropy_with_logits(logits, labels)


def soft_loss(logits: torch.Tensor, said: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 BCE(logits / T against sigmoid(said / T)), the mean over all; T^2 keeps the gradients' size.

    Args:
        logits, said: the student's and the teacher's, of equal shape.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", here with one logit.
    """
    aim = torch.sigmoid(said / temperature)
    return binary_cross_entropy_with_logits(logits / temperature, aim) * temperature**2
