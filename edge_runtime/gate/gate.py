"""The gate fails closed: it opens for one part, on that part's confirmed PASS, while that part goes by.

Parts reach the gate in the order of their triggers, a delay or a distance later. Whatever casts doubt
on that (an encoder that jumps, runs back or stands still, a clock that jumps, more parts than configured,
a verdict on a part nobody announced) rejects everything on the way. A pure state machine: time and
position come in, one command goes out. Leaves out: the thread and the actuator (`driver.py`), and
what cannot be seen from here: an encoder that quietly loses counts.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from diagline.verdict import Verdict
from edge_runtime.gate.config import GateConfig
from edge_runtime.trigger import Trigger

MS = 1_000_000
INBOX_MAX = 10_000
NO_BEAT = "no heartbeat of the loop"


class Did(enum.Enum):
    """What the gate did with a part. Each part announced gets one of the first three, once."""

    PASSED = "passed"
    REJECTED = "rejected"
    UNSURE = "unsure"
    """It was open for the part, then closed on it."""
    NOTED = "noted"
    """Nothing; something about the gate or a verdict is put on record."""


@dataclass(frozen=True, slots=True)
class GateEvent:
    """One line of the gate's record.

    Attributes:
        part_id: None where it concerns no part.
        at_ns: monotonic clock of the step that decided it.
        position: encoder count of that step; None by delay.
        why: the verdict, or what kept the gate closed.
    """

    part_id: str | None
    did: Did
    at_ns: int
    position: int | None
    why: str


@dataclass(frozen=True, slots=True)
class Command:
    """What the actuator is to do until the next step, and what goes on record."""

    accept: bool
    events: tuple[GateEvent, ...]


@dataclass(slots=True)
class _Part:
    part_id: str
    start: int  # ns or counts, as the gate reckons
    end: int
    passes: bool | None = None
    why: str = "no verdict before it reached the gate"
    opened: bool = False
    closed: bool = False  # for good, as far as this part goes

    def close(self, why: str) -> None:
        if not self.closed:
            self.closed, self.why = True, why

    @property
    def did(self) -> Did:
        if not self.opened:
            return Did.REJECTED
        return Did.UNSURE if self.closed else Did.PASSED


class Gate:
    """The state machine. All but `step` may be called from any thread; `step` from one.

    Attributes:
        counts: parts by what the gate did, verdicts that were late, second or unknown, and faults.
        fault: why everything is rejected at the moment; None while it is not.
    """

    def __init__(self, config: GateConfig) -> None:
        self.config = config
        self.counts = dict.fromkeys(("passed", "rejected", "unsure", "late", "second", "unknown", "faults"), 0)
        self.fault: str | None = "no heartbeat yet"
        self._by_time = config.by == "delay"
        self._offset = round(config.delay_ms * MS) if self._by_time else config.distance
        self._width = round(config.open_ms * MS) if self._by_time else config.open_counts
        self._inbox: deque[Trigger | Verdict | str] = deque()
        self._flooded = False
        self._ahead: Trigger | None = None
        self._parts: deque[_Part] = deque()
        self._gone: deque[tuple[str, bool]] = deque(maxlen=4 * config.parts_max)  # part, whether it had a verdict
        self._events: list[GateEvent] = []
        self._beat_ns: int | None = None
        self._beats = False
        self._now: int | None = None
        self._position: int | None = None  # None: the encoder has not answered
        self._place = self._moved_ns = self._doubted_ns = 0
        self._last_start: int | None = None
        self._closed_until: int | None = None
        self._closed_why = ""
        self._latched: str | None = None
        self._acknowledged = False

    def expect(self, trigger: Trigger) -> None:
        """Announce a part: every trigger, in order, also one that no verdict will follow."""
        self._put(trigger)

    def judge(self, verdict: Verdict) -> None:
        """Tell a part's verdict. The first counts, unless a later one is not PASS."""
        self._put(verdict)

    def fail(self, why: str) -> None:
        """Reject everything on the way: a trigger was lost, an actuator failed."""
        self._put(why)

    def beat(self, now_ns: int) -> None:
        """Show that the loop lives."""
        self._beat_ns = now_ns

    def acknowledge(self) -> str | None:
        """Let the gate work again after a fault; which one, or None where none waits (`GateConfig.latch`).

        A fault whose cause still stands is there again with the next step.
        """
        waits, self._acknowledged = self._latched, True
        return waits

    @property
    def waits(self) -> bool:
        """Whether a fault waits to be acknowledged."""
        return self._latched is not None

    @property
    def on_the_way(self) -> int:
        """Parts between camera and gate."""
        return len(self._parts)

    def step(self, now_ns: int, position: int | None = None) -> Command:
        """Move on to `now_ns` (monotonic) and `position` (by encoder; None: it does not answer)."""
        acknowledged, self._acknowledged = self._acknowledged, False
        if acknowledged and self._latched is not None:
            self._latched = None
            self._note("acknowledged")
        self._advance(now_ns, position)
        self._take_in()
        self._look()
        accept = self._open()
        events, self._events = tuple(self._events), []
        return Command(accept, events)

    def _put(self, told: Trigger | Verdict | str) -> None:
        if len(self._inbox) < INBOX_MAX:
            self._inbox.append(told)
        else:
            self._flooded = True

    def _advance(self, now_ns: int, position: int | None) -> None:
        gap_ns = 0 if self._now is None else now_ns - self._now
        self._now, doubt = now_ns, None
        if gap_ns < 0:
            doubt = f"the clock ran back by {-gap_ns / MS:g} ms"
        elif gap_ns > self.config.gap_ms * MS:
            doubt = f"the gate did not run for {gap_ns / MS:.0f} ms"
        if self._by_time:
            self._place = now_ns
        else:
            moved = self._move(now_ns, position, gap_ns)
            doubt = doubt or moved
        if doubt is not None:
            self._forget(doubt)

    def _move(self, now_ns: int, position: int | None, gap_ns: int) -> str | None:
        """Take the encoder's count; what is wrong with it, or None."""
        before, self._position = self._position, position
        if position is None:
            return "the encoder does not answer"
        moved, slack = position - self._place, self.config.jitter_counts
        most = self.config.counts_per_s * (gap_ns + self.config.step_ms * MS) / 1e9 + slack  # it was read within a step
        if before is None:
            doubt = None if self._closed_until is None else "the encoder answers again"
        elif moved < -slack:
            doubt = f"the encoder ran back by {-moved} counts"
        elif moved > most:
            doubt = f"the encoder jumped by {moved} counts"
        elif moved > 0:
            doubt = None
        elif self._parts and now_ns - self._moved_ns > self.config.stall_ms * MS:
            doubt = f"the encoder stood still for {(now_ns - self._moved_ns) / MS:.0f} ms"
        else:
            return None  # keeps the furthest count, so that creeping back adds up
        self._place, self._moved_ns = position, now_ns
        return doubt

    def _take_in(self) -> None:
        while self._inbox:
            match self._inbox[0]:
                case Trigger() as trigger:
                    if self._is_ahead(trigger) and trigger is not self._ahead:
                        self._ahead = trigger  # pulled after this step's clock was read; the next step looks again
                        break
                    self._expect(trigger)
                case Verdict() as verdict:
                    self._judge(verdict)
                case why:
                    self._forget(why)
            self._inbox.popleft()
        if self._flooded:
            self._flooded = False
            self._forget("the gate was told more than it could take in")

    def _origin(self, trigger: Trigger) -> int | None:
        return trigger.at_ns if self._by_time else trigger.position

    def _is_ahead(self, trigger: Trigger) -> bool:
        origin, slack = self._origin(trigger), 0 if self._by_time else self.config.jitter_counts
        return origin is not None and origin > self._place + slack

    def _expect(self, trigger: Trigger) -> None:
        origin, part = self._origin(trigger), _Part(trigger.part_id, 0, 0)
        if trigger.at_ns < self._doubted_ns:  # it still counts as old; the gate stays closed until it has gone by
            self._done(part, f"it was triggered before the fault: {self._closed_why}")
            return
        doubt = None
        if origin is None:
            origin, doubt = 0, "it was triggered without an encoder position"
        elif self._is_ahead(trigger):
            doubt = "it was triggered in the future"
        elif self._last_start is not None and origin + self._offset < self._last_start:
            doubt = "its trigger came out of order"
        elif self._find(trigger.part_id) is not None or any(trigger.part_id == gone for gone, _ in self._gone):
            doubt = "its part id was used before"
        elif len(self._parts) >= self.config.parts_max:
            doubt = f"more than {self.config.parts_max} parts are on the way"
        if doubt is not None:
            self._done(part, doubt)
            self._forget(f"part {trigger.part_id}: {doubt}")
            return
        part.start = self._last_start = origin + self._offset
        part.end = part.start + self._width
        self._parts.append(part)

    def _judge(self, verdict: Verdict) -> None:
        said = verdict.state.value + (f": {verdict.cause}" if verdict.cause else "")
        part = self._find(verdict.part_id)
        if part is None:
            judged = next((had for gone, had in reversed(self._gone) if gone == verdict.part_id), None)
            kind = {None: "unknown", False: "late", True: "second"}[judged]
        elif part.passes is not None:
            kind = "second"
            if part.passes and not verdict.opens_gate:
                part.passes = False
                part.close(f"{said}, after a PASS")
        else:
            part.passes = verdict.opens_gate
            if not part.closed:
                part.why = said
                return
            kind = "late"
        self.counts[kind] += 1
        self._note(f"{kind} verdict: {said}", verdict.part_id)
        if kind == "unknown":
            self._forget(f"a verdict on part {verdict.part_id}, which was not announced")

    def _look(self) -> None:
        """Whether anything keeps the gate closed."""
        now = self._now or 0
        beats = self._beat_ns is not None and abs(now - self._beat_ns) <= self.config.heartbeat_ms * MS
        if beats != self._beats:
            self._beats = beats
            self.counts["faults"] += not beats
            self._note("the loop beats" if beats else NO_BEAT)
            if not beats:
                self._latch(NO_BEAT)
        if self._closed_until is not None and self._place >= self._closed_until:
            self._closed_until = None
            self._note("what was on the way has gone by")
        if not beats:
            self.fault = "no heartbeat yet" if self._beat_ns is None else NO_BEAT
        elif self._closed_until is not None:
            self.fault = self._closed_why
        else:
            self.fault = None if self._latched is None else f"{self._latched}, not acknowledged"

    def _open(self) -> bool:
        """Settle the parts at the gate and those that have gone by; whether it is open until the next step."""
        while self._parts and self._parts[0].end <= self._place:
            part = self._parts.popleft()
            if part.passes and not part.opened:
                part.close("the gate did not run while it went by")
            self._done(part, part.why)
        here = [part for part in self._parts if part.start <= self._place]
        for part in here:
            if self.fault is not None or not part.passes:
                part.close(self.fault or part.why)
        shut = next((part for part in here if part.closed), None)
        for part in here:
            if shut is None:
                part.opened = True
            else:
                part.close(f"part {shut.part_id} is at the gate with it")
        return bool(here) and shut is None

    def _forget(self, why: str) -> None:
        """Reject everything on the way, announced or not: closed until it has all gone by."""
        if self._closed_until is None:
            self.counts["faults"] += 1
            self._note(why)
        while self._parts:
            part = self._parts.popleft()
            part.close(why)
            self._done(part, part.why)
        self._latch(why)
        self._closed_until, self._closed_why = self._place + self._offset + self._width, why
        self._doubted_ns, self._last_start = self._now or 0, None

    def _latch(self, why: str) -> None:
        if self.config.latch and self._latched is None:
            self._latched = why

    def _done(self, part: _Part, why: str) -> None:
        self._gone.append((part.part_id, part.passes is not None))
        self.counts[part.did.value] += 1
        self._events.append(GateEvent(part.part_id, part.did, self._now or 0, self._position, why))

    def _find(self, part_id: str) -> _Part | None:
        return next((part for part in self._parts if part.part_id == part_id), None)

    def _note(self, why: str, part_id: str | None = None) -> None:
        self._events.append(GateEvent(part_id, Did.NOTED, self._now or 0, self._position, why))
