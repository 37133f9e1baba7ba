"""A folder of pictures as a camera: every picture once, in name order.

Leaves out: folders in the folder, and waiting for pictures that are still to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diagline import samples
from diagline.errors import CameraError, DatasetError
from edge_runtime.camera.frames import Closing, Frame, stamp


class PictureCamera(Closing):
    """Reads picture files in the order given; one that is not a whole picture is a frame with a cause."""

    dropped = 0

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._number = 0

    def read(self) -> Frame | None:
        """The next picture; None after the last."""
        if self._number == len(self._paths):
            return None
        path, number = self._paths[self._number], self._number
        self._number += 1
        utc, taken_ns = stamp()
        try:
            return Frame(samples.read_image(path), number, utc, taken_ns, picture=path.name)
        except DatasetError as error:
            return Frame(None, number, utc, taken_ns, cause=str(error), picture=path.name)

    def close(self) -> None:
        """Nothing is held between reads."""


def open_folder(folder: Path) -> PictureCamera:
    """The pictures of a folder in name order.

    Raises:
        CameraError: the folder cannot be read or holds no picture.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in samples.IMAGE_SUFFIXES)
    except OSError as error:
        raise CameraError(f"{folder}: {error.strerror}; expected a folder of pictures") from error
    if not paths:
        kinds = " ".join(sorted(samples.IMAGE_SUFFIXES))
        raise CameraError(f"{folder}: holds no pictures; expected files ending in {kinds}; name another folder")
    return PictureCamera(paths)
