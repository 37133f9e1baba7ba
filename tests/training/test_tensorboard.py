"""The curves in TensorBoard are the history's, once, also after a kill."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from killed import Killed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from diagline.preprocess import InputContract
from diagline.samples import SampleSet
from training import loop
from training.data import Batch, Pictures

Paint = Callable[..., SampleSet]
SETTINGS = loop.Settings(epochs=3, batch_size=4, learning_rate=0.02, balance=True)
STEPS = 4


@pytest.fixture
def pictures(paint: Paint) -> Pictures:
    return Pictures([paint(10, 6)], InputContract(48, 48, 1), "both", 5)


def points(target: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(target / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def test_each_epoch_and_step_is_one_point_and_a_run_that_goes_on_adds_no_second(
    tiny: nn.Module, pictures: Pictures, paint: Paint, tmp_path: Path
) -> None:
    validation = Pictures([paint(5, 3, "val")], InputContract(48, 48, 1), "none", 5)
    calls = iter(range(1000))

    def loss(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        if next(calls) == STEPS + 3:  # the last step of the second epoch: its points are written and lost
            raise Killed
        return loop.hard_loss(logits, labels, batch)

    fresh = copy.deepcopy(tiny)
    with pytest.raises(Killed):
        loop.fit(tiny, pictures, validation, SETTINGS, tmp_path, {}, loss)
    before = [step for step, _ in points(tmp_path)["step/loss"]]
    assert before[:STEPS] == [1, 2, 3, 4] and len(before) > STEPS
    done = loop.fit(fresh, pictures, validation, SETTINGS, tmp_path, {})
    found = points(tmp_path)
    assert [step for step, _ in found["step/loss"]] == list(range(1, 3 * STEPS + 1))
    names = {"loss", "val_ap", "learning_rate", "images_per_s", "loader_share", "seconds"}
    assert set(found) == {"step/loss", *(f"epoch/{name}" for name in names)}
    for name in names:
        steps, values = zip(*found[f"epoch/{name}"], strict=True)
        assert steps == (STEPS, 2 * STEPS, 3 * STEPS)
        assert values == pytest.approx([row[name] for row in done.history], rel=1e-6)


def test_nothing_heavy_is_imported_for_it_and_nothing_is_said(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from training.curves import Curves\n"
        "with Curves(Path(sys.argv[1]), 0) as curves: curves.epoch(1, {'loss': 1.0})\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
