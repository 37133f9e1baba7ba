"""What a device says of itself, of its slots and of pictures: its replies as frozen dataclasses.

A field is a key of the reply's map, as PROTOCOL.md names it. Nothing from the wire is trusted: a
key that is missing or of another type is an error that names it. Keys that are not known here are
passed over, so that a newer firmware can be talked to. Leaves out: how they are asked for (`device.py`).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from diagline.errors import FlashError

PROTOCOL = 1
Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Model:
    """The model that runs.

    Attributes:
        hash: SHA-256 in the image, which names it.
        bundle: SHA-256 of the manifest of the bundle that it is from; zeros without one.
        threshold: REJECT where the logit is at or above, int8.
        ram: bytes the engine needs with its net and one camera row; arena: of the device's arena.
        golden: golden pictures in it.
    """

    model: str
    hash: bytes
    bundle: bytes
    version: int
    width: int
    height: int
    channels: int
    heat_rows: int
    heat_columns: int
    threshold: int
    zero_point: int
    macs: int
    ram: int
    arena: int
    golden: int

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.model} ({self.hash.hex()[:12]})"


@dataclass(frozen=True, slots=True)
class Info:
    """What the device is, and how it started.

    Attributes:
        boot: empty, confirmed, trial, reverted or failed trial.
        trusted: the running model's golden pictures came out right.
        confirmed: the running model is the one in force.
        signed: it takes only images signed with its key.
        locked: its parameters are damaged; it runs nothing.
        row_bytes: the widest row that it takes.
        camera_width, camera_height, camera_channels: of its camera; 0: any.
    """

    protocol: int
    board: str
    name: str
    boot: str
    trusted: bool
    confirmed: bool
    gate: bool
    signed: bool
    locked: bool
    slot_bytes: int
    arena_bytes: int
    row_bytes: int
    camera_width: int
    camera_height: int
    camera_channels: int


@dataclass(frozen=True, slots=True)
class Slot:
    """An accepted image in a slot, as every MCUmgr device says it; what is not said is not so."""

    slot: int
    version: str
    hash: bytes = b""
    bootable: bool = False
    pending: bool = False
    confirmed: bool = False
    active: bool = False
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A picture's verdict.

    Attributes:
        verdict: PASS, REJECT or NO_DECISION.
        gate: whether it opened.
        outputs: int8 each.
        rows_us, tail_us: spent in the network before the last row was in, and after.
        heat: (heat_rows, heat_columns) int8 by rows; empty without a heat map.
    """

    pic: int
    verdict: str
    gate: bool
    logit: int
    outputs: bytes
    rows_us: int
    tail_us: int
    heat: bytes = b""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How many golden pictures came out right, of how many."""

    passed: int
    golden: int
    trusted: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What the device has counted since it started."""

    uptime_us: int
    passes: int
    rejects: int
    dropped_frames: int
    log_sequence: int
    upload_bytes: int
    upload_offset: int


def parse(kind: type[Reply], body: Mapping[str, Any], where: str) -> Reply:
    """A reply's map as one of these classes.

    Raises:
        FlashError: a key is missing or of another type; names it.
    """
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name not in body and field.default is not dataclasses.MISSING:
            continue
        value = body.get(field.name)
        if type(value) is not hints[field.name]:  # exactly: a bool is no int
            raise FlashError(
                f"{where}: {kind.__name__}.{field.name} is {value!r}; expected {hints[field.name].__name__}; "
                f"flash a firmware of this version"
            )
        found[field.name] = value
    return kind(**found)


def plain(reply: Any) -> dict[str, Any]:
    """A reply as plain data for JSON: bytes as hex digits."""
    return {
        field.name: value.hex() if isinstance(value := getattr(reply, field.name), bytes) else value
        for field in dataclasses.fields(reply)
    }
