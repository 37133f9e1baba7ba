"""A watched camera never ends: whatever the source does, it is opened again, and every frame is accounted for."""

from __future__ import annotations

import base64
import http.server
import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from diagline.errors import CameraError, ConfigError, MissingExtraError
from edge_runtime.camera import CameraConfig, WatchedCamera, watch
from edge_runtime.camera.aravis import bindings, to_bgr
from edge_runtime.camera.backlog import EARLY, FULL, LATE, NEWER, Backlog
from edge_runtime.camera.checks import ChecksConfig
from edge_runtime.camera.clock import Clock
from edge_runtime.camera.frames import Closing, Frame
from edge_runtime.camera.opencv import open_live
from edge_runtime.camera.watched import HANGING
from edge_runtime.trigger import Trigger

WAIT_S, HANG_S = 20.0, 120.0
START_NS = 10**12
TIMEOUT_S, OPENING_S, FOR_EVER_S = 5.0, 10.0, 1e6
ADDRESS = "rtsp://line:secret@10.0.0.9/live?key=secret"
NAME = "rtsp://***@10.0.0.9/live?***"


class FakeClock(Clock):
    """Time that stands until the test lets somebody's wait run out."""

    def __init__(self) -> None:
        self.at_ns = START_NS
        self._waits: list[float] = []
        self._listed = threading.Condition()
        self._changed: threading.Condition | None = None

    def now_ns(self) -> int:
        return self.at_ns

    def wait(self, changed: threading.Condition, ready: Callable[[], bool], timeout_s: float | None) -> bool:
        until_ns = None if timeout_s is None else self.at_ns + timeout_s * 1e9
        listed_s = FOR_EVER_S if timeout_s is None else timeout_s
        with self._listed:
            self._changed = changed
            self._waits.append(listed_s)
            self._listed.notify_all()
        try:
            changed.wait_for(lambda: ready() or (until_ns is not None and self.at_ns >= until_ns), WAIT_S)
        finally:
            with self._listed:
                self._waits.remove(listed_s)
        return ready()

    def waited_for(self, timeout_s: float) -> None:
        """Return when somebody waits for exactly so long."""
        with self._listed:
            assert self._listed.wait_for(lambda: timeout_s in self._waits, WAIT_S), (timeout_s, self._waits)

    def expire(self, timeout_s: float) -> None:
        """Let the time of somebody who waits for exactly so long pass."""
        self.waited_for(timeout_s)
        changed = self._changed
        assert changed is not None
        with changed:
            self.at_ns += round(timeout_s * 1e9)
            changed.notify_all()


class FakeCamera(Closing):
    """Gives what the test pushes: a picture, a cause, an error, or None for its end; hangs while nothing is pushed."""

    dropped = 0

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.given: queue.Queue[NDArray[np.uint8] | str | Exception | None] = queue.Queue()
        self.closed_by: str | None = None
        self.closed = threading.Event()
        self.reading = threading.Lock()

    def read(self) -> Frame | None:
        with self.reading:
            item = self.given.get(timeout=HANG_S)
        if isinstance(item, Exception):
            raise item
        if isinstance(item, str):
            return Frame(None, 0, "now", self._clock.now_ns(), item)
        return None if item is None else Frame(item, 0, "now", self._clock.now_ns())

    def close(self) -> None:
        assert self.reading.acquire(blocking=False), "closed while a read is under way"
        self.closed_by = threading.current_thread().name
        self.closed.set()


