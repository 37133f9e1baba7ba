"""A bench of a whole box hides no stall and trims no part, and leaves what stands beside the line alone."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import threading
import xml.etree.ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from diagline.bundle import Bundle
from diagline.errors import BundleError, CameraError, ConfigError, OutputError
from edge_runtime import recent, station
from edge_runtime.bench import line_picture, line_report
from edge_runtime.bench.line import WARM_UP_PARTS, LineResult, Load, bench
from edge_runtime.bench.rehearsal import Rehearsal, SimulatedCamera
from edge_runtime.bench.witness import COLUMNS, STAGES, STATES, Run
from edge_runtime.box import Region
from edge_runtime.box_config import BoxConfig, TriggerConfig
from edge_runtime.camera.checks import ChecksConfig
from edge_runtime.camera.config import CameraConfig
from edge_runtime.gate.config import GateConfig
from edge_runtime.gate.driver import SimulatedActuator
from edge_runtime.gpio import GpioConfig
from edge_runtime.loop import open_inspector
from edge_runtime.outputs.base import FakeOutput
from edge_runtime.outputs.line_files import LineFilesConfig
from edge_runtime.outputs.mqtt_output import MqttConfig
from edge_runtime.outputs.webhook import WebhookConfig
from edge_runtime.plc.coil import CoilConfig
from edge_runtime.plc.modbus_server import ModbusConfig
from edge_runtime.trigger import Trigger

MS = 1_000_000
STALL_S = 0.5


def patient(bundle: Bundle, folder: Path) -> BoxConfig:
    """A box for which nothing is late, and every frame is kept until it is asked for."""
    checks = ChecksConfig(max_age_ms=600_000.0)
    camera = CameraConfig(queue_frames=1000, keep="all", checks=checks)
    trigger = TriggerConfig("free", 60_000.0, 10_000)
    return BoxConfig("line 3 <a & b>", bundle.root, folder, allow_unsigned=True, trigger=trigger, camera=camera)


@pytest.fixture
def config(bundle: Bundle, tmp_path: Path) -> BoxConfig:
    return patient(bundle, tmp_path / "box")


@pytest.fixture(scope="module")
def result(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> LineResult:
    """A short closed loop and a short open one."""
    return measured(patient(bundle, tmp_path_factory.mktemp("box") / "box"), Load(None, 0.2), Load(100.0, 0.3))


def measured(config: BoxConfig, *loads: Load, stop: threading.Event | None = None) -> LineResult:
    found = bench(Rehearsal(config, simulated=True), loads, stop or threading.Event())
    assert found is not None
    return found


def run_of(config: BoxConfig, load: Load) -> Run:
    return measured(config, load).loads[0].run


def column(run: Run, name: str) -> NDArray[np.int64]:
    return run.parts[:, COLUMNS.index(name)]


def after_warm_up(do: Callable[[], object], part: int = 0) -> Callable[[], None]:
    """Does it at the call of that part of the run."""
    calls = itertools.count()

    def call() -> None:
        if next(calls) == WARM_UP_PARTS + part:
            do()

    return call


def stall() -> None:
    threading.Event().wait(STALL_S)


@pytest.fixture
def stalling_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands still at the first part of the run."""

    def opened(*arguments: Any) -> Any:
        inspector, once = open_inspector(*arguments), after_warm_up(stall)
        infer = inspector.engine.infer

        def slow(image: NDArray[np.uint8]) -> float:
            once()
            return infer(image)

        monkeypatch.setattr(inspector.engine, "infer", slow)
        return inspector

    monkeypatch.setattr(station, "open_inspector", opened)


