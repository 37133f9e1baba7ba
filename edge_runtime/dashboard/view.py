"""What the page and the metrics see of a box, and may ask of it.

A box is looked at through one frozen `Snapshot`, so that nothing on the page contradicts itself.
Leaves out: the box behind it (`FakeView` stands in for tests and pictures), and what a snapshot
means (`lights.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from diagline.errors import DiaglineError
from diagline.verdict import State, Verdict
from edge_runtime.ledger import Tally
from edge_runtime.recent import StageLatency

STARTING, LIVE, LOST = "starting", "live", "lost"


@dataclass(frozen=True, slots=True)
class CameraState:
    """The camera at one moment.

    Attributes:
        state: STARTING, LIVE or LOST.
        frame_age_s: since the last picture was taken; None before the first.
        frames: that came.
        dropped: frames nobody was given.
        refused: frames that came and may not be judged (black, frozen, ...).
        reconnects: times it came back.
        cause: why it is not live; ignored while it is.
        stamps: frames that came, by whose clock says when they were taken (`camera.stamps.BY`).
        stamped: of the last picture, such a word; "" before the first.
    """

    state: str
    frame_age_s: float | None = None
    frames: int = 0
    dropped: int = 0
    refused: int = 0
    reconnects: int = 0
    cause: str | None = None
    stamps: dict[str, int] = field(default_factory=dict)
    stamped: str = ""


@dataclass(frozen=True, slots=True)
class GateState:
    """The gate.

    Attributes:
        state: what it does, in a word or two.
        cause: why it holds everything back; None where it does not.
        waits: for somebody to acknowledge a fault.
    """

    state: str
    cause: str | None = None
    waits: bool = False


@dataclass(frozen=True, slots=True)
class OutputState:
    """One output.

    Attributes:
        connected: None before the first try.
        waiting: records that have not arrived yet.
        dropped: records that never will.
    """

    name: str
    connected: bool | None
    waiting: int = 0
    sent: int = 0
    dropped: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """The archive.

    Attributes:
        days_left: until its disk is full; None while it does not fill.
        used_bytes, free_bytes: of its disk.
        lost: verdicts and pictures that should be in it and are not.
        error: what the disk refuses at present.
    """

    days_left: float | None
    used_bytes: int = 0
    free_bytes: int = 0
    lost: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A box at one moment.

    Attributes:
        line, model: their names, as in the box's config and in every record.
        certificate: one line; "" where the bundle has none.
        at_ns: monotonic clock of this moment.
        tally: the ledger's counters.
        deadline_s: from a trigger to its verdict.
        oldest_open_s: how long the oldest open part has waited; None where none is open.
        fault: why every verdict is NO_DECISION (a failed self-test); None otherwise.
        recent, rejects: the last verdicts, and the last that did not pass; newest first.
        causes: of NO_DECISION, counted by class (`recent.CAUSES`).
        stages: latency by stage (`recent.STAGES`).
        gate, archive: None where the box has none.
    """

    line: str
    model: str
    certificate: str
    at_ns: int
    uptime_s: float
    tally: Tally
    deadline_s: float
    oldest_open_s: float | None
    fault: str | None
    camera: CameraState
    recent: tuple[Verdict, ...] = ()
    rejects: tuple[Verdict, ...] = ()
    causes: dict[str, int] = field(default_factory=dict)
    stages: dict[str, StageLatency] = field(default_factory=dict)
    gate: GateState | None = None
    outputs: tuple[OutputState, ...] = ()
    archive: ArchiveState | None = None


class View(Protocol):
    """What the page needs of a box. Every call comes on a thread that may wait, several at once."""

    def snapshot(self) -> Snapshot:
        """The box now."""
        ...

    def picture(self) -> bytes | None:
        """The last judged frame with its heat map, as JPEG; None before the first."""
        ...

    def self_test(self) -> str:
        """Run the golden pictures; one line for the operator. Raises DiaglineError where they fail."""
        ...

    def trigger(self) -> str:
        """Judge what is before the camera; one line. Raises DiaglineError where that cannot be."""
        ...

    def acknowledge(self) -> str:
        """Take note of a fault, so that what waits for a person goes on; one line. Raises DiaglineError."""
        ...

    def switch_bundle(self, path: str) -> str:
        """Judge with another bundle; one line. Raises DiaglineError, and then the old one stays."""
        ...


