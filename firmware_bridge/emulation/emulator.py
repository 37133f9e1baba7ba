"""A line device without a board: a process of this machine, or a board that QEMU emulates.

Both hang on a pty, which is a serial port like any other, and have a file as their flash. A device
that is killed is one whose power went: from what its file holds then it starts again. Leaves out:
building the firmware (`build.py`, `boards.py`).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diagline.errors import FlashError, OutputError
from firmware_bridge.emulation import boards, build
from firmware_bridge.provision import Parameters

HOST = "host"
FLASH_BYTES = (4 + 2 * 128) * 4096  # firmware/flash_map.h
MEMORY_BYTES = {HOST: FLASH_BYTES, "mps2_an386": 16 << 20, "mps2_an500": 16 << 20, "mps3_an547": 2 << 30}
"""Of the file: a board's is all of its external RAM, flash first (port/cortex_m/device.c)."""
PTY = re.compile(r"(/dev/\S+)")


@dataclass(frozen=True, slots=True)
class Emulated:
    """A running device: the path of its serial port, the file that is its flash, its process."""

    port: str
    flash: Path
    process: subprocess.Popen[str]


@contextmanager
def emulate(board: str, folder: Path, parameters: Parameters | None = None) -> Iterator[Emulated]:
    """Run a device as long as the block runs.

    Args:
        board: `host`, or one of `boards.BOARDS`.
        folder: where its flash persists.
        parameters: as the factory writes them into a flash without any.

    Raises:
        FlashError: a board that is not known, a tool that is missing, a flash that is another board's or
            has other parameters, or it does not start.
        OutputError: the folder cannot be written to.
    """
    if board not in MEMORY_BYTES:
        raise FlashError(f"board {board!r}; expected one of {', '.join(MEMORY_BYTES)}")
    if board != HOST and (absent := boards.missing()) is not None:
        raise FlashError(absent)
    flash = folder / "flash.bin"
    try:
        _make_flash(flash, MEMORY_BYTES[board])
    except OSError as error:
        raise OutputError(f"cannot write {flash}: {error.strerror}; expected a writable folder with room") from error
    if parameters is not None:
        _provision(flash, parameters)
    with subprocess.Popen(
        _command(board, flash), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if (found := PTY.search(said)) is None:
                raise FlashError(f"the emulated {board} did not start: {said.strip() or f'code {process.wait()}'}")
            yield Emulated(found[1], flash, process)
        finally:
            process.kill()


def _command(board: str, flash: Path) -> list[str]:
    if board == HOST:
        return [str(build.host_port()), str(flash)]
    found = boards.BOARDS[board]
    memory = f"memory-backend-file,id=flash,mem-path={flash},size={MEMORY_BYTES[board]},share=on"
    return [
        boards.QEMU, "-M", f"{found.machine},memory-backend=flash", "-object", memory, "-display", "none",
        "-monitor", "none", "-serial", "pty", "-kernel", str(boards.device(found)),
    ]  # fmt: skip


def _make_flash(path: Path, memory_bytes: int) -> None:
    """A blank one, where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if (size := path.stat().st_size) != memory_bytes:
            raise FlashError(f"{path}: {size} bytes; expected {memory_bytes} of this board; name another --folder")
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
        stream.write(b"\xff" * FLASH_BYTES)
        stream.truncate(memory_bytes)
    Path(stream.name).replace(path)


def _provision(flash: Path, parameters: Parameters) -> None:
    wanted = parameters.encode()
    with flash.open("r+b") as stream:
        found = stream.read(len(wanted))
        if found not in (wanted, b"\xff" * len(wanted)):
            raise FlashError(
                f"{flash}: provisioned otherwise already; leave --device-key and --camera out, or name another --folder"
            )
        stream.seek(0)
        stream.write(wanted)
