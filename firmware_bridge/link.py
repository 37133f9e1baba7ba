"""SMP over a serial port: a question, asked until it is answered.

Frames and the names of errors come from `smp`. Its client, smpclient, is not used: it lives in
asyncio where a thread for each device is plainer, and it never sends again, so that one lost byte
would end an update. Here a request goes out again, with its number unchanged, until a whole reply
to it is there; the device promises that no request does harm twice. Leaves out: what is asked
(`device.py`), and MLPerf Tiny's text commands on the same wire (`bench.py`).
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import itertools
import random
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import cbor2
import serial
import smp.error
import smp.exceptions
import smp.image_management
import smp.packet

from diagline.errors import FlashError

BAUD = 115200
OS, IMAGE, INSPECT = 0, 1, 64
READ, RESPONSE, WRITE, VERSION_2 = 0, 1, 2, 1 << 3
HEADER = struct.Struct("!BBHHBB")  # op and version, flags, length, group, sequence, command
POLL_S = 0.05
LONGEST_TEXT = 1 << 16
assert HEADER.size == 8

REFUSALS = {
    (IMAGE, 12): "its flash refuses to program; flash again, and replace the device if it happens twice",
    (IMAGE, 15): "the model needs more RAM than the device has",
    (IMAGE, 23): "not a model image that its firmware knows, or damaged on the way; flash again",
    (IMAGE, 24): "what arrived in flash is not what was sent; flash again",
    (IMAGE, 27): "older than the model in force; give --model-version",
    (IMAGE, 28): "another model is on trial; reset the device",
    (IMAGE, 30): "larger than a slot",
    (IMAGE, 32): "no model runs, or its golden pictures failed",
    (IMAGE, 64): "not signed with the key of this device; give --device-key FILE, or none where the device has none",
    (IMAGE, 65): "made for another picture size than the camera of this device gives",
    (IMAGE, 66): "the parameters of the device are damaged; provision it again",
    (INSPECT, 1): "no model runs; flash one first",
    (INSPECT, 2): "another host took a picture in between; ask again",
    (INSPECT, 3): "rows are missing or of another size; ask again",
}


class NoAnswerError(FlashError):
    """Nothing, or nothing whole, came back."""


class RefusedError(FlashError):
    """The device answered, and said no.

    Attributes:
        group, code: the number of the refusal in its group; group None: of the message itself.
    """

    def __init__(self, where: str, what: str, group: int | None, code: int) -> None:
        super().__init__(f"{where}: {what} refused: {_reason(group, code)}")
        self.group, self.code = group, code


def _reason(group: int | None, code: int) -> str:
    if group is not None and (group, code) in REFUSALS:
        return REFUSALS[group, code]
    names = smp.image_management.IMG_MGMT_ERR if group == IMAGE else smp.error.MGMT_ERR
    name = next((one.name.lower().replace("_", " ") for one in names if one == code), "unknown")
    return f"error {code} of {'the message' if group is None else f'group {group}'} ({name})"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a device is waited for: `tries` times `again_s` each."""

    again_s: float = 1.0
    tries: int = 8


class Messages:
    """Puts lines of the wire together to whole messages; text and what is damaged is passed over."""

    def __init__(self) -> None:
        self._decoder: Any = None

    def take(self, line: bytes) -> bytes | None:
        """A line with its newline; the message that it ends, if it ends one."""
        at = max(line.rfind(smp.packet.START_DELIMITER), line.rfind(smp.packet.CONTINUE_DELIMITER))
        if at < 0:
            return None
        line = line[at:]
        if line.startswith(smp.packet.START_DELIMITER):
            self._decoder = smp.packet.decode()
            next(self._decoder)
        if self._decoder is None:
            return None
        try:
            self._decoder.send(line)
        except StopIteration as whole:
            self._decoder = None
            return bytes(whole.value)
        except (smp.exceptions.SMPException, binascii.Error, struct.error):
            self._decoder = None
        return None


