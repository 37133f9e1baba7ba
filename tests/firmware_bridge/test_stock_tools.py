"""Stock MCUmgr tools can flash our device: the unmodified smpclient against the host port over a pty."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.proof.tiny import Tiny

pytest.importorskip("smpclient", reason="smpclient is not installed: pip install 'diagline[firmware]'")
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")

from line_device import process  # noqa: E402
from smpclient import SMPClient  # noqa: E402
from smpclient.requests.image_management import ImageErase, ImageStatesRead, ImageStatesWrite  # noqa: E402
from smpclient.requests.os_management import EchoWrite, MCUMgrParametersRead, ResetWrite  # noqa: E402
from smpclient.transport.serial import BufferParams, SMPSerialTransport  # noqa: E402

OLD, NEW = Tiny(length=20_000, seed=1, version=1).build(), Tiny(length=30_004, seed=2, version=2).build()


async def states(client: SMPClient) -> list[dict[str, Any]]:
    reply: Any = await client.request(ImageStatesRead())
    return [{"version": one.version, "active": one.active, "confirmed": one.confirmed} for one in reply.images]


async def flash(client: SMPClient, image: bytes, confirm: bool) -> None:
    async for _ in client.upload(image):
        pass
    reply: Any = await client.request(ImageStatesWrite(hash=image[-64:-32]))
    assert [one.version for one in reply.images if one.pending] == [str(image[12])]
    await client.request(ResetWrite())
    if confirm:
        await client.request(ImageStatesWrite(confirm=True))


async def the_whole_of_it(path: str) -> None:
    async with SMPClient(SMPSerialTransport(), path) as client:
        echo: Any = await client.request(EchoWrite(d="ä" * 100))
        assert echo.r == "ä" * 100
        parameters: Any = await client.request(MCUMgrParametersRead())
        assert (parameters.buf_size, parameters.buf_count) == (4096, 1)
        assert await states(client) == []

        await flash(client, OLD, confirm=True)
        assert await states(client) == [{"version": "1", "active": True, "confirmed": True}]

        await flash(client, NEW, confirm=False)
        old, new = await states(client)
        assert (old["active"], old["confirmed"], new["active"], new["confirmed"]) == (False, True, True, False)

        await client.request(ResetWrite())  # nobody confirmed: the old model comes back
        old, new = await states(client)
        assert (old["active"], old["confirmed"], new["active"]) == (True, True, False)

        await flash(client, NEW, confirm=True)
        await client.request(ResetWrite())
        old, new = await states(client)
        assert (old["active"], new["active"], new["confirmed"]) == (False, True, True)

        await client.request(ImageErase(slot=0))
        assert await states(client) == [new]


def test_smpclient_uploads_tries_resets_reverts_and_confirms(tmp_path: Path) -> None:
    with process(tmp_path / "flash.bin") as (_, path):
        asyncio.run(the_whole_of_it(path))


async def by_small_pieces(path: str) -> None:
    """As a tool that sends one short line a message: the header comes in several pieces."""
    async with SMPClient(SMPSerialTransport(fragmentation_strategy=BufferParams(128, 1)), path) as client:
        await flash(client, OLD, confirm=True)
        assert await states(client) == [{"version": "1", "active": True, "confirmed": True}]


def test_a_sender_of_small_pieces_flashes_it_too(tmp_path: Path) -> None:
    with process(tmp_path / "flash.bin") as (_, path):
        asyncio.run(by_small_pieces(path))
