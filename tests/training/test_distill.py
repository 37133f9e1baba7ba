"""The student hears the teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diagline.config import Config
from diagline.errors import TrainingError
from diagline.samples import SampleSet
from training import distill, evaluate, loop, student, teacher
from training.data import Batch, Pictures

Paint = Callable[..., SampleSet]


@pytest.fixture
def teacher_pt(tmp_path: Path) -> Path:
    """A teacher that takes every picture for a defect, which the labels do not."""
    torch.manual_seed(2)
    network = teacher.Teacher()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(network.resnet.fc.bias, 3.0)
    teacher.save(network, tmp_path / "teacher.pt", {})
    return tmp_path / "teacher.pt"


def test_the_student_is_pulled_towards_the_teacher(
    paint: Paint, config: Config, teacher_pt: Path, tmp_path: Path
) -> None:
    train, val = paint(12, 4), paint(3, 0, "val")  # one class: the last epoch is kept
    pictures = Pictures([train], config.input, "none", 0)
    said = distill.ask(teacher.load(teacher_pt), pictures)[0]
    distances = {}
    for share in (0.0, 1.0):
        changed = replace(config, student=replace(config.student, soft_share=share, epochs=6, learning_rate=0.01))
        made = distill.distill(changed, teacher_pt, [train], [val], tmp_path / str(share))
        logits = evaluate.predict(student.load(made), pictures.in_order(8))
        loss = distill.SoftLoss(np.tile(said, (4, 1)), 2.0, 1.0)
        whole = Batch(np.arange(16), np.zeros(16, np.int64))
        distances[share] = float(loss(torch.from_numpy(logits), torch.zeros(16), whole))
    assert distances[1.0] < 0.9 * distances[0.0]


def test_the_teacher_is_asked_about_every_way_a_picture_is_shown(paint: Paint, config: Config) -> None:
    class Corner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(255.0))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, 0, 0, 0] * self.scale

    samples = paint(2, 2)
    for flips, shown in (("none", {0}), ("horizontal", {0, 1}), ("vertical", {0, 2}), ("both", {0, 1, 2, 3})):
        pictures = Pictures([samples], config.input, flips, 0)
        said = distill.ask(Corner(), pictures)
        upright = torch.stack([pictures[i][0] for i in range(4)])[:, 0].numpy()
        corners = np.stack([upright[:, 0, 0], upright[:, 0, -1], upright[:, -1, 0], upright[:, -1, -1]])
        for variant in range(4):
            if variant in shown:
                np.testing.assert_allclose(said[variant], corners[variant], atol=1e-3)
            else:
                assert np.isnan(said[variant]).all()


def test_the_loss_is_the_one_written_down() -> None:
    asked = np.array([[9.0, 9.0], [2.0, -4.0]], np.float32)
    batch = Batch(np.array([1, 0]), np.array([1, 1]))
    logits, labels = torch.tensor([1.0, -3.0]), torch.tensor([0.0, 1.0])

    def bce(logit: float, aim: float) -> float:
        share = 1 / (1 + math.exp(-logit))
        return -(aim * math.log(share) + (1 - aim) * math.log(1 - share))

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    hard = (bce(1.0, 0.0) + bce(-3.0, 1.0)) / 2
    soft = 4 * (bce(0.5, sigmoid(-2.0)) + bce(-1.5, sigmoid(1.0))) / 2
    assert float(distill.SoftLoss(asked, 2.0, 0.25)(logits, labels, batch)) == pytest.approx(0.75 * hard + 0.25 * soft)


def test_without_a_teacher_the_command_to_run_is_named(paint: Paint, config: Config, tmp_path: Path) -> None:
    train, val, target = [paint(4, 4)], paint(2, 2, "val"), tmp_path / "student"
    with pytest.raises(TrainingError, match=r"gone\.pt: not found; expected a trained teacher; run: diagline train"):
        distill.distill(config, tmp_path / "gone.pt", train, [val], target)
    assert not target.exists()
    alone = replace(config, student=replace(config.student, soft_share=0.0))
    assert distill.distill(alone, tmp_path / "gone.pt", train, [val], target) == target / "student.pt"


def test_a_finished_student_returns_at_once_and_another_teacher_is_refused(
    paint: Paint, config: Config, teacher_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val, target = [paint(4, 4)], paint(2, 2, "val"), tmp_path / "student"
    made = distill.distill(config, teacher_pt, train, [val], target)
    assert {path.name for path in target.iterdir()} == {"checkpoint.pt", "history.json", "result.json", "student.pt"}
    result = json.loads((target / "result.json").read_text())
    assert result["threshold"] == result["validation"]["threshold"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(loop, "fit", never)
    assert distill.distill(config, teacher_pt, train, [val], target) == made
    teacher.save(teacher.Teacher(), teacher_pt, {})
    with pytest.raises(TrainingError, match="teacher = "):
        distill.distill(config, teacher_pt, train, [val], target)
