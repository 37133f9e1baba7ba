"""The serial ports of this machine, as a line device may hang on one of them.

Leaves out: talking to a device (`link.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from diagline.errors import require


@dataclass(frozen=True, slots=True)
class Port:
    """A serial port: its path, what it calls itself, and its USB ids where it has them."""

    path: str
    description: str
    usb: str


def list_ports() -> list[Port]:
    """Every serial port of this machine, by path.

    Raises:
        MissingExtraError: pyserial is not installed.
    """
    found = require("serial.tools.list_ports", "firmware").comports()
    return sorted(
        (
            Port(port.device, port.description, f"{port.vid:04x}:{port.pid:04x}" if port.vid is not None else "")
            for port in found
        ),
        key=lambda port: port.path,
    )
