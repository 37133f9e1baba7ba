"""A benchmark's result as a table: for a terminal of 80 columns, and as cells for a page.

Leaves out: measuring (`measure.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from edge_runtime.bench.measure import STAGES, BenchResult, Row

LIBRARIES = ("onnxruntime", "ai-edge-litert", "openvino")
HEAD = (
    "network", "format", "engine", "precision", "threads", "size", "AP", "escape", "overkill",
    "ms", "p50", "p90", "p99", "p99.9", "max", "fps",
)  # fmt: skip


def to_cells(result: BenchResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table as text, one row a stage."""
    return HEAD, [cells for row in result.rows for cells in _cells(row)]


def to_table(result: BenchResult) -> Table:
    """The table for a terminal of 80 columns: four lines a row, latency beside three of them."""
    table = Table(
        title="\n".join((result.bundle, *facts(result.machine, result.versions), _rests_on(result))),
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for name in ("network", *HEAD[HEAD.index("ms") :]):
        table.add_column(name, justify="left" if name in ("network", "ms") else "right", no_wrap=True)
    for row in result.rows:
        network, format_name, engine, precision, threads, size, ap, escape, overkill = _identity(row)
        lines = (
            f"{network} {format_name}",
            f"{engine}, {precision}",
            f"{threads} thread{'s' * (row.threads > 1)}, {size}, AP {ap}",
            f"escape {escape}, overkill {overkill}",
        )
        for line, cells in itertools.zip_longest(lines, _figures(row), fillvalue=()):
            table.add_row(str(line), *cells)
        table.add_section()
    return table


def facts(machine: dict[str, Any], versions: dict[str, str]) -> tuple[str, str]:
    """Two lines: the machine, and the engines that are installed."""
    engines = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
    int8 = " ".join(machine["int8"]) or "none"
    return f"{machine['cpu']}, {machine['cores']} cores, int8: {int8}, governor {machine['governor']}", engines


def _cells(row: Row) -> Iterator[tuple[str, ...]]:
    first = _identity(row)
    for index, cells in enumerate(_figures(row)):
        yield (*(first if index == 0 else ("",) * len(first)), *cells)


def _identity(row: Row) -> tuple[str, ...]:
    size = f"{row.size_bytes / 1e6:.1f} MB" if row.size_bytes >= 1e6 else f"{row.size_bytes / 1e3:.0f} kB"
    ap = "-" if row.accuracy.ap is None else f"{row.accuracy.ap:.3f}"
    shares = ("-" if one is None else f"{one:.1%}" for one in (row.accuracy.escape, row.accuracy.overkill))
    return (row.network, row.format, row.engine, row.precision, str(row.threads), size, ap, *shares)


def _rests_on(result: BenchResult) -> str:
    """What AP, escape and overkill were measured on."""
    if result.data is None:
        return "AP, escape, overkill: the bundle's own, measured at export on each format's first engine"
    return (
        f"AP, escape, overkill: {result.data['good']} good and {result.data['defects']} defective pictures of "
        f"{result.data['root']}, here, on each engine"
    )


def _figures(row: Row) -> Iterator[tuple[str, ...]]:
    for stage, latency in zip(STAGES, (row.preprocess, row.inference, row.whole), strict=True):
        figures = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
        yield (
            stage,
            *(short(value) for value in figures),
            f"{row.throughput_hz:.0f}" if stage == STAGES[-1] else "",
        )


def short(value_ms: float) -> str:
    """Milliseconds: three digits that count, microseconds at the finest."""
    return f"{value_ms:.3f}" if value_ms < 1 else f"{value_ms:#.3g}" if value_ms < 100 else f"{value_ms:.0f}"
