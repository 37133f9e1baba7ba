"""An emulated device is a serial port and a file; missing tools are named with the line that brings them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_line import Diagline, refused

pytest.importorskip("smp", reason="smp is not installed: pip install 'diagline[firmware]'")

from flash_payloads import payload

from diagline.errors import FlashError
from firmware_bridge.device import connect
from firmware_bridge.emulation.emulator import FLASH_BYTES, HOST, MEMORY_BYTES, emulate
from firmware_bridge.flash import flash
from firmware_bridge.proof.tiny import Tiny
from firmware_bridge.provision import Parameters

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")


@needs_cc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_a_port_and_ends_when_it_is_told(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diagline.cli", "emulate", "host", "--folder", str(tmp_path / "station")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None and running.stderr is not None
            port = running.stdout.readline().strip()
            with connect(port) as device:
                assert device.info()[0].board == "host"
            running.send_signal(number)
            assert running.wait(30) == 0
            assert str(tmp_path / "station" / "flash.bin") in running.stderr.read()
        finally:
            running.kill()
    with pytest.raises(FlashError), connect(port):
        pass


@needs_cc
def test_flash_persists_in_the_folder(tmp_path: Path) -> None:
    model = payload(Tiny(length=9000, seed=4))
    with emulate(HOST, tmp_path) as found, connect(found.port) as device:
        flash(device, model)
    with emulate(HOST, tmp_path) as found, connect(found.port) as device:
        info, running = device.info()
        assert (info.boot, running and running.hash) == ("confirmed", model.digest)


@needs_cc
def test_the_device_has_the_flash_that_is_made_for_it(tmp_path: Path) -> None:
    from firmware_bridge.emulation import build

    flash_file = tmp_path / "flash.bin"
    with subprocess.Popen([build.host_port(), flash_file], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stdout.readline()
        running.kill()
    assert flash_file.stat().st_size == FLASH_BYTES == MEMORY_BYTES[HOST]


@needs_cc
def test_a_device_is_provisioned_once(tmp_path: Path) -> None:
    ours, other = Parameters(key=bytes(32), camera=(8, 4, 1)), Parameters(key=bytes(31) + b"x")
    for parameters in (ours, None, ours):
        with emulate(HOST, tmp_path, parameters) as found, connect(found.port) as device:
            assert (device.info()[0].signed, device.info()[0].camera_width) == (True, 8)
    with pytest.raises(FlashError, match="provisioned otherwise already"), emulate(HOST, tmp_path, other):
        pass


def test_an_unknown_board_and_a_flash_of_another_board_are_named(tmp_path: Path, diagline: Diagline) -> None:
    refused(diagline("emulate", "toaster"), "toaster", "mps2_an386")
    (tmp_path / "flash.bin").write_bytes(b"small")
    refused(diagline("emulate", "host", "--folder", tmp_path), "flash.bin: 5 bytes", FLASH_BYTES, "--folder")
    refused(diagline("emulate", "host", "--camera", "8by4"), "8by4", "632x224x3")


def test_missing_tools_are_named_with_the_line_that_brings_them(
    tmp_path: Path, diagline: Diagline, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CC", raising=False)
    refused(diagline("emulate", "host", "--folder", tmp_path / "a"), "apt-get install gcc")
    board = ("emulate", "mps2_an386", "--folder", tmp_path / "b")
    refused(diagline(*board), "arm-none-eabi-gcc and qemu-system-arm not found", "apt-get install", "gcc-arm-none-eabi")
    (tmp_path / "bin" / "qemu-system-arm").symlink_to("/bin/true")
    refused(diagline(*board), ": arm-none-eabi-gcc not found", "apt-get install", "gcc-arm-none-eabi")
