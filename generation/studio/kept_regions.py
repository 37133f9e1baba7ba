"""What was drawn on the page as regions for `diagline generate`: a place where defects may lie, or a defect.

Leaves out: reading and scaling them (`generation/regions.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2

from diagline.errors import DatasetError
from generation.masks import fit_mask
from generation.painting import Image
from generation.regions import Region, Regions, Stroke, read, write


def keep(path: Path, mask: Image, name: str, role: str) -> Regions:
    """Add a drawing to a region file, or begin one; every connected piece is a region of its own.

    Args:
        path: of the file, in its picture's size; a drawing of another size is scaled to it.
        mask: `(h, w)` uint8 0/255.
        name: what the expert calls it.
        role: "allow" or "mask".

    Raises:
        DatasetError: nothing is drawn.
        ConfigError: the file cannot be read.
    """
    if not mask.any():
        raise DatasetError("nothing is marked; paint the place first, with brush or polygon")
    before = read(path) if path.is_file() else None
    height_px, width_px = mask.shape if before is None else (before.height_px, before.width_px)
    pieces = _pieces(fit_mask(mask, height_px, width_px), name, role)
    kept = Regions(width_px, height_px, (*(() if before is None else before.regions), *pieces))
    write(path, kept)
    return kept


def _pieces(mask: Image, name: str, role: str) -> list[Region]:
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found, holes = [], []
    for contour, (_, _, _, parent) in zip(contours, tree[0], strict=True):
        points = tuple((float(x), float(y)) for x, y in contour[:, 0])
        if parent >= 0:
            holes.append(_hole(mask, contour, name, role))
        elif len(points) < 3:  # a dot or a line one pixel wide
            found.append(Region(name, role, strokes=(Stroke(points, 1.0),)))
        else:
            found.append(Region(name, role, polygon=points))
    return found + [hole for hole in holes if hole is not None]


def _hole(mask: Image, contour: Any, name: str, role: str) -> Region | None:
    """The inside of a hole; its contour lies on the mask's own pixels, one further out."""
    inside = mask * 0
    cv2.drawContours(inside, [contour], -1, 255, cv2.FILLED)
    inside[mask > 0] = 0
    edges, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    points = tuple((float(x), float(y)) for x, y in max(edges, key=cv2.contourArea)[:, 0]) if edges else ()
    if not points:
        return None
    if len(points) < 3:
        return Region(name, role, strokes=(Stroke(points, 1.0),), erase=True)
    return Region(name, role, polygon=points, erase=True)
