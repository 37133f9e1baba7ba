"""Latency of an S30-sized int8 student beside ResNet-50, on the same cores in the same run.

    python benchmarks/edge_latency.py [--quick] [--threads N] [--keep]

Both networks have seeded random weights (latency does not depend on them) and go through
diagline's own export, bundle, self-test and loop at 224x632x3. Student, whole loop and
ResNet-50 take turns in one process, so that what else the machine does strikes all of them.
Every installed engine has its row; of ResNet-50 those that are fastest, of all and in fp32.
Nothing is trimmed; warm-up stands apart. The table goes to stderr; the last line of stdout is
one JSON object; --keep also writes it to `benchmarks/results/`. --quick takes under a minute.
Leaves out: accuracy, and frames at line rate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import stand_aside  # noqa: F401
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from diagline import bundle as bundles
from diagline import files, record
from diagline.bundle import FORMATS, Bundle, Format, Golden, HeatOutput, Manifest
from diagline.console import console, track
from diagline.heat import Grid
from diagline.preprocess import InputContract, preprocess
from edge_runtime.bench.measure import Latency
from edge_runtime.camera.frames import Closing, Frame, stamp
from edge_runtime.engines.choice import engines_of, missing, open_engine
from edge_runtime.loop import Inspector, JsonLog, open_inspector, run
from export import quantise, to_onnx, to_tflite
from training.student import Student
from training.student_spec import spec
from training.teacher import Teacher

SEED = 2
CONTRACT = InputContract(224, 632)
BURST = 25  # student frames between two of ResNet-50
INT8 = ("tflite_int8", "onnx_int8")
SHORT = 5  # inferences that find ResNet-50's fastest engine


@dataclass
class Spent:
    """Nanoseconds of one row: the bare engine, and the whole loop from record to record."""

    name: str
    inspector: Inspector
    image_u8: NDArray[np.uint8]
    burst: int
    engine: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)

    def time_engine(self) -> None:
        """One inference on the bare engine."""
        start_ns = time.monotonic_ns()
        self.inspector.engine.infer(self.image_u8)
        self.engine.append(time.monotonic_ns() - start_ns)

    def take_turn(self, frame_bgr: NDArray[np.uint8], log: JsonLog) -> None:
        """One burst on the bare engine, one through the whole loop."""
        for _ in range(self.burst):
            self.time_engine()
        ends_ns = [time.monotonic_ns()]
        run(self.inspector, Still(frame_bgr), [log, lambda verdict: ends_ns.append(time.monotonic_ns())], self.burst)
        self.whole += [after - before for before, after in itertools.pairwise(ends_ns)]


class Still(Closing):
    """A camera that always sees the same picture."""

    dropped = 0

    def __init__(self, frame_bgr: NDArray[np.uint8]) -> None:
        self._frame_bgr = frame_bgr
        self._number = 0

    def read(self) -> Frame:
        self._number += 1
        return Frame(self._frame_bgr, self._number, *stamp())

    def close(self) -> None:
        """Nothing to release."""


def pack(target: Path, network: str, files: dict[str, bytes], formats: dict[str, Format]) -> Bundle:
    """Write a bundle whose golden outputs are those of the engines here, as an export does."""
    rng = np.random.default_rng([SEED, 1])
    frames = [rng.integers(0, 256, CONTRACT.shape, np.uint8) for _ in range(2)]
    golden = []
    for index, frame in enumerate(frames):
        outputs = {}
        for name, data in files.items():
            path = target.with_name(FORMATS[name])
            path.write_bytes(data)
            engine = open_engine(path, name, formats[name], CONTRACT)
            outputs[name] = engine.infer(preprocess(frame, CONTRACT))
        golden.append((Golden(f"golden/{index}.png", 0, outputs), frame))
    manifest = Manifest(
        name=network,
        network=network,
        spec=None,
        input=CONTRACT,
        formats=formats,
        fastest=None,
        metrics_split={},
        flips={},
        provenance={"seed": SEED},
    )
    return bundles.write(target, manifest, files, golden)


def entry(name: str, input_dtype: str, made: quantise.QuantisedModel | None = None, grid: Grid | None = None) -> Format:
    """A format's manifest entry, `made` for an int8 one; the threshold rejects nothing."""
    dtype, scale, zero_point, threshold = "float32", 1.0, 0, 1e9
    steps: quantise.Steps | None = quantise.Steps("float32", 1.0, 0)
    if made is not None:
        dtype, scale, zero_point, threshold, steps = "int8", made.scale, made.zero_point, 127, made.heat
    heat = (
        HeatOutput(grid, steps.dtype, steps.scale, steps.zero_point) if grid is not None and steps is not None else None
    )
    engines = tuple(engine for engine in engines_of(name) if missing(engine) is None)
    return Format(FORMATS[name], input_dtype, dtype, scale, zero_point, threshold, {}, engines, heat)


def student_bundle(folder: Path) -> Bundle:
    """An S30 student in its three formats."""
    torch.manual_seed(SEED)
    student = Student(spec("S30", CONTRACT)).eval()
    rng = np.random.default_rng([SEED, 0])
    calibration = [rng.integers(0, 256, CONTRACT.shape, np.uint8) for _ in range(4)]
    fp32 = to_onnx.student_onnx(student)
    onnx_int8 = quantise.quantise_onnx(fp32, calibration)
    tflite = to_tflite.student_tflite(student, calibration)
    files = {"tflite_int8": tflite.data, "onnx_int8": onnx_int8.data, "onnx_fp32": fp32}
    formats = {
        "tflite_int8": entry("tflite_int8", "int8", tflite, student.spec.heat_grid),
        "onnx_int8": entry("onnx_int8", "uint8", onnx_int8, student.spec.heat_grid),
        "onnx_fp32": entry("onnx_fp32", "uint8", None, student.spec.heat_grid),
    }
    return pack(folder / "student.bundle", "student", files, formats)


