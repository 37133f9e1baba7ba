"""How good the inspector is on real lines: teacher, student with and without a teacher, and int8.

    python benchmarks/accuracy.py [--lines magnetic_tile kolektorsdd1] [--shots full zero] [--seeds 3] [--keep]
    python benchmarks/accuracy.py --quick

Runs generate, train, distill, export and evaluate, full-shot (`configs/LINE.toml`) and zero-shot
(`configs/LINE_zero.toml`: good parts and MemSeg's defects alone), for each seed. A run that was
stopped goes on. With --keep each finished run is kept in `benchmarks/results/accuracy.json` under
line, shots and seed, with config, machine and revision. --quick is one small run, on magnetic
tiles of 96x96 for a few epochs: minutes on two cores, and figures that say only that the chain
works. The last line of stdout is one JSON object: AP of teacher, student, student without a
teacher, int8. Leaves out: choosing anything by these figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import stand_aside

from diagline import config as configs
from diagline import files, record, verbs

RESULTS = stand_aside.HERE / "results" / "accuracy.json"
LINES = ("magnetic_tile", "kolektorsdd1")
CONFIGS = {"full": "", "zero": "_zero"}
"""Per shots, what follows the line's name in that of its config."""
STEPS = {"generate": verbs.generate, "train": verbs.train, "distill": verbs.distill, "export": verbs.export}
REPORTED = {
    "teacher": "teacher", "student": "student", "student_without_teacher": "student_alone", "int8": "tflite_int8",
}  # fmt: skip
QUICK = (
    "input.width_px=96", "input.height_px=96", "generate.count=100", "teacher.epochs=6", "teacher.views=4",
    "student.epochs=40", "student.views=4", "export.calibration_images=100",
    "export.flips=1.0",  # hardly trained, a student has many parts at its threshold
)  # fmt: skip


def measure(line: str, shots: str, seed: int, folder: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Run one line once; its metrics per form, sizes, and seconds per step."""
    output = folder / f"{line}-{shots}-{seed}"
    asked = (f"seed={seed}", f'output="{output}"', *overrides)
    config = configs.load(stand_aside.HERE.parent / "configs" / f"{line}{CONFIGS[shots]}.toml", asked)
    seconds = {}
    for name, step in STEPS.items():
        started = time.monotonic()
        step(config)
        seconds[name] = round(time.monotonic() - started, 1)
    found = verbs.evaluate(config)
    return {
        "forms": {name: row.plain() for name, row in found.rows.items()},
        "seconds": seconds,
        "machine": record.machine(),
        **record.provenance(config, found.test.hash()),
    }


def keep(line: str, shots: str, seed: int, result: dict[str, Any]) -> None:
    """Put one run among the recorded ones."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    kept.setdefault(line, {}).setdefault(shots, {})[str(seed)] = result
    files.write_json(RESULTS, kept)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """AP per form: the mean over seeds, and from two seeds on its standard deviation."""
    found = {}
    for name, form in REPORTED.items():
        aps = [run["forms"][form]["ap"] for run in runs]
        found[name] = round(statistics.mean(aps), 4)
        if len(aps) > 1:
            found[f"{name}_std"] = round(statistics.stdev(aps), 4)
    return found


def main() -> None:
    """Measure what was asked, and print AP per form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", nargs="+", choices=LINES, default=LINES)
    parser.add_argument("--shots", nargs="+", choices=CONFIGS, default=tuple(CONFIGS))
    parser.add_argument("--seed", type=int, default=1234, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="over the config, as the command's"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/accuracy"))
    parser.add_argument(
        "--keep", action="store_true", help="keep each finished run in benchmarks/results/accuracy.json"
    )
    parser.add_argument("--quick", action="store_true", help="one small run")
    asked = parser.parse_args()
    if asked.quick:
        result = measure(
            "magnetic_tile", "full", asked.seed, asked.output.with_name("accuracy-quick"), (*QUICK, *asked.set)
        )
        print(json.dumps({**summary([result]), "line": "magnetic_tile", "shots": "full", "seconds": result["seconds"]}))
        return
    told: dict[str, Any] = {}
    for line in asked.lines:
        for shots in asked.shots:
            runs = []
            for seed in range(asked.seed, asked.seed + asked.seeds):
                runs.append(measure(line, shots, seed, asked.output, tuple(asked.set)))
                if asked.keep:
                    keep(line, shots, seed, runs[-1])
            told.setdefault(line, {})[shots] = summary(runs)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
