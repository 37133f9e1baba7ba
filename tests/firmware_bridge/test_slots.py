"""The A/B slots: power may go in any flash operation of an update, and of the recovery, and no model is lost."""

from __future__ import annotations

import shutil

import pytest

from firmware_bridge.proof import faults

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")


@pytest.mark.parametrize("image_bytes", [1500, 2048], ids=["part_of_a_slot", "full_slot"])
@pytest.mark.parametrize("log_records", [0, 12])
def test_a_cut_in_any_operation_leaves_the_old_model_or_the_new_one(image_bytes: int, log_records: int) -> None:
    outcome = faults.slot_cuts(image_bytes, log_records)
    assert outcome.violations == 0, outcome.report
    assert outcome.tried > 10_000
