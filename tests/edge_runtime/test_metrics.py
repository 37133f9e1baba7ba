"""Metrics are the snapshot's own figures, in Prometheus' text, under names that are documented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from diagline.verdict import State
from edge_runtime.camera.stamps import BY
from edge_runtime.dashboard.view import ArchiveState, CameraState, GateState, OutputState, example
from edge_runtime.ledger import Tally
from edge_runtime.metrics import exposition
from edge_runtime.recent import CAUSES, StageLatency

Key = tuple[str, frozenset[tuple[str, str]]]


def scraped(**fields: Any) -> dict[Key, float]:
    """Every sample by name and labels, read as Prometheus does."""
    found: dict[Key, float] = {}
    for family in text_string_to_metric_families(exposition(example(**fields)).decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def one(found: dict[Key, float], metric: str, **labels: str) -> float:
    return found[(f"diagline_{metric}", frozenset(labels.items()))]


def test_verdicts_are_the_ledgers_and_reconcile() -> None:
    found = scraped(tally=Tally(20, 3, {State.PASS: 11, State.REJECT: 4, State.NO_DECISION: 2}, 1, 5))
    states = [one(found, "verdicts_total", state=state.value) for state in State]
    assert states == [11, 4, 2]
    assert one(found, "triggers_total") == sum(states) + one(found, "open_parts") == 20
    assert one(found, "late_total") == 1 and one(found, "late_answers_total") == 5


def test_causes_are_of_a_bounded_set_whatever_a_box_counts() -> None:
    found = scraped(causes={"late": 2, "camera": 1} | {f"frame {number}": 1 for number in range(50)})
    causes = {dict(labels)["cause"]: value for (name, labels), value in found.items() if "no_decision" in name}
    assert causes == dict.fromkeys(CAUSES, 0) | {"late": 2, "camera": 1, "other": 50}


def test_frames_are_counted_by_the_clock_that_stamps_them() -> None:
    found = scraped(camera=CameraState("live", stamps={"camera": 7, "future": 2}))
    counted = {by: one(found, "camera_stamps_total", by=by) for by in BY}
    assert counted == dict.fromkeys(BY, 0) | {"camera": 7, "future": 2}


def test_buckets_add_up_to_their_count() -> None:
    found = scraped(stages={"whole": StageLatency(1.0, 2.0, 7, 2.5, (4, 0, 2, *[0] * 8, 1))})
    ends = ("0.0005", "0.001", "0.002", "0.005", "1", "+Inf")
    buckets = [one(found, "stage_seconds_bucket", stage="whole", le=end) for end in ends]
    assert buckets == [4, 4, 6, 6, 6, 7]
    assert (
        one(found, "stage_seconds_count", stage="whole") == 7 and one(found, "stage_seconds_sum", stage="whole") == 2.5
    )


def test_judging_says_what_healthz_says() -> None:
    assert one(scraped(), "judging") == 1
    assert one(scraped(fault="self-test failed"), "judging") == 0
    assert (
        one(scraped(camera=CameraState("lost")), "judging")
        == one(scraped(camera=CameraState("lost")), "camera_live")
        == 0
    )


def test_each_output_has_its_own_figures() -> None:
    found = scraped(outputs=(OutputState("mqtt", True, 1, 2, 3), OutputState('p"l\\c\n', None, 4, 5, 6)))
    for name, figures in (("mqtt", (1, 1, 2, 3)), ('p"l\\c\n', (0, 4, 5, 6))):
        kinds = ("connected", "waiting_records", "sent_records_total", "dropped_records_total")
        assert tuple(one(found, f"output_{kind}", name=name) for kind in kinds) == figures


def test_archive_gate_and_frame_age_are_left_out_where_there_is_none() -> None:
    names = {name for name, _ in scraped(archive=None, gate=None, camera=CameraState("starting"))}
    assert not [name for name in names if "archive" in name or "gate" in name or "frame_age" in name]
    found = scraped(archive=ArchiveState(None, 1, 2, 3, "full"), gate=GateState("held", "no heartbeat"))
    assert one(found, "archive_days_left") == float("inf") and one(found, "archive_writable") == 0
    assert one(found, "archive_lost_total") == 3 and one(found, "gate_trusted") == 0


def test_the_model_is_named_even_where_its_name_is_hostile() -> None:
    found = scraped(model='a"b\\c\nd} 1')
    ((_, labels),) = [key for key in found if key[0] == "diagline_model_info"]
    assert dict(labels)["model"] == 'a"b\\c\nd} 1'


def test_every_name_is_in_the_docs() -> None:
    docs = Path(__file__).parents[2] / "docs" / "page.md"
    if not docs.exists():
        pytest.skip("the docs are not at hand")
    text = docs.read_text(encoding="utf-8")
    for family in text_string_to_metric_families(exposition(example()).decode()):
        assert f"`{family.name.removeprefix('diagline_')}" in text, family.name
