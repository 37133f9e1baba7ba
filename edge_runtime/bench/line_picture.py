"""A bench of a line as one SVG: latency over percentiles, and below it over time, one strip a run.

Written by hand, for an edge box has no matplotlib. Both axes of latency are logarithmic, so that a stall and the
usual part are both seen. In a strip every column of time shows the median and the slowest of its parts: no part is
left out of the latter. Leaves out: figures in words (`line_report.py`).
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diagline.verdict import State
from edge_runtime.bench.line import LineResult
from edge_runtime.bench.measure import percentiles_ms
from edge_runtime.bench.table import short
from edge_runtime.bench.witness import COLUMNS, STATES, Run

WIDTH, LEFT, RIGHT, TOP = 880, 64, 24, 56
CURVE, STRIP, GAP = 300, 110, 62  # heights, and what stands between for the labels
COLOURS = ("#0b6bcb", "#c2410c", "#15803d", "#7c3aed", "#a16207", "#0e7490")
INK, FAINT, GRID, RED = "#1b1f24", "#6b7280", "#e1e5ea", "#c81e1e"
POINTS, COLUMNS_OF_TIME = 200, 400
WHOLE, DUE, STATE = COLUMNS.index("whole"), COLUMNS.index("due_ns"), COLUMNS.index("state")
UNDECIDED = STATES.index(State.NO_DECISION)


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values to pixels, both ends included."""

    low: float
    high: float
    from_px: float
    to_px: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.from_px + share * (self.to_px - self.from_px), 1)


def draw(result: LineResult) -> str:
    """The SVG of a result."""
    runs = [load.run for load in result.loads]
    height = TOP + CURVE + len(runs) * (GAP + STRIP) + GAP
    decades = _decades(runs, result.deadline_ms)
    shapes = list(_curves(runs, decades, result.deadline_ms))
    for place, run in enumerate(runs):
        top = TOP + CURVE + GAP + place * (STRIP + GAP)
        shapes += _strip(run, COLOURS[place % len(COLOURS)], decades, top, result.deadline_ms)
    title = _text(LEFT, 24, f"{result.line}: from the trigger to the verdict handed over, ms", INK, "start", 15)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif"><rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        + "\n".join([title, *shapes])
        + "\n</svg>\n"
    )


def _decades(runs: list[Run], deadline_ms: float) -> tuple[int, int]:
    """Powers of ten, in ms, that hold every part and the deadline."""
    whole_ms = np.concatenate([run.parts[:, WHOLE] for run in runs]) / 1e6
    low, high = max(1e-3, float(whole_ms.min())), max(deadline_ms, float(whole_ms.max()))
    return math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)


def _curves(runs: list[Run], decades: tuple[int, int], deadline_ms: float) -> Iterator[str]:
    """Latency at each percentile; every nine more is as wide as the one before."""
    nines = max(2, math.ceil(math.log10(max(len(run.parts) for run in runs))))
    x, y = _Axis(0, nines, LEFT, WIDTH - RIGHT), _Axis(*decades, TOP + CURVE, TOP)
    yield from _grid(y, decades)
    for nine in range(nines + 1):
        label = "0 %" if nine == 0 else f"{100 - 100 / 10**nine:.{max(0, nine - 2)}f} %"
        yield _line([(x(nine), TOP), (x(nine), TOP + CURVE)], GRID)
        yield _text(x(nine), TOP + CURVE + 18, label, FAINT, "middle")
    yield _deadline(y, deadline_ms)
    for place, run in enumerate(runs):
        colour = COLOURS[place % len(COLOURS)]
        ends = np.linspace(0, min(nines, math.log10(len(run.parts))), POINTS) if len(run.parts) > 1 else np.zeros(1)
        found_ms = percentiles_ms(run.parts[:, WHOLE], 100 * (1 - 10.0**-ends))
        yield _line([(x(end), y(_log(ms))) for end, ms in zip(ends, found_ms, strict=True)], colour, 2)
        latency = run.stages["whole"].latency
        assert latency is not None  # every verdict has passed it
        said = f"{run.load}: p50 {short(latency.p50)}, p99 {short(latency.p99)}, max {short(latency.max)}"
        yield _text(WIDTH - RIGHT - 8, TOP + CURVE - 10 - 18 * (len(runs) - 1 - place), said, colour, "end", 13)


def _strip(run: Run, colour: str, decades: tuple[int, int], top: float, deadline_ms: float) -> Iterator[str]:
    """Latency over the time when parts were due; red below: parts without a decision."""
    due_s = (run.parts[:, DUE] - run.parts[:, DUE].min()) / 1e9
    span_s = max(float(due_s.max()), 1e-3)
    x, y = _Axis(0, span_s, LEFT, WIDTH - RIGHT), _Axis(*decades, top + STRIP, top)
    yield from _grid(y, decades)
    yield _deadline(y, deadline_ms)
    yield _text(LEFT, top - 8, f"{run.load}: slowest and median part over time", colour, "start", 13)
    columns = np.minimum((due_s / span_s * COLUMNS_OF_TIME).astype(int), COLUMNS_OF_TIME - 1)
    slowest, median = [], []
    for column in np.unique(columns):
        here = columns == column
        at, whole_ms = x((column + 0.5) / COLUMNS_OF_TIME * span_s), run.parts[here, WHOLE] / 1e6
        slowest.append((at, y(_log(float(whole_ms.max())))))
        median.append((at, y(_log(float(np.median(whole_ms))))))
        if (run.parts[here, STATE] == UNDECIDED).any():
            yield _line([(at, top + STRIP), (at, top + STRIP + 7)], RED, 2)
    yield _line(slowest, colour)
    yield _line(median, colour, 2)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield _text(x(share * span_s), top + STRIP + 22, f"{share * span_s:.3g} s", FAINT, "middle")


def _grid(y: _Axis, decades: tuple[int, int]) -> Iterator[str]:
    for decade in range(decades[0], decades[1] + 1):
        yield _line([(LEFT, y(decade)), (WIDTH - RIGHT, y(decade))], GRID)
        yield _text(LEFT - 8, y(decade) + 4, f"{10.0**decade:g}", FAINT, "end")


def _deadline(y: _Axis, deadline_ms: float) -> str:
    at = y(_log(deadline_ms))
    label = _text(WIDTH - RIGHT - 6, at - 5, f"deadline {deadline_ms:g} ms", RED, "end")
    return _line([(LEFT, at), (WIDTH - RIGHT, at)], RED, 1, ' stroke-dasharray="5 4"') + label


def _log(ms: float) -> float:
    return math.log10(max(ms, 1e-3))


def _line(points: list[tuple[float, float]], colour: str, width: int = 1, more: str = "") -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{more}/>'


def _text(x: float, y: float, text: str, colour: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}" font-size="{size}">{html.escape(text)}</text>'
