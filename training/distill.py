"""The student's run: it learns from the labels and from what the teacher says of each picture.

The teacher is asked once, about every way a picture is shown; its logits (and, for the hints, its
maps) are kept in memory, so the student's epochs cost what the student costs. `alone` is the same
student without a teacher: a distillation that gains nothing is to be seen. Leaves out: the
network (`student.py`), the hints (`hints.py`), int8 fine-tuning (`quantised.py`).

Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", here with one logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from diagline import files
from diagline.config import Config
from diagline.config_train import StudentConfig
from diagline.console import track
from diagline.errors import TrainingError
from diagline.samples import SampleSet
from training import checkpoint, hints, launch, loop, precision, quantised, student, student_spec, teacher
from training.data import Batch, Pictures, check_trainable
from training.equalise import equalise
from training.settings import soft_loss

TEACHER_BATCH = 16


def distill(
    config: Config, teacher_checkpoint: Path, train: Sequence[SampleSet], val: Sequence[SampleSet], target: Path
) -> Path:
    """Train the student as `config.student` says; returns target/student.pt.

    Writes student.pt (folded, its channels equalised for int8), history.json and result.json
    (threshold chosen on `val`, the epoch kept). A finished run returns at once. With `soft_share` 0
    and no hints the teacher is not opened.

    Raises:
        DatasetError: no training pictures, or one that cannot be read.
        TrainingError: no trained teacher, one class only, a loss that is not finite, or a target
            that another config was trained in.
    """
    made, wanted, processes = target / "student.pt", config.student, launch.here()
    taught = wanted.soft_share > 0 or wanted.hints > 0 or wanted.places > 0
    with processes.together():
        check_trainable(train)
        if taught and not teacher_checkpoint.is_file():
            raise TrainingError(
                f"{teacher_checkpoint}: not found; expected a trained teacher; run: diagline train CONFIG "
                f"(or set student.soft_share, hints and places to 0, to learn from labels alone)"
            )
        identity = checkpoint.describe(config, "student", train, val)
        if taught:
            identity["teacher"] = files.sha256_file(teacher_checkpoint)
        if checkpoint.finished(target, identity, made):
            return made
        torch.manual_seed(config.seed)
        network = student.Student(student_spec.spec(wanted.size, config.input))
        pictures = Pictures(train, config.input, wanted.flips, config.seed, views=wanted.views, shown=wanted.shown)
        validation = loop.validation_pictures(config, val)
        trained: torch.nn.Module = network
        loss: loop.Loss = loop.hard_loss
        soft: loop.Loss = loss
        if taught:
            trained, loss, soft = _listen(config, teacher.load(teacher_checkpoint), network, pictures)
    done = loop.fit(trained, pictures, validation, _settings(wanted), target, identity, loss)
    chosen = quantised.calibration_indices(pictures.labels, config.export.calibration_images, config.seed)
    calibration = quantised.calibration_batches(pictures, chosen)
    network = equalise(student.fold(network), calibration)
    facts: dict[str, Any] = {}
    if wanted.quantised_epochs:
        settings = replace(
            _settings(wanted), epochs=wanted.quantised_epochs, learning_rate=wanted.quantised_learning_rate
        )
        network, tuned = quantised.fine_tune(
            network, pictures, validation, settings, target / "int8", identity, soft, calibration
        )
        facts = {"int8_epoch": tuned.epoch, "int8_epoch_rule": tuned.epoch_rule}

    def conclude_and_save() -> None:
        result = {**loop.conclude(network, validation, done), **facts}
        student.save(network, made, result)
        checkpoint.finish(target, identity, result)

    processes.on_main(conclude_and_save)
    return made


def alone(config: Config) -> Config:
    """The config of the same student without a teacher: labels alone, and so nothing altered that has none."""
    student = config.student
    if student.shown == "altered":
        student = replace(student, shown="moved", views=0, jitter=StudentConfig().jitter)
    return replace(config, student=replace(student, soft_share=0.0, hints=0.0, places=0.0))


@dataclass(frozen=True, slots=True)
class Question:
    """What the teacher is asked about each picture beside its logit; sizes are `(height, width)`, None asks nothing.

    Attributes:
        maps: the student's map that is given hints.
        places: the student's heat map; of a teacher with the head `patches`, the map that is given hints.
    """

    maps: tuple[int, int] | None = None
    places: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the teacher says, per way of being shown and picture.

    Attributes:
        logits: (variants, N) float32; NaN where a picture is not shown in that way.
        maps: (variants, N, hints.CHANNELS, *Question.maps) float16.
        places: (variants, N, *Question.places) float16, logits; with the head `patches` each is the strongest
            of those that lie there, else their mean.
    """

    logits: NDArray[np.float32]
    maps: NDArray[np.float16] | None = None
    places: NDArray[np.float16] | None = None


