"""The whole chain on real lines: what it reached and what it cost.

    python benchmarks/real_lines.py configs/magnetic_tile.toml configs/kolektorsdd1.toml --seed 1234

Runs generate, train, distill, export and evaluate of each config, and keeps the figures in
`benchmarks/results/real_lines.json` under the line's name and seed, with config, machine and
revision. A run that was stopped goes on. Its last line is one JSON object. Takes about half
an hour a line on two cores. Leaves out: choosing anything by these figures.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diagline import config as configs
from diagline import files, record, verbs

RESULTS = Path(__file__).parent / "results" / "real_lines.json"
STEPS = {"generate": verbs.generate, "train": verbs.train, "distill": verbs.distill, "export": verbs.export}


def measure(path: Path, overrides: tuple[str, ...], tiny: bool) -> dict[str, Any]:
    """Run one config; its metrics per form, sizes, and seconds per step."""
    config = configs.load(path, overrides, tiny)
    seconds = {}
    for name, step in STEPS.items():
        if name == "generate" and not config.generate.count:
            continue
        started = time.monotonic()
        step(config)
        seconds[name] = round(time.monotonic() - started, 1)
    found = verbs.evaluate(config)
    forms = {name: {**asdict(row.metrics), "size_bytes": row.size_bytes} for name, row in found.rows.items()}
    return {
        "forms": forms,
        "seconds": seconds,
        "machine": record.machine(),
        **record.provenance(config, found.test.hash()),
    }


def main() -> None:
    """Measure every config given, keep the results, print AP per form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tiny", action="store_true", help="the configs' small twins; nothing is kept")
    asked = parser.parse_args()
    summary: dict[str, Any] = {}
    for path in asked.configs:
        overrides = (f"seed={asked.seed}", f'output="runs/{path.stem}-seed{asked.seed}"', *asked.set)
        result = measure(path, overrides, asked.tiny)
        summary[path.stem] = {name: round(form["ap"], 4) for name, form in result["forms"].items()}
        if not asked.tiny:
            kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
            kept.setdefault(path.stem, {})[str(asked.seed)] = result
            files.write_json(RESULTS, kept)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
