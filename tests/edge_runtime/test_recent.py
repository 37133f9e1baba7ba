"""What is remembered of decisions: the last ones, causes by class, and latency of a minute and for ever."""

from __future__ import annotations

import pytest

from diagline.verdict import Verdict
from edge_runtime import recent
from edge_runtime.dashboard.view import judged
from edge_runtime.ledger import Decision
from edge_runtime.recent import BUCKETS_S, CAUSES, Recent, class_of
from edge_runtime.trigger import Trigger

SECOND_NS = 10**9


def decision(verdict: Verdict) -> Decision:
    return Decision(Trigger(verdict.part_id, 0, verdict.taken_utc), verdict)


def taken(took_ns: int, decided_ns: int) -> Decision:
    """A PASS whose whole latency and moment are given."""
    verdict = judged("p")
    verdict.stamps_ns.update(triggered=decided_ns - took_ns, decided=decided_ns)
    return decision(verdict)


def test_the_last_rejects_stay_however_many_pass_after_them() -> None:
    seen = Recent()
    seen(decision(judged("bad", 5)))
    for number in range(100):
        seen(decision(judged(str(number))))
    assert [verdict.part_id for verdict in seen.recent()] == [str(number) for number in range(99, 87, -1)]
    assert [verdict.part_id for verdict in seen.rejects()] == ["bad"]


RECEIVED = {"received": 1}
CLASSED = [
    ("late: no verdict within 60 ms", {}, "late"),
    ("more than 16 parts wait for their verdict", {}, "overload"),
    ("the box was stopped", {}, "stopped"),
    ("self-test failed on 1 of 4 golden pictures: engine: x", RECEIVED, "self_test"),
    ("the frame is 10x10; the region ends at 20x20", RECEIVED, "region"),
    ("preprocess: ValueError: camera: black: late:", RECEIVED, "preprocess"),
    ("litert: RuntimeError: died", RECEIVED, "engine"),
    ("openvino_bf16: the output is nan", RECEIVED, "engine"),
    ("camera 0: black: 99 of 100 pixels", RECEIVED, "picture"),
    ("frozen: the same picture again", RECEIVED, "picture"),
    ("camera: CameraError: gone", {}, "camera"),
    ("rtsp://***: no frame within 0.1 s", RECEIVED, "camera"),
    ("something new", {"received": 1, "preprocessed": 2}, "other"),
    ("something new", {}, "other"),
]


@pytest.mark.parametrize(("cause", "stamps", "expected"), CLASSED)
def test_every_cause_has_a_class_of_a_bounded_set(cause: str, stamps: dict[str, int], expected: str) -> None:
    verdict = judged("p", None, cause)
    verdict.stamps_ns.clear()
    verdict.stamps_ns.update(stamps)
    assert class_of(verdict) == expected and expected in CAUSES


def test_causes_are_counted_by_class() -> None:
    seen = Recent()
    for number in range(50):
        seen(decision(judged("p", None, f"late: no verdict within {number} ms")))
    seen(decision(judged("p", 5)))
    assert seen.causes() == {"late": 50}


def test_quantiles_are_of_the_last_minute_and_counts_for_ever() -> None:
    seen, start_ns = Recent(), 10**15
    for number in range(10):
        seen(taken(400_000_000, start_ns + number))
    for number in range(100):
        seen(taken(1_500_000, start_ns + 61 * SECOND_NS + number))
    whole = seen.stages(start_ns + 62 * SECOND_NS)["whole"]
    assert whole.p50_ms == whole.p99_ms == 1.5
    assert whole.count == sum(whole.classes) == 110 and whole.total_s == pytest.approx(4.15)
    assert whole.classes[BUCKETS_S.index(0.002)] == 100 and whole.classes[BUCKETS_S.index(0.5)] == 10
    assert seen.stages(start_ns + 200 * SECOND_NS)["whole"].p50_ms is None


def test_stages_lie_between_the_stamps_a_verdict_has() -> None:
    verdict, seen = judged("p"), Recent()
    start_ns = verdict.stamps_ns["decided"]
    stamps = ("triggered", "received", "preprocessed", "inferred", "decided")
    verdict.stamps_ns.update({name: start_ns + 10**6 * place**2 for place, name in enumerate(stamps)})
    seen(decision(verdict))
    seen(decision(judged("late", None, "late: no verdict")))
    found = seen.stages(start_ns + SECOND_NS)
    assert {name: (stage.p99_ms, stage.count) for name, stage in found.items() if name != "whole"} == {
        "frame": (1.0, 1), "preprocess": (3.0, 1), "inference": (5.0, 1),
    }  # fmt: skip
    assert found["whole"].count == 2


def test_a_fast_line_takes_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST", 10)
    seen = Recent()
    for number in range(100):
        seen(taken(10**6 * number, 10**15))
    whole = seen.stages(10**15)["whole"]
    assert whole.p50_ms == 94.5 and whole.count == 100
