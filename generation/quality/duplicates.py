"""Is it the same defect again? Small signatures, and the accepted pictures' to compare with.

A defect's signature is its change over the good surface within its mask's box; a whole picture's
is what sets it apart from the mean good picture. Two defects of one mask and one prompt on two
normals are not the same: their changes differ by both surfaces' texture. Leaves out: thresholds
(`gate.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from generation.painting import Image
from generation.quality.features import pack, unpack

CELLS = 32
Grid = NDArray[np.float32]
WHOLE = (0, 0, 1000, 1000)
_SAME_PLACE = 0.7  # boxes that overlap less (intersection over union) hold different defects
# Share of the mean change that is kept: defects of one tone on a surface of one tone still compare,
# and elsewhere "both are dark" does not make two defects one.
_TONE = 0.1


@dataclass(frozen=True, slots=True)
class Signature:
    """A picture in 1 KiB.

    Attributes:
        box: left, top, right, bottom of the mask in thousandths of the frame; `WHOLE` without a mask.
        masked: there was a mask.
        cells: `(CELLS * CELLS,)` int8.
    """

    box: tuple[int, int, int, int]
    masked: bool
    cells: NDArray[np.int8]

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON; exact."""
        return {"box": list(self.box), "masked": self.masked, "cells": pack(self.cells)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Signature:
        """The signature that `plain` was made of."""
        left, top, right, bottom = (int(side) for side in plain["box"])
        return cls((left, top, right, bottom), bool(plain["masked"]), unpack(plain["cells"], np.dtype(np.int8)))


def defect_signature(normal_bgr: Image, painted_bgr: Image, mask: Image) -> Signature:
    """The change inside a mask (not empty), over the mask's box; pictures and mask of one size."""
    left, top, width_px, height_px = cv2.boundingRect(mask)
    box = (slice(top, top + height_px), slice(left, left + width_px))
    inside = np.where(mask[box] > 127, np.float32(1), np.float32(0))
    cover = _to_cells(inside)
    cells = _to_cells((_grey(painted_bgr[box]) - _grey(normal_bgr[box])) * inside) / np.maximum(cover, np.float32(1e-6))
    covered = cover > 0
    cells[covered] -= np.float32(1 - _TONE) * cells[covered].mean()
    cells *= covered
    height, width = mask.shape
    right, bottom = left + width_px, top + height_px
    place = (left * 1000 // width, top * 1000 // height, -(-right * 1000 // width), -(-bottom * 1000 // height))
    return Signature(place, True, _quantised(cast(Grid, cells)))


def picture_cells(image_bgr: Image) -> Grid:
    """A whole picture's grey on the grid, `(CELLS, CELLS)` float32."""
    return _to_cells(_grey(image_bgr))


def picture_signature(image_bgr: Image, mean_cells: Grid) -> Signature:
    """What sets a whole picture apart from the mean of the good ones' `picture_cells`."""
    cells = picture_cells(image_bgr) - mean_cells
    cells -= cv2.GaussianBlur(cells, (0, 0), 4.0)  # lighting alone does not make a copy
    return Signature(WHOLE, False, _quantised(cells))


class Duplicates:
    """The accepted pictures' signatures. The order of the calls decides which of two is the duplicate.

    Args:
        masked, whole: correlation from which on a defect, or a whole picture, is a duplicate.
    """

    def __init__(self, masked: float, whole: float) -> None:
        self._thresholds = {True: masked, False: whole}
        self._names: dict[bool, list[str]] = {True: [], False: []}
        self._boxes = {kind: np.zeros((16, 4), np.float32) for kind in (True, False)}
        self._rows = {kind: np.zeros((16, CELLS * CELLS), np.float32) for kind in (True, False)}

    def add(self, name: str, signature: Signature) -> None:
        """Remember an accepted picture."""
        kind, names = signature.masked, self._names[signature.masked]
        if len(names) == len(self._rows[kind]):
            self._boxes[kind] = np.concatenate([self._boxes[kind], np.zeros_like(self._boxes[kind])])
            self._rows[kind] = np.concatenate([self._rows[kind], np.zeros_like(self._rows[kind])])
        self._boxes[kind][len(names)] = signature.box
        self._rows[kind][len(names)] = signature.cells
        names.append(name)

    def find(self, signature: Signature) -> tuple[str, float] | None:
        """The most alike of the accepted pictures and their correlation, from the threshold on; else None."""
        names = self._names[signature.masked]
        if not names:
            return None
        boxes, rows = (held[signature.masked][: len(names)] for held in (self._boxes, self._rows))
        alike = np.where(_overlap(boxes, signature.box) >= _SAME_PLACE, _correlations(rows, signature), -1.0)
        best = int(alike.argmax())
        if alike[best] < self._thresholds[signature.masked]:
            return None
        return names[best], float(alike[best])


def correlation(one: Signature, other: Signature) -> float:
    """Of two signatures' cells, -1 to 1; 0 where one of them is empty."""
    return float(_correlations(one.cells.astype(np.float32)[None], other)[0])


def _correlations(rows: NDArray[np.float32], signature: Signature) -> NDArray[np.float64]:
    """Whole numbers whose sums stay below 2^24: exact in float32, in whatever order they are added."""
    cells = signature.cells.astype(np.float32)
    squares = np.square(rows).sum(axis=1).astype(np.float64) * float(np.square(cells).sum())
    return cast(NDArray[np.float64], (rows @ cells).astype(np.float64) / np.sqrt(np.maximum(squares, 1)))


def _overlap(boxes: NDArray[np.float32], box: tuple[int, int, int, int]) -> NDArray[np.float32]:
    one = np.array(box, np.float32)
    sides = np.minimum(boxes[:, 2:], one[2:]) - np.maximum(boxes[:, :2], one[:2])
    common = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (one[2:] - one[:2]).prod()
    return cast(NDArray[np.float32], common / np.maximum(areas - common, 1))


def _grey(image: Image) -> Grid:
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)


def _to_cells(plane: Grid) -> Grid:
    return cast(Grid, cv2.resize(plane, (CELLS, CELLS), interpolation=cv2.INTER_AREA))


def _quantised(cells: Grid) -> NDArray[np.int8]:
    return np.round(cells.ravel() * np.float32(127 / max(float(np.abs(cells).max()), 1e-6))).astype(np.int8)
