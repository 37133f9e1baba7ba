"""The engine reads and writes nothing but image and arena, whatever the image says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import int8_nets
import pytest

from firmware_bridge.compiler import golden
from firmware_bridge.compiler.compile import Judgement, compile_tflite
from firmware_bridge.emulation import build, engine
from training.student_spec import Block, Stem, StudentSpec

ROOT = Path(__file__).resolve().parents[2]
SANITISED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def asan() -> str:
    """The runtime that must be loaded first."""
    found = subprocess.run([build.compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True).stdout
    if not Path(found.strip()).is_absolute():
        pytest.skip("no libasan.so beside the compiler; it comes with GCC")
    return found.strip()


def test_sanitisers_find_nothing_in_whole_images_nor_in_changed_ones_that_the_parser_lets_pass(tmp_path):
    spec = StudentSpec(21, 17, 3, Stem(5, 2, 8), (Block(2, 16), Block(1, 16, True)))
    files = {"student": int8_nets.of_spec(spec, 1)} | {
        f"net{seed}": int8_nets.of_anything(seed) for seed in (2, 7, 12, 20)
    }
    paths = []
    for name, data in files.items():
        network = compile_tflite(data, Judgement(name))
        plain = engine.Engine(network.image([])).run
        paths.append(tmp_path / f"{name}.img")
        paths[-1].write_bytes(network.image(golden.answers(network, plain, golden.SEEDS[-2:])))
    library = engine.library(SANITISED)
    command = [sys.executable, str(ROOT / "tests/support/sanitised_engine.py"), str(library), "400", *map(str, paths)]
    environment = os.environ | {
        "LD_PRELOAD": asan(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(ROOT),
        "PYTHONMALLOC": "malloc",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 25  # changed images that ran
