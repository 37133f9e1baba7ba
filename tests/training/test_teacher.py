"""The teacher starts from the weights it says, and freezes what it says."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from rich.console import Console
from torchvision.models import resnet50

from diagline.errors import TrainingError
from training import teacher, weights


@pytest.fixture(scope="module")
def donor() -> dict[str, torch.Tensor]:
    """A ResNet-50's state, as a weights file holds it."""
    torch.manual_seed(11)
    return dict(resnet50(weights=None).state_dict())


def write_npz(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    np.savez(path, **{name: value.numpy().astype(np.float16) for name, value in tensors.items()})
    return path


def test_partial_weights_are_loaded_and_reported_stage_by_stage(donor: dict[str, torch.Tensor], tmp_path: Path) -> None:
    part = {name: value for name, value in donor.items() if name.startswith(("conv1", "bn1", "layer1", "fc"))}
    part = {name: value for name, value in part.items() if "num_batches" not in name}
    del part["layer1.0.bn1.bias"]
    part["head.scale"] = torch.ones(1)
    network, report = teacher.build(str(write_npz(tmp_path / "part.npz", part)), False, 0)
    found = {stage.stage: (stage.loaded, stage.missing, stage.wrong_shape) for stage in report.stages}
    assert found["conv1"] == (5, 0, 0)
    assert found["layer1"] == (49, 1, 0)  # 10 convolutions with batch norms of 4 tensors each, less one
    assert found["layer4"] == (0, 50, 0)
    assert found["fc"] == (0, 0, 2)
    assert report.unexpected == ("head.scale",)
    layers = report.plain()["layers"]
    assert (layers["bn1"], layers["layer1.2.conv3"], layers["layer4.2.conv3"]) == ("loaded", "loaded", "no weight")
    assert layers["layer1.0.bn1"] == "no bias"
    assert layers["fc"] == "weight is (1000, 2048), not (1, 2048); bias is (1000,), not (1,)"
    assert len(layers) == 107 and {*report.random} >= {"layer2.0.conv1", "fc"}  # 53 convolutions and norms, and fc
    Console(width=150, file=(shown := StringIO())).print(weights.to_table(report))
    row = next(line for line in shown.getvalue().splitlines() if line.split()[:1] == ["layer1"])
    assert row.split() == ["layer1", "49", "1", "0", "layer1.0.bn1"]
    for name in ("conv1.weight", "layer1.2.conv3.weight", "bn1.running_var"):
        assert torch.equal(network.resnet.state_dict()[name], donor[name].half().float()), name


def test_every_kind_of_file_loads_alike(donor: dict[str, torch.Tensor], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    whole = {name: value.half().float() for name, value in donor.items() if "num_batches" not in name}
    torch.save({"state_dict": {f"module.{name}": value for name, value in whole.items()}}, tmp_path / "w.pth")
    save_file(whole, tmp_path / "w.safetensors")
    write_npz(tmp_path / "w.npz", whole)
    reports = [teacher.build(str(tmp_path / f"w.{kind}"), False, 0)[1] for kind in ("pth", "safetensors", "npz")]
    assert reports[0].stages == reports[1].stages == reports[2].stages
    assert sum(stage.loaded for stage in reports[0].stages) == len(whole) - 2  # all but fc


def test_weights_that_fit_nowhere_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "other.npz", {"encoder.weight": torch.ones(3), "conv1.weight": torch.ones(3)})
    with pytest.raises(TrainingError, match=r"none of its 2 tensors fits ResNet-50 \(it holds encoder.weight"):
        teacher.build(str(path), False, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pth", None, "not found; expected none, imagenet, or"),
        ("model.onnx", b"x", "unknown ending"),
        ("bad.pth", b"x", "cannot be read as a torch file"),
        ("bad.npz", b"x", "cannot be read as .npz"),
        ("bad.safetensors", b"x", "cannot be read as .safetensors"),
    ],
)
def test_weights_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match=message) as caught:
        teacher.build(str(tmp_path / name), False, 0)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_failed_download_says_which_file_and_the_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(TrainingError, match=r"resnet50-0676ba61\.pth.*no route to host.*teacher\.weights to its path"):
        teacher.build("imagenet", False, 0)


def test_stride_moves_into_the_first_1x1() -> None:
    usual, moved = teacher.Teacher(False).resnet, teacher.Teacher(True).resnet
    for stage, stride in (("layer1", (1, 1)), ("layer2", (2, 2)), ("layer3", (2, 2)), ("layer4", (2, 2))):
        for place in range(3):
            here = stride if place == 0 else (1, 1)
            block, other = getattr(usual, stage)[place], getattr(moved, stage)[place]
            assert (block.conv1.stride, block.conv2.stride) == ((1, 1), here)
            assert (other.conv1.stride, other.conv2.stride) == (here, (1, 1))


def test_frozen_stages_stay_as_they_are_and_the_others_learn() -> None:
    torch.manual_seed(0)
    network = teacher.Teacher(freeze=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    optimiser = torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], 0.1)
    for _ in range(2):
        optimiser.zero_grad()
        network(torch.rand(4, 1, 32, 32)).square().sum().backward()
        optimiser.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    stages = {weights.stage_of(name.removeprefix("resnet.")) for name in changed}
    assert stages == {"layer2", "layer3", "layer4", "fc"}
    assert "resnet.layer2.0.bn1.running_mean" in changed


def test_grey_is_three_equal_channels_and_imagenet_normalised() -> None:
    network = teacher.Teacher().eval()
    seen: list[torch.Tensor] = []
    network.resnet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    grey = torch.rand(2, 1, 32, 32)
    assert network(grey).shape == (2,)
    network(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(seen[0], seen[1])
    torch.testing.assert_close(seen[0][:, 2], (grey[:, 0] - 0.406) / 0.225)


@pytest.mark.parametrize("moved", [False, True])
def test_a_saved_teacher_says_the_same(tmp_path: Path, moved: bool) -> None:
    torch.manual_seed(1)
    network = teacher.Teacher(moved)
    for block in network.resnet.layer4:
        torch.nn.init.ones_(block.bn3.weight)
    network.eval()
    teacher.save(network, tmp_path / "teacher.pt", {"epoch": 3})
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(teacher.load(tmp_path / "teacher.pt")(images), network(images))


def test_what_is_not_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"gone\.pt: not found.*diagline train CONFIG"):
        teacher.load(tmp_path / "gone.pt")
    torch.save({"format": "something"}, tmp_path / "other.pt")
    with pytest.raises(TrainingError, match=r"other\.pt: not a teacher"):
        teacher.load(tmp_path / "other.pt")
    torch.save({"format": teacher.FORMAT, "stride_in_1x1": False, "state": {}}, tmp_path / "empty.pt")
    with pytest.raises(TrainingError, match=r"empty\.pt: its tensors do not fit"):
        teacher.load(tmp_path / "empty.pt")
