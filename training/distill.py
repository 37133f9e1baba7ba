"""The student's run: it learns from the labels and from what the teacher says of each picture.

The teacher is asked once, about every way a picture is shown; its logits are kept in memory,
so the student's epochs cost what the student costs. Leaves out: the network (`student.py`).

Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", here with one logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from diagline import files
from diagline.config import Config
from diagline.console import track
from diagline.errors import TrainingError
from diagline.samples import SampleSet
from training import checkpoint, evaluate, loop, student, teacher
from training.data import Batch, Pictures, check_trainable

TEACHER_BATCH = 32
JITTER = 0.1
"""The student sees each picture a little brighter or darker than the teacher did, and is to say the same."""


def distill(
    config: Config, teacher_checkpoint: Path, train: Sequence[SampleSet], val: Sequence[SampleSet], target: Path
) -> Path:
    """Train the student as `config.student` says; returns target/student.pt.

    Writes student.pt, history.json and result.json (threshold chosen on `val`, the epoch kept).
    A finished run returns at once. With `soft_share` 0 the teacher is not opened.

    Raises:
        DatasetError: no training pictures, or one that cannot be read.
        TrainingError: no trained teacher, one class only, a loss that is not finite, or a target
            that another config was trained in.
    """
    check_trainable(train)
    made, wanted = target / "student.pt", config.student
    if wanted.soft_share > 0 and not teacher_checkpoint.is_file():
        raise TrainingError(
            f"{teacher_checkpoint}: not found; expected a trained teacher; run: diagline train CONFIG "
            f"(or set student.soft_share = 0 to learn from labels alone)"
        )
    identity = checkpoint.describe(config, "student", train, val)
    if wanted.soft_share > 0:
        identity["teacher"] = files.sha256_file(teacher_checkpoint)
    if checkpoint.finished(target, identity, made):
        return made
    torch.manual_seed(config.seed)
    network = student.Student(student.spec(wanted.size, config.input))
    pictures = Pictures(train, config.input, wanted.flips, config.seed)
    loss: loop.Loss = loop.hard_loss
    if wanted.soft_share > 0:
        asked = ask(teacher.load(teacher_checkpoint), pictures, config.teacher.precision)
        loss = SoftLoss(asked, wanted.temperature, wanted.soft_share)
    settings = loop.Settings(
        epochs=wanted.epochs,
        batch_size=wanted.batch_size,
        learning_rate=wanted.learning_rate,
        balance=wanted.balance,
        schedule="cosine",
        jitter=JITTER,
    )
    validation = loop.validation_pictures(config, val)
    done = loop.fit(network, pictures, validation, settings, target, identity, loss)
    result = loop.conclude(network, validation, done)
    student.save(network, made, result)
    checkpoint.finish(target, identity, result)
    return made


def ask(network: nn.Module, pictures: Pictures, precision: str = "fp32") -> NDArray[np.float32]:
    """The teacher's logits on every picture in every way it is shown, (4, N) float32; NaN where it is not.

    Args:
        network: the teacher; moved to the accelerator where there is one.
        pictures: N training pictures.
        precision: auto, fp32 or bf16 (autocast).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = np.full((4, len(pictures)), np.nan, np.float32)
    steps = -(-len(pictures) // TEACHER_BATCH)
    for variant in pictures.variants:
        batches = pictures.in_order(TEACHER_BATCH, variant)
        shown = track(batches, f"asking the teacher ({variant + 1} of {len(pictures.variants)})", total=steps)
        with loop.autocast(precision, device.type):
            logits[variant] = evaluate.predict(network, shown)
    return logits


class SoftLoss:
    """(1 - soft_share) BCE(labels) + soft_share T^2 BCE(student / T against sigmoid(teacher / T)).

    Args:
        asked: (4, N) float32, the teacher's logit per variant and picture.
        temperature: T; T^2 keeps the soft term's gradients at the hard term's size.
        soft_share: 0 to 1.
    """

    def __init__(self, asked: NDArray[np.float32], temperature: float, soft_share: float) -> None:
        self._asked = torch.from_numpy(asked)
        self._temperature = temperature
        self._soft_share = soft_share

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        """One number of logits (n,) and labels (n,)."""
        said = self._asked[batch.variants, batch.indices].to(logits.device)
        aim = torch.sigmoid(said / self._temperature)
        soft = binary_cross_entropy_with_logits(logits / self._temperature, aim) * self._temperature**2
        return (1 - self._soft_share) * loop.hard_loss(logits, labels, batch) + self._soft_share * soft
