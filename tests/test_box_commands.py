"""The commands of the edge box as an integrator meets them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import cv2
import pytest
from tiny_line import Diagline, Line, refused

from diagline import signing
from edge_runtime import box_config
from edge_runtime.archive.reader import Reader
from edge_runtime.bench import recorded
from edge_runtime.doctor import line as doctor_line
from edge_runtime.doctor import machine as doctor_machine
from edge_runtime.service import install


@pytest.fixture(autouse=True)
def nobody_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(autouse=True)
def a_sound_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine is short of."""
    monkeypatch.setattr(doctor_machine, "probes", lambda archive, gb_per_day: [])


@pytest.fixture(autouse=True)
def nothing_is_changed_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "UNITS", tmp_path / "system")
    monkeypatch.setattr(install, "_run", lambda *command, **options: pytest.fail(f"{command} was run"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = install.record_engine
    monkeypatch.setattr(install, "record_engine", lambda box, bundle, threads, _: timed(box, bundle, threads, 0.0))


@pytest.fixture
def box(line: Line, tmp_path: Path) -> Path:
    path = tmp_path / "etc/box.toml"
    path.parent.mkdir()
    path.write_text(f'name = "mine"\nbundle = "{line.bundle}"\nfolder = "{tmp_path}/archive"\n')
    return path


def test_doctor_ends_with_two_where_a_line_would_stop_and_with_nought_where_not(diagline: Diagline, line: Line) -> None:
    good = diagline("doctor", line.bundle, "--allow-unsigned", "--source", line.data / "good", "--json")
    assert good.code == 0, good.err
    found = {finding["what"]: finding for finding in json.loads(good.out)["findings"]}
    assert found["camera"]["grade"] == "well" and found["bundle"]["grade"] == "doubtful"
    assert found["tflite_int8 on litert"]["grade"] == "well" and "serial ports" in found
    bad = diagline("doctor", line.bundle, "--json")
    assert bad.code == 2 and json.loads(bad.out)["grade"] == "wrong"


def test_doctor_shows_people_each_thing_and_the_next_step(diagline: Diagline, tmp_path: Path) -> None:
    outcome = diagline("doctor", "--source", tmp_path / "none.mp4", "--plc", "127.0.0.1:1", "--timeout-s", "1")
    assert outcome.code == 2 and outcome.out == ""
    said = " ".join(outcome.err.split())
    for words in ("camera wrong", "no such source", "PLC wrong", "→ check address", "engines well", "onnxruntime"):
        assert words in said
    assert "[bold" not in said  # no markup is left


def test_doctor_refuses_an_address_that_is_none_in_one_line(diagline: Diagline) -> None:
    refused(diagline("doctor", "--broker", "broker:port"), "--broker", "HOST:PORT")


def test_doctor_asks_a_box_for_its_bundle_trust_and_engine(
    diagline: Diagline, line: Line, box: Path, tmp_path: Path
) -> None:
    private, public = signing.make_pair("line", tmp_path)
    signed = shutil.copytree(line.bundle, tmp_path / "signed.bundle")
    assert diagline("sign", signed, private).code == 0
    box.write_text(box.read_text().replace(str(line.bundle), str(signed)))
    assert diagline("doctor", box).code == 2  # nobody trusts it yet
    assert diagline("install", box, "--unit-dir", tmp_path / "units", "--key", public).code == 0
    assert diagline("install", box, "--unit-dir", tmp_path / "units").code == 0  # the key is known by now
    outcome = diagline("doctor", box)
    assert outcome.code == 0, outcome.err
    assert "trusted" in outcome.err
    refused(diagline("doctor", tmp_path / "none.toml"), "none.toml")


def test_doctor_takes_a_boxs_word_for_what_its_frames_must_show(
    diagline: Diagline, line: Line, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_line, "bundle", lambda *_: [])
    still = tmp_path / "still"
    still.mkdir()
    for number in range(8):
        shutil.copy(line.data / "good" / "000.png", still / f"{number}.png")
    asked = ("doctor", box, "--allow-unsigned", "--source", still)
    assert diagline(*asked).code == 2
    box.write_text(f'{box.read_text()}[camera.checks]\noff = ["frozen"]\n')
    assert diagline(*asked).code == 0


def test_install_says_what_it_does_and_what_it_would_do(
    diagline: Diagline, line: Line, box: Path, tmp_path: Path
) -> None:
    units = tmp_path / "units"
    command = ("install", box, "--unit-dir", units, "--allow-unsigned", "--memory-max-mib", 256)
    assert "would: write" in diagline(*command, "--dry-run").err and not units.exists()
    outcome = diagline(*command)
    assert outcome.code == 0, outcome.err
    assert f"done: write {units}/diagline-mine.service" in outcome.err and "p50" in outcome.err
    assert "MemoryMax=256M" in (units / "diagline-mine.service").read_text()
    assert recorded.engine_file(box).is_file() and not (tmp_path / "archive").exists()
    assert f"is so already: write {units}" in diagline(*command).err
    assert diagline(*command, "--uninstall").code == 0 and list(units.iterdir()) == []


def test_install_refuses_what_the_service_would_refuse(
    diagline: Diagline, line: Line, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = ("--unit-dir", tmp_path / "units")
    refused(diagline("install", box, *units), line.bundle, "not signed")
    refused(diagline("install", tmp_path / "none.toml", *units), "none.toml", "not found")
    refused(diagline("install", box, *units, "--user", "root", "--allow-unsigned"), "root", "user of its own")
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)
    refused(diagline("install", box, "--allow-unsigned"), "expected to run as root", "--unit-dir")
    assert not (tmp_path / "units").exists()


# Serve and replay.


def film(line: Line, path: Path) -> None:
    """The line's bad parts, one a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (60, 80))
    for picture in sorted((line.data / "bad").iterdir()):
        writer.write(cv2.imread(str(picture)))
    writer.release()


def test_a_box_serves_until_it_is_stopped_and_any_of_its_rejects_can_be_judged_again(
    line: Line, tmp_path: Path, diagline: Diagline
) -> None:
    film(line, tmp_path / "film.avi")
    config = tmp_path / "box.toml"
    config.write_text(
        f'name = "tiny"\nbundle = "{line.bundle}"\nfolder = "{tmp_path}/box"\nallow_unsigned = true\n'
        f'[camera]\nsource = "{tmp_path}/film.avi"\n[camera.checks]\noff = ["frozen", "duplicated"]\n'
        f"[archive]\npass_share = 1.0\n[page]\nport = 0\n"
    )
    command = [sys.executable, "-m", "diagline.cli", "serve", str(config)]
    box = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert box.stderr is not None
    url = next(text for text in box.stderr if "page: " in text).rpartition("page: ")[2].strip()
    page = urllib.request.urlopen(f"{url}/metrics", timeout=20)
    assert "diagline_triggers_total" in page.read().decode()
    archive = tmp_path / "box/archive"
    while not (parts := _parts(archive)):
        assert box.poll() is None
    box.terminate()
    assert box.wait(30) == 0
    assert "stopped: " in box.stderr.read()
    again = diagline("replay", parts[0], line.bundle, "--archive", archive, "--allow-unsigned", "--json")
    assert again.code == 0 and json.loads(again.out)["same"] is True, again
    nothing = diagline("replay", "no-such-part", line.bundle, "--archive", archive, "--allow-unsigned")
    assert nothing.code == 1 and "no such part" in nothing.err


def _parts(archive: Path) -> list[str]:
    if not (archive / "archive.db").is_file():
        return []
    reader = Reader(archive)
    try:
        return [row.content["part_id"] for row in reader.verdicts(5)]
    finally:
        reader.close()


def test_a_box_that_cannot_start_says_why_in_one_line(tmp_path: Path, diagline: Diagline, line: Line) -> None:
    refused(diagline("serve", tmp_path / "box.toml"), tmp_path / "box.toml", "not found")
    config = tmp_path / "box.toml"
    config.write_text(f'name = "tiny"\nbundle = "{line.bundle}"\nfolder = "{tmp_path}/box"\n')
    refused(diagline("serve", config), line.bundle, "not signed")


def test_a_box_under_load_leaves_a_result_and_says_what_was_not_as_on_the_line(
    line: Line, box: Path, tmp_path: Path, diagline: Diagline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ("bench-line", box, "--simulated", "--allow-unsigned", "--seconds", 0.2)
    done = diagline(*asked, "--rate", 50, "--rate", 100, "--closed", "--json")
    assert done.code == 0, done.err
    assert "golden pictures" in done.err and "0 missed deadlines" in done.err
    found = json.loads(done.out)
    assert [load["run"]["rate_hz"] for load in found["loads"]] == [None, 50.0, 100.0]
    (folder,) = (tmp_path / "runs" / "bench-line").iterdir()
    assert json.loads((folder / "bench.json").read_text()) == found
    assert {path.name for path in folder.iterdir()} == {"bench.json", "bench.md", "bench.svg", "parts.csv"}
    closed = diagline(*asked, "--output", tmp_path / "closed")
    assert closed.code == 0 and "closed loop" in closed.err and "open loop" not in closed.err
    assert closed.out == "" and (tmp_path / "closed" / "bench.svg").is_file()


INTERRUPTED = """
import os, signal, sys
from diagline import cli
from edge_runtime.bench.line import WARM_UP_PARTS
from edge_runtime.station import Station

pull, pulled = Station.pull, []

def interrupted(station, trigger):
    pulled.append(trigger)
    if len(pulled) == WARM_UP_PARTS + 5:
        os.kill(os.getpid(), signal.SIGINT)
    pull(station, trigger)

Station.pull = interrupted
cli.main(sys.argv[1:])
"""


def test_ctrl_c_keeps_what_was_measured_under_load(box: Path, tmp_path: Path) -> None:
    asked = ["bench-line", str(box), "--simulated", "--allow-unsigned", "--rate", "20", "--seconds", "3600"]
    command = [sys.executable, "-c", INTERRUPTED, *asked, "--output", str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 130 and "STOPPED before its time" in done.stderr, done.stderr
    found = json.loads((tmp_path / "a" / "bench.json").read_text())
    assert found["interrupted"] and 5 <= found["loads"][0]["run"]["pulled"] < 72_000


def test_a_bench_that_cannot_be_run_says_why_in_one_line(
    line: Line, box: Path, tmp_path: Path, diagline: Diagline
) -> None:
    asked = ("bench-line", box, "--simulated", "--allow-unsigned")
    refused(diagline("bench-line", tmp_path / "none.toml"), "none.toml", "not found")
    refused(diagline("bench-line", box, "--simulated"), line.bundle, "not signed")
    refused(diagline(*asked, "--rate", 0), "--rate", "expected 0.01")
    refused(diagline(*asked, "--seconds", -1), "--seconds", "expected 0.1")
    refused(diagline(*asked, "--output", tmp_path), tmp_path, "is there already")
    refused(diagline("bench", box), box, "bench-line BOX.toml")


def test_challenge_parts_are_asked_for_and_a_wrong_one_ends_with_exit_code_1(
    line: Line, tmp_path: Path, diagline: Diagline, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(line, tmp_path / "film.avi")
    config = tmp_path / "box.toml"
    config.write_text(
        f'name = "tiny"\nbundle = "{line.bundle}"\nfolder = "{tmp_path}/box"\n[camera]\n'
        f'source = "{tmp_path}/film.avi"\n[camera.checks]\noff = ["frozen", "duplicated"]\n'
    )
    asked: list[str] = []
    monkeypatch.setattr("typer.prompt", lambda text, *_, **__: asked.append(text))
    done = diagline("challenge", config, "--good", 1, "--bad", 1, "--allow-unsigned", "--json")
    found = json.loads(done.out)
    assert [one["kind"] for one in found["parts"]] == ["good", "bad"] and "a good one" in asked[0]
    assert done.code == (0 if found["passed"] else 1)
    refused(diagline("challenge", config, "--good", 0, "--bad", 0, "--allow-unsigned"), "at least one part")


def test_the_example_box_can_be_read() -> None:
    path = Path(__file__).parent.parent / "configs" / "box.toml"
    assert box_config.load(path).lines is not None
