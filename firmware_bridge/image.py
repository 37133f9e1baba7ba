"""The model image: what a line device reads in place from its flash. Mirrors `firmware/format.h`.

    header | steps | tensors and golden answers | SHA-256 of all before | HMAC-SHA256 of all before

Little-endian throughout. Leaves out: how a network becomes one (`compiler/`) and how it is run
(`firmware/rowstream.c`). The reader here checks what the host needs; the device trusts none of it.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, ClassVar

from diagline.errors import FlashError

MAGIC, VERSION = 0x4D494C44, 1  # "DLIM"
DIGEST_BYTES, NAME_BYTES, MAX_OUTPUTS = 32, 32, 16
TRAILER_BYTES = 2 * DIGEST_BYTES
MAX_SIDE, MAX_STEPS = 4096, 1024
NO_MAC = bytes(DIGEST_BYTES)
"""The MAC of an image without a key: only a device without one takes it."""


class Kind(enum.IntEnum):
    """What a step does; heads come first."""

    CAMERA = 0
    CONV = 1
    DEPTHWISE = 2
    POOL = 3
    POINTWISE = 4
    ADD = 5
    FEED = 6
    KEEP = 7
    TAKE = 8
    HEAT = 9
    OUTPUT = 10


FILTERS = frozenset({Kind.CONV, Kind.DEPTHWISE, Kind.POINTWISE})


class Method(enum.IntEnum):
    """How POOL reduces a channel."""

    AVERAGE = 0
    MEAN = 1
    MAXIMUM = 2


@dataclass(frozen=True, slots=True)
class Header:
    """The first bytes of an image.

    Attributes:
        model_version: the device refuses one lower than what it runs.
        judged: which output is the logit that `threshold` judges.
        output_scale, output_zero_point: logit = output_scale * (output - output_zero_point); heat alike.
        threshold: REJECT where the judged output is at or above.
        arena_bytes: what the engine needs; ram_bytes: with its net and one camera row.
        bundle_digest: SHA-256 of the bundle's manifest; zeros without one.
        name: at most 31 bytes of UTF-8.
    """

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IHHIIHH3Bx2f3bx2H3I2I2H2I32s32s")

    image_bytes: int
    model_version: int
    width_px: int
    height_px: int
    channels: int
    outputs: int
    judged: int
    output_scale: float
    heat_scale: float
    output_zero_point: int
    heat_zero_point: int
    threshold: int
    heat_rows: int
    heat_columns: int
    arena_bytes: int
    ram_bytes: int
    macs: int
    steps_offset: int
    golden_offset: int
    step_count: int
    golden_count: int
    scratch_bytes: int
    column_bytes: int
    bundle_digest: bytes
    name: str

    def pack(self) -> bytes:
        """The header's bytes."""
        return self.LAYOUT.pack(MAGIC, VERSION, self.LAYOUT.size, *astuple(self)[:-1], self.name.encode())

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """The header of an image.

        Raises:
            FlashError: not an image, or one of another version.
        """
        if len(data) < cls.LAYOUT.size + TRAILER_BYTES:
            raise FlashError(f"{len(data)} bytes; expected a model image; make one with: diagline image MODEL.tflite")
        magic, version, size, *rest = cls.LAYOUT.unpack_from(data)
        if magic != MAGIC or version != VERSION or size != cls.LAYOUT.size:
            raise FlashError(
                f"magic {magic:#010x}, version {version}; expected a model image of version {VERSION}; "
                f"make it again with: diagline image MODEL.tflite"
            )
        rest[-1] = rest[-1].rstrip(b"\0").decode(errors="replace")
        return cls(*rest)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the network; see `firmware/format.h` for what each kind uses. What it does not use is 0."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<8B6H2H4b6IB3x")

    kind: Kind
    kernel_rows: int = 0
    kernel_columns: int = 0
    stride_y: int = 0
    stride_x: int = 0
    pad_top: int = 0
    pad_left: int = 0
    pad_right: int = 0
    in_width: int = 0
    in_height: int = 0
    in_channels: int = 0
    out_width: int = 0
    out_height: int = 0
    out_channels: int = 0
    tile_px: int = 0
    target: int = 0
    pad_value: int = 0
    zero_point: int = 0
    least: int = -128
    most: int = 127
    pitch: int = 0
    weights: int = 0
    params: int = 0
    source: int = 0
    other: int = 0
    out: int = 0
    method: Method = Method.AVERAGE

    def pack(self) -> bytes:
        """The step's bytes."""
        return self.LAYOUT.pack(*astuple(self))

    @classmethod
    def unpack(cls, data: bytes, offset: int) -> Step:
        """The step at an offset; its offsets are not checked."""
        fields: list[Any] = list(cls.LAYOUT.unpack_from(data, offset))
        fields[0], fields[-1] = Kind(fields[0]), Method(fields[-1])
        return cls(*fields)

    @property
    def is_head(self) -> bool:
        """Whether it begins a segment."""
        return self.kind <= Kind.POOL

    @property
    def kept_bytes(self) -> int:
        """What it holds from row to row."""
        across = self.pad_left + self.in_width + self.pad_right
        match self.kind:
            case Kind.CONV | Kind.DEPTHWISE:
                return across * self.in_channels * self.kernel_rows
            case Kind.POOL:
                return 4 * self.in_channels
            case Kind.KEEP:
                return self.kernel_rows * self.in_width * self.in_channels
            case _:
                return 0


