"""The gate's thread: reads clock and encoder, steps the state machine, moves the actuator, keeps the record.

It never dies: an encoder or actuator that raises is a fault of the gate, and the actuator is told to
reject at every step until it does. Leaves out: what is decided (`gate.py`) and real actuators (`gpio.py`,
`plc/coil.py`). A process that the system stops or kills closes nothing: wire the gate through something that
falls back by itself (`docs/gate.md`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_runtime.gate.config import GateConfig
from edge_runtime.gate.gate import MS, Gate, GateEvent

CLOSE_WAIT_S = 1.0
READS = 3


class Actuator(Protocol):
    """What moves the gate. Without power it rejects. Each step tells it again, so it must not mind repetition."""

    def accept(self) -> None:
        """Open; raises whatever kept it from that."""
        ...

    def reject(self) -> None:
        """Close; raises whatever kept it from that."""
        ...

    def close(self) -> None:
        """Reject and let go; never raises."""
        ...


class SimulatedActuator:
    """Remembers what it was told; falls back to reject when it is not told again within `hold_ns`.

    Attributes:
        broken: what `accept` and `reject` raise; None while it works.
    """

    def __init__(self, hold_ns: int = 20 * MS, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.broken: Exception | None = None
        self.closed = False
        self._hold_ns, self._clock = hold_ns, clock
        self._accepted_ns: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether a part passes now."""
        return self._accepted_ns is not None and self._clock() - self._accepted_ns <= self._hold_ns

    def accept(self) -> None:
        """Open until `hold_ns` from now."""
        if self.broken is not None:
            raise self.broken
        self._accepted_ns = self._clock()

    def reject(self) -> None:
        """Close."""
        if self.broken is not None:
            raise self.broken
        self._accepted_ns = None

    def close(self) -> None:
        """Close for good."""
        self._accepted_ns, self.closed = None, True


@dataclass(frozen=True, slots=True)
class GateHealth:
    """How the gate fares.

    Attributes:
        fault: why everything is rejected; None while it is not.
        on_the_way: parts between camera and gate.
        counts: see `Gate.counts`.
        actuator_errors, encoder_errors, record_errors: calls that raised.
        stepped_ns: monotonic clock of the last step; one long ago is a thread that hangs.
    """

    fault: str | None
    on_the_way: int
    counts: dict[str, int]
    actuator_errors: int
    encoder_errors: int
    record_errors: int
    stepped_ns: int | None


class GateDriver:
    """A gate at work. Announce parts and verdicts to `gate` directly.

    Attributes:
        gate: the state machine; `expect`, `judge`, `beat` and `fail` are safe from any thread.
    """

    def __init__(
        self,
        config: GateConfig,
        actuator: Actuator,
        record: Callable[[GateEvent], None],
        encoder: Callable[[], int] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Nothing moves before `start`.

        Args:
            record: takes each event; must return at once.
            encoder: the present count; needed where the gate goes by encoder.
        """
        self.gate = Gate(config)
        self._actuator, self._record, self._encoder, self._clock = actuator, record, encoder, clock
        self._errors = {"actuator": 0, "encoder": 0, "record": 0}
        self._stepped_ns: int | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def step(self) -> None:
        """One step, as the thread does it; never raises."""
        now_ns, position = self._look()
        command = self.gate.step(now_ns, position)
        self._move(command.accept)
        for event in command.events:
            try:
                self._record(event)
            except Exception:
                self._errors["record"] += 1
        self._stepped_ns = now_ns

    def health(self) -> GateHealth:
        """How it fares now."""
        errors = self._errors
        return GateHealth(
            self.gate.fault,
            self.gate.on_the_way,
            dict(self.gate.counts),
            errors["actuator"],
            errors["encoder"],
            errors["record"],
            self._stepped_ns,
        )

    def close(self) -> None:
        """Stop the thread and reject; an actuator that hangs is left to its thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_WAIT_S)
        self._actuator.close()

    def _look(self) -> tuple[int, int | None]:
        now_ns = self._clock()
        if self._encoder is None:
            return now_ns, None
        for _ in range(READS):  # again where the system took the processor away between clock and encoder
            before_ns = now_ns
            try:
                position = self._encoder()
            except Exception:
                self._errors["encoder"] += 1
                return now_ns, None
            now_ns = self._clock()
            if now_ns - before_ns <= self.gate.config.step_ms * MS:
                break
        return now_ns, position

    def _move(self, accept: bool) -> None:
        try:
            if accept:
                self._actuator.accept()
            else:
                self._actuator.reject()
        except Exception as error:
            self._errors["actuator"] += 1
            self.gate.fail(f"actuator: {type(error).__name__}: {' '.join(str(error).split())}")
            if accept:
                self._move(False)

    def _run(self) -> None:
        step_s = self.gate.config.step_ms / 1000
        while not self._closing.wait(step_s):
            self.step()
