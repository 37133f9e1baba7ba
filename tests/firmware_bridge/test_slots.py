"""The A/B slots: power may go in any flash operation of an update, and of the recovery, and no model is lost."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from firmware_bridge import build

FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", *build.SMALL)
SOURCES = (
    "port/fake/slot_cuts.c",
    "port/fake/fake.c",
    "slots.c",
    "golden.c",
    "rowstream.c",
    "image.c",
    "sha256.c",
    "kernels_generic.c",
)
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")


@pytest.mark.parametrize("image_bytes", [1500, 2048], ids=["part_of_a_slot", "full_slot"])
@pytest.mark.parametrize("log_records", [0, 7, 12])
def test_a_cut_in_any_operation_leaves_the_old_model_or_the_new_one(image_bytes: int, log_records: int) -> None:
    harness = build.program("slot_cuts", SOURCES, FLAGS)
    done = subprocess.run([harness, str(image_bytes), str(log_records)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    cuts, violations = map(int, done.stdout.split())
    assert cuts > 10_000
    assert violations == 0
