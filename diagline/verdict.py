"""The verdict on one part: what was decided, on what evidence, and when.

Anything that is not a confirmed PASS is a reject at the gate. Leaves out: what is done with
a verdict (gate and outputs, in `edge_runtime`).
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, field
from typing import Any


class State(enum.Enum):
    """The three verdicts."""

    PASS = "PASS"
    REJECT = "REJECT"
    NO_DECISION = "NO_DECISION"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One part's verdict and the evidence for it.

    Attributes:
        part_id: names the part; unique within a run.
        state: PASS, REJECT or NO_DECISION.
        logit: the network's output in the format's own domain (an int8 step for int8
            formats, a float for fp32); None when there was no decision.
        threshold: `logit >= threshold` rejects; same domain.
        model: `name@first 12 hex digits of the manifest's SHA-256`.
        cause: why there was no decision; None otherwise.
        taken_utc: wall clock at capture, ISO 8601 with microseconds.
        stamps_ns: monotonic clock at the end of each stage, in order.
    """

    part_id: str
    state: State
    logit: float | None
    threshold: float
    model: str
    taken_utc: str
    cause: str | None = None
    stamps_ns: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.state is State.NO_DECISION) != (self.cause is not None):
            raise ValueError(f"verdict {self.part_id}: a cause goes with NO_DECISION and with nothing else")
        if (self.state is State.NO_DECISION) != (self.logit is None):
            raise ValueError(f"verdict {self.part_id}: PASS and REJECT carry a logit, NO_DECISION none")
        if self.logit is not None and self.state is not decide(self.logit, self.threshold):
            raise ValueError(f"verdict {self.part_id}: {self.state.value} at {self.logit} against {self.threshold}")

    @property
    def opens_gate(self) -> bool:
        """True only for a confirmed PASS."""
        return self.state is State.PASS

    def record(self) -> dict[str, Any]:
        """The verdict as plain data for JSON."""
        return {**asdict(self), "state": self.state.value}


def decide(logit: float, threshold: float) -> State:
    """REJECT at or above the threshold, PASS below; a NaN is never a PASS.

    Both values lie in one format's own domain: int8 steps or floats.
    """
    return State.PASS if logit < threshold else State.REJECT
