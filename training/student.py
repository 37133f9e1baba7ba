"""The student in torch: the form of a `StudentSpec` that is trained, folded, saved and loaded.

Leaves out: the spec (`student_spec.py`), training (`training/distill.py`) and conversion (`export/`).
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from diagline import files
from diagline.errors import TrainingError
from training.student_spec import Convolution, StudentSpec

CHECKPOINT = "diagline-student-1"


class ConvNorm(nn.Sequential):
    """Padding where it is lopsided, convolution, batch norm unless folded."""

    def __init__(self, layer: Convolution, folded: bool) -> None:
        top, left, bottom, right = layer.pads
        even = (top, left) == (bottom, right)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if not even:
            parts["pad"] = nn.ZeroPad2d((left, right, top, bottom))
        parts["conv"] = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            padding=(top, left) if even else 0,
            groups=layer.in_channels if layer.depthwise else 1,
            bias=folded,
        )
        if not folded:
            parts["norm"] = nn.BatchNorm2d(layer.out_channels)
        super().__init__(parts)


class DepthwiseSeparable(nn.Module):
    """A `Block`: (N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, depthwise: Convolution, pointwise: Convolution, folded: bool) -> None:
        super().__init__()
        self.depthwise = ConvNorm(depthwise, folded)
        self.pointwise = ConvNorm(pointwise, folded)
        self.residual = not pointwise.relu6

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) float to (N, out, ...) float in 0..6."""
        y = self.pointwise(functional.relu6(self.depthwise(x)))
        return functional.relu6(x + y if self.residual else y)


class Student(nn.Module):
    """The torch form of a spec; with `folded`, without batch norm and with biases instead.

    Source: MobileNets, Howard et al. 2017, section 3 (depthwise-separable blocks).
    """

    def __init__(self, spec: StudentSpec, folded: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.folded = folded
        first, *rest = spec.convolutions()
        self.stem = ConvNorm(first, folded)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        self.blocks = nn.ModuleList(DepthwiseSeparable(*pair, folded) for pair in pairs)
        self.fc = nn.Linear(spec.features, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Fan in: torch counts the fan out of a depthwise layer over all its channels.
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,) of RGB or grey pictures (N, channels, height_px, width_px) float in 0..1."""
        return self.judge(self._last_map(images))

    def heat(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N,), as `forward` gives them, and where they come from: heat (N, h, w), in one pass.

        Heat is the fully connected layer at each place of the last map, h and w its `map_size`.
        With average pooling the mean of the heat is the logit, so a place's heat is the logit of a
        picture that looked like this place everywhere. With max pooling each channel has its
        maximum at a place of its own: the heat is an indication only.

        Source: Zhou et al. 2016, "Learning deep features for discriminative localization", section 2.
        """
        x = self._last_map(images)
        return self.judge(x), self.warm(x)

    def warm(self, last_map: Tensor) -> Tensor:
        """The heat (N, h, w) of the last map (N, features, h, w)."""
        return functional.conv2d(last_map, self.fc.weight[:, :, None, None], self.fc.bias)[:, 0]

    def _last_map(self, images: Tensor) -> Tensor:
        x = functional.relu6(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return x

    def judge(self, last_map: Tensor) -> Tensor:
        """Logits (N,) of the last map (N, features, h, w)."""
        return cast(Tensor, self.fc(self.pool(last_map))).flatten()

    def pool(self, last_map: Tensor) -> Tensor:
        """The last map (N, features, h, w) as one value a channel, (N, features)."""
        return last_map.mean((2, 3)) if self.spec.pool == "average" else last_map.amax((2, 3))


@torch.no_grad()
def fold(student: Student) -> Student:
    """A copy without batch norm that gives the student's eval-mode logits; itself in eval mode, on the CPU."""
    if student.folded:
        raise ValueError("this student is folded already")
    target = Student(student.spec, folded=True)
    for name in (layer.name for layer in student.spec.convolutions()):
        source, plain = student.get_submodule(name), target.get_submodule(name)
        conv, norm, into = source.get_submodule("conv"), source.get_submodule("norm"), plain.get_submodule("conv")
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and isinstance(into, nn.Conv2d)
        assert norm.running_mean is not None and norm.running_var is not None and into.bias is not None
        gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        into.weight.copy_(conv.weight.double() * gain.reshape(-1, 1, 1, 1))
        into.bias.copy_(norm.bias.double() - norm.running_mean.double() * gain)
    target.fc.load_state_dict(student.fc.state_dict())
    return target.eval()


def save(student: Student, path: Path, facts: dict[str, Any]) -> None:
    """Write spec, weights and plain facts (epoch, AP, ...) to one file, in one step.

    Raises:
        OutputError: the folder cannot be written to.
    """
    weights = {name: value.detach().cpu() for name, value in student.state_dict().items()}
    body = {"kind": CHECKPOINT, "spec": student.spec.to_plain(), "folded": student.folded, "weights": weights}
    stream = io.BytesIO()
    torch.save({**body, "facts": facts}, stream)
    files.write_bytes(path, stream.getvalue())


def load(path: Path) -> Student:
    """The student that `save` wrote, in eval mode, on the CPU.

    Raises:
        TrainingError: no such file, not a student's checkpoint, or weights that do not fit the spec.
    """
    again = "train it again with: diagline distill CONFIG"
    try:
        body = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(
            f"{path}: not found; expected a trained student; make one with: diagline distill CONFIG"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path}: not a checkpoint that torch reads ({_line(error)}); {again}") from error
    if not isinstance(body, dict) or body.get("kind") != CHECKPOINT:
        raise TrainingError(f"{path}: not a student's checkpoint; expected one of kind {CHECKPOINT}; {again}")
    try:
        student = Student(StudentSpec.from_plain(body["spec"]), body["folded"])
        student.load_state_dict(body["weights"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise TrainingError(f"{path}: its weights do not fit its spec ({_line(error)}); {again}") from error
    return student.eval()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