def ask(
    network: teacher.Teacher, pictures: Pictures, numbers: str, about: Question | None = None, seed: int = 0
) -> Asked:
    """Ask the teacher once about every picture in every way it is shown.

    Args:
        network: moved to the accelerator where there is one.
        pictures: N training pictures.
        numbers: auto, fp32 or bf16 (autocast).
        about: what beside the logits; None: nothing.
        seed: of the places that the hints' directions are taken from.
    """
    device, about = launch.here().device, about or Question()
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    shape = (max(pictures.variants) + 1, len(pictures))
    logits = np.full(shape, np.nan, np.float32)
    maps = None if about.maps is None else np.zeros((*shape, hints.CHANNELS, *about.maps), np.float16)
    places = None if about.places is None else np.zeros((*shape, *about.places), np.float16)
    gather = adaptive_avg_pool2d if network.patches is None else adaptive_max_pool2d
    directions: hints.Directions | None = None

    @torch.no_grad()
    def look(batch: NDArray[np.uint8]) -> teacher.Look:
        pixels = precision.to_pixels(batch, device)
        with precision.autocast(numbers, device.type):
            return network.look(pixels)

    if maps is not None:
        some = list(pictures.in_order(TEACHER_BATCH, pictures.variants[0]))
        directions = hints.Directions((look(batch).inner for batch in some[:: max(1, len(some) // 16)]), seed)
    steps = -(-len(pictures) // TEACHER_BATCH)
    for number, variant in enumerate(pictures.variants):
        batches = pictures.in_order(TEACHER_BATCH, variant)
        what = f"asking the teacher ({number + 1} of {len(pictures.variants)})"
        for place, batch in enumerate(track(batches, what, total=steps)):
            said = look(batch)
            where = slice(place * TEACHER_BATCH, place * TEACHER_BATCH + len(batch))
            logits[variant, where] = said.logits.float().cpu().numpy()
            if maps is not None and about.maps is not None and directions is not None:
                maps[variant, where] = directions.reduce(said.inner, about.maps)
            if places is not None and about.places is not None:
                places[variant, where] = gather(said.places.float(), about.places).half().cpu().numpy()
    return Asked(logits, maps, places)


class SoftLoss:
    """(1 - soft_share) BCE(labels) + soft_share T^2 BCE(student / T against sigmoid(teacher / T)).

    Args:
        asked: (variants, N) float32, the teacher's logit per variant and picture.
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
        soft = soft_loss(logits, said, self._temperature)
        return (1 - self._soft_share) * loop.hard_loss(logits, labels, batch) + self._soft_share * soft


def _listen(
    config: Config, known: teacher.Teacher, network: student.Student, pictures: Pictures
) -> tuple[torch.nn.Module, loop.Loss, loop.Loss]:
    """What is trained, its loss, and the part of the loss that is about the logits alone."""
    wanted, inner = config.student, hints.map_size(network)
    strongest = known.patches is not None  # places make its verdict, not their mean
    about = Question(
        inner if wanted.hints else None, (inner if strongest else network.spec.map_size) if wanted.places else None
    )
    asked = ask(known, pictures, config.teacher.precision, about, config.seed)
    zero = 0.0 if known.patches is None else known.patches.threshold
    soft: loop.Loss = SoftLoss(asked.logits - np.float32(zero), wanted.temperature, wanted.soft_share)
    if about == Question():
        return network, soft, soft
    hinted, loss = hints.Hinted(network, foretells_places=strongest and wanted.places > 0), soft
    if asked.maps is not None:
        loss = hints.hint_loss(loss, hinted, asked.maps, wanted.hints)
    if asked.places is not None and strongest:
        loss = hints.strongest_loss(loss, hinted, asked.places, pictures.variants, wanted.places)
    elif asked.places is not None:
        loss = hints.place_loss(loss, hinted, asked.places, wanted.temperature, wanted.places)
    return hinted, loss, soft


def _settings(wanted: StudentConfig) -> loop.Settings:
    return loop.Settings(
        epochs=wanted.epochs,
        batch_size=wanted.batch_size,
        learning_rate=wanted.learning_rate,
        balance=wanted.balance,
        schedule="cosine",
        weight_decay=wanted.weight_decay,
        jitter=wanted.jitter,
        average=wanted.average,
    )
