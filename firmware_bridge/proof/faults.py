"""The fault campaigns on a device of memory (firmware/port/fake), compiled on demand and run.

Whatever the fault, after every boot the old or the new model must run whole and trusted, the slot in
force be untouched, the gate closed; and the next attempt must succeed. Leaves out: faults of the
host's side, which its own tests make.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.emulation import build

SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined")
FAST = ("-O2",)
SLOT_BYTES = 2048
FAKE = ("port/fake/fake.c", "port/fake/host.c", "port/fake/faults.c")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many faults were tried, how many times a promise was broken, and how."""

    tried: int
    violations: int
    report: str


def campaign(name: str, old: bytes, new: bytes, *more: str | bytes, flags: Sequence[str] = SANITIZED) -> Outcome:
    """Run one campaign of port/fake/faults.c: cuts, wire, baud, stuck, hosts or refuse.

    Args:
        old, new: images for slots of `SLOT_BYTES`; more: the campaign's number and its third image.

    Raises:
        FlashError: the harness does not compile.
    """
    core = sorted(path.name for path in build.FIRMWARE.glob("*.c") if path.name != "main.c")
    program = build.program("faults", [*core, *FAKE], (*flags, *build.SMALL))
    arguments = []
    with tempfile.TemporaryDirectory() as folder:
        for index, value in enumerate((old, new, *more)):
            if isinstance(value, str):
                arguments.append(value)
                continue
            path = Path(folder) / f"{index}.image"
            path.write_bytes(value)
            arguments.append(str(path))
        return _outcome([str(program), name, *arguments])


def slot_cuts(image_bytes: int, log_records: int, flags: Sequence[str] = SANITIZED) -> Outcome:
    """Cut power in every operation of an update of the slots alone, begun at some place in the log.

    Raises:
        FlashError: the harness does not compile.
    """
    sources = ("port/fake/slot_cuts.c", "port/fake/fake.c", "slots.c", "golden.c", "image.c", "sha256.c")
    engine = sorted(path.name for path in build.FIRMWARE.glob("*.c") if path.name.startswith(("kernels", "rowstream")))
    program = build.program("slot_cuts", [*sources, *engine], (*flags, *build.SMALL))
    return _outcome([str(program), str(image_bytes), str(log_records)])


def _outcome(command: list[str]) -> Outcome:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        tried, violations = map(int, done.stdout.split())
    except ValueError:  # it crashed: what the sanitizer says is the report
        return Outcome(0, 1, done.stderr)
    return Outcome(tried, violations, done.stderr)
