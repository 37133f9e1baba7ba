"""A whole device of memory through every fault: the old or the new model runs whole, and the next attempt succeeds."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from firmware_bridge.proof.faults import FAST, SANITIZED, SLOT_BYTES, campaign
from firmware_bridge.proof.tiny import Tiny

OLD, NEW, OTHER = Tiny(length=700, seed=1), Tiny(length=700, seed=2), Tiny(length=640, seed=3)
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")


def tried(name: str, old: Tiny, new: Tiny | bytes, *more: str | bytes, flags: tuple[str, ...] = SANITIZED) -> int:
    """Runs one campaign, asserts that nothing was violated, and returns how many faults were tried."""
    outcome = campaign(name, old.build(), new if isinstance(new, bytes) else new.build(), *more, flags=flags)
    assert outcome.violations == 0, outcome.report
    return outcome.tried


def test_a_power_cut_in_any_operation_and_in_any_of_its_recovery_is_survived() -> None:
    assert tried("cuts", OLD, NEW, flags=FAST) > 4000


@pytest.mark.soak
@pytest.mark.parametrize("size", [1400, 2048], ids=["part_of_a_slot", "full_slot"])
def test_a_power_cut_is_survived_with_larger_images_and_checked_memory(size: int) -> None:
    assert tried("cuts", replace(OLD, length=size), replace(NEW, length=size)) > 15000


def test_a_wire_that_hurts_bytes_never_flashes_a_hurt_model() -> None:
    assert tried("wire", OLD, NEW, "150") == 150


def test_a_host_at_another_baud_rate_does_no_harm() -> None:
    assert tried("baud", OLD, NEW, "20") == 20


def test_flash_bits_that_refuse_are_noticed_wherever_they_are() -> None:
    assert tried("stuck", OLD, NEW) > 200


def test_two_hosts_with_different_models_never_make_a_mixture() -> None:
    assert tried("hosts", OLD, NEW, "200", OTHER.build()) == 200


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (replace(NEW, version=1), 27),
        (replace(NEW, version=3, length=SLOT_BYTES + 4), 30),
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
def test_what_the_header_tells_is_refused_before_anything_is_erased(bad: Tiny | bytes, code: int) -> None:
    assert tried("refuse", replace(OLD, version=2), bad, str(code)) == 1
