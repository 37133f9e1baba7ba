"""Challenge parts: known good and known bad ones, shown to the box at the start of a shift.

A box that passes a known defect is found before the line makes more of them. The result goes into the
audit trail. Leaves out: asking the operator (`diagline challenge`), and what the line does with a box
that failed.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from diagline.errors import CameraError
from diagline.verdict import State, Verdict
from edge_runtime import box_config
from edge_runtime.archive.database import Kind
from edge_runtime.ledger import Decision
from edge_runtime.station import Station
from edge_runtime.trigger import Trigger

WAIT_S = 10.0  # beyond the deadline
EXPECTED = {"good": State.PASS, "bad": State.REJECT}


@dataclass(frozen=True, slots=True)
class Shown:
    """One challenge part and what the box said of it.

    Attributes:
        kind: "good" or "bad".
        right: a good part passed, or a bad one was rejected; NO_DECISION is never right.
    """

    kind: str
    part_id: str
    state: str
    logit: float | None
    cause: str | None
    right: bool


def challenge(station: Station, kinds: Sequence[str], ask: Callable[[int, str], None]) -> Iterator[Shown]:
    """Have each part shown, and yield what the box said of it; the whole result goes into the archive.

    Args:
        kinds: "good" or "bad", in the order they are shown.
        ask: has the part laid before the camera, its number from 1 and its kind; returns when it lies there.

    Raises:
        CameraError: no verdict came, not even NO_DECISION.
    """
    heard: queue.SimpleQueue[Decision] = queue.SimpleQueue()
    station.box.listen("challenge", heard.put)
    shown: list[Shown] = []
    try:
        for number, kind in enumerate(kinds, 1):
            ask(number, kind)
            verdict = _verdict(station, heard)
            right = verdict.state is EXPECTED[kind]
            shown.append(Shown(kind, verdict.part_id, verdict.state.value, verdict.logit, verdict.cause, right))
            yield shown[-1]
    finally:
        station.box.unlisten("challenge")
        passed = len(shown) == len(kinds) and all(one.right for one in shown)
        payload = {"passed": passed, "asked": list(kinds), "parts": [asdict(one) for one in shown]}
        station.archive.event(Kind.CHALLENGE, {**payload, "model": station.box.health().model})


def _verdict(station: Station, heard: queue.SimpleQueue[Decision]) -> Verdict:
    now_ns, part = time.monotonic_ns(), f"challenge-{secrets.token_hex(4)}"
    free = station.config.trigger.by == box_config.FREE
    if not free:
        station.pull(Trigger(part, now_ns, datetime.now(UTC).isoformat(timespec="microseconds")))
    until = time.monotonic() + WAIT_S + station.config.trigger.deadline_ms / 1000
    while True:
        try:
            decision = heard.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise CameraError(
                f"{station.config.name}: no verdict within {WAIT_S:g} s; expected one a part; look at the camera"
            ) from None
        if decision.trigger.at_ns >= now_ns if free else decision.trigger.part_id == part:
            return decision.verdict
