"""A filter's channels: its bias with the input's zero point in it, and its requantisation.

Leaves out: where the weights come from (`read_graph.py`), the numbers of TFLite (`fixed_point.py`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.compiler import fixed_point
from firmware_bridge.compiler.graph import Map
from firmware_bridge.image import Channel

ACCUMULATOR = 1 << 30
"""An accumulator shifted left must stay below, so that a kernel may double it."""


def channels(
    source: Map, out: Map, weights: NDArray[np.int8], bias: NDArray[np.int64], scales: NDArray[np.float32],
    clamp: tuple[int, int], connected: bool = False,
) -> tuple[Channel, ...]:  # fmt: skip
    """One for each output of a filter.

    Args:
        weights: (outputs, depth); the row of a channel whose output does not depend on them becomes 0.
        bias: (outputs,), scales: (outputs,) or (1,).
        clamp: least and most int8 of the output.
        connected: of FULLY_CONNECTED, which multiplies a single scale otherwise.

    Raises:
        ValueError: another number of scales, or sums that leave 32 bits.
    """
    if scales.size not in (1, len(weights)):
        raise ValueError(f"{scales.size} scales of weights; expected one, or one an output")
    scale_of = fixed_point.connected_scale if connected and scales.size == 1 else fixed_point.convolution_scale
    found = []
    for row, start, scale in zip(weights, bias, np.broadcast_to(scales, len(weights)), strict=True):
        wide = row.astype(np.int64)
        folded = int(start - source.zero_point * wide.sum())
        one = fixed_point.channel(folded, *fixed_point.multiplier(scale_of(source.scale, scale, out.scale)))
        low = folded + int(np.minimum(wide * -128, wide * 127).sum())
        high = folded + int(np.maximum(wide * -128, wide * 127).sum())
        if one.left > 30 or max(-low, high) << one.left >= ACCUMULATOR:
            one = _constant(one, low, high, out.zero_point, clamp)
            row[:] = 0
        found.append(one)
    return tuple(found)


def _constant(one: Channel, low: int, high: int, zero_point: int, clamp: tuple[int, int]) -> Channel:
    """A channel whose sums run from `low` to `high`, too far for the engine, where they all give the same output.

    Training leaves such channels behind: weights that died, and a bias as large as int32.
    """

    def output(value: int) -> int:
        return min(max(fixed_point.rescale(value, one) + zero_point, clamp[0]), clamp[1])

    most = (ACCUMULATOR - 1) >> one.left
    nearest = min(max(low, -most), most)
    if max(-low, high) >= 1 << 31 or len({output(low), output(high), output(nearest)}) > 1:
        raise ValueError(f"its sums reach from {low} to {high}, too far for 32 bits; check its scales")
    return replace(one, bias=nearest)
