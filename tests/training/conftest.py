"""Small painted parts, and networks small enough to train in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diagline.config import Config, DataConfig, StudentConfig, TeacherConfig
from diagline.preprocess import InputContract
from diagline.samples import DEFECT, GOOD, Sample, SampleSet, write_image

SIDE_PX = 48
Paint = Callable[..., SampleSet]


@pytest.fixture
def paint(tmp_path: Path) -> Paint:
    """Paint a set: grey noise, and a bright scratch with its mask on the defective ones."""

    def make(good: int, bad: int, split: str = "train", scratch_px: int = 5, seed: int = 0) -> SampleSet:
        root = tmp_path / f"{split}-{seed}"
        samples = []
        for index, label in enumerate([GOOD] * good + [DEFECT] * bad):
            rng = np.random.default_rng([seed, len(split), index])
            image = rng.integers(70, 130, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
            name, mask_name = f"{index}.png", None
            if label == DEFECT:
                top = int(rng.integers(4, SIDE_PX - 4 - scratch_px))
                image[top : top + scratch_px, 4:-4] = 240
                mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
                mask[top : top + scratch_px, 4:-4] = 255
                mask_name = f"{index}_mask.png"
                write_image(root / mask_name, mask)
            write_image(root / name, image)
            kind = "scratch" if label else "good"
            samples.append(Sample(name, mask_name, label, kind, f"{split}-{index}", split))
        return SampleSet(root, tuple(samples))

    return make


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two short epochs of everything on grey 48x48 pictures."""
    return Config(
        name="tiny",
        output=tmp_path / "out",
        data=DataConfig(tmp_path),
        input=InputContract(SIDE_PX, SIDE_PX, 1),
        seed=7,
        teacher=TeacherConfig(epochs=1, batch_size=5),
        student=StudentConfig(size="S10", epochs=2, batch_size=4),
    )


@pytest.fixture
def tiny() -> nn.Module:
    """A network with batch norm and dropout: a lost statistic or random state shows in what it says."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(6, 1),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose more to threads than they gain, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