def announcing(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Do it with every trigger, on the thread that pulls it."""
    announce = SimulatedCamera.announce

    def told(camera: SimulatedCamera, trigger: Trigger) -> None:
        do()
        announce(camera, trigger)

    monkeypatch.setattr(SimulatedCamera, "announce", told)


# What is measured.


@pytest.mark.usefixtures("stalling_engine")
def test_a_stall_of_the_engine_is_in_the_latency_of_every_part_that_was_due_meanwhile(config: BoxConfig) -> None:
    run = run_of(config, Load(100.0, STALL_S))
    assert run.pulled == len(run.parts) == 50 and run.missed == 0
    due_ns, whole_ns = column(run, "due_ns"), column(run, "whole")
    assert (due_ns + whole_ns >= due_ns.min() + STALL_S * 1e9).all()
    latency = run.stages["whole"].latency
    assert latency is not None and latency.p50 >= 250 and latency.max >= 500
    frame = run.stages["frame"].latency  # the others waited before they were looked at
    assert frame is not None and frame.p50 >= 240


def test_parts_that_were_pulled_late_count_from_when_they_were_due(
    config: BoxConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    announcing(monkeypatch, after_warm_up(stall))
    run = run_of(config, Load(100.0, STALL_S))
    due_ns = np.sort(column(run, "due_ns"))
    assert (np.diff(due_ns) == 10 * MS).all()
    assert (column(run, "due_ns") + column(run, "whole") >= due_ns[0] + STALL_S * 1e9).all()
    assert run.lag is not None and run.lag.p50 >= 240


@pytest.mark.usefixtures("stalling_engine")
def test_a_missed_deadline_is_counted_and_its_part_is_in_the_percentiles(config: BoxConfig) -> None:
    run = run_of(replace(config, trigger=TriggerConfig(deadline_ms=100.0, most_open=1000)), Load(100.0, STALL_S))
    late = column(run, "cause") == recent.CAUSES.index("late")
    assert run.missed == late.sum() == run.causes["late"] >= 40 - 1  # due in the first 400 ms of the stall
    assert run.states["NO_DECISION"] >= run.missed and sum(run.states.values()) == run.pulled == 50
    assert run.unanswered == 0 and "late" in run.examples["late"]
    assert (column(run, "whole")[late] >= 100 * MS).all()
    assert run.stages["whole"].parts == 50 and run.stages["inference"].parts == 50 - run.missed


def test_more_open_parts_than_a_box_bears_are_no_decision_with_their_cause(
    config: BoxConfig, stalling_engine: None
) -> None:
    run = run_of(replace(config, trigger=TriggerConfig(deadline_ms=60_000.0, most_open=5)), Load(100.0, STALL_S))
    assert run.causes["overload"] == run.states["NO_DECISION"] > 0 and run.missed == 0
    assert "more than 5 parts wait" in run.examples["overload"]


def test_both_loops_show_every_stage_and_warm_up_stands_apart(result: LineResult, bundle: Bundle) -> None:
    closed, opened = (load.run for load in result.loads)
    assert (closed.load, opened.load) == ("closed loop", "open loop, 100 parts/s")
    assert opened.pulled == 30 and closed.lag is None and opened.lag is not None
    assert (result.bundle, result.line, result.interrupted) == (bundle.model, "line 3 <a & b>", False)
    assert result.machine["cores"] >= 1 and result.versions["numpy"]
    for load in result.loads:
        assert load.warm_up.parts == WARM_UP_PARTS and load.failures == {}
        run = load.run
        assert run.pulled == len(run.parts) == sum(run.states.values()) and run.unanswered == 0
        assert sorted(column(run, "part")) == list(range(run.pulled))
        assert run.states["NO_DECISION"] == 0 and run.causes == {}
        assert abs(run.states["PASS"] - run.states["REJECT"]) <= 2  # as the golden pictures say
        stages = {name: column(run, name) for name in STAGES}
        assert (sum(stages[name] for name in STAGES if name != "whole") <= stages["whole"]).all()
        for name, found_ns in stages.items():
            at = run.stages[name].latency
            assert at is not None and run.stages[name].parts == run.pulled
            assert [at.p50, at.p90, at.p99, at.p999, at.max] == sorted([at.p50, at.p90, at.p99, at.p999, at.max])
            assert at.max == found_ns.max() / 1e6 and at.p50 in found_ns / 1e6


def test_what_was_measured_before_a_stop_is_the_result(config: BoxConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(station, "open_inspector", lambda *given: opened.append(given) or open_inspector(*given))
    for load in (Load(100.0, 600.0), Load(None, 600.0)):
        stop = threading.Event()
        with monkeypatch.context() as patched:
            announcing(patched, after_warm_up(stop.set, part=4))
            found = measured(config, load, Load(50.0, 600.0), stop=stop)
        assert found.interrupted and [one.run.pulled for one in found.loads] == [5]
        assert "STOPPED" in next(iter(line_report.said(found))) and "STOPPED" in line_report.to_markdown(found)
    assert bench(Rehearsal(config, simulated=True), [load], stop) is None
    assert len(opened) == 2  # no box for a load that will not come


@pytest.mark.parametrize("wrong", [{"rate_hz": 0.0}, {"rate_hz": math.nan}, {"seconds": 0.0}, {"seconds": math.inf}])
def test_a_load_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Load(**{"rate_hz": None, "seconds": 1.0, **wrong})  # type: ignore[arg-type]


# The box that is measured.


@pytest.fixture
def whole(config: BoxConfig) -> BoxConfig:
    """A box with everything that can stand beside a line."""
    return replace(
        config, region=Region(0, 0, 5000, 5000), gate=GateConfig(delay_ms=1.0, gap_ms=5000.0, heartbeat_ms=10_000.0),
        coil=CoilConfig("127.0.0.1"), gpio=GpioConfig(busy=5), modbus=ModbusConfig("0.0.0.0", 5020),
        mqtt=MqttConfig("127.0.0.1"), webhook=WebhookConfig("http://127.0.0.1:1/"),
        lines=LineFilesConfig(config.folder / "lines"),
    )  # fmt: skip


def test_nothing_beside_the_line_hears_of_a_bench(whole: BoxConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GpioOutputs", "CoilActuator"):
        monkeypatch.setattr(station, name, lambda *_: pytest.fail("the gate would move"))
    for name in ("mqtt_output", "webhook", "line_files"):
        monkeypatch.setattr(getattr(station, name), "open_output", lambda *_: pytest.fail("an output would hear of it"))
    rehearsal = Rehearsal(whole, simulated=True)
    with rehearsal.open() as opened:
        assert opened.modbus is not None and opened.modbus.address[0] == "127.0.0.1"
        assert opened.modbus.address[1] != 5020 and opened.gate is not None
        assert [spool.health().name for spool in opened.spools] == ["mqtt", "webhook", "lines"]
    found = bench(rehearsal, [Load(None, 0.1)], threading.Event())
    assert found is not None and found.loads[0].failures == {} and found.loads[0].gate is not None
    assert found.loads[0].run.states["PASS"] > 0  # the region, which no golden picture holds, is left out
    said = " ".join(found.stands_in)
    for words in ("gate: simulated", "PLC", "mqtt, webhook, lines", "golden pictures", "archive"):
        assert words in said
    assert not whole.folder.exists() and [path.name for path in whole.folder.parent.iterdir()] == []


def test_a_bench_that_is_asked_to_drives_gate_and_outputs(whole: BoxConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    actuator, output = SimulatedActuator(), FakeOutput("mqtt")
    monkeypatch.setattr(station, "CoilActuator", lambda config: actuator)
    monkeypatch.setattr(station.mqtt_output, "open_output", lambda config: output)
    asked = replace(whole, gpio=None, webhook=None, modbus=None)
    rehearsal = Rehearsal(asked, simulated=True, drive=True)
    found = bench(rehearsal, [Load(None, 0.1)], threading.Event())
    assert found is not None and actuator.closed and found.stands_in[-1].endswith("driven, as on the line")
    assert output.records and output.records[0]["part_id"].startswith("bench-")
    assert [path.name for path in whole.folder.iterdir()] == ["lines"]  # the archive was elsewhere


def film(path: Path, rate_hz: int) -> None:
    """Noise that changes."""
    writer, rng = (
        cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate_hz, (32, 32)),
        np.random.default_rng(1),
    )
    for _ in range(2 * rate_hz):
        writer.write(rng.integers(0, 120, (32, 32, 3), np.uint8))
    writer.release()


def test_the_boxs_own_camera_is_measured_where_it_gives_pictures(config: BoxConfig, tmp_path: Path) -> None:
    film(tmp_path / "film.avi", 100)
    live = replace(config, camera=CameraConfig(str(tmp_path / "film.avi"), window_ms=60_000.0))
    found = bench(Rehearsal(live), [Load(None, 0.2)], threading.Event())
    assert found is not None and found.loads[0].run.states["PASS"] > 0
    assert not any("golden" in words for words in found.stands_in)
    gone = replace(config, camera=CameraConfig(str(tmp_path / "none.avi"), timeout_s=1.0))
    with pytest.raises(CameraError, match=r"no live source.*--simulated"):
        bench(Rehearsal(gone), [Load(None, 0.2)], threading.Event())


def test_a_box_that_cannot_be_measured_says_why(
    config: BoxConfig, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"camera.triggered.*--simulated"):
        Rehearsal(replace(config, camera=CameraConfig(triggered=True)))
    false = make_bundle(tmp_path / "false.bundle", shift=-5.0)
    for wrong, words in ((replace(config, bundle=false.root), "self-test failed"),
                         (replace(config, allow_unsigned=False), "not signed")):  # fmt: skip
        with pytest.raises(BundleError, match=words):
            bench(Rehearsal(wrong, simulated=True), [Load(None, 0.2)], threading.Event())
    (tmp_path / "box").touch()
    with pytest.raises(OutputError, match="write there"), pytest.MonkeyPatch.context() as patched:
        patched.setattr("tempfile.mkdtemp", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        bench(Rehearsal(config, simulated=True), [Load(None, 0.2)], threading.Event())


# What is shown.


def test_the_result_is_a_folder_that_is_never_written_over(result: LineResult, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    line_report.write(folder, result)
    found = json.loads((folder / "bench.json").read_text())
    closed, opened = (load["run"] for load in found["loads"])
    assert opened["stages"]["whole"]["latency"]["p999"] == result.loads[1].run.stages["whole"].latency.p999  # type: ignore[union-attr]
    assert found["machine"]["cpu"] and found["git_revision"] and closed["missed"] == 0
    rows = list(csv.DictReader((folder / "parts.csv").open()))
    assert len(rows) == closed["pulled"] + opened["pulled"]
    slowest = max(float(row["whole_ms"]) for row in rows if row["run"] == "2")
    assert slowest == pytest.approx(opened["stages"]["whole"]["latency"]["max"], abs=1e-5)
    text = (folder / "bench.md").read_text()
    for words in ("closed loop", "open loop, 100 parts/s", "bench.svg", "warm-up", "| whole | 30 |", "cores"):
        assert words in text
    with pytest.raises(OutputError, match="is there already"):
        line_report.write(folder, result)


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    root = xml.etree.ElementTree.fromstring(svg)
    found = [line.attrib["points"] for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in line.split())] for line in found]


def test_the_slowest_part_and_every_undecided_one_is_in_the_picture(result: LineResult) -> None:
    parts = np.zeros((5000, len(COLUMNS)), np.int64)
    parts[:, COLUMNS.index("due_ns")] = np.arange(5000) * 10 * MS
    parts[:, COLUMNS.index("whole")] = 2 * MS
    parts[1234, COLUMNS.index("whole")] = 40 * MS
    parts[1234, COLUMNS.index("state")] = line_picture.UNDECIDED
    assert STATES[line_picture.UNDECIDED].value == "NO_DECISION"
    slow = replace(result.loads[1], run=replace(result.loads[1].run, parts=parts))
    svg = line_picture.draw(replace(result, deadline_ms=50.0, loads=(slow,)))
    assert "line 3 &lt;a &amp; b&gt;" in svg and "deadline 50 ms" in svg
    curve, *_ = (line for line in polylines(svg) if len(line) == line_picture.POINTS)
    strip = next(line for line in polylines(svg) if len(line) == line_picture.COLUMNS_OF_TIME)
    share = math.log10(40) / 2  # from 1 to 100 ms
    assert curve[-1][1] == pytest.approx(line_picture.TOP + line_picture.CURVE * (1 - share), abs=0.2)
    top = line_picture.TOP + line_picture.CURVE + line_picture.GAP
    x, y = min(strip, key=lambda point: point[1])
    assert y == pytest.approx(top + line_picture.STRIP * (1 - share), abs=0.2)
    undecided = re.findall(
        rf'<polyline points="([\d.]+),[^"]*" fill="none" stroke="{line_picture.RED}" stroke-width="2"', svg
    )
    assert [float(at) for at in undecided] == [x]


def test_eighty_columns_hold_the_table(result: LineResult) -> None:
    from io import StringIO

    from rich.console import Console

    shown = StringIO()
    Console(width=80, file=shown).print(line_report.to_table(result))
    for words in ("open loop, 100 parts/s", "inference", "p99.9", result.bundle, "deadline 60000 ms"):
        assert words in shown.getvalue()
    assert "…" not in shown.getvalue()
