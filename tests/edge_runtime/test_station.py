"""A whole box: what its config asks for is opened, hears of every verdict, and is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from diagline import files
from diagline.bundle import Bundle
from diagline.errors import BundleError, CameraError, ConfigError
from diagline.verdict import State
from edge_runtime import box_config
from edge_runtime.archive.database import Kind
from edge_runtime.archive.reader import Reader
from edge_runtime.box_config import BoxConfig, TriggerConfig
from edge_runtime.camera import Frame
from edge_runtime.challenge import challenge
from edge_runtime.gate.config import GateConfig
from edge_runtime.gate.driver import SimulatedActuator
from edge_runtime.gate.encoder import EncoderConfig
from edge_runtime.outputs.line_files import LineFilesConfig
from edge_runtime.plc.modbus_server import ModbusConfig
from edge_runtime.station import Station
from edge_runtime.station_view import StationView
from edge_runtime.trigger import Trigger

MakeFrame = Callable[..., Frame]
WAIT_S = 20.0


@dataclass(frozen=True)
class CameraHealth:
    state: str = "live"
    age_ms: float | None = 1.0
    frames: int = 1
    reconnects: int = 0
    cause: str | None = None
    dropped: tuple[()] | dict[str, int] = ()
    refused: tuple[()] | dict[str, int] = ()
    stamps: tuple[()] | dict[str, int] = ()
    stamped: str = ""


class Camera:
    """Shows what it is told to."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.closed = threading.Event()

    def read(self, timeout_s: float | None = None) -> Frame | None:
        self.closed.wait()
        return None

    def announce(self, trigger: Trigger) -> None:
        pass

    def frame_for(self, trigger: Trigger, timeout_s: float) -> Frame:
        return self.frame

    def health(self) -> Any:
        return CameraHealth(dropped={}, refused={}, stamps={})

    def close(self) -> None:
        self.closed.set()


class Line:
    """A station with a camera and a gate that tests hold in their hands."""

    def __init__(self, config: BoxConfig, frame: Frame) -> None:
        self.camera, self.actuator = Camera(frame), SimulatedActuator()
        self.station = Station(config, camera=self.camera, actuator=self.actuator)
        self.view = StationView(self.station)
        self._number = 0

    def part(self) -> State:
        """The verdict on one more part."""
        self._number += 1
        name = f"part-{self._number}"
        self.station.pull(Trigger(name, time.monotonic_ns(), "2026-01-01T00:00:00.000000+00:00"))
        return self.wait(lambda: next((one for one in self.station.recent.recent() if one.part_id == name), None)).state

    def wait(self, look: Callable[[], Any]) -> Any:
        until = time.monotonic() + WAIT_S
        pause = threading.Event()
        while not (found := look()):
            assert time.monotonic() < until, self.station.box.health()
            pause.wait(0.005)
        return found


@pytest.fixture
def config(bundle: Bundle, tmp_path: Path) -> BoxConfig:
    return BoxConfig(
        "line 3",
        bundle.root,
        tmp_path / "box",
        allow_unsigned=True,
        trigger=TriggerConfig(by="page", deadline_ms=10_000.0),
        gate=GateConfig(delay_ms=1.0, open_ms=50.0, gap_ms=5000.0, heartbeat_ms=10_000.0),
        coil=box_config.CoilConfig("127.0.0.1"),
        lines=LineFilesConfig(tmp_path / "box" / "lines"),
        spool=box_config.SpoolConfig(tmp_path / "box" / "spool"),
    )


@pytest.fixture
def opened(make_frame: MakeFrame) -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def open_line(config: BoxConfig, level: int = 10) -> Line:
        lines.append(Line(config, make_frame(level)))
        return lines[-1]

    yield open_line
    for line in lines:
        line.station.close()


