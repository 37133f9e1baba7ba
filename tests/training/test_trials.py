"""A grid of trials is kept trial by trial, goes on after a kill, and never mixes settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from killed import Killed, killed_at

from diagline.config import Config, TeacherConfig
from diagline.errors import TrainingError
from diagline.samples import SampleSet
from generation.worker import Worker
from training import settings, trials
from training.trials import Trial

Paint = Callable[..., SampleSet]
ALONE = Worker()


@pytest.fixture
def two(paint: Paint, config: Config) -> list[Trial]:
    """Two trials of two epochs of two steps, which differ in their seed."""
    train, held = paint(4, 4), paint(3, 3, "test")
    longer = replace(config, teacher=replace(config.teacher, epochs=2, batch_size=4, learning_rate=1e-3))
    return [Trial(f"seed{seed}", replace(longer, seed=seed), (train,), (), held) for seed in (1, 2)]


def test_a_grid_killed_in_a_trial_goes_on_in_it_and_finds_the_same(
    two: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = trials.run(two, tmp_path / "whole", ALONE)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(settings, "hard_loss", killed_at(7))  # second trial, second epoch, last step
        trials.run(two, tmp_path / "killed", ALONE)
    assert (tmp_path / "killed" / "seed1.json").is_file() and not (tmp_path / "killed" / "seed2.json").is_file()
    before = (tmp_path / "killed" / "seed1.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(settings, "hard_loss", killed_at(3))  # going on takes two steps
        found, reasons = trials.run(two, tmp_path / "killed", ALONE)
    assert (tmp_path / "killed" / "seed1.json").stat().st_mtime_ns == before
    assert not reasons and list(found) == ["seed1", "seed2"]
    for name, result in expected.items():
        assert np.array_equal(found[name].logits, result.logits), name
        assert found[name].figures == result.figures
    assert not np.array_equal(expected["seed1"].logits, expected["seed2"].logits)
    assert not list((tmp_path / "killed").rglob("*.pt")), "networks are not kept"


def test_trials_of_other_settings_or_pictures_are_not_taken_for_these(two: list[Trial], tmp_path: Path) -> None:
    first = two[:1]
    identity = trials._identities(first)["seed1"]
    body = {"format": trials.FORMAT, "identity": identity, "figures": {}, "seconds": 1.0, "labels": [], "logits": []}
    path = tmp_path / "seed1.json"
    path.write_text(json.dumps(body))
    assert list(trials.run(first, tmp_path, ALONE)[0]) == ["seed1"]
    other = replace(first[0].config, teacher=replace(first[0].config.teacher, learning_rate=0.5))
    with pytest.raises(TrainingError, match=rf"{path}.*teacher\.learning_rate differ.*remove {tmp_path}"):
        trials.run([replace(first[0], config=other)], tmp_path, ALONE)
    with pytest.raises(TrainingError, match="training pictures differ"):
        trials.run([replace(first[0], train=(first[0].measured,))], tmp_path, ALONE)
    path.write_text("{")
    with pytest.raises(TrainingError, match=r"seed1\.json: cannot be read"):
        trials.run(first, tmp_path, ALONE)


def test_a_trial_that_cannot_train_stops_the_others_only_where_asked(
    two: list[Trial], paint: Paint, tmp_path: Path
) -> None:
    bad = replace(two[0], train=(paint(4, 0, seed=9),))
    short = replace(two[1], config=replace(two[1].config, teacher=replace(two[1].config.teacher, epochs=1)))
    with pytest.raises(TrainingError, match="none defective"):
        trials.run([bad, short], tmp_path, ALONE)
    found, reasons = trials.run([bad, short], tmp_path, ALONE, keep_going=True)
    assert list(found) == ["seed2"] and "none defective" in reasons["seed1"]
    found, reasons = trials.run([replace(bad, train=short.train, config=short.config), short], tmp_path, ALONE)
    assert list(found) == ["seed1", "seed2"] and not reasons, "a failure is tried again"


def test_processes_share_the_trials_and_the_first_gathers_them(
    two: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_part", lambda worker: worker.wait())  # there is no group to leave
    short = [replace(one, config=replace(one.config, teacher=TeacherConfig(epochs=1, batch_size=8))) for one in two]
    second, _ = trials.run(short, tmp_path, Worker(1, 2))
    assert list(second) == ["seed2"]
    first, _ = trials.run(short, tmp_path, Worker(0, 2))
    assert list(first) == ["seed1", "seed2"]


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (11100, "3 h 05 min")])
def test_time_left_is_said_for_people(seconds: float, text: str) -> None:
    assert trials.duration(seconds) == text