def teacher_bundle(folder: Path) -> Bundle:
    """ResNet-50 in fp32 ONNX."""
    torch.manual_seed(SEED)
    data = to_onnx.teacher_onnx(Teacher().eval(), CONTRACT)
    return pack(folder / "teacher.bundle", "teacher", {"onnx_fp32": data}, {"onnx_fp32": entry("onnx_fp32", "uint8")})


def open_all(bundle: Bundle, label: str, threads: int, image_u8: NDArray[np.uint8], burst: int) -> list[Spent]:
    """A row for each format and engine that gives the golden outputs of the format's own engine."""
    rows = []
    for name, fmt in bundle.manifest.formats.items():
        for engine in fmt.engines:
            inspector = open_inspector(bundle, name, threads, engine)
            if inspector.fault is None:
                rows.append(Spent(label or name, inspector, image_u8, burst))
            elif engine == fmt.engines[0]:
                raise SystemExit(f"{name}: {inspector.fault}")
            else:
                console.print(f"{name} on {engine} is left out: {inspector.fault}", soft_wrap=True)
    return rows


def quickest(rows: Sequence[Spent]) -> list[Spent]:
    """Of the rows the fastest, and before it the fastest in fp32 where that is another."""
    for row in rows:
        for _ in range(SHORT):
            row.time_engine()
    by_time = sorted(rows, key=lambda row: Latency.of(row.engine).p50)
    for row in rows:
        row.engine.clear()
    fp32 = next(row for row in by_time if row.inspector.engine.precision == "fp32")
    return [fp32, by_time[0]] if fp32 is not by_time[0] else [fp32]


def measure(folder: Path, threads: int, rounds: int) -> tuple[list[Spent], list[Spent]]:
    """The student's rows and ResNet-50's, taking turns."""
    with console.status("exporting the student"):
        student = student_bundle(folder)
    with console.status("exporting ResNet-50"):
        teacher = teacher_bundle(folder)
    frame_bgr = student.golden_frame(student.golden[0])
    image_u8 = preprocess(frame_bgr, CONTRACT)
    rows = open_all(student, "", threads, image_u8, BURST)
    reference = quickest(open_all(teacher, "ResNet-50", threads, image_u8, 1))
    log = JsonLog(folder / "verdicts.jsonl")
    for _ in track(range(rounds), "taking turns"):
        for row in (*rows, *reference):
            row.take_turn(frame_bgr, log)
    return rows, reference


def summary(student: Sequence[Spent], reference: Sequence[Spent], threads: int) -> dict[str, Any]:
    """The JSON line: the int8 student on its fastest engine against ResNet-50 on its own."""
    int8 = min((row for row in student if row.name in INT8), key=lambda row: Latency.of(row.engine).p50)
    bare, whole = Latency.of(int8.engine), Latency.of(int8.whole)
    fp32, teacher = reference[0], min(reference, key=lambda row: Latency.of(row.engine).p50)
    resnet = Latency.of(teacher.engine)
    return {
        "student_int8_p50_ms": round(bare.p50, 4),
        "student_int8_p99_ms": round(bare.p99, 4),
        "resnet50_p50_ms": round(resnet.p50, 3),
        "resnet50_engine": teacher.inspector.engine.name,
        "resnet50_precision": teacher.inspector.engine.precision,
        "resnet50_fp32_p50_ms": round(Latency.of(fp32.engine).p50, 3),
        "resnet50_fp32_engine": fp32.inspector.engine.name,
        "speedup": round(resnet.p50 / bare.p50, 1),
        "loop_p50_ms": round(whole.p50, 4),
        "loop_p99_ms": round(whole.p99, 4),
        "loop_overhead": round(whole.p50 / bare.p50, 3),
        "format": int8.name,
        "engine": int8.inspector.engine.name,
        "precision": int8.inspector.engine.precision,
        "threads": threads,
        "seed": SEED,
        "git_revision": record.git_revision(),
        "student_frames": len(int8.engine),
        "resnet50_frames": len(teacher.engine),
        "machine": {**record.machine(), "load_1min": round(os.getloadavg()[0], 2)},
        "versions": record.versions(),
    }


def table(rows: Sequence[Spent], threads: int) -> Table:
    """Every row, bare engine and whole loop."""
    shown = Table(
        title=f"224x632x3, batch 1, {threads} threads, ms", title_justify="left", box=box.SIMPLE_HEAD, padding=0
    )
    for name in ("network", "engine", "", "p50", "p90", "p99", "p99.9", "max"):
        shown.add_column(name, justify="left" if name in ("network", "engine", "") else "right", no_wrap=True)
    for row in rows:
        for what, spent in (("bare", row.engine), ("loop", row.whole)):
            found = Latency.of(spent)
            figures = (found.p50, found.p90, found.p99, found.p999, found.max)
            engine = row.inspector.engine
            shown.add_row(row.name, f"{engine.name}, {engine.precision}", what, *(f"{value:.3f}" for value in figures))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds; under a minute in all")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--keep", action="store_true", help="write the result to benchmarks/results/edge_latency.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        student, reference = measure(Path(folder), arguments.threads, 30 if arguments.quick else 400)
    console.print(table([*student, *reference], arguments.threads))
    result = summary(student, reference, arguments.threads)
    if arguments.keep:
        files.write_json(Path(__file__).parent / "results" / "edge_latency.json", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