def test_gate_files_archive_and_page_hear_of_every_part(
    opened: Callable[..., Line], config: BoxConfig, make_frame: MakeFrame
) -> None:
    line = opened(config)
    assert line.part() is State.PASS
    line.camera.frame = make_frame(250)
    assert line.part() is State.REJECT
    line.camera.frame = Frame(None, 3, "", 0, "the cable is out")
    assert line.part() is State.NO_DECISION
    snapshot = line.view.snapshot()
    assert snapshot.tally.triggers == 3 and snapshot.line == "line 3" and snapshot.fault is None
    assert [one.state for one in snapshot.rejects] == [State.NO_DECISION, State.REJECT]
    picture = line.view.picture()
    assert picture is not None and picture.startswith(b"\xff\xd8")
    line.wait(lambda: all(spool.health().waiting == 0 for spool in line.station.spools))
    line.wait(lambda: sum(line.station.gate.gate.counts[did] for did in ("passed", "rejected", "unsure")) == 3)  # type: ignore[union-attr]
    assert line.station.gate is not None and line.station.gate.gate.counts["rejected"] >= 2
    line.station.close()
    (csv,) = (config.folder / "lines").iterdir()
    assert [text.split(",")[1] for text in csv.read_text().splitlines()[1:]] == ["PASS", "REJECT", "NO_DECISION"]
    reader = Reader(config.folder / "archive")
    assert reader.verify().fault is None
    rows = [row.content for row in reversed(reader.verdicts(10))]
    assert [row["state"] for row in rows] == ["PASS", "REJECT", "NO_DECISION"] and rows[1]["image"]
    assert all(reader.events(kind) for kind in (Kind.START, Kind.SELF_TEST, Kind.GATE, Kind.STOP))
    reader.close()


def test_a_self_test_that_fails_stands_the_box_down_until_one_passes(
    opened: Callable[..., Line], config: BoxConfig, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "own.bundle")
    line = opened(replace(config, bundle=made.root))
    assert "4 golden pictures" in line.view.self_test()
    whole = made.path("tflite_int8").read_bytes()
    made.path("tflite_int8").write_bytes(whole[:-1])
    with pytest.raises(BundleError, match="changed"):
        line.view.self_test()
    assert line.part() is State.NO_DECISION
    assert "self-test failed" in str(line.view.snapshot().fault)
    made.path("tflite_int8").write_bytes(whole)
    line.view.self_test()
    assert line.part() is State.PASS and line.view.snapshot().fault is None


