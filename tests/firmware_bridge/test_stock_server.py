"""Our tool drives any SMP server's image commands: upload, trial, reset, confirmation, erasure."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

pytest.importorskip("smp", reason="smp is not installed: pip install 'diagline[firmware]'")

from stock_server import stock_server
from tiny_line import Diagline

from diagline.errors import FlashError
from firmware_bridge.device import connect
from firmware_bridge.link import Patience, RefusedError

IMAGE = random.Random(5).randbytes(5000)
DIGEST = hashlib.sha256(IMAGE).digest()


@pytest.mark.parametrize("buffer_bytes", [None, 256, 1024, 9000])
def test_an_image_is_uploaded_tried_and_confirmed(buffer_bytes: int | None) -> None:
    with stock_server(buffer_bytes=buffer_bytes) as server, connect(server.port) as device:
        there: list[int] = []
        assert device.upload(IMAGE, there.append) is True
        assert (server.slots[1], there[-1]) == (IMAGE, 5000)
        assert [slot.hash for slot in device.slots()][1] == DIGEST
        assert device.test(DIGEST)[1].pending
        device.reset()
        assert [(slot.hash == DIGEST, slot.active, slot.confirmed) for slot in device.slots()] == [
            (True, True, False), (False, False, True),
        ]  # fmt: skip
        assert device.confirm()[0].confirmed
        device.erase()
        assert len(device.slots()) == 1


def test_a_server_that_misses_requests_is_asked_again() -> None:
    with stock_server(deaf_to=3) as server, connect(server.port, patience=Patience(0.05, 10)) as device:
        assert device.upload(IMAGE) is True
        assert server.slots[1] == IMAGE


def test_a_wire_that_takes_short_frames_alone_gets_short_pieces() -> None:
    with stock_server(deaf_above=300) as server, connect(server.port, patience=Patience(0.05, 4)) as device:
        assert device.upload(IMAGE) is True
        assert server.slots[1] == IMAGE


@pytest.mark.parametrize(("offset", "why"), [(0, "stays at 0 of 5000"), (9999, "stands at 9999; expected 0 to 5000")])
def test_an_upload_that_goes_nowhere_ends(offset: int, why: str) -> None:
    with (
        stock_server(stays_at=offset) as server,
        connect(server.port) as device,
        pytest.raises(FlashError, match=why),
    ):
        device.upload(IMAGE)


def test_its_refusals_are_named() -> None:
    with stock_server() as server, connect(server.port) as device:
        with pytest.raises(RefusedError, match=r"trial refused: error 8 of group 1 \(hash not found\)"):
            device.test(bytes(32))
        with pytest.raises(RefusedError, match=r"info refused: error 8 of the message \(enotsup\)"):
            device.info()


def test_info_tells_what_there_is_to_tell(diagline: Diagline) -> None:
    with stock_server() as server:
        found = json.loads(diagline("device", "info", "--port", server.port, "--json").out)
        assert [slot["hash"] for slot in found["slots"]] == [hashlib.sha256(b"old image").hexdigest()]
        assert "board" not in found
        assert "slot 0" in diagline("device", "info", "--port", server.port).err


def test_replies_that_are_none_are_named() -> None:
    with stock_server() as server, connect(server.port) as device:
        device.link.ask = lambda *_, **__: {"images": [{"slot": True, "version": "1"}]}  # type: ignore[method-assign]
        with pytest.raises(FlashError, match=r"Slot\.slot is True; expected int"):
            device.slots()
        device.link.ask = lambda *_, **__: {"images": 3}  # type: ignore[method-assign]
        with pytest.raises(FlashError, match="image state without images"):
            device.slots()
