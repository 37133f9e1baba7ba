"""Pictures as the training loop eats them: decoded once, preprocessed once, drawn by a seeded plan.

The label is the record's: masks are not opened here, so no resizing can lose one (the paper's
code recomputed labels from resized masks and lost thin defects). Leaves out: reading layouts
(`diagline/layouts.py`) and scaling to floats (the loop's first line).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diagline.console import track
from diagline.errors import DatasetError, TrainingError
from diagline.preprocess import InputContract, preprocess
from diagline.samples import DEFECT, GOOD, Sample, SampleSet

CACHE_BYTES = 2 * 2**30
VARIANTS = {"none": (0,), "horizontal": (0, 1), "vertical": (0, 2), "both": (0, 1, 2, 3)}
"""Per setting of `flips`, the ways a picture is shown: bit 0 mirrors left-right, bit 1 top-bottom."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step is trained on: `indices` and `variants`, both (n,) int64."""

    indices: NDArray[np.int64]
    variants: NDArray[np.int64]


class Pictures(Dataset[tuple[torch.Tensor, int, int]]):
    """The pictures of some sample sets, preprocessed; item i is (uint8 (C, H, W), label, i).

    Args:
        sets: read in order.
        contract: what the network is fed.
        flips: a key of `VARIANTS`; used by `plan`.
        seed: of the plan.
        what: the word on the progress bar.

    Attributes:
        samples: N samples; labels: (N,) int64 in their order.

    Raises:
        DatasetError: a picture cannot be read.
    """

    def __init__(
        self, sets: Sequence[SampleSet], contract: InputContract, flips: str, seed: int, what: str = "training"
    ) -> None:
        self._pairs = [(one, sample) for one in sets for sample in one]
        self._contract = contract
        self._variants = VARIANTS[flips]
        self._seed = seed
        self._threads = ThreadPoolExecutor(os.cpu_count())
        self._cache: NDArray[np.uint8] | None = None
        self.samples: list[Sample] = [sample for _, sample in self._pairs]
        self.labels: NDArray[np.int64] = np.array([sample.label for sample in self.samples], np.int64)
        height, width, channels = contract.shape
        if len(self) * height * width * channels <= CACHE_BYTES:
            cache = np.empty((len(self), channels, height, width), np.uint8)
            images = self._threads.map(self._read, range(len(self)))
            for index, image in enumerate(track(images, f"reading {what} pictures", total=len(self))):
                cache[index] = image
            self._cache = cache

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        image = self._read(index) if self._cache is None else self._cache[index]
        return torch.from_numpy(image.copy()), int(self.labels[index]), index

    @property
    def variants(self) -> tuple[int, ...]:
        """The ways each picture may be shown."""
        return self._variants

    def images(self, batch: Batch) -> NDArray[np.uint8]:
        """The batch's pictures, mirrored as its variants say, (n, C, H, W) uint8."""
        if self._cache is None:
            images = np.stack(list(self._threads.map(self._read, batch.indices.tolist())))
        else:
            images = self._cache[batch.indices]
        for place, variant in enumerate(batch.variants):
            if variant & 1:
                images[place] = images[place, :, :, ::-1].copy()
            if variant & 2:
                images[place] = images[place, :, ::-1, :].copy()
        return images

    def plan(self, epoch: int, batch_size: int, balance: bool) -> list[Batch]:
        """The batches of one epoch: a pure function of seed and epoch.

        With `balance`, good and defective pictures are drawn equally often, in as many draws
        as there are pictures; each class is dealt out whole before one of its pictures returns.
        A last batch of one picture joins the batch before it: batch norm cannot be trained on one.
        """
        rng = np.random.default_rng([self._seed, epoch])
        order = self._balanced(rng) if balance else rng.permutation(len(self))
        variants = rng.choice(np.array(self._variants, np.int64), len(order))
        cuts = list(range(batch_size, len(order), batch_size))
        if cuts and len(order) - cuts[-1] == 1:
            cuts.pop()
        parts = zip(np.split(order.astype(np.int64), cuts), np.split(variants, cuts), strict=True)
        return [Batch(indices, chosen) for indices, chosen in parts]

    def in_order(self, batch_size: int, variant: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Every picture once in order, all mirrored as `variant` says; batches (n, C, H, W) uint8."""
        for start in range(0, len(self), batch_size):
            indices = np.arange(start, min(start + batch_size, len(self)))
            yield self.images(Batch(indices, np.full(len(indices), variant, np.int64)))

    def _balanced(self, rng: np.random.Generator) -> NDArray[np.int64]:
        halves = []
        for label, count in ((GOOD, (len(self) + 1) // 2), (DEFECT, len(self) // 2)):
            members = np.flatnonzero(self.labels == label)
            rounds = [rng.permutation(members) for _ in range(-(-count // len(members)))]
            halves.append(np.concatenate(rounds)[:count] if rounds else members[:0])
        return rng.permutation(np.concatenate(halves))

    def _read(self, index: int) -> NDArray[np.uint8]:
        one, sample = self._pairs[index]
        image = preprocess(one.read_image(sample), self._contract)
        return np.ascontiguousarray(image.transpose(2, 0, 1))


def check_trainable(sets: Sequence[SampleSet]) -> None:
    """Refuse training pictures that cannot teach a classifier, before anything is decoded.

    Raises:
        DatasetError: there is no picture at all.
        TrainingError: only good, or only defective ones.
    """
    labels = [sample.label for one in sets for sample in one]
    where = ", ".join(str(one.root) for one in sets) or "no folder"
    if not labels:
        raise DatasetError(f"{where}: no training pictures; expected split train to hold some; check the data's splits")
    if DEFECT not in labels:
        raise TrainingError(
            f"{where}: {len(labels)} training pictures, none defective; expected both kinds; "
            f'paint defects with: diagline generate CONFIG, or set data.shots = "full" where real ones exist'
        )
    if GOOD not in labels:
        raise TrainingError(
            f"{where}: {len(labels)} training pictures, all defective; expected both kinds; "
            f"add good pictures to split train"
        )


def both_classes(sets: Sequence[SampleSet]) -> bool:
    """Whether good and defective pictures are there, so that a threshold or epoch can be chosen on them."""
    return {sample.label for samples in sets for sample in samples} == {GOOD, DEFECT}
