"""A whole device of memory through every fault: the old or the new model runs whole, and the next attempt succeeds."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge import build
from firmware_bridge.tiny import Tiny

SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined")
SLOT_BYTES = 2048
OLD, NEW, OTHER = Tiny(bytes=700, seed=1), Tiny(bytes=700, seed=2), Tiny(bytes=640, seed=3)
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")


def campaign(
    folder: Path, name: str, old: Tiny | bytes, new: Tiny | bytes, *more: str | Tiny, flags: tuple[str, ...] = SANITIZED
) -> int:
    """Runs one campaign, asserts that nothing was violated, and returns how many faults were tried."""
    arguments = []
    for index, value in enumerate((old, new, *more)):
        if isinstance(value, str):
            arguments.append(value)
            continue
        path = folder / f"{index}.image"
        path.write_bytes(value.build() if isinstance(value, Tiny) else value)
        arguments.append(str(path))
    command = [build.fault_campaigns(flags), name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tried, violations = map(int, done.stdout.split())
    assert violations == 0
    return tried


def test_a_power_cut_in_any_operation_and_in_any_of_its_recovery_is_survived(tmp_path: Path) -> None:
    assert campaign(tmp_path, "cuts", OLD, NEW, flags=("-O2",)) > 4000


@pytest.mark.soak
@pytest.mark.parametrize("size", [1400, 2048], ids=["part_of_a_slot", "full_slot"])
def test_a_power_cut_is_survived_with_larger_images_and_checked_memory(tmp_path: Path, size: int) -> None:
    assert campaign(tmp_path, "cuts", replace(OLD, bytes=size), replace(NEW, bytes=size)) > 15000


def test_a_wire_that_hurts_bytes_never_flashes_a_hurt_model(tmp_path: Path) -> None:
    assert campaign(tmp_path, "wire", OLD, NEW, "150") == 150


def test_a_host_at_another_baud_rate_does_no_harm(tmp_path: Path) -> None:
    assert campaign(tmp_path, "baud", OLD, NEW, "20") == 20


def test_flash_bits_that_refuse_are_noticed_wherever_they_are(tmp_path: Path) -> None:
    assert campaign(tmp_path, "stuck", OLD, NEW) > 200


def test_two_hosts_with_different_models_never_make_a_mixture(tmp_path: Path) -> None:
    assert campaign(tmp_path, "hosts", OLD, NEW, "200", OTHER) == 200


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (replace(NEW, version=1), 27),
        (replace(NEW, version=3, bytes=SLOT_BYTES + 4), 30),
        (replace(NEW, version=3, arena_extra=1 << 20), 15),
        (replace(NEW, version=3, width_px=4096, height_px=1), 15),
        (b"not an image" * 50, 23),
        (replace(NEW, version=3).build()[:-4], 23),
        (b"DLIM", 22),
    ],
    ids=[
        "downgrade",
        "larger_than_a_slot",
        "more_ram",
        "row_wider_than_the_buffer",
        "no_image",
        "truncated",
        "no_header",
    ],
)
def test_what_the_header_tells_is_refused_before_anything_is_erased(
    tmp_path: Path, bad: Tiny | bytes, code: int
) -> None:
    assert campaign(tmp_path, "refuse", replace(OLD, version=2), bad, str(code)) == 1
