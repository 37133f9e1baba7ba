"""The teacher's run: ResNet-50 on real and, where asked for, synthetic pictures; on good ones alone with `patches`.

Leaves out: the steps (`loop.py`), the network (`teacher.py`), what it is measured by (`evaluate.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from diagline import files
from diagline.config import Config
from diagline.console import console, track
from diagline.samples import GOOD, SampleSet
from training import checkpoint, frozen, launch, teacher, weights
from training import settings as values
from training.conclude import conclude, validation_pictures
from training.data import Pictures, check_labels, check_trainable
from training.loop import fit
from training.patches import Patches, join, loss_of
from training.precision import autocast, computed_precision, to_pixels


def train_teacher(config: Config, train: Sequence[SampleSet], val: Sequence[SampleSet], target: Path) -> Path:
    """Train the ResNet-50 as `config.teacher` says; returns target/teacher.pt.

    Writes teacher.pt, history.json, weights.json (which first weights were loaded), tensorboard/ and
    result.json (threshold chosen on `val`, the epoch kept). A finished run returns at once.
    Validation pictures keep their record's label under either label rule.

    Raises:
        DatasetError: no training pictures, or one that cannot be read.
        TrainingError: one class only, weights that do not load, a loss that is not finite, or a
            target that another config was trained in.
    """
    made, wanted, processes = target / "teacher.pt", config.teacher, launch.here()
    with processes.together():
        check_trainable(train)
        identity = checkpoint.describe(config, "teacher", train, val)
        if checkpoint.finished(target, identity, made):
            return made
        torch.manual_seed(config.seed)
        patches = Patches(wanted.noise, wanted.worst) if wanted.head == "patches" else None
        network, report = teacher.build(wanted.weights, wanted.stride_in_1x1, wanted.freeze, patches)
        if patches is not None:
            train = [one.labelled(GOOD) for one in train]
        pictures = Pictures(train, config.input, wanted.flips, config.seed, labels=wanted.labels, views=wanted.views)
        lost = check_labels(pictures)
        validation = validation_pictures(config, val)
    processes.on_main(lambda: files.write_json(target / "weights.json", report.plain()))
    if wanted.weights != "none":
        console.print(weights.to_table(report))
    if lost:
        console.print(f'{lost} defects count as good: teacher.labels = "mask", and their masks are too thin')
    trained: nn.Module = network
    settings = values.of_teacher(wanted)
    loss: values.Loss = values.hard_loss
    if wanted.freeze and processes.count == 1:
        trained, pictures, validation = frozen.split(network, wanted.freeze, pictures, validation, wanted.precision)
    if patches is not None:
        settings, loss = replace(settings, balance=False), loss_of(patches)
        _measure(trained, patches, pictures, wanted.precision)
    done = fit(trained, pictures, validation, settings, target, identity, loss)

    def conclude_and_save() -> None:
        computed = computed_precision(wanted.precision, processes.device.type)
        numbers = sum(weight.numel() for weight in network.parameters())  # the frozen ones too
        facts = {"parameters": numbers, "precision": computed, "labels_lost": lost}
        result = {**conclude(trained, validation, done), **facts}
        teacher.save(network, made, result)
        checkpoint.finish(target, identity, result)

    processes.on_main(conclude_and_save)
    return made


@torch.no_grad()
def _measure(trained: nn.Module, patches: Patches, pictures: Pictures, numbers: str) -> None:
    """Give the head its features' mean and spread over the training pictures as they are."""
    device = launch.here().device
    trained.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def maps(batch: NDArray[Any]) -> torch.Tensor:
        if isinstance(trained, teacher.Teacher):
            return join(*trained.maps(to_pixels(batch, device)))
        return torch.from_numpy(batch).to(device)  # they are kept

    steps = -(-len(pictures) // frozen.BATCH)
    with autocast(numbers, device.type):
        batches = track(pictures.in_order(frozen.BATCH), "measuring good features", total=steps)
        patches.measure(maps(batch) for batch in batches)
