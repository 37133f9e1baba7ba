"""What a generated picture's record holds, and the picture painted again from it.

Leaves out: plans and sets (`generate.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagline import files, samples
from diagline.errors import DatasetError
from diagline.samples import Sample
from generation import painters
from generation.masks import decode_mask, encode_mask
from generation.painting import Job, Painted, Painter


def repaint(normals_root: Path, sample: Sample, painter: Painter | None = None) -> Painted:
    """Paint a generated picture again from its record.

    Args:
        normals_root: the folder of the good pictures it was painted on.
        painter: the method of its record, when it is at hand; else it is built from the record.

    Returns:
        Equal to the generated picture and mask bit for bit.

    Raises:
        DatasetError: no record, its normal or texture is missing or changed, or the installed
            libraries or this device paint it differently.
        GenerationError: its model is missing.
    """
    record = sample.provenance
    if record is None or "pixels_sha256" not in record:
        raise DatasetError(f"{sample.image}: source {sample.source!r}; expected a generated picture with its record")
    normal_bgr = samples.read_image(_unchanged(normals_root, record["normal"]))
    texture = record.get("texture")
    job = Job(
        normal_bgr,
        None if record.get("mask_png") is None else decode_mask(record["mask_png"]),
        tuple(record["stream"]),
        record.get("prompt", ""),
        record.get("negative_prompt", ""),
        None if texture is None else samples.read_image(_unchanged(Path(), texture)),
        None if record.get("region_png") is None else decode_mask(record["region_png"]),
    )
    batch = record["drawn"].get("batch", {"size": 1, "place": 0})
    painted: Painted = (painter or painters.rebuild(record)).paint([job] * batch["size"])[batch["place"]]
    if pixels_sha256(painted) != record["pixels_sha256"]:
        made = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        raise DatasetError(
            f"{sample.image}: painted differently here; expected the libraries and the device of its record: "
            f"{made}, {record.get('device', 'cpu')}"
        )
    return painted


def provenance(
    painter: Painter,
    job: Job,
    painted: Painted,
    normal: Mapping[str, Any],
    texture: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything needed to paint a picture again.

    Args:
        normal: `image`, its path below the normals' root, and its `sha256`.
        texture: likewise, of `job.texture_bgr`'s file, its path as it was given.
    """
    return {
        **painter.facts(),
        "seed": job.stream[0],
        "stream": list(job.stream),
        "normal": dict(normal),
        "texture": None if texture is None else dict(texture),
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "mask_png": None if job.mask is None else encode_mask(job.mask),
        "region_png": None if job.region is None else encode_mask(job.region),
        "drawn": painted.facts,
        "pixels_sha256": pixels_sha256(painted),
    }


def pixels_sha256(painted: Painted) -> str:
    """SHA-256 over the pixels of picture and mask."""
    mask = b"" if painted.mask is None else painted.mask.tobytes()
    return hashlib.sha256(painted.image_bgr.tobytes() + mask).hexdigest()


def _unchanged(root: Path, record: Mapping[str, Any]) -> Path:
    path = root / str(record["image"])
    if not path.is_file():
        raise DatasetError(f"{path}: not found; expected the picture of the record; restore it")
    if files.sha256_file(path) != record["sha256"]:
        raise DatasetError(f"{path}: changed since the defect was painted on it; restore the picture, or generate anew")
    return path
