"""A live source keeps the newest frame, counts what it drops, and says so when frames stop coming."""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np
import pytest

from diagline.errors import CameraError
from edge_runtime.camera.newest import NewestFrameCamera, PacedCapture

WAIT_S = 20.0


class FakeCapture:
    """A capture that gives what the test pushes, and says when the thread has come back for more."""

    def __init__(self) -> None:
        self.given: queue.Queue[int | Exception | None] = queue.Queue()
        self.asked = threading.Semaphore(0)
        self.released = threading.Event()
        self._level = 0

    def push(self, *items: int | Exception | None) -> None:
        """Give these, and return when the thread has taken in every one."""
        for item in items:
            assert self.asked.acquire(timeout=WAIT_S)
            self.given.put(item)
        if isinstance(items[-1], int):
            assert self.asked.acquire(timeout=WAIT_S)
            self.asked.release()

    def grab(self) -> bool:
        self.asked.release()
        item = self.given.get(timeout=WAIT_S)
        if isinstance(item, Exception):
            raise item
        self._level = item or 0
        return item is not None

    def retrieve(self) -> tuple[bool, Any]:
        if self._level < 0:
            return False, None
        return True, np.full((4, 4, 3), self._level, np.uint8)

    def release(self) -> None:
        self.released.set()


def camera_on(
    capture: FakeCapture, timeout_s: float = WAIT_S, why: str | None = "the stream ended"
) -> NewestFrameCamera:
    return NewestFrameCamera(capture, "rtsp://***@host", timeout_s, lambda taken: why)


def close(camera: NewestFrameCamera, capture: FakeCapture) -> None:
    capture.given.put(None)
    camera.close()


def test_the_newest_frame_is_kept_and_the_others_are_counted() -> None:
    capture = FakeCapture()
    camera = camera_on(capture)
    capture.push(1, 2, 3)
    frame = camera.read()
    assert frame is not None and frame.frame_bgr is not None
    assert (int(frame.frame_bgr[0, 0, 0]), frame.number, camera.dropped) == (3, 2, 2)
    capture.push(4)
    frame = camera.read()
    assert frame is not None and frame.frame_bgr is not None
    assert (int(frame.frame_bgr[0, 0, 0]), frame.number, camera.dropped) == (4, 3, 2)
    close(camera, capture)


def test_a_frame_is_given_once() -> None:
    capture = FakeCapture()
    camera = camera_on(capture, timeout_s=0.01)
    capture.push(1)
    first, second = camera.read(), camera.read()
    assert first is not None and first.frame_bgr is not None
    assert second is not None and second.frame_bgr is None
    close(camera, capture)


def test_no_frame_in_time_is_a_frame_with_a_cause_and_a_number_of_its_own() -> None:
    capture = FakeCapture()
    camera = camera_on(capture, timeout_s=0.01)
    stalls = [camera.read() for _ in range(3)]
    capture.push(5)
    frames = [*stalls, camera.read(), camera.read()]
    assert [frame.frame_bgr is None for frame in frames if frame] == [True, True, True, False, True]
    assert [frame.number for frame in frames if frame] == [0, 1, 2, 3, 4]
    assert stalls[0] is not None and "no frame within 0.01 s" in str(stalls[0].cause)
    close(camera, capture)


def test_a_frame_that_cannot_be_decoded_is_a_frame_with_a_cause() -> None:
    capture = FakeCapture()
    camera = camera_on(capture)
    capture.push(-1)
    frame = camera.read()
    assert frame is not None and frame.frame_bgr is None and "decoded" in str(frame.cause)
    close(camera, capture)


def test_a_source_that_ended_gives_its_last_frame_then_says_so_then_stops() -> None:
    capture = FakeCapture()
    camera = camera_on(capture)
    capture.push(1, None)
    assert capture.released.wait(WAIT_S)
    last, told = camera.read(), camera.read()
    assert last is not None and last.frame_bgr is not None
    assert told is not None and told.frame_bgr is None and "the stream ended" in str(told.cause)
    with pytest.raises(CameraError, match=r"rtsp://\*\*\*@host: the stream ended"):
        camera.read()


def test_a_proper_end_is_no_error() -> None:
    capture = FakeCapture()
    camera = camera_on(capture, why=None)
    capture.push(1, None)
    assert camera.read() is not None
    assert camera.read() is None


def test_a_driver_that_throws_ends_the_source_without_telling_its_address() -> None:
    capture = FakeCapture()
    camera = camera_on(capture)
    capture.push(RuntimeError("rtsp://user:secret@host failed"))
    told = camera.read()
    assert told is not None and "RuntimeError" in str(told.cause) and "secret" not in str(told.cause)
    with pytest.raises(CameraError) as stopped:
        camera.read()
    assert "secret" not in str(stopped.value)


def test_closing_releases_the_source() -> None:
    capture = FakeCapture()
    with camera_on(capture):
        capture.push(1)
        capture.given.put(None)
    assert capture.released.wait(WAIT_S)


def test_a_paced_film_waits_for_each_frame_to_be_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, waits_s = [100.0], []

    class Clock:
        def wait(self, wait_s: float) -> bool:
            waits_s.append(wait_s)
            now_s[0] += wait_s
            return False

        def is_set(self) -> bool:
            return False

    monkeypatch.setattr("edge_runtime.camera.newest.time.monotonic", lambda: now_s[0])
    capture = FakeCapture()
    paced = PacedCapture(capture, rate_hz=10)
    paced._stopped = Clock()  # type: ignore[assignment]
    for level in (1, 2, 3):
        capture.given.put(level)
        assert paced.grab()
        now_s[0] += 0.04  # decoding takes its time, and is not added to the wait
    assert waits_s == pytest.approx([0, 0.06, 0.06])
