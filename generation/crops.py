"""The square that an inpainting pipeline sees around a defect, and the way back into the picture.

Pure geometry: aspect is kept, thin masks survive every resize, and outside the mask the picture is
not touched. Leaves out: what is painted (`diag.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of a picture: left and top corner and side, in px.

    It reaches outside only along an axis on which the picture is shorter than the side.
    """

    left: int
    top: int
    side: int


def around(mask: Image, padding_px: int) -> Crop:
    """The square around a mask's box with a margin, moved into the picture as far as it fits.

    It is never larger than the picture's longer side; along the shorter one the picture is then
    centred in it.

    Args:
        mask: `(h, w)` uint8, not empty.
        padding_px: margin on each side of the box.
    """
    height, width = mask.shape
    left, top, box_width, box_height = cv2.boundingRect(mask)
    side = min(max(box_width, box_height) + 2 * padding_px, max(height, width))
    return Crop(_start(left, box_width, side, width), _start(top, box_height, side, height), side)


def cut(image: Image, crop: Crop, size_px: int) -> Image:
    """The crop at the pipeline's size, `(size_px, size_px, 3)`.

    What lies outside the picture is its mirror image: surface goes on as surface, where black bars
    would tell the model of an edge.
    """
    rows, columns = _inside(image.shape[0], crop.top, crop.side), _inside(image.shape[1], crop.left, crop.side)
    top, left = max(-crop.top, 0), max(-crop.left, 0)
    seen = image[rows, columns]
    bottom, right = crop.side - top - seen.shape[0], crop.side - left - seen.shape[1]
    square = cv2.copyMakeBorder(seen, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    return resize(square.astype(np.uint8, copy=False), size_px, size_px)


def cut_mask(mask: Image, crop: Crop, size_px: int, cell_px: int) -> Image:
    """The mask at the pipeline's size, in whole latent cells: a cell that a masked pixel touches is masked.

    A pipeline shrinks its mask to the latents by picking single pixels, so a thin line could fall
    between them. Blocks of one value have the same value wherever they are picked.

    Args:
        size_px: a multiple of `cell_px`.
        cell_px: pixels a latent.

    Returns:
        `(size_px, size_px)` uint8, 0 or 255.
    """
    height, width = mask.shape
    square = np.zeros((crop.side, crop.side), np.float32)
    rows, columns = _inside(height, crop.top, crop.side), _inside(width, crop.left, crop.side)
    top, left = max(-crop.top, 0), max(-crop.left, 0)
    seen = mask[rows, columns] > 0
    square[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
    touches = _touches(crop.side, size_px // cell_px)  # (cells, side)
    cells = (touches @ square @ touches.T > 0).astype(np.uint8) * np.uint8(255)
    return cells.repeat(cell_px, axis=0).repeat(cell_px, axis=1)


def paste(normal: Image, square: Image, mask: Image, crop: Crop, feather_px: float) -> Image:
    """The picture with the painted square's masked pixels in it; all others keep their bits.

    Args:
        normal: `(h, w, 3)` uint8.
        square: `(s, s, 3)` uint8, what the pipeline made of the crop.
        mask: `(h, w)` uint8, within the crop.
        feather_px: as in `feather`.
    """
    back = resize(square, crop.side, crop.side)
    rows, columns = _inside(mask.shape[0], crop.top, crop.side), _inside(mask.shape[1], crop.left, crop.side)
    top, left = max(-crop.top, 0), max(-crop.left, 0)
    here = mask[rows, columns]
    back = back[top : top + here.shape[0], left : left + here.shape[1]]
    weight = feather(mask, feather_px)[rows, columns][:, :, None]
    result = normal.copy()
    old = normal[rows, columns]
    blended = np.rint(old + weight * (back.astype(np.float32) - old)).astype(np.uint8)
    result[rows, columns] = np.where(here[:, :, None] > 0, blended, old)
    return result


def feather(mask: Image, width_px: float) -> NDArray[np.float32]:
    """Weights that rise from a mask's edge inwards: 0 outside, 1 from `width_px` deep.

    Where the mask is thinner than that they rise faster, so that its middle line has weight 1
    everywhere: a scratch one pixel wide is painted whole. "Thin" is local: the depth of the largest
    disc inside the mask that covers a pixel.

    Returns:
        `(h, w)` float32, 0 to 1; a mask that ends at the picture's border is not faded there.
    """
    inside = (mask > 0).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)  # 1 at the edge
    thickness = np.minimum(depth, np.float32(1.0))
    for step in range(2, int(np.ceil(width_px)) + 1):
        deep = depth >= step
        if not deep.any():
            break
        near = cv2.distanceTransform((~deep).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) < step
        thickness[near & (inside > 0)] = step
    thickness = np.maximum(thickness, np.minimum(depth, np.float32(width_px)))
    weight = depth / np.maximum(np.minimum(thickness, np.float32(max(width_px, 1.0))), np.float32(1.0))
    return np.minimum(weight, 1.0).astype(np.float32)


def resize(image: Image, width_px: int, height_px: int) -> Image:
    """A picture at another size: averaged where it shrinks, cubic where it grows."""
    if image.shape[:2] == (height_px, width_px):
        return image
    shrinks = height_px * width_px < image.shape[0] * image.shape[1]
    made = cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return made.astype(np.uint8, copy=False)


def _start(box: int, extent: int, side: int, length: int) -> int:
    if side >= length:
        return (length - side) // 2
    return min(max(box + (extent - side) // 2, 0), length - side)


def _inside(length: int, start: int, side: int) -> slice:
    return slice(max(start, 0), min(start + side, length))


def _touches(pixels: int, cells: int) -> NDArray[np.float32]:
    """`(cells, pixels)`: 1 where cell and pixel overlap when both divide the same length evenly."""
    pixel, cell = np.arange(pixels), np.arange(cells)[:, None]
    overlap = (cell * pixels < (pixel + 1) * cells) & (pixel * cells < (cell + 1) * pixels)
    return overlap.astype(np.float32)
