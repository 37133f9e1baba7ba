"""Pictures as the training loop eats them: decoded once, preprocessed once, drawn by a seeded plan.

Those that fit into memory stay there; more are decoded by threads some batches ahead of the
step. The label is the record's, so that no resizing can lose one, unless the paper's rule is
asked for. Leaves out: reading layouts (`diagline/layouts.py`) and scaling to floats (`loop.py`).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from diagline.console import track
from diagline.errors import DatasetError, TrainingError
from diagline.preprocess import InputContract, preprocess
from diagline.samples import DEFECT, GOOD, Sample, SampleSet, read_image
from training import altered, views

CACHE_BYTES = 2 * 2**30
"""Pictures kept in memory, by all of a machine's processes together."""
AHEAD = 4
"""Batches that are made ready while one is trained on."""
VARIANTS = {"none": (0,), "horizontal": (0, 1), "vertical": (0, 2), "both": (0, 1, 2, 3)}
"""Per setting of `flips`, the ways a picture is shown: bit 0 mirrors left-right, bit 1 top-bottom."""
SHOWN = {"moved": views.show, "altered": altered.show}
"""Per setting of `student.shown`, what makes the ways beyond the first where there are `views`."""


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
        views: where above 0, how many ways each picture is shown, the first as it is, the others as
            `shown` has them; 0: the flips alone.
        shown: a key of `SHOWN`.
        labels: "record" takes the record's, "mask" takes them again, as `mask_label` does.

    Attributes:
        samples: N samples; labels: (N,) int64 in their order.

    Raises:
        DatasetError: a picture cannot be read, or a mask where labels come from it.
    """

    def __init__(
        self,
        sets: Sequence[SampleSet],
        contract: InputContract,
        flips: str,
        seed: int,
        what: str = "training",
        labels: str = "record",
        views: int = 0,
        shown: str = "moved",
    ) -> None:
        self._pairs = [(one, sample) for one in sets for sample in one]
        self._contract = contract
        self._mirrors = VARIANTS[flips]
        self._variants = tuple(range(views)) if views else self._mirrors
        self._views = views
        self._show = SHOWN[shown]
        self._seed = seed
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of a launcher, on this machine
        self._threads = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) // processes))
        self._cache: NDArray[np.uint8] | None = None
        self.samples: list[Sample] = [sample for _, sample in self._pairs]
        self.labels: NDArray[np.int64] = np.array([sample.label for sample in self.samples], np.int64)
        if labels == "mask":
            found = self._threads.map(lambda pair: mask_label(pair[0], pair[1], contract), self._pairs)
            self.labels = np.array(list(track(found, f"reading {what} masks", total=len(self))), np.int64)
        height, width, channels = contract.shape
        if len(self) * height * width * channels <= CACHE_BYTES // processes:
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
    def shape(self) -> tuple[int, int, int]:
        """Of one picture: channels, height, width."""
        height_px, width_px, channels = self._contract.shape
        return channels, height_px, width_px

    @property
    def variants(self) -> tuple[int, ...]:
        """The ways each picture may be shown."""
        return self._variants

    def images(self, batch: Batch) -> NDArray[np.uint8]:
        """The batch's pictures, shown as its variants say, (n, C, H, W) uint8."""
        if self._views:
            return np.stack(list(map(self._view, batch.indices.tolist(), batch.variants.tolist())))
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

    def _view(self, index: int, variant: int) -> NDArray[np.uint8]:
        read = self._read if self._cache is None else self._cache.__getitem__
        if not variant:
            return read(index)
        return self._show(read(index), np.random.default_rng([self._seed, variant, index]), self._mirrors)

    def _balanced(self, rng: np.random.Generator) -> NDArray[np.int64]:
        halves = []
        for label, count in ((GOOD, (len(self) + 1) // 2), (DEFECT, len(self) // 2)):
            members = np.flatnonzero(self.labels == label)
            rounds = [rng.permutation(members) for _ in range(-(-count // len(members)))]
            halves.append(np.concatenate(rounds)[:count] if rounds else members[:0])
        return rng.permutation(np.concatenate(halves))

    def _read(self, index: int) -> NDArray[np.uint8]:
        one, sample = self._pairs[index]
        image = preprocess(one.read_image(sample), self._contract, str(one.root / sample.image))
        return np.ascontiguousarray(image.transpose(2, 0, 1))


@dataclass(frozen=True, slots=True)
class Ready:
    """A batch, its pictures (n, C, H, W) uint8, and the seconds that the device stood still for them.

    Attributes:
        error: why the pictures could not be read; they are then black.
    """

    batch: Batch
    images: torch.Tensor
    waited_s: float
    error: DatasetError | None = None


def ahead(
    pictures: Pictures, plan: Sequence[Batch], pin: bool = False, settle: Callable[[], None] = lambda: None
) -> Iterator[Ready]:
    """The plan's batches in order, made ready by threads up to `AHEAD` batches before they are asked for.

    Args:
        pin: hand out pinned memory, from which a GPU copies while it computes.
        settle: called before a batch is waited for, and returns when the device has done all it
            was given: what is counted is a device standing still, not one that is busy.
    """

    def make(batch: Batch) -> tuple[torch.Tensor, DatasetError | None]:
        try:
            images = torch.from_numpy(pictures.images(batch))
        except DatasetError as error:
            return torch.zeros((len(batch.indices), *pictures.shape), dtype=torch.uint8), error
        return images.pin_memory() if pin else images, None

    with ThreadPoolExecutor(AHEAD) as threads:
        waiting: deque[Future[tuple[torch.Tensor, DatasetError | None]]] = deque()
        try:
            for place, batch in enumerate(plan):
                while len(waiting) < AHEAD and place + len(waiting) < len(plan):
                    waiting.append(threads.submit(make, plan[place + len(waiting)]))
                if not waiting[0].done():
                    settle()
                started = time.monotonic()
                images, error = waiting.popleft().result()
                yield Ready(batch, images, time.monotonic() - started, error)
        finally:
            for future in waiting:
                future.cancel()


def mask_label(one: SampleSet, sample: Sample, contract: InputContract) -> int:
    """A sample's label as the paper's code takes it: from its mask, after resizing and truncation.

    The mask, 0 to 1, is stretched to the input (OpenCV, bilinear) and truncated to integers, so that only
    what is still exactly 1 counts as defect: a dot of one pixel is lost wherever the input has another
    size, a thin line mostly where its mask is soft-edged (DIAG's own masks went to 1024x1024 and back,
    bicubic). Grey values are taken as they are in the file.

    Raises:
        DatasetError: a defect without a mask, or a mask that cannot be read.
    """
    if sample.mask is None:
        if sample.label == GOOD:
            return GOOD
        raise DatasetError(
            f'{one.root / sample.image}: a defect without a mask; expected one with teacher.labels = "mask"; '
            f'mark it, or set teacher.labels = "record"'
        )
    mask = read_image(one.root / sample.mask)[:, :, 0].astype(np.float32) / np.float32(255)
    resized = cv2.resize(mask, (contract.width_px, contract.height_px), interpolation=cv2.INTER_LINEAR)
    return DEFECT if bool((resized.astype(np.int64) > 0).any()) else GOOD


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


def check_labels(pictures: Pictures) -> int:
    """The number of defects that the pictures' own labels count as good.

    Raises:
        TrainingError: no defect is left.
    """
    recorded = np.array([sample.label for sample in pictures.samples], np.int64)
    lost = int(((recorded == DEFECT) & (pictures.labels == GOOD)).sum())
    if lost and DEFECT not in pictures.labels:
        raise TrainingError(
            f'teacher.labels = "mask": all {lost} defects lose their label when their masks are resized; '
            f'expected some to keep it; set teacher.labels = "record", or take masks that are wider'
        )
    return lost


def both_classes(sets: Sequence[SampleSet]) -> bool:
    """Whether good and defective pictures are there, so that a threshold or epoch can be chosen on them."""
    return {sample.label for samples in sets for sample in samples} == {GOOD, DEFECT}
