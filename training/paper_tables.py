"""The paper's tables 1 and 2 as data, and ours laid beside them: for the terminal, the page and a plot.

Leaves out: running anything (`reproduce.py`).

Source: DIAG (Exploiting Multimodal Latent Diffusion Models for Accurate Anomaly Detection in
Industry 5.0), tables 1 and 2: KSDD2, ResNet-50. Its DIAG rows fit whole counts over 110 test
defects, so they look like single runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from diagline.errors import require
from diagline.report import Page

PAPER: dict[tuple[str, str, int], tuple[float, float, float]] = {
    ("zero", "memseg", 80): (0.514, 0.733, 0.436),
    ("zero", "memseg", 100): (0.388, 0.633, 0.432),
    ("zero", "memseg", 120): (0.511, 0.683, 0.470),
    ("zero", "in_and_out", 80): (0.556, 0.530, 0.655),
    ("zero", "in_and_out", 100): (0.626, 0.742, 0.568),
    ("zero", "in_and_out", 120): (0.536, 0.699, 0.534),
    ("zero", "diag", 80): (0.769, 0.851, 0.673),
    ("zero", "diag", 100): (0.801, 0.924, 0.664),
    ("zero", "diag", 120): (0.739, 0.944, 0.609),
    ("full", "memseg", 80): (0.744, 0.851, 0.691),
    ("full", "memseg", 100): (0.774, 0.814, 0.752),
    ("full", "memseg", 120): (0.734, 0.772, 0.707),
    ("full", "in_and_out", 80): (0.747, 0.764, 0.734),
    ("full", "in_and_out", 100): (0.775, 0.868, 0.720),
    ("full", "in_and_out", 120): (0.782, 0.906, 0.689),
    ("full", "diag", 80): (0.869, 0.912, 0.755),
    ("full", "diag", 100): (0.911, 0.978, 0.800),
    ("full", "diag", 120): (0.924, 0.896, 0.864),
}
"""AP, precision and recall by shots, method and N."""

TITLES = {
    "zero": "Table 1: zero-shot (good pictures and synthetic defects)",
    "full": "Table 2: full-shot (real defects too)",
}
LABELS = {"none": "none", "memseg": "MemSeg", "in_and_out": "In&Out", "diag": "DIAG"}
FIGURES = ("ap", "precision", "recall")


@dataclass(frozen=True, slots=True)
class Row:
    """One method and N of a table.

    Attributes:
        seeds: per seed `ap`, `ap_trapezoid`, `ap_step`, `precision`, `recall` and the whole `metrics`.
        reasons: why seeds are missing; a row that has any is not run.
    """

    shots: str
    method: str
    count: int
    seeds: tuple[dict[str, Any], ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def ran(self) -> bool:
        """Whether every seed of it was run."""
        return bool(self.seeds) and not self.reasons

    def mean(self, figure: str) -> float:
        """Mean of a figure over the seeds."""
        return float(np.mean([seed[figure] for seed in self.seeds]))

    def std(self, figure: str) -> float | None:
        """Sample standard deviation over the seeds; None of one."""
        return float(np.std([seed[figure] for seed in self.seeds], ddof=1)) if len(self.seeds) > 1 else None

    @property
    def paper(self) -> tuple[float, float, float] | None:
        """The paper's AP, precision and recall, where it has this row."""
        return PAPER.get((self.shots, self.method, self.count))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        wanted = (*FIGURES, "ap_step", "ap_trapezoid")
        return {
            "shots": self.shots,
            "method": self.method,
            "count": self.count,
            "ran": self.ran,
            "reasons": list(self.reasons),
            "mean": {name: self.mean(name) for name in wanted} if self.ran else None,
            "std": {name: self.std(name) for name in wanted} if self.ran else None,
            "paper": None if self.paper is None else dict(zip(FIGURES, self.paper, strict=True)),
            "seeds": list(self.seeds),
        }


