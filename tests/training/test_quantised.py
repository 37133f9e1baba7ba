"""Fine-tuning in simulated int8: it learns, survives a kill, and never leaves the student worse."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from killed import Killed, killed_at
from rough_students import badly_scaled
from small_students import lively, pictures, random_spec

from diagline.errors import TrainingError
from diagline.preprocess import InputContract
from diagline.samples import SampleSet
from training import evaluate, loop, quantised, student, student_spec
from training.data import Batch, Pictures
from training.equalise import Calibration
from training.quantised import Simulated, calibration_batches, calibration_indices, fine_tune

Paint = Callable[..., SampleSet]
CONTRACT = InputContract(48, 48, 1)
SPEC = student_spec.spec("S10", CONTRACT)
SETTINGS = loop.Settings(epochs=3, batch_size=4, learning_rate=1e-3, balance=True, schedule="cosine", jitter=0.1)
STEPS = 4  # an epoch of 16 pictures


@pytest.fixture
def train(paint: Paint) -> Pictures:
    return Pictures([paint(10, 6)], CONTRACT, "both", 5)


@pytest.fixture
def val(paint: Paint) -> Pictures:
    return Pictures([paint(7, 5, "val")], CONTRACT, "none", 5)


def batches(spec: student_spec.StudentSpec, count: int, seed: int = 0) -> Calibration:
    made = np.ascontiguousarray(np.stack(pictures(spec, count, seed)).transpose(0, 3, 1, 2))
    return lambda: [made[:5], made[5:]]


def everything(some: Pictures) -> Calibration:
    return calibration_batches(some, calibration_indices(some.labels, len(some), 0))


def harmful(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
    return loop.hard_loss(-logits, labels, batch)


@pytest.mark.parametrize("seed", range(8))
def test_without_rounding_the_simulation_is_the_student(seed: int) -> None:
    network = student.fold(lively(random_spec(seed), seed))
    simulated = Simulated(network, batches(network.spec, 8))
    images = torch.rand(3, network.spec.channels, network.spec.height_px, network.spec.width_px)
    with torch.no_grad():
        found = simulated._flow(images, lambda weight: weight, lambda point, x: x)
        torch.testing.assert_close(found, network(images))
        assert not torch.equal(simulated(images), network(images))


@pytest.mark.parametrize("seed", range(8))
def test_gradients_reach_every_weight_of_the_student_itself(seed: int) -> None:
    network = student.fold(lively(random_spec(seed), seed))
    calibration = batches(network.spec, 8)
    simulated = Simulated(network, calibration)
    mine = dict(network.named_parameters())
    assert {id(weight) for weight in simulated.parameters()} == {id(weight) for weight in mine.values()}
    logits = torch.cat([simulated(torch.from_numpy(batch) / 255) for batch in calibration()])
    logits.square().sum().backward()
    for name, weight in mine.items():
        assert weight.grad is not None and bool(weight.grad.isfinite().all()) and bool(weight.grad.any()), name


def test_a_weight_has_255_steps_a_channel_and_zero_is_one_of_them() -> None:
    weight = torch.randn(6, 4, 5, 5) * torch.logspace(-4, 1, 6).reshape(-1, 1, 1, 1)
    weight[3] = 0
    rounded = quantised.quantise_weight(weight)
    steps = weight.flatten(1).abs().amax(1) / 127
    for channel in (0, 1, 2, 4, 5):
        counts = rounded[channel] / steps[channel]
        torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
        assert float(counts.abs().max()) == pytest.approx(127)
        assert float((rounded[channel] - weight[channel]).abs().max()) <= 0.501 * float(steps[channel])
    assert not rounded[3].any()


def test_the_logits_stand_on_the_256_steps_of_their_range() -> None:
    network = badly_scaled(SPEC)
    simulated = Simulated(network, batches(SPEC, 10)).eval()
    logits = evaluate.predict(simulated, batches(SPEC, 40, seed=3)())
    low, high = float(simulated.low[-1]), float(simulated.high[-1])
    step = (high - low) / 255
    counts = logits / step
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
    assert logits.min() >= low - step and logits.max() <= high + step


def test_bf16_around_it_changes_nothing() -> None:
    simulated = Simulated(badly_scaled(SPEC), batches(SPEC, 10)).eval()
    images = torch.rand(2, 1, 48, 48)
    plain = simulated(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(simulated(images), plain)
        again = Simulated(simulated.student, batches(SPEC, 10))
    assert torch.equal(again.low, simulated.low) and torch.equal(again.high, simulated.high)


def test_ranges_follow_the_weights_and_travel_with_the_state() -> None:
    network = badly_scaled(SPEC)
    simulated = Simulated(network, batches(SPEC, 10))
    before = simulated.high.clone()
    with torch.no_grad():
        network.fc.weight.mul_(2)
        network.fc.bias.mul_(2)
    assert torch.equal(simulated.high, before)
    for mode in (True, False):
        simulated.high.zero_()
        simulated.train(mode)
        assert simulated.training == mode
        span = simulated.high - simulated.low
        assert torch.equal(simulated.high[:-1], before[:-1]) and float(span[-1]) > 1.5 * float(before[-1])
    other = Simulated(student.fold(lively(SPEC, 1)), batches(SPEC, 10, seed=1))
    other.load_state_dict(simulated.state_dict())
    images = torch.rand(4, 1, 48, 48)
    assert torch.equal(other(images), simulated(images))


def test_the_tuned_student_is_an_ordinary_folded_one_and_the_given_one_is_untouched(
    train: Pictures, val: Pictures, tmp_path: Path
) -> None:
    given = lively(SPEC, seed=1)
    state = copy.deepcopy(given.state_dict())
    settings = replace(SETTINGS, epochs=6)
    tuned, done = fine_tune(given, train, val, settings, tmp_path / "q", {}, loop.hard_loss, everything(train))
    assert all(torch.equal(value, state[name]) for name, value in given.state_dict().items())
    plain = student.fold(given)
    assert tuned.folded and not tuned.training and list(tuned.state_dict()) == list(plain.state_dict())
    assert done.epoch > 0 and len(done.history) == 6
    aps = [
        evaluate.measure(val.labels, evaluate.predict(Simulated(one, everything(train)), val.in_order(32)), 0.0).ap
        for one in (tuned, plain)
    ]
    assert aps[0] > aps[1]
    wanted = f"validation AP in simulated int8 {aps[0]:.4f} with int8 fine-tuning, {aps[1]:.4f} without"
    assert done.epoch_rule.endswith(wanted)
    assert done.history[done.epoch - 1]["val_ap"] == pytest.approx(aps[0])
    student.save(tuned, tmp_path / "student.pt", {})
    again = student.load(tmp_path / "student.pt")
    assert again.folded
    np.testing.assert_array_equal(evaluate.predict(again, val.in_order(32)), evaluate.predict(tuned, val.in_order(32)))


@pytest.mark.parametrize("validated", [True, False])
def test_a_fine_tuning_that_hurts_does_not_ship(
    train: Pictures, val: Pictures, tmp_path: Path, validated: bool
) -> None:
    network = badly_scaled(SPEC)
    shown = val if validated else None
    good, first = fine_tune(network, train, shown, SETTINGS, tmp_path / "a", {}, loop.hard_loss, everything(train))
    assert first.epoch > 0 and "; " in first.epoch_rule
    kept, done = fine_tune(good, train, shown, SETTINGS, tmp_path / "b", {}, harmful, everything(train))
    assert done.epoch == 0 and len(done.history) == SETTINGS.epochs
    assert all(torch.equal(value, good.state_dict()[name]) for name, value in kept.state_dict().items())
    measured = "validation AP" if validated else "cross-entropy on the training pictures"
    assert done.epoch_rule.startswith(f"not fine-tuned, as that was no better: {measured} in simulated int8 ")


def test_a_fine_tuning_that_changes_nothing_leaves_the_student_as_it_was(
    train: Pictures, val: Pictures, tmp_path: Path
) -> None:
    network = badly_scaled(SPEC)
    settings = replace(SETTINGS, learning_rate=1e-12)
    kept, done = fine_tune(network, train, val, settings, tmp_path, {}, loop.hard_loss, everything(train))
    assert done.epoch == 0 and kept is not network
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in kept.state_dict().items())


def test_a_fine_tuning_killed_at_any_step_goes_on_with_the_same_curve(
    train: Pictures, val: Pictures, tmp_path: Path
) -> None:
    def run(target: Path, loss: loop.Loss = loop.hard_loss) -> tuple[student.Student, loop.Fit]:
        torch.manual_seed(4)
        return fine_tune(badly_scaled(SPEC), train, val, SETTINGS, target, {"seed": 1}, loss, everything(train))

    whole, expected = run(tmp_path / "whole")
    for step in range(1, SETTINGS.epochs * STEPS, 3):
        target = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            run(target, killed_at(step))
        assert (target / "checkpoint.pt").exists() == (step >= STEPS)
        again, done = run(target)
        assert [(row["loss"], row["val_ap"]) for row in done.history] == [
            (row["loss"], row["val_ap"]) for row in expected.history
        ]
        assert (done.epoch, done.epoch_rule) == (expected.epoch, expected.epoch_rule)
        assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


def test_it_does_not_go_on_from_the_fine_tuning_of_another_student(
    train: Pictures, val: Pictures, tmp_path: Path
) -> None:
    fine_tune(badly_scaled(SPEC), train, val, SETTINGS, tmp_path, {}, loop.hard_loss, everything(train))
    with pytest.raises(TrainingError, match="student before int8 = "):
        other = badly_scaled(SPEC, seed=1)
        fine_tune(other, train, val, SETTINGS, tmp_path, {}, loop.hard_loss, everything(train))


@pytest.mark.parametrize(
    ("good", "bad", "count", "drawn_bad"), [(50, 40, 20, 10), (50, 3, 20, 3), (4, 40, 20, 16), (5, 5, 40, 5)]
)
def test_half_of_the_calibration_pictures_are_defects_as_far_as_there_are(
    good: int, bad: int, count: int, drawn_bad: int
) -> None:
    labels = np.random.default_rng(0).permutation([0] * good + [1] * bad)
    chosen = calibration_indices(labels, count, 7)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, good + bad)
    assert int(labels[chosen].sum()) == drawn_bad
    assert np.array_equal(chosen, calibration_indices(labels, count, 7))
    assert len(labels) <= count or not np.array_equal(chosen, calibration_indices(labels, count, 8))


def test_a_student_with_batch_norm_and_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a folded one"):
        Simulated(lively(SPEC), batches(SPEC, 6))
    with pytest.raises(ValueError, match="no calibration picture"):
        Simulated(badly_scaled(SPEC), lambda: [])
