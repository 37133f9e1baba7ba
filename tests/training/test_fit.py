"""The loop learns, survives a kill, and refuses what it cannot go on from."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed import Killed, killed_at
from torch import nn

from diagline.config import Config
from diagline.errors import DatasetError, OutputError, TrainingError
from diagline.preprocess import InputContract
from diagline.samples import SampleSet, write_image
from training import checkpoint, data, loop, teach, teacher
from training import precision as numbers
from training.data import Batch, Pictures
from training.settings import factor

Paint = Callable[..., SampleSet]
Fresh = Callable[[], nn.Module]
SETTINGS = loop.Settings(epochs=3, batch_size=4, learning_rate=0.02, balance=True)
STEPS = 4  # an epoch of 16 pictures
CONTRACT = InputContract(48, 48, 1)


@pytest.fixture
def fresh(tiny: nn.Module) -> Callable[[], nn.Module]:
    """The same untrained network again, with torch's generator where it was."""

    def make() -> nn.Module:
        torch.manual_seed(4)
        return copy.deepcopy(tiny)

    return make


@pytest.fixture
def pictures(paint: Paint) -> Pictures:
    return Pictures([paint(10, 6)], CONTRACT, "both", 5)


@pytest.fixture
def validation(paint: Paint) -> Pictures:
    return Pictures([paint(5, 3, "val")], CONTRACT, "none", 5)


def curve(history: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["epoch"], row["loss"], row["val_ap"], row["learning_rate"]) for row in history]


def test_the_loop_learns(fresh: Fresh, pictures: Pictures, validation: Pictures, tmp_path: Path) -> None:
    network = fresh()
    done = loop.fit(network, pictures, validation, replace(SETTINGS, epochs=25), tmp_path / "t", {})
    assert done.history[-1]["loss"] < 0.5 * done.history[0]["loss"]
    result = loop.conclude(network, validation, done)
    assert result["validation"]["ap"] == 1.0
    assert (result["validation"]["escape"], result["validation"]["overkill"]) == (0.0, 0.0)
    assert json.loads((tmp_path / "t" / "history.json").read_text()) == done.history


@pytest.mark.parametrize("average", [0.0, 0.75])
def test_a_run_killed_at_any_step_goes_on_with_the_same_curve(
    fresh: Fresh, pictures: Pictures, validation: Pictures, tmp_path: Path, average: float
) -> None:
    settings = replace(SETTINGS, schedule="cosine", jitter=0.1, average=average)
    whole = fresh()
    expected = loop.fit(whole, pictures, validation, settings, tmp_path / "whole", {"seed": 1})
    for step in range(settings.epochs * STEPS):
        target = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            loop.fit(fresh(), pictures, validation, settings, target, {"seed": 1}, killed_at(step))
        assert (target / "checkpoint.pt").exists() == (step >= STEPS)
        again = fresh()
        done = loop.fit(again, pictures, validation, settings, target, {"seed": 1})
        assert curve(done.history) == curve(expected.history), step
        assert done.epoch == expected.epoch
        for name, value in again.state_dict().items():
            assert torch.equal(value, whole.state_dict()[name]), (step, name)


def test_a_checkpoint_is_replaced_whole_or_not_at_all(
    fresh: Fresh, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loop.fit(fresh(), pictures, None, SETTINGS, tmp_path / "whole", {})
    rename, done = os.replace, 0
    for failing in range(2 * SETTINGS.epochs):  # checkpoint.pt and history.json of each epoch
        target, done = tmp_path / f"full-{failing}", 0

        def fill_disk(source: Path, aim: Path, failing: int = failing) -> None:
            nonlocal done
            done += 1
            if done == failing + 1:
                raise OSError(28, "No space left on device")
            rename(source, aim)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fill_disk)
            with pytest.raises(OutputError, match="No space left"):
                loop.fit(fresh(), pictures, None, SETTINGS, target, {})
        assert not [path for path in target.iterdir() if path.name.startswith(".")]
        again = loop.fit(fresh(), pictures, None, SETTINGS, target, {})
        assert curve(again.history) == curve(expected.history)


