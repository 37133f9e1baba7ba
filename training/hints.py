"""What the teacher says of each place: feature hints from an inner map, and its verdict place by place.

For the hints an inner map of the student is to foretell the teacher's (layer3's, or that of the
head `patches`), whose channels are reduced to their `CHANNELS` strongest directions (principal
components over the training pictures), each scaled to unit variance. Its verdict on a place is the
logit that it would give a picture which looked like this place everywhere; the student's heat map
is to agree. The verdicts of the head `patches` are no such logits, the strongest decide: the
student's inner map is to foretell the strongest around each of its places. Leaves out: the loss on
a picture's logit (`distill.py`).

Source: Romero et al. 2015, "FitNets: Hints for thin deep nets", section 2.1, the hint trained
together with the rest; Zhou et al. 2016, "Learning deep features for discriminative localization",
section 2, for the verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from training.data import Batch
from training.settings import Loss, soft_loss
from training.student import Student

CHANNELS = 64
SAMPLE = 20_000
"""Places of the teacher's maps that the directions are taken from."""


class Hinted(nn.Module):
    """A student and the 1x1 convolution by which one of its maps foretells the teacher's; dropped after training.

    Attributes:
        said: (n, CHANNELS, h, w), what the last forward pass foretold.
        heat: (n, rows, columns), the student's own heat map in that pass.
        strongest: (n, h, w), what it foretold of the places' verdicts; empty unless it `foretells_places`.
    """

    def __init__(self, student: Student, foretells_places: bool = False) -> None:
        super().__init__()
        self.student = student
        index = hinted_block(student)
        self.foretell = nn.Conv2d(student.spec.blocks[index].channels, CHANNELS, 1)
        self.judge = nn.Conv2d(student.spec.blocks[index].channels, 1, 1) if foretells_places else None
        self.said = self.heat = self.strongest = torch.empty(0)
        self._block = index

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N,) as the student gives them."""
        x = functional.relu6(self.student.stem(images))
        for index, block in enumerate(self.student.blocks):
            x = block(x)
            if index == self._block:
                self.said = self.foretell(x)
                if self.judge is not None:
                    self.strongest = self.judge(x)[:, 0]
        self.heat = self.student.warm(x)
        return self.student.judge(x)


def hinted_block(student: Student) -> int:
    """The last block whose map is no coarser than layer3's, a sixteenth of the picture's side."""
    spec = student.spec
    made = [layer.out_size[0] for layer in spec.convolutions()][2::2]  # after each block
    fine = [index for index, rows in enumerate(made) if rows >= -(-spec.height_px // 16)]
    return fine[-1] if fine else 0


def map_size(student: Student) -> tuple[int, int]:
    """`(height, width)` of the map that is given hints."""
    return list(student.spec.convolutions())[2 * hinted_block(student) + 2].out_size


class Directions:
    """The strongest directions of some maps, found on the first ones."""

    def __init__(self, maps: Iterable[torch.Tensor], seed: int) -> None:
        places = torch.cat([each.permute(0, 2, 3, 1).reshape(-1, each.shape[1]).float() for each in maps])
        order = np.random.default_rng(seed).permutation(len(places))[:SAMPLE]
        some = places[torch.from_numpy(order).to(places.device)]
        self._mean = some.mean(0)
        _, values, vectors = torch.linalg.svd(some - self._mean, full_matrices=False)
        spread = (values[:CHANNELS] / max(1, len(some) - 1) ** 0.5).clamp_min(1e-6)
        self._basis = vectors[:CHANNELS].T / spread

    def reduce(self, maps: torch.Tensor, size: tuple[int, int]) -> NDArray[np.float16]:
        """Maps (n, C, h, w) along the directions and at a student's size, (n, CHANNELS, *size)."""
        along = ((maps.permute(0, 2, 3, 1).float() - self._mean) @ self._basis).permute(0, 3, 1, 2)
        return functional.adaptive_avg_pool2d(along, size).half().cpu().numpy()  # type: ignore[no-any-return]


def hint_loss(loss: Loss, hinted: Hinted, maps: NDArray[np.float16], weight: float) -> Loss:
    """`loss` plus `weight` times the mean squared error of what the student foretells.

    Args:
        maps: (variants, N, CHANNELS, h, w), the teacher's per way of being shown and picture.
    """
    return _with(loss, maps, weight, lambda aim: functional.mse_loss(hinted.said.float(), aim))


def place_loss(loss: Loss, hinted: Hinted, places: NDArray[np.float16], temperature: float, weight: float) -> Loss:
    """`loss` plus `weight` times the distillation term of a picture's logit, taken at each place of the heat map.

    Args:
        places: (variants, N, rows, columns), the teacher's logits per way of being shown and picture.
        temperature: as in `soft_loss`.
    """
    return _with(loss, places, weight, lambda aim: soft_loss(hinted.heat.float(), aim, temperature))


def strongest_loss(
    loss: Loss, hinted: Hinted, places: NDArray[np.float16], shown: Sequence[int], weight: float
) -> Loss:
    """`loss` plus `weight` times the mean squared error of what the student foretells of the places' verdicts.

    Args:
        places: (variants, N, h, w), the teacher's; taken from their mean, in units of their spread.
        shown: the variants that pictures are shown in.
    """
    known = places[list(shown)].astype(np.float32)
    mean, spread = float(known.mean()), max(float(known.std()), 1e-6)
    return _with(loss, places, weight, lambda aim: functional.mse_loss(hinted.strongest.float(), (aim - mean) / spread))


def _with(loss: Loss, said: NDArray[np.float16], weight: float, error: Callable[[torch.Tensor], torch.Tensor]) -> Loss:
    """`loss` plus `weight` times the error against what the teacher `said`, (variants, N, ...), of a batch."""

    def both(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        aim = torch.from_numpy(said[batch.variants, batch.indices]).to(logits.device).float()
        return loss(logits, labels, batch) + weight * error(aim)

    return both
