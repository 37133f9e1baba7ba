"""The one training loop, for teacher and student.

`fit` survives a kill: a rerun goes on after the last whole epoch, with the curve it would have
had. Under `accelerate launch` it trains one network in several processes. Leaves out: the
teacher's run (`teach.py`) and the student's (`distill.py`), how processes share a batch
(`launch.py`), numbers and devices (`precision.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diagline.console import console, progress
from diagline.errors import TrainingError
from training import checkpoint, evaluate, launch, precision
from training import settings as values
from training.conclude import Fit, conclude, validation_pictures
from training.curves import Curves
from training.data import Batch, Pictures, Ready, ahead
from training.precision import autocast
from training.settings import Loss, Settings, hard_loss

__all__ = [
    "Fit", "Loss", "Settings", "conclude", "fit", "hard_loss", "validation_pictures",
]  # fmt: skip

NAMED = 8
"""Pictures an error names before it only counts."""
LINE_S = 10.0
"""Where no one watches (a log file), an epoch's line is written at most this often."""


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
        validation: holds both classes; unless the last epoch is asked for, the one with the
            best AP on it is kept, of equals the latest. None: the last.
        settings: how.
        target: folder for checkpoint.pt and history.json, both replaced after each epoch, and tensorboard/.
        identity: plain data that must be equal for a rerun to go on.
        loss: what is minimised; a mean over the batch's pictures.

    Raises:
        DatasetError: a picture cannot be read.
        TrainingError: the loss is no finite number (names the batch's pictures), or the
            checkpoint is damaged, of another identity or of another network.
    """
    processes = launch.here()
    with launch.own_norms(network):
        called = processes.prepare(network)
        computes = precision.set_up(settings.precision, processes.device)
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        fused = processes.device.type == "cuda"
        optimiser = torch.optim.AdamW(
            trained, settings.learning_rate, weight_decay=settings.weight_decay, fused=fused or None
        )
        averaged = _averaged(network, settings.average)
        kept = network if averaged is None else averaged.module
        per_epoch = len(pictures.plan(0, settings.batch_size, settings.balance))
        with processes.together():
            state = checkpoint.resume(target, identity, network, optimiser, averaged)
            curves = Curves(target, len(state.history) * per_epoch, processes.is_main)
        console.print(f"training {target.name}: {computes}{_shared(processes, settings)}", soft_wrap=True)
        run = _Run(network, called, averaged, optimiser, pictures, settings, loss, processes, curves)
        with curves, progress() as display:
            total, past = settings.epochs * per_epoch, len(state.history) * per_epoch
            task = display.add_task(f"training {target.name}", total=total, completed=past, note="")
            written = 0.0
            for epoch in range(len(state.history), settings.epochs):
                started, before = time.monotonic(), state.history[-1] if state.history else None

                def tick(number: float, epoch: int = epoch, before: dict[str, Any] | None = before) -> None:
                    display.update(task, advance=1, note=_note(settings, epoch, number, before))

                row = run.epoch(epoch, tick)
                row["val_ap"] = _chosen_by(run, kept, validation)
                row["seconds"] = round(time.monotonic() - started, 3)
                state.history.append(row)
                if settings.keep == "last" or _is_best(row, state):
                    copy = launch.copy_of(kept) if processes.is_main else {}
                    state.best = {"epoch": epoch + 1, "val_ap": row["val_ap"], "network": copy}
                curves.epoch((epoch + 1) * per_epoch, row)
                processes.on_main(lambda: checkpoint.keep(target, identity, network, optimiser, averaged, state))
                ends = epoch + 1 == settings.epochs
                if not console.is_terminal and (ends or time.monotonic() - written > LINE_S):
                    written = time.monotonic()
                    console.print(_note(settings, epoch, row["loss"], row), soft_wrap=True)
    if processes.is_main:
        network.load_state_dict(state.best["network"])
    processes.make_equal(network)
    network.eval()
    by_ap = validation is not None and settings.keep == "best"
    return Fit(state.history, state.best["epoch"], "best validation AP, of equals the latest" if by_ap else "last")


@dataclass(frozen=True, slots=True)
class _Run:
    """What the steps of a run share.

    Attributes:
        called: the network, or what makes its gradients the average of all processes'.
        averaged: holds the moving average of the network's weights, where there is one.
    """

    network: nn.Module
    called: nn.Module
    averaged: AveragedModel | None
    optimiser: torch.optim.Optimizer
    pictures: Pictures
    settings: Settings
    loss: Loss
    processes: launch.Processes
    curves: Curves

    def epoch(self, epoch: int, tick: Callable[[float], None]) -> dict[str, Any]:
        """Train one epoch (from 0); its row of the history, still without validation."""
        _set_mode(self.network, self.settings.batch_norm, epoch)
        plan = self.pictures.plan(epoch, self.settings.batch_size, self.settings.balance)
        mine = [self.processes.part(batch)[0] for batch in plan]
        gpu = self.processes.device.type == "cuda"
        started, waited_s, summed, learning_rate = time.monotonic(), 0.0, 0.0, 0.0
        before: tuple[torch.Tensor, Ready] | None = None

        def look(place: int, value: torch.Tensor, ready: Ready) -> float:
            number = float(value)
            if not math.isfinite(number):
                self._stop(number, epoch, place, plan[place], ready)
            self.curves.step(epoch * len(plan) + place + 1, number)
            tick(number)
            return number * len(plan[place].indices)

        batches = ahead(self.pictures, mine, pin=gpu, settle=torch.cuda.synchronize if gpu else lambda: None)
        for place, ready in enumerate(batches):
            learning_rate = values.rate(self.settings, epoch + place / len(plan))
            value = self._step(learning_rate, ready, plan[place])
            waited_s += ready.waited_s
            if before is not None:  # read one step late, so that a GPU always has work before it
                summed += look(place - 1, *before)
            before = value, ready
        assert before is not None
        summed += look(len(plan) - 1, *before)
        seconds, seen = time.monotonic() - started, sum(len(batch.indices) for batch in plan)
        return {
            "epoch": epoch + 1,
            "loss": summed / seen,
            "val_ap": None,
            "learning_rate": learning_rate,
            "images_per_s": round(seen / seconds, 2),
            "loader_share": round(waited_s / seconds, 4),
        }

    def _step(self, learning_rate: float, ready: Ready, whole: Batch) -> torch.Tensor:
        """One step on this process's part of a batch; the whole batch's loss, still on the device."""
        device = self.processes.device
        part, place, weight = self.processes.part(whole)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        images = ready.images.to(device, non_blocking=True)  # (n, C, H, W) uint8
        labels = torch.from_numpy(self.pictures.labels[part.indices]).to(device, torch.float32)
        with autocast(self.settings.precision, device.type):
            pixels = images.to(memory_format=torch.channels_last).float() / 255
            if self.settings.jitter:
                pixels = _relit(pixels, self.settings.jitter, len(whole.indices), place)
            logits = self.called(pixels).flatten()
        value = self.loss(logits.float(), labels, part) * weight
        if ready.error is not None:
            value = value * math.nan  # all processes see it, and stop in the same step
        self.optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        return self.processes.mean(value.detach())

    def _stop(self, number: float, epoch: int, place: int, batch: Batch, ready: Ready) -> None:
        """End all processes with the reason: a picture that one of them cannot read, or the number itself."""
        unread = self.processes.first(ready.error)
        self.processes.end(unread or TrainingError(_not_finite(number, epoch, place, self.pictures, batch)))


def _averaged(network: nn.Module, share: float) -> AveragedModel | None:
    """The moving average of weights and statistics, every process keeping its own; None where it is not asked for."""
    if not share:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(share), use_buffers=True)  # type: ignore[no-untyped-call]


def _chosen_by(run: _Run, kept: nn.Module, validation: Pictures | None) -> float | None:
    if validation is None:
        return None
    return run.processes.on_main(lambda: _validation_ap(kept, validation, run.settings))


def _validation_ap(network: nn.Module, validation: Pictures, settings: Settings) -> float:
    with autocast(settings.precision, next(network.parameters()).device.type):
        logits = evaluate.predict(network, validation.in_order(settings.batch_size))
    return evaluate.measure(validation.labels, logits, 0.0).ap


def _is_best(row: dict[str, Any], state: checkpoint.Progress) -> bool:
    return row["val_ap"] is None or not state.best or bool(row["val_ap"] >= state.best["val_ap"])


def _relit(pixels: torch.Tensor, jitter: float, whole: int, place: slice) -> torch.Tensor:
    """The pictures (n, C, H, W) in 0..1 under another light: contrast about mid grey, then brightness.

    Drawn for the `whole` batch, of which they have this `place`: every process draws alike. The
    generator is torch's for the CPU, whose state the checkpoint holds.
    """
    drawn = jitter * (2 * torch.rand(2, whole, 1, 1, 1) - 1)
    contrast, brightness = drawn[:, place].to(pixels.device)
    relit: torch.Tensor = (pixels - 0.5) * (1 + contrast) + 0.5 + brightness
    return relit.clamp(0, 1)


def _set_mode(network: nn.Module, batch_norm: str, epoch: int) -> None:
    network.train()
    if batch_norm == "frozen" or (batch_norm == "frozen_after_first_epoch" and epoch > 0):
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _shared(processes: launch.Processes, settings: Settings) -> str:
    if processes.count == 1:
        return ""
    return f"; {processes.count} processes share each batch of {settings.batch_size}"


def _note(settings: Settings, epoch: int, loss: float, row: dict[str, Any] | None) -> str:
    words = [f"epoch {epoch + 1}/{settings.epochs}", f"loss {loss:.4f}"]
    if row is not None:
        words += [] if row["val_ap"] is None else [f"val AP {row['val_ap']:.3f}"]
        words += [f"{row['images_per_s']:.4g} images/s", f"loader {row['loader_share']:.1%}"]
    return "  ".join(words)


def _not_finite(number: float, epoch: int, place: int, pictures: Pictures, batch: Batch) -> str:
    names = [pictures.samples[index].image for index in batch.indices]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"epoch {epoch + 1}, batch {place + 1}: the loss is {number}; expected a finite number; "
        f"lower learning_rate, or look at its pictures: {', '.join(names[:NAMED])}{more}"
    )
