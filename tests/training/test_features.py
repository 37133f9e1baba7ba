from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diagline.errors import TrainingError
from training import features, teacher


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "partial.pth"
    state = teacher.Teacher().resnet.state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith(("layer4", "fc"))}, path)
    return path


def test_equal_pictures_measure_equal_and_a_defect_moves_them(weights: Path) -> None:
    measure = features.resnet50(str(weights), False)
    image = np.random.default_rng(0).integers(80, 120, (70, 50, 3), np.uint8)
    spoilt = image.copy()
    spoilt[20:40, 10:40] = 250
    first, again, other = measure(image), measure(image.copy()), measure(spoilt)
    assert first.shape == (1536,) and first.dtype == np.float32
    assert np.array_equal(first, again) and np.abs(first - other).max() > 1e-4


def test_random_weights_and_holes_below_layer4_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"random features measure nothing; expected .*pyramid"):
        features.resnet50("none", False)
    state = {name: value for name, value in torch.load(weights).items() if not name.startswith("layer2")}
    torch.save(state, tmp_path / "holes.pth")
    with pytest.raises(TrainingError, match=r"holes\.pth: leaves layer2 to chance"):
        features.resnet50(str(tmp_path / "holes.pth"), False)
