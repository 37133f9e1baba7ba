"""Equal channels: the same student, with less of it lost in int8."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_students import lively, pictures, random_spec
from torch import Tensor, nn

from diagline.config import Config
from diagline.preprocess import InputContract
from diagline.samples import SampleSet
from training import distill, student, student_spec
from training.data import Pictures
from training.equalise import MOST, Calibration, equalise
from training.quantised import Simulated, calibration_batches

SPEC = student_spec.spec("S10", InputContract(48, 48, 1))


def batches(spec: student_spec.StudentSpec, count: int = 8) -> Calibration:
    made = np.ascontiguousarray(np.stack(pictures(spec, count)).transpose(0, 3, 1, 2))
    return lambda: [made[:5], made[5:]]


def quietened(seed: int = 0, octaves: int = 5) -> student.Student:
    """A folded student whose channels are up to 2^octaves apart in each map that a depthwise alone reads."""
    network = student.fold(lively(SPEC, seed))
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for before, after in between(network):
            gain = torch.exp2(-octaves * torch.rand(len(before.weight), generator=drawn)).view(-1, 1, 1, 1)
            assert before.bias is not None
            before.weight *= gain
            before.bias *= gain.flatten()
            after.weight /= gain
    return network


def between(network: student.Student) -> Iterator[tuple[nn.Conv2d, nn.Conv2d]]:
    """The convolutions before and after each map but the last, of a student without residuals."""
    names = ["stem", *(f"blocks.{index}.pointwise" for index in range(len(network.blocks) - 1))]
    for index, name in enumerate(names):
        pair = (network.get_submodule(f"{one}.conv") for one in (name, f"blocks.{index}.depthwise"))
        before, after = pair
        assert isinstance(before, nn.Conv2d) and isinstance(after, nn.Conv2d)
        yield before, after


def largest(network: student.Student, images: Tensor) -> list[Tensor]:
    """The largest value of each channel, per block's input."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].amax((0, 2, 3))))
        for block in network.blocks
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return seen


def pixels(calibration: Calibration) -> Tensor:
    return torch.cat([torch.from_numpy(batch) for batch in calibration()]).float() / 255


@pytest.mark.parametrize("seed", range(16))
def test_it_says_the_same_of_the_calibration_pictures_and_the_given_student_is_untouched(seed: int) -> None:
    given = student.fold(lively(random_spec(seed), seed))
    state, calibration = copy.deepcopy(given.state_dict()), batches(given.spec)
    made = equalise(given, calibration)
    assert all(torch.equal(value, state[name]) for name, value in given.state_dict().items())
    assert made.folded and not made.training
    with torch.no_grad():
        torch.testing.assert_close(made(pixels(calibration)), given(pixels(calibration)), rtol=1e-4, atol=1e-4)


def test_no_channel_is_left_with_less_than_half_of_its_maps_range() -> None:
    network, calibration = quietened(octaves=3), batches(SPEC)
    before, after = (largest(one, pixels(calibration)) for one in (network, equalise(network, calibration)))
    shares = [[each / each.max() for each in seen] for seen in (before, after)]
    assert min(float(share.min()) for share in shares[0]) < 0.1
    for quiet, share in zip(*shares, strict=True):
        assert bool(((share > 0.5) | (share == 0) | (share == quiet * MOST)).all()), share
    assert [each.max() for each in before] == [each.max() for each in after]


def test_int8_loses_less() -> None:
    calibration = batches(SPEC)
    errors = []
    for seed in range(6):
        network = quietened(seed, octaves=6)
        with torch.no_grad():
            true = network(pixels(calibration))
            for one in (network, equalise(network, calibration)):
                errors.append(float((Simulated(one, calibration)(pixels(calibration)) - true).abs().mean()))
    assert sum(errors[0::2]) > 1.5 * sum(errors[1::2]), errors


def test_a_channel_that_is_zero_or_all_but_zero_is_raised_no_further_than_biases_allow() -> None:
    network = student.fold(lively(SPEC))
    with torch.no_grad():
        for channel, scale in ((0, 0.0), (1, 1e-6)):
            network.stem[-1].weight[channel] *= scale  # type: ignore[index, union-attr]
            network.stem[-1].bias[channel] *= scale  # type: ignore[index, union-attr]
    made = equalise(network, batches(SPEC))
    raised = made.stem[-1].weight[1] / network.stem[-1].weight[1]  # type: ignore[index, union-attr]
    torch.testing.assert_close(raised, torch.full_like(raised, MOST))
    assert all(bool(value.isfinite().all()) for value in made.state_dict().values())


def test_a_map_that_is_also_added_to_another_is_left_as_it_is() -> None:
    seeds = [seed for seed in range(16) if random_spec(seed).blocks[0].residual]
    assert seeds
    for seed in seeds:
        given = student.fold(lively(random_spec(seed), seed))
        made = equalise(given, batches(given.spec))
        assert torch.equal(made.stem[-1].weight, given.stem[-1].weight)  # type: ignore[arg-type]


def test_what_cannot_be_equalised_is_refused() -> None:
    with pytest.raises(ValueError, match="batch norm"):
        equalise(lively(SPEC), batches(SPEC))
    empty: list[NDArray[np.uint8]] = []
    with pytest.raises(ValueError, match="no calibration picture"):
        equalise(student.fold(lively(SPEC)), lambda: empty)


def test_the_distilled_student_comes_equalised(paint: Callable[..., SampleSet], config: Config, tmp_path: Path) -> None:
    train = paint(8, 6)
    made = distill.distill(distill.alone(config), tmp_path / "none", [train], [paint(4, 3, "val")], tmp_path / "s")
    network = student.load(made)
    shown = Pictures([train], config.input, "none", 0)
    calibration = calibration_batches(shown, np.arange(len(shown)))
    for each in largest(network, pixels(calibration)):
        assert (each[each > 0] / each.max()).min() > 1 / 4
