"""What an integrator must see before signing: every format, engine and thread count, measured whole.

The golden pictures go through the same `Inspector` and log as frames do, one after the other
(closed loop). Percentiles are of every frame, the slowest included; warm-up stands apart.
ResNet-50 fp32 is the reference row. Leaves out: frames arriving at line rate (open loop), and
accuracy, which is the manifest's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from diagline import record
from diagline.bundle import Bundle
from diagline.console import track
from diagline.errors import BundleError
from edge_runtime.camera.frames import Frame, stamp
from edge_runtime.loop import Inspector, JsonLog, open_inspector

MIN_FRAMES = 20
REFERENCE = "ResNet-50"
STAGES = ("preprocess", "inference", "whole")
HEAD = (
    "network", "format", "engine", "threads", "size", "AP", "ms", "p50", "p90", "p99", "p99.9", "max", "fps",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds; each percentile is a frame that was measured, not between two."""

    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    @staticmethod
    def of(durations_ns: Sequence[int]) -> Latency:
        """The percentiles of at least one duration in nanoseconds."""
        ms = np.asarray(durations_ns, np.float64) / 1e6
        return Latency(*(float(value) for value in np.percentile(ms, (50, 90, 99, 99.9, 100), method="higher")))


@dataclass(frozen=True, slots=True)
class Row:
    """One network in one format on one engine.

    Attributes:
        ap: average precision as the manifest has it; None where it has none.
        frames: frames measured.
        preprocess, inference, whole: latency of the stages; whole is from the frame's arrival
            to its record in the log.
        throughput_hz: frames a second, one after the other.
    """

    network: str
    format: str
    engine: str
    threads: int
    size_bytes: int
    ap: float | None
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
    """

    bundle: str
    reference: str | None
    machine: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    rows: tuple[Row, ...]


def bench(
    bundle: Bundle, reference: Bundle | None = None, threads: Sequence[int] = (1, 2), seconds: float = 3.0
) -> BenchResult:
    """Measure every format on each of its verified engines at each thread count, then the reference.

    Args:
        reference: a teacher's bundle, whose fp32 row stands last.
        threads: processor threads of one inference.
        seconds: how long each row is measured; at least `MIN_FRAMES` frames.

    Raises:
        BundleError: a file does not open, or its golden vectors fail on this machine.
        MissingExtraError: an engine's library is not installed.
    """
    jobs = [
        (which, name, engine, count)
        for which in (bundle, reference)
        if which is not None
        for name, fmt in which.manifest.formats.items()
        for engine in fmt.engines
        for count in threads
    ]
    rows = [_row(*job, seconds) for job in track(jobs, "bench")]
    return BenchResult(
        bundle=bundle.model,
        reference=reference.model if reference is not None else None,
        machine=record.machine(),
        versions=record.versions(),
        seconds=seconds,
        rows=tuple(rows),
    )


def _row(bundle: Bundle, format_name: str, engine: str, threads: int, seconds: float) -> Row:
    inspector = open_inspector(bundle, format_name, threads, engine)
    frames = [bundle.golden_frame(golden) for golden in bundle.golden]
    with tempfile.TemporaryDirectory() as folder:
        log = JsonLog(Path(folder) / "verdicts.jsonl")
        stages = measure(inspector, frames, log, seconds)
        log.close()
    fmt = bundle.manifest.formats[format_name]
    return Row(
        network=REFERENCE if bundle.manifest.network == "teacher" else bundle.manifest.network,
        format=format_name,
        engine=engine,
        threads=threads,
        size_bytes=bundle.path(format_name).stat().st_size,
        ap=fmt.metrics.get("ap"),
        frames=len(stages["whole"]),
        preprocess=Latency.of(stages["preprocess"]),
        inference=Latency.of(stages["inference"]),
        whole=Latency.of(stages["whole"]),
        throughput_hz=len(stages["whole"]) * 1e9 / sum(stages["whole"]),
    )


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


def to_cells(result: BenchResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table as text, one row a stage."""
    return HEAD, [cells for row in result.rows for cells in _cells(row)]


def to_table(result: BenchResult) -> Table:
    """The table for a terminal of 80 columns: three lines a row, one a stage."""
    machine = result.machine
    engines = ", ".join(
        f"{name} {result.versions[name]}" for name in ("onnxruntime", "ai-edge-litert") if name in result.versions
    )
    facts = f"{machine['cpu']}, {machine['cores']} cores, int8: {' '.join(machine['int8']) or 'none'}, "
    facts += f"governor {machine['governor']}\n{engines}"
    table = Table(
        title=f"{result.bundle}\n{facts}",
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for name in ("network", *HEAD[HEAD.index("ms") :]):
        table.add_column(name, justify="left" if name in ("network", "ms") else "right", no_wrap=True)
    for row in result.rows:
        network, format_name, engine, threads, size, ap = _identity(row)
        lines = (f"{network} {format_name}", f"{engine}, {threads} thread{'s' * (row.threads > 1)}", f"{size}, AP {ap}")
        for line, cells in zip(lines, _figures(row), strict=True):
            table.add_row(line, *cells)
        table.add_section()
    return table


def _cells(row: Row) -> Iterator[tuple[str, ...]]:
    first = _identity(row)
    for index, cells in enumerate(_figures(row)):
        yield (*(first if index == 0 else ("",) * len(first)), *cells)


def _identity(row: Row) -> tuple[str, str, str, str, str, str]:
    ap = "-" if row.ap is None else f"{row.ap:.3f}"
    size = f"{row.size_bytes / 1e6:.1f} MB" if row.size_bytes >= 1e6 else f"{row.size_bytes / 1e3:.0f} kB"
    return (row.network, row.format, row.engine, str(row.threads), size, ap)


def _figures(row: Row) -> Iterator[tuple[str, ...]]:
    for stage, latency in zip(STAGES, (row.preprocess, row.inference, row.whole), strict=True):
        figures = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
        yield (
            stage,
            *(_short(value) for value in figures),
            f"{row.throughput_hz:.0f}" if stage == STAGES[-1] else "",
        )


def _short(value_ms: float) -> str:
    """Three digits that count, microseconds at the finest."""
    return f"{value_ms:.3f}" if value_ms < 1 else f"{value_ms:#.3g}" if value_ms < 100 else f"{value_ms:.0f}"
