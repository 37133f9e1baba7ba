"""A wire between a host's port and a device's that loses, doubles, changes or swaps a byte, or is cut.

Bytes are counted in each direction, so that a fault comes at the same byte every time. Leaves out:
time; nothing here waits.
"""

from __future__ import annotations

import os
import pty
import select
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Fault = Callable[[int, int], bytes]
"""The number of a byte and the byte, to what arrives."""


class Cut(Exception):  # noqa: N818
    """The cable is out."""


def drop(at: int) -> Fault:
    """Loses a byte."""
    return lambda number, byte: b"" if number == at else bytes([byte])


def double(at: int) -> Fault:
    """A byte arrives twice."""
    return lambda number, byte: bytes([byte, byte]) if number == at else bytes([byte])


def flip(at: int) -> Fault:
    """A bit of a byte changes."""
    return lambda number, byte: bytes([byte ^ 0x04 if number == at else byte])


def swap(at: int) -> Fault:
    """A byte arrives after the one behind it."""
    held = b""

    def fault(number: int, byte: int) -> bytes:
        nonlocal held
        if number == at:
            held = bytes([byte])
            return b""
        late, held = held, b""
        return bytes([byte]) + late

    return fault


def cut(at: int) -> Fault:
    """The cable is out from a byte on."""

    def fault(number: int, byte: int) -> bytes:
        if number >= at:
            raise Cut
        return bytes([byte])

    return fault


def clean(number: int, byte: int) -> bytes:
    """Nothing happens."""
    return bytes([byte])


@dataclass
class Wire:
    """The host's end of it, and how many bytes went each way."""

    port: str
    to_device: int = 0
    to_host: int = 0


@contextmanager
def wire(device: str, to_device: Fault = clean, to_host: Fault = clean) -> Iterator[Wire]:
    """A faulty wire to a device's port, as long as the block runs."""
    host, port = pty.openpty()
    tty.setraw(port)
    line = os.open(device, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    ended, end = os.pipe()
    found = Wire(os.ttyname(port))

    def shuttle() -> None:
        try:
            while True:
                ready, _, _ = select.select([host, line, ended], [], [])
                if ended in ready:
                    return
                if host in ready:
                    data = os.read(host, 4096)
                    os.write(line, _through(to_device, found.to_device, data))
                    found.to_device += len(data)
                if line in ready:
                    data = os.read(line, 4096)
                    os.write(host, _through(to_host, found.to_host, data))
                    found.to_host += len(data)
        except (Cut, OSError):
            return
        finally:
            os.close(host)

    thread = threading.Thread(target=shuttle)
    thread.start()
    try:
        yield found
    finally:
        os.write(end, b"x")
        thread.join()
        for handle in (port, line, ended, end):
            os.close(handle)


def _through(fault: Fault, start: int, data: bytes) -> bytes:
    return b"".join(fault(start + index, byte) for index, byte in enumerate(data))
