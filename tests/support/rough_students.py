"""Students that int8 hurts: the channels of each depthwise are scaled far apart."""

from __future__ import annotations

import torch
from small_students import lively

from training.student import Student, fold
from training.student_spec import StudentSpec


def badly_scaled(spec: StudentSpec, octaves: float = 6.0, seed: int = 0) -> Student:
    """A folded student whose depthwise channels are up to 2^octaves apart; its pointwise weights make up for it.

    Such maps keep few of their int8 steps for the faint channels, whose rounding the pointwise weights magnify.
    """
    folded = fold(lively(spec, seed))
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in folded.blocks:
            depthwise, pointwise = (block.get_submodule(f"{name}.conv") for name in ("depthwise", "pointwise"))
            gain = torch.exp2(-octaves * torch.rand(depthwise.weight.shape[0], generator=drawn))
            gain[0] = 1
            depthwise.weight.mul_(gain.reshape(-1, 1, 1, 1))
            depthwise.bias.mul_(gain)
            pointwise.weight.div_(gain.reshape(1, -1, 1, 1))
    return folded
