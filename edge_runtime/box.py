"""The box beside the line: triggers in, one verdict each out, in time, whatever fails on the way.

    trigger -> frame -> region -> preprocess -> engine -> verdict -> gate, archive, outputs

The inspection runs on a thread of its own; deadlines are watched by another (`ledger.py`), so that
a hanging camera or engine costs verdicts, which are NO_DECISION, and nothing else. What hears of a
decision must not block. Leaves out: who pulls triggers, and what gate, archive and outputs do.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Bundle
from diagline.errors import BundleError
from diagline.verdict import State, Verdict
from edge_runtime.camera.frames import Frame
from edge_runtime.ledger import Decision, Ledger, Tally
from edge_runtime.loop import Inspector
from edge_runtime.trigger import Trigger

Listener = Callable[[Decision], None]
BEAT_S = 0.05


class Frames(Protocol):
    """What the box needs of a camera."""

    def frame_for(self, trigger: Trigger, timeout_s: float) -> Frame:
        """The frame of a trigger, or one without a picture and with a cause."""
        ...


@dataclass(frozen=True, slots=True)
class Region:
    """The part of a frame that is judged, in pixels from its top left corner."""

    left_px: int
    top_px: int
    width_px: int
    height_px: int

    def cut(self, frame: Frame) -> Frame:
        """The frame's region; a frame that does not hold it has a cause in place of its picture."""
        if frame.frame_bgr is None:
            return frame
        height_px, width_px = frame.frame_bgr.shape[:2]
        right, bottom = self.left_px + self.width_px, self.top_px + self.height_px
        if min(self.left_px, self.top_px) < 0 or right > width_px or bottom > height_px:
            cause = f"the frame is {width_px}x{height_px}; the region ends at {right}x{bottom}"
            return replace(frame, frame_bgr=None, cause=cause)
        return replace(frame, frame_bgr=frame.frame_bgr[self.top_px : bottom, self.left_px : right])


@dataclass(frozen=True, slots=True)
class Shown:
    """A judged part, for people to look at.

    Attributes:
        image_bgr: the region that was judged.
        heat: (rows, columns) float32 of logits; None where the file has no heat map.
        inspector: what judged it.
    """

    verdict: Verdict
    image_bgr: NDArray[np.uint8]
    heat: NDArray[np.float32] | None
    inspector: Inspector


@dataclass(frozen=True, slots=True)
class BoxHealth:
    """The box at one moment.

    Attributes:
        oldest_open_s: how long the oldest open part has waited; None where none is open.
        model: of the bundle that judges.
        fault: why every verdict is NO_DECISION; None where the self-test passed.
        failures: by listener, how often it raised.
        last_failure: the last of them, in words.
    """

    tally: Tally
    oldest_open_s: float | None
    model: str
    fault: str | None
    failures: dict[str, int]
    last_failure: str | None


