"""A bundle goes onto a line device by command, and the device then gives the bundle's verdicts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_line import Diagline, Line, refused

pytest.importorskip("smp", reason="smp is not installed: pip install 'diagline[firmware]'")

from diagline import bundle as bundles
from diagline import config as configs
from diagline import layouts, samples, verbs
from diagline.preprocess import preprocess
from diagline.samples import SampleSet
from diagline.verdict import decide
from edge_runtime.camera.frames import Frame
from edge_runtime.loop import open_inspector
from export.golden import SAFE_STEPS
from firmware_bridge import make
from firmware_bridge.device import connect
from firmware_bridge.emulation import boards, engine
from firmware_bridge.emulation.emulator import HOST, emulate

KEY = "ab" * 32
M4 = pytest.param(
    "mps2_an386", marks=pytest.mark.skipif(boards.missing() is not None, reason=str(boards.missing())), id="cortex_m4"
)
HERE = pytest.param(
    HOST, marks=pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc"), id="host"
)


@pytest.fixture
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The serial port of an emulated device."""
    with emulate(getattr(request, "param", HOST), tmp_path / "device") as found:
        yield found.port


def gives_the_verdicts(bundle: Path, port: str, data: SampleSet, diagline: Diagline) -> set[str]:
    """Flash a bundle and show the device pictures; returns the verdicts that came.

    Each logit has the bits of the C engine on this machine, and each verdict is the box's, where its
    fast kernels' rounding cannot matter.
    """
    flashed = diagline("flash", bundle, "--port", port, "--allow-unsigned", "--json")
    assert flashed.code == 0, flashed.err
    (told,) = json.loads(flashed.out)["flashed"]
    opened = bundles.read(bundle)
    assert (told["port"], told["pictures"], told["golden"]) == (port, len(opened.golden), 6)
    inspector = open_inspector(opened, make.FORMAT)
    plain = engine.Engine(make.finish(make.of_bundle(opened)).image)
    contract, threshold = opened.manifest.input, opened.manifest.formats[make.FORMAT].threshold
    seen, sure = set(), 0
    with connect(port) as device:
        for sample in data:
            frame = data.read_image(sample)
            fed = preprocess(frame, contract)
            found = device.judge(fed)
            outputs, heat = plain.run(fed)
            assert (found.logit, found.heat) == (outputs[0], heat.tobytes() if heat is not None else b"")
            assert found.verdict == decide(found.logit, threshold).value
            box = inspector.inspect(Frame(frame, 0, "2026-01-01T00:00:00.000000Z", 0))
            assert box.logit is not None and abs(box.logit - found.logit) < SAFE_STEPS
            if abs(box.logit - threshold) >= SAFE_STEPS:
                sure += 1
                assert found.verdict == box.state.value, sample.image
            seen.add(found.verdict)
    assert sure > 0
    return seen


@pytest.mark.parametrize("port", [HERE, M4], indirect=True)
def test_a_flashed_students_verdicts_are_the_bundles(port: str, line: Line, diagline: Diagline) -> None:
    data = layouts.open_data(line.data, "good_bad", 3).split("test")
    assert gives_the_verdicts(line.bundle, port, data, diagline)


@pytest.mark.soak
@pytest.mark.parametrize("port", [M4], indirect=True)
def test_a_student_of_real_parts_gives_its_verdicts_on_an_m4(port: str, tmp_path: Path, diagline: Diagline) -> None:
    place = os.environ.get("DIAGLINE_REAL_DATA")
    if not place or not (Path(place) / "magnetic_tile").is_dir():
        pytest.skip("DIAGLINE_REAL_DATA names no folder with magnetic_tile/")
    asked = (f"data.root={json.dumps(str(Path(place).resolve() / 'magnetic_tile'))}",)
    recipe = Path(__file__).parent.parent / "configs" / "magnetic_tile.toml"
    config = configs.load(recipe, asked, tiny=False)
    if not config.bundle.is_dir():  # nobody trained the whole line here: its small twin does
        config = configs.load(recipe, (*asked, f"output={json.dumps(str(tmp_path / 'runs'))}"), tiny=True)
        for step in (verbs.generate, verbs.train, verbs.distill, verbs.export):
            step(config)
    whole = layouts.open_data(config.data.root, config.data.layout, config.split_seed).split("test")
    good, bad = ([sample for sample in whole if sample.label == label] for label in (samples.GOOD, samples.DEFECT))
    few = SampleSet(whole.root, (*good[:10], *bad[:10]))
    assert gives_the_verdicts(config.bundle, port, few, diagline)


