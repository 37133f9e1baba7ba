"""The teacher: torchvision's ResNet-50 with one output, and where its first weights came from.

Weights may cover part of the network; what was loaded is reported layer by layer, never
guessed. Normalisation stands inside the module, so every network of the project takes pixels
in 0..1. Leaves out: training (`loop.py`).

Source: DIAG (ResNet-50, one logit, ImageNet weights); He et al. 2015 for the strides.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich import box
from rich.table import Table
from torch import nn
from torch.nn import functional
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.resnet import Bottleneck

from diagline import files
from diagline.errors import TrainingError
from training.patches import Patches

STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4", "fc")
"""conv1 counts its batch norm bn1."""
FORMAT = "diagline-teacher-1"
LOADED = "loaded"
NAMED = 3
"""Layers that a row of the table names before it only counts; weights.json has them all."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class StageReport:
    """How many tensors of one stage the file held; the rest starts at random."""

    stage: str
    loaded: int
    missing: int
    wrong_shape: int


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What a weights file gave.

    Attributes:
        layers: per layer, such as layer1.0.conv1, "loaded" or what it lacks.
        unexpected: tensors of the file that ResNet-50 does not have.
    """

    source: str
    stages: tuple[StageReport, ...]
    layers: dict[str, str]
    unexpected: tuple[str, ...]

    @property
    def random(self) -> tuple[str, ...]:
        """The layers that are not wholly from the file."""
        return tuple(name for name, what in self.layers.items() if what != LOADED)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Look(NamedTuple):
    """What a teacher says of pictures.

    Attributes:
        logits: (N,).
        layer3: its map (N, 1024, h, w), h and w a sixteenth of the picture's.
        places: (N, rows, columns), the logit of each place: of a picture that looked like it everywhere;
            their mean is the picture's. None with the head `patches`, where it is not.
    """

    logits: torch.Tensor
    layer3: torch.Tensor
    places: torch.Tensor | None


class Teacher(nn.Module):
    """ResNet-50: float (N, 1 or 3, H, W) in 0..1 to logits (N,).

    Attributes:
        patches: judges the places of layer2 and layer3; None: layer4, the pool and one logit judge the picture.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, stride_in_1x1: bool = False, freeze: int = 0, patches: Patches | None = None) -> None:
        super().__init__()
        self.stride_in_1x1 = stride_in_1x1
        self.patches = patches
        self.resnet = resnet50(weights=None)
        self.resnet.fc = nn.Linear(self.resnet.fc.in_features, 1)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        for block in self.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)  # a fresh block starts as identity
                if stride_in_1x1:
                    block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        if patches is not None:
            self.resnet.layer4, self.resnet.fc = nn.Identity(), nn.Identity()
        self._frozen = [name for stage in STAGES[:freeze] for name in _modules(stage)]
        for name in self._frozen:
            self.resnet.get_submodule(name).requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N,) of images float (N, 1 or 3, H, W) in 0..1."""
        # grey (N, 1, H, W) becomes three equal channels here, by broadcasting
        if self.patches is not None:
            return self.patches(*self.maps(images))  # type: ignore[no-any-return]
        logits: torch.Tensor = self.resnet((images - self.mean) / self.std)
        return logits.flatten()

    def look(self, images: torch.Tensor) -> Look:
        """All that is said of images float (N, 1 or 3, H, W) in 0..1, in one pass."""
        layer2, layer3 = self.maps(images)
        if self.patches is not None:
            return Look(self.patches(layer2, layer3), layer3, None)
        layer4 = self.resnet.layer4(layer3)
        places = functional.conv2d(layer4, self.resnet.fc.weight[:, :, None, None], self.resnet.fc.bias)[:, 0]
        return Look(places.mean((1, 2)), layer3, places)

    def maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Layer2's map (N, 512, 2h, 2w) and layer3's (N, 1024, h, w)."""
        layer2 = self.split(3)[0]((images - self.mean) / self.std)
        return layer2, self.resnet.layer3(layer2)

    def split(self, count: int) -> tuple[nn.Sequential, nn.Sequential]:
        """The first `count` (1 to 4) of `STAGES`, normalised images to their map, and the rest, to logits (N, 1)."""
        net = self.resnet
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        stages = [stem, net.layer1, net.layer2, net.layer3, net.layer4]
        return nn.Sequential(*stages[:count]), nn.Sequential(*stages[count:], net.avgpool, nn.Flatten(1), net.fc)

    def train(self, mode: bool = True) -> Teacher:
        """As torch's; frozen stages keep their batch-norm statistics."""
        super().train(mode)
        for name in self._frozen:  # by name: several GPUs exchange the batch norms
            self.resnet.get_submodule(name).eval()
        return self


def build(
    weights: str, stride_in_1x1: bool, freeze: int, patches: Patches | None = None
) -> tuple[Teacher, WeightsReport]:
    """A teacher with first weights.

    Args:
        weights: "none"; "imagenet" (torchvision fetches IMAGENET1K_V1 unless it is cached); or a
            .pth, .pt, .safetensors or .npz file with torchvision's names, which may be partial.
        stride_in_1x1: put a block's stride into its first 1x1, as ResNet v1 weights expect.
        freeze: leading stages that are not trained, batch norm included (1 = conv1, 2 = and layer1, ...).
        patches: the head for good parts alone, in place of layer4 and fc.

    Raises:
        TrainingError: the file is missing, unreadable or fits nowhere, or the download failed.
    """
    teacher = Teacher(stride_in_1x1, freeze, patches)
    found = {} if weights == "none" else _imagenet() if weights == "imagenet" else _read(Path(weights))
    report = _load_partial(teacher.resnet, found, weights)
    if weights != "none" and not sum(stage.loaded for stage in report.stages):
        names = ", ".join(list(found)[:3]) or "nothing"
        raise TrainingError(
            f"{weights}: none of its {len(found)} tensors fits ResNet-50 (it holds {names}); "
            f'expected torchvision\'s names such as conv1.weight; choose another file or teacher.weights = "none"'
        )
    return teacher, report


