"""StudentSpec, the compact network as plain data, and its torch form, which is trained.

One spec has four forms (torch, ONNX, Keras twin, row-stream image); each is built by walking
`StudentSpec.convolutions()`, so that sizes and paddings are worked out in one place. All pad
as TensorFlow's SAME does, with zeros, which are the uint8 value 0; the network takes pictures
scaled to 0..1 and no mean or std, so zero stays zero in every form. Leaves out: training
(`training/distill.py`) and conversion (`export/`).
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from diagline import files
from diagline.errors import TrainingError
from diagline.heat import Grid
from diagline.preprocess import InputContract

CHECKPOINT = "diagline-student-1"
POOLS = ("average", "max")
LEAST_SIDE = 3  # no stride makes the map smaller than this in either direction


@dataclass(frozen=True, slots=True)
class Stem:
    """The first convolution: `kernel` x `kernel`, ReLU6."""

    kernel: int
    stride: int
    channels: int


@dataclass(frozen=True, slots=True)
class Block:
    """A 3x3 depthwise and a 1x1 convolution, ReLU6 after each.

    Attributes:
        stride: of the depthwise.
        channels: out of the 1x1.
        residual: add the block's input before the last ReLU6; stride 1 and equal channels only.
    """

    stride: int
    channels: int
    residual: bool = False


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution as every form needs it; sizes are `(height, width)`.

    Attributes:
        name: where its weights stand in `Student.state_dict()`.
        pads: zeros at top, left, bottom, right.
        relu6: whether ReLU6 follows directly (in a residual block it follows the addition).
    """

    name: str
    kernel: int
    stride: int
    in_channels: int
    out_channels: int
    depthwise: bool
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    pads: tuple[int, int, int, int]
    relu6: bool

    @property
    def macs(self) -> int:
        """Multiplications of one picture, those with padding counted too."""
        inputs = 1 if self.depthwise else self.in_channels
        return self.out_size[0] * self.out_size[1] * self.kernel**2 * inputs * self.out_channels


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """The compact network: stem, blocks, global pool, one fully connected logit."""

    width_px: int
    height_px: int
    channels: int
    stem: Stem
    blocks: tuple[Block, ...]
    pool: str = "average"

    def __post_init__(self) -> None:
        if self.width_px < 1 or self.height_px < 1 or self.channels not in (1, 3):
            raise ValueError(
                f"input {self.height_px}x{self.width_px}x{self.channels}; expected pixels, 1 or 3 channels"
            )
        if self.pool not in POOLS:
            raise ValueError(f"pool {self.pool!r}; expected one of {', '.join(POOLS)}")
        if self.stem.kernel not in (3, 5, 7) or self.stem.stride not in (1, 2, 4):
            raise ValueError(f"stem {self.stem}; expected kernel 3, 5 or 7 and stride 1, 2 or 4")
        before = self.stem.channels
        for channels in (before, *(block.channels for block in self.blocks)):
            if channels < 8 or channels % 8:
                raise ValueError(f"{channels} channels; expected a multiple of 8")
        for block in self.blocks:
            if block.stride not in (1, 2):
                raise ValueError(f"{block}; expected stride 1 or 2")
            if block.residual and (block.stride, block.channels) != (1, before):
                raise ValueError(f"{block} after {before} channels; a residual needs stride 1 and equal channels")
            before = block.channels

    @property
    def features(self) -> int:
        """Channels that reach the fully connected layer."""
        return (self.blocks[-1] if self.blocks else self.stem).channels

    @property
    def map_size(self) -> tuple[int, int]:
        """`(height, width)` of the last map, which the pool reduces to one value a channel."""
        return list(self.convolutions())[-1].out_size

    def convolutions(self) -> Iterator[Convolution]:
        """Every convolution from the picture to the pool."""
        size, channels = (self.height_px, self.width_px), self.channels
        stem = self.stem
        last = _convolution("stem", stem.kernel, stem.stride, channels, stem.channels, False, size, True)
        yield last
        for index, block in enumerate(self.blocks):
            size, channels = last.out_size, last.out_channels
            name = f"blocks.{index}"
            last = _convolution(f"{name}.depthwise", 3, block.stride, channels, channels, True, size, True)
            yield last
            last = _convolution(
                f"{name}.pointwise", 1, 1, channels, block.channels, False, last.out_size, not block.residual
            )
            yield last

    @property
    def heat_grid(self) -> Grid:
        """Where the cells of the last map, and so of the heat map, lie in the picture."""
        stride, top, left = 1, 0, 0
        for layer in self.convolutions():
            middle = layer.kernel // 2
            top += stride * (middle - layer.pads[0])
            left += stride * (middle - layer.pads[1])
            stride *= layer.stride
        rows, columns = self.map_size
        return Grid(rows, columns, stride, top, left)

    def macs(self) -> int:
        """Multiply-accumulates of one picture, without the heat map's (`features` for each of its cells)."""
        return sum(layer.macs for layer in self.convolutions()) + self.features

    def to_plain(self) -> dict[str, Any]:
        """The spec as numbers, strings, lists and dicts; `from_plain` reads it."""
        plain = asdict(self)
        plain["blocks"] = list(plain["blocks"])
        return plain

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> StudentSpec:
        """The spec that `to_plain` wrote.

        Raises:
            ValueError, KeyError, TypeError: not a spec, or one that cannot be built.
        """
        fields = dict(plain)
        fields["stem"] = Stem(**fields["stem"])
        fields["blocks"] = tuple(Block(**block) for block in fields["blocks"])
        return StudentSpec(**fields)


_SIZES: dict[str, tuple[Stem, tuple[tuple[int, int], ...]]] = {
    "S10": (Stem(5, 4, 8), ((2, 24), (1, 24), (2, 48), (1, 48), (2, 128), (1, 128), (1, 128))),
    "S30": (Stem(3, 2, 8), ((2, 24), (2, 48), (1, 48), (2, 96), (1, 96), (2, 160), (1, 160), (1, 160))),
    "S100": (
        Stem(3, 2, 16),
        ((2, 32), (1, 32), (2, 64), (1, 64), (1, 64), (2, 128), (1, 128), (1, 128), (2, 256), (1, 256)),
    ),
}


def spec(size: str, contract: InputContract) -> StudentSpec:
    """The network of a size (S10, S30, S100: about so many MMAC at 224x632) for an input.

    A block's stride is 1 where 2 would leave fewer than `LEAST_SIDE` rows or columns, so a
    small picture (64x64) keeps a map worth pooling.
    """
    stem, blocks = _SIZES[size]
    side = -(-min(contract.width_px, contract.height_px) // stem.stride)
    fitted = []
    for stride, channels in blocks:
        fits = -(-side // stride) >= LEAST_SIDE
        fitted.append(Block(stride if fits else 1, channels))
        side = -(-side // fitted[-1].stride)
    return StudentSpec(contract.width_px, contract.height_px, contract.channels, stem, tuple(fitted))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after along one side, as TensorFlow's SAME: the odd one comes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _convolution(
    name: str, kernel: int, stride: int, inputs: int, outputs: int, depthwise: bool, size: tuple[int, int], relu6: bool
) -> Convolution:
    (top, bottom), (left, right) = (same_padding(side, kernel, stride) for side in size)
    out_size = (-(-size[0] // stride), -(-size[1] // stride))
    pads = (top, left, bottom, right)
    return Convolution(name, kernel, stride, inputs, outputs, depthwise, size, out_size, pads, relu6)


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
        pooled = last_map.mean((2, 3)) if self.spec.pool == "average" else last_map.amax((2, 3))
        return cast(Tensor, self.fc(pooled)).flatten()


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