def test_the_device_commands_tell_what_runs(port: str, line: Line, diagline: Diagline) -> None:
    refused(diagline("device", "selftest", "--port", port), port, "no model runs")
    refused(diagline("device", "push", line.data / "bad" / "000.png", "--port", port), port, "no model runs")
    assert "no model in it" in diagline("device", "info", "--port", port).err
    flashed = diagline("flash", line.bundle, "--port", port, "--allow-unsigned", "--model-version", 3)
    assert flashed.code == 0 and "flashed in" in flashed.err and "in force" in flashed.err
    told = json.loads(diagline("device", "info", "--port", port, "--json").out)
    bundle = bundles.read(line.bundle)
    assert (told["board"], told["model"]["bundle"], told["model"]["version"]) == (HOST, bundle.sha256, 3)
    assert [slot["confirmed"] for slot in told["slots"]] == [True]
    tested = diagline("device", "selftest", "--port", port, "--json")
    assert json.loads(tested.out) == {"port": port, "passed": True, "right": 6, "golden": 6}
    older = diagline("flash", line.bundle, "--port", port, "--allow-unsigned")
    refused(older, port, "version 1 is older than 3", "--model-version", "nothing was erased")


def test_push_prints_logit_verdict_and_heat(port: str, line: Line, diagline: Diagline) -> None:
    assert diagline("flash", line.bundle, "--port", port, "--allow-unsigned").code == 0
    picture = line.data / "bad" / "000.png"
    refused(diagline("device", "push", picture, "--port", port), picture, "60x80 px", "48x64", "--resize")
    push = ("device", "push", picture, "--port", port, "--resize", "stretch")
    told = json.loads(diagline(*push, "--json").out)
    bundle = bundles.read(line.bundle)
    heat = bundle.manifest.formats[make.FORMAT].heat
    assert heat is not None and (len(told["heat"]), len(told["heat"][0])) == heat.grid.size
    assert told["verdict"] == decide(told["logit"], told["threshold"]).value
    shown = diagline(*push).err
    assert f"{told['verdict']}, logit {told['logit']} against {told['threshold']}" in shown
    refused(diagline("device", "push", "nothing.png", "--port", port, "--resize", "stretch"), "nothing.png")


def test_several_devices_are_flashed_and_the_one_that_is_not_is_named(
    port: str, line: Line, diagline: Diagline
) -> None:
    found = diagline("flash", line.bundle, "--port", port, "--port", "/dev/none", "--allow-unsigned", "--json")
    refused(found, "1 of 2 devices were not flashed", "/dev/none: no such serial port")
    told = json.loads(found.out)
    assert [one["port"] for one in told["flashed"]] == [port] and len(told["failed"]) == 1
    refused(diagline("flash", line.bundle, "--port", port, "--port", port, "--allow-unsigned"), "named twice")


def test_only_trusted_bundles_with_a_student_are_flashed(port: str, line: Line, diagline: Diagline) -> None:
    refused(diagline("flash", line.bundle, "--port", port), line.bundle, "not signed")
    teacher = line.bundle.with_name("tiny-teacher.bundle")
    refused(diagline("flash", teacher, "--port", port, "--allow-unsigned"), teacher, "holds no tflite_int8")
    assert json.loads(diagline("device", "info", "--port", port, "--json").out)["slots"] == []


def test_a_device_with_a_key_takes_images_of_that_key(line: Line, diagline: Diagline, tmp_path: Path) -> None:
    from firmware_bridge.provision import Parameters

    key = tmp_path / "station.key"
    key.write_text(KEY)
    with emulate(HOST, tmp_path / "device", Parameters(key=bytes.fromhex(KEY))) as device:
        flash = ("flash", line.bundle, "--port", device.port, "--allow-unsigned")
        refused(diagline(*flash), device.port, "--device-key FILE", "nothing was erased")
        assert diagline(*flash, "--device-key", key).code == 0
        key.write_text("short")
        refused(diagline(*flash, "--device-key", key), "station.key", "64 hex digits")
