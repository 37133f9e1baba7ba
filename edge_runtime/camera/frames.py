"""What a camera is to the loop: something that gives one frame at a time.

A frame that did not come or cannot be read is a frame too, with a cause in place of its
picture, so that the loop owes it a verdict like any other. Leaves out: where frames come from
(`opencv.py`, `pictures.py`, `newest.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

NONE = "none"


class Stamp(NamedTuple):
    """When a frame was taken: wall clock (ISO 8601 with microseconds), monotonic clock, and whose clock.

    Attributes:
        by: a word of `stamps.BY`; NONE: the box's own when the frame arrived.
    """

    utc: str
    taken_ns: int
    by: str = NONE


@dataclass(frozen=True, slots=True)
class Frame:
    """One triggered frame.

    Attributes:
        frame_bgr: `(h, w, 3)` uint8 BGR; None when there is none, and then there is a cause.
        number: place in the source's own order from 0. A frame that was dropped, unreadable or
            missing has a number too, so a gap in the numbers is a dropped frame.
        taken_utc: wall clock at capture, ISO 8601 with microseconds.
        taken_ns: monotonic clock at capture.
        cause: why there is no picture; None otherwise.
        picture: file name, where the source is a folder of pictures.
        stamped: whose clock says when it was taken, a word of `stamps.BY`.
    """

    frame_bgr: NDArray[np.uint8] | None
    number: int
    taken_utc: str
    taken_ns: int
    cause: str | None = None
    picture: str | None = None
    stamped: str = NONE

    def __post_init__(self) -> None:
        if (self.frame_bgr is None) != (self.cause is not None):
            raise ValueError(f"frame {self.number}: a cause goes with a missing picture and with nothing else")

    @property
    def part_id(self) -> str:
        """The picture's file name, or the frame's number; unique within a source."""
        return self.picture or f"{self.number:06d}"


class Camera(Protocol):
    """A source of frames; also a context manager that closes itself.

    Attributes:
        dropped: frames that were taken and thrown away because a newer one came.
    """

    @property
    def dropped(self) -> int: ...

    def read(self) -> Frame | None:
        """The next frame; None when the source has come to its proper end.

        Raises:
            CameraError: the source stopped for good, after a frame whose cause said so.
        """
        ...

    def close(self) -> None:
        """Release the source; no read follows."""
        ...

    def __enter__(self) -> Camera: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that cameras use."""

    def grab(self) -> bool: ...

    def retrieve(self) -> tuple[bool, Any]: ...

    def release(self) -> None: ...


class Closing:
    """The context manager every camera is."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stamp() -> tuple[str, int]:
    """Now: `taken_utc` and `taken_ns`."""
    return datetime.now(UTC).isoformat(timespec="microseconds"), time.monotonic_ns()


def arrived() -> Stamp:
    """The stamp of a frame whose camera gives none."""
    return Stamp(*stamp())


def take(capture: Capture, number: int, stamper: Callable[[], Stamp] = arrived) -> Frame | None:
    """Grab, stamp and decode one frame; None when the capture gives no more.

    Args:
        stamper: gives the stamp of the frame that was grabbed last.
    """
    if not capture.grab():
        return None
    utc, taken_ns, by = stamper()
    done, image = capture.retrieve()
    if not done or image is None:
        return Frame(None, number, utc, taken_ns, "the frame cannot be decoded", stamped=by)
    return Frame(image, number, utc, taken_ns, stamped=by)
