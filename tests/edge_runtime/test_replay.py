"""A part judged again gives exactly its verdict, or says plainly why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from diagline.bundle import Bundle
from diagline.errors import MissingExtraError
from diagline.verdict import State, Verdict
from edge_runtime import loop
from edge_runtime.archive.config import ArchiveConfig
from edge_runtime.archive.reader import Reader
from edge_runtime.archive.replay import Replay, replay
from edge_runtime.archive.store import Archive, Origin
from edge_runtime.camera.frames import Frame, stamp

ENGINES = {"onnx_fp32": "onnxruntime", "onnx_int8": "onnxruntime", "tflite_int8": "litert"}


def picture(level: int, seed: int = 0) -> NDArray[np.uint8]:
    """A noisy picture about as bright as `level`, larger than the network's input."""
    noise = np.random.default_rng(seed).integers(-9, 10, (37, 53, 3))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


class Day:
    """Archives what an inspector says of pictures, and judges them again."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.folder, self.bundle = folder, bundle

    def archive(
        self, frames: dict[str, NDArray[np.uint8]], format_name: str = "tflite_int8", **config: Any
    ) -> dict[str, Verdict]:
        """One run over the frames, by part id."""
        archive = Archive(self.folder, ArchiveConfig(**{"pass_share": 1.0, "min_free_bytes": 0, **config}))
        inspector = loop.open_inspector(self.bundle, format_name, 1)
        origin = Origin(self.bundle.sha256, format_name, inspector.engine.name, 1)
        given = {}
        for part_id, frame_bgr in frames.items():
            given[part_id] = inspector.inspect(Frame(frame_bgr, 0, *stamp(), picture=part_id))
            archive.put(given[part_id], frame_bgr, origin)
        assert archive.close() == 0
        return given

    def replay(self, part_id: str, bundle: Bundle | None = None, run_id: str | None = None) -> Replay:
        reader = Reader(self.folder)
        try:
            return replay(reader, part_id, bundle or self.bundle, run_id)
        finally:
            reader.close()


@pytest.fixture
def day(tmp_path: Path, bundle: Bundle) -> Day:
    return Day(tmp_path / "archive", bundle)


@pytest.mark.parametrize("format_name", ENGINES)
def test_a_replay_gives_exactly_the_verdict_of_the_day(format_name: str, day: Day) -> None:
    frames = {f"{level}": picture(level, level) for level in (10, 100, 127, 128, 140, 250)}
    frames["grey"] = picture(90)[:, :, 0]
    given = day.archive(frames, format_name)
    assert {verdict.state for verdict in given.values()} == {State.PASS, State.REJECT}
    for part_id, verdict in given.items():
        again = day.replay(part_id)
        assert again.same and again.now is not None, again.why
        assert (again.now.state, again.now.logit, again.now.part_id) == (verdict.state, verdict.logit, part_id)


def test_a_replay_that_differs_says_how(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    given = day.archive({"p": picture(200)}, "onnx_fp32")
    real = loop.Inspector.inspect

    def one_bit_more(self: loop.Inspector, frame: Frame) -> Verdict:
        verdict = real(self, frame)
        assert verdict.logit is not None
        return replace(verdict, logit=float(np.nextafter(verdict.logit, 9)))

    monkeypatch.setattr(loop.Inspector, "inspect", one_bit_more)
    again = day.replay("p")
    assert not again.same and again.now is not None
    assert again.why == f"then REJECT (logit {given['p'].logit!r}), now REJECT (logit {again.now.logit!r})"


def test_what_was_late_on_the_day_says_so(day: Day, bundle: Bundle) -> None:
    archive = Archive(day.folder, ArchiveConfig(min_free_bytes=0))
    late = Verdict("p", State.NO_DECISION, None, 0.0, bundle.model, stamp()[0], "late: 40 ms")
    archive.put(late, picture(10), Origin(bundle.sha256, "onnx_int8", "onnxruntime", 1))
    archive.close()
    again = day.replay("p")
    assert again.now is not None and again.now.state is State.PASS
    assert not again.same and str(again.why).startswith("then NO_DECISION (late: 40 ms), now PASS (logit ")


def test_jpeg_is_judged_again_and_never_called_the_same(day: Day) -> None:
    day.archive({"p": picture(250)}, "onnx_int8", image_format="jpeg")
    again = day.replay("p")
    assert again.row is not None and again.row.content["image_exact"] is False
    assert again.now is not None and not again.same and "JPEG, so a replay is not exact" in str(again.why)


def test_no_picture_no_part_and_two_parts_of_a_name_are_told(day: Day) -> None:
    assert day.archive({"p": picture(10)}, pass_share=0.0)
    assert day.replay("p").why == "no picture was kept: a pass that was not drawn"
    assert day.replay("q").why == "no such part"
    day.archive({"p": picture(250)})
    twice = day.replay("p")
    assert twice.row is None and "name one" in str(twice.why)
    runs = str(twice.why).removeprefix("the runs ").split(" have")[0].split(", ")
    assert day.replay("p", run_id=runs[1]).same and day.replay("p", run_id=runs[0]).now is None


def test_a_picture_that_was_deleted_changed_or_taken_away_is_told(day: Day) -> None:
    day.archive({"p": picture(250), "q": picture(251), "r": picture(252)})
    path = {name: next(day.folder.rglob(f"*_{name}.png")) for name in "pqr"}
    cv2.imwrite(str(path["q"]), picture(10))
    assert "changed; its row names a picture of another SHA-256" in str(day.replay("q").why)
    path["r"].unlink()
    assert "No such file" in str(day.replay("r").why)
    Archive(day.folder, ArchiveConfig(min_free_bytes=0, reject_quota_bytes=0)).close()
    gone = day.replay("p")
    assert gone.now is None and "its picture is gone since" in str(gone.why) and "REJECT takes more" in str(gone.why)


def test_another_bundle_is_refused_and_named(
    day: Day, make_bundle: Callable[..., Bundle], tmp_path: Path, bundle: Bundle
) -> None:
    day.archive({"p": picture(250)})
    other = make_bundle(tmp_path / "other.bundle", network="teacher")
    again = day.replay("p", other)
    assert again.now is None and bundle.model in str(again.why) and other.model in str(again.why)


def test_a_missing_engine_is_told(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    day.archive({"p": picture(250)})

    def missing(*_: Any) -> None:
        raise MissingExtraError("ai_edge_litert is not installed")

    monkeypatch.setattr(loop, "open_engine", missing)
    again = day.replay("p")
    assert again.now is None and again.why == "ai_edge_litert is not installed"


def test_a_verdict_without_an_engine_cannot_be_given_again(day: Day) -> None:
    archive = Archive(day.folder, ArchiveConfig(min_free_bytes=0))
    archive.put(Verdict("p", State.NO_DECISION, None, 0.0, "none", stamp()[0], "no bundle"), picture(10))
    archive.close()
    assert day.replay("p").why == "no engine was open: no bundle"
