"""What starts an inspection: a part stands before the camera.

Every trigger is owed exactly one verdict. Leaves out: who pulls it (a frame that came, a PLC, a
message, a light barrier) and what becomes of it (`box.py`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trigger:
    """One part to be judged.

    Attributes:
        part_id: names the part; unique within a run.
        at_ns: monotonic clock when it was pulled; deadlines and gate delays count from here.
        at_utc: wall clock at the same moment, ISO 8601 with microseconds.
        position: encoder count at the same moment, where the line has an encoder.
    """

    part_id: str
    at_ns: int
    at_utc: str
    position: int | None = None
