"""Where a defect goes: Perlin masks, as MemSeg draws them, the part in the picture, real masks made to fit.

Also what every mask goes through, whoever drew it: its checks, and its text form for a record. Leaves
out: what is painted there (`memseg.py`), procedural masks (`shapes.py`), and the expert's (`regions.py`).
"""

from __future__ import annotations

import base64
import binascii
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline.errors import DatasetError

SCALE_EXPONENTS = 6  # scales 2^0 to 2^5
MAX_ROTATION_DEG = 90.0
THRESHOLD = 0.5


def perlin_noise(
    height_px: int, width_px: int, scale_y: int, scale_x: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Perlin noise with `scale_y` by `scale_x` lattice cells over the picture.

    A side that its scale does not divide gets cells of the next whole size; the noise is what
    padding to whole cells and cropping gives. It is zero on the lattice itself.

    Returns:
        `(height_px, width_px)` float32, about -1 to 1.

    Raises:
        ValueError: a side or a scale below 1.

    Source: K. Perlin, *Improving noise* (2002), with unit gradients and the factor sqrt(2).
    """
    if min(height_px, width_px, scale_y, scale_x) < 1:
        raise ValueError(f"noise of {width_px}x{height_px} px, scale {scale_x}x{scale_y}; expected at least 1 each")
    cells_px = (-(-height_px // scale_y), -(-width_px // scale_x))
    return _lattice_noise(height_px, width_px, cells_px, rng)


def perlin_mask(height_px: int, width_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One draw of MemSeg's mask; it may be empty or cover much (the caller draws again).

    The scales 2^k, k = 0 to 5, are drawn independently for the two axes, the noise is rotated by
    -90 to 90 degrees and thresholded at 0.5. The noise is laid out on the smallest canvas whose
    rotation fills the picture: turning the picture itself would leave the ends of a long one
    without defects.

    Returns:
        `(height_px, width_px)` uint8, 0 or 255.

    Raises:
        ValueError: a side below 1.

    Source: MemSeg (arXiv 2205.00908), section 3.1, step 1.
    """
    if min(height_px, width_px) < 1:
        raise ValueError(f"mask of {width_px}x{height_px} px; expected at least 1x1")
    scale_y, scale_x = (int(scale) for scale in 2 ** rng.integers(0, SCALE_EXPONENTS, 2))
    angle_deg = float(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG))
    cosine, sine = abs(np.cos(np.deg2rad(angle_deg))), abs(np.sin(np.deg2rad(angle_deg)))
    canvas_height = int(np.ceil(height_px * cosine + width_px * sine)) + 2
    canvas_width = int(np.ceil(height_px * sine + width_px * cosine)) + 2
    cells_px = (-(-height_px // scale_y), -(-width_px // scale_x))
    noise = _lattice_noise(canvas_height, canvas_width, cells_px, rng)
    centre = ((canvas_width - 1) / 2, (canvas_height - 1) / 2)
    turn = np.asarray(cv2.getRotationMatrix2D(centre, angle_deg, 1.0), np.float64)
    turn[:, 2] += (width_px - canvas_width) / 2, (height_px - canvas_height) / 2
    turned = cv2.warpAffine(noise, turn, (width_px, height_px), flags=cv2.INTER_LINEAR)
    return cast(NDArray[np.uint8], np.where(turned > THRESHOLD, np.uint8(255), np.uint8(0)))


def foreground_mask(image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of a picture in which it stands on a background: Otsu's threshold, largest component.

    Of the two sides of the threshold the background is the one that holds more of the picture's
    border. Holes in the part are filled.

    Args:
        image_bgr: `(h, w, 3)` uint8.

    Returns:
        `(h, w)` uint8, 0 or 255; all 255 when the picture is of one grey.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY), (5, 5), 0)
    if grey.min() == grey.max():
        return np.full(grey.shape, 255, np.uint8)
    _, part = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    border = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    if (border > 0).mean() > 0.5:
        part = cv2.bitwise_not(part)
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled: NDArray[np.uint8] = np.zeros(grey.shape, np.uint8)
    largest = max(contours, key=cv2.contourArea)
    cv2.drawContours(filled, [largest], -1, 255, cv2.FILLED)
    return filled


def fit_mask(mask: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """A mask scaled to another picture's size; however thin, none of it vanishes.

    An axis that shrinks keeps every pixel that defect touches, as `diagline.preprocess` does; one
    that grows repeats pixels, so that a line does not get fatter than the scale makes it.

    Args:
        mask: `(h, w)` uint8, defect where > 0.

    Returns:
        `(height_px, width_px)` uint8, 0 or 255; empty only where the input is.

    Raises:
        ValueError: a side below 1.
    """
    if min(height_px, width_px, *mask.shape) < 1:
        raise ValueError(f"mask of shape {mask.shape} to {width_px}x{height_px} px; expected at least 1x1 each")
    share = np.where(mask > 0, np.float32(1), np.float32(0))  # floats: shrinking rounds no pixel away
    smaller = (min(height_px, mask.shape[0]), min(width_px, mask.shape[1]))
    if smaller != mask.shape:
        share = cv2.resize(share, smaller[::-1], interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    touched = np.where(share > 0, np.uint8(255), np.uint8(0))
    if smaller != (height_px, width_px):
        touched = cv2.resize(touched, (width_px, height_px), interpolation=cv2.INTER_NEAREST).astype(
            np.uint8, copy=False
        )
    return cast(NDArray[np.uint8], touched)


def check_mask(mask: NDArray[np.uint8], image_bgr: NDArray[np.uint8], name: str) -> None:
    """Refuse a mask that no defect can be painted in; `name` says whose it is.

    Args:
        mask: `(h, w)` uint8, defect where > 0.
        image_bgr: `(h, w, 3)` uint8.

    Raises:
        DatasetError: no grey picture, another size than the picture's, empty, or covering everything.
    """
    if mask.ndim != 2:
        raise DatasetError(f"{name}: mask is of shape {mask.shape}; expected (h, w); save it as a grey picture")
    if mask.shape != image_bgr.shape[:2]:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (mask.shape, image_bgr.shape)]
        raise DatasetError(
            f"{name}: mask is {sizes[0]} px, its picture {sizes[1]} px; expected the same size; export the mask again"
        )
    covered_px = cv2.countNonZero(mask)
    if covered_px == 0:
        raise DatasetError(f"{name}: mask is empty; expected at least one pixel; mark where the defect goes")
    if covered_px == mask.size:
        raise DatasetError(
            f"{name}: mask covers the whole {mask.shape[1]}x{mask.shape[0]} px picture; "
            f"expected some good surface around the defect; mark a smaller place"
        )


def encode_mask(mask: NDArray[np.uint8]) -> str:
    """A mask, `(h, w)` uint8 with defect where > 0, as text for a record: base64 of a 1-bit PNG."""
    clean = np.where(mask > 0, np.uint8(255), np.uint8(0))
    how = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9]
    how += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
    done, data = cv2.imencode(".png", clean, how)
    if not done:
        raise ValueError(f"mask of shape {mask.shape}; expected (h, w)")
    return base64.b64encode(data.tobytes()).decode("ascii")


def decode_mask(text: str) -> NDArray[np.uint8]:
    """The mask that `encode_mask` wrote, `(h, w)` uint8 0/255.

    Raises:
        DatasetError: not base64, or not a whole PNG.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DatasetError(f"mask {text[:16]!r}... is not base64 ({error}); restore the record") from error
    whole = data.startswith(b"\x89PNG") and b"IEND" in data[-12:]
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if whole else None
    if image is None:
        raise DatasetError(f"mask {text[:16]!r}... ({len(data)} bytes) is not a whole PNG; restore the record")
    return np.where(image > 127, np.uint8(255), np.uint8(0))


def _lattice_noise(
    height_px: int, width_px: int, cells_px: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Perlin noise with cells of `cells_px` (y, x), as two matrix products.

    A pixel's value is the sum over its cell's corners of fade_y * fade_x * (gradient . offset).
    Each factor depends on one axis alone, so the sum over all lattice points (rows of y-weights,
    columns of x-weights, zero away from the cell) is the picture.
    """
    fade_y, slope_y = _weights(height_px, cells_px[0])  # (h, lattice rows)
    fade_x, slope_x = _weights(width_px, cells_px[1])  # (w, lattice columns)
    angle = rng.uniform(0.0, 2.0 * np.pi, (fade_y.shape[1], fade_x.shape[1])).astype(np.float32)
    noise = (slope_y @ np.sin(angle)) @ fade_x.T + (fade_y @ np.cos(angle)) @ slope_x.T
    return cast(NDArray[np.float32], noise * np.float32(np.sqrt(2.0)))


def _weights(side_px: int, cell_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each pixel of a side the fade of its two lattice points, and fade times offset from them."""
    position = np.arange(side_px, dtype=np.float32) / np.float32(cell_px)
    left = position.astype(np.int64)
    offset = position - left
    fade = offset**3 * (offset * (offset * 6 - 15) + 10)
    rows = np.arange(side_px)
    weight = np.zeros((side_px, int(left[-1]) + 2), np.float32)
    slope = np.zeros_like(weight)
    weight[rows, left], weight[rows, left + 1] = 1 - fade, fade
    slope[rows, left], slope[rows, left + 1] = (1 - fade) * offset, fade * (offset - 1)
    return weight, slope