def to_table(report: WeightsReport) -> Table:
    """Stage by stage what was loaded, and the names of the layers that start at random."""
    table = Table(title=f"first weights: {report.source}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("stage", "tensors loaded", "missing", "of another shape", "layers not wholly loaded"):
        table.add_column(name, justify="left" if name == "stage" or name.startswith("layers") else "right")
    for stage in report.stages:
        odd = [name for name in report.random if _stage(name) == stage.stage]
        named = ", ".join(odd[:NAMED]) + (f" and {len(odd) - NAMED} more" if len(odd) > NAMED else "")
        table.add_row(stage.stage, str(stage.loaded), str(stage.missing), str(stage.wrong_shape), named)
    if report.unexpected:
        table.caption = f"{len(report.unexpected)} tensors of the file fit nowhere: {', '.join(report.unexpected[:3])}"
    return table


def save(teacher: Teacher, path: Path, facts: dict[str, Any]) -> None:
    """Write the network and plain facts about it, in one step; raises as `files.write_bytes`."""
    stream = io.BytesIO()
    head = "pool" if teacher.patches is None else "patches"
    facts = {"format": FORMAT, "stride_in_1x1": teacher.stride_in_1x1, "head": head, "facts": facts}
    content = {**facts, "state": teacher.state_dict()}
    torch.save(content, stream)
    files.write_bytes(path, stream.getvalue())


def load(path: Path) -> Teacher:
    """Read what `save` wrote, on the CPU, in eval mode.

    Raises:
        TrainingError: no such file, or not a teacher.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: not found; expected a trained teacher; make one with: diagline train CONFIG")
    content = _torch_load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TrainingError(f"{path}: not a teacher of this version ({FORMAT}); expected teacher.pt; train it again")
    patches = Patches() if content.get("head") == "patches" else None
    teacher = Teacher(content["stride_in_1x1"], patches=patches)
    try:
        teacher.load_state_dict(content["state"])
    except RuntimeError as error:
        raise TrainingError(f"{path}: its tensors do not fit ResNet-50; expected teacher.pt; train it again") from error
    return teacher.eval()


def _modules(stage: str) -> tuple[str, ...]:
    return ("conv1", "bn1") if stage == "conv1" else (stage,)


def _stage(name: str) -> str:
    first = name.partition(".")[0]
    return "conv1" if first == "bn1" else first


def _load_partial(network: nn.Module, found: Mapping[str, torch.Tensor], source: str) -> WeightsReport:
    # num_batches_tracked is left out: with a fixed momentum nothing reads it
    own = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    fits = {name for name in own if name in found and own[name].shape == found[name].shape}
    with torch.no_grad():
        for name in fits:
            own[name].copy_(found[name])
    stages = []
    for stage in STAGES:
        members = [name for name in own if _stage(name) == stage]
        loaded = sum(name in fits for name in members)
        missing = sum(name not in found for name in members)
        stages.append(StageReport(stage, loaded, missing, len(members) - loaded - missing))
    unexpected = sorted(name for name in found if name not in own and not name.endswith("num_batches_tracked"))
    return WeightsReport(source, tuple(stages), _layers(own, found, fits), tuple(unexpected))


def _layers(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], fits: set[str]) -> dict[str, str]:
    layers: dict[str, list[str]] = {}
    for name, value in own.items():
        layer, _, tensor = name.rpartition(".")
        lacks = layers.setdefault(layer, [])
        if name in fits:
            continue
        shape = tuple(value.shape)
        lacks.append(f"{tensor} is {tuple(found[name].shape)}, not {shape}" if name in found else f"no {tensor}")
    return {layer: "; ".join(lacks) or LOADED for layer, lacks in layers.items()}


def _imagenet() -> dict[str, torch.Tensor]:
    weights = ResNet50_Weights.IMAGENET1K_V1
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise TrainingError(
            f"{weights.url}: cannot be fetched ({str(error).splitlines()[0]}); expected network access for "
            f'teacher.weights = "imagenet"; fetch the file elsewhere and set teacher.weights to its path'
        ) from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise TrainingError(
            f'teacher.weights = "{path}": not found; expected none, imagenet, or a .pth, .safetensors or .npz file'
        )
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in (".pth", ".pt"):
        raise TrainingError(f'teacher.weights = "{path}": unknown ending; expected .pth, .pt, .safetensors or .npz')
    content = _torch_load(path)
    for key in ("state_dict", "model", "state"):  # common wrappings; ours is the last
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise TrainingError(
            f"{path}: holds a {type(content).__name__}; expected a state dict; save the model's state_dict()"
        )
    return {
        name.removeprefix("module.").removeprefix("resnet."): value
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.asarray(arrays[name], np.float32)) for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path}: cannot be read as .npz ({error}); fetch or export the file again") from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be read as .safetensors ({error}); fetch the file again") from error


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds: EOFError, UnpicklingError, RuntimeError, KeyError ...
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise TrainingError(f"{path}: cannot be read as a torch file ({first}); write or fetch it again") from error
