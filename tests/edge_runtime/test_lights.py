"""What the operator reads: a PASS only while it is the line's present state, and what to do otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from diagline.verdict import State
from edge_runtime.camera.stamps import WORDS
from edge_runtime.dashboard import lights
from edge_runtime.dashboard.view import (
    ArchiveState,
    CameraState,
    GateState,
    OutputState,
    example,
    judged,
)
from edge_runtime.ledger import Tally

HEADLINES: list[tuple[dict[str, Any], str, str]] = [
    ({"recent": (judged("p"),)}, "pass", "PASS"),
    ({"recent": (judged("p", 5),)}, "reject", "REJECT"),
    ({"recent": (judged("p", None, "late: no verdict"),)}, "no_decision", "NO DECISION"),
    ({"recent": ()}, "idle", "READY"),
    ({"recent": (judged("p", age_s=11),)}, "idle", "WAITING"),
    ({"recent": (judged("p"),), "oldest_open_s": 1.05, "deadline_s": 1.0}, "idle", "INSPECTING"),
    ({"recent": (judged("p"),), "fault": "self-test failed"}, "stopped", "NOT JUDGING"),
    ({"recent": (judged("p"),), "camera": CameraState("lost")}, "stopped", "NOT JUDGING"),
    ({"recent": (judged("p"),), "oldest_open_s": 9.0}, "stopped", "NOT JUDGING"),
]


@pytest.mark.parametrize(("fields", "kind", "word"), HEADLINES, ids=[str(case) for case in range(len(HEADLINES))])
def test_the_headline_is_the_last_verdict_only_while_that_is_the_present_state(
    fields: dict[str, Any], kind: str, word: str
) -> None:
    found = lights.headline(example(**fields))
    assert (found.kind, found.word) == (kind, word)


def test_a_verdict_without_a_stamp_is_never_the_present_state() -> None:
    verdict = judged("p")
    verdict.stamps_ns.clear()
    assert lights.headline(example(recent=(verdict,))).kind == "idle"


def test_a_reject_says_its_reason() -> None:
    assert lights.reason(judged("p", 5)) == "score 5, rejects from 0"
    assert lights.reason(judged("p", None, "camera: gone")) == "camera: gone"


def test_a_camera_whose_stamps_are_not_believed_says_so_and_is_live() -> None:
    def camera(stamped: str) -> lights.Light:
        state = CameraState("live", 0.1, stamped=stamped)
        return next(light for light in lights.lights(example(camera=state)) if light.name == "Camera")

    assert camera("camera").words == camera("none").words == "live"
    assert (camera("future").state, camera("future").words) == (lights.GOOD, f"live; {WORDS['future']}")


BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"camera": CameraState("lost", cause="no picture within 5 s")}, "Camera", "no picture within 5 s"),
    ({"fault": "self-test failed on 2"}, "Self-test", "self-test failed on 2"),
    ({"gate": GateState("held", "the encoder stands still")}, "Gate", "the encoder stands still"),
    ({"outputs": (OutputState("mqtt", False, 31, 5, 2, "refused"),)}, "Output mqtt", "31 waiting, 2 lost: refused"),
    ({"archive": ArchiveState(0.0, error="no space left")}, "Archive", "no space left"),
]


@pytest.mark.parametrize(("fields", "name", "words"), BROKEN, ids=[name for _, name, _ in BROKEN])
def test_a_piece_that_fails_has_the_one_red_light_says_why_and_what_to_do(
    fields: dict[str, Any], name: str, words: str
) -> None:
    assert not [light for light in lights.lights(example()) if light.state != lights.GOOD or light.advice]
    (bad,) = [light for light in lights.lights(example(**fields)) if light.state == lights.BAD]
    assert bad.name == name and words in bad.words and bad.advice.endswith(".")


def test_a_person_is_sent_to_acknowledge_where_that_is_what_the_gate_waits_for_alone() -> None:
    for waits in (True, False):
        (bad,) = [one for one in lights.lights(example(gate=GateState("held", "x", waits))) if one.state == lights.BAD]
        assert ("acknowledge" in bad.advice) is waits


def test_what_comes_soon_is_amber_and_what_a_box_lacks_is_off() -> None:
    soon = example(archive=ArchiveState(3.0), camera=CameraState("starting"), outputs=(OutputState("plc", None),))
    assert [light.state for light in lights.lights(soon)] == ["wait", "good", "good", "wait", "wait"]
    without = example(archive=None, gate=None, outputs=())
    assert [light.state for light in lights.lights(without)] == ["good", "good", "off", "off", "off"]


def test_what_the_gate_rejects_counts_as_rejected() -> None:
    states = {State.PASS: 90, State.REJECT: 7, State.NO_DECISION: 3}
    assert lights.reject_share(example(tally=Tally(101, 1, states, 0, 0))) == pytest.approx(0.1)
    assert lights.reject_share(example(tally=Tally(0, 0, dict.fromkeys(State, 0), 0, 0))) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")]
)
def test_a_span_is_read_at_a_glance(seconds: float, words: str) -> None:
    assert lights.span(seconds) == words
