"""StudentSpec: the compact network as plain data, which every form of it is built from.

One spec has four forms (torch, ONNX, Keras twin, row-stream image); each is built by walking
`StudentSpec.convolutions()`, so that sizes and paddings are worked out in one place. All pad
as TensorFlow's SAME does, with zeros, which are the uint8 value 0; the network takes pictures
scaled to 0..1 and no mean or std, so zero stays zero in every form. Needs no torch. Leaves out:
the torch form (`student.py`) and conversion (`export/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from diagline.heat import Grid
from diagline.preprocess import InputContract

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
