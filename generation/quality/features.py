"""What a picture looks like as a vector, and how far it is from the good ones.

`pyramid_features` needs no weights: colour and texture statistics over the levels of a pyramid.
Another callable (a network's) may take its place. Leaves out: networks, thresholds (`gate.py`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from generation.painting import Image

Vector = NDArray[np.float32]
Features = Callable[[Image], Vector]

MAX_REFERENCES = 256  # good pictures kept to measure distances to
_FEW = 16  # up to so many pictures give all four quarters each, more give one
_NEIGHBOURS = 3
_SOFT = 3.0
_LEVELS = 4
_GRID = 8  # a level's texture is compared over this many places a side
# Luma, and two colour differences, of BGR.
_PLANES = np.array([[0.114, 0.587, 0.299], [0.0, -1.0, 1.0], [1.0, -0.5, -0.5]], np.float32)


def pyramid_features(image_bgr: Image) -> Vector:
    """Statistics of colour and of a Laplacian pyramid with oriented gradients.

    Logarithms of grey levels throughout, so that surfaces of any contrast weigh alike. Per plane (luma,
    two colour differences): mean and quantiles. Per level: the band's contrast, heavy tails, skew, its
    spread over the picture, and how gradients lie.

    Args:
        image_bgr: `(h, w, 3)` uint8, any size.

    Returns:
        `(d,)` float32, d the same for every size.
    """
    planes = cv2.split(cv2.transform(image_bgr.astype(np.float32), _PLANES))
    found: list[float] = []
    for number, plane in enumerate(planes):
        small = cv2.resize(plane, (64, 64), interpolation=cv2.INTER_AREA)
        found += [float(value) / 16 for value in np.quantile(small, (0.05, 0.25, 0.5, 0.75, 0.95))]
        level = cast(NDArray[np.float32], plane)
        for _ in range(_LEVELS if number == 0 else 1):
            soft = cv2.GaussianBlur(level, (5, 5), 1.1)
            band = _band(cast(NDArray[np.float32], level - soft))
            found += band if number == 0 else band[:1]
            if number == 0:
                found += _orientation(level)
            level = cast(NDArray[np.float32], soft[::2, ::2].copy())
    return np.array(found, np.float32)


def _band(band: NDArray[np.float32]) -> list[float]:
    size = np.abs(band)
    mean, square = float(size.mean()), float(cv2.norm(band, cv2.NORM_L2SQR)) / band.size
    cube = float((band * size).mean())
    places = cv2.resize(size, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    low, middle, high, top = (float(_log(value)) for value in np.quantile(places, (0.1, 0.5, 0.9, 1.0)))
    tails = float(_log(square**0.5) - _log(mean))
    return [float(_log(mean)), tails, cube / (square + 0.1), middle - low, high - middle, top - middle]


def _orientation(level: NDArray[np.float32]) -> list[float]:
    across, down = cv2.Scharr(level, cv2.CV_32F, 1, 0, scale=1 / 16), cv2.Scharr(level, cv2.CV_32F, 0, 1, scale=1 / 16)
    xx, yy = (float(cv2.norm(plane, cv2.NORM_L2SQR)) / level.size for plane in (across, down))
    xy = float((across * down).mean())
    return [(xx - yy) / (xx + yy + 0.1), 2 * xy / (xx + yy + 0.1), float(_log((xx + yy) ** 0.5))]


def _log(value: float) -> float:
    return float(np.log2(value + 0.25))  # a quarter of a grey level is no texture


@dataclass(frozen=True, slots=True)
class Reference:
    """Good pictures' features, standardised, to measure distances to.

    Attributes:
        centre, scale: `(d,)` float32.
        rows: `(n, d)` float32, standardised, n from 1.
        own: the good pictures' own distance, the unit of `distance`.
    """

    centre: Vector
    scale: Vector
    rows: NDArray[np.float32]
    own: float

    def distance(self, vector: Vector) -> float:
        """Mean distance to the nearest few good pictures, in multiples of their own.

        Raises:
            ValueError: a vector of another length or with NaN: not the features it was made with.
        """
        if vector.shape != self.centre.shape or not np.isfinite(vector).all():
            raise ValueError(f"features {vector.shape}; expected {self.centre.shape}, finite, as in the calibration")
        return _nearest((vector - self.centre) / self.scale, self.rows) / self.own

    def plain(self) -> dict[str, Any]:
        """Plain data for JSON; exact."""
        parts = {"centre": self.centre, "scale": self.scale, "rows": self.rows}
        return {"own": self.own, "shape": list(self.rows.shape)} | {name: pack(part) for name, part in parts.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Reference:
        """The reference that `plain` was made of."""
        centre, scale, rows = (unpack(plain[name], np.dtype("<f4")) for name in ("centre", "scale", "rows"))
        return cls(centre, scale, rows.reshape(plain["shape"]), float(plain["own"]))


def reference(normals: Sequence[Image], features: Features) -> Reference:
    """Measure good pictures, and quarters of them; the first `MAX_REFERENCES` pictures count.

    How much good surface varies is seen across the pictures and across places in them; few or very
    even pictures would alone call the least defect far away. Their own distance is that which 95 %
    of the quarters keep to the other pictures. A feature that hardly varies (colour on a grey line)
    is held to vary at least a fifth as much as most do, or 2 % of the features' size: a division by
    next to nothing would decide every distance alone.

    Args:
        normals: `(h, w, 3)` uint8 BGR each, any size, at least one.

    Raises:
        ValueError: no pictures, or features of several lengths or with NaN.
    """
    chosen = normals[:MAX_REFERENCES]
    corners = range(4) if len(chosen) <= _FEW else range(1)
    quarters = [(i, _quarter(image, (i + corner) % 4)) for i, image in enumerate(chosen) for corner in corners]
    vectors = [features(image) for image in (*chosen, *(quarter for _, quarter in quarters))]
    shapes = sorted({vector.shape for vector in vectors})
    if len(shapes) != 1 or not all(np.isfinite(vector).all() for vector in vectors):
        raise ValueError(f"features of shapes {shapes}; expected finite vectors of one length")
    all_rows = np.stack(vectors).astype(np.float64)
    centre, spread = all_rows.mean(axis=0), all_rows.std(axis=0)
    least = max(0.2 * float(np.median(spread)), 0.02 * float(np.abs(all_rows).mean()), 1e-6)
    scale = np.maximum(spread, least)
    standard = ((all_rows - centre) / scale).astype(np.float32)
    rows, parts = standard[: len(chosen)], standard[len(chosen) :]
    others = [np.delete(rows, i, axis=0) if len(rows) > 1 else rows for i, _ in quarters]
    own = np.quantile([_nearest(part, other) for part, other in zip(parts, others, strict=True)], 0.95)
    return Reference(centre.astype(np.float32), scale.astype(np.float32), rows, max(float(own), 0.05))


def _nearest(row: Vector, others: NDArray[np.float32]) -> float:
    """Mean over the nearest of the mean difference of the features.

    Beyond `_SOFT` deviations a difference counts by its logarithm: a defect throws a few features far off,
    another material most of them a little.
    """
    far = np.abs(others.astype(np.float64) - row)
    far = np.where(far < _SOFT, far, _SOFT * (1 + np.log(np.maximum(far, _SOFT) / _SOFT)))
    return float(np.sort(far.mean(axis=1))[:_NEIGHBOURS].mean())


def _quarter(image: Image, corner: int) -> Image:
    half_h, half_w = -(-image.shape[0] // 2), -(-image.shape[1] // 2)
    down, right = divmod(corner, 2)
    top, left = down * (image.shape[0] - half_h), right * (image.shape[1] - half_w)
    return np.ascontiguousarray(image[top : top + half_h, left : left + half_w])


def pack(values: NDArray[Any]) -> str:
    """An array's little-endian bytes, as base64."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def unpack(text: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The flat array that `pack` made text of."""
    return np.frombuffer(base64.b64decode(text), dtype).copy()