@dataclass(frozen=True, slots=True)
class Channel:
    """One output's requantisation: value * multiplier / 2^31 * 2^(left - right), rounded twice."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<2i2B2x")

    bias: int
    multiplier: int
    left: int
    right: int

    def pack(self) -> bytes:
        """The channel's bytes."""
        return self.LAYOUT.pack(*astuple(self))


@dataclass(frozen=True, slots=True)
class Golden:
    """What the device must answer to the picture of a seed (`compiler/golden.py`)."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<2I16s")

    seed: int
    heat_crc: int
    outputs: tuple[int, ...]

    def pack(self) -> bytes:
        """The answer's bytes."""
        return self.LAYOUT.pack(self.seed, self.heat_crc, struct.pack(f"{len(self.outputs)}b", *self.outputs))


assert Header.LAYOUT.size == 136 and Step.LAYOUT.size == 56
assert Channel.LAYOUT.size == 12 and Golden.LAYOUT.size == 24


def aligned(size: int, to: int = 4) -> int:
    """The next multiple."""
    return -(-size // to) * to


def assemble(
    header: Header, steps: Sequence[Step], tensors: bytes, golden: Sequence[Golden], key: bytes = b""
) -> bytes:
    """The image of a network.

    Args:
        header: its sizes, offsets and counts are filled in here.
        steps: their `weights` and `params` count from the first byte of `tensors`.
        key: signs the image for devices that hold it; without one the MAC is `NO_MAC`.
    """
    start = Header.LAYOUT.size
    tensors_at = start + len(steps) * Step.LAYOUT.size
    golden_at = aligned(tensors_at + len(tensors))
    end = golden_at + len(golden) * Golden.LAYOUT.size
    header = replace(
        header,
        image_bytes=end + TRAILER_BYTES,
        steps_offset=start,
        golden_offset=golden_at,
        step_count=len(steps),
        golden_count=len(golden),
    )
    moved = [
        replace(
            step,
            weights=step.weights + tensors_at if step.kind in FILTERS else 0,
            params=step.params + tensors_at if step.kind in FILTERS | {Kind.ADD, Kind.POOL} else 0,
        )
        for step in steps
    ]
    body = header.pack() + b"".join(step.pack() for step in moved) + tensors
    body = body.ljust(golden_at, b"\0") + b"".join(one.pack() for one in golden)
    return sign(body + hashlib.sha256(body).digest() + NO_MAC, key)


def sign(image: bytes, key: bytes) -> bytes:
    """The image with the MAC of a key; of none with an empty one."""
    body = image[:-DIGEST_BYTES]
    return body + (hmac.digest(key, body, "sha256") if key else NO_MAC)


def read(data: bytes) -> tuple[Header, list[Step]]:
    """The header and steps of an image whose SHA-256 is right.

    Raises:
        FlashError: not an image, truncated, or changed.
    """
    header = Header.unpack(data)
    if header.image_bytes != len(data):
        raise FlashError(f"{len(data)} bytes; expected the image's {header.image_bytes}; make or copy it again")
    body, digest = data[:-TRAILER_BYTES], data[-TRAILER_BYTES:-DIGEST_BYTES]
    if hashlib.sha256(body).digest() != digest:
        raise FlashError(f"{header.name}: the image's SHA-256 does not match its bytes; make or copy it again")
    end = header.steps_offset + header.step_count * Step.LAYOUT.size
    try:
        return header, [Step.unpack(body, offset) for offset in range(header.steps_offset, end, Step.LAYOUT.size)]
    except (struct.error, ValueError) as error:
        raise FlashError(f"{header.name}: {error} in the table of steps; make the image again") from error
