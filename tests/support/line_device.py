"""A line device as a process of this machine, and the plainest way to ask it something.

Speaks with the `smp` package's own framing, so that ours is held against somebody else's.
Leaves out: any retry; a lost reply is a failed test.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2
import serial
import smp.packet

from firmware_bridge.emulation import build, emulator

HEADER = struct.Struct("!BBHHBB")
READ, WRITE, OS, IMAGE, INSPECT = 0, 2, 0, 1, 64
TIMEOUT_S = 30


@dataclass
class Line:
    """An open port with a device behind it."""

    port: serial.Serial
    text: bytearray = field(default_factory=bytearray)  # what was neither frame nor reply
    sequence: int = 0

    def send(self, op: int, group: int, command: int, body: dict[str, Any]) -> None:
        """One request, without waiting."""
        payload = cbor2.dumps(body)
        self.sequence = (self.sequence + 1) % 256
        header = HEADER.pack(op | 1 << 3, 0, len(payload), group, self.sequence, command)
        for line in smp.packet.encode(header + payload):
            self.port.write(line)

    def receive(self) -> dict[str, Any]:
        """The next whole message's map."""
        decoder = None
        while True:
            line = self.port.readline()
            assert line.endswith(b"\n"), f"no reply: {line!r} after {bytes(self.text[-200:])!r}"
            if not line.startswith((smp.packet.START_DELIMITER, smp.packet.CONTINUE_DELIMITER)):
                self.text += line
                continue
            if line.startswith(smp.packet.START_DELIMITER):
                decoder = smp.packet.decode()
                next(decoder)
            assert decoder is not None
            try:
                decoder.send(line)
            except StopIteration as whole:
                return dict(cbor2.loads(whole.value[HEADER.size :]))

    def ask(self, group: int, command: int, **body: Any) -> dict[str, Any]:
        """A read, or with a body or `write=True` a write, and its reply."""
        write = body.pop("write", bool(body))
        self.send(WRITE if write else READ, group, command, body)
        return self.receive()

    def say(self, command: str) -> list[str]:
        """A command of MLPerf Tiny's protocol and its reply's lines, `m-ready` left out."""
        self.port.write(command.encode())
        lines: list[str] = []
        while not lines or lines[-1] != "m-ready":
            line = self.port.readline()
            assert line.endswith(b"\n"), f"no m-ready after {lines}"
            lines.append(line.decode().strip())
        return lines[:-1]

    def info(self) -> dict[str, Any]:
        """Group 64's info."""
        return self.ask(INSPECT, 0)

    def reboot(self) -> None:
        """A reset, and the wait until it is over: what is sent meanwhile is lost."""
        assert self.ask(OS, 5, write=True) == {}
        while (line := self.port.readline()) != b"m-ready\r\n":
            assert line.endswith(b"\n"), f"not up again: {line!r}"

    def upload(self, image: bytes, piece: int = 2048) -> dict[str, Any]:
        """A whole image; the last reply."""
        offset, reply = 0, {}
        while offset < len(image):
            first = {"len": len(image), "sha": sha256(image).digest()} if offset == 0 else {}
            reply = self.ask(IMAGE, 1, off=offset, data=image[offset : offset + piece], **first)
            if "off" not in reply:
                break
            offset = reply["off"]
        return reply

    def flash(self, image: bytes) -> None:
        """Uploads, tries and confirms an image."""
        reply = self.upload(image)
        assert reply.get("match") is True, reply
        assert "images" in self.ask(IMAGE, 0, hash=image[-64:-32])
        self.reboot()
        assert self.info()["boot"] == "trial"
        assert "images" in self.ask(IMAGE, 0, confirm=True)

    def inspect(self, picture: bytes, number: int = 1) -> dict[str, Any]:
        """A whole picture; the reply to its end."""
        info = self.info()
        row_bytes = info["width"] * info["channels"]
        self.ask(INSPECT, 1, pic=number)
        for row in range(info["height"]):
            data = picture[row * row_bytes : (row + 1) * row_bytes]
            assert self.ask(INSPECT, 2, pic=number, row=row, data=data) == {"row": row + 1}
        return self.ask(INSPECT, 3, pic=number, write=True)


@contextmanager
def process(flash: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The host port on a flash file; its process and its port's path."""
    command = [str(build.host_port()), str(flash), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment or None) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


@contextmanager
def device(flash: Path, *arguments: str, **environment: str) -> Iterator[Line]:
    """The host port on a flash file, and an open line to it."""
    with process(flash, *arguments, **environment) as (_, path), serial.Serial(path, timeout=TIMEOUT_S) as port:
        yield Line(port)


@contextmanager
def board(name: str, flash: Path) -> Iterator[Line]:
    """The device on a board that QEMU emulates, its flash in a folder of its own; and an open line to it."""
    with emulator.emulate(name, flash.parent) as found, serial.Serial(found.port, timeout=TIMEOUT_S) as port:
        assert found.flash == flash
        yield Line(port)
