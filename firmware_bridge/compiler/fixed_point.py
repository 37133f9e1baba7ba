"""TFLite's numbers: a float scale as multiplier and shift, an activation as a range of int8.

Each function repeats what TFLite Micro does when it prepares a network, in the same precision:
double where it says double, float where it says float. Leaves out: the multiplication itself
(`firmware/kernels.h`).
"""

from __future__ import annotations

import math

import numpy as np

from firmware_bridge.image import Channel


def round_away(value: float) -> int:
    """To the nearest integer, ties away from zero, as C's `round`."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def multiplier(scale: float) -> tuple[int, int]:
    """`(multiplier, shift)` with scale = multiplier / 2^31 * 2^shift (QuantizeMultiplier)."""
    if scale == 0:
        return 0, 0
    fraction, shift = math.frexp(scale)
    fixed = round_away(fraction * (1 << 31))
    if fixed == 1 << 31:
        fixed, shift = fixed // 2, shift + 1
    if shift < -31:
        return 0, 0
    return fixed, shift


def channel(bias: int, fixed: int, shift: int) -> Channel:
    """A channel of these numbers; shift positive is to the left."""
    return Channel(bias, fixed, max(shift, 0), max(-shift, 0))


def rescale(value: int, by: Channel) -> int:
    """What `rs_rescale` of the engine makes of a value (MultiplyByQuantizedMultiplier)."""
    high = ((value << by.left) * by.multiplier + (1 << 30)) >> 31
    if by.right == 0:
        return high
    return (high + (1 << (by.right - 1)) - (high < 0)) >> by.right


def convolution_scale(source: float, weights: float, target: float) -> float:
    """Of one channel of a convolution, or of a fully connected layer with a scale for each."""
    return float(np.float32(source)) * float(np.float32(weights)) / float(np.float32(target))


def connected_scale(source: float, weights: float, target: float) -> float:
    """Of a fully connected layer with one scale for all: TFLite multiplies the first two as floats."""
    return float(np.float32(source) * np.float32(weights)) / float(np.float32(target))


def mean_multiplier(source: float, target: float, cells: int) -> tuple[int, int]:
    """Of MEAN over `cells`, the division folded in (QuantizedMeanOrSum)."""
    fixed, shift = multiplier(float(np.float32(source)) / float(np.float32(target)))
    by = min(cells.bit_length() - 1, 32, 31 + shift)
    return (fixed << by) // cells, shift - by


def add_multipliers(
    one: float, other: float, target: float
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Of ADD: its two inputs brought to half the larger scale, and their sum, which is 2^20 times too large."""
    twice = 2 * max(float(np.float32(one)), float(np.float32(other)))
    total = twice / ((1 << 20) * float(np.float32(target)))
    return multiplier(float(np.float32(one)) / twice), multiplier(float(np.float32(other)) / twice), multiplier(total)


def activation_range(activation: str, scale: float, zero_point: int) -> tuple[int, int]:
    """Least and most int8 of an output (CalculateActivationRangeQuantized).

    Raises:
        KeyError: an activation that is not among NONE, RELU, RELU6 and RELU_N1_TO_1.
    """
    bounds: dict[str, tuple[float | None, float | None]] = {
        "NONE": (None, None),
        "RELU": (0.0, None),
        "RELU6": (0.0, 6.0),
        "RELU_N1_TO_1": (-1.0, 1.0),
    }
    low, high = bounds[activation]

    def quantised(value: float) -> int:
        return zero_point + round_away(float(np.float32(value) / np.float32(scale)))

    return max(-128, -128 if low is None else quantised(low)), min(127, 127 if high is None else quantised(high))
