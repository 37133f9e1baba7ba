"""The gate: what a generated picture must show, and what it must not, before a network learns from it.

Rules: (a) the change inside the mask is visible against the surface's own noise, (b) nothing changed
outside, (c) the picture is not farther from the good ones than they allow, (d) it is not an accepted
one again. Thresholds are measured on good pictures. Leaves out: what is done with the rejected
(`generate.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import cv2
import numpy as np

from diagline.config_generate import QualityConfig
from diagline.errors import DatasetError
from generation.masks import fit_mask
from generation.painting import Image, Job, Painted
from generation.quality import visibility
from generation.quality.duplicates import (
    CELLS,
    Duplicates,
    Grid,
    Signature,
    correlation,
    defect_signature,
    picture_cells,
    picture_signature,
)
from generation.quality.features import Features, Reference, pack, reference, unpack

_REDRAWN, _WINDOW_PX = 160, 256  # how often good surface is redrawn, in pictures of at most this side
_PAIRS = 32
_OUTSIDE_DEVIATIONS, _OUTSIDE_LEVELS = 4.0, 3.0  # a pixel beyond their sum has changed
_RIM_PX = 3  # a painter that blends may reach this far beyond the mask
_LEAST_SHARE = 0.01  # of the outside that may change where a painter resamples it


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds measured on good pictures.

    Attributes:
        redrawn: what each of `visibility.VIEWS` shows of good surface redrawn, at `visible_quantile`; the
            unit of `Scores.visibility`.
        visible: least visibility of a defect.
        outside_share: largest share of the outside that may change, for painters that resample it.
        reference: the good pictures' features.
        duplicate, duplicate_whole: correlation from which on a defect, a whole picture, is a duplicate.
        mean_cells: the mean good picture, `(CELLS, CELLS)` float32.
    """

    redrawn: tuple[float, ...]
    visible: float
    outside_share: float
    reference: Reference
    duplicate: float
    duplicate_whole: float
    mean_cells: Grid

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON; `from_plain` gives the same thresholds, bit for bit."""
        return {
            "redrawn": list(self.redrawn),
            "visible": self.visible,
            "outside_share": self.outside_share,
            "reference": self.reference.plain(),
            "duplicate": self.duplicate,
            "duplicate_whole": self.duplicate_whole,
            "mean_cells": pack(self.mean_cells),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Calibration:
        """The calibration that `plain` was made of."""
        return cls(
            tuple(float(value) for value in plain["redrawn"]),
            float(plain["visible"]),
            float(plain["outside_share"]),
            Reference.from_plain(plain["reference"]),
            float(plain["duplicate"]),
            float(plain["duplicate_whole"]),
            unpack(plain["mean_cells"], np.dtype("<f4")).reshape(CELLS, CELLS),
        )

    def duplicates(self) -> Duplicates:
        """An empty store with these thresholds."""
        return Duplicates(self.duplicate, self.duplicate_whole)

    def signature(self, image_bgr: Image) -> Signature:
        """Of a whole picture, such as a normal or a real defect that nothing may copy."""
        return picture_signature(image_bgr, self.mean_cells)


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured of one picture.

    Attributes:
        visibility: change inside the mask in multiples of what redrawn good surface shows; None without a mask.
        outside_levels: largest change outside the mask, grey levels; None without a mask.
        outside_share: share of the outside that changed by more than the surface's noise; None without a mask.
        distance: to the good pictures, in multiples of their own.
        signature: for the duplicates.
    """

    visibility: float | None
    outside_levels: int | None
    outside_share: float | None
    distance: float
    signature: Signature

    def record(self) -> dict[str, Any]:
        """What a picture's record keeps: all but the signature."""
        return {name: value for name, value in asdict(self).items() if name != "signature"}

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON; exact."""
        return self.record() | {"signature": self.signature.plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Scores:
        """The scores that `plain` was made of."""
        return cls(**(dict(plain) | {"signature": Signature.from_plain(plain["signature"])}))


def calibrate(
    normals: Sequence[Image], features: Features, settings: QualityConfig, seed: int, masks: Sequence[Image] = ()
) -> Calibration:
    """Measure the thresholds on good pictures.

    Args:
        normals: `(h, w, 3)` uint8 BGR each, sizes may differ; the first `settings.calibration_images` count.
        seed: of the surface redrawn; equal arguments give equal thresholds.
        masks: `(h, w)` uint8 0/255, such as the run will use; none: random lines, blobs and noise.

    Raises:
        DatasetError: no picture.
    """
    if not normals:
        raise DatasetError("0 good pictures to calibrate the quality gate on; expected 2 or more; check the split")
    normals = normals[: settings.calibration_images]
    rng = np.random.default_rng([seed, 3])
    shown = np.array([_redrawn_views(normals, turn, masks, rng) for turn in range(_REDRAWN)])
    redrawn = np.maximum(np.quantile(shown, settings.visible_quantile, axis=0), visibility.LEAST)
    together = np.quantile((shown / redrawn).max(axis=1), settings.visible_quantile)
    # Losing all of the finest texture is the most that resampling does.
    blurred = [
        _changed_share(image, cast(Image, cv2.GaussianBlur(image, (0, 0), 1.5)), None) for image in normals[:_PAIRS]
    ]
    mean_cells = np.mean([picture_cells(image) for image in normals], axis=0).astype(np.float32)
    return Calibration(
        redrawn=tuple(float(value) for value in redrawn),
        visible=max(1.0, float(together)),
        outside_share=max(_LEAST_SHARE, 2 * float(np.quantile(blurred, 0.95))),
        reference=reference(normals, features),
        duplicate=max(settings.duplicate, min(0.999, _alike_redrawn(normals, masks, rng))),
        duplicate_whole=max(settings.duplicate, min(0.999, _alike_normals(normals, mean_cells))),
        mean_cells=mean_cells,
    )


def score(job: Job, painted: Painted, calibration: Calibration, features: Features, keeps_outside: bool) -> Scores:
    """Measure one picture.

    Where the painter changed the size, the normal is resized to the painted picture's.

    Args:
        keeps_outside: the painter's; False leaves out a rim around the mask that it may blend over.
    """
    image, mask = painted.image_bgr, painted.mask
    distance = calibration.reference.distance(features(image))
    if mask is None:
        return Scores(None, None, None, distance, calibration.signature(image))
    normal = _resized(job.normal_bgr, image.shape[0], image.shape[1])
    kept = mask
    if not keeps_outside:
        kept = cast(Image, cv2.dilate(mask, np.ones((2 * _RIM_PX + 1, 2 * _RIM_PX + 1), np.uint8)))
    outside = cast(Image, cv2.bitwise_not(kept))
    change = cv2.absdiff(image, normal)
    levels = int(cv2.copyTo(change, outside).max())
    share = _changed_share(normal, image, outside) if levels else 0.0
    if not cv2.countNonZero(mask):
        return Scores(0.0, levels, share, distance, calibration.signature(image))
    views = visibility.change_views(normal, image, mask)
    seen = float((views / np.array(calibration.redrawn)).max())
    return Scores(seen, levels, share, distance, defect_signature(normal, image, mask))


def judge(scores: Scores, calibration: Calibration, settings: QualityConfig, keeps_outside: bool) -> str | None:
    """Why a picture is rejected, in words with figures; None: it passes rules (a) to (c)."""
    if scores.visibility is not None and scores.visibility <= calibration.visible:
        return (
            f"invisible: change {scores.visibility:.2f} of what redrawn good surface shows, "
            f"expected more than {calibration.visible:.2f}"
        )
    if keeps_outside and scores.outside_levels:
        return f"outside: changed by up to {scores.outside_levels} grey levels, expected no change"
    if not keeps_outside and scores.outside_share is not None and scores.outside_share > calibration.outside_share:
        return f"outside: {scores.outside_share:.1%} of it changed, expected at most {calibration.outside_share:.1%}"
    if scores.distance > settings.distance_margin:
        return (
            f"out of distribution: distance {scores.distance:.2f} of the good pictures' own, "
            f"expected at most {settings.distance_margin:g}"
        )
    return None


def _redrawn_views(
    normals: Sequence[Image], turn: int, masks: Sequence[Image], rng: np.random.Generator
) -> np.ndarray[Any, np.dtype[np.float64]]:
    window, mask, donor = _redraw_place(normals, turn, masks, rng)
    return visibility.change_views(window, _redraw(window, mask, donor, rng), mask)


def _redraw_place(
    normals: Sequence[Image], turn: int, masks: Sequence[Image], rng: np.random.Generator
) -> tuple[Image, Image, Image]:
    """A window of a normal, a mask in it, and every other time another normal's window to redraw it from."""
    normal = normals[turn % len(normals)]
    donor = normals[int(rng.integers(len(normals)))] if turn // len(normals) % 2 else normal
    if not masks:
        window = _window(normal, rng.random(2))
        return window, visibility.random_mask(window.shape[0], window.shape[1], rng), _window(donor, rng.random(2))
    drawn = masks[int(rng.integers(len(masks)))]
    mask = fit_mask(drawn, normal.shape[0], normal.shape[1])
    ys, xs = np.nonzero(mask)
    at = int(rng.integers(len(ys))) if len(ys) else 0
    place = (ys[at] / mask.shape[0], xs[at] / mask.shape[1]) if len(ys) else rng.random(2)
    window, held = _window(normal, place), _window(mask, place)
    if not held.any():
        held = visibility.random_mask(window.shape[0], window.shape[1], rng)
    return window, held, _window(donor, rng.random(2))


