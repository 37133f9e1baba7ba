"""A camera index, a film, a folder or an address, opened by its name alone.

    digits                      camera index     newest frame, drops counted
    rtsp:// http:// https://    stream           newest frame, drops counted
    an existing folder          pictures         every one, in name order
    an existing picture         that picture
    any other existing file     film             every frame, or paced at its own rate

`open_live` opens the live ones of these for whoever watches over them (`watched.py`).
OpenCV's and FFmpeg's own complaints are silenced: what matters of them comes back as an error
or as a frame's cause, never with an address's credentials. Leaves out: opening a source again
after it ended or stalled (`watched.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2

from diagline import samples
from diagline.errors import CameraError
from edge_runtime.camera.frames import Camera, Capture, Closing, Frame, Stamp, arrived, stamp, take
from edge_runtime.camera.newest import NewestFrameCamera, PacedCapture
from edge_runtime.camera.pictures import PictureCamera, open_folder
from edge_runtime.camera.stamps import OwnClock, stamper

# AV_LOG_QUIET. OpenCV reads it once, when the process first opens or writes a film: so it is set on import.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

STREAMS = ("rtsp", "http", "https")
# A stream that gives nothing for this many timeouts has ended; before that each one is a frame without a picture.
TIMEOUTS_TO_END = 3
# A container's frame count may be an estimate; a film this much shorter than it says is damaged.
SHORTFALL = 0.01


def open_camera(source: str, timeout_s: float = 5.0, realtime: bool = False) -> Camera:
    """Open a source by its name.

    Args:
        source: camera index, folder, picture, film or address, see above.
        timeout_s: the longest that opening an address, or waiting for one frame, may take.
        realtime: give a film's frames at the film's own rate and keep the newest, as a camera
            would, instead of every frame as fast as it is asked for.

    Raises:
        CameraError: no such source, or it does not open.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if source.isdecimal():
        capture = _index(source)
        return NewestFrameCamera(
            capture,
            f"camera {source}",
            timeout_s,
            lambda taken: f"the camera ended after {taken} frames",
            stamper=_stamper(capture),
        )
    if "://" in source:
        stream = _stream(source, timeout_s, TIMEOUTS_TO_END * timeout_s)
        return NewestFrameCamera(
            stream, redact(source), timeout_s, lambda taken: f"the stream ended after {taken} frames"
        )
    path = Path(source)
    try:
        folder, file = path.is_dir(), path.is_file()
    except OSError:  # a name no file system takes
        folder = file = False
    if folder:
        return open_folder(path)
    if not file:
        raise CameraError(
            f"{source!r}: no such source; expected a camera index, an existing film or folder, or an "
            f"rtsp:// or http:// address"
        )
    if path.suffix.lower() in samples.IMAGE_SUFFIXES:
        return PictureCamera([path])
    return _open_film(path, timeout_s, realtime)


def redact(source: str) -> str:
    """An address without its credentials: user, password and query never reach a message or a log."""
    scheme, colon, rest = source.partition("://")
    if not colon:
        return source
    head, *tail = re.split(r"[?#]", rest, maxsplit=1)
    if tail and "@" in tail[0]:  # a query with an @, or a password with a ?: which is which cannot be known
        return f"{scheme}://***"
    if "@" in head:
        head = "***@" + head.rpartition("@")[2]
    return f"{scheme}://{head}" + ("?***" if tail else "")


class FilmCamera(Closing):
    """Every frame of a film in order, as fast as it is asked for."""

    dropped = 0

    def __init__(self, capture: cv2.VideoCapture, name: str, ending: Callable[[int], str | None]) -> None:
        self._capture, self._name, self._ending = capture, name, ending
        self._number = 0
        self._told = False

    def read(self) -> Frame | None:
        """The next frame; see `Camera.read`."""
        frame = take(self._capture, self._number)
        if frame is not None:
            self._number += 1
            return frame
        cause = self._ending(self._number)
        if cause is None:
            return None
        if self._told:
            raise CameraError(f"{self._name}: {cause}; expected a whole film; copy it again")
        self._told = True
        return Frame(None, self._number, *stamp(), cause=f"{self._name}: {cause}")

    def close(self) -> None:
        """Release the film."""
        self._capture.release()


