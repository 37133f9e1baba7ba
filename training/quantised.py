"""Quantisation-aware fine-tuning: a trained student learns to live with the rounding of int8.

Both exports round alike: weights symmetric int8 per output channel, maps asymmetric int8 per
tensor between the least and the greatest value that the float network shows on the calibration
pictures, the picture itself at 1/255, ReLU6 inside its convolution. `Simulated` does the same in
its forward pass with torch's fake quantisation; what comes out is an ordinary folded student,
exported as any other. Leaves out: int32 biases and the engines' integer requantisation (both
far finer than a step), and the export itself (`export/`).

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 3; gradients straight through where nothing is clipped.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.nn import functional

from diagline.bundle import INT8_MAX, INT8_MIN
from diagline.console import console
from diagline.samples import DEFECT, GOOD
from training import evaluate, launch, loop
from training.data import Batch, Pictures
from training.equalise import Calibration
from training.student import ConvNorm, DepthwiseSeparable, Student, fold

BATCH = 32


class Simulated(nn.Module):
    """A folded student that rounds as its int8 exports do; its parameters are the student's own.

    Ranges are taken anew whenever the mode is set, which a training loop does at the start of
    each epoch and before each validation: what is measured is what an export of these weights finds.

    Args:
        student: folded; trained in place.
        calibration: the pictures ranges are taken on.

    Attributes:
        low, high: (points,) float32 buffers, the range of each map and of the logit, in the order of `points`.

    Raises:
        ValueError: a student with batch norm, or no calibration picture.
    """

    low: Tensor
    high: Tensor

    def __init__(self, student: Student, calibration: Calibration) -> None:
        super().__init__()
        if not student.folded:
            raise ValueError("a student with batch norm; expected a folded one: student.fold(network)")
        self.student = student
        self.points = tuple(_points(student))
        self._calibration = calibration
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros(len(self.points), device=student.fc.weight.device))
        self.calibrate()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,) of pictures (N, channels, height_px, width_px) float in 0..1, all on int8 steps."""
        with torch.autocast(images.device.type, enabled=False):  # bf16 is coarser than some of the steps
            pixels = torch.fake_quantize_per_tensor_affine(images.float(), 1 / 255, INT8_MIN, INT8_MIN, INT8_MAX)
            return self._flow(pixels, quantise_weight, self._quantise)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Take the ranges of the float network on the calibration pictures."""
        # 0 is always inside: padding must be exact
        low, high = torch.zeros_like(self.low), torch.zeros_like(self.high)

        def widen(point: str, x: Tensor) -> Tensor:
            index = self.points.index(point)
            low[index], high[index] = torch.minimum(low[index], x.amin()), torch.maximum(high[index], x.amax())
            return x

        pictures = 0
        with torch.autocast(self.low.device.type, enabled=False):
            for batch in self._calibration():
                images = torch.from_numpy(batch).to(self.low.device).to(memory_format=torch.channels_last)
                self._flow(images.float() / 255, lambda weight: weight, widen)
                pictures += len(batch)
        if not pictures:
            raise ValueError("no calibration picture; expected 1 or more")
        self.low.copy_(low)
        self.high.copy_(high)

    def train(self, mode: bool = True) -> Simulated:
        """Set the mode and take the ranges anew."""
        super().train(mode)
        self.calibrate()
        return self

    def _quantise(self, point: str, x: Tensor) -> Tensor:
        index = self.points.index(point)
        low, high = self.low[index], self.high[index]
        steps = INT8_MAX - INT8_MIN
        scale = torch.where(high > low, (high - low) / steps, torch.ones_like(low))  # a map that is 0 throughout
        zero_point = torch.round(INT8_MIN - low / scale).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, INT8_MIN, INT8_MAX)

    def _flow(self, pixels: Tensor, weigh: Callable[[Tensor], Tensor], mark: Callable[[str, Tensor], Tensor]) -> Tensor:
        """`Student.forward` with every weight passed through `weigh` and every point through `mark`."""

        def convolve(part: ConvNorm, x: Tensor) -> Tensor:
            *pads, conv = part
            for pad in pads:
                x = pad(x)
            assert isinstance(conv, nn.Conv2d) and isinstance(conv.padding, tuple)
            return functional.conv2d(x, weigh(conv.weight), conv.bias, conv.stride, conv.padding, groups=conv.groups)

        network = self.student
        x = mark("stem", functional.relu6(convolve(network.stem, pixels)))
        for index, block in enumerate(cast(Iterable[DepthwiseSeparable], network.blocks)):
            name = f"blocks.{index}"
            y = mark(f"{name}.depthwise", functional.relu6(convolve(block.depthwise, x)))
            y = convolve(block.pointwise, y)
            if block.residual:
                y = x + mark(f"{name}.pointwise", y)
            x = mark(name, functional.relu6(y))
        # the greatest of values on int8 steps is on one already; a mean is not
        pooled = mark("pool", x.mean((2, 3))) if network.spec.pool == "average" else x.amax((2, 3))
        return mark("logit", functional.linear(pooled, weigh(network.fc.weight), network.fc.bias)).flatten()


def _points(student: Student) -> Iterable[str]:
    """Names of the values that the exports round, in the order they come about."""
    yield "stem"
    for index, block in enumerate(student.spec.blocks):
        yield f"blocks.{index}.depthwise"
        if block.residual:
            yield f"blocks.{index}.pointwise"
        yield f"blocks.{index}"
    if student.spec.pool == "average":
        yield "pool"
    yield "logit"


def quantise_weight(weight: Tensor) -> Tensor:
    """A weight (out, ...) rounded to symmetric int8 steps, -127..127, one scale per output channel."""
    largest = weight.detach().flatten(1).abs().amax(1)
    scale = torch.where(largest > 0, largest / INT8_MAX, torch.ones_like(largest))
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), 0, -INT8_MAX, INT8_MAX
    )


def calibration_indices(labels: ArrayLike, count: int, seed: int) -> NDArray[np.int64]:
    """Which pictures an export calibrates on: drawn by the seed, half of them defects as far as there are.

    Args:
        labels: (N,) int, of the training pictures.
        count: how many; all N where there are fewer.

    Returns:
        (min(count, N),) int64: the good ones, then the defective ones, each in order.
    """
    truth = np.asarray(labels)
    pools = [np.flatnonzero(truth == label) for label in (GOOD, DEFECT)]
    count = min(count, len(truth))
    of_bad = min(len(pools[1]), max(count - len(pools[0]), count // 2))
    chosen: list[int] = []
    for pool, wanted in zip(pools, (count - of_bad, of_bad), strict=True):
        order = np.random.default_rng([seed, len(chosen)]).permutation(len(pool))[:wanted]
        chosen += [int(pool[place]) for place in sorted(order)]
    return np.array(chosen, np.int64)


def calibration_batches(pictures: Pictures, indices: NDArray[np.int64]) -> Calibration:
    """What gives these pictures, as they are, batch by batch."""

    def shown() -> Iterable[NDArray[np.uint8]]:
        for start in range(0, len(indices), BATCH):
            some = indices[start : start + BATCH]
            yield pictures.images(Batch(some, np.zeros_like(some)))

    return shown


def fine_tune(
    network: Student,
    pictures: Pictures,
    validation: Pictures | None,
    settings: loop.Settings,
    target: Path,
    identity: dict[str, Any],
    loss: loop.Loss,
    calibration: Calibration,
) -> tuple[Student, loop.Fit]:
    """Train a student on with int8 simulated; never returns one that is worse for it.

    Args:
        network: trained, with batch norm or folded; not changed.
        pictures, validation, settings, target, identity, loss: as `loop.fit` takes them; `target`
            is a folder of its own.
        calibration: the pictures that the ranges are taken on.

    Returns:
        A folded student in eval mode on the CPU, and how it came about. Both the student as it
        was and the epoch that `fit` keeps are measured in simulated int8: average precision on
        `validation`, or where there is none, cross-entropy on `pictures`. The student as it was
        is kept unless the other is better; its epoch is 0. `epoch_rule` names both figures.

    Raises:
        TrainingError: as `loop.fit`.
    """
    untuned = copy.deepcopy(network).cpu().eval() if network.folded else fold(network)
    weights = b"".join(value.cpu().numpy().tobytes() for value in untuned.state_dict().values())
    identity = {**identity, "student before int8": hashlib.sha256(weights).hexdigest()}

    processes = launch.here()
    tuned = copy.deepcopy(untuned).to(processes.device)
    simulated = Simulated(tuned, calibration)
    before = processes.on_main(lambda: _figure(simulated, pictures, validation))
    done = loop.fit(simulated, pictures, validation, settings, target, identity, loss)
    after = processes.on_main(lambda: _figure(simulated, pictures, validation))
    measured = "cross-entropy on the training pictures" if validation is None else "validation AP"
    better = after < before if validation is None else after > before
    how = f"{measured} in simulated int8 {after:.4f} with int8 fine-tuning, {before:.4f} without"
    console.print(f"student: {how}; {'kept' if better else 'the student without it is kept'}")
    if better:
        return tuned.cpu().eval(), replace(done, epoch_rule=f"{done.epoch_rule}; {how}")
    return untuned, replace(done, epoch=0, epoch_rule=f"not fine-tuned, as that was no better: {how}")


def _figure(network: nn.Module, pictures: Pictures, validation: Pictures | None) -> float:
    judged = pictures if validation is None else validation
    logits = evaluate.predict(network, judged.in_order(BATCH))
    if validation is None:
        return float(log_loss(judged.labels, torch.sigmoid(torch.from_numpy(logits).double()).numpy(), labels=[0, 1]))
    return evaluate.measure(judged.labels, logits, 0.0).ap
