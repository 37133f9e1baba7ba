"""The same device on three boards under QEMU: an M4, an M7 and an M55, with flash that outlives the power."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from firmware_bridge.emulation import boards
from firmware_bridge.emulation.emulator import FLASH_BYTES
from firmware_bridge.proof.tiny import Tiny

pytest.importorskip("smp", reason="smp is not installed: pip install 'diagline[firmware]'")
pytestmark = pytest.mark.skipif(boards.missing() is not None, reason=str(boards.missing()))

from line_device import IMAGE, board  # noqa: E402

MODEL = Tiny(length=6000, seed=1, version=1)
GOOD, BAD = bytes([10]) * 32, bytes([240]) * 32


@pytest.mark.parametrize("name", boards.BOARDS)
def test_a_board_is_flashed_inspects_and_keeps_its_model_without_power(name: str, tmp_path: Path) -> None:
    flash, old, new = tmp_path / "flash.bin", MODEL.build(), replace(MODEL, seed=2, version=2).build()
    with board(name, flash) as line:
        assert (line.info()["board"], line.info()["boot"]) == (name, "empty")
        line.flash(old)
        good, bad = line.inspect(GOOD), line.inspect(BAD, number=2)
        assert (good["verdict"], good["logit"], good["gate"]) == ("PASS", 10 - 128, True)
        assert (bad["verdict"], bad["logit"], bad["gate"]) == ("REJECT", 240 - 128, False)
        assert line.upload(new)["match"] is True
        line.ask(IMAGE, 0, hash=new[-64:-32])
        line.reboot()
        assert (line.info()["boot"], line.info()["version"]) == ("trial", 2)
    with board(name, flash) as line:  # power went before anybody confirmed
        assert (line.info()["boot"], line.info()["version"]) == ("reverted", 1)
        line.port.reset_input_buffer()
        assert line.say("name%") == [f"m-name-dut-[{name}]"]
        assert line.say("db load 32%") == ["m-[Expecting 32 bytes]"]
        assert line.say(f"db {GOOD.hex()}%") == ["m-load-done"]
        assert line.say("infer 2 1%")[-1] == "m-results-[-59.000]"


@pytest.mark.parametrize("operation", [57, 195, 196], ids=["upload", "trial", "confirm"])
def test_power_that_goes_in_a_flash_operation_leaves_a_board_with_its_model(operation: int, tmp_path: Path) -> None:
    flash, old, new = tmp_path / "flash.bin", MODEL.build(), replace(MODEL, seed=2, version=2).build()
    with board("mps2_an386", flash) as line:
        line.flash(old)
        with flash.open("r+b") as stream:  # the board counts down and stops in the middle of the last
            stream.seek(FLASH_BYTES)
            stream.write(struct.pack("<I", operation))
        line.port.timeout = 1
        with pytest.raises(AssertionError, match=r"no reply|not up again"):
            line.flash(new)
    with board("mps2_an386", flash) as line:
        if operation == 195:  # the record that its trial begins was not whole: it begins now
            assert (line.info()["version"], line.info()["boot"]) == (2, "trial")
            line.reboot()
        assert (line.info()["version"], line.info()["confirmed"]) == (1, True)
        line.flash(new)
        assert (line.info()["version"], line.info()["confirmed"]) == (2, True)
