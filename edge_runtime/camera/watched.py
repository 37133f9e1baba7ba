"""A camera that never ends: lost, it is opened again for as long as it takes, and says so meanwhile.

    a thread a session   open, read, read ...; it alone closes what it opened
    the watch            no picture in time, an error, an end, a frozen picture: give the session up,
                         wait 1, 2, 4 ... 30 s, start another

A read that hangs in a driver cannot be ended from outside; it is left to its thread, which closes
the source should it ever come back. Leaves out: what becomes of a frame that cannot be judged.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from diagline.errors import CameraError
from edge_runtime.camera.backlog import LATE, LONG_AGO_NS, Backlog
from edge_runtime.camera.checks import FrameChecks, Refusal
from edge_runtime.camera.clock import Clock
from edge_runtime.camera.config import CameraConfig
from edge_runtime.camera.frames import Camera, Closing, Frame, stamp
from edge_runtime.camera.opencv import open_live, redact
from edge_runtime.trigger import Trigger

CLOSE_WAIT_S = 1.0
PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
OPENING = 2  # an opening may take this many times as long as a picture
TRIGGERS = 1000  # announced ones that are remembered
OWED_NS = 10**9  # a triggered camera's frame is not expected any more after this
HANGING = 8  # reads that hang in a driver at once; with so many, none is added until one comes back


@dataclass(frozen=True, slots=True)
class CameraHealth:
    """How a camera is doing.

    Attributes:
        source: its name, without credentials.
        state: starting, live or lost.
        age_ms: since the last picture was taken; None before the first.
        frames: frames so far, those that stand for a missing one included.
        given: frames handed over.
        dropped: frames nobody was given, by cause.
        refused: frames that came and may not be judged, by check.
        reconnects: times it came back.
        losses: times it was lost, by kind: closed (does not open), silent, ended, failed, frozen.
        stamps: frames that came, by whose clock says when they were taken, words of `stamps.BY`.
        stamped: of the last picture, such a word; "" before the first.
        hanging: sessions given up whose driver has not come back; at `HANGING` nothing is opened any more.
        cause: why it was lost last; kept after it came back.
    """

    source: str
    state: str
    age_ms: float | None
    frames: int
    given: int
    dropped: dict[str, int]
    refused: dict[str, int]
    reconnects: int
    losses: dict[str, int]
    stamps: dict[str, int]
    stamped: str
    hanging: int
    cause: str | None


class _Session:
    """One opening of the source, and what is known of it."""

    def __init__(self, now_ns: int) -> None:
        self.camera: Camera | None = None
        self.heard_ns = now_ns
        self.first_ns: int | None = None
        self.loss: tuple[str, str] | None = None
        self.over = self.done = False

    @property
    def opened(self) -> bool:
        return self.camera is not None

    def lose(self, kind: str, cause: str) -> None:
        """Remember why it is lost; the first reason stands."""
        self.loss = self.loss or (kind, cause)


class WatchedCamera(Closing):
    """Frames without end, numbered in one row over every reconnection, checked before they are given."""

    def __init__(self, open_: Callable[[], Camera], config: CameraConfig, clock: Clock | None = None) -> None:
        """Start taking frames.

        Args:
            open_: opens the source; called on a thread of its own, again and again. Its reads wait for
                the driver (`open_live`). What it raises as `CameraError` is repeated in causes.
        """
        self._open, self._config, self._clock = open_, config, clock or Clock()
        self._name = redact(config.source)
        self._changed = threading.Condition()
        self._backlog = Backlog(config.keep, config.queue_frames)
        self._checks = FrameChecks(config.checks)
        self._state, self._cause = "starting", ""
        self._picture_ns: int | None = None
        self._refused: Counter[str] = Counter()
        self._triggers: deque[int] = deque(maxlen=TRIGGERS)
        self._losses: Counter[str] = Counter()
        self._stamps: Counter[str] = Counter()
        self._stamped = ""
        self._reconnects = 0
        self._closing = False
        self._sessions: list[_Session] = []  # the current one, and those given up that are not done
        self._thread = threading.Thread(target=self._watch, name="camera-watch", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Frames that came and nobody was given."""
        return self._backlog.lost.total()

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """The frame whose turn it is, waiting for one; without a picture and with the cause when none came.

        For a line without triggers: every frame is its own.

        Args:
            timeout_s: the longest wait; None: the config's.

        Returns:
            None after `close` alone.
        """
        timeout_s = self._config.timeout_s if timeout_s is None else timeout_s
        with self._changed:
            self._clock.wait(self._changed, lambda: len(self._backlog) > 0 or self._closing, timeout_s)
            if self._closing:
                return None
            frame = self._backlog.next()
            return self._missing(timeout_s) if frame is None else self._usable(frame)

    def announce(self, trigger: Trigger) -> None:
        """Say that a part came, before its frame is asked for: a frame taken after it is no earlier part's."""
        with self._changed:
            self._triggers.append(trigger.at_ns)

    def frame_for(self, trigger: Trigger, timeout_s: float) -> Frame:
        """The first frame taken within `window_ms` from the trigger on and before the next one, less `lead_ms`.

        Without a picture and with the cause when none came in time, when that very frame was lost
        or given for another part, and at once while the camera is lost.
        """
        lead_ns, window_ns = round(self._config.lead_ms * 1e6), round(self._config.window_ms * 1e6)
        from_ns = trigger.at_ns - lead_ns
        with self._changed:
            self._clock.wait(
                self._changed,
                lambda: self._backlog.last_ns >= from_ns or self._state == "lost" or self._closing,
                timeout_s,
            )
            before_ns, next_ns = self._neighbours(trigger)
            until_ns = min(trigger.at_ns + window_ns, next_ns) - lead_ns
            owed_ns = before_ns if self._config.triggered and trigger.at_ns - before_ns < OWED_NS else LONG_AGO_NS
            found = self._backlog.first_from(from_ns, until_ns, owed_ns - lead_ns)
            if isinstance(found, Frame):
                return self._usable(found, from_ns)
            return self._missing(timeout_s) if self._backlog.last_ns < from_ns else self._absent(found)

    def _neighbours(self, trigger: Trigger) -> tuple[int, int]:
        """When the parts before and after a trigger's came, as far as they were announced."""
        next_ns = -LONG_AGO_NS
        for at_ns in reversed(self._triggers):  # the part that is asked for is among the last
            if at_ns < trigger.at_ns:
                return at_ns, next_ns
            if at_ns > trigger.at_ns:
                next_ns = at_ns
        return LONG_AGO_NS, next_ns

    def health(self) -> CameraHealth:
        """How it is doing now."""
        with self._changed:
            age_ns = None if self._picture_ns is None else self._clock.now_ns() - self._picture_ns
            return CameraHealth(
                source=self._name,
                state=self._state,
                age_ms=None if age_ns is None else age_ns / 1e6,
                frames=self._backlog.number,
                given=self._backlog.given,
                dropped=dict(self._backlog.lost),
                refused=dict(self._refused),
                reconnects=self._reconnects,
                losses=dict(self._losses),
                stamps=dict(self._stamps),
                stamped=self._stamped,
                hanging=self._hanging(),
                cause=self._cause or None,
            )

    def close(self) -> None:
        """Stop; a read that hangs in the driver is left to its thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._clock.wait(self._changed, lambda: all(session.done for session in self._sessions), CLOSE_WAIT_S)
        self._thread.join(CLOSE_WAIT_S)

    def _missing(self, timeout_s: float) -> Frame:
        if self._closing:
            return self._absent("closed")
        return self._absent(self._cause if self._state == "lost" else f"no frame within {timeout_s:g} s")

    def _absent(self, cause: str) -> Frame:
        utc, _ = stamp()
        return self._backlog.absent(utc, self._clock.now_ns(), f"{self._name}: {cause}")

    def _usable(self, frame: Frame, from_ns: int | None = None) -> Frame:
        return self._judged(frame, self._checks.use(frame, self._clock.now_ns(), from_ns))

    def _judged(self, frame: Frame, refusal: Refusal | None) -> Frame:
        if refusal is None:
            return frame
        self._refused[refusal.check] += 1
        return replace(frame, frame_bgr=None, cause=f"{self._name}: {refusal.cause}")

    def _hanging(self) -> int:
        return sum(session.over and not session.done for session in self._sessions)

    def _watch(self) -> None:
        pause_s = PAUSE_S
        with self._changed:
            while not self._closing:
                session = _Session(self._clock.now_ns())
                self._sessions = [*(other for other in self._sessions if not other.done), session]
                try:
                    threading.Thread(target=self._take, args=(session,), name="camera", daemon=True).start()
                except RuntimeError:  # the system has none left now
                    session.lose("failed", "no thread can be started")
                    session.done = True
                self._attend(session)
                session.over = True
                self._stop(session)
                if session.loss is None:  # closing
                    return
                self._lost(*session.loss)
                lived_s = 0.0 if session.first_ns is None else (session.heard_ns - session.first_ns) / 1e9
                if lived_s > pause_s:  # one that comes and goes is paced like one that does not come
                    pause_s = PAUSE_S
                self._clock.wait(self._changed, lambda: self._closing, pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                if self._hanging() >= HANGING:
                    self._cause = f"{HANGING} reads hang in the driver; restart the box"
                    self._changed.notify_all()
                    self._clock.wait(self._changed, lambda: self._closing or self._hanging() < HANGING, None)

    def _attend(self, session: _Session) -> None:
        """Wait, holding the lock, until the session is lost or the camera closes."""
        timeout_s = self._config.timeout_s

        def over() -> bool:
            return session.loss is not None or self._closing

        if not self._clock.wait(self._changed, lambda: over() or session.opened, OPENING * timeout_s):
            session.lose("closed", f"does not open within {OPENING * timeout_s:g} s")
        while not over():
            heard_s = (self._clock.now_ns() - session.heard_ns) / 1e9
            left_s = None if self._config.triggered else timeout_s - heard_s
            if left_s is not None and left_s <= 0:
                session.lose("silent", f"no picture within {timeout_s:g} s")
            else:
                self._clock.wait(self._changed, over, left_s)

    def _lost(self, kind: str, cause: str) -> None:
        self._losses[kind] += 1
        self._state, self._cause = "lost", cause
        self._changed.notify_all()

    def _stop(self, session: _Session) -> None:
        """End a wait of the source's own, where it has a `stop` that returns at once; its thread closes it then."""
        stop = getattr(session.camera, "stop", None)
        if stop is not None:
            stop()

    def _take(self, session: _Session) -> None:
        kind, cause = "closed", ""
        camera: Camera | None = None
        try:
            camera = self._open()
            kind = "ended"
            with self._changed:
                session.camera, session.heard_ns = camera, self._clock.now_ns()
                self._changed.notify_all()
            while not session.over:
                frame = camera.read()
                if frame is None:
                    cause = "the source ended"
                    break
                self._arrived(session, frame)
        except CameraError as error:
            cause = str(error).replace(self._config.source, self._name).removeprefix(f"{self._name}: ")
        except Exception as error:  # whatever a driver throws; its text may hold the address
            kind, cause = "failed", f"the camera failed ({type(error).__name__})"
        finally:
            with self._changed:
                session.lose(kind, cause)
                self._changed.notify_all()
            with suppress(Exception):  # what does not close was lost before, with its cause
                if camera is not None:
                    camera.close()
            with self._changed:
                session.done = True
                self._changed.notify_all()

    def _arrived(self, session: _Session, frame: Frame) -> None:
        with self._changed:
            if session.over:
                self._backlog.lose(LATE)
                return
            self._stamps[frame.stamped] += 1
            refusal = self._checks.look(frame)
            self._backlog.put(self._judged(frame, refusal))
            if refusal is not None and refusal.check == "frozen":
                session.lose("frozen", refusal.cause)
            elif frame.frame_bgr is not None:
                session.heard_ns = self._clock.now_ns()
                session.first_ns = session.first_ns or session.heard_ns
                self._picture_ns, self._stamped = frame.taken_ns, frame.stamped
                self._reconnects += self._state == "lost"
                self._state = "live"
            self._changed.notify_all()


def watch(config: CameraConfig) -> WatchedCamera:
    """Watch over the source that the config names."""

    def open_() -> Camera:
        kind, colon, name = config.source.partition(":")
        if colon and kind == "aravis":
            from edge_runtime.camera.aravis import open_aravis

            return open_aravis(name)
        return open_live(config.source, config.timeout_s)

    return WatchedCamera(open_, config)
