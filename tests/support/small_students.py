"""Small students with weights that say something, and pictures for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diagline.preprocess import InputContract
from training.student import Student
from training.student_spec import Block, Stem, StudentSpec, spec


def random_spec(seed: int) -> StudentSpec:
    """A spec with odd sizes, both pools, grey and RGB, strides and residuals, by seed."""
    rng = np.random.default_rng([7, seed])
    before = int(rng.choice([8, 16]))
    stem = Stem(int(rng.choice([3, 5, 7])), int(rng.choice([1, 2, 4])), before)
    blocks = []
    for _ in range(int(rng.integers(1, 5))):
        stride, residual = int(rng.choice([1, 2])), bool(rng.integers(2))
        channels = before if residual else int(rng.choice([8, 16, 24]))
        blocks.append(Block(1 if residual else stride, channels, residual))
        before = channels
    width_px, height_px = (int(side) for side in rng.integers(17, 60, 2))
    return StudentSpec(width_px, height_px, (1, 3)[seed % 2], stem, tuple(blocks), ("average", "max")[seed // 2 % 2])


def residual_spec(pool: str) -> StudentSpec:
    """A grey S10 of odd size with residuals wherever they fit."""
    made = spec("S10", InputContract(47, 61, 1))
    before = [made.stem.channels, *(block.channels for block in made.blocks)]
    blocks = [
        replace(block, residual=block.stride == 1 and block.channels == last)
        for last, block in zip(before, made.blocks, strict=False)
    ]
    return replace(made, blocks=tuple(blocks), pool=pool)


def lively(spec: StudentSpec, seed: int = 0) -> Student:
    """A student in eval mode whose batch norms are not identities and whose logits spread over some units."""
    torch.manual_seed(seed)
    student = Student(spec)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    nn.init.normal_(student.fc.weight, 0, 1)
    nn.init.constant_(student.fc.bias, 0.7)
    return student.eval()


def pictures(spec: StudentSpec, count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Network inputs (height_px, width_px, channels) uint8: patches of random brightness and contrast."""
    rng = np.random.default_rng([11, seed])
    shape = (spec.height_px, spec.width_px, spec.channels)
    made = []
    for _ in range(count):
        patches = rng.normal(rng.uniform(40, 200), rng.uniform(5, 60), (shape[0] // 6 + 1, shape[1] // 6 + 1, shape[2]))
        image = patches.repeat(6, 0).repeat(6, 1)[: shape[0], : shape[1]] + rng.normal(0, 4, shape)
        made.append(image.clip(0, 255).astype(np.uint8))
    return made


def logits(student: Student, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """What torch says of them, (N,) float32."""
    with torch.no_grad():
        batch = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)) / 255
        found: NDArray[np.float32] = student(batch).numpy()
    return found
