"""Which frames the archive keeps, as which file, and how they come back.

A kept frame is what the inspector was given, so that it can be judged again. Leaves out: when a
picture is deleted (`retention.py`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline.errors import DatasetError
from diagline.verdict import State
from edge_runtime.archive.config import ArchiveConfig

FOLDER = "images"
EXACT = ".png"


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded frame.

    Attributes:
        suffix: ".png" or ".jpg".
    """

    data: bytes
    suffix: str

    @property
    def sha256(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()


def drawn(part_id: str, share: float) -> bool:
    """Whether a part is one of the share: always the same answer for one part id."""
    return int.from_bytes(hashlib.sha256(part_id.encode()).digest()[:8]) < share * 2**64


def not_kept(state: State, part_id: str, frame_bgr: NDArray[np.uint8] | None, config: ArchiveConfig) -> str | None:
    """Why a part's frame is not kept, or None: it is."""
    if frame_bgr is None:
        return "no frame"
    if frame_bgr.dtype != np.uint8 or frame_bgr.size == 0 or frame_bgr.shape[2:] not in ((), (1,), (3,), (4,)):
        return f"the frame is {frame_bgr.dtype} {frame_bgr.shape}, not a picture"
    if state is State.PASS and not drawn(part_id, config.pass_share):
        return "a pass that was not drawn"
    return None


def encode(frame_bgr: NDArray[np.uint8], config: ArchiveConfig) -> Picture:
    """A frame as PNG or JPEG.

    Raises:
        ValueError: OpenCV cannot encode it.
    """
    if config.image_format == "png":
        suffix, options = EXACT, [cv2.IMWRITE_PNG_COMPRESSION, config.png_level]
    else:
        suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality]
    try:
        done, data = cv2.imencode(suffix, frame_bgr, options)
    except cv2.error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if not done:
        raise ValueError(f"cannot encode {frame_bgr.dtype} {frame_bgr.shape} as {suffix}")
    return Picture(data.tobytes(), suffix)


def path_of(seq: int, part_id: str, state: State, taken_utc: str, suffix: str) -> str:
    """Where a row's picture lies: `images/DATE/STATE/SEQ_PART.png`; a part id cannot lead out of it."""
    date = re.sub(r"[^0-9-]", "_", taken_utc[:10]) or "_"
    name = re.sub(r"[^A-Za-z0-9.-]", "_", part_id)[:80]
    return f"{FOLDER}/{date}/{state.value}/{seq:09d}_{name}{suffix}"


def read(path: Path, sha256: str) -> NDArray[np.uint8]:
    """A kept picture, as the inspector was given it.

    Raises:
        DatasetError: it is missing, or not the file that its row names.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; expected the picture that its row names") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DatasetError(f"{path}: changed; its row names a picture of another SHA-256")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DatasetError(f"{path}: not an image that OpenCV reads")
    return image.astype(np.uint8, copy=False)
