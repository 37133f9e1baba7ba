"""An SMP server that is not ours: OS parameters and the image group, made of smp's own message classes.

No stock server runs on this machine (MCUmgr's need Zephyr), so this one says what smp's classes say
MCUmgr says. Leaves out: any group of our own, retries, and power cuts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cbor2
import smp.packet
from served_pty import served
from smp import header, image_management, message, os_management

READS = {
    (0, 6): os_management.MCUMgrParametersReadRequest,
    (1, 0): image_management.ImageStatesReadRequest,
}
WRITES = {
    (0, 5): os_management.ResetWriteRequest,
    (1, 0): image_management.ImageStatesWriteRequest,
    (1, 1): image_management.ImageUploadWriteRequest,
    (1, 5): image_management.ImageEraseRequest,
}


@dataclass
class Server:
    """What it holds.

    Attributes:
        slots: (image, its hash) of the primary and the secondary slot.
        buffer_bytes: of one request; None: a server that does not say.
        deaf_to: how many requests it does not answer.
        deaf_above: it does not answer requests of more bytes.
        stays_at: the offset that it says whatever is uploaded; None: the true one.
    """

    port: str = ""
    buffer_bytes: int | None = 1024
    deaf_to: int = 0
    deaf_above: int = 1 << 16
    stays_at: int | None = None
    slots: list[bytes | None] = field(default_factory=lambda: [b"old image", None])
    announced: tuple[int, bytes] = (0, b"")
    pending: bool = False
    trial: bool = False
    taken: int = 0

    def answer(self, request: Any) -> message.Response | None:
        """The reply to a request, by its class; None: no image with this hash."""
        head = request.header
        reply = {"version": head.version, "sequence": head.sequence}
        match request:
            case os_management.MCUMgrParametersReadRequest():
                return os_management.MCUMgrParametersReadResponse(buf_size=self.buffer_bytes, buf_count=2, **reply)
            case os_management.ResetWriteRequest():
                if self.trial or self.pending:  # one that nobody confirmed goes back
                    self.slots.reverse()
                self.trial, self.pending = self.pending, False
                return os_management.ResetWriteResponse(**reply)
            case image_management.ImageStatesWriteRequest(hash=digest):
                if digest is None:
                    self.trial = False
                elif self.slots[1] is None or digest != hashlib.sha256(self.slots[1]).digest():
                    return None
                else:
                    self.pending = True
                return image_management.ImageStatesWriteResponse(images=self.states(), **reply)
            case image_management.ImageStatesReadRequest():
                return image_management.ImageStatesReadResponse(images=self.states(), **reply)
            case image_management.ImageUploadWriteRequest(off=off, data=data):
                if off == 0:
                    self.announced, self.slots[1] = (request.len, request.sha), b""
                there = self.slots[1] or b""
                if off == len(there):
                    self.slots[1] = there = there + data
                done = len(there) == self.announced[0]
                same = hashlib.sha256(there).digest() == self.announced[1] if done else None
                off = len(there) if self.stays_at is None else self.stays_at
                return image_management.ImageUploadWriteResponse(off=off, match=same, **reply)
            case image_management.ImageEraseRequest():
                self.slots[1] = None
                return image_management.ImageEraseResponse(**reply)
        raise AssertionError(request)

    def states(self) -> list[image_management.ImageState]:
        return [
            image_management.ImageState(
                slot=slot, version=f"1.0.{len(image)}", hash=hashlib.sha256(image).digest(), bootable=True,
                pending=slot == 1 and self.pending, confirmed=slot == (1 if self.trial else 0), active=slot == 0,
            )
            for slot, image in enumerate(self.slots) if image
        ]  # fmt: skip

    def take(self, frame: bytes) -> bytes | None:
        """The reply to a message, as bytes; None: it is not answered."""
        self.taken += 1
        if self.taken <= self.deaf_to or len(frame) > self.deaf_above:
            return None
        head = header.Header.loads(frame[:8])
        kind = (READS if head.op == header.OP.READ else WRITES).get((head.group_id, head.command_id))
        if kind is None or (kind is READS[0, 6] and self.buffer_bytes is None):
            return refusal(frame, {"rc": 8})  # not supported
        reply = self.answer(kind.loads(frame))
        return refusal(frame, {"err": {"group": 1, "rc": 8}}) if reply is None else reply.BYTES


def refusal(frame: bytes, body: dict[str, Any]) -> bytes:
    """smp's classes of errors can be read and not made."""
    data = cbor2.dumps(body)
    return bytes([frame[0] + 1, 0, 0, len(data)]) + frame[4:8] + data


@contextmanager
def stock_server(**settings: Any) -> Iterator[Server]:
    """A server on a pty, as long as the block runs."""
    server, decoder, line = Server(**settings), None, b""

    def answer(data: bytes) -> bytes:
        nonlocal decoder, line
        replies = []
        for byte in data:
            line += bytes([byte])
            if byte != ord("\n"):
                continue
            if line.startswith(smp.packet.START_DELIMITER):
                decoder = smp.packet.decode()
                next(decoder)
            try:
                assert decoder is not None
                decoder.send(line)
            except StopIteration as whole:
                replies += list(smp.packet.encode(reply)) if (reply := server.take(whole.value)) is not None else []
            line = b""
        return b"".join(replies)

    with served(answer) as server.port:
        yield server