def test_a_bundle_beside_the_present_one_takes_over_and_the_link_follows(
    opened: Callable[..., Line], config: BoxConfig, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    old, new = make_bundle(tmp_path / "old.bundle"), make_bundle(tmp_path / "new.bundle", network="teacher")
    current = tmp_path / "current.bundle"
    current.symlink_to(old.root)
    line = opened(replace(config, bundle=current))
    assert new.model in line.view.switch_bundle("new.bundle")
    assert line.part() is State.PASS and line.view.snapshot().model == new.model
    assert current.resolve() == new.root and current.is_symlink()
    new.path("tflite_int8").write_bytes(b"x")
    for wrong in ("../new.bundle", "/etc", "nothing", ""):
        with pytest.raises(BundleError):
            line.view.switch_bundle(wrong)
    corrupt = make_bundle(tmp_path / "corrupt.bundle")
    corrupt.path("onnx_fp32").write_bytes(b"x")
    with pytest.raises(BundleError, match="changed"):
        line.view.switch_bundle("corrupt.bundle")
    assert line.part() is State.PASS and line.view.snapshot().model == new.model and current.resolve() == new.root


def test_an_unsigned_bundle_is_not_run_unless_the_config_says_so(config: BoxConfig) -> None:
    with pytest.raises(BundleError, match="not signed"):
        Station(replace(config, allow_unsigned=False))


def test_a_box_that_cannot_open_everything_leaves_nothing_open(config: BoxConfig, opened: Callable[..., Line]) -> None:
    by_encoder = replace(config, gate=GateConfig(by="encoder"), encoder=EncoderConfig(config.folder / "no-counter"))
    with pytest.raises(ConfigError, match=r"no-counter.*expected a counter's file"):
        opened(by_encoder)
    assert opened(config).part() is State.PASS  # the archive's lock was given back


def test_by_encoder_the_gate_opens_where_the_part_is(
    opened: Callable[..., Line], config: BoxConfig, tmp_path: Path
) -> None:
    counter = tmp_path / "count"
    counter.write_text("5000\n")
    gate = GateConfig(by="encoder", distance=100, open_counts=50, counts_per_s=1e9, gap_ms=5000.0, stall_ms=600_000.0)
    line = opened(replace(config, gate=gate, encoder=EncoderConfig(counter)))
    assert line.station.gate is not None
    driver = line.station.gate

    def belt(count: int) -> None:
        files.write_text(counter, f"{count}\n")
        steps = driver.health().stepped_ns
        line.wait(lambda: driver.health().stepped_ns not in (None, steps))
        steps = driver.health().stepped_ns
        line.wait(lambda: driver.health().stepped_ns != steps)

    line.wait(lambda: driver.gate.fault is None)
    assert line.part() is State.PASS
    belt(5090)
    assert not line.actuator.is_open
    belt(5110)
    assert line.actuator.is_open
    belt(5160)
    assert not line.actuator.is_open and driver.health().counts["passed"] == 1
    counter.unlink()  # the counter's driver is gone
    line.wait(lambda: driver.gate.fault == "the encoder does not answer")
    assert line.part() is State.PASS and not line.actuator.is_open


def test_a_latched_fault_is_acknowledged_from_the_page(opened: Callable[..., Line], config: BoxConfig) -> None:
    assert config.gate is not None
    line = opened(replace(config, gate=replace(config.gate, latch=True)))
    assert line.station.gate is not None
    gate = line.station.gate.gate
    assert line.view.acknowledge() == "nothing waits to be acknowledged"
    gate.fail("a trigger was lost")
    line.wait(lambda: str(gate.fault).endswith("not acknowledged"))
    state = line.view.snapshot().gate
    assert state is not None and state.waits and line.view.acknowledge() == "acknowledged: a trigger was lost"
    line.wait(lambda: gate.fault is None)


def test_a_plc_pulls_the_trigger_and_reads_the_verdict(opened: Callable[..., Line], config: BoxConfig) -> None:
    from pymodbus.client import ModbusTcpClient

    modbus = ModbusConfig(port=0, plc_timeout_ms=60_000.0, heartbeat_ms=60_000.0, timeout_ms=60_000.0)
    line = opened(replace(config, modbus=modbus, trigger=TriggerConfig("modbus", 10_000.0)))
    assert line.station.modbus is not None
    host, port = line.station.modbus.address
    client = ModbusTcpClient(host, port=port)
    assert client.connect()
    client.write_register(0, 1)  # the PLC's watchdog

    def bits() -> list[bool]:
        return list(client.read_discrete_inputs(0, count=8).bits)

    line.wait(lambda: bits()[0])  # Ready
    client.write_coil(0, True)
    line.wait(lambda: bits()[2])  # ResultValid
    assert bits()[3]  # Pass
    client.close()
    assert line.view.snapshot().tally.states[State.PASS] == 1


def test_a_button_judges_only_where_frames_are_not_judged_by_themselves(
    opened: Callable[..., Line], config: BoxConfig
) -> None:
    line = opened(config)
    assert "triggered" in line.view.trigger()
    line.wait(lambda: line.view.snapshot().tally.states[State.PASS] == 1)
    line.station.close()
    free = opened(replace(config, folder=config.folder.with_name("free"), trigger=TriggerConfig("free")))
    with pytest.raises(CameraError, match=r"trigger\.by"):
        free.view.trigger()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing key name"),
        ('name = "x"\nbundle = "b"\nfolder = "f"\n[camra]\n', "did you mean camera"),
        ('name = "x"\nbundle = "b"\nfolder = "f"\n[trigger]\nby = "mqtt"', "there is no [mqtt]"),
        ('name = "x"\nbundle = "b"\nfolder = "f"\n[gate]\n', "nothing to move"),
        ('name = "x"\nbundle = "b"\nfolder = "f"\n[trigger]\ndeadline_ms = 0', "trigger.deadline_ms"),
        ('name = "x"\nbundle = "b"\nfolder = "f"\nregion = 3', "expected a table [region]"),
    ],
)
def test_a_config_that_cannot_be_used_names_the_file_and_the_key(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        box_config.load(tmp_path / "box.toml")
    assert str(tmp_path / "box.toml") in str(caught.value) and says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_challenge_parts_are_judged_one_by_one_and_the_result_is_in_the_trail(
    opened: Callable[..., Line], config: BoxConfig, make_frame: MakeFrame
) -> None:
    line = opened(config)
    levels = iter((10, 250, 10))  # the third is a bad one that looks good

    def lay(number: int, kind: str) -> None:
        line.camera.frame = make_frame(next(levels), number)

    shown = list(challenge(line.station, ["good", "bad", "bad"], lay))
    assert [(one.state, one.right) for one in shown] == [("PASS", True), ("REJECT", True), ("PASS", False)]
    line.camera.frame = Frame(None, 9, "", 0, "the cable is out")
    (lost,) = challenge(line.station, ["bad"], lambda number, kind: None)
    assert (lost.state, lost.right, lost.cause) == ("NO_DECISION", False, "the cable is out")
    line.camera.frame = make_frame(250)
    (found,) = challenge(line.station, ["bad"], lambda number, kind: None)
    assert found.right
    line.station.close()
    reader = Reader(config.folder / "archive")
    trail = [row.content["payload"] for row in reversed(reader.events(Kind.CHALLENGE))]
    assert [(one["passed"], len(one["parts"])) for one in trail] == [(False, 3), (False, 1), (True, 1)]
    assert trail[0]["model"] == line.station.box.health().model
    reader.close()
