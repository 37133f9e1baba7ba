"""Frozen stages are computed once: what they make of each picture is kept, and only the rest is trained on it.

Leaves out: training (`loop.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diagline.console import console, track
from training import launch, precision
from training.data import Batch, Pictures
from training.patches import join
from training.teacher import Teacher

BATCH = 16
CACHE_BYTES = 3 * 2**30


class Head(nn.Module):
    """The stages of a teacher that are trained: maps (N, C, h, w) as `KeptMaps` gives them to logits (N,)."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.rest = rest

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits (N,) of maps that the loop has scaled by 1/255, as it scales pictures."""
        logits: torch.Tensor = self.rest(maps * 255)
        return logits.flatten()


class KeptMaps(Pictures):
    """Pictures of which the frozen stages' maps are handed out: (n, C, h, w) float16 in place of uint8 pixels."""

    def __init__(self, pictures: Pictures, maps: dict[int, NDArray[np.float16]]) -> None:
        self.__dict__.update(pictures.__dict__)
        self._maps = maps

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture's map: channels, height, width."""
        channels, height, width = next(iter(self._maps.values())).shape[1:]
        return channels, height, width

    def images(self, batch: Batch) -> NDArray[np.uint8]:
        """The batch's maps, (n, C, h, w) float16."""
        pairs = zip(batch.variants, batch.indices, strict=True)
        return np.stack([self._maps[int(variant)][index] for variant, index in pairs])  # type: ignore[return-value]


def split(
    teacher: Teacher, frozen: int, pictures: Pictures, validation: Pictures | None, numbers: str
) -> tuple[nn.Module, Pictures, Pictures | None]:
    """What to train, on what, and what to choose by: the rest of the teacher on kept maps, where they fit into memory.

    Args:
        frozen: 1 to 4 leading stages; 4 with the head `patches`.
        numbers: the precision they are computed in: auto, fp32 or bf16.
    """
    device = launch.here().device
    teacher.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    stages, head = _apart(teacher, frozen)

    @torch.no_grad()
    def run(batch: NDArray[np.uint8]) -> NDArray[np.float16]:
        pixels = precision.to_pixels(batch, device)
        with precision.autocast(numbers, device.type):
            return stages(pixels).half().cpu().numpy()  # type: ignore[no-any-return]

    kept = keep(run, pictures)
    judged = None if validation is None or kept is None else keep(run, validation)
    if kept is None or (validation is not None and judged is None):
        return teacher, pictures, validation
    return head, kept, judged


def _apart(teacher: Teacher, frozen: int) -> tuple[Callable[[torch.Tensor], torch.Tensor], nn.Module]:
    """What makes the maps of pixels (N, C, H, W), and the head that judges them."""
    if teacher.patches is not None:
        return (lambda pixels: join(*teacher.maps(pixels))), Head(teacher.patches)
    stages, rest = teacher.split(frozen)
    return (lambda pixels: stages((pixels - teacher.mean) / teacher.std)), Head(rest)


def keep(run: Callable[[NDArray[np.uint8]], NDArray[np.float16]], pictures: Pictures) -> KeptMaps | None:
    """The maps that `run` makes of every picture in every way it is shown.

    Returns:
        None where they would take more than `CACHE_BYTES`: then they are computed in each step.
    """
    one = run(next(pictures.in_order(1)))
    needed = one.nbytes * len(pictures) * len(pictures.variants)
    if needed > CACHE_BYTES:
        console.print(
            f"{needed / 2**30:.1f} GiB of frozen maps do not fit into {CACHE_BYTES / 2**30:.0f}: computed in each step"
        )
        return None
    maps: dict[int, NDArray[np.float16]] = {}
    for variant in pictures.variants:
        made = np.empty((len(pictures), *one.shape[1:]), np.float16)
        batches = pictures.in_order(BATCH, variant)
        what = f"frozen stages, once ({len(maps) + 1} of {len(pictures.variants)})"
        for place, batch in enumerate(track(batches, what, -(-len(pictures) // BATCH))):
            made[place * BATCH : (place + 1) * BATCH] = run(batch)
        maps[variant] = made
    return KeptMaps(pictures, maps)
