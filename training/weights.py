"""First weights, from torchvision or a file that may hold part of the network; what was loaded is told layer by layer.

Leaves out: the network (`teacher.py`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table
from torch import nn
from torchvision.models import ResNet50_Weights

from diagline.errors import TrainingError

STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4", "fc")
"""conv1 counts its batch norm bn1."""
LOADED = "loaded"
NAMED = 3
"""Layers that a row of the table names before it only counts; weights.json has them all."""


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


def load(network: nn.Module, weights: str) -> WeightsReport:
    """Load what `weights` holds into torchvision's ResNet-50; arguments and errors as `teacher.build` says."""
    found = {} if weights == "none" else _imagenet() if weights == "imagenet" else _read(Path(weights))
    report = _load_partial(network, found, weights)
    if weights != "none" and not sum(stage.loaded for stage in report.stages):
        names = ", ".join(list(found)[:3]) or "nothing"
        raise TrainingError(
            f"{weights}: none of its {len(found)} tensors fits ResNet-50 (it holds {names}); "
            f'expected torchvision\'s names such as conv1.weight; choose another file or teacher.weights = "none"'
        )
    return report


def to_table(report: WeightsReport) -> Table:
    """Stage by stage what was loaded, and the names of the layers that start at random."""
    table = Table(title=f"first weights: {report.source}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("stage", "tensors loaded", "missing", "of another shape", "layers not wholly loaded"):
        table.add_column(name, justify="left" if name == "stage" or name.startswith("layers") else "right")
    for stage in report.stages:
        odd = [name for name in report.random if stage_of(name) == stage.stage]
        named = ", ".join(odd[:NAMED]) + (f" and {len(odd) - NAMED} more" if len(odd) > NAMED else "")
        table.add_row(stage.stage, str(stage.loaded), str(stage.missing), str(stage.wrong_shape), named)
    if report.unexpected:
        table.caption = f"{len(report.unexpected)} tensors of the file fit nowhere: {', '.join(report.unexpected[:3])}"
    return table


def stage_of(name: str) -> str:
    """The stage of a tensor of this name."""
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
        members = [name for name in own if stage_of(name) == stage]
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
    content = torch_load(path)
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


def torch_load(path: Path) -> Any:
    """What `torch.load` reads, plain data and tensors alone; a TrainingError where it cannot."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds: EOFError, UnpicklingError, RuntimeError, KeyError ...
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise TrainingError(f"{path}: cannot be read as a torch file ({first}); write or fetch it again") from error
