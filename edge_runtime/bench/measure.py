"""What an integrator must see before signing: every format, engine and thread count, measured whole.

The golden pictures go through the same `Inspector` and log as frames do, one after the other
(closed loop). Percentiles are of every frame, the slowest included; warm-up stands apart.
ResNet-50 stands beside them in the format and engine it is fastest in. An engine that is not
installed here, or fails the golden vectors here, is left out, and `BenchResult.skipped` says so.
Leaves out: a whole box, and parts that come at line rate (`line.py`), accuracy (`accuracy.py`) and the
table (`table.py`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline import bundle as bundles
from diagline import record
from diagline.bundle import Bundle
from diagline.console import track
from diagline.errors import BundleError
from diagline.samples import DEFECT, GOOD, SampleSet
from edge_runtime.bench import accuracy
from edge_runtime.bench.accuracy import Accuracy
from edge_runtime.camera.frames import Frame, stamp
from edge_runtime.engines.choice import missing
from edge_runtime.engines.engine import OPENVINO_BF16
from edge_runtime.loop import Inspector, JsonLog, open_inspector

MIN_FRAMES = 20
REFERENCE = "ResNet-50"
STAGES = ("preprocess", "inference", "whole")
Pair = tuple[str, str]
"""A format and one of its engines."""
Durations = Sequence[int] | NDArray[np.int64]
"""Nanoseconds, at least one."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds; each percentile is a frame that was measured, not between two."""

    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    @staticmethod
    def of(durations_ns: Durations) -> Latency:
        """The percentiles of durations."""
        return Latency(*percentiles_ms(durations_ns, (50, 90, 99, 99.9, 100)).tolist())