class Link:
    """An open serial port, held by this process alone.

    Args:
        path: such as /dev/ttyACM0.

    Raises:
        FlashError: no such port, no right to it, or another program holds it.
    """

    def __init__(self, path: str, baud: int = BAUD, patience: Patience | None = None) -> None:
        self.path = path
        self._baud = baud
        self.patience = patience or Patience()
        self._messages = Messages()
        self._bytes = b""
        self._numbers = itertools.count(random.randrange(256))
        self._port = open_port(path, baud)

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the port."""
        self._port.close()

    def ask(
        self, what: str, group: int, command: int, body: Mapping[str, Any] | None = None,
        patience: Patience | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Send a request, again and again, until its reply is there.

        Args:
            what: what errors call it.
            body: the request's map, of a write; None: a read.
            patience: another than the link's, for what takes the device longer.

        Returns:
            The reply's map, as it came: nothing of it is checked.

        Raises:
            RefusedError: the device says no.
            NoAnswerError: no whole reply in all that time, or the port is gone.
        """
        patience = patience or self.patience
        payload = cbor2.dumps(dict(body or {}))
        op = (READ if body is None else WRITE) | VERSION_2
        header = HEADER.pack(op, 0, len(payload), group, next(self._numbers) % 256, command)
        lines = b"".join(smp.packet.encode(header + payload))
        try:
            for _ in range(patience.tries):
                self._send(lines)
                reply = self._reply(header, time.monotonic() + patience.again_s)
                if reply is not None:
                    return _checked(self.path, what, reply)
        except OSError as error:  # pyserial's own error is one
            raise NoAnswerError(
                f"{self.path}: the port is gone at {what} ({error.strerror or error}); plug it in, repeat the command"
            ) from error
        raise NoAnswerError(
            f"{self.path}: no answer to {what}, asked {patience.tries} times, {patience.again_s:g} s each; expected a "
            f"line device at {self._baud} baud; check its power, the cable and --baud"
        )

    def _send(self, lines: bytes) -> None:
        with contextlib.suppress(serial.SerialTimeoutException):  # who does not take it will not answer either
            self._port.write(lines)

    def _reply(self, asked: bytes, until: float) -> dict[str, Any] | None:
        group, number, command = HEADER.unpack(asked)[3:]
        while (message := self._message(until)) is not None:
            if len(message) < HEADER.size:
                continue
            found_op, _, length, *found = HEADER.unpack_from(message)
            if not found_op & RESPONSE or found != [group, number, command]:
                continue  # to an earlier question
            if length == len(message) - HEADER.size and (body := _map(message[HEADER.size :])) is not None:
                return body
        return None

    def _message(self, until: float) -> bytes | None:
        while True:
            line, newline, rest = self._bytes.partition(b"\n")
            if newline:
                self._bytes = rest
                if (message := self._messages.take(line + newline)) is not None:
                    return message
                continue
            if time.monotonic() >= until:
                return None
            self._bytes = self._bytes[-LONGEST_TEXT:] + self._port.read(max(1, self._port.in_waiting))


def open_port(path: str, baud: int = BAUD) -> serial.Serial:
    """A serial port for this process alone.

    Raises:
        FlashError: no such port, no right to it, or another program holds it.
    """
    try:
        port = serial.Serial(path, baud, timeout=POLL_S, write_timeout=5, exclusive=True)
        port.reset_input_buffer()  # what was meant for somebody before
        return port
    except serial.SerialException as error:
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY):
            mend = "another program holds it; expected a free port; end the other program"
        elif error.errno in (errno.EACCES, errno.EPERM):
            mend = "no right to open it; expected a user of the group that owns it; usermod -aG dialout USER"
        else:
            mend = "no such serial port; expected one of: diagline device list"
        raise FlashError(f"{path}: {mend}") from error
    except (ValueError, OSError) as error:
        raise FlashError(f"{path} at {baud} baud: {error}; expected a serial port and its speed, as 115200") from error


def _map(data: bytes) -> dict[str, Any] | None:
    try:
        body = cbor2.loads(data)
    except (cbor2.CBORError, ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _checked(where: str, what: str, reply: dict[str, Any]) -> dict[str, Any]:
    """The reply, where it is none of the two kinds of error."""
    err, code = reply.get("err"), reply.get("rc", 0)
    if isinstance(err, dict) and isinstance(err.get("group"), int) and isinstance(err.get("rc"), int):
        raise RefusedError(where, what, err["group"], err["rc"])
    if not isinstance(code, int) or code != 0:
        raise RefusedError(where, what, None, code if isinstance(code, int) else -1)
    return reply
