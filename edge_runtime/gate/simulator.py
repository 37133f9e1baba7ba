"""A conveyor with parts, an encoder, a verdict source and a gate, in simulated time: nothing waits.

It drives a real `GateDriver` and knows where each part truly is, whatever clock and encoder say, so it can
count what must be zero: parts that went through the gate without a PASS. Leaves out: real threads and
real time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from diagline.verdict import State, Verdict
from edge_runtime.gate.config import GateConfig
from edge_runtime.gate.driver import GateDriver, SimulatedActuator
from edge_runtime.gate.gate import MS, Did, GateEvent
from edge_runtime.trigger import Trigger

Span = tuple[int, int]
"""From a millisecond up to, not including, another."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part on the belt, and what the verdict source will say of it.

    Attributes:
        at: place on the belt; it is triggered when the belt has moved so many counts.
        strays: counts by which it reaches the gate early (negative) or late.
        says: milliseconds after its trigger, and the verdict then; several, or none.
        announced: False: its trigger is lost.
    """

    part_id: str
    at: int
    strays: int = 0
    says: tuple[tuple[int, State], ...] = ()
    announced: bool = True


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong when, in milliseconds of the run.

    Attributes:
        loop: no heartbeat.
        gate: the gate's thread does not run.
        belt: the belt stands still.
        encoder_dead: the encoder keeps its count while the belt runs, and has lost those counts afterwards.
        encoder_silent: reading the encoder raises.
        encoder_steps: a jump of the encoder's count, back where negative.
        clock_steps: a jump of the clock, in milliseconds.
        actuator: the actuator raises.
        unknown: a PASS comes for a part that nobody announced.
    """

    loop: Sequence[Span] = ()
    gate: Sequence[Span] = ()
    belt: Sequence[Span] = ()
    encoder_dead: Sequence[Span] = ()
    encoder_silent: Sequence[Span] = ()
    encoder_steps: Mapping[int, int] = field(default_factory=dict)
    clock_steps: Mapping[int, int] = field(default_factory=dict)
    actuator: Sequence[Span] = ()
    unknown: Iterable[int] = ()


@dataclass(slots=True)
class Outcome:
    """What became of the parts, by part id.

    Attributes:
        passed, rejected: as the parts truly went.
        wrong: parts that passed without a PASS, or in spite of a second verdict, told before they reached the gate.
        events: the gate's own record.
        triggered_ms, arrived_ms: when each part was at the camera and at the gate.
    """

    passed: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)
    events: list[GateEvent] = field(default_factory=list)
    triggered_ms: dict[str, int] = field(default_factory=dict)
    arrived_ms: dict[str, int] = field(default_factory=dict)

    def did(self, part_id: str) -> list[Did]:
        """What the gate says it did with a part: one entry for each part announced."""
        return [event.did for event in self.events if event.part_id == part_id and event.did is not Did.NOTED]


class Conveyor:
    """A belt that moves `counts_per_ms` each millisecond; the encoder gives one count for each."""

    def __init__(self, config: GateConfig, counts_per_ms: int = 10, hold_ms: int = 20) -> None:
        """Set up camera and gate; by delay, the gate stands where a part is after the delay.

        Args:
            hold_ms: the actuator falls back to reject when it was not told again for so long.
        """
        self._speed = counts_per_ms
        if config.by == "encoder":
            self._gate_at = config.distance + config.open_counts // 2
        else:
            self._gate_at = round((config.delay_ms + config.open_ms / 2) * counts_per_ms)
        self._clock_ns = 10**12
        self._encoder = 1000
        self._encoder_answers = True
        self.actuator = SimulatedActuator(hold_ms * MS, lambda: self._true_ns)
        self._true_ns = 0
        self.outcome = Outcome()
        encoder = self._read_encoder if config.by == "encoder" else None
        self.driver = GateDriver(config, self.actuator, self.outcome.events.append, encoder, lambda: self._clock_ns)

    def run(self, parts: Sequence[Part], faults: Faults | None = None) -> Outcome:
        """Run the belt until the last part has gone by, and what the gate has to say of it is said."""
        faults, gate = faults or Faults(), self.driver.gate
        unknown = set(faults.unknown)
        waiting, on_belt = sorted(parts, key=lambda part: part.at, reverse=True), list[Part]()
        verdicts: dict[int, list[tuple[Part, State]]] = {}
        told: list[tuple[Part, State]] = []  # what no step has seen yet
        said: dict[str, set[State]] = {}
        belt = ms = 0
        after = 0
        while waiting or on_belt or after < 2 * self._gate_at // self._speed + 100:
            after = 0 if waiting or on_belt else after + 1
            ms += 1
            self._true_ns += MS
            self._clock_ns += (1 + faults.clock_steps.get(ms, 0)) * MS
            moves = 0 if _within(ms, faults.belt) else self._speed
            belt += moves
            self._encoder += (0 if _within(ms, faults.encoder_dead) else moves) + faults.encoder_steps.get(ms, 0)
            self._encoder_answers = not _within(ms, faults.encoder_silent)
            self.actuator.broken = RuntimeError("no power") if _within(ms, faults.actuator) else None
            while waiting and waiting[-1].at <= belt:
                part = waiting.pop()
                on_belt.append(part)
                self.outcome.triggered_ms[part.part_id] = ms
                if part.announced:
                    position = self._encoder if self._encoder_answers else None
                    gate.expect(Trigger(part.part_id, self._clock_ns, "", position))
                    for after_ms, state in part.says:
                        verdicts.setdefault(ms + after_ms, []).append((part, state))
            for part, state in verdicts.pop(ms, ()):
                gate.judge(verdict(part.part_id, state))
                told.append((part, state))
            if ms in unknown:
                gate.judge(verdict(f"nobody-{ms}", State.PASS))
            if not _within(ms, faults.loop):
                gate.beat(self._clock_ns)
            if not _within(ms, faults.gate):
                self.driver.step()
                for part, state in told:
                    said.setdefault(part.part_id, set()).add(state)
                told.clear()
            for part in [part for part in on_belt if part.at + part.strays + self._gate_at <= belt]:
                on_belt.remove(part)
                self._arrive(part, ms, said.get(part.part_id) == {State.PASS})
        return self.outcome

    def _arrive(self, part: Part, ms: int, confirmed: bool) -> None:
        outcome = self.outcome
        outcome.arrived_ms[part.part_id] = ms
        (outcome.passed if self.actuator.is_open else outcome.rejected).add(part.part_id)
        if self.actuator.is_open and not confirmed:
            outcome.wrong.add(part.part_id)

    def _read_encoder(self) -> int:
        if not self._encoder_answers:
            raise OSError("no answer")
        return self._encoder


def verdict(part_id: str, state: State) -> Verdict:
    """A verdict as the loop gives it."""
    logit = {State.PASS: -1.0, State.REJECT: 1.0, State.NO_DECISION: None}[state]
    return Verdict(part_id, state, logit, 0.0, "tiny@000000000000", "", None if logit is not None else "timeout")


def _within(ms: int, spans: Iterable[Span]) -> bool:
    return any(start <= ms < end for start, end in spans)
