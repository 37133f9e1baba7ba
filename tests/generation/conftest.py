"""Small sets of good pictures for the generation tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diagline import samples
from diagline.samples import Sample, SampleSet
from generation.materials import paint_surface


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch on one thread: tiny models are quicker so."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def normals(tmp_path: Path) -> SampleSet:
    """Nine pictures of 61x40 px: per split two good ones and one defective, a group each."""
    root = tmp_path / "normals"
    records = []
    for number in range(9):
        split, label = samples.SPLITS[number // 3], int(number % 3 == 2)
        image = paint_surface("cast", 61, 40, np.random.default_rng(number))
        samples.write_image(root / f"{number}.png", image)
        kind = "crack" if label else "good"
        records.append(Sample(f"{number}.png", None, label, kind, f"part-{number}", split))
    return SampleSet(root, tuple(records))
