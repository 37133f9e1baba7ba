"""What an integrator asks a box before a line relies on it: what is well, doubtful or wrong, and the next step.

A probe looks at one thing and says what it found. It gets a thread of its own and a limit, and one
that raises or does not come back is a finding like another: wrong, as nothing was shown. Leaves out:
the probes (`machine.py`, `line.py`), and mending anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from diagline.console import track
from diagline.errors import DiaglineError


class Grade(StrEnum):
    """How a thing stands: `DOUBTFUL` costs speed, comfort or proof; `WRONG` would stop a line."""

    WELL = "well"
    DOUBTFUL = "doubtful"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe found.

    Attributes:
        what: the thing, such as "camera".
        found: what there is, in one line.
        next: the next step; there is one wherever not all is well.
    """

    what: str
    grade: Grade
    found: str
    next: str | None = None

    def __post_init__(self) -> None:
        if self.grade is not Grade.WELL and not self.next:
            raise ValueError(f"{self.what}: {self.grade} without a next step")


@dataclass(frozen=True, slots=True)
class Probe:
    """One look at one thing.

    Attributes:
        look: gives the findings; may raise.
        timeout_s: the longest it is waited for. Shorter limits of its own say more.
    """

    what: str
    look: Callable[[], Iterable[Finding]]
    timeout_s: float = 10.0


def well(what: str, found: str, step: str | None = None) -> Finding:
    """A finding that all is well."""
    return Finding(what, Grade.WELL, found, step)


def doubtful(what: str, found: str, step: str) -> Finding:
    """A finding that a line can live with."""
    return Finding(what, Grade.DOUBTFUL, found, step)


def wrong(what: str, found: str, step: str) -> Finding:
    """A finding that would stop a line."""
    return Finding(what, Grade.WRONG, found, step)


def raised(what: str, error: Exception) -> Finding:
    """What an error says: its last clause is the next step, as in every message of a `DiaglineError`."""
    text = " ".join(str(error).split())
    found, _, step = text.rpartition("; ")
    if isinstance(error, DiaglineError) and found:
        return wrong(what, found, step)
    return wrong(what, f"cannot be looked at ({type(error).__name__}: {text})", "mend this, then run doctor again")


def examine(probes: Sequence[Probe]) -> list[Finding]:
    """The findings of every probe, in their order; never raises, and never waits longer than the limits say."""
    return [finding for probe in track(probes, "doctor") for finding in _look(probe)]


def worst(findings: Iterable[Finding]) -> Grade:
    """The gravest grade; WELL where nothing was found."""
    grades = list(Grade)
    return max((finding.grade for finding in findings), key=grades.index, default=Grade.WELL)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as plain data."""
    return {"grade": worst(findings), "findings": [asdict(finding) for finding in findings]}


def _look(probe: Probe) -> list[Finding]:
    found: list[Finding] = []

    def look() -> None:
        try:
            for finding in probe.look():
                found.append(finding)  # at once: what was said before it failed counts
        except Exception as error:  # whatever it is, it is what there is to say
            found.append(raised(probe.what, error))

    thread = threading.Thread(target=look, name=f"doctor {probe.what}", daemon=True)
    thread.start()
    thread.join(probe.timeout_s)
    if not thread.is_alive():
        return found
    late = wrong(probe.what, f"no answer within {probe.timeout_s:g} s", "look what holds it, then run doctor again")
    return [*found, late]
