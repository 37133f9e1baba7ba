"""`diagline image` as an integrator meets it."""

from __future__ import annotations

import json
from pathlib import Path

import int8_nets
from tiny_line import Diagline, Line

from diagline import bundle as bundles
from firmware_bridge import image
from firmware_bridge.emulation.engine import Engine
from training.student_spec import Block, Stem, StudentSpec

SPEC = StudentSpec(40, 32, 3, Stem(3, 2, 8), (Block(2, 16),))


def test_a_tflite_file_becomes_an_image_whose_facts_are_printed(tmp_path: Path, diagline: Diagline) -> None:
    (tmp_path / "part.tflite").write_bytes(int8_nets.of_spec(SPEC, 1))
    target, sources = tmp_path / "part.img", tmp_path / "c"
    found = diagline(
        "image", tmp_path / "part.tflite", "--output", target, "--threshold", 7, "--tflm", sources, "--json"
    )
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    assert (
        facts["name"] == "part" and facts["flash_bytes"] == target.stat().st_size and facts["golden"] == "tflite_micro"
    )
    assert facts["ram_bytes"] == image.read(target.read_bytes())[0].ram_bytes and 0 < facts["row_tail"] < 1
    assert all(word in found.err for word in ("RAM", "flash", "MACs", "row tail", "part_ops.h"))
    assert len(list(sources.iterdir())) == 3
    engine = Engine(target.read_bytes())
    assert engine.header.threshold == 7 and engine.selftest() == engine.header.golden_count > 0


def test_a_bundle_becomes_an_image_with_its_threshold_and_manifest(
    line: Line, tmp_path: Path, diagline: Diagline
) -> None:
    found = diagline("image", line.bundle, "--output", tmp_path / "line.img", "--allow-unsigned", "--model-version", 3)
    assert found.code == 0, found.err
    bundle = bundles.read(line.bundle)
    header = Engine((tmp_path / "line.img").read_bytes()).header
    assert header.threshold == bundle.manifest.formats["tflite_int8"].threshold and header.model_version == 3
    assert header.bundle_digest != bytes(32) and header.heat_rows > 0


def test_a_device_key_signs_and_a_wrong_one_is_named(tmp_path: Path, diagline: Diagline) -> None:
    (tmp_path / "part.tflite").write_bytes(int8_nets.of_spec(SPEC, 1))
    (tmp_path / "good.key").write_text("ab" * 32 + "\n")
    (tmp_path / "bad.key").write_text("abc")
    found = diagline(
        "image", tmp_path / "part.tflite", "--output", tmp_path / "x.img", "--device-key", tmp_path / "good.key"
    )
    assert found.code == 0, found.err
    data = (tmp_path / "x.img").read_bytes()
    assert data == image.sign(data, b"\xab" * 32) != image.sign(data, b"")
    found = diagline("image", tmp_path / "part.tflite", "--device-key", tmp_path / "bad.key")
    assert found.code == 2 and "bad.key holds 3 characters; expected a device key" in found.err


def test_a_network_that_cannot_be_compiled_leaves_the_old_image(tmp_path: Path, diagline: Diagline) -> None:
    net = int8_nets.Net(1, (9, 9, 1))
    (tmp_path / "odd.tflite").write_bytes(net.finish(net.unary("TANH", net.image)))
    (tmp_path / "odd.img").write_bytes(b"old")
    found = diagline("image", tmp_path / "odd.tflite", "--output", tmp_path / "odd.img")
    assert found.code == 2 and "TANH at tensor 'tanh'" in found.err
    assert (tmp_path / "odd.img").read_bytes() == b"old"