def test_another_identity_is_refused_and_names_what_changed(fresh: Fresh, pictures: Pictures, tmp_path: Path) -> None:
    loop.fit(fresh(), pictures, None, SETTINGS, tmp_path / "t", {"seed": 1, "teacher.epochs": 3})
    with pytest.raises(TrainingError, match=r"seed = 1 there, 2 now.*remove .* or set another output") as caught:
        loop.fit(fresh(), pictures, None, SETTINGS, tmp_path / "t", {"seed": 2, "teacher.epochs": 3})
    assert "teacher.epochs" not in str(caught.value)


def test_a_damaged_checkpoint_is_named(fresh: Fresh, pictures: Pictures, tmp_path: Path) -> None:
    loop.fit(fresh(), pictures, None, SETTINGS, tmp_path, {})
    path = tmp_path / checkpoint.CHECKPOINT
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: cannot be read"):
        loop.fit(fresh(), pictures, None, SETTINGS, tmp_path, {})
    torch.save({"format": "older", "identity": "{}"}, path)
    with pytest.raises(TrainingError, match="written by another version"):
        loop.fit(fresh(), pictures, None, SETTINGS, tmp_path, {})


def test_a_loss_that_is_not_finite_stops_and_names_the_pictures(
    fresh: Fresh, pictures: Pictures, tmp_path: Path
) -> None:
    at = STEPS + 2
    calls = iter(range(100))

    def loss(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        return logits.sum() * float("nan" if next(calls) == at else 1)

    with pytest.raises(TrainingError, match=r"epoch 2, batch 3: the loss is nan") as caught:
        loop.fit(fresh(), pictures, None, SETTINGS, tmp_path, {}, loss)
    batch = pictures.plan(1, SETTINGS.batch_size, True)[2]
    assert ", ".join(pictures.samples[index].image for index in batch.indices) in str(caught.value)
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(json.loads(content["history"])) == 1
    assert all(value.isfinite().all() for value in content["network"].values())


@pytest.mark.parametrize(
    ("mode", "moves"),
    [("train", [True, True]), ("frozen", [False, False]), ("frozen_after_first_epoch", [True, False])],
)
def test_batch_norm_statistics_move_only_where_they_may(
    fresh: Fresh, pictures: Pictures, tmp_path: Path, mode: str, moves: list[bool]
) -> None:
    network = fresh()
    seen = [network[1].running_mean.clone()]  # type: ignore[index, union-attr]
    for epochs in (1, 2):
        target = tmp_path / str(epochs)
        loop.fit(network := fresh(), pictures, None, replace(SETTINGS, epochs=epochs, batch_norm=mode), target, {})
        seen.append(network[1].running_mean.clone())
    assert [not torch.equal(before, after) for before, after in pairwise(seen)] == moves


def test_the_epoch_kept_is_the_one_that_did_best_on_validation(
    fresh: Fresh, pictures: Pictures, validation: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, torch.Tensor]] = []
    aps = iter([0.5, 0.9, 0.9, 0.2])
    network = fresh()

    def ap(*_: object) -> float:
        states.append({name: value.clone() for name, value in network.state_dict().items()})
        return next(aps)

    monkeypatch.setattr(loop, "_validation_ap", ap)
    done = loop.fit(network, pictures, validation, replace(SETTINGS, epochs=4), tmp_path, {})
    assert (done.epoch, done.epoch_rule) == (3, "best validation AP, of equals the latest")
    assert all(torch.equal(value, states[2][name]) for name, value in network.state_dict().items())


