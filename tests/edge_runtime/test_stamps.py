"""A frame is stamped by its camera's own clock where that can be believed, and so shows its own part however late."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagline.errors import MissingExtraError
from edge_runtime.camera import CameraConfig, WatchedCamera
from edge_runtime.camera.aravis import bindings, open_aravis
from edge_runtime.camera.checks import ChecksConfig
from edge_runtime.camera.frames import arrived
from edge_runtime.camera.opencv import LiveCamera, _stamper
from edge_runtime.camera.stamps import BACKWARDS, BY, CAMERA, FAR, FAR_NS, FUTURE, NONE, WORDS, OtherClock, OwnClock
from edge_runtime.trigger import Trigger

WAIT_S = 20.0
MS, S = 10**6, 10**9


def test_a_stamp_of_the_boxs_own_clock_says_when_the_frame_was_taken() -> None:
    clock = OwnClock()
    assert clock.taken(1000 * MS, 1005 * MS) == (1000 * MS, CAMERA)
    assert clock.taken(1040 * MS, 1300 * MS) == (1040 * MS, CAMERA)  # the process was starved
    assert clock.taken(1080 * MS, 1300 * MS) == (1080 * MS, CAMERA)


@pytest.mark.parametrize(
    ("own_ns", "by"),
    [
        (0, NONE),
        (-5, NONE),
        (100 * S + 1, FUTURE),
        (100 * S - FAR_NS - 1, FAR),
        (95 * S, BACKWARDS),
        (94 * S, BACKWARDS),
    ],
)
def test_a_stamp_that_cannot_be_is_not_believed_and_the_next_one_that_can_is(own_ns: int, by: str) -> None:
    clock = OwnClock()
    assert clock.taken(95 * S, 95 * S)[1] == CAMERA
    assert clock.taken(own_ns, 100 * S) == (100 * S, by)
    assert clock.taken(101 * S, 102 * S) == (101 * S, CAMERA)


@given(st.integers(-(10**15), 10**18), st.floats(-100e-6, 100e-6), st.lists(st.integers(0, 3), min_size=2, max_size=60))
def test_another_clock_is_followed_however_it_starts_and_drifts_and_a_late_frame_is_not_taken_for_a_new_one(
    start_ns: int, drift: float, late: list[int]
) -> None:
    clock, way_ns, every_ns = OtherClock(), 4 * MS, 60 * S
    for number, periods in enumerate([0, *late]):
        true_ns = 1000 * S + number * every_ns
        own_ns = max(1, start_ns) + round(number * every_ns * (1 + drift))
        taken_ns, by = clock.taken(own_ns, true_ns + way_ns + periods * S)
        promptly = min([0, *late][max(0, number - 1) : number + 1]) == 0
        assert number == 0 or by == CAMERA
        if promptly:  # it or the one before came at once: what a minute may drift is left
            assert abs(taken_ns - true_ns - way_ns) <= every_ns * 700e-6


def test_another_clock_that_is_set_is_learned_anew() -> None:
    clock = OtherClock()
    assert clock.taken(0, S) == (S, NONE)
    assert clock.taken(500 * S, 2 * S) == (2 * S, NONE)  # the first tells how far it is from ours
    assert clock.taken(501 * S, 3 * S + 700 * MS)[0] == pytest.approx(3 * S, abs=MS)
    assert clock.taken(9 * S, 4 * S) == (4 * S, BACKWARDS)
    assert clock.taken(10 * S, 5 * S + 700 * MS) == (5 * S + 500_000, CAMERA)
    assert clock.taken(9000 * S, 6 * S) == (6 * S, CAMERA)


class Capture:
    """A camera whose frames reach the process when the test lets them; each with the stamp its driver gave it."""

    def __init__(self, backend: str = "V4L2") -> None:
        self.given: queue.Queue[tuple[float, int] | None] = queue.Queue()
        self._backend = backend
        self._last: tuple[float, int] = (0.0, 0)

    def getBackendName(self) -> str:  # noqa: N802
        return self._backend

    def get(self, prop: int) -> float:
        assert prop == cv2.CAP_PROP_POS_MSEC
        return self._last[0]

    def grab(self) -> bool:
        item = self.given.get(timeout=WAIT_S)
        self._last = item or self._last
        return item is not None

    def retrieve(self) -> tuple[bool, Any]:
        noise = np.random.default_rng(self._last[1]).normal(100, 8, (48, 64, 3)).clip(0, 255).astype(np.uint8)
        noise[0, 0] = self._last[1]
        return True, noise

    def release(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("backend", ["FFMPEG", "GSTREAMER", "CV_MJPEG"])
def test_what_is_no_stamp_of_a_driver_is_not_read_as_one(backend: str) -> None:
    assert _stamper(Capture(backend)) is arrived  # type: ignore[arg-type]


@pytest.mark.parametrize(("stamped", "shift"), [(True, 0), (False, 1)])
def test_a_starved_process_judges_each_part_by_its_own_frame_where_the_camera_stamps_and_not_where_it_does_not(
    stamped: bool, shift: int
) -> None:
    capture, config = Capture(), CameraConfig("0", timeout_s=60.0, window_ms=60_000.0, queue_frames=8,
                                              checks=ChecksConfig(max_age_ms=60_000.0))  # fmt: skip
    parts: list[Trigger] = []
    shown: list[int | None] = []
    with WatchedCamera(lambda: LiveCamera(capture, "camera 0", stamper=_stamper(capture)), config) as camera:  # type: ignore[arg-type]
        exposed_ms = 0.0
        for number in range(6):
            parts.append(Trigger(f"{number}", time.monotonic_ns(), "now"))
            camera.announce(parts[-1])
            if number:  # the frame of the part before reaches the process only now
                capture.given.put((exposed_ms if stamped else 0.0, number - 1))
                with camera._changed:
                    assert camera._changed.wait_for(lambda came=number: camera.health().frames >= came, WAIT_S)  # type: ignore[misc]
            if number > 1:
                frame = camera.frame_for(parts[number - 1], 0.0).frame_bgr
                shown.append(None if frame is None else int(frame[0, 0, 0]))
            exposed_ms = time.monotonic_ns() / 1e6
        health = camera.health()
        capture.given.put(None)
    assert shown == [number - shift for number in range(1, 5)]
    assert health.stamps == {CAMERA if stamped else NONE: 5} and health.stamped == (CAMERA if stamped else NONE)


def test_frames_of_a_gige_camera_that_waited_say_when_they_were_taken() -> None:
    try:
        aravis = bindings()
    except MissingExtraError as error:
        pytest.skip(str(error))
    fake, pause = aravis.GvFakeCamera.new("127.0.0.1", "GV02"), threading.Event()
    with open_aravis("Aravis-Fake-GV02") as camera:
        learned = [camera.read() for _ in range(10)]
        while camera._stream.get_n_buffers()[1] < 5:
            pause.wait(0.01)
        began_ns = time.monotonic_ns()
        waited = [camera.read() for _ in range(3)]
    assert fake.is_running()
    assert [frame.stamped for frame in learned[1:] + waited] == [CAMERA] * 12
    assert all(frame.taken_ns < began_ns for frame in waited)
    times = [frame.taken_ns for frame in learned + waited]
    assert times == sorted(set(times))


def test_every_word_is_told_to_people() -> None:
    assert set(WORDS) == set(BY)
