"""Painted parts as a line would deliver them: a folder of pictures, and a film of the conveyor.

What the demo runs on instead of a customer's data. Surfaces come from `materials.py`, defects
from `flaws.py`; all of it is seeded, and a part is the same however many others are painted.
Leaves out: defects to train on; those are generated (`memseg.py`), as on a real line.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline import console, files, samples
from diagline.errors import DatasetError, OutputError
from diagline.samples import DEFECT, GOOD, SPLITS, Sample, SampleSet
from generation.flaws import DEFECTS, paint_defect
from generation.materials import SURFACES, paint_surface, smooth_noise

__all__ = ["DEFECTS", "SURFACES", "paint_defect", "paint_surface", "render_film", "repaint_part", "write_parts"]

Image = NDArray[np.uint8]
CODECS = {".avi": "FFV1", ".mp4": "mp4v"}  # lossless; small, plays anywhere, blurs fine defects
FRAMES_PER_PART = 5
FRAMES_BETWEEN = 2
_PARTS, _FILM = 0, 1  # the first word of a random stream after the seed: never the same part twice


def write_parts(
    target: Path,
    seed: int,
    counts: Mapping[str, tuple[int, int]],
    height_px: int,
    width_px: int,
    surfaces: Sequence[str] = SURFACES,
) -> SampleSet:
    """Paint a folder of parts: `images/`, `masks/` of the defective ones, `samples.jsonl`.

    Surfaces and defects take turns, so that few parts already show all of them.

    Args:
        counts: (good, defective) parts per split.

    Returns:
        The set at `target`: source "painted", kind "good" or the defect's name, one group a part.

    Raises:
        DatasetError: an unknown split, a negative count, or no parts at all.
        OutputError: the folder cannot be written to.
    """
    for split, pair in counts.items():
        if split not in SPLITS or min(pair) < 0:
            raise DatasetError(f"counts {split}: {pair}; expected counts from 0 for the splits {', '.join(SPLITS)}")
    if not any(map(sum, counts.values())):
        raise DatasetError(f"{target}: no parts to paint; expected at least one; give a count")
    plan = [
        (split, label, number)
        for split in sorted(counts, key=SPLITS.index)
        for label in (GOOD, DEFECT)
        for number in range(counts[split][label])
    ]
    records = []
    with files.folder_aside(target) as root:
        for running, (split, label, number) in enumerate(console.track(plan, "Painting parts")):
            surface = surfaces[number % len(surfaces)]
            defect = DEFECTS[(number + number // len(surfaces)) % len(DEFECTS)] if label == DEFECT else None
            provenance = {
                "method": "painted",
                "stream": [seed, _PARTS, SPLITS.index(split), label, number],
                "surface": surface,
                "defect": defect,
                "height_px": height_px,
                "width_px": width_px,
                "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
            }
            image, mask = _paint(provenance)
            name = f"images/{running:05d}.png"
            samples.write_image(root / name, image)
            mask_name = None
            if mask is not None:
                mask_name = f"masks/{running:05d}.png"
                samples.write_image(root / mask_name, mask)
            group = f"{split}-{'defective' if label else 'good'}-{number:05d}"
            records.append(Sample(name, mask_name, label, defect or "good", group, split, "painted", provenance))
        SampleSet(root, tuple(records)).save()
    return SampleSet(target, tuple(records))


def repaint_part(sample: Sample) -> tuple[Image, Image | None]:
    """Paint a part of `write_parts` again from its record: its picture, and its mask if it is defective.

    Raises:
        DatasetError: the record is not of a painted part.
    """
    if sample.provenance is None or sample.provenance.get("method") != "painted":
        raise DatasetError(f"{sample.image}: source {sample.source!r}; expected a painted part; it cannot be repainted")
    return _paint(sample.provenance)


def _paint(provenance: Mapping[str, Any]) -> tuple[Image, Image | None]:
    rng = np.random.default_rng(provenance["stream"])
    image = paint_surface(provenance["surface"], provenance["height_px"], provenance["width_px"], rng)
    return (image, None) if provenance["defect"] is None else paint_defect(image, provenance["defect"], rng)


def render_film(
    target: Path,
    seed: int,
    parts: int,
    height_px: int,
    width_px: int,
    fps: float = 25,
    surfaces: Sequence[str] = SURFACES,
    defective_share: float = 0.4,
) -> list[dict[str, Any]]:
    """Film parts passing a strobed camera: each fills five frames, the belt shows for two in between.

    None of the parts is one of `write_parts`. Writes the film aside, reads it back, puts it in
    place, and the returned list beside it (`film.avi` and `film.json`).

    Args:
        target: .avi (lossless FFV1) or .mp4 (MPEG-4, which blurs fine defects).
        height_px, width_px: even, as the encoders demand.
        defective_share: share of defective parts, in random order.

    Returns:
        Per frame: `frame`, `part`, `label`, `kind`, `surface`, `transition`. A transition frame
        carries the label of the part that comes in, and shows no part whole.

    Raises:
        OutputError: an unknown suffix, odd sides, no parts, a folder that cannot be written to,
            or an OpenCV that cannot write or read back this film.
    """
    codec = CODECS.get(target.suffix)
    if codec is None:
        raise OutputError(f"{target}: film type {target.suffix!r}; expected {' or '.join(CODECS)}")
    if height_px % 2 or width_px % 2 or parts < 1 or not 0 <= defective_share <= 1:
        raise OutputError(
            f"{target}: film of {parts} parts, {width_px}x{height_px} px, {defective_share} defective; "
            f"expected at least one part, even sides and a share from 0 to 1"
        )
    defective = np.zeros(parts, bool)
    defective[: round(parts * defective_share)] = True
    np.random.default_rng([seed, _FILM]).shuffle(defective)
    facts: list[dict[str, Any]] = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".film.", suffix=target.suffix)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}; expected a writable folder") from error
    aside = Path(name)
    try:
        writer = cv2.VideoWriter(str(aside), cv2.VideoWriter.fourcc(*codec), fps, (width_px, height_px))
        if not writer.isOpened():
            raise OutputError(f"{target}: this OpenCV cannot write {codec}; expected opencv-python-headless from PyPI")
        previous = _belt(height_px, width_px, np.random.default_rng([seed, _FILM, parts]))
        for part in console.track(range(parts), "Filming the line", total=parts):
            rng = np.random.default_rng([seed, _FILM, part])
            surface, kind = surfaces[part % len(surfaces)], "good"
            margin_px = max(1, min(height_px, width_px) // 40)
            image = paint_surface(surface, height_px + 2 * margin_px, width_px + 2 * margin_px, rng)
            if defective[part]:
                kind = DEFECTS[int(rng.integers(len(DEFECTS)))]
                image, _ = paint_defect(image, kind, rng)
            for frame, transition in _pass_by(previous, image, margin_px, rng):
                fact = {"frame": len(facts), "part": part, "label": int(defective[part]), "kind": kind}
                facts.append({**fact, "surface": surface, "transition": transition})
                writer.write(frame)
                previous = frame
        writer.release()
        _check_film(aside, target, len(facts), (height_px, width_px))
        files.write_json(target.with_suffix(".json"), facts)
        os.chmod(aside, 0o644)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return facts


def _pass_by(previous: Image, part: Image, margin_px: int, rng: np.random.Generator) -> Iterator[tuple[Image, bool]]:
    """The belt between two parts, then the part with position jitter and fresh sensor noise."""
    height_px, width_px = previous.shape[:2]
    whole = part[margin_px : margin_px + height_px, margin_px : margin_px + width_px]
    gap = _belt(height_px, max(2, width_px // 3), rng)
    belt = np.concatenate([previous, gap, whole], axis=1)
    for step in range(1, FRAMES_BETWEEN + 1):
        left = (belt.shape[1] - width_px) * step // (FRAMES_BETWEEN + 1)
        yield np.ascontiguousarray(belt[:, left : left + width_px]), True
    for _ in range(FRAMES_PER_PART):
        top, left = (int(shift) for shift in rng.integers(0, 2 * margin_px + 1, 2))
        seen = part[top : top + height_px, left : left + width_px]
        noise = rng.standard_normal(seen.shape, np.float32)
        yield cast(Image, np.clip(seen + noise + 0.5, 0, 255).astype(np.uint8)), False


def _belt(height_px: int, width_px: int, rng: np.random.Generator) -> Image:
    """Dark rubber with the ribs of a conveyor belt."""
    shape = (height_px, width_px)
    ribs = 5 * np.sin(np.arange(width_px, dtype=np.float32) * 2 * np.pi / max(4.0, min(shape) / 10))[None, :]
    grey = 38 + ribs + 3 * smooth_noise(shape, 2, 2, rng)
    return cast(Image, np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2))


def _check_film(aside: Path, target: Path, frames: int, size: tuple[int, int]) -> None:
    film = cv2.VideoCapture(str(aside))
    found_size = (int(film.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(film.get(cv2.CAP_PROP_FRAME_WIDTH)))
    found = 0
    while film.grab():
        found += 1
    film.release()
    if (found, found_size) != (frames, size):
        raise OutputError(
            f"{target}: wrote {frames} frames of {size[1]}x{size[0]} px and read back {found} of "
            f"{found_size[1]}x{found_size[0]}; free some space, or use another film type ({', '.join(CODECS)})"
        )