def _redraw(window: Image, mask: Image, donor: Image, rng: np.random.Generator) -> Image:
    down, right = (float(share) for share in rng.uniform(0.2, 0.8, 2))  # never the donor's own place
    return visibility.redrawn(window, mask, donor, (down, right))


def _alike_redrawn(normals: Sequence[Image], masks: Sequence[Image], rng: np.random.Generator) -> float:
    """The highest correlation of two redrawn surfaces in one mask on two normals."""
    alike = [0.0]
    for turn in range(_PAIRS if len(normals) > 1 else 0):
        window, mask, donor = _redraw_place(normals, turn, masks, rng)
        other = _resized(normals[(turn + 1) % len(normals)], *window.shape[:2])
        pair = [defect_signature(good, _redraw(good, mask, donor, rng), mask) for good in (window, other)]
        alike.append(correlation(*pair))
    return max(alike)


def _alike_normals(normals: Sequence[Image], mean_cells: Grid) -> float:
    """The correlation that all but a few pairs of good pictures stay below (copies among them are few)."""
    signatures = [picture_signature(image, mean_cells) for image in normals]
    pairs = [correlation(one, two) for i, one in enumerate(signatures) for two in signatures[:i]]
    return float(np.quantile(pairs, 0.99)) if pairs else 0.0


