"""What a network computes, in the engine's words: maps, and the nodes between them.

Leaves out: TFLite (`read_graph.py`), in which order rows are computed (`segments.py`) and where they
lie (`compile.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.image import Channel, Kind, Method


@dataclass(frozen=True, slots=True)
class Map:
    """A feature map, or a vector as one of 1x1."""

    name: str
    height: int
    width: int
    channels: int
    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class Node:
    """One computation.

    Attributes:
        inputs, output: numbers of maps.
        kernel, stride: rows, columns.
        pads: at top, left, right; what is missing below is padded as it is needed.
        weights: (out channels, depth) int8 in the order in which the engine meets its inputs; None without.
        channels: requantisation of each output; of ADD its two inputs and their sum.
        macs: multiply-accumulates of one row of the output.
    """

    kind: Kind
    inputs: tuple[int, ...]
    output: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int] = (0, 0, 0)
    weights: NDArray[np.int8] | None = None
    channels: tuple[Channel, ...] = ()
    least: int = -128
    most: int = 127
    method: Method = Method.AVERAGE
    macs: int = 0

    @property
    def is_head(self) -> bool:
        """Whether it needs rows of its input at hand."""
        return self.kind <= Kind.POOL


@dataclass
class Graph:
    """A network as maps and nodes, in the order of computation.

    Attributes:
        source, outputs, heat: numbers of maps: the picture, the vector of logits, the heat map (None without).
    """

    maps: dict[int, Map]
    nodes: list[Node]
    source: int
    outputs: int
    heat: int | None
