"""What a page and metrics want to know of decisions, kept as they come: the last ones, causes, latencies.

A listener of the box: it takes a decision in microseconds and computes only when it is asked.
Leaves out: the counters of verdicts, which the ledger keeps (`ledger.py`).
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diagline.verdict import State, Verdict
from edge_runtime.ledger import Decision

LAST = 12
WINDOW_NS = 60 * 10**9
MOST = 12_000  # decisions of a window that are kept: 200 a second
LONG_AGO_NS = -(2**62)

STAGES = {
    "frame": ("triggered", "received"),
    "preprocess": ("received", "preprocessed"),
    "inference": ("preprocessed", "inferred"),
    "whole": ("triggered", "decided"),
}
"""By name, the stamps of a verdict a stage lies between."""

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper ends of the classes of latency; what is longer lies in one more class."""

_CAUSES = {
    "late": r"late:",
    "self_test": r"self-test failed",
    "overload": r"more than \d+ parts wait",
    "stopped": r"the box was stopped",
    "region": r"the frame is \d+x\d+; the region",
    "preprocess": r"preprocess:",
    "engine": r"(onnxruntime|litert|openvino\w*|fake):",
    "picture": r"(.*: )?(black|flat|truncated|frozen|duplicated|stale|wrong size|the frame cannot be decoded)\b",
    "camera": r"camera: ",
}
CAUSES = (*_CAUSES, "other")
"""Every class of causes of NO_DECISION."""
_PATTERNS = {name: re.compile(pattern) for name, pattern in _CAUSES.items()}


def class_of(verdict: Verdict) -> str:
    """The class, one of `CAUSES`, of a NO_DECISION.

    What no pattern knows is the camera's own word where the inspector got a frame with nothing in it.
    """
    cause, stamps = verdict.cause or "", verdict.stamps_ns
    unknown = "camera" if "received" in stamps and "preprocessed" not in stamps else "other"
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(cause)), unknown)


@dataclass(frozen=True, slots=True)
class StageLatency:
    """How long one stage takes.

    Attributes:
        p50_ms, p99_ms: over the last minute; None where nothing passed in it.
        count, total_s: since the start.
        classes: how many since the start, by class of `BUCKETS_S`; shorter where the rest is 0.
    """

    p50_ms: float | None
    p99_ms: float | None
    count: int
    total_s: float
    classes: tuple[int, ...]


def _window() -> NDArray[np.int64]:
    window = np.empty((MOST, 2), np.int64)
    window[:] = LONG_AGO_NS, 0
    return window


@dataclass(slots=True)
class _Stage:
    total_ns: int = 0
    classes: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    count: int = 0
    window: NDArray[np.int64] = field(default_factory=_window)  # (decided_ns, took_ns) of the last, in a ring


class Recent:
    """Remembers what a listener is told; may be asked on any thread."""

    def __init__(self) -> None:
        self._recent: deque[Verdict] = deque(maxlen=LAST)
        self._rejects: deque[Verdict] = deque(maxlen=LAST)
        self._causes: Counter[str] = Counter()
        self._stages = {name: _Stage() for name in STAGES}
        self._lock = threading.Lock()

    def __call__(self, decision: Decision) -> None:
        """Take note of a decision."""
        verdict = decision.verdict
        with self._lock:
            self._recent.appendleft(verdict)
            if verdict.state is not State.PASS:
                self._rejects.appendleft(verdict)
            if verdict.cause is not None:
                self._causes[class_of(verdict)] += 1
            for name, (start, end) in STAGES.items():
                if {start, end} <= verdict.stamps_ns.keys():
                    self._add(name, verdict.stamps_ns[end] - verdict.stamps_ns[start], verdict.stamps_ns["decided"])

    def recent(self) -> tuple[Verdict, ...]:
        """The last verdicts, newest first."""
        with self._lock:
            return tuple(self._recent)

    def rejects(self) -> tuple[Verdict, ...]:
        """The last verdicts that did not pass, newest first."""
        with self._lock:
            return tuple(self._rejects)

    def causes(self) -> dict[str, int]:
        """NO_DECISION by class of cause."""
        with self._lock:
            return dict(self._causes)

    def stages(self, now_ns: int) -> dict[str, StageLatency]:
        """Latency by stage; the window ends at `now_ns` of the monotonic clock."""
        with self._lock:  # copied only: a decision must not wait for arithmetic
            copies = {
                name: (stage.total_ns, tuple(stage.classes), stage.window.copy())
                for name, stage in self._stages.items()
            }
        return {name: _latency(*copy, now_ns - WINDOW_NS) for name, copy in copies.items()}

    def _add(self, name: str, took_ns: int, decided_ns: int) -> None:
        stage = self._stages[name]
        stage.total_ns += took_ns
        stage.classes[bisect_left(BUCKETS_S, took_ns / 1e9)] += 1
        stage.window[stage.count % MOST] = decided_ns, took_ns
        stage.count += 1


def _latency(total_ns: int, classes: tuple[int, ...], window: NDArray[np.int64], from_ns: int) -> StageLatency:
    p50_ms = p99_ms = None
    took_ms = window[window[:, 0] >= from_ns, 1] / 1e6
    if took_ms.size:
        p50_ms, p99_ms = np.percentile(took_ms, (50, 99)).tolist()
    return StageLatency(p50_ms, p99_ms, sum(classes), total_ns / 1e9, classes)
