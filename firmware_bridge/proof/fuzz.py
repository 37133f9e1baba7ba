"""The firmware fuzzed: its frames and CBOR, its image parser and engine, a whole device behind its wire.

libFuzzer under AddressSanitizer and UndefinedBehaviorSanitizer, from seeds that are real messages
and a real image. Leaves out: keeping what a run found; a crash is in the error's text.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

from diagline.errors import FlashError
from firmware_bridge.emulation import build
from firmware_bridge.proof.tiny import Tiny

ENGINE = ("golden.c", "image.c", "kernels_generic.c", "rowstream.c", "sha256.c")
WIRE = ("cbor.c", "frame.c")
REST = ("device.c", "params.c", "perf.c", "slots.c", "smp.c", "smp_image.c", "smp_inspect.c", "port/fake/fake.c")
TARGETS = {"frame": WIRE, "image": ENGINE, "device": (*WIRE, *ENGINE, *REST)}
FLAGS = ("-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", *build.SMALL)
FIRST = Tiny().build()


def target(name: str) -> Path:
    """The fuzzer of a target, built with clang.

    Raises:
        FlashError: no clang, or it does not compile.
    """
    model = f"-DFIRST_MODEL={','.join(map(str, FIRST))}"
    return build.program(f"fuzz_{name}", (*TARGETS[name], f"fuzz/{name}.c"), (*FLAGS, model), cc="clang")


def message(op: int, group: int, command: int, body: bytes) -> bytes:
    """An SMP message around a CBOR map."""
    return struct.pack("!BBHHBB", op | 1 << 3, 0, len(body), group, 7, command) + body


def framed(sent: bytes) -> bytes:
    """A message as it goes over the wire."""
    whole = struct.pack("!H", len(sent) + 2) + sent + struct.pack("!H", binascii.crc_hqx(sent, 0))
    lines = [base64.b64encode(whole[at : at + 90]) for at in range(0, len(whole), 90)]
    return b"".join((b"\x04\x14" if index else b"\x06\x09") + line + b"\n" for index, line in enumerate(lines))


def text(value: str) -> bytes:
    """A CBOR text of less than 24 characters."""
    return bytes([0x60 | len(value)]) + value.encode()


def blob(value: bytes) -> bytes:
    """A CBOR byte string."""
    return b"\x59" + struct.pack("!H", len(value)) + value


def number(value: int) -> bytes:
    """A CBOR number."""
    return b"\x1a" + struct.pack("!I", value)


def conversations() -> list[list[tuple[int, bytes]]]:
    """What hosts really say: a whole update, a picture, a benchmark; (kind, bytes) as fuzz/device.c reads them."""
    second = Tiny(seed=4, version=2).build()
    first = b"\xa4" + text("off") + number(0) + text("len") + number(len(second)) + text("sha")
    first += blob(sha256(second).digest()) + text("data") + blob(second[:256])
    rest = b"\xa2" + text("off") + number(256) + text("data") + blob(second[256:])
    trial = b"\xa2" + text("hash") + blob(second[-64:-32]) + text("confirm") + b"\xf4"
    reset, states = message(2, 0, 5, b"\xa0"), message(0, 1, 0, b"\xa0")
    confirm = message(2, 1, 0, b"\xa1" + text("confirm") + b"\xf5")
    rows = b"\xa3" + text("pic") + number(1) + text("row") + number(0) + text("data") + blob(bytes(32))
    picture = b"\xa1" + text("pic") + number(1)
    update = [message(2, 1, 1, first), message(2, 1, 1, rest), message(2, 1, 0, trial), reset, states, confirm]
    inspect = [
        message(2, 64, 1, picture),
        message(2, 64, 2, rows),
        message(2, 64, 3, picture),
        message(2, 64, 4, b"\xa0"),
    ]
    ask = [message(2, 0, 0, b"\xa1" + text("d") + text("hello")), message(0, 0, 6, b"\xa0"), message(0, 64, 0, b"\xa0")]
    ask += [message(0, 64, 5, b"\xa0"), message(2, 1, 5, b"\xa1" + text("slot") + number(1))]
    said = [
        "name",
        "profile",
        "timestamp",
        "help",
        "results",
        "db load 32",
        "db " + "7f" * 31,
        "db 00",
        "db print",
        "infer 2 1",
    ]
    return [
        [(1, one) for one in update],
        [(1, one) for one in inspect],
        [(1, one) for one in ask],
        [(2, one.encode()) for one in said],
        [(0, framed(one)) for one in inspect],
    ]


def seeds(name: str) -> list[bytes]:
    """What a target's corpus starts from."""
    if name == "image":
        return [FIRST, Tiny(width_px=16, height_px=8, channels=3, seed=2).build()]
    if name == "frame":
        said = [one for talk in conversations() for _, one in talk]
        return [*said, *(framed(one) for one in said), framed(bytes(240)), framed(bytes(600))]
    return [b"".join(struct.pack("<BH", kind, len(one)) + one for kind, one in talk) for talk in conversations()]


def run(name: str, runs: int = 0, seconds: int = 0) -> int:
    """Fuzz a target for a number of runs or of seconds; returns the runs made.

    Raises:
        FlashError: the firmware crashed, with the sanitizer's report; or as `target`.
    """
    fuzzer = target(name)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for index, seed in enumerate(seeds(name)):
            (corpus / f"{index}").write_bytes(seed)
        # no limit of memory: the firmware has no heap, and Linux counts a large parent's peak as the fuzzer's
        limits = ["-max_len=4096", "-timeout=20", "-print_final_stats=1", "-verbosity=0", "-rss_limit_mb=0"]
        limits += [f"-runs={runs}"] if runs else [f"-max_total_time={seconds}"]
        done = subprocess.run(
            [fuzzer, *limits, f"-artifact_prefix={folder}/", corpus], capture_output=True, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            crashed = [path.read_bytes().hex() for path in Path(folder).glob("*-*")]
            raise FlashError(f"the {name} fuzzer found a crash on {crashed}:\n{done.stderr[-3000:]}")
    made = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    if made is None:
        raise FlashError(f"the {name} fuzzer ended without saying how often it ran:\n{done.stderr[-1000:]}")
    return int(made[1])
