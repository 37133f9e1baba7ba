"""The one training loop, for teacher and student, and the teacher's run through it.

`fit` survives a kill: a rerun goes on after the last whole epoch, with the curve it would have
had. Leaves out: several GPUs, and what the student's loss adds (`distill.py`).

Source: DIAG trains with binary cross-entropy and Adam at a constant 1e-4, last epoch kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.modules.batchnorm import _BatchNorm

from diagline import files, record
from diagline.config import Config
from diagline.console import progress
from diagline.errors import TrainingError
from diagline.samples import SampleSet
from training import checkpoint, evaluate, teacher
from training.data import Batch, Pictures, both_classes, check_trainable

WARM_UP = 0.05
"""Share of the steps over which the cosine schedule rises to the learning rate."""
NAMED = 8
"""Pictures an error names before it only counts."""

Loss = Callable[[torch.Tensor, torch.Tensor, Batch], torch.Tensor]
"""From logits (n,) float, labels (n,) float and the batch to one number."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How `fit` trains; see TeacherConfig for the words.

    Attributes:
        schedule: "constant", or "cosine": a short linear rise, then a half cosine down to 0.
        weight_decay: Adam's decoupled one (AdamW); 0 is plain Adam.
        jitter: each picture's contrast and brightness change by up to this share; 0 is none.
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


@dataclass(frozen=True, slots=True)
class Fit:
    """What `fit` did: one history row an epoch, the epoch (from 1) whose weights were kept, and why that one."""

    history: list[dict[str, Any]]
    epoch: int
    epoch_rule: str


def hard_loss(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Binary cross-entropy of logits (n,) against labels (n,) 0 or 1."""
    return binary_cross_entropy_with_logits(logits, labels)


def fit(
    network: nn.Module,
    pictures: Pictures,
    validation: Pictures | None,
    settings: Settings,
    target: Path,
    identity: dict[str, Any],
    loss: Loss = hard_loss,
) -> Fit:
    """Train `network` in place; go on from `target/checkpoint.pt` where there is one.

    Args:
        network: takes float (N, C, H, W) in 0..1, returns (N,) or (N, 1) logits.
        pictures: to train on.
        validation: holds both classes; the epoch with the best AP on it is kept, of equals the
            latest. None: the last epoch is kept, as in the paper.
        settings: how.
        target: folder for checkpoint.pt and history.json, both replaced after each epoch.
        identity: plain data that must be equal for a rerun to go on.
        loss: what is minimised.

    Raises:
        TrainingError: the loss is no finite number (names the batch's pictures), or the
            checkpoint is damaged or of another identity.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, settings.learning_rate, weight_decay=settings.weight_decay)
    state = checkpoint.resume(target, identity, network, optimiser)
    per_epoch = len(pictures.plan(0, settings.batch_size, settings.balance))
    with progress() as display:
        total = settings.epochs * per_epoch
        task = display.add_task(
            f"training {target.name}", total=total, completed=len(state.history) * per_epoch, note=""
        )
        for epoch in range(len(state.history), settings.epochs):
            started = time.monotonic()
            _set_mode(network, settings.batch_norm, epoch)
            plan = pictures.plan(epoch, settings.batch_size, settings.balance)
            seen, summed, waited_s = 0, 0.0, 0.0
            for step, (batch, images, wait_s) in enumerate(_loaded(pictures, plan)):
                rate = settings.learning_rate * _factor(settings, epoch + step / len(plan))
                number = _step(network, optimiser, rate, images.to(device), pictures, batch, settings, loss)
                if not math.isfinite(number):
                    raise TrainingError(_not_finite(number, epoch, step, pictures, batch))
                seen, summed, waited_s = (
                    seen + len(batch.indices),
                    summed + number * len(batch.indices),
                    waited_s + wait_s,
                )
                note = f"epoch {epoch + 1}/{settings.epochs}  loss {number:.4f}{_ap_note(state)}"
                display.update(task, advance=1, note=note)
            ap = None if validation is None else _validation_ap(network, validation, settings)
            seconds = time.monotonic() - started
            row = {"epoch": epoch + 1, "loss": summed / seen, "val_ap": ap, "learning_rate": rate}
            state.history.append({**row, "seconds": round(seconds, 3), "loader_share": round(waited_s / seconds, 4)})
            if ap is None or not state.best or ap >= state.best["val_ap"]:
                copy = {name: value.detach().clone() for name, value in network.state_dict().items()}
                state.best = {"epoch": epoch + 1, "val_ap": ap, "network": copy}
            checkpoint.keep(target, identity, network, optimiser, state)
    network.load_state_dict(state.best["network"])
    network.eval()
    rule = "last" if validation is None else "best validation AP, of equals the latest"
    return Fit(state.history, state.best["epoch"], rule)


def train_teacher(config: Config, train: Sequence[SampleSet], val: Sequence[SampleSet], target: Path) -> Path:
    """Train the ResNet-50 as `config.teacher` says; returns target/teacher.pt.

    Writes teacher.pt, history.json, weights.json (which first weights were loaded) and
    result.json (threshold chosen on `val`, the epoch kept). A finished run returns at once.

    Raises:
        DatasetError: no training pictures, or one that cannot be read.
        TrainingError: one class only, weights that do not load, a loss that is not finite, or a
            target that another config was trained in.
    """
    check_trainable(train)
    made, wanted = target / "teacher.pt", config.teacher
    identity = checkpoint.describe(config, "teacher", train, val)
    if checkpoint.finished(target, identity, made):
        return made
    torch.manual_seed(config.seed)
    network, report = teacher.build(wanted.weights, wanted.stride_in_1x1, wanted.freeze)
    files.write_json(target / "weights.json", report.plain())
    pictures = Pictures(train, config.input, wanted.flips, config.seed)
    validation = validation_pictures(config, val)
    settings = Settings(
        epochs=wanted.epochs,
        batch_size=wanted.batch_size,
        learning_rate=wanted.learning_rate,
        balance=wanted.balance,
        schedule=wanted.schedule,
        batch_norm=wanted.batch_norm,
        precision=wanted.precision,
    )
    done = fit(network, pictures, validation, settings, target, identity)
    computed = computed_precision(wanted.precision, next(network.parameters()).device.type)
    result = {**conclude(network, validation, done), "precision": computed}
    teacher.save(network, made, result)
    checkpoint.finish(target, identity, result)
    return made


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


def _step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    rate: float,
    images: torch.Tensor,  # (n, C, H, W) uint8
    pictures: Pictures,
    batch: Batch,
    settings: Settings,
    loss: Loss,
) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    labels = torch.from_numpy(pictures.labels[batch.indices]).to(images.device, torch.float32)
    with autocast(settings.precision, images.device.type):
        pixels = images.to(memory_format=torch.channels_last).float() / 255
        logits = network(_relit(pixels, settings.jitter) if settings.jitter else pixels).flatten()
    value = loss(logits.float(), labels, batch)
    optimiser.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return float(value.detach())


