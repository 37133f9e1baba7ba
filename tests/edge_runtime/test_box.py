"""The box answers every trigger once and in time, whatever hangs, fails or is exchanged on the way."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from diagline.bundle import Bundle
from diagline.errors import BundleError
from diagline.verdict import State
from edge_runtime.box import Box, Region
from edge_runtime.camera import Frame
from edge_runtime.engines.engine import FakeEngine
from edge_runtime.ledger import Decision
from edge_runtime.loop import Inspector, open_inspector
from edge_runtime.trigger import Trigger

MakeFrame = Callable[..., Frame]
LONG_MS = 60_000.0


class Heard:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self._changed = threading.Condition()

    def __call__(self, decision: Decision) -> None:
        with self._changed:
            self.decisions.append(decision)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Decision]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.decisions) >= count, 20), self.decisions
            return list(self.decisions)


class Camera:
    """Gives frames by part id; a call in their place is made."""

    def __init__(self, frames: dict[str, Frame | Callable[[], Frame]]) -> None:
        self.frames = frames

    def frame_for(self, trigger: Trigger, timeout_s: float) -> Frame:
        found = self.frames[trigger.part_id]
        return found() if callable(found) else found


def trigger(part_id: str) -> Trigger:
    return Trigger(part_id, time.monotonic_ns(), "2026-01-01T00:00:00.000000+00:00")


@pytest.fixture
def made() -> Iterator[Callable[..., tuple[Box, Heard]]]:
    boxes: list[Box] = []

    def make(camera: Camera, inspector: Inspector, deadline_ms: float = LONG_MS, **more: object) -> tuple[Box, Heard]:
        heard = Heard()
        listeners = {"heard": heard, **more.pop("listeners", {})}  # type: ignore[dict-item]
        boxes.append(Box(camera, inspector, listeners, deadline_ms, **more))  # type: ignore[arg-type]
        boxes[-1].start()
        return boxes[-1], heard

    yield make
    for box in boxes:
        box.close()


def test_every_trigger_gets_the_verdict_on_its_own_frame_with_every_stage_stamped(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    camera = Camera({"dark": make_frame(10), "bright": make_frame(250)})
    box, heard = made(camera, open_inspector(bundle, "onnx_fp32"))
    for name in ("dark", "bright", "dark"):
        box.pull(trigger(name))
    found = heard.wait(3)
    assert [decision.verdict.state for decision in found] == [State.PASS, State.REJECT, State.PASS]
    verdict = found[0].verdict
    assert list(verdict.stamps_ns) == ["triggered", "taken", "received", "preprocessed", "inferred", "decided"]
    assert verdict.part_id == "dark" and verdict.stamps_ns["triggered"] == found[0].trigger.at_ns
    assert found[0].frame is camera.frames["dark"]
    tally = box.health().tally
    assert (tally.triggers, tally.open, tally.states[State.PASS]) == (3, 0, 2)


def test_an_engine_that_hangs_costs_no_decision_in_time_for_every_part_and_never_a_pass(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    release = threading.Event()

    def hang() -> Frame:
        release.wait()
        return make_frame(10)

    box, heard = made(Camera({"a": hang, "b": make_frame(10)}), open_inspector(bundle, "onnx_fp32"), deadline_ms=30.0)
    for name in "abb":
        box.pull(trigger(name))
    found = heard.wait(3)
    assert {decision.verdict.state for decision in found} == {State.NO_DECISION}
    assert all("late" in str(decision.verdict.cause) for decision in found)
    release.set()
    box.close()
    assert len(heard.decisions) == 3 and box.health().tally.late == 3


def test_parts_that_were_given_up_leave_no_frame_behind_while_an_inspection_hangs(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    release, pictures = threading.Event(), []

    def hang() -> Frame:
        release.wait()
        return make_frame(10)

    box, heard = made(Camera({"first": hang}), open_inspector(bundle, "onnx_fp32"), deadline_ms=30.0, most_open=4)
    box.pull(trigger("first"))
    heard.wait(1)
    for number in range(40):
        frame = make_frame(10, number)
        pictures.append(weakref.ref(frame.frame_bgr))
        box.pull(trigger(frame.part_id), frame)
    del frame
    found = heard.wait(41)
    heard.decisions.clear()
    del found
    assert sum(picture() is not None for picture in pictures) == 0
    release.set()


@pytest.mark.parametrize("wrong", ["raises", "no picture"])
def test_a_camera_that_fails_is_no_decision_with_its_cause_and_the_next_part_is_judged(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame, wrong: str
) -> None:
    def fail() -> Frame:
        if wrong == "raises":
            raise RuntimeError("the driver\nis gone")
        return Frame(None, 0, "", 0, "the cable is out")

    box, heard = made(Camera({"a": fail, "b": make_frame(10)}), open_inspector(bundle, "onnx_fp32"))
    box.pull(trigger("a"))
    box.pull(trigger("b"))
    first, second = (decision.verdict for decision in heard.wait(2))
    assert first.state is State.NO_DECISION and second.state is State.PASS
    assert first.cause == ("camera: RuntimeError: the driver is gone" if wrong == "raises" else "the cable is out")


def test_a_listener_that_raises_is_counted_and_the_others_hear_all(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    def deaf(_: Decision) -> None:
        raise OSError("no space")

    other = Heard()
    box, heard = made(
        Camera({"a": make_frame(10)}), open_inspector(bundle, "onnx_fp32"), listeners={"deaf": deaf, "other": other}
    )
    box.pull(trigger("a"))
    box.pull(trigger("a"))
    assert len(other.wait(2)) == len(heard.wait(2)) == 2
    health = box.health()
    assert health.failures == {"deaf": 2} and health.last_failure == "deaf: OSError: no space"


def test_a_frame_that_runs_free_is_judged_as_it_is(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    box, heard = made(Camera({}), open_inspector(bundle, "onnx_fp32"))
    box.pull(trigger("000001"), make_frame(250, 1))
    assert heard.wait(1)[0].verdict.state is State.REJECT


def test_a_new_bundle_judges_from_the_next_part_on(
    made: Callable[..., tuple[Box, Heard]],
    bundle: Bundle,
    make_bundle: Callable[..., Bundle],
    tmp_path: Path,
    make_frame: MakeFrame,
) -> None:
    other = make_bundle(tmp_path / "other.bundle", network="teacher")
    box, heard = made(Camera({"a": make_frame(10)}), open_inspector(bundle, "onnx_fp32"))
    box.pull(trigger("a"))
    heard.wait(1)
    assert box.switch(open_inspector(other, "onnx_fp32")) == bundle
    box.pull(trigger("a"))
    models = [decision.verdict.model for decision in heard.wait(2)]
    assert models == [bundle.model, other.model] and box.health().model == other.model


def test_a_bundle_that_fails_its_self_test_does_not_judge_and_the_old_one_stays(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    box, heard = made(Camera({"a": make_frame(10)}), open_inspector(bundle, "onnx_fp32"))
    with pytest.raises(BundleError, match="self-test failed"):
        box.switch(Inspector(bundle, "onnx_fp32", FakeEngine([0.0])))
    box.pull(trigger("a"))
    assert heard.wait(1)[0].verdict.state is State.PASS


def test_a_box_that_failed_its_self_test_never_says_pass_and_says_why(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    box, heard = made(Camera({"a": make_frame(10)}), Inspector(bundle, "onnx_fp32", FakeEngine([-4.0])))
    box.pull(trigger("a"))
    verdict = heard.wait(1)[0].verdict
    assert verdict.state is State.NO_DECISION and "self-test failed" in str(verdict.cause)
    assert box.health().fault == verdict.cause


def test_the_region_is_what_is_judged_and_a_frame_without_it_is_no_decision(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle
) -> None:
    image = np.full((40, 60, 3), 250, np.uint8)
    image[10:30, 20:40] = 10
    whole, small = Frame(image, 0, "", 0), Frame(image[:20], 1, "", 0)
    box, heard = made(
        Camera({"a": whole, "b": small}), open_inspector(bundle, "onnx_fp32"), region=Region(20, 10, 20, 20)
    )
    box.pull(trigger("a"))
    box.pull(trigger("b"))
    first, second = heard.wait(2)
    assert first.verdict.state is State.PASS
    assert first.frame is not None and np.array_equal(first.frame.frame_bgr, image[10:30, 20:40])  # type: ignore[arg-type]
    assert second.verdict.cause == "the frame is 60x20; the region ends at 40x30"


def test_the_heart_beats_while_no_part_comes_and_stops_while_an_inspection_hangs(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    beats, entered, release = threading.Semaphore(0), threading.Event(), threading.Event()

    def hang() -> Frame:
        entered.set()
        release.wait()
        return make_frame(10)

    box, heard = made(Camera({"a": hang}), open_inspector(bundle, "onnx_fp32"), beat=beats.release)
    for _ in range(3):
        assert beats.acquire(timeout=20)
    box.pull(trigger("a"))
    assert entered.wait(20)
    while beats.acquire(blocking=False):
        pass
    assert not beats.acquire(timeout=0.3)  # six times BEAT_S
    release.set()
    assert heard.wait(1)[0].verdict.state is State.PASS and beats.acquire(timeout=20)


def test_a_beat_that_raises_is_counted_and_parts_are_judged_on(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    def broken() -> None:
        raise OSError("no watchdog")

    box, heard = made(Camera({"a": make_frame(10)}), open_inspector(bundle, "onnx_fp32"), beat=broken)
    box.pull(trigger("a"))
    assert heard.wait(1)[0].verdict.state is State.PASS
    assert box.health().failures["beat"] > 0 and box.health().last_failure == "beat: OSError: no watchdog"


def test_the_last_judged_part_is_kept_with_its_heat_map_for_people_to_look_at(
    made: Callable[..., tuple[Box, Heard]], bundle: Bundle, make_frame: MakeFrame
) -> None:
    frame = make_frame(250)
    box, heard = made(Camera({"a": frame, "b": Frame(None, 0, "", 0, "black")}), open_inspector(bundle, "onnx_fp32"))
    assert box.shown is None
    box.pull(trigger("a"))
    box.pull(trigger("b"))
    heard.wait(2)
    assert box.shown is not None and box.shown.verdict.part_id == "a" and box.shown.image_bgr is frame.frame_bgr