def test_the_last_epoch_is_kept_where_that_is_asked_and_validation_is_only_looked_at(
    fresh: Fresh, pictures: Pictures, validation: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aps = iter([0.9, 0.5, 0.2])
    monkeypatch.setattr(loop, "_validation_ap", lambda *_: next(aps))
    done = loop.fit(network := fresh(), pictures, validation, replace(SETTINGS, keep="last"), tmp_path / "a", {})
    assert (done.epoch, done.epoch_rule) == (3, "last")
    assert [row["val_ap"] for row in done.history] == [0.9, 0.5, 0.2]
    loop.fit(other := fresh(), pictures, None, SETTINGS, tmp_path / "b", {})
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


def test_the_average_of_the_weights_is_what_is_validated_and_kept(
    fresh: Fresh, pictures: Pictures, validation: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[torch.Tensor] = []

    def ap(network: nn.Module, *_: object) -> float:
        judged.append(network.state_dict()["0.weight"].clone())
        return 0.5

    monkeypatch.setattr(loop, "_validation_ap", ap)
    steps: list[torch.Tensor] = []
    averages: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        steps.append(network.state_dict()["0.weight"].clone())  # as the step before left it
        return loop.hard_loss(logits, labels, batch)

    network = fresh()
    settings = replace(SETTINGS, epochs=2, average=0.75)
    loop.fit(network, pictures, validation, settings, tmp_path, {}, loss)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for weights in [*steps[1:], state["network"]["0.weight"]]:
        averages.append(weights if not averages else 0.75 * averages[-1] + 0.25 * weights)
    torch.testing.assert_close(judged[-1], averages[-1])
    torch.testing.assert_close(network.state_dict()["0.weight"], averages[-1])
    assert not torch.allclose(averages[-1], state["network"]["0.weight"])


def test_a_checkpoint_of_another_network_is_refused_and_both_are_named(
    fresh: Fresh, pictures: Pictures, tmp_path: Path
) -> None:
    loop.fit(fresh(), pictures, None, replace(SETTINGS, epochs=1), tmp_path, {})
    wider = nn.Sequential(nn.Conv2d(1, 7, 3, 2), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(7, 1))
    wanted = r"Sequential of 9 tensors, .* there, Sequential of 4 tensors, .* now; 0\.weight is \(6, 1, 3, 3\) there, "
    with pytest.raises(TrainingError, match=wanted + r"\(7, 1, 3, 3\) now; .*remove"):
        loop.fit(wider, pictures, None, SETTINGS, tmp_path, {})


def test_pictures_that_cannot_be_read_any_more_stop_the_run_and_are_named(
    fresh: Fresh, paint: Paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = paint(10, 6)
    monkeypatch.setattr(data, "CACHE_BYTES", 0)
    pictures = Pictures([samples], CONTRACT, "none", 0)
    (samples.root / "3.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"3\.png: not an image"):
        loop.fit(fresh(), pictures, None, replace(SETTINGS, balance=False), tmp_path / "t", {})


def test_an_epochs_row_and_line_say_how_fast_and_what_the_loader_cost(
    fresh: Fresh, pictures: Pictures, validation: Pictures, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = loop.fit(fresh(), pictures, validation, SETTINGS, tmp_path, {})
    last = done.history[-1]
    assert last["images_per_s"] > 0 and 0 <= last["loader_share"] < 1
    line = (
        f"epoch 3/3  loss {last['loss']:.4f}  val AP {last['val_ap']:.3f}  {last['images_per_s']:.4g} images/s  loader "
    )
    printed = " ".join(capfd.readouterr().err.split())
    assert " ".join(line.split()) in printed and "training" in printed and "cpu, fp32" in printed


def test_the_papers_label_rule_reaches_training_and_what_it_loses_is_told(
    paint: Paint, config: Config, tmp_path: Path
) -> None:
    train, val = [paint(6, 2), paint(0, 2, seed=1)], paint(3, 2, "val")
    (dot := np.zeros((48, 48), np.uint8))[9, 9] = 255
    write_image(train[1].root / "0_mask.png", dot)
    odd = replace(config, input=InputContract(40, 44, 1), teacher=replace(config.teacher, labels="mask", keep="last"))
    teach.train_teacher(odd, train, [val], tmp_path / "t")
    result = json.loads((tmp_path / "t" / "result.json").read_text())
    assert (result["labels_lost"], result["epoch_rule"]) == (1, "last")


def test_without_validation_the_last_epoch_is_kept_and_the_threshold_is_zero(
    fresh: Fresh, pictures: Pictures, tmp_path: Path
) -> None:
    network = fresh()
    done = loop.fit(network, pictures, None, SETTINGS, tmp_path, {})
    result = loop.conclude(network, None, done)
    assert (result["epoch"], result["epoch_rule"], result["threshold"]) == (3, "last", 0.0)
    assert "does not hold both classes" in result["threshold_rule"]
    assert result["validation"] is None


def test_bf16_reaches_the_network_and_its_weights_stay_fp32(fresh: Fresh, pictures: Pictures, tmp_path: Path) -> None:
    seen = set()
    network = fresh()
    network[6].register_forward_hook(lambda module, inputs, output: seen.add((output.dtype, module.weight.dtype)))
    loop.fit(network, pictures, None, replace(SETTINGS, epochs=1, precision="bf16"), tmp_path, {})
    assert seen == {(torch.bfloat16, torch.float32)}


def test_another_light_moves_each_picture_as_a_whole_and_stays_in_range() -> None:
    pixels = torch.rand(8, 1, 6, 6)
    relit = loop._relit(pixels, 0.1, 8, slice(0, 8))
    assert float(relit.min()) >= 0 and float(relit.max()) <= 1
    moved = (relit - pixels).flatten(1)
    assert float(moved.abs().max()) <= 0.1 + 0.5 * 0.1 + 1e-6
    assert len(set(moved.mean(1).tolist())) == 8
    for before, after in zip(pixels, relit, strict=True):
        inside = (after > 0) & (after < 1)
        rank = before[inside].argsort()
        assert bool((after[inside][rank].diff() >= 0).all())


def test_the_cosine_rises_then_falls_to_nothing(pictures: Pictures, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=40, schedule="cosine")
    rates = [factor(settings, step / 10) for step in range(400)]
    assert rates[0] < 0.05 < 0.99 < max(rates)
    assert rates[-1] < 0.001
    assert [factor(SETTINGS, step / 10) for step in range(30)] == [1.0] * 30


def test_a_teacher_is_trained_and_a_finished_run_returns_at_once(
    paint: Paint, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val, target = [paint(6, 2), paint(0, 2, seed=1)], paint(3, 2, "val"), tmp_path / "teacher"
    made = teach.train_teacher(config, train, [val], target)
    assert made == target / "teacher.pt"
    assert isinstance(teacher.load(made), teacher.Teacher)
    assert {path.name for path in target.iterdir()} == {
        "checkpoint.pt", "history.json", "result.json", "teacher.pt", "tensorboard", "weights.json",
    }  # fmt: skip
    result = json.loads((target / "result.json").read_text())
    assert result["threshold"] == result["validation"]["threshold"]
    assert len(json.loads((target / "history.json").read_text())) == result["epochs"] == 1
    assert (target / "checkpoint.pt").stat().st_size < 100_000

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(teacher, "build", never)
    assert teach.train_teacher(config, train, [val], target) == made
    other = replace(config, teacher=replace(config.teacher, learning_rate=0.5))
    with pytest.raises(TrainingError, match=r"teacher\.learning_rate = 0\.0001 there, 0\.5 now"):
        teach.train_teacher(other, train, [val], target)
    with pytest.raises(TrainingError, match="training pictures = "):
        teach.train_teacher(config, train[:1], [val], target)


def test_the_teacher_learns_from_the_views_it_is_shown(
    paint: Paint, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[np.ndarray] = []

    def fit(network: object, pictures: Pictures, *_: object, **__: object) -> None:
        learned.append(pictures.images(data.Batch(np.zeros(3, np.int64), np.arange(3))))
        raise KeyboardInterrupt

    monkeypatch.setattr(teach, "fit", fit)
    for views in (0, 3):
        shown = replace(config, teacher=replace(config.teacher, views=views, flips="none"))
        with pytest.raises(KeyboardInterrupt):
            teach.train_teacher(shown, [paint(4, 4)], [], tmp_path / str(views))
    flat, varied = learned
    assert np.array_equal(flat[0], varied[0])
    assert not np.array_equal(varied[0], varied[1]) and not np.array_equal(varied[1], varied[2])


def test_one_class_is_refused_before_anything_is_written(paint: Paint, config: Config, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="none defective"):
        teach.train_teacher(config, [paint(4, 0)], paint(2, 2, "val"), tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()


def test_auto_computes_in_bf16_only_where_the_processor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, wanted in (
        ({"avx2"}, "fp32"),
        ({"avx2", "avx512_bf16"}, "bf16"),
        ({"amx_bf16"}, "bf16"),
        (set(), "fp32"),
    ):
        monkeypatch.setattr(numbers.record, "cpu_flags", lambda flags=flags: frozenset(flags))
        assert numbers.computed_precision("auto", "cpu") == wanted
        assert numbers.computed_precision("fp32", "cpu") == "fp32"
