"""When a frame was taken: by the camera's own clock where it has one that can be believed, else when it arrived.

A process that other work keeps from the driver for longer than the time between two parts takes frames late; their
arrival then names the wrong part. A camera's own stamp does not move with that.

    V4L2     the driver stamps each buffer by CLOCK_MONOTONIC, the box's own clock; OpenCV gives it as CAP_PROP_POS_MSEC
             (modules/videoio/src/cap_v4l.cpp: 1000 * tv_sec + tv_usec / 1000 of the buffer taken last)
    GenICam  the camera stamps each frame by a clock of its own, which Aravis gives in nanoseconds; the stamp that
             Aravis adds (arv_buffer_get_system_timestamp) is wall time of a thread that is starved with the process

Leaves out: films, folders and network streams, which have none of these.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from edge_runtime.camera.backlog import LONG_AGO_NS
from edge_runtime.camera.frames import NONE, Stamp, stamp

CAMERA, FUTURE, BACKWARDS, FAR = "camera", "future", "backwards", "far"
BY = (CAMERA, NONE, FUTURE, BACKWARDS, FAR)
"""What a frame is stamped by: the camera's clock, or else its arrival: the camera gave no stamp, one later than the
arrival, one not after the last, or one more than `FAR_NS` before the arrival."""
DOUBTED = (FUTURE, BACKWARDS, FAR)
WORDS = {
    CAMERA: "stamped by the camera",
    NONE: "stamped when they arrive",
    FUTURE: "the camera's stamps lie in the future, so frames are stamped when they arrive",
    BACKWARDS: "the camera's stamps run back or stand still, so frames are stamped when they arrive",
    FAR: "the camera's stamps are of another clock, so frames are stamped when they arrive",
}
"""Each of these, of frames."""
FAR_NS = 10 * 10**9  # systemd ends a box that was starved for so long
DRIFT = 500e-6  # seconds a second that two clocks may part; quartz keeps to a fifth of it


class OwnClock:
    """A camera's stamps by the box's own monotonic clock."""

    def __init__(self) -> None:
        self._last_ns = LONG_AGO_NS

    def taken(self, own_ns: int, arrived_ns: int) -> tuple[int, str]:
        """When a frame was taken, and by which clock: a word of `BY`.

        Args:
            own_ns: the camera's stamp; 0 or less: none.
            arrived_ns: monotonic clock when the frame was handed over.
        """
        by = self._believed(own_ns, arrived_ns)
        self._last_ns = own_ns if by == CAMERA else arrived_ns
        return self._last_ns, by

    def _believed(self, own_ns: int, arrived_ns: int) -> str:
        if own_ns <= 0:
            return NONE
        if own_ns > arrived_ns:
            return FUTURE
        if arrived_ns - own_ns > FAR_NS:
            return FAR
        return CAMERA if own_ns > self._last_ns else BACKWARDS


class OtherClock(OwnClock):
    """A camera's stamps by a clock that starts anywhere and drifts.

    How far it is from ours is the least that a frame was seen to need, so that a frame that came late is known as one;
    a frame's way through cable and driver when nothing holds it up therefore counts as before its stamp.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: tuple[int, int] | None = None  # the last stamp, and what was then to be added to it

    def taken(self, own_ns: int, arrived_ns: int) -> tuple[int, str]:
        """As `OwnClock.taken`; `own_ns` is by the camera's clock."""
        if own_ns <= 0:
            return super().taken(0, arrived_ns)
        if self._before is None or own_ns <= self._before[0]:  # the first, or its clock was set back
            by = NONE if self._before is None else BACKWARDS
            self._before = own_ns, arrived_ns - own_ns
            return super().taken(0, arrived_ns)[0], by
        since_ns = own_ns - self._before[0]
        self._before = own_ns, min(arrived_ns - own_ns, self._before[1] + round(since_ns * DRIFT))
        return super().taken(sum(self._before), arrived_ns)


def stamper(clock: OwnClock, own_ns: Callable[[], int]) -> Callable[[], Stamp]:
    """What stamps the frame that was taken last.

    Args:
        own_ns: the camera's stamp of it; 0 or less: none.
    """

    def now() -> Stamp:
        _, arrived_ns = stamp()
        arrived_utc = datetime.now(UTC)
        taken_ns, by = clock.taken(own_ns(), arrived_ns)
        utc = arrived_utc - timedelta(microseconds=(arrived_ns - taken_ns) / 1000)
        return Stamp(utc.isoformat(timespec="microseconds"), taken_ns, by)

    return now
