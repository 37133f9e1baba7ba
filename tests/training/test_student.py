"""What StudentSpec and its torch form promise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_students import lively, logits, pictures, random_spec
from torch import nn
from torch.nn import functional

from diagline.errors import TrainingError
from diagline.preprocess import InputContract
from training.student import Student, fold, load, save
from training.student_spec import LEAST_SIDE, Block, Stem, StudentSpec, same_padding, spec

SIZES = ("S10", "S30", "S100")
TINY = StudentSpec(9, 7, 3, Stem(3, 2, 8), (Block(1, 8, True), Block(2, 16)))


@pytest.mark.parametrize(("size", "mega"), [("S10", 16), ("S30", 37), ("S100", 97)])
def test_sizes_cost_what_they_are_named_after(size: str, mega: float) -> None:
    assert spec(size, InputContract(224, 632, 3)).macs() == pytest.approx(mega * 1e6, rel=0.05)


def test_macs_count_every_multiplication_of_a_layer_worked_out_by_hand() -> None:
    # stem 4x5 map: 4*5*9*3*8; block 1: 4*5*9*8 + 4*5*8*8; block 2 on 2x3: 2*3*9*8 + 2*3*8*16; fc 16
    assert TINY.macs() == 4320 + (1440 + 1280) + (432 + 768) + 16
    assert TINY.map_size == (2, 3)


@given(st.sampled_from(SIZES), st.integers(16, 400), st.integers(16, 400), st.sampled_from((1, 3)))
def test_no_stride_shrinks_a_map_below_three(size: str, width_px: int, height_px: int, channels: int) -> None:
    made = spec(size, InputContract(width_px, height_px, channels))
    assert min(made.map_size) >= LEAST_SIDE
    assert made == spec(size, InputContract(width_px, height_px, channels))


def test_a_large_input_keeps_every_stride() -> None:
    assert [block.stride for block in spec("S30", InputContract(224, 632)).blocks] == [2, 2, 1, 2, 1, 2, 1, 1]
    assert [block.stride for block in spec("S30", InputContract(64, 64)).blocks] == [2, 2, 1, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(8))
def test_a_spec_survives_json(seed: int) -> None:
    made = random_spec(seed)
    assert StudentSpec.from_plain(json.loads(json.dumps(made.to_plain()))) == made


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 2},
        {"pool": "median"},
        {"stem": Stem(4, 2, 8)},
        {"stem": Stem(3, 3, 8)},
        {"blocks": (Block(1, 12),)},
        {"blocks": (Block(3, 8),)},
        {"blocks": (Block(2, 8, residual=True),)},
        {"blocks": (Block(1, 16, residual=True),)},
    ],
    ids=str,
)
def test_a_spec_that_cannot_be_built_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected|needs"):
        replace(TINY, **change)  # type: ignore[arg-type]


@given(st.integers(1, 300), st.sampled_from((1, 3, 5, 7)), st.sampled_from((1, 2, 4)))
def test_padding_gives_the_ceiling_and_puts_the_odd_zero_last(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
    assert after - before in (0, 1)


@pytest.mark.parametrize(("size", "pads"), [(5, (1, 1)), (6, (0, 1)), (7, (1, 1)), (8, (0, 1))])
def test_padding_at_stride_two_is_tensorflows(size: int, pads: tuple[int, int]) -> None:
    assert same_padding(size, 3, 2) == pads


def test_the_forward_pass_is_the_formula() -> None:
    student = fold(lively(TINY))
    state = student.state_dict()

    def conv(x: torch.Tensor, name: str, stride: int, groups: int = 1) -> torch.Tensor:
        weight = state[f"{name}.conv.weight"]
        (top, bottom), (left, right) = (same_padding(side, weight.shape[-1], stride) for side in x.shape[2:])
        padded = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(padded, weight, state[f"{name}.conv.bias"], stride, groups=groups)

    images = pictures(TINY, 3)
    x = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)) / 255
    x = conv(x, "stem", 2).clamp(0, 6)
    y = conv(conv(x, "blocks.0.depthwise", 1, 8).clamp(0, 6), "blocks.0.pointwise", 1)
    x = (x + y).clamp(0, 6)
    x = conv(conv(x, "blocks.1.depthwise", 2, 8).clamp(0, 6), "blocks.1.pointwise", 1).clamp(0, 6)
    expected = x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    np.testing.assert_allclose(logits(student, images), expected[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_folding_changes_no_logit_and_leaves_no_batch_norm(seed: int) -> None:
    student = lively(random_spec(seed), seed)
    images = pictures(student.spec, 4, seed)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    folded = fold(student)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    np.testing.assert_allclose(logits(folded, images), logits(student, images), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in before.items())


def test_it_ends_in_one_logit_a_picture_without_a_sigmoid() -> None:
    student = lively(TINY)
    images = pictures(TINY, 5)
    first = logits(student, images)
    with torch.no_grad():
        student.fc.weight.mul_(10)
        student.fc.bias.mul_(10)
    assert first.shape == (5,)
    np.testing.assert_allclose(logits(student, images), first * 10, rtol=1e-4)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_heat_comes_with_the_logits_and_its_mean_is_the_logit(seed: int, folded: bool) -> None:
    student = lively(random_spec(seed), seed)
    if folded:
        student = fold(student)
    batch = torch.from_numpy(np.stack(pictures(student.spec, 4, seed)).transpose(0, 3, 1, 2).astype(np.float32)) / 255
    with torch.no_grad():
        said, heat = student.heat(batch)
        assert torch.equal(said, student(batch))
    assert heat.shape == (4, *student.spec.map_size)
    if student.spec.pool == "average":
        torch.testing.assert_close(heat.mean((1, 2)), said, rtol=1e-4, atol=1e-4)


def test_one_forward_pass_gives_logits_and_heat() -> None:
    student = lively(TINY)
    passes = []
    student.stem.register_forward_hook(lambda *_: passes.append(1))
    student.heat(torch.zeros(1, 3, 7, 9))
    assert len(passes) == 1


def test_heat_is_the_fully_connected_layer_at_each_place() -> None:
    student = fold(lively(TINY))
    last: list[torch.Tensor] = []
    student.blocks[-1].register_forward_hook(lambda module, inputs, output: last.append(output))
    with torch.no_grad():
        _, heat = student.heat(torch.rand(2, 3, 7, 9))
        for y, x in np.ndindex(*TINY.map_size):
            torch.testing.assert_close(heat[:, y, x], student.fc(last[0][:, :, y, x])[:, 0])


@pytest.mark.parametrize("seed", range(8))
def test_the_grid_says_where_each_heat_cell_looks(seed: int) -> None:
    made = random_spec(seed)
    student = fold(Student(made))
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, nn.Conv2d):  # every unit awake and far from 6, whatever it sees
                module.weight.fill_(1e-2 / module.weight[0].numel())
                assert module.bias is not None
                module.bias.fill_(1.0)
        student.fc.weight.fill_(1.0)
    grid = made.heat_grid
    assert grid.size == made.map_size
    for row, column in np.ndindex(*grid.size):
        images = torch.zeros(1, made.channels, made.height_px, made.width_px, requires_grad=True)
        (seen,) = torch.autograd.grad(student.heat(images)[1][0, row, column], images)
        for axis, at, side in (
            (1, grid.top_px + grid.stride_px * row, made.height_px),
            (0, grid.left_px + grid.stride_px * column, made.width_px),
        ):
            places = torch.nonzero(seen[0].abs().sum((0, 1 + axis)) > 0)
            first, last = int(places.min()), int(places.max())
            assert (first == 0 or last == side - 1) or first + last == 2 * at
            assert first <= at <= last or at >= side


def test_a_fresh_student_learns_to_tell_dark_spots_within_seconds() -> None:
    torch.manual_seed(0)
    made = spec("S30", InputContract(32, 32, 1))
    rng = np.random.default_rng(0)
    images = rng.normal(0.6, 0.05, (32, 1, 32, 32)).astype(np.float32)
    labels = np.arange(32) % 2
    for index in np.flatnonzero(labels):
        image = images[index]  # a view; a mask of labels would paint copies
        top, left = rng.integers(2, 24, 2)
        image[0, top : top + 6, left : left + 6] = 0.1
    x, y = torch.from_numpy(images), torch.from_numpy(labels.astype(np.float32))
    student = Student(made)
    optimiser = torch.optim.AdamW(student.parameters(), 5e-3)
    for _ in range(80):
        optimiser.zero_grad()
        functional.binary_cross_entropy_with_logits(student(x), y).backward()
        optimiser.step()
    student.eval()
    with torch.no_grad():
        assert ((student(x) >= 0).numpy() == labels).mean() > 0.9


def test_save_and_load_keep_spec_and_logits(tmp_path: Path) -> None:
    student = lively(random_spec(3), 3)
    images = pictures(student.spec, 3)
    for name, one in (("plain.pt", student), ("folded.pt", fold(student))):
        save(one, tmp_path / name, {"epoch": 3, "val_ap": 0.5})
        back = load(tmp_path / name)
        assert back.spec == one.spec and not back.training
        np.testing.assert_array_equal(logits(back, images), logits(one, images))
    assert torch.load(tmp_path / "plain.pt", weights_only=True)["facts"] == {"epoch": 3, "val_ap": 0.5}


def test_what_is_no_students_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    save(lively(TINY), good, {})
    body = torch.load(good, weights_only=True)
    bad = {
        "garbage.pt": b"not a checkpoint",
        "empty.pt": b"",
        "cut.pt": good.read_bytes()[:1000],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    others = {
        "list.pt": [1, 2],
        "teacher.pt": {"format": "something else"},
        "other_spec.pt": {**body, "spec": {**body["spec"], "pool": "median"}},
        "other_shape.pt": {**body, "spec": {**body["spec"], "blocks": body["spec"]["blocks"][:1]}},
        "no_spec.pt": {key: value for key, value in body.items() if key != "spec"},
        "spec_is_a_number.pt": {**body, "spec": 7},
    }
    for name, value in others.items():
        torch.save(value, tmp_path / name)
    for name in (*bad, *others, "missing.pt"):
        with pytest.raises(TrainingError) as caught:
            load(tmp_path / name)
        message = str(caught.value)
        assert str(tmp_path / name) in message and "diagline distill" in message and "\n" not in message


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "sprung"),))

    torch.save({"kind": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(TrainingError):
        load(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()
