"""A source that does not wait: a thread takes every frame and keeps the newest alone.

So a slow verdict costs frames, which are counted, and never falls behind the line. Leaves out:
taking up a source again that has ended or stalled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from diagline.errors import CameraError
from edge_runtime.camera.frames import Capture, Closing, Frame, Stamp, arrived, stamp, take

CLOSE_WAIT_S = 1.0


class NewestFrameCamera(Closing):
    """Keeps the newest frame of a capture; older ones that nobody read are dropped and counted.

    A source that gives no frame within `timeout_s` yields a frame that says so, again and again.
    One that has ended yields one such frame; the next read raises.
    """

    def __init__(
        self,
        capture: Capture,
        name: str,
        timeout_s: float,
        ending: Callable[[int], str | None],
        stop: Callable[[], None] | None = None,
        stamper: Callable[[], Stamp] = arrived,
    ) -> None:
        """Start taking frames.

        Args:
            capture: the opened source; the camera releases it.
            name: what messages call it, without credentials.
            timeout_s: the longest a read waits.
            ending: given the number of frames taken, why their end is not a proper end, or None.
            stop: ends a wait of the capture's own.
            stamper: gives the stamp of the frame that was grabbed last.
        """
        self._capture, self._name, self._timeout_s = capture, name, timeout_s
        self._ending, self._stop, self._stamper = ending, stop, stamper
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._taken = self._missing = self._dropped = 0
        self._ended = self._told = self._closing = False
        self._cause: str | None = None
        self._thread = threading.Thread(target=self._pump, name="camera", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Frames that were replaced by a newer one before anybody read them."""
        return self._dropped

    def read(self) -> Frame | None:
        """The newest frame nobody has read, waiting for one up to `timeout_s`; see `Camera.read`."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended, self._timeout_s)
            if self._newest is not None:
                frame, self._newest = self._newest, None
                return frame
            if not self._ended:
                return self._absent(f"{self._name}: no frame within {self._timeout_s:g} s")
            if self._cause is None:
                return None
            if self._told:
                raise CameraError(
                    f"{self._name}: {self._cause}; expected frames without end; check the camera and run again"
                )
            self._told = True
            return self._absent(f"{self._name}: {self._cause}")

    def close(self) -> None:
        """Stop the thread; a read that hangs in the driver is left to the thread alone."""
        with self._changed:
            self._closing = True
        if self._stop is not None:
            self._stop()
        self._thread.join(CLOSE_WAIT_S)

    def _absent(self, cause: str) -> Frame:
        number = self._taken + self._missing
        self._missing += 1
        return Frame(None, number, *stamp(), cause=cause)

    def _pump(self) -> None:
        cause: str | None = None
        try:
            while not self._closing:
                frame = take(self._capture, 0, self._stamper)
                if frame is None:
                    cause = self._ending(self._taken)
                    break
                with self._changed:
                    self._dropped += self._newest is not None
                    self._newest = replace(frame, number=self._taken + self._missing)
                    self._taken += 1
                    self._changed.notify_all()
        except Exception as error:  # whatever a driver throws ends the source, and the loop must hear of it
            cause = f"the camera failed ({type(error).__name__})"
        finally:
            with self._changed:
                self._ended, self._cause = True, cause
                self._changed.notify_all()
            self._capture.release()


class PacedCapture:
    """A film's capture that gives its frames at the film's own rate, as a camera would."""

    def __init__(self, capture: Capture, rate_hz: float) -> None:
        self._capture, self._rate_hz = capture, rate_hz
        self._stopped = threading.Event()
        self._start_s: float | None = None
        self._number = 0

    def grab(self) -> bool:
        """Wait until the next frame is due, then take it."""
        now_s = time.monotonic()
        if self._start_s is None:
            self._start_s = now_s
        self._stopped.wait(max(0.0, self._start_s + self._number / self._rate_hz - now_s))
        self._number += 1
        return not self._stopped.is_set() and self._capture.grab()

    def retrieve(self) -> tuple[bool, object]:
        """Decode the frame taken last."""
        return self._capture.retrieve()

    def stop(self) -> None:
        """End the wait; no more frames come."""
        self._stopped.set()

    def release(self) -> None:
        """Release the film."""
        self._capture.release()
