"""What `diagline value` shows: its table, for the terminal and the page, and the plot of its intervals.

Leaves out: judging (`value.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from diagline.errors import require
from diagline.report import Page
from training.value import Value

HEAD = ("pictures", "escape with", "without", "difference", "95 % interval", "AP", "verdict")
RULE = (
    "Difference: escape with minus without, so below 0 it helps. keep: the whole interval is below 0; drop: above 0. "
    "AP: difference, above 0 it helps."
)


def lead(found: Value) -> str:
    """What was measured on how much, in one line."""
    return (
        f"{found.defects} real defects and {found.good} good parts of the validation split, {len(found.seeds)} seeds, "
        f"every network at most {found.overkill:.1%} overkill"
    )


def cells(found: Value) -> list[tuple[str, ...]]:
    """The rows as text, the group's name first."""
    return [
        (
            row.name,
            str(row.pictures),
            f"{row.escape_with:.1%}",
            f"{row.escape_without:.1%}",
            f"{100 * row.difference:+.1f}",
            f"{100 * row.low:+.1f} to {100 * row.high:+.1f}",
            f"{row.ap_difference:+.3f}",
            row.verdict,
        )
        for row in found.rows
    ]


def terminal(found: Value) -> Table:
    """The table for the terminal."""
    table = Table(title=lead(found), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for name in (found.by, *HEAD):
        table.add_column(name, justify="left" if name in (found.by, "verdict") else "right")
    for row in cells(found):
        table.add_row(*row)
    return table


def write(path: Path, found: Value, name: str) -> None:
    """Write the page: plot and table."""
    page = Page(f"{name}: does synthetic data help?", lead(found))
    page.heading(f"By {found.by}", " ".join((RULE, *found.notes)))
    page.plot(plot(found), "difference in escape and its interval, a line each")
    page.table((found.by, *HEAD), cells(found))
    page.write(path)


def plot(found: Value) -> Any:
    """Each group's difference with its interval; a matplotlib figure."""
    require("matplotlib", "workstation")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.45 * len(found.rows)))
    axes = figure.subplots()
    axes.axvline(0, color="0.5", linewidth=1)
    colours = {"keep": "C2", "drop": "C3", "undecided": "0.4"}
    for place, row in enumerate(found.rows):
        axes.plot((100 * row.low, 100 * row.high), (place, place), color=colours[row.verdict], linewidth=2)
        axes.plot(100 * row.difference, place, "o", color=colours[row.verdict])
    axes.set_yticks(range(len(found.rows)), [f"{row.name[:40]} ({row.verdict})" for row in found.rows])
    axes.set_ylim(len(found.rows) - 0.5, -0.5)
    axes.set_xlabel("escape with minus without, percentage points (left: it helps)")
    return figure
