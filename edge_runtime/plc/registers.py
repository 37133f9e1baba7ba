"""The register map: where a PLC finds each bit and word, and the words of one moment.

Addresses count from 0, as they travel; words of more than 16 bits come high word first. Changing a place
here changes every PLC program: add at the end, and raise `VERSION`. `docs/gate.md` shows the same map, held to this
file by a test. Leaves out: the server.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from diagline.verdict import State, Verdict
from edge_runtime.plc.handshake import U32, Result, Signals

VERSION = 1

COILS = {"trigger": 0, "ack": 1}
"""The PLC writes them."""

HOLDING = {"plc_watchdog": 0}
"""The PLC writes another value here at least every `plc_timeout_ms`."""

DISCRETE = ("ready", "busy", "result_valid", "pass", "ng", "fault", "plc_silent", "heartbeat")
"""The PLC reads them; also bits 0 to 7 of the input register `status`."""

INPUT = {
    "version": (0, 1), "status": (1, 1), "heartbeat": (2, 1), "error": (3, 1), "acquisition": (4, 2), "result": (6, 1),
    "parts": (7, 2), "last_state": (9, 1), "last_logit": (10, 2), "threshold": (12, 2), "model": (14, 3),
    "overruns": (17, 2), "missed": (19, 2), "passed": (21, 2), "rejected": (23, 2), "no_decision": (25, 2),
}  # fmt: skip
"""Place and number of words. `last_logit` and `threshold` are IEEE 754 floats (NaN: none), the others unsigned."""

INPUT_WORDS = max(place + words for place, words in INPUT.values())


@dataclass(slots=True)
class Tally:
    """The verdicts so far, whoever pulled the trigger, and the last one."""

    states: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))
    last: Verdict | None = None

    def add(self, verdict: Verdict) -> None:
        """Count one."""
        self.states[verdict.state] = (self.states[verdict.state] + 1) % U32
        self.last = verdict


def status_bits(signals: Signals, plc_silent: bool, beats: int) -> list[bool]:
    """The discrete inputs, in the order of `DISCRETE`; the last toggles with each beat."""
    return [
        signals.ready,
        signals.busy,
        signals.result_valid,
        signals.passed,
        signals.ng,
        signals.fault,
        plc_silent,
        bool(beats % 2),
    ]


def input_words(signals: Signals, plc_silent: bool, beats: int, tally: Tally) -> list[int]:
    """The input registers of one moment, `INPUT_WORDS` long."""
    last, states = tally.last, tally.states
    values: dict[str, int | float | bytes | None] = {
        "version": VERSION,
        "status": sum(bit << place for place, bit in enumerate(status_bits(signals, plc_silent, beats))),
        "heartbeat": beats % 2**16,
        "error": signals.error,
        "acquisition": signals.acquisition,
        "result": signals.result,
        "parts": sum(states.values()) % U32,
        "last_state": Result[last.state.name] if last is not None else Result.NONE,
        "last_logit": _float(last.logit if last is not None else None),
        "threshold": _float(last.threshold if last is not None else None),
        "model": _model(last.model if last is not None else ""),
        "overruns": signals.overruns,
        "missed": signals.missed,
        "passed": states[State.PASS],
        "rejected": states[State.REJECT],
        "no_decision": states[State.NO_DECISION],
    }
    words = [0] * INPUT_WORDS
    for name, (place, count) in INPUT.items():
        value = values[name]
        raw = value if isinstance(value, bytes) else int(value or 0).to_bytes(2 * count, "big")
        words[place : place + count] = struct.unpack(f">{count}H", raw)
    return words


def _float(value: float | None) -> bytes:
    try:
        return struct.pack(">f", float("nan") if value is None else value)
    except OverflowError:  # beyond what a 32-bit float holds
        return struct.pack(">f", float("nan"))


def _model(model: str) -> bytes:
    """The 12 hex digits of `name@digits`, or zeros."""
    digits = model.rpartition("@")[2]
    try:
        return bytes.fromhex(digits).rjust(6, b"\0")[:6]
    except ValueError:
        return bytes(6)
