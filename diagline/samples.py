"""Sample and SampleSet: what every stage reads and writes pictures by.

A SampleSet is a folder of images with `samples.jsonl`, one record a line. The label is
carried explicitly and never inferred from a mask that was resized. Readers for other
layouts stand in `diagline/layouts.py`. Leaves out: resizing (`diagline/preprocess.py`).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline import files
from diagline.errors import DatasetError

RECORDS = "samples.jsonl"
SPLITS = ("train", "val", "test")
GOOD, DEFECT = 0, 1
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of a part.

    Attributes:
        image: path relative to the set's root, forward slashes.
        mask: likewise, or None where there is none; defect where > 127.
        label: 0 good, 1 defect.
        kind: the defect's kind; "good" for good parts.
        group: samples of one group (one part, one commutator) never stand in two splits.
        split: train, val or test.
        source: real, memseg, in_and_out, diag, painted.
        provenance: for a synthetic picture everything needed to paint it again.
    """

    image: str
    mask: str | None
    label: int
    kind: str
    group: str
    split: str
    source: str = "real"
    provenance: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.label not in (GOOD, DEFECT):
            raise DatasetError(f"{self.image}: label {self.label!r}; expected 0 (good) or 1 (defect)")
        if self.split not in SPLITS:
            raise DatasetError(f"{self.image}: split {self.split!r}; expected one of {', '.join(SPLITS)}")
        for path in (self.image, self.mask):
            if path is not None and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
                raise DatasetError(f"{path}: leaves the data folder; expected a path inside it")


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Samples and the folder their paths are relative to."""

    root: Path
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def where(self, keep: Callable[[Sample], bool]) -> SampleSet:
        """The samples for which `keep` is true, in order."""
        return replace(self, samples=tuple(sample for sample in self.samples if keep(sample)))

    def split(self, name: str) -> SampleSet:
        """The samples of one split."""
        return self.where(lambda sample: sample.split == name)

    def labelled(self, label: int) -> SampleSet:
        """The good (0) or the defective (1) samples."""
        return self.where(lambda sample: sample.label == label)

    def read_image(self, sample: Sample) -> NDArray[np.uint8]:
        """The sample's picture, `(h, w, 3)` uint8 BGR; raises as `read_image`."""
        return read_image(self.root / sample.image)

    def read_mask(self, sample: Sample) -> NDArray[np.uint8]:
        """The sample's mask, `(h, w)` uint8, 0 or 255.

        Raises:
            DatasetError: the sample has no mask, or the file cannot be read.
        """
        if sample.mask is None:
            raise DatasetError(f"{self.root / sample.image}: no mask; expected one here; use a layout with masks")
        return read_mask(self.root / sample.mask)

    def hash(self) -> str:
        """SHA-256 over every record and every file's bytes: equal sets have equal hashes."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(_line(sample).encode())
            for path in (sample.image, sample.mask):
                if path is not None:
                    digest.update(files.sha256_file(self.root / path).encode())
        return digest.hexdigest()

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of samples per (split, kind), in a stable order."""
        counter = Counter((sample.split, sample.kind) for sample in self.samples)
        order = sorted(counter, key=lambda key: (SPLITS.index(key[0]), key[1] != "good", key[1]))
        return {key: counter[key] for key in order}

    def check_groups(self) -> None:
        """Refuse a set in which one group stands in two splits.

        Raises:
            DatasetError: names the group and its splits.
        """
        home: dict[str, str] = {}
        for sample in self.samples:
            split = home.setdefault(sample.group, sample.split)
            if split != sample.split:
                raise DatasetError(
                    f"{self.root}: group {sample.group!r} stands in {split} and in {sample.split} "
                    f"({sample.image}); expected one split a group; move its images to one"
                )

    def save(self) -> None:
        """Write `samples.jsonl` into the root, in one step."""
        files.write_text(self.root / RECORDS, "".join(_line(sample) for sample in self.samples))


def load(root: Path) -> SampleSet:
    """Read a folder that holds `samples.jsonl`.

    Raises:
        DatasetError: no such file, a line that is not a record, a file that is missing, or a
            group in two splits.
    """
    path = root / RECORDS
    if not path.is_file():
        raise DatasetError(f"{path}: not found; expected a sample set; make one with: diagline generate CONFIG")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); expected UTF-8 records; restore the file") from error
    samples = []
    for number, line in enumerate(io.StringIO(text), start=1):
        try:
            samples.append(Sample(**json.loads(line)))
        except (ValueError, TypeError, DatasetError) as error:
            raise DatasetError(f"{path}:{number}: not a sample record ({error}); restore the file") from error
    found = SampleSet(root, tuple(samples))
    check_files(found)
    found.check_groups()
    return found


def check_files(samples: SampleSet) -> None:
    """Refuse a set that names files which are not there.

    Raises:
        DatasetError: names the first missing image or mask.
    """
    for sample in samples:
        if not (samples.root / sample.image).is_file():
            raise DatasetError(f"{samples.root / sample.image}: not found; the label file names it; restore it")
        if sample.mask is not None and not (samples.root / sample.mask).is_file():
            raise DatasetError(f"{samples.root / sample.mask}: mask not found; {sample.image} needs it; restore it")


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode a picture file to `(h, w, 3)` uint8 BGR.

    Raises:
        DatasetError: missing, not an image, or truncated (which OpenCV alone would fill
            with grey in silence).
    """
    return _decode(path, cv2.IMREAD_COLOR)


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Decode a mask file to `(h, w)` uint8, 255 where the file is > 127, else 0; raises as `read_image`."""
    return np.where(_decode(path, cv2.IMREAD_GRAYSCALE) > 127, np.uint8(255), np.uint8(0))


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a picture or mask as PNG, in one step."""
    done, data = cv2.imencode(".png", image)
    if not done:
        raise ValueError(f"{path}: cannot encode {image.dtype} {image.shape} as PNG")
    files.write_bytes(path, data.tobytes())


def split_bad(
    samples: SampleSet, progress: Callable[[Iterable[Sample]], Iterable[Sample]] = iter
) -> tuple[SampleSet, list[str]]:
    """Decode every picture and mask; the readable samples, and one line for each that is not."""
    good, bad = [], []
    for sample in progress(samples.samples):
        try:
            image = samples.read_image(sample)
            if sample.mask is not None:
                mask = samples.read_mask(sample)
                if mask.shape != image.shape[:2]:
                    raise DatasetError(
                        f"{samples.root / sample.mask}: mask is {mask.shape[1]}x{mask.shape[0]}, its image "
                        f"{image.shape[1]}x{image.shape[0]}; expected the same size"
                    )
                if sample.label == GOOD and mask.any():
                    raise DatasetError(
                        f"{samples.root / sample.mask}: marks {int((mask > 0).sum())} px on a part labelled good; "
                        f"expected an empty mask; correct the label or the mask"
                    )
        except DatasetError as error:
            bad.append(str(error))
        else:
            good.append(sample)
    return replace(samples, samples=tuple(good)), bad


def _line(sample: Sample) -> str:
    return json.dumps(asdict(sample), ensure_ascii=False, sort_keys=True) + "\n"


def _decode(path: Path, mode: int) -> NDArray[np.uint8]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; expected an image file") from error
    cut = (data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-4096:]) or (
        data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]
    )
    image = None if cut or not data else cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if image is None:
        what = "truncated" if cut else "not an image that OpenCV reads"
        raise DatasetError(f"{path}: {what}; expected a whole picture; replace it, or leave it out with --skip-bad")
    return image.astype(np.uint8, copy=False)
