"""`diagline generate`: a plan over good pictures, and a sample set with everything to paint it again.

Picture `index` of a split depends on the seed, the split and the index alone, not on how many
others are painted. Leaves out: the method itself (`memseg.py`) and what is done with the set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline import console, files, samples
from diagline.config import GenerateConfig
from diagline.errors import DatasetError
from diagline.samples import DEFECT, GOOD, IMAGE_SUFFIXES, SPLITS, Sample, SampleSet
from generation.memseg import MemSegSettings, Painted, paint

METHOD = "memseg"
_PICK, _PAINT = 0, 1  # two random streams a picture, so that a repaint need not pick again


def generate(
    normals: SampleSet,
    settings: GenerateConfig,
    seed: int,
    target: Path,
    counts: Mapping[str, int] | None = None,
) -> SampleSet:
    """Paint defects on good pictures: `images/`, `masks/`, `samples.jsonl`.

    Each picture's normal is drawn uniformly, with repeats, from the good pictures of its split, and
    the new sample keeps that normal's split and group: no part stands on both sides.

    Args:
        normals: the line's pictures; defective ones in it are left alone.
        counts: pictures to paint per split; None: `settings.count` for train.

    Returns:
        The set at `target`: label 1, source and kind "memseg".

    Raises:
        DatasetError: nothing to paint, no good picture in a split, a textures folder without
            pictures, or a picture that cannot be read.
        OutputError: the folder cannot be written to.
    """
    counts = {"train": settings.count} if counts is None else counts
    good = {split: normals.split(split).labelled(GOOD) for split in counts}
    _check(normals, counts, good)
    textures = _textures(settings.textures)
    method = MemSegSettings(foreground=settings.foreground)
    plan = [(split, index) for split in sorted(counts, key=SPLITS.index) for index in range(counts[split])]
    records = []
    with files.folder_aside(target) as root:
        for running, (split, index) in enumerate(console.track(plan, "Painting defects")):
            stream = [seed, SPLITS.index(split), index]
            pick = np.random.default_rng([*stream, _PICK])
            normal = good[split].samples[int(pick.integers(len(good[split])))]
            texture = textures[int(pick.integers(len(textures)))] if textures else None
            painted = _paint(normals.root / normal.image, texture, stream, method)
            name, mask_name = f"images/{running:05d}.png", f"masks/{running:05d}.png"
            samples.write_image(root / name, painted.image_bgr)
            samples.write_image(root / mask_name, painted.mask)
            provenance = {
                "method": METHOD,
                "seed": seed,
                "index": index,
                "stream": stream,
                "normal": {"image": normal.image, "sha256": files.sha256_file(normals.root / normal.image)},
                "texture": None if texture is None else {"image": str(texture), "sha256": files.sha256_file(texture)},
                "settings": asdict(method),
                "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
                "drawn": painted.facts,
                "pixels_sha256": _pixels_sha256(painted),
            }
            records.append(Sample(name, mask_name, DEFECT, METHOD, normal.group, split, METHOD, provenance))
        SampleSet(root, tuple(records)).save()
    return SampleSet(target, tuple(records))


def repaint(normals_root: Path, sample: Sample) -> NDArray[np.uint8]:
    """Paint a generated picture again from its record.

    Args:
        normals_root: the folder of the good pictures it was painted on.

    Returns:
        `(h, w, 3)` uint8 BGR, equal to the generated picture bit for bit.

    Raises:
        DatasetError: not a picture of this method, its normal or texture is missing or changed,
            or the installed libraries paint it differently.
    """
    record = sample.provenance
    if record is None or record.get("method") != METHOD:
        raise DatasetError(f"{sample.image}: source {sample.source!r}; expected a {METHOD} picture with its record")
    normal, texture = _unchanged(normals_root, record["normal"]), None
    if record["texture"] is not None:
        texture = _unchanged(Path(), record["texture"])
    painted = _paint(normal, texture, record["stream"], MemSegSettings(**record["settings"]))
    if _pixels_sha256(painted) != record["pixels_sha256"]:
        made = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        raise DatasetError(
            f"{sample.image}: painted differently by numpy {np.__version__}, opencv {cv2.__version__}; "
            f"expected the libraries of its record; install {made}"
        )
    return painted.image_bgr


def _paint(normal: Path, texture: Path | None, stream: list[int], method: MemSegSettings) -> Painted:
    image = samples.read_image(normal)
    texture_bgr = None if texture is None else samples.read_image(texture)
    try:
        return paint(image, np.random.default_rng([*stream, _PAINT]), method, texture_bgr)
    except DatasetError as error:
        raise DatasetError(f"{normal}: {error}") from error


def _check(normals: SampleSet, counts: Mapping[str, int], good: Mapping[str, SampleSet]) -> None:
    for split, count in counts.items():
        if split not in SPLITS or count < 0:
            raise DatasetError(f"{split}: {count} pictures to paint; expected a split and a count from 0")
    if not sum(counts.values()):
        raise DatasetError("generate.count = 0: no defects to paint; expected 1 or more; set it in [generate]")
    for split, count in counts.items():
        if count and not len(good[split]):
            raise DatasetError(
                f"{normals.root}: no good pictures in split {split}; expected at least one to paint on; "
                f"check the layout and the split"
            )


def _textures(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        what = "holds no pictures" if folder.is_dir() else "not a folder"
        raise DatasetError(
            f"generate.textures = {str(folder)!r}: {what}; expected texture pictures, such as DTD's; "
            f"or leave the key out to paint from the parts themselves"
        )
    return found


def _unchanged(root: Path, record: Mapping[str, Any]) -> Path:
    path = root / str(record["image"])
    if not path.is_file():
        raise DatasetError(f"{path}: not found; expected the picture of the record; restore it")
    if files.sha256_file(path) != record["sha256"]:
        raise DatasetError(f"{path}: changed since the defect was painted on it; restore the picture, or generate anew")
    return path


def _pixels_sha256(painted: Painted) -> str:
    return hashlib.sha256(painted.image_bgr.tobytes() + painted.mask.tobytes()).hexdigest()
