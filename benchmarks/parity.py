"""Whether every exported form of the trained students says the same: the parity ladder on real lines.

    python benchmarks/parity.py [--lines magnetic_tile kolektorsdd1] [--seed 1234] [--runs runs/accuracy] [--keep]
    python benchmarks/parity.py --quick

Exports the students that `benchmarks/accuracy.py` trained, full-shot, once more with today's code,
and shows the test split to every form from torch to TFLite Micro. With --keep the result goes to
`benchmarks/results/parity.json` under line and seed. --quick trains the demo's small twin instead:
under a minute, and figures that say only that the ladder works. The last line of stdout is one JSON
object by line: `ap` per form, `flips` per step against torch, `tflm_bit_exact` (images compared,
whether all are equal to the reference kernels' bits) and `int8_ap_drop` (fp32 ONNX against the
worse int8 file). Leaves out: training, and the gate: a line that flips too often is measured too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import stand_aside

from diagline import bundle as bundles
from diagline import config as configs
from diagline import demo, files, record, verbs
from diagline.config import Config

RESULTS = stand_aside.HERE / "results" / "parity.json"
LINES = ("magnetic_tile", "kolektorsdd1")
ANY_FLIPS = "export.flips=1.0"


def measure(config: Config) -> dict[str, Any]:
    """Export a trained line and report its ladder."""
    started = time.monotonic()
    verbs.export(config)
    bundle = bundles.read(config.bundle)
    kept = bundle.manifest.parity
    assert kept is not None
    forms, exact = kept["forms"], kept["micro_equals_reference"]
    int8 = [forms[name]["ap"] for name in ("onnx_int8", "tflite_int8")]
    return {
        "ap": {name: round(form["ap"], 4) for name, form in forms.items()},
        "flips": {name: form["flips"] for name, form in forms.items()},
        "flips_from_above": {name: form["flips_above"] for name, form in forms.items()},
        "logit_difference": {name: round(form["difference"], 4) for name, form in forms.items()},
        "born": {name: form["born"] for name, form in forms.items()},
        "tflm_bit_exact": [kept["pictures"], exact == kept["pictures"]],
        "int8_ap_drop": round(forms["onnx_fp32"]["ap"] - min(int8), 4),
        "golden": kept["golden"],
        "golden_escaped": kept["golden_escaped"],
        "seconds": round(time.monotonic() - started, 1),
    }


def quick(folder: Path) -> dict[str, Any]:
    """The demo's small twin, trained from nothing where it was not before."""
    demo.demo(folder, (ANY_FLIPS,), tiny=True)
    here = (f'output="{folder}"', f'data.root="{folder / "parts"}"', ANY_FLIPS)
    return {"demo": measure(configs.load(stand_aside.HERE.parent / "configs" / "demo.toml", here, tiny=True))}


def main() -> None:
    """Measure what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", nargs="+", choices=LINES, default=LINES)
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"), help="where accuracy.py left the networks")
    parser.add_argument("--keep", action="store_true", help="keep the result in benchmarks/results/parity.json")
    parser.add_argument("--quick", action="store_true", help="the demo's small twin")
    asked = parser.parse_args()
    if asked.quick:
        print(json.dumps(quick(asked.runs.with_name("parity-quick"))))
        return
    found = {}
    for line in asked.lines:
        output = asked.runs / f"{line}-full-{asked.seed}"
        here = (f"seed={asked.seed}", f'output="{output}"', ANY_FLIPS)
        config = configs.load(stand_aside.HERE.parent / "configs" / f"{line}.toml", here)
        found[line] = measure(config)
        if asked.keep:
            kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
            facts = {"machine": record.machine(), **record.provenance(config, verbs.real_data(config).hash())}
            kept.setdefault(line, {})[str(asked.seed)] = {**found[line], **facts}
            files.write_json(RESULTS, kept)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
