"""A line device without a board: a process of this machine, on a pty, with a file as its flash.

A pty is a serial port like any other. A device that is killed is one whose power went: what its
flash file holds then is what it starts from again. Leaves out: building the firmware (`build.py`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diagline.errors import FlashError, OutputError
from firmware_bridge import build
from firmware_bridge.provision import Parameters

HOST = "host"
BOARDS = (HOST,)
FLASH_FILE = "flash.bin"


@dataclass(frozen=True, slots=True)
class Emulated:
    """A running device: the path of its serial port, the file that is its flash, its process."""

    port: str
    flash: Path
    process: subprocess.Popen[bytes]


@contextmanager
def emulate(board: str, folder: Path, parameters: Parameters | None = None) -> Iterator[Emulated]:
    """Run a device as long as the block runs.

    Args:
        folder: where its flash persists.
        parameters: as the factory writes them, into a flash without any.

    Raises:
        FlashError: a board that is not known, a tool that is missing, or it does not start.
        OutputError: the folder cannot be written to.
    """
    program = _program(board)
    flash = folder / FLASH_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; expected a writable folder") from error
    if parameters is not None:
        with _running(board, program, flash):
            pass  # it makes its flash
        _provision(flash, parameters)
    with _running(board, program, flash) as found:
        yield found


def _program(board: str) -> list[str]:
    if board not in BOARDS:
        raise FlashError(f"board {board!r}; expected one of {', '.join(BOARDS)}")
    return [str(build.host_port())]


@contextmanager
def _running(board: str, program: list[str], flash: Path) -> Iterator[Emulated]:
    with subprocess.Popen(
        [*program, str(flash)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for who started it
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None and process.stderr is not None
            port = process.stdout.readline().decode().strip()
            if not port:
                why = process.stderr.read().decode(errors="replace").strip() or f"ended with {process.wait()}"
                raise FlashError(f"the emulated {board} did not start: {why}")
            yield Emulated(port, flash, process)
        finally:
            process.kill()


def _provision(flash: Path, parameters: Parameters) -> None:
    wanted = parameters.encode()
    with flash.open("r+b") as stream:
        found = stream.read(len(wanted))
        if found == wanted:
            return
        if found != b"\xff" * len(wanted):
            raise FlashError(f"{flash}: has other parameters than those asked for; expected a blank one; name another")
        stream.seek(0)
        stream.write(wanted)