def _changed_share(normal: Image, painted: Image, outside: Image | None) -> float:
    """Share of the outside (None: everywhere) that changed by more than the local noise and a few levels."""
    change = cv2.absdiff(painted, normal).max(axis=2)
    noise = cv2.boxFilter(cv2.absdiff(normal, cv2.boxFilter(normal, -1, (15, 15))), cv2.CV_32F, (31, 31)).max(axis=2)
    beyond = change > np.float32(_OUTSIDE_DEVIATIONS * 1.2533) * noise + np.float32(_OUTSIDE_LEVELS)
    if outside is None:
        return float(beyond.mean())
    return float(np.count_nonzero(beyond & (outside > 0)) / max(1, cv2.countNonZero(outside)))


def _window(image: Image, place: Any) -> Image:
    """At most `_WINDOW_PX` a side, around `place` (shares of the sides, y and x)."""
    height_px, width_px = (min(side, _WINDOW_PX) for side in image.shape[:2])
    top, left = (
        min(max(int(share * side) - length // 2, 0), side - length)
        for share, side, length in zip(place, image.shape, (height_px, width_px), strict=False)
    )
    return np.ascontiguousarray(image[top : top + height_px, left : left + width_px])


def _resized(image: Image, height_px: int, width_px: int) -> Image:
    if image.shape[:2] == (height_px, width_px):
        return image
    how = cv2.INTER_AREA if height_px * width_px < image.shape[0] * image.shape[1] else cv2.INTER_LINEAR
    return cast(Image, cv2.resize(image, (width_px, height_px), interpolation=how))
