"""Where the gate stands and what it distrusts: the `[gate]` section of a box's config.

Leaves out: how the values are found at a line (`docs/gate.md`).
"""

from __future__ import annotations

from dataclasses import dataclass

from diagline.config_checks import one_of, within


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Distances are in encoder counts.

    Attributes:
        by: "delay": the gate is reckoned in time, for a belt of constant speed; "encoder": in counts.
        delay_ms: from the trigger until the gate may open.
        open_ms: how long it is open for one part.
        distance: counts from the trigger until the gate may open.
        open_counts: counts it is open for one part.
        counts_per_s: the line's greatest speed; an encoder that moves faster has jumped.
        jitter_counts: how far the encoder may tremble backwards.
        stall_ms: an encoder that stands still for longer, with parts on the way, is not trusted. Less than the
            time from one part to the next.
        heartbeat_ms: a loop that has not beaten for longer is dead.
        gap_ms: the longest time between two steps; after a longer one everything on the way is rejected.
        parts_max: the most parts between camera and gate.
        latch: a fault keeps the gate closed until somebody acknowledges it, also when its cause is over.
        step_ms: how often the thread looks.
    """

    by: str = "delay"
    delay_ms: float = 500.0
    open_ms: float = 50.0
    distance: int = 5000
    open_counts: int = 500
    counts_per_s: float = 20_000.0
    jitter_counts: int = 2
    stall_ms: float = 200.0
    heartbeat_ms: float = 200.0
    gap_ms: float = 50.0
    parts_max: int = 64
    latch: bool = False
    step_ms: float = 2.0

    def __post_init__(self) -> None:
        one_of("gate.by", self.by, ("delay", "encoder"))
        within("gate.delay_ms", self.delay_ms, 0.0, 600_000.0)
        within("gate.distance", self.distance, 0, 2**31 - 1)
        within("gate.counts_per_s", self.counts_per_s, 1.0, 1e9)
        within("gate.stall_ms", self.stall_ms, 1.0, 600_000.0)
        within("gate.heartbeat_ms", self.heartbeat_ms, 1.0, 60_000.0)
        within("gate.parts_max", self.parts_max, 1, 2000)
        within("gate.step_ms", self.step_ms, 0.1, 1000.0)
        within("gate.open_ms", self.open_ms, self.step_ms, 60_000.0)  # no longer steps over a part
        within("gate.gap_ms", self.gap_ms, 2 * self.step_ms, 60_000.0)
        within("gate.open_counts", self.open_counts, 1, 2**31 - 1)
        within("gate.jitter_counts", self.jitter_counts, 0, self.open_counts)
