"""Ready, Trigger, Busy, ResultValid, Pass, Fault: what a PLC and the box tell each other about one part.

    READY --trigger rises--> BUSY --verdict, or none in time--> RESULT --ack rises--> RELEASE --both low--> READY

A pure state machine over levels, drawn in `docs/gate.md`. Pass stands only with ResultValid, and never with
Fault; Fault implies NG. A fault that falls into a cycle stands until its ack. Leaves out: how bits travel
(`modbus_server.py`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from diagline.verdict import State

U32 = 2**32


class Error(enum.IntEnum):
    """Why Fault is up; the first one stands until it is acknowledged."""

    NONE = 0
    OVERRUN = 1
    """The trigger rose before the cycle under way was over."""
    TIMEOUT = 2
    """No verdict in time."""
    NO_DECISION = 3
    """The verdict is NO_DECISION."""
    NOT_READY = 4
    """The trigger rose while Ready was down for a fault."""
    PLC_SILENT = 5
    """The PLC has stopped writing its watchdog."""
    LOOP_SILENT = 6
    """The inspecting loop has stopped beating."""
    BOX = 7
    """The box says so itself: camera, model, gate."""


class Phase(enum.Enum):
    """Where the cycle stands."""

    READY = "ready"
    BUSY = "busy"
    RESULT = "result"
    RELEASE = "release"
    """Waits until trigger and ack are low, also at the start."""


class Result(enum.IntEnum):
    """The result word: 0 while there is none."""

    NONE = 0
    PASS = 1
    REJECT = 2
    NO_DECISION = 3


@dataclass(frozen=True, slots=True)
class Signals:
    """What the PLC reads.

    Attributes:
        ng: Fault, or a result that is not Pass.
        acquisition: number of the last trigger taken, from 1; wraps at 2**32.
        overruns: triggers that rose before the cycle under way was over; they got no acquisition.
        missed: triggers taken that came while a fault stood, or got no verdict in time.
    """

    ready: bool
    busy: bool
    result_valid: bool
    passed: bool
    ng: bool
    fault: bool
    acquisition: int
    overruns: int
    missed: int
    result: Result
    error: Error


class Handshake:
    """One cycle at a time."""

    def __init__(self, timeout_ns: int) -> None:
        """A trigger that is high at the start is not an edge.

        Args:
            timeout_ns: after it a trigger without a verdict ends as NG.
        """
        self._timeout_ns = timeout_ns
        self._phase = Phase.RELEASE
        self._trigger = self._ack = True
        self._acquisition = self._overruns = self._missed = self._started_ns = 0
        self._is_missed = False
        self._result = Result.NONE
        self._latched = self._standing = Error.NONE

    @property
    def _error(self) -> Error:
        return self._latched or self._standing

    def step(self, trigger: bool, ack: bool, now_ns: int, standing: Error = Error.NONE) -> Signals:
        """Take the PLC's two bits; a new acquisition number says that a trigger was taken.

        Args:
            now_ns: monotonic clock.
            standing: a fault that lasts for as long as it is handed in here.
        """
        self._standing = standing
        trigger_rises, ack_rises = trigger and not self._trigger, ack and not self._ack
        self._trigger, self._ack = trigger, ack
        if ack_rises and self._phase is not Phase.BUSY:
            self._phase, self._result, self._latched = Phase.RELEASE, Result.NONE, Error.NONE
        elif self._phase is Phase.RELEASE and not trigger and not ack:
            self._phase = Phase.READY
        if trigger_rises:
            self._pull(now_ns)
        if self._phase is Phase.BUSY and now_ns - self._started_ns > self._timeout_ns:
            self._miss()
            self._latch(Error.TIMEOUT)
            self._end(Result.NO_DECISION)
        if self._phase in (Phase.BUSY, Phase.RESULT):
            self._latch(standing)
        return self.signals()

    def result(self, acquisition: int, state: State) -> bool:
        """Tell the verdict of an acquisition; False: it came too late or belongs to no cycle under way."""
        if self._phase is not Phase.BUSY or acquisition != self._acquisition:
            return False
        if state is State.NO_DECISION:
            self._latch(Error.NO_DECISION)
        self._end(Result[state.name])
        return True

    def signals(self) -> Signals:
        """What the PLC reads now."""
        error, valid = self._error, self._phase is Phase.RESULT
        result = Result.NO_DECISION if error and self._result is Result.PASS else self._result
        passed = valid and result is Result.PASS
        return Signals(
            ready=self._phase is Phase.READY and not error,
            busy=self._phase is Phase.BUSY,
            result_valid=valid,
            passed=passed,
            ng=bool(error) or (valid and not passed),
            fault=bool(error),
            acquisition=self._acquisition,
            overruns=self._overruns,
            missed=self._missed,
            result=result,
            error=error,
        )

    def _pull(self, now_ns: int) -> None:
        if self._phase is not Phase.READY:
            self._overruns = (self._overruns + 1) % U32
            self._latch(Error.OVERRUN)
            return
        self._phase, self._started_ns, self._is_missed = Phase.BUSY, now_ns, False
        self._acquisition = (self._acquisition + 1) % U32
        if self._error:
            self._miss()
            self._latch(Error.NOT_READY)

    def _miss(self) -> None:
        if not self._is_missed:
            self._is_missed, self._missed = True, (self._missed + 1) % U32

    def _latch(self, error: Error) -> None:
        self._latched = self._latched or error

    def _end(self, result: Result) -> None:
        self._phase, self._result = Phase.RESULT, result
