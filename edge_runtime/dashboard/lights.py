"""What a snapshot means to the person at the line: one headline, a light a piece, and what to do.

Plain functions of a snapshot, so that the page, `/healthz` and the metrics cannot disagree.
Leaves out: how it looks (`page.css`).
"""

from __future__ import annotations

from dataclasses import dataclass

from diagline.verdict import State, Verdict
from edge_runtime.camera.stamps import DOUBTED, WORDS
from edge_runtime.dashboard.view import LIVE, STARTING, ArchiveState, CameraState, OutputState, Snapshot

IDLE_S = 10.0
"""A verdict older than this is not shown as the line's state any more."""
HANGS_S = 1.0
"""So long after its deadline an open part shows that the ledger stands still."""
SOON_DAYS = 7.0

GOOD, WAIT, BAD, OFF = "good", "wait", "bad", "off"


@dataclass(frozen=True, slots=True)
class Light:
    """One piece: its state (GOOD, WAIT, BAD, OFF), the same in words, and what to do; "" where nothing is."""

    name: str
    state: str
    words: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """What is read from two metres.

    Attributes:
        kind: pass, reject, no_decision, idle (no current part) or stopped (nothing is judged).
        detail: the part and the reason, in a line.
    """

    kind: str
    word: str
    detail: str


def faults(snapshot: Snapshot) -> list[str]:
    """Why the box does not judge, each with its piece; empty when it does."""
    found = []
    if snapshot.fault is not None:
        found.append(f"self-test: {snapshot.fault}")
    if snapshot.camera.state != LIVE:
        found.append(f"camera: {_camera_words(snapshot.camera)}")
    waited_s = snapshot.oldest_open_s
    if waited_s is not None and waited_s > snapshot.deadline_s + HANGS_S:
        found.append(f"ledger: a part has waited {waited_s:.1f} s for a verdict due in {snapshot.deadline_s:g} s")
    return found


def headline(snapshot: Snapshot) -> Headline:
    """The last verdict where it is the line's present state, and otherwise why there is none."""
    if found := faults(snapshot):
        return Headline("stopped", "NOT JUDGING", f"Every part is rejected. {found[0]}")
    if not snapshot.recent:
        return Headline("idle", "READY", "No part yet.")
    last = snapshot.recent[0]
    word, age_s = last.state.value.replace("_", " "), verdict_age_s(last, snapshot)
    if snapshot.oldest_open_s is not None and snapshot.oldest_open_s > HANGS_S:
        return Headline("idle", "INSPECTING", f"The last part was {word}: {last.part_id}")
    if age_s > IDLE_S:
        return Headline("idle", "WAITING", f"The last part was {word}: {last.part_id}, {span(age_s)} ago")
    return Headline(last.state.value.lower(), word, f"{last.part_id}: {reason(last)}")


def reason(verdict: Verdict) -> str:
    """Why a verdict is what it is."""
    if verdict.logit is None:
        return verdict.cause or ""
    return f"score {verdict.logit:g}, rejects from {verdict.threshold:g}"


def reject_share(snapshot: Snapshot) -> float | None:
    """The share of decided parts that the gate rejects, NO_DECISION included; None before the first."""
    states = snapshot.tally.states
    decided = sum(states.values())
    return 1 - states.get(State.PASS, 0) / decided if decided else None


def verdict_age_s(verdict: Verdict, snapshot: Snapshot) -> float:
    """Seconds from a verdict to the snapshot; one without its stamp is as old as can be."""
    return (snapshot.at_ns - verdict.stamps_ns.get("decided", 0)) / 1e9


def span(seconds: float) -> str:
    """A length of time in its two greatest units."""
    whole = max(0, int(seconds))
    for size, unit, small, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {smaller}"
    return f"{whole} s"


def lights(snapshot: Snapshot) -> list[Light]:
    """One light a piece, in the order of the line."""
    return [
        _camera(snapshot.camera),
        _self_test(snapshot.fault),
        _gate(snapshot),
        *([_output(output) for output in snapshot.outputs] or [Light("Outputs", OFF, "none")]),
        _archive(snapshot.archive),
    ]


def _camera_words(camera: CameraState) -> str:
    return f"{camera.state}: {camera.cause}" if camera.cause else camera.state


def _camera(camera: CameraState) -> Light:
    if camera.state == LIVE:
        age_s = camera.frame_age_s
        words = "live" if age_s is None or age_s < 1 else f"live, last frame {span(age_s)} ago"
        if camera.stamped in DOUBTED:
            words += f"; {WORDS[camera.stamped]}"
        return Light("Camera", GOOD, words)
    if camera.state == STARTING:
        return Light("Camera", WAIT, _camera_words(camera), "Wait until it is live; parts are rejected until then.")
    advice = "Look at its cable and power. The box takes it up again by itself; parts are rejected until then."
    return Light("Camera", BAD, _camera_words(camera), advice)


def _self_test(fault: str | None) -> Light:
    if fault is None:
        return Light("Self-test", GOOD, "passed")
    advice = "Sign in and run the self-test. If it fails again, switch to another bundle or call the integrator."
    return Light("Self-test", BAD, fault, advice)


def _gate(snapshot: Snapshot) -> Light:
    gate = snapshot.gate
    if gate is None:
        return Light("Gate", OFF, "none")
    if gate.cause is None:
        return Light("Gate", GOOD, gate.state)
    advice = "Every part is rejected. Mend what it names"
    advice += ", then sign in and acknowledge." if gate.waits else "; the gate works again when that is over."
    return Light("Gate", BAD, f"{gate.state}: {gate.cause}", advice)


def _output(output: OutputState) -> Light:
    name = f"Output {output.name}"
    tail = (f", {output.waiting} waiting" if output.waiting else "") + (
        f", {output.dropped} lost" * (output.dropped > 0)
    )
    if output.connected:
        return Light(name, GOOD, "connected" + tail)
    if output.connected is None:
        return Light(name, WAIT, "not tried yet" + tail)
    why = f": {output.last_error}" if output.last_error else ""
    advice = "Judging goes on, records wait on the disk. Look at the network and at its other end."
    return Light(name, BAD, "not connected" + tail + why, advice)


def _archive(archive: ArchiveState | None) -> Light:
    if archive is None:
        return Light("Archive", OFF, "none")
    if archive.error is not None:
        return Light("Archive", BAD, archive.error, "Judging goes on, pictures are lost. Free some space on the box.")
    words = "keeps" if archive.days_left is None else f"full in {archive.days_left:.0f} days"
    if archive.days_left is not None and archive.days_left < SOON_DAYS:
        return Light("Archive", WAIT, words, "Free some space on the box, or keep less.")
    return Light("Archive", GOOD, words + (f", {archive.lost} lost" if archive.lost else ""))