def _relit(pixels: torch.Tensor, jitter: float) -> torch.Tensor:
    """The pictures (n, C, H, W) in 0..1 under another light: contrast about mid grey, then brightness."""
    # drawn by torch's CPU generator, whose state the checkpoint holds
    contrast, brightness = (jitter * (2 * torch.rand(2, len(pixels), 1, 1, 1) - 1)).to(pixels.device)
    relit: torch.Tensor = (pixels - 0.5) * (1 + contrast) + 0.5 + brightness
    return relit.clamp(0, 1)


def _validation_ap(network: nn.Module, validation: Pictures, settings: Settings) -> float:
    with autocast(settings.precision, next(network.parameters()).device.type):
        logits = evaluate.predict(network, validation.in_order(settings.batch_size))
    return evaluate.measure(validation.labels, logits, 0.0).ap


def _loaded(pictures: Pictures, plan: list[Batch]) -> Iterator[tuple[Batch, torch.Tensor, float]]:
    """Each batch with its pictures (n, C, H, W) uint8 and the seconds waited for them; one batch is read ahead."""
    with ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(pictures.images, plan[0])
        for place, batch in enumerate(plan):
            started = time.monotonic()
            images = torch.from_numpy(waiting.result())
            if place + 1 < len(plan):
                waiting = ahead.submit(pictures.images, plan[place + 1])
            yield batch, images, time.monotonic() - started


def _set_mode(network: nn.Module, batch_norm: str, epoch: int) -> None:
    network.train()
    if batch_norm == "frozen" or (batch_norm == "frozen_after_first_epoch" and epoch > 0):
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _factor(settings: Settings, epochs_done: float) -> float:
    if settings.schedule == "constant":
        return 1.0
    share = epochs_done / settings.epochs
    return min(1.0, (share + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * share)) / 2


def computed_precision(asked: str, device: str) -> str:
    """fp32 or bf16: what "auto" comes to on a device type, which is bf16 where the hardware computes in it."""
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if record.cpu_flags() & {"avx512_bf16", "amx_bf16"} else "fp32"


def autocast(precision: str, device: str) -> torch.autocast:
    """The mixed-precision context of a precision ("auto", "fp32", "bf16") on a device type."""
    return torch.autocast(device, torch.bfloat16, enabled=computed_precision(precision, device) == "bf16")


def _ap_note(state: checkpoint.Progress) -> str:
    ap = state.history[-1]["val_ap"] if state.history else None
    return "" if ap is None else f"  val AP {ap:.3f}"


def _not_finite(number: float, epoch: int, step: int, pictures: Pictures, batch: Batch) -> str:
    names = [pictures.samples[index].image for index in batch.indices]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"epoch {epoch + 1}, batch {step + 1}: the loss is {number}; expected a finite number; "
        f"lower learning_rate, or look at its pictures: {', '.join(names[:NAMED])}{more}"
    )
