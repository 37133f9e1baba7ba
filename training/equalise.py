"""Equal ranges for the channels of a map, so that one int8 scale for the whole map loses none of them.

The exports round a map in steps of its loudest channel; a quiet one may be left with a few
steps. Where a map goes to a depthwise convolution alone, a channel can be made louder before it
and its weights smaller behind it: the network says the same, and as weights are rounded channel
by channel they lose nothing. Leaves out: rounding itself (`quantised.py`, `export/`).

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
Correction", section 4.1. Ours: ranges seen on pictures in place of those of the weights; powers
of two, which are exact.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.student import ConvNorm, DepthwiseSeparable, Student

Calibration = Callable[[], Iterable[NDArray[np.uint8]]]
"""Gives the calibration pictures as batches (n, C, H, W) uint8, the same ones at every call."""
MOST = 64.0
"""Times a channel is made louder at the most: int32 biases are counted in steps of its smaller weights."""


@torch.no_grad()
def equalise(network: Student, calibration: Calibration) -> Student:
    """A copy of a folded student, on the CPU, whose quiet channels are louder; its logits are the same.

    Each channel is raised by the greatest power of two that keeps its largest value on the
    calibration pictures below its map's. A picture on which a channel is more than twice as loud
    as on all of them may reach ReLU6's 6 where it did not before.

    Args:
        network: folded; not changed.
        calibration: the pictures that an export takes its ranges on.

    Raises:
        ValueError: a student with batch norm, or no calibration picture.
    """
    if not network.folded:
        raise ValueError("a student with batch norm; expected a folded one: student.fold(network)")
    made = copy.deepcopy(network).cpu().eval()
    largest: dict[int, Tensor] = {}

    def look(place: int, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen = inputs[0].amax((0, 2, 3))
        largest[place] = torch.maximum(largest.get(place, seen), seen)

    pairs = list(_pairs(made))
    hooks = [after.register_forward_pre_hook(partial(look, place)) for place, (_, after) in enumerate(pairs)]
    for batch in calibration():
        made(torch.from_numpy(batch).float() / 255)
    for hook in hooks:
        hook.remove()
    if pairs and not largest:
        raise ValueError("no calibration picture; expected 1 or more")
    for place, (before, after) in enumerate(pairs):
        first, second = before[-1], after[-1]
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d) and first.bias is not None
        ratio = largest[place].max() / largest[place]  # of a channel that is 0 throughout: infinite, or no number
        gain = torch.exp2(ratio.clamp(1, MOST).log2().floor()).nan_to_num(1.0)
        first.weight *= gain[:, None, None, None]
        first.bias *= gain
        second.weight /= gain[:, None, None, None]
    return made


def _pairs(network: Student) -> Iterable[tuple[ConvNorm, ConvNorm]]:
    """What makes a map, and the depthwise convolution that is all that reads it."""
    before, summed = network.stem, False
    for block in cast(Iterable[DepthwiseSeparable], network.blocks):
        if not block.residual and not summed:
            yield before, block.depthwise
        before, summed = block.pointwise, block.residual
