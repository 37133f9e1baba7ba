"""Kept maps change what a step costs, not what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diagline.config import Config
from diagline.samples import SampleSet
from training import evaluate, frozen, teach, teacher
from training.data import Batch, Pictures

Paint = Callable[..., SampleSet]


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_rest_on_kept_maps_says_what_the_whole_teacher_says(paint: Paint, config: Config, stages: int) -> None:
    torch.manual_seed(1)
    network = teacher.Teacher(freeze=stages).eval()
    pictures = Pictures([paint(3, 2)], config.input, "both", 0)
    head, kept, judged = frozen.split(network, stages, pictures, pictures, "fp32")
    assert isinstance(kept, frozen.KeptMaps) and isinstance(judged, frozen.KeptMaps)
    batch = Batch(np.array([4, 0, 2]), np.array([3, 0, 1]))
    expected = evaluate.predict(network, [pictures.images(batch)])
    np.testing.assert_allclose(evaluate.predict(head, [kept.images(batch)]), expected, rtol=2e-3, atol=2e-3)
    trained = {id(weight) for weight in network.parameters() if weight.requires_grad}
    assert {id(weight) for weight in head.parameters()} == trained


def test_maps_that_do_not_fit_are_computed_in_each_step_and_it_is_said(
    paint: Paint, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frozen, "CACHE_BYTES", 10)
    network, pictures = teacher.Teacher(freeze=4), Pictures([paint(3, 2)], config.input, "none", 0)
    assert frozen.split(network, 4, pictures, None, "fp32") == (network, pictures, None)
    assert "computed in each step" in capsys.readouterr().err


def test_a_teacher_trained_on_kept_maps_is_saved_whole(
    paint: Paint, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = [paint(6, 4)], [paint(3, 3, "val")]
    made = {}
    for name, room in (("kept", frozen.CACHE_BYTES), ("each step", 10)):
        monkeypatch.setattr(frozen, "CACHE_BYTES", room)
        asked = replace(config, teacher=replace(config.teacher, freeze=4, epochs=2, precision="fp32"))
        made[name] = teacher.load(teach.train_teacher(asked, train, val, tmp_path / name))
    untrained, _ = teacher.build("none", False, 4)
    pictures = Pictures(train, config.input, "none", 0)
    kept, plain = (evaluate.predict(network, pictures.in_order(4)) for network in made.values())
    np.testing.assert_allclose(kept, plain, rtol=0.05, atol=0.05)
    assert not np.allclose(kept, evaluate.predict(untrained, pictures.in_order(4)), atol=1e-3)
