"""Make the bundle of `line_soak.py`, in a process of its own: the box's own never sees torch or TensorFlow.

python benchmarks/soak_bundle.py FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import simulated_line
import stand_aside  # noqa: F401
import torch

from diagline import bundle as bundles
from diagline.bundle import FORMATS, Format, Golden, HeatOutput, Manifest
from diagline.preprocess import preprocess
from diagline.verdict import decide
from edge_runtime.engines.choice import open_engine
from export import to_tflite
from training.student import Student
from training.student_spec import spec

CONTRACT, POOL, SEED = simulated_line.CONTRACT, simulated_line.POOL, simulated_line.SEED


def make(folder: Path) -> None:
    """An S10 student that rejects about half of the pool: `soak.bundle`, and `verdicts.json`, one a picture.

    The threshold stands in the widest gap amid the logits, as a part's mark in a picture moves them a little.
    """
    pool = [simulated_line.picture(number) for number in range(POOL)]
    torch.manual_seed(SEED)
    network = Student(spec("S10", CONTRACT)).eval()
    torch.nn.init.normal_(network.fc.weight)
    images = [preprocess(one, CONTRACT) for one in pool]
    made = to_tflite.student_tflite(network, images)
    assert made.heat is not None
    heat = HeatOutput(network.spec.heat_grid, made.heat.dtype, made.heat.scale, made.heat.zero_point)
    fmt = Format(FORMATS["tflite_int8"], "int8", "int8", made.scale, made.zero_point, 0, {}, ("litert",), heat)
    path = folder / fmt.file
    path.write_bytes(made.data)
    engine = open_engine(path, "tflite_int8", fmt, CONTRACT)
    logits = [engine.infer(image) for image in images]
    ranked = np.sort(logits)[POOL // 4 : -POOL // 4]
    widest = int(np.argmax(np.diff(ranked)))
    fmt = replace(fmt, threshold=int(ranked[widest : widest + 2].mean()) + 1)
    golden = [(Golden(f"golden/{i}.png", 0, {"tflite_int8": logits[i]}), pool[i]) for i in range(8)]
    manifest = Manifest("soak", "student", None, CONTRACT, {"tflite_int8": fmt}, None, {}, {}, {"seed": SEED})
    bundles.write(folder / "soak.bundle", manifest, {"tflite_int8": made.data}, golden)
    verdicts = [decide(logit, fmt.threshold).value for logit in logits]
    (folder / "verdicts.json").write_text(json.dumps(verdicts))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