class LiveCamera(Closing):
    """Every frame of a live source, one a read; a read waits as long as the driver does."""

    dropped = 0

    def __init__(
        self,
        capture: Capture,
        name: str,
        stop: Callable[[], None] | None = None,
        stamper: Callable[[], Stamp] = arrived,
    ) -> None:
        self._capture, self._name, self._stop, self._stamper = capture, name, stop, stamper
        self._number = 0

    def read(self) -> Frame:
        """The next frame.

        Raises:
            CameraError: no more come.
        """
        frame = take(self._capture, self._number, self._stamper)
        if frame is None:
            raise CameraError(f"{self._name}: ended after {self._number} frames; expected frames without end")
        self._number += 1
        return frame

    def stop(self) -> None:
        """End a wait of the capture's own; called from another thread while a read is under way."""
        if self._stop is not None:
            self._stop()

    def close(self) -> None:
        """Release the source; never while a read is under way, which OpenCV does not survive."""
        self._capture.release()


def open_live(source: str, timeout_s: float = 5.0) -> LiveCamera:
    """Open a camera index or an address, or a film played at its own rate as if it were one.

    Args:
        timeout_s: the longest that opening an address may take; a read of it ends after twice that.

    Raises:
        CameraError: no such source, it does not open, or it is pictures.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if source.isdecimal():
        index = _index(source)
        return LiveCamera(index, f"camera {source}", stamper=_stamper(index))
    if "://" in source:
        return LiveCamera(_stream(source, timeout_s, 2 * timeout_s), redact(source))
    if not Path(source).is_file() or Path(source).suffix.lower() in samples.IMAGE_SUFFIXES:
        raise CameraError(f"{source!r}: no live source; expected a camera index, an address or a film")
    capture, _, rate_hz = _film(Path(source))
    paced = _paced(capture, source, rate_hz)
    return LiveCamera(paced, source, paced.stop)


def _open_film(path: Path, timeout_s: float, realtime: bool) -> Camera:
    capture, frames, rate_hz = _film(path)

    def ending(taken: int) -> str | None:
        whole = taken > 0 and taken >= (1 - SHORTFALL) * frames
        return None if whole else f"the film ended after {taken} of {max(frames, 1):.0f} frames"

    if not realtime:
        return FilmCamera(capture, str(path), ending)
    paced = _paced(capture, str(path), rate_hz)
    return NewestFrameCamera(paced, str(path), timeout_s, ending, paced.stop)


def _film(path: Path) -> tuple[cv2.VideoCapture, float, float]:
    """A film's capture, its number of frames, and its rate in Hz."""
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise CameraError(f"{path}: not a film that OpenCV reads; expected a whole mp4, avi or mkv; name another")
    return capture, capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)


def _paced(capture: cv2.VideoCapture, name: str, rate_hz: float) -> PacedCapture:
    if not 0 < rate_hz < 10_000:
        capture.release()
        raise CameraError(f"{name}: states a frame rate of {rate_hz:g}; expected one to pace it at; leave realtime out")
    return PacedCapture(capture, rate_hz)


def _index(source: str) -> cv2.VideoCapture:
    try:
        capture = cv2.VideoCapture(int(source))
    except (cv2.error, OverflowError):
        capture = cv2.VideoCapture()
    if not capture.isOpened():
        raise CameraError(f"camera {source} does not open; expected a camera there; list them with: ls /dev/video*")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a driver that cannot do this says no, and then its queue is short
    return capture


def _stamper(capture: cv2.VideoCapture) -> Callable[[], Stamp]:
    """The driver's own stamps, where the camera is one of V4L2's; elsewhere the property means something else."""
    if capture.getBackendName() != "V4L2":
        return arrived
    return stamper(OwnClock(), lambda: round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6))


def _stream(source: str, open_s: float, read_s: float) -> cv2.VideoCapture:
    scheme, name = source.partition("://")[0], redact(source)
    if scheme.lower() not in STREAMS:
        raise CameraError(f"{name}: not an address; expected one of rtsp:// http:// https://")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, max(1, round(open_s * 1000))]
    limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, max(1, round(read_s * 1000))]
    try:
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    except cv2.error:
        capture = cv2.VideoCapture()
    if not capture.isOpened():
        raise CameraError(
            f"{name}: does not open within {open_s:g} s; expected a stream there; check address, user and password"
        )
    return capture
