"""Every frame gets exactly one verdict, and none is PASS without evidence."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from diagline.bundle import Bundle
from diagline.errors import BundleError, CameraError
from diagline.verdict import State, Verdict
from edge_runtime.camera import Frame, open_camera
from edge_runtime.camera.frames import Closing, stamp
from edge_runtime.engines.engine import FakeEngine
from edge_runtime.loop import WARM_UP, Inspector, open_inspector, run, sinks

ALL = ("onnx_fp32", "onnx_int8", "tflite_int8")
MakeFrame = Callable[..., Frame]


class FakeCamera(Closing):
    """Gives what it is told to, in turn; an exception is raised, a call is made first."""

    dropped = 0

    def __init__(self, items: list[Frame | Exception | None], before: Callable[[int], None] | None = None) -> None:
        self._items: Iterator[tuple[int, Frame | Exception | None]] = iter(enumerate(items))
        self._before = before

    def read(self) -> Frame | None:
        number, item = next(self._items)
        if self._before is not None:
            self._before(number)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Nothing to release."""


def healthy(bundle: Bundle, answers: list[float | Exception]) -> tuple[Inspector, FakeEngine]:
    """An inspector on an engine that passes its self-test and then answers from the list."""
    golden = [vector.outputs["onnx_fp32"] for vector in bundle.golden]
    engine = FakeEngine([*golden, *[0.0] * WARM_UP, *answers])
    return Inspector(bundle, "onnx_fp32", engine), engine


BROKEN_OUTPUTS: list[float | Exception] = [
    float("nan"),
    float("inf"),
    float("-inf"),
    RuntimeError("the engine\ndied"),
    ValueError(""),
    MemoryError(),
]


@pytest.mark.parametrize("answer", BROKEN_OUTPUTS, ids=str)
def test_an_engine_that_fails_decides_nothing_and_says_why(
    answer: float | Exception, bundle: Bundle, make_frame: MakeFrame
) -> None:
    inspector, engine = healthy(bundle, [answer])
    assert inspector.fault is None
    verdict = inspector.inspect(make_frame())
    assert engine.calls == len(engine.answers)
    assert verdict.state is State.NO_DECISION and not verdict.opens_gate
    assert verdict.cause is not None and verdict.cause.startswith("fake: ") and "\n" not in verdict.cause


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((16, 16, 3), np.float32),
        np.zeros((16, 16, 4), np.uint8),
        np.zeros((0, 16, 3), np.uint8),
        np.zeros((16,), np.uint8),
    ],
    ids=lambda picture: f"{picture.dtype}{picture.shape}",
)
def test_a_frame_that_cannot_be_preprocessed_never_reaches_the_engine(
    picture: NDArray[np.uint8], bundle: Bundle
) -> None:
    inspector, engine = healthy(bundle, [-3.0])
    before = engine.calls
    verdict = inspector.inspect(Frame(picture, 0, *stamp()))
    assert verdict.state is State.NO_DECISION and "preprocess" in str(verdict.cause)
    assert engine.calls == before


def test_a_missing_frame_keeps_its_cause(bundle: Bundle) -> None:
    inspector, _ = healthy(bundle, [-3.0])
    verdict = inspector.inspect(Frame(None, 4, *stamp(), cause="no frame within 5 s"))
    assert (verdict.state, verdict.cause, verdict.part_id) == (State.NO_DECISION, "no frame within 5 s", "000004")


def test_the_threshold_itself_rejects(bundle: Bundle, make_frame: MakeFrame) -> None:
    inspector, _ = healthy(bundle, [-0.001, 0.0, 0.001])
    states = [inspector.inspect(make_frame()).state for _ in range(3)]
    assert states == [State.PASS, State.REJECT, State.REJECT]


@pytest.mark.parametrize("name", ALL)
def test_a_box_that_fails_its_golden_vectors_passes_nothing(
    name: str, make_bundle: Callable[..., Bundle], make_frame: MakeFrame, tmp_path: Path
) -> None:
    inspector = open_inspector(make_bundle(tmp_path / "false.bundle", shift=-5.0), name, 1)
    assert inspector.fault is not None
    for level in (0, 10, 60, 255):
        verdict = inspector.inspect(make_frame(level))
        assert verdict.state is State.NO_DECISION
        assert "self-test failed on 4 of 4" in str(verdict.cause) and name in str(verdict.cause)


def test_a_bundle_without_golden_vectors_passes_nothing(bundle: Bundle, make_frame: MakeFrame) -> None:
    inspector = Inspector(replace(bundle, golden=()), "onnx_fp32", FakeEngine([-3.0]))
    assert inspector.inspect(make_frame()).state is State.NO_DECISION


@pytest.mark.parametrize("name", ALL)
def test_real_engines_tell_dark_from_bright_and_a_broken_picture_from_both(
    name: str, bundle: Bundle, picture_folder: Path
) -> None:
    inspector = open_inspector(bundle, name, 1)
    seen: list[Verdict] = []
    with open_camera(str(picture_folder)) as camera:
        counts = run(inspector, camera, [seen.append])
    told = [State.PASS, State.REJECT, State.NO_DECISION, State.PASS, State.REJECT]
    assert [verdict.state for verdict in seen] == told
    assert str(counts) == "5 frames: 2 PASS, 2 REJECT, 1 NO_DECISION"
    assert {verdict.model for verdict in seen} == {bundle.model}
    for verdict in seen:
        stamps = list(verdict.stamps_ns.values())
        assert stamps == sorted(stamps)
        if verdict.logit is not None:
            assert list(verdict.stamps_ns) == ["taken", "received", "preprocessed", "inferred", "decided"]