def percentiles_ms(durations_ns: Durations, percents: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Milliseconds at each percentile: of a frame that was measured, never between two."""
    at, ns = np.asarray(percents, np.float64), np.asarray(durations_ns, np.float64)
    found: NDArray[np.float64] = np.percentile(ns, at, method="higher")
    return found / 1e6


@dataclass(frozen=True, slots=True)
class Row:
    """One network in one format on one engine.

    Attributes:
        model: `Bundle.model` of its bundle.
        precision: what the engine computed in (`Engine.precision`).
        accuracy: on `BenchResult.data` through this engine; without data as the manifest has it.
        frames: frames measured.
        preprocess, inference, whole: latency of the stages; whole is from the frame's arrival
            to its record in the log.
        throughput_hz: frames a second, one after the other.
    """

    network: str
    model: str
    format: str
    engine: str
    precision: str
    threads: int
    size_bytes: int
    accuracy: Accuracy
    frames: int
    preprocess: Latency
    inference: Latency
    whole: Latency
    throughput_hz: float


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The rows and what they were measured on.

    Attributes:
        bundle: `Bundle.model` of the bundle.
        reference: likewise of the reference's bundle, or None.
        data: root, SHA-256 and counts of the pictures the accuracies rest on; None: the manifest's figures.
        skipped: what was left out, and why, a line each.
        rows: the bundle's formats and engines at each thread count, then the reference's fastest at each.
        tried: the reference's other formats and engines, timed shortly to find its fastest.
    """

    bundle: str
    reference: str | None
    machine: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    data: dict[str, Any] | None
    skipped: tuple[str, ...]
    rows: tuple[Row, ...]
    tried: tuple[Row, ...]


def bench(
    bundle: Bundle,
    reference: Bundle | None = None,
    threads: Sequence[int] = (1, 2),
    seconds: float = 3.0,
    pictures: SampleSet | None = None,
) -> BenchResult:
    """Measure every format on each of its verified engines at each thread count, then the reference.

    Args:
        reference: a teacher's bundle.
        threads: processor threads of one inference.
        seconds: how long each row is measured; at least `MIN_FRAMES` frames.
        pictures: what the accuracies are measured on; None means the manifest's.

    Raises:
        BundleError: a file does not open, or no engine passes the golden vectors on this machine.
        DatasetError: a picture that cannot be read, or pictures of one class.
    """
    skipped: list[str] = []
    jobs = [(pair, count) for pair in _usable(bundle, skipped) for count in threads]
    rows = [_row(bundle, pair, count, seconds) for pair, count in track(jobs, "bench")]
    tried: list[Row] = []
    if reference is not None:
        pairs = _usable(reference, skipped)
        for count in track(threads, f"bench {REFERENCE}"):
            short = [_row(reference, pair, count, 0.0) for pair in pairs]
            best = min(short, key=lambda row: row.inference.p50)
            rows.append(_row(reference, (best.format, best.engine), count, seconds))
            tried += [row for row in short if row is not best]
    if pictures is not None:
        rows = _scored([bundle, *([reference] if reference is not None else [])], rows, pictures)
    return BenchResult(
        bundle=bundle.model,
        reference=reference.model if reference is not None else None,
        machine=record.machine(),
        versions=record.versions(),
        seconds=seconds,
        data=_facts(pictures) if pictures is not None else None,
        skipped=tuple(skipped),
        rows=tuple(rows),
        tried=tuple(tried),
    )


def fastest(bundle: Bundle, result: BenchResult, threads: int) -> Row:
    """The row of a bundle that a line should run: the lowest p50 of inference at its thread count.

    Never bf16, which strays more than a threshold bears; and in a certified bundle none but the
    engines whose verdicts are certified.

    Raises:
        BundleError: no row is left.
    """
    issued = (bundle.manifest.certificate or {}).get("formats")
    rows = [
        row
        for row in result.rows
        if (row.model, row.threads) == (bundle.model, threads)
        and row.engine != OPENVINO_BF16
        and (issued is None or issued.get(row.format, {}).get("engine") == row.engine)
    ]
    if not rows:
        raise BundleError(
            f"{bundle.root}: no row at {threads} threads that may be recorded as the fastest; expected a verified "
            f"format on a certified engine; certify the bundle again where its engines run"
        )
    return min(rows, key=lambda row: row.inference.p50)


def record_fastest(bundle: Bundle, row: Row, key: Path | None = None) -> Bundle:
    """Write the bundle anew with that row as its fastest; nothing else in it changes.

    Args:
        key: the private key that signs it again.

    Raises:
        OutputError: the folder cannot be written to.
    """
    manifest = replace(bundle.manifest, fastest=(row.format, row.engine))
    return bundles.rewrite(bundle, manifest, bundle.golden, key)


def _usable(bundle: Bundle, skipped: list[str]) -> list[Pair]:
    """The verified pairs that run here and pass the golden vectors; `skipped` takes a line for each other.

    Raises:
        BundleError: none does.
    """
    pairs = [(name, engine) for name, fmt in bundle.manifest.formats.items() for engine in fmt.engines]
    usable = []
    for name, engine in track(pairs, f"{bundle.manifest.network}: golden vectors"):
        why = missing(engine) or open_inspector(bundle, name, 1, engine).fault
        if why is None:
            usable.append((name, engine))
        else:
            skipped.append(f"{bundle.manifest.network} {name} on {engine} is left out: {why}")
    if not usable:
        raise BundleError(
            f"{bundle.root}: nothing runs here ({skipped[-1] if skipped else 'no format is verified on an engine'}); "
            f"expected a verified engine that passes the golden vectors; export it again"
        )
    return usable


def _row(bundle: Bundle, pair: Pair, threads: int, seconds: float) -> Row:
    format_name, engine = pair
    inspector = open_inspector(bundle, format_name, threads, engine)
    frames = [bundle.golden_frame(golden) for golden in bundle.golden]
    with tempfile.TemporaryDirectory() as folder:
        log = JsonLog(Path(folder) / "verdicts.jsonl")
        stages = measure(inspector, frames, log, seconds)
        log.close()
    return Row(
        network=REFERENCE if bundle.manifest.network == "teacher" else bundle.manifest.network,
        model=bundle.model,
        format=format_name,
        engine=engine,
        precision=inspector.engine.precision,
        threads=threads,
        size_bytes=bundle.path(format_name).stat().st_size,
        accuracy=accuracy.said(bundle, format_name),
        frames=len(stages["whole"]),
        preprocess=Latency.of(stages["preprocess"]),
        inference=Latency.of(stages["inference"]),
        whole=Latency.of(stages["whole"]),
        throughput_hz=len(stages["whole"]) * 1e9 / sum(stages["whole"]),
    )


def _scored(read: Sequence[Bundle], rows: Sequence[Row], pictures: SampleSet) -> list[Row]:
    """The rows with their accuracy on the pictures, which is one for all thread counts."""
    by_model = {bundle.model: bundle for bundle in read}
    found: dict[tuple[str, str, str], Accuracy] = {}
    for row in rows:
        key = (row.model, row.format, row.engine)
        if key not in found:
            found[key] = accuracy.measured(by_model[row.model], row.format, row.engine, row.threads, pictures)
    return [replace(row, accuracy=found[row.model, row.format, row.engine]) for row in rows]


def _facts(pictures: SampleSet) -> dict[str, Any]:
    counts = {"good": len(pictures.labelled(GOOD)), "defects": len(pictures.labelled(DEFECT))}
    return {"root": str(pictures.root), "data_hash": pictures.hash(), **counts}


def measure(
    inspector: Inspector, frames_bgr: Sequence[NDArray[np.uint8]], log: JsonLog, seconds: float
) -> dict[str, list[int]]:
    """Nanoseconds of each stage for every frame: the pictures in turn for `seconds`, at least `MIN_FRAMES`.

    Raises:
        BundleError: a frame got no verdict, be it for a failed self-test.
    """
    spent: dict[str, list[int]] = {stage: [] for stage in STAGES}
    until_ns = time.monotonic_ns() + round(seconds * 1e9)
    number = 0
    while number < MIN_FRAMES or time.monotonic_ns() < until_ns:
        frame = Frame(frames_bgr[number % len(frames_bgr)], number, *stamp())
        verdict = inspector.inspect(frame)
        log(verdict)
        done_ns = time.monotonic_ns()
        if verdict.cause is not None:
            path = inspector.bundle.path(inspector.format_name)
            raise BundleError(f"{path}: {verdict.cause}; expected a verdict on a golden picture; export it again")
        at = verdict.stamps_ns
        spent["preprocess"].append(at["preprocessed"] - at["received"])
        spent["inference"].append(at["inferred"] - at["preprocessed"])
        spent["whole"].append(done_ns - at["received"])
        number += 1
    return spent


def to_json(result: BenchResult) -> dict[str, Any]:
    """The result as plain data; latencies in ms."""
    return asdict(result)