class Box:
    """Judges what triggers ask for with one inspector, which can be exchanged while it runs."""

    def __init__(
        self,
        frames: Frames,
        inspector: Inspector,
        listeners: Mapping[str, Listener],
        deadline_ms: float,
        most_open: int = 16,
        region: Region | None = None,
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Start nothing yet.

        Args:
            beat: called by the inspecting thread after every part, and every `BEAT_S` without one.
            listeners: by name, called in order with every decision, the gate first.
            deadline_ms: from the trigger to its verdict.
            most_open: parts that may wait for a verdict at once.
        """
        self._frames, self._inspector, self._region, self._beat = frames, inspector, region, beat
        self._listeners = dict(listeners)
        self._ledger = Ledger(round(deadline_ms * 1e6), most_open, self._undecided, self._tell, clock)
        self._failures: Counter[str] = Counter()
        self._last_failure: str | None = None
        self._telling = threading.RLock()
        self._shown: Shown | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._inspect, name="inspect", daemon=True)

    def start(self) -> None:
        """Judge from now on."""
        self._ledger.start()
        self._thread.start()

    def close(self, wait_s: float = 1.0) -> None:
        """Stop: what is open becomes NO_DECISION; an inspection that hangs is left to its thread."""
        self._closing = True
        self._thread.join(wait_s)
        self._ledger.close(wait_s)

    def pull(self, trigger: Trigger, frame: Frame | None = None) -> None:
        """Ask for a verdict; returns at once.

        Args:
            frame: the part's own frame, where the camera runs free; None asks the camera for it.
        """
        self._ledger.open(trigger, frame)

    def switch(self, inspector: Inspector) -> Bundle:
        """Judge with another inspector from the next part on; returns the bundle that judged before.

        Raises:
            BundleError: its self-test failed; the old one stays.
        """
        if inspector.fault is not None:
            raise BundleError(f"{inspector.bundle.root}: {inspector.fault}; {self._inspector.bundle.model} stays")
        before, self._inspector = self._inspector, inspector  # one assignment: each part sees one of them, whole
        return before.bundle

    def listen(self, name: str, listener: Listener) -> None:
        """Tell one more, after the others."""
        with self._telling:
            self._listeners[name] = listener

    def unlisten(self, name: str) -> None:
        """Tell that one no more."""
        with self._telling:
            self._listeners.pop(name, None)

    @property
    def inspector(self) -> Inspector:
        """What judges now."""
        return self._inspector

    @property
    def shown(self) -> Shown | None:
        """The last part that was judged; None before the first."""
        return self._shown

    def stand_down(self, cause: str) -> None:
        """Say NO_DECISION to everything, until another inspector is switched to."""
        self._inspector.fault = cause

    def health(self) -> BoxHealth:
        """Counters, model and faults."""
        inspector = self._inspector
        return BoxHealth(
            tally=self._ledger.tally(),
            oldest_open_s=self._ledger.oldest_open_s(),
            model=inspector.bundle.model,
            fault=inspector.fault,
            failures=dict(self._failures),
            last_failure=self._last_failure,
        )

    def _inspect(self) -> None:
        while not self._closing:
            self._pulse()
            part = self._ledger.next(BEAT_S)  # one whose deadline is over is not among them
            if part is None:
                continue
            ticket, trigger, frame = part.ticket, part.trigger, part.frame
            try:
                if frame is None:
                    frame = self._frames.frame_for(trigger, self._ledger.remaining_s(trigger))
                if self._region is not None:
                    frame = self._region.cut(frame)
                verdict = self._judge(trigger, frame)
                self._ledger.decide(ticket, verdict, frame)
            except Exception as error:  # a camera's fault must not end the thread that owes verdicts
                self._ledger.give_up(ticket, f"camera: {type(error).__name__}: {' '.join(str(error).split())}")

    def _judge(self, trigger: Trigger, frame: Frame) -> Verdict:
        inspector = self._inspector
        found = inspector.inspect(frame)
        verdict = replace(found, part_id=trigger.part_id, stamps_ns={"triggered": trigger.at_ns, **found.stamps_ns})
        if frame.frame_bgr is not None and verdict.logit is not None:
            self._shown = Shown(verdict, frame.frame_bgr, inspector.engine.heat(), inspector)
        return verdict

    def _pulse(self) -> None:
        try:
            self._beat()
        except Exception as error:
            self._failures["beat"] += 1
            self._last_failure = f"beat: {type(error).__name__}: {' '.join(str(error).split())}"

    def _undecided(self, trigger: Trigger, cause: str) -> Verdict:
        inspector = self._inspector
        return Verdict(
            part_id=trigger.part_id,
            state=State.NO_DECISION,
            logit=None,
            threshold=inspector.threshold,
            model=inspector.bundle.model,
            taken_utc=trigger.at_utc,
            cause=cause,
            stamps_ns={"triggered": trigger.at_ns, "decided": time.monotonic_ns()},
        )

    def _tell(self, decision: Decision) -> None:
        with self._telling:  # deadline and inspection decide on threads of their own
            for name, listener in self._listeners.items():
                try:
                    listener(decision)
                except Exception as error:  # one deaf listener must not keep the decision from the others
                    self._failures[name] += 1
                    self._last_failure = f"{name}: {type(error).__name__}: {' '.join(str(error).split())}"
