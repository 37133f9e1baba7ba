"""Where a coarse heat map lies on a picture, and the picture for people that shows it.

Heat is in logits: a cell above the threshold looks more like a defect than a part may. Leaves
out: making heat maps (`training/student.py`, `edge_runtime/engines/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline.preprocess import InputContract, placement

FAINT_BGR, STRONG_BGR = (0, 190, 255), (60, 20, 225)  # amber at the threshold, red at the peak
FAINT_OPACITY, STRONG_OPACITY = 0.25, 0.6
EDGE_BGR = (255, 255, 255)
LEAST_SPAN = 1.0  # logits from amber to red at least, so that a hair above the threshold does not glow red


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the cells of a heat map lie in the network's input.

    Attributes:
        rows, columns: cells.
        stride_px: from one cell's centre to the next, in both directions.
        top_px, left_px: the first cell's centre: the middle pixel of what it sees.
    """

    rows: int
    columns: int
    stride_px: int
    top_px: int
    left_px: int

    @property
    def size(self) -> tuple[int, int]:
        """`(rows, columns)`."""
        return (self.rows, self.columns)


def overlay(
    image_bgr: NDArray[np.uint8], heat: NDArray[np.float32], threshold: float, grid: Grid, contract: InputContract
) -> NDArray[np.uint8]:
    """A copy of a picture with the places coloured whose heat is at or above the threshold.

    Amber is at the threshold, red at the picture's hottest place; a white line goes around. A
    picture without a hot place comes back as it was.

    Args:
        image_bgr: `(h, w, 3)` uint8, or `(h, w)` grey; the frame as it was before `preprocess`.
        heat: `(grid.rows, grid.columns)`, in logits.
        threshold: in logits.
        grid: where the cells lie; a format's `heat.grid`, a spec's `heat_grid`.
        contract: how the picture became the network's input.

    Returns:
        `(h, w, 3)` uint8 BGR.

    Raises:
        ValueError: a heat map of another size than the grid's.
    """
    shown = cv2.cvtColor(image_bgr, cv2.COLOR_GRAY2BGR) if image_bgr.ndim == 2 else image_bgr.copy()
    spread = enlarge(heat, grid, contract, (shown.shape[0], shown.shape[1]))
    hot = spread >= threshold
    if hot.any():
        strength = ((spread - threshold) / max(float(spread.max()) - threshold, LEAST_SPAN)).clip(0, 1)[..., None]
        tint = np.array(FAINT_BGR) * (1 - strength) + np.array(STRONG_BGR) * strength
        opacity = np.where(hot[..., None], FAINT_OPACITY + (STRONG_OPACITY - FAINT_OPACITY) * strength, 0)
        shown = (shown * (1 - opacity) + tint * opacity).round().astype(np.uint8)
        edges, _ = cv2.findContours(hot.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        thickness_px = max(1, round(min(shown.shape[:2]) / 250))
        cv2.drawContours(shown, edges, -1, EDGE_BGR, thickness_px, cv2.LINE_AA)
    return cast(NDArray[np.uint8], shown)


def enlarge(heat: NDArray[Any], grid: Grid, contract: InputContract, size: tuple[int, int]) -> NDArray[np.float32]:
    """A heat map at a picture's own size: linear between the cells' centres, constant beyond the outermost.

    Args:
        heat: `(grid.rows, grid.columns)`.
        size: `(height, width)` of the picture before `preprocess`.

    Returns:
        `size` float32, in the heat's own unit.

    Raises:
        ValueError: a heat map of another size than the grid's.
    """
    if heat.shape != grid.size:
        raise ValueError(f"heat of shape {heat.shape}; expected {grid.size}, the grid's")
    top, left, height, width = placement(*size, contract)
    down = _weights(size[0], top, height, grid.top_px, grid.stride_px, grid.rows)
    across = _weights(size[1], left, width, grid.left_px, grid.stride_px, grid.columns)
    return (down @ heat.astype(np.float32) @ across.T).astype(np.float32)


def _weights(length: int, start: int, inner: int, first_px: int, stride_px: int, cells: int) -> NDArray[np.float32]:
    """Each cell's share in each of a picture's `length` rows or columns: (length, cells)."""
    in_input_px = (np.arange(length) + 0.5) * (inner / length) + start - 0.5  # pixel centres, as cv2.resize has them
    at = (in_input_px - first_px) / stride_px
    return np.stack([np.interp(at, np.arange(cells), one) for one in np.eye(cells)], axis=1).astype(np.float32)
