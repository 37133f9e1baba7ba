"""One tiny Stable Diffusion 1.5 on disk, and a few pictures with defects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_diffusion import save_sd15

from diagline import samples
from diagline.samples import DEFECT, Sample, SampleSet


@pytest.fixture(scope="module", autouse=True)
def alone(one_thread: None) -> None:
    """Tiny models are quicker on one thread."""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="session")
def positives(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    """Five pictures: three tall ones of slightly different sizes, two square ones."""
    root = tmp_path_factory.mktemp("positives")
    records = []
    for number, (width_px, height_px) in enumerate([(23, 63), (24, 63), (23, 65), (40, 40), (50, 50)]):
        image = np.random.default_rng(number).integers(0, 256, (height_px, width_px, 3), np.uint8)
        samples.write_image(root / f"{number}.png", image)
        records.append(Sample(f"{number}.png", None, DEFECT, "crack", f"part-{number}", "train"))
    return SampleSet(root, tuple(records))
