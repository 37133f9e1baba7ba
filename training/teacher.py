"""The teacher: torchvision's ResNet-50 with one output, and where its first weights came from.

Weights may cover part of the network; what was loaded is reported layer by layer, never
guessed. Normalisation stands inside the module, so every network of the project takes pixels
in 0..1. Leaves out: training (`loop.py`).

Source: DIAG (ResNet-50, one logit, ImageNet weights); He et al. 2015 for the strides.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck

from diagline import files
from diagline.errors import TrainingError
from training import weights as first_weights
from training.patches import Patches, join

FORMAT = "diagline-teacher-1"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Look(NamedTuple):
    """What a teacher says of pictures.

    Attributes:
        logits: (N,).
        inner: a map that it judges by: layer3's (N, 1024, h, w), h and w a sixteenth of the picture's; or, with
            the head `patches`, that head's own (N, patches.HIDDEN, 2h, 2w).
        places: (N, rows, columns), the logit of each place. Their mean is the picture's; with the head
            `patches` the strongest make it.
    """

    logits: torch.Tensor
    inner: torch.Tensor
    places: torch.Tensor


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
        self._frozen = [name for stage in first_weights.STAGES[:freeze] for name in _modules(stage)]
        for name in self._frozen:
            self.resnet.get_submodule(name).requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N,) of images float (N, 1 or 3, H, W) in 0..1."""
        # grey (N, 1, H, W) becomes three equal channels here, by broadcasting
        if self.patches is not None:
            return self.patches(join(*self.maps(images)))  # type: ignore[no-any-return]
        logits: torch.Tensor = self.resnet((images - self.mean) / self.std)
        return logits.flatten()

    def look(self, images: torch.Tensor) -> Look:
        """All that is said of images float (N, 1 or 3, H, W) in 0..1, in one pass."""
        layer2, layer3 = self.maps(images)
        if self.patches is not None:
            inner, places = self.patches.look(join(layer2, layer3))
            return Look(self.patches.sum_up(places), inner, places)
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
) -> tuple[Teacher, first_weights.WeightsReport]:
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
    return teacher, first_weights.load(teacher.resnet, weights)


def save(teacher: Teacher, path: Path, facts: dict[str, Any]) -> None:
    """Write the network and plain facts about it, in one step; raises as `files.write_bytes`."""
    stream = io.BytesIO()
    content = {
        "format": FORMAT,
        "stride_in_1x1": teacher.stride_in_1x1,
        "head": "pool" if teacher.patches is None else "patches",
        "worst": 0.0 if teacher.patches is None else teacher.patches.worst,
        "facts": facts,
        "state": teacher.state_dict(),
    }
    torch.save(content, stream)
    files.write_bytes(path, stream.getvalue())


def load(path: Path) -> Teacher:
    """Read what `save` wrote, on the CPU, in eval mode.

    Raises:
        TrainingError: no such file, or not a teacher.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: not found; expected a trained teacher; make one with: diagline train CONFIG")
    content = first_weights.torch_load(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TrainingError(f"{path}: not a teacher of this version ({FORMAT}); expected teacher.pt; train it again")
    patches = None
    if content.get("head") == "patches":
        patches = Patches(worst=content.get("worst", 0.0), threshold=content["facts"].get("threshold", 0.0))
    teacher = Teacher(content["stride_in_1x1"], patches=patches)
    try:
        teacher.load_state_dict(content["state"])
    except RuntimeError as error:
        raise TrainingError(f"{path}: its tensors do not fit ResNet-50; expected teacher.pt; train it again") from error
    return teacher.eval()


def _modules(stage: str) -> tuple[str, ...]:
    return ("conv1", "bn1") if stage == "conv1" else (stage,)