class FakeView:
    """A view that is what its test says, and remembers what it was asked.

    Attributes:
        now: the snapshot that is given, with its clock going on and every age in it staying;
            `change` replaces fields of it.
        jpeg: the picture that is given.
        refusal: the DiaglineError's line that every action ends in.
        asked: the actions, in order.
        looks: snapshots given.
        before: called first in every call, with its name; may wait or raise.
    """

    def __init__(self, now: Snapshot | None = None, jpeg: bytes | None = None) -> None:
        self.now, self.jpeg = now or example(), jpeg
        self._made_ns = time.monotonic_ns()
        self.refusal: str | None = None
        self.asked: list[str] = []
        self.looks = 0
        self.before: Callable[[str], None] = lambda name: None

    def change(self, **fields: Any) -> None:
        """Another snapshot from now on."""
        self.now = replace(self.now, **fields)

    def snapshot(self) -> Snapshot:
        """`now`."""
        self.before("snapshot")
        self.looks += 1
        passed_ns = time.monotonic_ns() - self._made_ns
        recent, rejects = (
            tuple(_later(one, passed_ns) for one in some) for some in (self.now.recent, self.now.rejects)
        )
        return replace(self.now, at_ns=self.now.at_ns + passed_ns, recent=recent, rejects=rejects)

    def picture(self) -> bytes | None:
        """`jpeg`."""
        self.before("picture")
        return self.jpeg

    def self_test(self) -> str:
        """Passes, or raises `refusal`."""
        return self._do("self_test", "self-test passed: 32 of 32 golden pictures")

    def trigger(self) -> str:
        """One part more, or `refusal`."""
        return self._do("trigger", "triggered")

    def acknowledge(self) -> str:
        """Done, or `refusal`."""
        return self._do("acknowledge", "acknowledged")

    def switch_bundle(self, path: str) -> str:
        """Done, or `refusal`."""
        return self._do(f"switch_bundle {path}", f"{path} judges from the next part on")

    def _do(self, what: str, said: str) -> str:
        self.before(what.partition(" ")[0])
        self.asked.append(what)
        if self.refusal is not None:
            raise DiaglineError(self.refusal)
        return said


def _later(verdict: Verdict, by_ns: int) -> Verdict:
    return replace(verdict, stamps_ns={name: at_ns + by_ns for name, at_ns in verdict.stamps_ns.items()})


AT_NS = 10**15


def judged(part_id: str, logit: float | None = -20, cause: str | None = None, age_s: float = 0.4) -> Verdict:
    """A verdict of the example: PASS below its threshold of 0; without a logit it needs a cause."""
    state = State.NO_DECISION if logit is None else State.REJECT if logit >= 0 else State.PASS
    decided_ns = AT_NS - round(age_s * 1e9)
    stamps = {"triggered": decided_ns - 12_000_000, "decided": decided_ns}
    return Verdict(part_id, state, logit, 0, "tile@0123456789ab", "2026-01-01T06:00:00.000000+00:00", cause, stamps)


def example(**fields: Any) -> Snapshot:
    """A healthy box amid its work, for tests and pictures; `fields` replace those of the snapshot."""
    rejects = (
        judged("tile-004811", 23, age_s=9),
        judged("tile-004786", None, "late: no verdict within 60 ms", age_s=71),
        judged("tile-004790", 4, age_s=95),
        judged("tile-004702", 61, age_s=230),
    )
    snapshot = Snapshot(
        line="Press 3, tiles",
        model="tile@0123456789ab",
        certificate="escape at most 1.2 % (95 % confidence)",
        at_ns=AT_NS,
        uptime_s=19_380,
        tally=Tally(4832, 0, {State.PASS: 4713, State.REJECT: 112, State.NO_DECISION: 7}, 2, 2),
        deadline_s=0.06,
        oldest_open_s=None,
        fault=None,
        camera=CameraState(LIVE, 0.03, 4840, 8, 3, 1, stamps={"camera": 4836, "none": 4}, stamped="camera"),
        recent=(judged("tile-004832"), judged("tile-004831", age_s=2), rejects[0]),
        rejects=rejects,
        causes={"late": 2, "picture": 5},
        stages={
            "frame": StageLatency(3.1, 6.8, 4832, 15.6, (4000, 832)),
            "preprocess": StageLatency(0.6, 1.2, 4830, 3.0, (4830,)),
            "inference": StageLatency(4.9, 8.3, 4830, 24.1, (10, 4820)),
            "whole": StageLatency(8.8, 15.2, 4832, 43.9, (0, 4832)),
        },
        gate=GateState("ready"),
        outputs=(OutputState("mqtt", True, 0, 4832), OutputState("plc", True, 0, 4832)),
        archive=ArchiveState(41.0, 12_400_000_000, 88_000_000_000),
    )
    return replace(snapshot, **fields)