class Line:
    """A watched camera, its clock, and the fakes it opens one after the other."""

    def __init__(self, **config: object) -> None:
        self.clock = FakeClock()
        self.cameras: list[FakeCamera] = []
        self.refusing: Exception | None = None
        self._pictures = itertools.count()
        self.camera = WatchedCamera(self.open, CameraConfig(ADDRESS, TIMEOUT_S, **config), self.clock)  # type: ignore[arg-type]

    def open(self) -> FakeCamera:
        if self.refusing is not None:
            raise self.refusing
        self.cameras.append(FakeCamera(self.clock))
        return self.cameras[-1]

    def until(self, ready: Callable[[], bool]) -> None:
        with self.camera._changed:
            assert self.camera._changed.wait_for(ready, WAIT_S), self.camera.health()

    def source(self, number: int) -> FakeCamera:
        """The fake that was opened as the number-th."""
        self.until(lambda: len(self.cameras) > number)
        return self.cameras[number]

    def push(self, number: int, *pictures: NDArray[np.uint8] | str, at_ms: float | None = None) -> None:
        """Give these to the number-th source, or a good one, and wait until they are taken in."""
        source = self.source(number)
        if at_ms is not None:
            self.clock.at_ns = START_NS + round(at_ms * 1e6)
        for picture in pictures or (noise(next(self._pictures)),):
            came = self.camera.health().frames + 1
            source.given.put(picture)
            self.until(lambda came=came: self.camera.health().frames >= came)  # type: ignore[misc]

    def lost(self, times: int = 1) -> None:
        self.until(lambda: sum(self.camera.health().losses.values()) == times)

    def announce(self, at_ms: float) -> None:
        self.camera.announce(Trigger("part", START_NS + round(at_ms * 1e6), "now"))

    def frame_for(self, at_ms: float, timeout_s: float = 0.0) -> Frame:
        return self.camera.frame_for(Trigger("part", START_NS + round(at_ms * 1e6), "now"), timeout_s)

    def close(self) -> None:
        for camera in self.cameras:
            camera.given.put(None)
        self.camera._closing = True
        with self.camera._changed:
            self.camera._changed.notify_all()


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).normal(100, 8, (48, 64, 3)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def make_line() -> Iterator[Callable[..., Line]]:
    made: list[Line] = []

    def make(**config: object) -> Line:
        made.append(Line(**config))
        return made[-1]

    yield make
    for line in made:
        line.close()


def reconcile(line: Line, given: int) -> None:
    """Frames are given, counted as lost, or still waiting."""
    health = line.camera.health()
    assert health.given == given
    assert health.frames == health.given + sum(health.dropped.values()) + len(line.camera._backlog)
    assert line.camera.dropped == sum(health.dropped.values())


def test_a_live_camera_gives_its_frames_and_says_it_is_live(make_line: Callable[..., Line]) -> None:
    line = make_line()
    assert line.camera.health().state == "starting"
    line.push(0)
    frame = line.camera.read()
    assert frame is not None and frame.frame_bgr is not None and frame.number == 0
    health = line.camera.health()
    assert (health.state, health.source, health.reconnects, health.cause) == ("live", NAME, 0, None)
    line.clock.at_ns += 250_000_000
    assert line.camera.health().age_ms == 250


def test_a_camera_that_opens_and_gives_nothing_is_opened_again(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.source(0)
    line.clock.expire(TIMEOUT_S)
    line.lost()
    frame = line.camera.read(0)
    assert frame is not None and frame.frame_bgr is None and frame.cause == f"{NAME}: no picture within 5 s"
    line.clock.expire(1.0)
    line.push(1)
    frame = line.camera.read()
    assert frame is not None and frame.frame_bgr is not None and frame.number == 1
    health = line.camera.health()
    assert (health.state, health.reconnects, health.losses) == ("live", 1, {"silent": 1})
    reconcile(line, given=2)


def test_a_read_that_hangs_for_ever_is_left_alone_and_counted(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.push(0)
    line.clock.expire(TIMEOUT_S)
    line.clock.expire(1.0)
    line.push(1)
    assert line.camera.health().hanging == 1 and not line.cameras[0].closed.is_set()
    line.cameras[0].given.put(noise(77))  # it comes back after all
    assert line.cameras[0].closed.wait(WAIT_S)
    assert line.cameras[0].closed_by == "camera"
    line.until(lambda: line.camera.health().hanging == 0)
    first, _ = line.camera.read(), reconcile(line, given=1)
    assert first is not None and first.number == 1
    assert line.camera.health().dropped == {NEWER: 1, LATE: 1}


def test_an_opening_that_hangs_is_given_up_too() -> None:
    clock, gate, opened = FakeClock(), threading.Event(), []

    def open_() -> FakeCamera:
        camera = FakeCamera(clock)
        opened.append(camera)
        if len(opened) == 1:
            gate.wait(WAIT_S)
        return camera

    camera = WatchedCamera(open_, CameraConfig(ADDRESS, TIMEOUT_S), clock)
    clock.expire(OPENING_S)
    clock.expire(1.0)
    clock.expire(TIMEOUT_S)
    assert camera.health().losses["closed"] == 1
    gate.set()
    assert opened[0].closed.wait(WAIT_S)
    opened[1].given.put(None)
    camera.close()


def test_a_slow_opening_takes_nothing_from_the_time_for_the_first_picture() -> None:
    clock, gate = FakeClock(), threading.Event()
    source = FakeCamera(clock)

    def open_() -> FakeCamera:
        gate.wait(WAIT_S)
        return source

    camera = WatchedCamera(open_, CameraConfig(ADDRESS, TIMEOUT_S), clock)
    clock.waited_for(OPENING_S)
    clock.at_ns += 6 * 10**9
    gate.set()
    clock.expire(TIMEOUT_S)
    with camera._changed:
        assert camera._changed.wait_for(lambda: camera.health().losses, WAIT_S)
    assert camera.health().losses == {"silent": 1} and clock.at_ns == START_NS + 11 * 10**9
    source.given.put(None)
    camera.close()


def test_frames_that_cannot_be_decoded_are_given_with_their_cause_and_keep_nothing_alive(
    make_line: Callable[..., Line],
) -> None:
    line = make_line()
    line.push(0, "the frame cannot be decoded")
    frame = line.camera.read()
    assert frame is not None and (frame.number, frame.cause) == (0, "the frame cannot be decoded")
    assert line.camera.health().state == "starting"
    line.clock.expire(TIMEOUT_S)
    line.lost()
    line.clock.expire(1.0)
    line.push(1, "the frame cannot be decoded")
    assert (line.camera.health().state, line.camera.health().reconnects) == ("lost", 0)


def test_no_more_is_opened_while_too_many_reads_hang(make_line: Callable[..., Line]) -> None:
    line = make_line()
    for number in range(HANGING):
        line.source(number)
        line.clock.expire(TIMEOUT_S)
        line.clock.expire(min(2.0**number, 30.0))
    line.until(lambda: "hang in the driver" in str(line.camera.health().cause))
    assert (line.camera.health().hanging, len(line.cameras)) == (HANGING, HANGING)
    line.cameras[3].given.put(None)
    line.push(HANGING)
    assert line.camera.health().state == "live"


def test_a_camera_that_throws_is_opened_again_and_its_words_stay_hidden(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.push(0)
    line.cameras[0].given.put(RuntimeError(f"{ADDRESS} failed"))
    line.lost()
    assert line.cameras[0].closed.wait(WAIT_S)
    assert line.camera.read() is not None
    frame = line.camera.read(0)
    assert frame is not None and frame.cause == f"{NAME}: the camera failed (RuntimeError)"
    line.clock.expire(1.0)
    line.push(1)
    assert line.camera.health().losses == {"failed": 1}


def test_the_same_bytes_after_an_unplug_are_a_loss_until_a_new_picture_comes(make_line: Callable[..., Line]) -> None:
    line = make_line(checks=ChecksConfig(frozen_frames=3))
    picture = noise(1)
    line.push(0, *[picture.copy() for _ in range(5)])
    line.lost()
    line.clock.expire(1.0)
    line.push(1, picture.copy())
    line.lost(2)
    assert (line.camera.health().state, line.camera.health().reconnects) == ("lost", 0)
    assert "frozen: the same picture again" in str(line.camera.health().cause)
    line.clock.expire(2.0)
    line.push(2)
    health = line.camera.health()
    assert (health.state, health.reconnects, health.losses) == ("live", 1, {"frozen": 2})
    assert health.refused == {"frozen": 2}


def test_a_camera_that_ends_at_once_is_tried_at_growing_pauses_for_ever(make_line: Callable[..., Line]) -> None:
    line = make_line()
    for number, pause_s in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]):
        line.source(number).given.put(None)
        line.lost(number + 1)
        line.clock.expire(pause_s)
    line.push(8)
    assert line.camera.health().losses == {"ended": 8}
    assert line.camera.health().reconnects == 1


def test_one_picture_does_not_shorten_the_pause_and_a_while_of_them_does(make_line: Callable[..., Line]) -> None:
    line = make_line()
    for number, pause_s in enumerate([1.0, 2.0]):
        line.push(number)
        line.cameras[number].given.put(None)
        line.clock.expire(pause_s)
    line.push(2)
    line.clock.at_ns += 4_500_000_000
    line.push(2)
    line.cameras[2].given.put(None)
    line.clock.expire(1.0)
    line.push(3)


def test_what_does_not_open_is_said_without_its_password(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.source(0).given.put(None)
    line.lost()
    line.refusing = CameraError(f"{ADDRESS}: does not open; check the cable")
    line.clock.expire(1.0)
    line.lost(2)
    frame = line.camera.read(0)
    assert frame is not None and frame.cause == f"{NAME}: does not open; check the cable"
    assert line.camera.health().losses == {"ended": 1, "closed": 1}
    line.refusing = None
    line.clock.expire(2.0)
    line.push(1)
    assert "secret" not in repr(line.camera.health())


def test_a_camera_that_is_itself_triggered_may_be_silent(make_line: Callable[..., Line]) -> None:
    line = make_line(triggered=True)
    line.source(0)
    line.clock.expire(FOR_EVER_S)
    line.push(0, at_ms=3.6e6)
    assert line.camera.health().losses == {}


def test_nothing_waits_in_front_of_the_newest(make_line: Callable[..., Line]) -> None:
    line = make_line(queue_frames=3)
    for _ in range(6):
        line.push(0)
    frame = line.camera.read()
    assert frame is not None and frame.number == 5
    assert line.camera.health().dropped == {NEWER: 5}
    reconcile(line, given=1)


def test_all_keeps_the_order_and_counts_what_finds_no_room(make_line: Callable[..., Line]) -> None:
    line = make_line(queue_frames=3, keep="all")
    for _ in range(5):
        line.push(0)
    frames = [line.camera.read() for _ in range(3)]
    line.push(0)
    frames.append(line.camera.read())
    assert [frame.number for frame in frames if frame is not None] == [0, 1, 2, 5]
    assert line.camera.health().dropped == {FULL: 2}
    reconcile(line, given=4)


def test_a_frame_that_waited_too_long_is_not_judged(make_line: Callable[..., Line]) -> None:
    line = make_line(checks=ChecksConfig(max_age_ms=100))
    line.push(0)
    line.clock.at_ns += 101_000_000
    frame = line.camera.read()
    assert frame is not None and frame.frame_bgr is None
    assert frame.cause == f"{NAME}: stale: taken 101 ms ago; limit 100 ms"
    assert line.camera.health().refused == {"stale": 1}


def test_a_black_frame_comes_with_its_cause_and_is_no_loss(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.push(0, np.zeros((48, 64, 3), np.uint8))
    frame = line.camera.read()
    assert frame is not None and frame.frame_bgr is None and "black: 99 % of the pixels" in str(frame.cause)
    assert (line.camera.health().state, line.camera.health().refused) == ("live", {"black": 1})


def test_a_trigger_gets_the_first_frame_taken_from_its_moment_on(make_line: Callable[..., Line]) -> None:
    line = make_line()
    for at_ms in (0, 40, 80, 120):
        line.push(0, at_ms=at_ms)
    frame = line.frame_for(41)
    assert (frame.number, frame.cause) == (2, None)
    assert line.frame_for(120).number == 3
    assert line.camera.health().dropped == {EARLY: 2}
    reconcile(line, given=2)


@pytest.mark.parametrize(("lead_ms", "number"), [(0, 2), (10, 1), (-45, 3)])
def test_the_lead_moves_the_moment(lead_ms: float, number: int, make_line: Callable[..., Line]) -> None:
    line = make_line(lead_ms=lead_ms)
    for at_ms in (0, 40, 80, 120):
        line.push(0, at_ms=at_ms)
    assert line.frame_for(50).number == number


def test_a_trigger_waits_for_its_frame(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.push(0, at_ms=0)
    found: list[Frame] = []
    asking = threading.Thread(target=lambda: found.append(line.frame_for(10, timeout_s=3.0)))
    asking.start()
    line.clock.waited_for(3.0)
    line.push(0, at_ms=5)
    line.push(0, at_ms=15)
    asking.join(WAIT_S)
    assert found[0].number == 2 and found[0].frame_bgr is not None


def test_a_trigger_without_a_frame_is_told_why(make_line: Callable[..., Line], monkeypatch: pytest.MonkeyPatch) -> None:
    line = make_line()
    line.push(0, at_ms=0)
    assert line.frame_for(10).cause == f"{NAME}: no frame within 0 s"
    line.cameras[0].given.put(None)
    line.lost()
    at_once: list[bool] = []
    monkeypatch.setattr(line.clock, "wait", lambda changed, ready, timeout_s: at_once.append(ready()))
    assert line.frame_for(20, timeout_s=WAIT_S).cause == f"{NAME}: the source ended"
    assert at_once == [True]


def test_two_parts_never_share_a_frame(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.push(0, at_ms=30)
    line.push(0, at_ms=60)
    assert line.frame_for(10).cause is None
    assert line.frame_for(20).cause == f"{NAME}: duplicated: its frame 0 was given for another part"
    assert line.frame_for(50).cause is None


def test_a_frame_that_comes_after_the_window_is_another_parts_and_stays_for_it(make_line: Callable[..., Line]) -> None:
    line = make_line(window_ms=5.0)
    line.push(0, at_ms=16)
    assert "no frame in time: the next, 6.0 ms after the trigger" in str(line.frame_for(10).cause)
    assert line.frame_for(15).cause is None


def test_a_frame_taken_after_the_next_trigger_judges_no_earlier_part(make_line: Callable[..., Line]) -> None:
    line = make_line()
    line.announce(10)
    line.announce(20)
    line.push(0, at_ms=25)
    assert "may be another part's" in str(line.frame_for(10).cause)
    assert line.frame_for(20).cause is None


@pytest.mark.parametrize(("triggered", "next_ms", "judged"), [(True, 20, False), (False, 20, True), (True, 1011, True)])
def test_where_a_triggered_camera_missed_a_part_the_next_ones_frame_may_be_the_missing_one(
    triggered: bool, next_ms: float, judged: bool, make_line: Callable[..., Line]
) -> None:
    line = make_line(triggered=triggered, checks=ChecksConfig(max_age_ms=5000))
    for at_ms in (0, 10, next_ms, next_ms + 10):
        line.announce(at_ms)
    line.push(0, at_ms=1)  # the part at 10 ms gets none
    line.push(0, at_ms=next_ms + 1)
    line.push(0, at_ms=next_ms + 11)
    assert line.frame_for(0).cause is None and line.frame_for(10).cause is not None
    assert (line.frame_for(next_ms).cause is None) is judged
    assert line.frame_for(next_ms + 10).cause is None  # and the one after it is judged in any case


def test_two_frames_with_one_picture_are_not_two_parts(make_line: Callable[..., Line]) -> None:
    line = make_line()
    picture = noise(1)
    line.push(0, picture, at_ms=0)
    line.push(0, picture.copy(), at_ms=40)
    assert line.frame_for(0).cause is None
    assert line.frame_for(40).cause == f"{NAME}: duplicated: the picture of frame 0, judged before; limit once"


@pytest.mark.parametrize("keep", ["newest", "all"])
def test_a_trigger_whose_frame_was_lost_gets_no_later_one(keep: str, make_line: Callable[..., Line]) -> None:
    line = make_line(queue_frames=2, keep=keep)
    for at_ms in (0, 40, 80, 120):
        line.push(0, at_ms=at_ms)
    lost_ms = 10 if keep == "newest" else 75
    frame = line.frame_for(lost_ms)
    assert frame.frame_bgr is None and frame.cause == f"{NAME}: its frame was lost before it was asked for"


def test_closing_ends_the_reads_and_closes_the_source() -> None:
    source = FakeCamera(FakeClock())
    camera = WatchedCamera(lambda: source, CameraConfig(ADDRESS))
    source.given.put(noise(1))
    assert camera.read() is not None
    source.given.put(None)
    with camera:
        pass
    assert source.closed.is_set()
    assert camera.read() is None
    assert camera.frame_for(Trigger("part", 2**62, "now"), WAIT_S).cause == f"{NAME}: closed"


def test_a_hanging_read_that_can_be_stopped_is_stopped(make_line: Callable[..., Line]) -> None:
    line = make_line()
    camera = line.source(0)
    camera.stop = lambda: camera.given.put(None)  # type: ignore[attr-defined]
    line.clock.expire(TIMEOUT_S)
    assert camera.closed.wait(WAIT_S)
    line.until(lambda: line.camera.health().hanging == 0)


def test_a_system_without_threads_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, refused = threading.Thread.start, []

    def refuse_once(thread: threading.Thread) -> None:
        if thread.name == "camera" and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    line = Line()
    line.lost()
    line.clock.expire(1.0)
    line.push(0)
    assert line.camera.health().state == "live"
    line.close()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("keep", ["newest", "all"])
def test_every_number_is_given_lost_or_waiting_whatever_is_asked(seed: int, keep: str) -> None:
    rng, backlog, given = np.random.default_rng(seed), Backlog(keep, 4), []
    came: list[tuple[int, int]] = []  # when taken, number
    for at_ns in range(1, 200):
        match int(rng.integers(5)):
            case 0 | 1 | 2:
                came.append((at_ns, backlog.number))
                backlog.put(Frame(noise(0), 0, "", at_ns))
            case 3:
                if (frame := backlog.next()) is not None:
                    given.append(frame.number)
            case _:
                from_ns = at_ns - int(rng.integers(8))
                found = backlog.first_from(from_ns, 2**62)
                if isinstance(found, Frame):
                    given.append(found.number)
                    assert found.number == min(number for taken_ns, number in came if taken_ns >= from_ns)
                else:
                    given.append(backlog.absent("", at_ns, found).number)
        assert backlog.number == backlog.given + backlog.lost.total() + len(backlog)
    assert len(set(given)) == len(given) == backlog.given


def test_a_film_is_played_over_and_over_and_every_frame_is_accounted_for(tmp_path: Path) -> None:
    path, place = tmp_path / "film.avi", os.environ.get("DIAGLINE_REAL_DATA")
    if place is not None and (Path(place) / "videos").is_dir():
        path = Path(place) / "videos" / "conveyor-belt.mp4"
    else:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 100, (64, 48))
        for seed in range(40):
            writer.write(noise(seed))
        writer.release()
    numbers, pictures = [], 0
    with watch(CameraConfig(str(path), keep="all", queue_frames=100)) as camera:
        while camera.health().reconnects == 0 or pictures < 45:
            frame = camera.read()
            assert frame is not None
            numbers.append(frame.number)
            pictures += frame.frame_bgr is not None
        health = camera.health()
    assert health.losses == {"ended": 1} and not health.dropped and not health.refused
    assert numbers == list(range(len(numbers)))
    assert "ended after 40 frames" in str(health.cause)


class Stream(http.server.ThreadingHTTPServer):
    """A camera that speaks MJPEG over HTTP until it is unplugged; every third picture breaks off half-way."""

    daemon_threads = True

    def __init__(self, port: int = 0, cut: bool = False) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.cut = cut
        self.unplugged = threading.Event()
        self.authorised: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def unplug(self) -> None:
        self.unplugged.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """The client going away is no error here."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Stream

    def do_GET(self) -> None:
        self.server.authorised.add(self.headers.get("Authorization", ""))
        self.send_response(200 if self.headers.get("Authorization") else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="camera"')
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for seed in itertools.count() if self.headers.get("Authorization") else ():
            data = cv2.imencode(".jpg", noise(seed))[1].tobytes()
            data = data[: len(data) // 2] if self.server.cut and seed % 3 == 2 else data
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")
            if self.server.unplugged.wait(0.005):  # the camera's own rate
                return

    def log_message(self, format: str, *args: object) -> None:
        """No access log in the test's output."""


@contextmanager
def stream(port: int = 0, cut: bool = False) -> Iterator[Stream]:
    server = Stream(port, cut)
    try:
        yield server
    finally:
        with suppress(OSError):
            server.unplug()


def test_a_stream_that_dies_and_comes_back_is_taken_up_again_with_every_number_accounted_for(
    capfd: pytest.CaptureFixture[str],
) -> None:
    frames: list[Frame] = []

    def read(camera: WatchedCamera, until: Callable[[], bool]) -> None:
        for _ in range(10_000):
            frame = camera.read(0.2)
            assert frame is not None
            frames.append(frame)
            if until():
                return
        raise AssertionError(camera.health())

    with stream() as first:
        port = first.server_address[1]
        source = f"http://line:secret@127.0.0.1:{port}/video?key=secret"
        camera = watch(CameraConfig(source, timeout_s=2.0))
        read(camera, lambda: sum(frame.frame_bgr is not None for frame in frames) == 10)
        first.unplug()
        read(camera, lambda: camera.health().state == "lost" and frames[-1].frame_bgr is None)
        assert "ended after" in str(frames[-1].cause)
        read(camera, lambda: camera.health().losses.get("closed", 0) > 0)  # nobody listens there now
        with stream(port) as second:
            read(camera, lambda: camera.health().state == "live" and frames[-1].frame_bgr is not None)
            camera.close()
    health = camera.health()
    assert health.reconnects == 1 and health.losses["ended"] == 1
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))
    assert health.frames == len(frames) + camera.dropped + len(camera._backlog)
    assert base64.b64encode(b"line:secret").decode() in " ".join(second.authorised)
    assert "secret" not in repr((health, [frame.cause for frame in frames], capfd.readouterr()))


def test_a_jpeg_that_breaks_off_in_a_stream_is_never_judged() -> None:
    with stream(cut=True) as server:
        address = f"http://line:x@127.0.0.1:{server.server_address[1]}/"
        with watch(CameraConfig(address, keep="all", queue_frames=1000)) as camera:
            frames = [camera.read() for _ in range(30)]
    causes = [frame.cause for frame in frames if frame is not None]
    good = [cause is None for cause in causes]
    assert good == [index % 3 != 2 for index in range(30)]
    assert all("truncated: the lowest" in cause for cause in causes if cause is not None)


@pytest.mark.parametrize("source", ["nowhere", "picture.png", "ftp://host/x", "97"])
def test_what_is_not_live_is_refused(source: str) -> None:
    with pytest.raises(CameraError, match="expected"):
        open_live(source, timeout_s=1)


@pytest.mark.parametrize("config", [{"keep": "newst"}, {"timeout_s": 0.0}, {"queue_frames": 0}, {"lead_ms": 1e9}])
def test_a_config_that_cannot_be_is_refused_by_its_key(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"camera\." + next(iter(config))):
        CameraConfig(**config)  # type: ignore[arg-type]


def test_a_source_through_aravis_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(MissingExtraError, match=r"apt-get install python3-gi gir1\.2-aravis-0\.8"):
        bindings()


def test_buffers_become_pictures_in_bgr_and_short_ones_do_not() -> None:
    assert to_bgr(bytes([1, 2, 3, 4, 5, 6]), 2, 1, "RGB8").tolist() == [[[3, 2, 1], [6, 5, 4]]]  # type: ignore[union-attr]
    assert to_bgr(bytes([1, 2, 3, 4, 5, 6]), 2, 1, "BGR8").tolist() == [[[1, 2, 3], [4, 5, 6]]]  # type: ignore[union-attr]
    assert to_bgr(bytes([7, 9]), 2, 1, "Mono8").tolist() == [[[7, 7, 7], [9, 9, 9]]]  # type: ignore[union-attr]
    red = np.zeros((4, 4), np.uint8)
    red[::2, ::2] = 200
    assert to_bgr(red.tobytes(), 4, 4, "BayerRG8")[2, 2].tolist() == [0, 0, 200]  # type: ignore[index]
    assert to_bgr(bytes(5), 2, 1, "RGB8") is None


def test_a_gige_camera_is_watched() -> None:
    try:
        aravis = bindings()
    except MissingExtraError as error:
        pytest.skip(str(error))
    fake = aravis.GvFakeCamera.new("127.0.0.1", "GV01")
    with watch(CameraConfig("aravis:Aravis-Fake-GV01", keep="all")) as camera:
        frames = [camera.read() for _ in range(5)]
        assert [frame.frame_bgr is None for frame in frames if frame is not None] == [False] * 5
    assert camera.health().hanging == 0 and fake.is_running()