def test_fastest_is_what_the_bundle_names(bundle: Bundle) -> None:
    inspector = open_inspector(bundle)
    assert (inspector.format_name, inspector.engine.name) == bundle.manifest.fastest


@pytest.mark.parametrize(
    ("verified", "runs"),
    [
        (("onnx_fp32", "onnx_int8", "tflite_int8"), "tflite_int8"),
        (("onnx_fp32", "onnx_int8"), "onnx_int8"),
        (("onnx_fp32",), "onnx_fp32"),
    ],
)
def test_where_nothing_was_timed_the_first_verified_runs_and_it_says_so(
    verified: tuple[str, ...], runs: str, bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    entries = bundle.manifest.formats.items()
    formats = {name: fmt if name in verified else replace(fmt, engines=()) for name, fmt in entries}
    untimed = replace(bundle, manifest=replace(bundle.manifest, formats=formats, fastest=None))
    inspector = open_inspector(untimed)
    assert (inspector.format_name, inspector.engine.name) == (runs, formats[runs].engines[0])
    printed = capfd.readouterr()
    assert f"nothing was timed yet, so {runs} runs" in printed.err and f"bench {bundle.root} --record" in printed.err
    assert printed.out == ""


def test_a_format_that_is_named_runs_without_a_word_on_timing(
    bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    open_inspector(replace(bundle, manifest=replace(bundle.manifest, fastest=None)), "onnx_fp32")
    assert capfd.readouterr().err == ""


def test_nothing_runs_where_nothing_was_verified(bundle: Bundle) -> None:
    formats = {name: replace(fmt, engines=()) for name, fmt in bundle.manifest.formats.items()}
    with pytest.raises(BundleError, match="no format is verified"):
        open_inspector(replace(bundle, manifest=replace(bundle.manifest, formats=formats, fastest=None)))


def test_an_engine_the_format_was_not_verified_on_is_refused(bundle: Bundle) -> None:
    unproven = {name: replace(fmt, engines=()) for name, fmt in bundle.manifest.formats.items()}
    other = replace(bundle, manifest=replace(bundle.manifest, formats=unproven))
    with pytest.raises(BundleError, match="not verified on onnxruntime"):
        open_inspector(other, "onnx_int8", 1)


def test_a_format_the_bundle_does_not_hold_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="onnx_int4"):
        open_inspector(bundle, "onnx_int4", 1)


@pytest.mark.parametrize("limit", [1, 2, 5, 9, None])
def test_counts_reconcile_at_every_number_of_frames(limit: int | None, bundle: Bundle, make_frame: MakeFrame) -> None:
    answers: list[float | Exception] = [-1.0, 1.0, float("nan"), RuntimeError("dead"), -2.0, 3.0]
    inspector, _ = healthy(bundle, answers)
    lost = Frame(None, 6, *stamp(), cause="no frame within 5 s")
    frames = [*(make_frame(10, number) for number in range(6)), lost, None]
    seen: list[Verdict] = []
    counts = run(inspector, FakeCamera(list(frames)), [seen.append], limit)
    assert counts.triggers == len(seen) == min(limit or 7, 7)
    for state in State:
        assert counts.states[state] == sum(verdict.state is state for verdict in seen)
    assert len({verdict.part_id for verdict in seen}) == len(seen)


def test_a_camera_that_stops_leaves_every_verdict_in_the_log(
    bundle: Bundle, make_frame: MakeFrame, tmp_path: Path
) -> None:
    inspector, _ = healthy(bundle, [-1.0, 1.0])
    told = Frame(None, 2, *stamp(), cause="the stream ended after 2 frames")
    camera = FakeCamera([make_frame(10, 0), make_frame(10, 1), told, CameraError("the stream ended")])
    with pytest.raises(CameraError):
        run(inspector, camera, sinks(tmp_path / "log.jsonl", quiet=True))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["state"] for record in records] == ["PASS", "REJECT", "NO_DECISION"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_waiting_ends_the_loop_with_its_counts(
    number: int, bundle: Bundle, make_frame: MakeFrame
) -> None:
    inspector, _ = healthy(bundle, [-1.0])
    before = signal.getsignal(number)

    def interrupt(index: int) -> None:
        if index == 2:
            signal.raise_signal(number)

    seen: list[Verdict] = []
    counts = run(inspector, FakeCamera([make_frame(10, index) for index in range(9)], interrupt), [seen.append])
    assert counts.triggers == len(seen) == 2
    assert signal.getsignal(number) is before


def test_an_interrupt_during_a_verdict_waits_for_its_record(
    bundle: Bundle, make_frame: MakeFrame, tmp_path: Path
) -> None:
    inspector, engine = healthy(bundle, [-1.0, -1.0, -1.0])
    answer, start = engine.infer, engine.calls

    def infer(image_u8: NDArray[np.uint8]) -> float:
        if engine.calls == start + 1:
            signal.raise_signal(signal.SIGINT)
        return answer(image_u8)

    engine.infer = infer  # type: ignore[method-assign]
    camera = FakeCamera([make_frame(10, index) for index in range(9)])
    counts = run(inspector, camera, sinks(tmp_path / "log.jsonl", quiet=True))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert counts.triggers == len(records) == 2
    assert [record["state"] for record in records] == ["PASS", "PASS"]
