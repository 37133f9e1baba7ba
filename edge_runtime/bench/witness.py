"""What became of every part of one run: heard from the box, written down, and counted afterwards.

Leaves out: pulling the parts (`line.py`).
"""

from __future__ import annotations

import threading
import time
from array import array
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from diagline.verdict import State
from edge_runtime import recent
from edge_runtime.bench.measure import Latency
from edge_runtime.ledger import Decision
from edge_runtime.trigger import Trigger

STAGES = {
    "frame": recent.STAGES["frame"],
    "preprocess": recent.STAGES["preprocess"],
    "inference": recent.STAGES["inference"],
    "outputs": ("decided", "told"),
    "whole": ("triggered", "told"),
}
"""By name, the stamps a stage lies between; `told` is when gate, PLC, archive and spools have the verdict."""
STATES = tuple(State)
COLUMNS = ("part", "due_ns", *STAGES, "state", "cause")
"""Of `Run.parts`: stages in ns, -1 where the part did not pass one; state and cause as places in `STATES` and
`recent.CAUSES`, -1 for no cause."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run: how many parts passed it, and their latency; None where none did."""

    parts: int
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class Run:
    """What a box did under one load.

    Attributes:
        load: in words.
        seconds: from the first part to the last verdict.
        pulled: parts that came; each owes a verdict.
        states: verdicts by state.
        missed: verdicts that the deadline made.
        unanswered: parts without any verdict; a box must have none.
        causes: NO_DECISION by class of cause.
        examples: of each class the first cause in words.
        stages: by name.
        lag: how late parts were pulled, which their latencies hold; None in a closed loop.
        parts: `(verdicts, len(COLUMNS))` int64, in the order of the verdicts.
    """

    load: str
    rate_hz: float | None
    seconds: float
    pulled: int
    states: dict[str, int]
    missed: int
    unanswered: int
    causes: dict[str, int]
    examples: dict[str, str]
    stages: dict[str, Stage]
    lag: Latency | None
    parts: NDArray[np.int64]


class Witness:
    """Hears of every decision after everyone else and writes its times down."""

    def __init__(self, name: str) -> None:
        self.count = self.undecided = 0
        self.examples: dict[str, str] = {}
        self.lag_ns = array("q")
        self._prefix = f"bench-{name}-"
        self._rows = array("q")
        self._changed = threading.Condition()

    def trigger(self, number: int, at_ns: int) -> Trigger:
        """Part `number`, counted from 0."""
        return Trigger(f"{self._prefix}{number:08d}", at_ns, datetime.now(UTC).isoformat(timespec="microseconds"))

    def __call__(self, decision: Decision) -> None:
        verdict, told_ns = decision.verdict, time.monotonic_ns()
        if not verdict.part_id.startswith(self._prefix):
            return
        at = {**verdict.stamps_ns, "told": told_ns}
        took = [at[end] - at[start] if start in at and end in at else -1 for start, end in STAGES.values()]
        cause = -1
        if verdict.cause is not None:
            name = recent.class_of(verdict)
            cause = recent.CAUSES.index(name)
            self.examples.setdefault(name, verdict.cause)
        number, due_ns = int(verdict.part_id.removeprefix(self._prefix)), decision.trigger.at_ns
        with self._changed:
            self._rows.extend((number, due_ns, *took, STATES.index(verdict.state), cause))
            self.count += 1
            self.undecided += verdict.state is State.NO_DECISION
            self._changed.notify_all()

    def wait(self, count: int, timeout_s: float) -> bool:
        """Whether so many verdicts are out, waiting for them."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count >= count, timeout_s)

    def rows(self) -> NDArray[np.int64]:
        """As `Run.parts`."""
        with self._changed:
            return np.array(self._rows, np.int64).reshape(-1, len(COLUMNS))


def figures(load: str, rate_hz: float | None, witness: Witness, pulled: int) -> Run:
    """A run as far as its verdicts are out.

    Args:
        load, rate_hz: as of `Run`.
        pulled: parts that came.
    """
    parts = witness.rows()
    column = dict(zip(COLUMNS, parts.T, strict=True))
    stages = {}
    for name in STAGES:
        passed = column[name][column[name] >= 0]
        stages[name] = Stage(len(passed), Latency.of(passed) if len(passed) else None)
    ends_ns = column["due_ns"] + column["whole"]
    causes = {name: int((column["cause"] == place).sum()) for place, name in enumerate(recent.CAUSES)}
    return Run(
        load=load,
        rate_hz=rate_hz,
        seconds=float(ends_ns.max() - column["due_ns"].min()) / 1e9 if len(parts) else 0.0,
        pulled=pulled,
        states={state.value: int((column["state"] == place).sum()) for place, state in enumerate(STATES)},
        missed=causes["late"],
        unanswered=pulled - len(parts),
        causes={name: count for name, count in causes.items() if count},
        examples=witness.examples,
        stages=stages,
        lag=Latency.of(np.asarray(witness.lag_ns, np.int64)) if witness.lag_ns else None,
        parts=parts,
    )
