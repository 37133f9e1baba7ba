"""`device bench` prints one table for any device that speaks MLPerf Tiny's protocol, ours or a foreign one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("smp", reason="smp is not installed: pip install 'diagline[firmware]'")

from flash_payloads import payload
from perf_device import Perf, perf_device
from tiny_line import Diagline, refused

from diagline.errors import FlashError
from firmware_bridge import bench
from firmware_bridge.device import connect
from firmware_bridge.emulation.emulator import emulate
from firmware_bridge.flash import flash
from firmware_bridge.proof.tiny import Tiny


def test_a_foreign_device_is_measured_by_its_own_clock() -> None:
    with perf_device(Perf(infer_us=2500)) as found, bench.speaker(found.port) as device:
        told = bench.bench(device, bench.noise(100), bench.Plan(runs=3, warm_up=2, seconds=0.1))
    assert (told.name, told.model, told.result) == ("foreign board", "vww01", "0.125,0.875")
    assert told.latency_us == (2500.0, 2500.0, 2500.0) and told.median_us == 2500
    assert told.iterations == 40, "as many as fill the time asked for"
    assert found.loaded == bench.noise(100)


def test_what_another_host_left_in_its_buffer_does_no_harm() -> None:
    with perf_device(Perf(garbage="db")) as found, bench.speaker(found.port) as device:
        assert bench.bench(device, bench.noise(100), bench.Plan(1, 0, 0.001)).name == "foreign board"


def test_the_command_prints_the_table_and_json(diagline: Diagline) -> None:
    quick = ("--bytes", 100, "--seconds", 0.1, "--runs", 2)
    with perf_device(Perf()) as found:
        told = json.loads(diagline("device", "bench", "--port", found.port, "--json", *quick).out)
        assert (told["median_us"], told["input_bytes"], told["port"]) == (2500, 100, found.port)
        shown = diagline("device", "bench", "--port", found.port, *quick).err
    assert "2.500 ms" in shown and "foreign board" in shown and "2 runs of 40 after 5" in shown


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")
def test_our_device_says_itself_how_large_a_picture_is(tmp_path: Path, diagline: Diagline) -> None:
    with emulate("host", tmp_path) as found:
        ours = ("device", "bench", "--port", found.port, "--seconds", "0.01", "--runs", "2", "--json")
        refused(diagline(*ours), found.port, "no model runs")
        with connect(found.port) as device:
            flash(device, payload(Tiny(width_px=20, height_px=10)))
        told = json.loads(diagline(*ours).out)
    assert (told["name"], told["model"], told["input_bytes"]) == ("host", "tiny 0", 200)
    assert len(told["latency_us"]) == 2 and min(told["latency_us"]) > 0


def test_a_device_that_does_not_say_its_size_is_asked_for_with_bytes(diagline: Diagline) -> None:
    with perf_device(Perf()) as found:
        refused(diagline("device", "bench", "--port", found.port), found.port, "give --bytes N")


def test_errors_of_the_device_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ANSWER_S", 0.1)
    with perf_device(Perf(input_bytes=99)) as found, bench.speaker(found.port) as device:
        with pytest.raises(
            FlashError, match=r"'infer 1 1' answered e-\[Load 99 bytes\]; expected it to be carried out"
        ):
            bench.bench(device, bench.noise(100), bench.Plan())
        found.mute = "profile"
        with pytest.raises(FlashError, match=r"no m-ready after 'profile' within 0.1 s"):
            device.say("profile", 0.1)
