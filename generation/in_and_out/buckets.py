"""Aspect buckets: the few sizes that pictures are trained at, and which of them share a batch.

Pure functions, seeded by what is passed in. Leaves out: pictures.

Source: In&Out trains at 512 px with aspect buckets; their list is not published. Here a bucket's
sides are multiples of `step`, its area is near `size_px` squared, and a picture is scaled to the
bucket that changes its aspect least, whole: cropping could cut its defect away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]  # width, height in px
_AREA_WEIGHT = 0.35  # how much a bucket's wrong area counts against its wrong aspect
_CLASS, _ORDER = 5, 6  # of a run's random streams


def step_of(size_px: int, cell_px: int) -> int:
    """The grid of the sides: an eighth of the size (64 at 512), in whole cells.

    Args:
        size_px: the size asked for.
        cell_px: pixels that a side must be a multiple of.
    """
    return max(size_px // (8 * cell_px), 1) * cell_px


def bucket_of(width_px: int, height_px: int, size_px: int, step: int) -> Size:
    """The bucket of a picture.

    Raises:
        ValueError: a side, size or step below 1.
    """
    if min(width_px, height_px, size_px, step) < 1:
        raise ValueError(f"bucket of {width_px}x{height_px} at {size_px} in steps of {step}; expected at least 1 each")
    short, long = sorted((width_px, height_px))
    aspect = short / long
    best, least = (step, step), math.inf
    for a in range(step, size_px + 2 * step, step):
        exact = a / aspect / step
        for b in {max(math.floor(exact), 1) * step, math.ceil(exact) * step}:
            cost = abs(math.log(a / b / aspect)) + _AREA_WEIGHT * abs(math.log(a * b / size_px**2))
            if cost < least - 1e-12:
                best, least = (a, b), cost
    return best if width_px <= height_px else (best[1], best[0])


def plan(
    real: Sequence[Size], prior: Sequence[Size], repeats: int, batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of one epoch, in order.

    Every real picture is seen `repeats` times and each time one class picture with it; class
    pictures take turns across epochs. A batch holds pictures of one bucket.

    Args:
        real, prior: buckets of the real and of the class pictures, the latter all the same.
        epoch: from 0.

    Returns:
        Places in `[*real, *prior]`, at most `batch_size` a batch; the number of batches is the
        same in every epoch.
    """
    views = [place for place in range(len(real)) for _ in range(repeats)]
    if prior:
        first = epoch * len(views)
        views += [len(real) + _turn(turn, len(prior), seed) for turn in range(first, first + len(views))]
    sizes = [*real, *prior]
    rng = np.random.default_rng([seed, _ORDER, epoch])
    groups: dict[Size, list[int]] = {}
    for place in rng.permutation(len(views)):
        groups.setdefault(sizes[views[place]], []).append(views[place])
    batches = [
        group[start : start + batch_size]
        for _, group in sorted(groups.items())
        for start in range(0, len(group), batch_size)
    ]
    return [batches[place] for place in rng.permutation(len(batches))]


def _turn(index: int, options: int, seed: int) -> int:
    """Option of `index` when all take turns, newly shuffled each time round."""
    turn, place = divmod(index, options)
    return int(np.random.default_rng([seed, _CLASS, turn]).permutation(options)[place])
