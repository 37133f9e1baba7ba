"""The teacher's head where there are only good parts: it tells good places of a map from noised ones.

Good pictures alone train it: Gaussian noise is added to the features of their places, and each
place is to be told from its noised twin. Painted defects are not needed, and were seen to hurt:
what separates them from good places separates real ones less well. Leaves out: the
network that makes the maps (`teacher.py`) and the steps (`loop.py`).

Source: Liu et al. 2023, "SimpleNet: A simple network for image anomaly detection and
localization", sections 3.1 to 3.3 (features of layer2 and layer3, pooled 3x3 and concatenated;
noise in feature space). Ours: features in units of their own spread, and in place of the places'
maximum the log of their summed odds, or the mean of the worst few.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from training.data import Batch
from training.settings import Loss

LAYERS = (512, 1024)
"""Channels of layer2 and layer3."""
HIDDEN = 512
NORMED = 3
"""Layers of `Patches.judge` up to its batch norm."""
MOST = 8192
"""Places that are noised and judged in one step of training; of more, these many are drawn."""


class Patches(nn.Module):
    """Maps as `join` makes them of layer2 and layer3, (N, 1536, h, w), to logits (N,).

    Attributes:
        said: after a pass in train mode, the logits of some places, (n,), and of their noised twins, (n,).
        threshold: of a trained head, what its pictures' logits are told apart at: their zero means nothing.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, noise: float = 0.5, worst: float = 0.0, threshold: float = 0.0) -> None:
        """A head that has learned nothing yet.

        Args:
            noise: the standard deviation of what is added, in units of each feature's own.
            worst: share of the places, the worst ones, whose mean logit is the picture's; 0: the log of all
                places' summed odds.
        """
        super().__init__()
        channels = sum(LAYERS)
        self.judge = nn.Sequential(
            nn.Conv2d(channels, HIDDEN, 1),  # the paper's adaptor: linear, and it learns far worse without
            nn.Conv2d(HIDDEN, HIDDEN, 1),
            nn.BatchNorm2d(HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Conv2d(HIDDEN, 1, 1),
        )
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))
        self.noise = noise
        self.worst = worst
        self.threshold = threshold
        self.said = (torch.empty(0), torch.empty(0))

    def measure(self, maps: Iterable[torch.Tensor]) -> None:
        """Take mean and spread of each feature from the maps of good pictures."""
        count, summed, squared = 0, torch.zeros(sum(LAYERS)).double(), torch.zeros(sum(LAYERS)).double()
        for each in maps:
            places = each.double().transpose(0, 1).flatten(1).cpu()
            count, summed, squared = count + places.shape[1], summed + places.sum(1), squared + places.square().sum(1)
        mean = summed / count
        self.mean.copy_(mean.view(-1, 1, 1))
        self.spread.copy_((squared / count - mean.square()).clamp_min(1e-6).sqrt().view(-1, 1, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits (N,)."""
        if self.training:
            self._tell_apart(maps.permute(0, 2, 3, 1).flatten(0, 2))
            return maps.new_zeros(len(maps))  # what is learned from is `said`
        return self.sum_up(self.look(maps)[1])

    def look(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the places are judged by, (N, HIDDEN, h, w), and their logits, (N, h, w)."""
        hidden = self.judge[:NORMED]((maps - self.mean) / self.spread)
        return hidden, self.judge[NORMED:](hidden)[:, 0].float()

    def sum_up(self, places: torch.Tensor) -> torch.Tensor:
        """Pictures' logits (N,) of their places' (N, h, w).

        Many weak places raise the log of the summed odds as one strong one does; the mean of the worst few is
        deaf to a single odd place.
        """
        logits = places.flatten(1)
        if self.worst:
            return logits.topk(math.ceil(self.worst * logits.shape[1]), 1).values.mean(1)
        return logits.logsumexp(1) - math.log(logits.shape[1]) / 2

    def _tell_apart(self, places: torch.Tensor) -> None:
        """Judge some of the `places` (n, features) and their noised twins."""
        # seeded from torch's generator for the CPU, whose state the checkpoint holds
        drawn = torch.Generator(places.device).manual_seed(int(torch.randint(2**62, ())))
        if len(places) > MOST:
            places = places[torch.randperm(len(places), generator=drawn, device=places.device)[:MOST]]
        places = (places.float() - self.mean.flatten()) / self.spread.flatten()
        noise = torch.randn(places.shape, generator=drawn, device=places.device)
        both = torch.cat([places, places.add(noise, alpha=self.noise)])
        self.said = self.judge(both.T[None, :, :, None]).flatten().chunk(2)  # type: ignore[assignment]


def loss_of(patches: Patches) -> Loss:
    """Binary cross-entropy of places (good) and of their noised twins (not good)."""

    def loss(logits: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        good, noised = (said.float() for said in patches.said)
        return (functional.softplus(good).mean() + functional.softplus(-noised).mean()) / 2

    return loss


def join(layer2: torch.Tensor, layer3: torch.Tensor) -> torch.Tensor:
    """Maps (N, 512, h, w) and (N, 1024, h/2, w/2) as one, (N, 1536, h, w): each place with its neighbours' mean."""
    fine, coarse = (functional.avg_pool2d(each.float(), 3, 1, 1) for each in (layer2, layer3))
    coarse = functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([fine, coarse], 1)
