"""Contact sheets: labelled rows of pictures side by side, in one picture.

What the report and `--sheet` show people. Leaves out: choosing the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline.samples import DEFECT, GOOD, SampleSet

Image = NDArray[np.uint8]
_PAPER, _INK, _GAP_PX = 250, (40, 40, 40), 6
_FONT, _FONT_SCALE, _LABEL_PX = cv2.FONT_HERSHEY_SIMPLEX, 0.5, 22


def sheet(rows: Sequence[tuple[str, Sequence[Image]]], tile_height_px: int = 132, max_width_px: int = 2000) -> Image:
    """Lay rows of pictures under their labels; a row that is too wide is continued below.

    Args:
        rows: label and pictures, each `(h, w, 3)` BGR or `(h, w)` (a mask), uint8, any size; a row may be empty.
        tile_height_px: every picture is scaled to this height, its aspect kept.

    Returns:
        `(height, width, 3)` uint8 BGR.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a sheet of 0 rows; expected at least one")
    strips = []
    for label, images in rows:
        strips.append(_label(label))
        lines: list[list[Image]] = [[]]
        for tile in (_tile(image, tile_height_px, max_width_px - _GAP_PX) for image in images):
            if lines[-1] and sum(part.shape[1] for part in lines[-1]) + tile.shape[1] > max_width_px - _GAP_PX:
                lines.append([])
            lines[-1].append(tile)
        strips += [np.concatenate(line, axis=1) for line in lines if line]
    width_px = max(strip.shape[1] for strip in strips) + _GAP_PX
    padded = [_pad(strip, right=width_px - strip.shape[1] - _GAP_PX, left=_GAP_PX) for strip in strips]
    return _pad(np.concatenate(padded), below=_GAP_PX)


def compare(real: SampleSet, painted: Mapping[str, SampleSet], shown: int = 12) -> Image:
    """Normals, real defects and each method's pictures, side by side, masks below those that have them.

    Args:
        real: the line's own pictures.
        painted: a generated set per method; a method without pictures is left out.
        shown: pictures a row, spread evenly over each set.

    Source: DIAG, figure 2.
    """
    rows: list[tuple[str, list[Image]]] = []
    sets = {"normal": real.labelled(GOOD), "real defects": real.labelled(DEFECT), **painted}
    for name, one in sets.items():
        if not len(one):
            continue
        step = max(1, len(one) // shown)
        chosen = one.samples[::step][:shown]
        rows.append((f"{name}: {len(chosen)} of {len(one)}", [one.read_image(sample) for sample in chosen]))
        if any(sample.mask for sample in chosen) and name != "normal":
            masks = [one.read_mask(sample) for sample in chosen if sample.mask is not None]
            rows.append((f"{name}: masks", masks))
    return sheet(rows)


def outline(image_bgr: Image, mask: Image, bgr: tuple[int, int, int] = (40, 40, 230)) -> Image:
    """A copy of a picture with its mask's edge drawn just outside the defect.

    Args:
        image_bgr: `(h, w, 3)` uint8.
        mask: `(h, w)` uint8, defect where > 127.
    """
    defect = (mask > 127).astype(np.uint8)
    edge = cv2.dilate(defect, np.ones((3, 3), np.uint8)) - defect
    drawn = image_bgr.copy()
    drawn[edge > 0] = bgr
    return drawn


def _label(text: str) -> Image:
    (width_px, _), _ = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    strip: Image = np.full((_LABEL_PX, width_px + _GAP_PX, 3), _PAPER, np.uint8)
    cv2.putText(strip, text, (0, _LABEL_PX - 6), _FONT, _FONT_SCALE, _INK, 1, cv2.LINE_AA)
    return strip


def _tile(image: Image, height_px: int, max_width_px: int) -> Image:
    colour = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    scale = min(height_px / image.shape[0], (max_width_px - _GAP_PX) / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    scaled = cv2.resize(colour, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return _pad(cast(Image, scaled), right=_GAP_PX, below=height_px - size[1] + _GAP_PX)


def _pad(image: Image, left: int = 0, right: int = 0, below: int = 0) -> Image:
    paper = (_PAPER, _PAPER, _PAPER)
    return cast(Image, cv2.copyMakeBorder(image, 0, below, left, right, cv2.BORDER_CONSTANT, value=paper))
