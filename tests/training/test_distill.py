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
from diagline.config_train import StudentConfig
from diagline.errors import TrainingError
from diagline.samples import SampleSet
from training import distill, evaluate, hints, loop, student, student_spec, teacher
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
    said = distill.ask(teacher.load(teacher_pt), pictures, "fp32").logits[0]
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
    torch.manual_seed(1)
    network, samples = teacher.Teacher().eval(), paint(2, 2)
    for flips, views, shown in (
        ("none", 0, {0}),
        ("vertical", 0, {0, 2}),
        ("both", 0, {0, 1, 2, 3}),
        ("both", 3, {0, 1, 2}),
    ):
        pictures = Pictures([samples], config.input, flips, 0, views=views)
        said = distill.ask(network, pictures, "fp32").logits
        for variant in range(len(said)):
            if variant in shown:
                batch = Batch(np.arange(4), np.full(4, variant))
                expected = evaluate.predict(network, [pictures.images(batch)])
                np.testing.assert_allclose(said[variant], expected, atol=1e-4)
            else:
                assert np.isnan(said[variant]).all()


def test_hints_teach_the_student_the_teachers_map_and_are_gone_after_it(
    paint: Paint, config: Config, teacher_pt: Path, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    teacher.save(teacher.Teacher(), teacher_pt, {})  # random, but its maps follow the picture
    train, val = [paint(12, 8)], paint(3, 0, "val")
    pictures = Pictures(train, config.input, "both", config.seed)
    network = student.Student(student_spec.spec("S10", config.input))
    asked = distill.ask(
        teacher.load(teacher_pt), pictures, "fp32", distill.Question(hints.map_size(network)), config.seed
    )
    assert asked.maps is not None and asked.maps.shape == (4, 20, hints.CHANNELS, *hints.map_size(network))
    assert float(asked.maps.astype(np.float32).var()) > 0.2  # scaled, and no direction lost
    taught = replace(config, student=replace(config.student, hints=5.0, epochs=12, soft_share=0.0))
    made = distill.distill(taught, teacher_pt, train, [val], tmp_path / "hinted")
    history = json.loads((tmp_path / "hinted" / "history.json").read_text())
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]  # noise parts: their maps cannot be foretold wholly
    assert set(student.load(made).state_dict()) == set(student.fold(network).state_dict())


def test_what_the_teacher_says_of_the_places_has_its_logit_as_mean(paint: Paint, config: Config) -> None:
    torch.manual_seed(4)
    network, pictures = teacher.Teacher().eval(), Pictures([paint(3, 2)], config.input, "both", 0)
    size = student_spec.spec("S10", config.input).map_size
    asked = distill.ask(network, pictures, "fp32", distill.Question(places=size))
    assert asked.maps is None and asked.places is not None and asked.places.shape == (4, 5, *size)
    np.testing.assert_allclose(asked.places.astype(np.float32).mean((2, 3)), asked.logits, atol=5e-3)
    assert asked.places.astype(np.float32).std((2, 3)).min() > 0


def test_the_students_heat_map_learns_the_teachers_places(
    paint: Paint, config: Config, teacher_pt: Path, tmp_path: Path
) -> None:
    train, val = [paint(12, 8)], paint(3, 0, "val")
    pictures = Pictures(train, config.input, "none", config.seed)
    heard = replace(config.student, soft_share=0.0, places=5.0, epochs=8, learning_rate=0.01)
    made = distill.distill(replace(config, student=heard), teacher_pt, train, [val], tmp_path / "placed")
    with torch.no_grad():  # every place of this teacher says 3
        _, heat = student.load(made).eval().heat(torch.from_numpy(next(pictures.in_order(20))).float() / 255)
    assert float(heat.mean()) > 1


def test_the_loss_on_places_is_the_one_written_down() -> None:
    class Said:
        heat = torch.tensor([[[1.0, -2.0]], [[0.5, 4.0]]])

    places = np.array([[[[3.0, -1.0]], [[0.0, 2.0]]]], np.float16)
    batch = Batch(np.array([1, 0]), np.array([0, 0]))
    loss = hints.place_loss(lambda *_: torch.tensor(7.0), Said(), places, 2.0, 0.5)  # type: ignore[arg-type]
    aims = 1 / (1 + np.exp(-np.array([0.0, 2.0, 3.0, -1.0]) / 2))
    shares = 1 / (1 + np.exp(-np.array([1.0, -2.0, 0.5, 4.0]) / 2))
    soft = -(aims * np.log(shares) + (1 - aims) * np.log(1 - shares)).mean()
    assert float(loss(torch.zeros(2), torch.zeros(2), batch)) == pytest.approx(7 + 0.5 * 4 * soft, rel=1e-5)


def test_the_student_without_a_teacher_differs_in_nothing_else(config: Config) -> None:
    heard = {"soft_share": 1.0, "hints": 1.0, "places": 1.0}
    taught = replace(config, student=replace(config.student, views=4, **heard))
    without = distill.alone(taught)
    assert without.student == replace(taught.student, **dict.fromkeys(heard, 0.0))
    assert replace(without, student=taught.student) == taught


def test_the_student_without_a_teacher_is_shown_nothing_that_has_no_label(config: Config) -> None:
    taught = replace(config.student, soft_share=1.0, views=4, shown="altered", jitter=0.0)
    without = distill.alone(replace(config, student=taught)).student
    assert (without.shown, without.views, without.jitter) == ("moved", 0, StudentConfig().jitter)


def test_int8_fine_tuning_ends_in_a_folded_student_and_says_what_it_gained(
    paint: Paint, config: Config, teacher_pt: Path, tmp_path: Path
) -> None:
    tuned = replace(config, student=replace(config.student, quantised_epochs=1))
    made = distill.distill(tuned, teacher_pt, [paint(6, 6)], [paint(3, 3, "val")], tmp_path / "student")
    assert student.load(made).folded
    result = json.loads((tmp_path / "student" / "result.json").read_text())
    assert "in simulated int8" in result["int8_epoch_rule"]


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
    assert {path.name for path in target.iterdir()} == {
        "checkpoint.pt", "history.json", "result.json", "student.pt", "tensorboard",
    }  # fmt: skip
    result = json.loads((target / "result.json").read_text())
    assert result["threshold"] == result["validation"]["threshold"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(loop, "fit", never)
    assert distill.distill(config, teacher_pt, train, [val], target) == made
    teacher.save(teacher.Teacher(), teacher_pt, {})
    with pytest.raises(TrainingError, match="teacher = "):
        distill.distill(config, teacher_pt, train, [val], target)
