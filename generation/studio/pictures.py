"""Pictures as the page's HTML holds them: data addresses, thumbnails, outlines.

Leaves out: which pictures are shown (`page.py`).
"""

from __future__ import annotations

import base64
from typing import cast

import cv2
import numpy as np

from diagline.errors import DatasetError
from generation.masks import decode_mask
from generation.painting import Image

THUMB_PX = 144
_LARGE_PX = 1_500_000  # above it JPEG is shown; what is on disk stays whole


def whole(image: Image) -> str:
    """A picture or mask, as it is; large pictures as JPEG of quality 95."""
    if image.shape[0] * image.shape[1] > _LARGE_PX and image.ndim == 3:
        return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])
    return _encode(image, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1])


def thumb(image: Image, focus: tuple[int, int, int, int] | None = None) -> str:
    """A small JPEG, `THUMB_PX` on its shorter side at most.

    Args:
        focus: left, top, width, height in px that must be seen; None: the whole picture.
    """
    if focus is not None:
        left, top, width, height = focus
        image = image[top : top + height, left : left + width]
    scale = THUMB_PX / min(image.shape[:2])
    if scale < 1:
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        image = cast(Image, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 85])


def outline(mask: Image) -> str:
    """The mask's edge in red on nothing, drawn just outside it."""
    edge = cv2.dilate(mask, np.ones((3, 3), np.uint8)) - mask
    shown = np.zeros((*mask.shape, 4), np.uint8)
    shown[edge > 0] = (40, 40, 230, 255)
    return _encode(shown, ".png", [])


def box(mask: Image, margin: float = 0.6) -> tuple[int, int, int, int] | None:
    """Left, top, width, height of a mask with its surroundings; None where that is nearly all of the picture."""
    left, top, width, height = cv2.boundingRect(mask)
    side = round(max(width, height) * (1 + 2 * margin))
    high, wide = mask.shape
    w, h = min(wide, max(side, 48)), min(high, max(side, 48))
    if not width or w * h > 0.6 * wide * high:
        return None
    x = min(max(left + width // 2 - w // 2, 0), wide - w)
    y = min(max(top + height // 2 - h // 2, 0), high - h)
    return x, y, w, h


def mask_of(address: str) -> Image:
    """The mask of a PNG data address, `(h, w)` uint8 0/255.

    Raises:
        DatasetError: not such an address.
    """
    head, _, body = address.partition(",")
    try:
        if head == "data:image/png;base64":
            return decode_mask(body)
    except DatasetError:
        pass
    raise DatasetError("the drawing did not arrive whole; expected a PNG; draw the last stroke again")


def _encode(image: Image, suffix: str, how: list[int]) -> str:
    _, data = cv2.imencode(suffix, image, how)
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
