"""The one way from a camera frame to a network's input.

Training, export, golden vectors and the edge box all call `preprocess`, so what was verified
is what runs. It stands in the shared package because every room needs it and `training` may
not import `edge_runtime`. Leaves out: scaling to floats (each graph holds its own, so the
network's input is always uint8), and finding the part in the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline.errors import ConfigError, DatasetError

RESIZE_RULES = ("stretch", "letterbox", "none")
"""How a frame comes to the input's size; "none": it has that size, or is refused."""
LETTERBOX_GREY = 114


@dataclass(frozen=True, slots=True)
class InputContract:
    """What a network is fed: `(height_px, width_px, channels)` uint8, RGB or grey."""

    width_px: int
    height_px: int
    channels: int = 3
    resize: str = "stretch"

    def __post_init__(self) -> None:
        for name in ("width_px", "height_px"):
            value = getattr(self, name)
            if not 16 <= value <= 4096:
                raise ConfigError(f"input.{name} = {value}; expected 16 to 4096; change it in the config")
        if self.channels not in (1, 3):
            raise ConfigError(f"input.channels = {self.channels}; expected 1 (grey) or 3 (RGB)")
        if self.resize not in RESIZE_RULES:
            raise ConfigError(f"input.resize = {self.resize!r}; expected one of {', '.join(RESIZE_RULES)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(height_px, width_px, channels)`."""
        return (self.height_px, self.width_px, self.channels)


def preprocess(frame_bgr: NDArray[np.uint8], contract: InputContract, name: str = "frame") -> NDArray[np.uint8]:
    """Turn a frame into the network's input.

    Args:
        frame_bgr: `(h, w, 3)` uint8 BGR or `(h, w)` uint8 grey, any size.
        contract: the size, channels and resize rule of the bundle.
        name: what an error calls the picture, such as its path.

    Returns:
        `(height_px, width_px, channels)` uint8, RGB when there are 3 channels; contiguous.

    Raises:
        DatasetError: the resize rule is "none" and the frame has another size than the input.
        ValueError: not uint8, or not an image of one of those shapes.
    """
    if frame_bgr.dtype != np.uint8 or frame_bgr.size == 0:
        raise ValueError(f"frame is {frame_bgr.dtype} {frame_bgr.shape}; expected non-empty uint8")
    if frame_bgr.ndim == 3 and frame_bgr.shape[2] == 1:
        frame_bgr = frame_bgr[:, :, 0]
    if frame_bgr.ndim == 2:
        image: NDArray[Any] = frame_bgr if contract.channels == 1 else cv2.cvtColor(frame_bgr, cv2.COLOR_GRAY2RGB)
    elif frame_bgr.ndim == 3 and frame_bgr.shape[2] == 3:
        code = cv2.COLOR_BGR2GRAY if contract.channels == 1 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(frame_bgr, code)
    else:
        raise ValueError(f"frame has shape {frame_bgr.shape}; expected (h, w), (h, w, 1) or (h, w, 3)")
    if image.shape[:2] != (contract.height_px, contract.width_px):
        _refuse_unresized(image, contract, name)
        image = _stretch(image, contract) if contract.resize == "stretch" else _letterbox(image, contract)
    return np.ascontiguousarray(image).reshape(contract.shape)


def preprocess_mask(mask: NDArray[np.uint8], contract: InputContract) -> NDArray[np.uint8]:
    """Resize a mask as its image is resized; a defect of one pixel survives shrinking.

    Args:
        mask: `(h, w)` uint8, defect where > 0.

    Returns:
        `(height_px, width_px)` uint8, 0 or 255.

    Raises:
        DatasetError: as `preprocess`.
    """
    grey = InputContract(contract.width_px, contract.height_px, 1, contract.resize)
    image = np.where(mask > 0, np.float32(1), np.float32(0))  # floats: shrinking rounds no pixel away
    if image.shape != (contract.height_px, contract.width_px):
        _refuse_unresized(image, grey, "mask")
        image = _stretch(image, grey) if grey.resize == "stretch" else _letterbox(image, grey, fill=0)
    return cast(NDArray[np.uint8], (image > 0).astype(np.uint8) * np.uint8(255))


def placement(frame_height_px: int, frame_width_px: int, contract: InputContract) -> tuple[int, int, int, int]:
    """Where a frame of a size comes to lie in the network's input: top, left, height, width in pixels."""
    if contract.resize != "letterbox":
        return 0, 0, contract.height_px, contract.width_px
    scale = min(contract.width_px / frame_width_px, contract.height_px / frame_height_px)
    height = min(contract.height_px, max(1, round(frame_height_px * scale)))
    width = min(contract.width_px, max(1, round(frame_width_px * scale)))
    return (contract.height_px - height) // 2, (contract.width_px - width) // 2, height, width


def _refuse_unresized(image: NDArray[Any], contract: InputContract, name: str) -> None:
    if contract.resize == "none":
        raise DatasetError(
            f"{name}: {image.shape[1]}x{image.shape[0]} px; expected {contract.width_px}x{contract.height_px}, as "
            f'input.resize = "none"; set input.resize = "stretch" or "letterbox"'
        )


def _resize(image: NDArray[Any], height_px: int, width_px: int) -> NDArray[Any]:
    # Each axis its own way: given one to shrink and one to enlarge, INTER_AREA samples and drops thin defects.
    smaller = (min(height_px, image.shape[0]), min(width_px, image.shape[1]))
    if smaller != image.shape[:2]:
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_LINEAR)


def _stretch(image: NDArray[Any], contract: InputContract) -> NDArray[Any]:
    return _resize(image, contract.height_px, contract.width_px)


def _letterbox(image: NDArray[Any], contract: InputContract, fill: int = LETTERBOX_GREY) -> NDArray[Any]:
    top, left, height, width = placement(image.shape[0], image.shape[1], contract)
    inner = _resize(image, height, width)
    canvas = np.full((contract.height_px, contract.width_px, *image.shape[2:]), fill, image.dtype)
    canvas[top : top + height, left : left + width] = inner
    return canvas