@dataclass(frozen=True, slots=True)
class Tables:
    """Both tables.

    Attributes:
        is_ksdd2: whether the data are laid out as the paper's.
        notes: what a reader must know of all rows; `reasons` of rows are added below them.
    """

    rows: tuple[Row, ...]
    is_ksdd2: bool
    seeds: tuple[int, ...]
    rules: str
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def shots(self) -> tuple[str, ...]:
        """The tables that have rows, in the paper's order."""
        return tuple(shots for shots in TITLES if any(row.shots == shots for row in self.rows))

    @property
    def missing(self) -> tuple[str, ...]:
        """Why rows are missing, each reason once."""
        return tuple(dict.fromkeys(reason for row in self.rows for reason in row.reasons))

    def head(self) -> tuple[str, ...]:
        """The columns' names."""
        paper = "paper" if self.is_ksdd2 else "paper (KSDD2)"
        return ("method", "N", "AP", "P", "R", f"{paper} AP", f"{paper} P", f"{paper} R")

    def cells(self, shots: str) -> list[tuple[str, ...]]:
        """One table's rows as text."""
        return [self._cells(row) for row in self.rows if row.shots == shots]

    def footnotes(self) -> list[str]:
        """What stands below the tables."""
        return [*self.notes, *(f"({place}) {reason}" for place, reason in enumerate(self.missing, 1))]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.facts,
            "is_ksdd2": self.is_ksdd2,
            "seeds": list(self.seeds),
            "rules": self.rules,
            "complete": not self.missing,
            "notes": self.footnotes(),
            "rows": [row.plain() for row in self.rows],
        }

    def _cells(self, row: Row) -> tuple[str, ...]:
        marks = ", ".join(str(self.missing.index(reason) + 1) for reason in dict.fromkeys(row.reasons))
        ours = [_spread(row, name) for name in FIGURES] if row.ran else [f"not run ({marks})", "", ""]
        theirs = ["-"] * 3 if row.paper is None else [f"{value:.3f}" for value in row.paper]
        return (LABELS[row.method], str(row.count) if row.count else "-", *ours, *theirs)


def terminal(tables: Tables) -> list[Table]:
    """Each table for the terminal."""
    found = []
    for shots in tables.shots:
        seeds = f"{len(tables.seeds)} seed" + ("s" if len(tables.seeds) > 1 else "")
        table = Table(title=f"{TITLES[shots]}; {seeds}", title_justify="left", box=box.SIMPLE_HEAD, padding=0)
        for index, name in enumerate(tables.head()):
            table.add_column(name, justify="right" if index else "left")
        for cells in tables.cells(shots):
            table.add_row(*cells)
        found.append(table)
    return found


def write(path: Path, tables: Tables, name: str) -> None:
    """Write the page: the plot, the tables, what must be known of them."""
    page = Page(f"{name}: the paper's tables", tables.rules)
    page.heading("AP over N", "Dashed: the paper's, on KSDD2. Bars: one standard deviation over the seeds.")
    page.plot(plot(tables), "AP over N, a line a method")
    for shots in tables.shots:
        page.heading(TITLES[shots])
        page.table(tables.head(), tables.cells(shots))
    page.heading("Notes")
    page.table(("",), [(line,) for line in tables.footnotes()])
    page.write(path)


def plot(tables: Tables) -> Any:
    """AP over N, one line a method (bars: one standard deviation) and the paper's dashed; a matplotlib figure."""
    require("matplotlib", "workstation")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(tables.shots), 3.6))
    for axes, shots in zip(figure.subplots(1, len(tables.shots), squeeze=False)[0], tables.shots, strict=True):
        axes.grid(alpha=0.25)
        for place, (method, label) in enumerate(LABELS.items()):
            rows = [row for row in tables.rows if (row.shots, row.method) == (shots, method) and row.ran]
            colour = f"C{place}"
            if method == "none":
                for row in rows:
                    axes.axhline(row.mean("ap"), color=colour, linewidth=1.2, label=label)
                continue
            if rows:
                counts, means = [row.count for row in rows], [row.mean("ap") for row in rows]
                spread = [row.std("ap") or 0.0 for row in rows]
                axes.errorbar(counts, means, spread, color=colour, marker="o", capsize=3, label=label)
            theirs = [(n, values[0]) for (s, m, n), values in PAPER.items() if (s, m) == (shots, method)]
            if {row.method for row in tables.rows} & {method}:
                axes.plot(*zip(*theirs, strict=True), color=colour, linestyle="--", alpha=0.6)
        axes.set(title="zero-shot" if shots == "zero" else "full-shot", xlabel="N", ylabel="AP", ylim=(0, 1.03))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    return figure


def summary(seeds: Sequence[int]) -> str:
    """How the figures of several seeds are given."""
    if len(seeds) == 1:
        return f"seed {seeds[0]} alone"
    return f"mean ± standard deviation over seeds {seeds[0]} to {seeds[-1]}"


def _spread(row: Row, figure: str) -> str:
    std = row.std(figure)
    return f"{row.mean(figure):.3f}" + ("" if std is None else f" ± {std:.3f}")
