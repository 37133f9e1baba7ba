"""Every fault that flashing a line device may meet, tried on the device's own code; how many promises broke.

    python benchmarks/flash_faults.py [--quick] [--keep]

Power is cut in every flash operation of a full update and in every one of the recovery, in four ways of
half-done; the wire hurts bytes, has another baud rate, or two hosts at once; flash bits refuse; images do not
fit. After every boot the old or the new model must run whole, and the next attempt must succeed. Then the
firmware is fuzzed (needs clang). The table goes to stderr; the last line of stdout is one JSON object with
`cuts`, `violations` and `fuzz_runs`; --keep also writes it to `benchmarks/results/`. The whole takes about
twenty minutes of one core, --quick about one. Leaves out: the host's own faults (tests/firmware_bridge).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import stand_aside  # noqa: F401
from rich.table import Table

from diagline import files, record
from diagline.console import console, track
from firmware_bridge.proof import fuzz
from firmware_bridge.proof.faults import FAST, SANITIZED, SLOT_BYTES, Outcome, campaign, slot_cuts
from firmware_bridge.proof.tiny import Tiny
from firmware_bridge.provision import Parameters

RESULTS = Path(__file__).parent / "results" / "flash_faults.json"
LOG_RECORDS = 16  # of a sector of the small flash: an update may begin at any of them
OLD, NEW, OTHER = (Tiny(length=700, seed=seed, version=2) for seed in (1, 2, 3))


@dataclass(frozen=True)
class Trial:
    """One campaign: its name in the table, whether it counts as power cuts, and how it is run."""

    name: str
    is_cut: bool
    run: Callable[[], Outcome]


def refused(what: str, bad: bytes, code: int, *parameters: bytes) -> Trial:
    """An image that must be refused before anything is erased, perhaps by a device with parameters."""
    return Trial(f"refused: {what}", False, lambda: campaign("refuse", OLD.build(), bad, str(code), *parameters))


def trials(quick: bool) -> list[Trial]:
    """All campaigns; quick ones have smaller images, fewer runs and no sanitizers on the cuts."""
    flags = FAST if quick else SANITIZED
    runs = "200" if quick else "2000"
    found = []
    for length in (700,) if quick else (700, 1400, SLOT_BYTES):
        old, new = (replace(one, length=length).build() for one in (OLD, NEW))
        name = f"power cut, image of {length} bytes" + (", a full slot" if length == SLOT_BYTES else "")
        found.append(Trial(name, True, lambda old=old, new=new: campaign("cuts", old, new, flags=flags)))  # type: ignore[misc]
    for records in (0, 12) if quick else range(LOG_RECORDS):
        name = f"power cut, {records} records in the log"
        found.append(Trial(name, True, lambda records=records: slot_cuts(1500, records, flags)))  # type: ignore[misc]
    old, new, other = (one.build() for one in (OLD, NEW, OTHER))
    wide, newer = replace(NEW, width_px=4096, height_px=1, length=0), replace(NEW, version=3)
    return [
        *found,
        Trial("flash bits that refuse", False, lambda: campaign("stuck", old, new)),
        Trial("noise, lost, repeated, swapped bytes", False, lambda: campaign("wire", old, new, runs)),
        Trial("another baud rate", False, lambda: campaign("baud", old, new, "50" if quick else "500")),
        Trial("two hosts at once", False, lambda: campaign("hosts", old, new, runs, other)),
        refused("downgrade", replace(NEW, version=1).build(), 27),
        refused("larger than a slot", replace(newer, length=SLOT_BYTES + 4).build(), 30),
        refused("more RAM than there is", replace(newer, arena_extra=1 << 20).build(), 15),
        refused("pictures wider than the buffer", wide.build(), 15),
        refused(
            "another camera's pictures", replace(newer, width_px=16).build(), 65, Parameters(camera=(8, 4, 1)).encode()
        ),
        refused("not an image", b"not an image" * 50, 23),
        refused("truncated", newer.build()[:-4], 23),
    ]


def main() -> None:
    """Try everything, print the table and the JSON line; exit code 1 where a promise broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images and few runs: about a minute")
    parser.add_argument("--keep", action="store_true", help=f"keep the result in {RESULTS.name}")
    asked = parser.parse_args()
    table = Table("fault", "tried", "violations")
    cuts = violations = fuzz_runs = 0
    tried: dict[str, int] = {}
    for trial in track(trials(asked.quick), "faults"):
        outcome = trial.run()
        if outcome.violations:
            console.print(f"{trial.name}: {outcome.report}")
        cuts += outcome.tried if trial.is_cut else 0
        violations += outcome.violations
        tried[trial.name] = outcome.tried
        table.add_row(trial.name, f"{outcome.tried:,}", str(outcome.violations))
    for target in track(fuzz.TARGETS, "fuzzing"):
        runs = fuzz.run(target, runs=5000) if asked.quick else fuzz.run(target, seconds=240)
        fuzz_runs += runs
        table.add_row(f"fuzzed: {target}", f"{runs:,}", "0")
    console.print(table)
    result = {"cuts": cuts, "violations": violations, "fuzz_runs": fuzz_runs, "tried": tried}
    if asked.keep:
        files.write_json(RESULTS, {**result, "machine": record.machine()})
    print(json.dumps(result))
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
