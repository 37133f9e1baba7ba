"""The report of a parity ladder: which verdicts flipped, by how much, and at which layer.

`NAME.html` to look at, `NAME.json` beside it to read. Leaves out: the ladder itself (`ladder.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from diagline import files
from diagline.errors import require
from diagline.report import Page
from diagline.samples import DEFECT
from export.ladder import ENGINE, MICRO, REFERENCE, Flip, Ladder, Step, flipped
from export.parity import Picture

SHOWN = 40
HEAD = ("form", "AP", "flips", "flips, from\nthe form above", "logit\ndifference", "from the\nform above", "born at")


def write(path: Path, title: str, ladder: Ladder, pictures: Sequence[Picture], allowed: float) -> None:
    """Write the page and the JSON beside it.

    Args:
        pictures: those the ladder was built on.
        allowed: share of verdicts that may flip in a form.
    """
    refusals, top = ladder.refusals(allowed), ladder.steps[0].form
    page = Page(
        f"diagline: {title}: {'the forms disagree' if refusals else 'the forms agree'}",
        f"{ladder.pictures} pictures, {ladder.golden} golden ones; at most {allowed:.2%} of the verdicts may differ "
        f"from those of {top}, and no golden defect may pass.",
    )
    for refusal in refusals:
        page.note(refusal)
    page.heading("Form by form", exact_text(ladder))
    page.table(HEAD, [_cells(step) for step in ladder.steps])
    if any(step.errors for step in ladder.steps):
        page.heading(
            "Layer by layer",
            "Each form's maps against those of the form above, on the pictures nearest to the threshold: root of the "
            "summed squares of the differences over that of the map.",
        )
        page.plot(errors_plot(ladder), "relative error of each layer, one line a form")
    found = flipped(pictures, ladder)
    page.heading(f"Flipped verdicts: {len(found)}", "Logits above the threshold; a part is rejected at 0 or more.")
    page.pictures(
        (home.read_image(sample), f"{sample.image}, {_kind(flips)}: {_margins(flips, top)}")
        for (home, sample), flips in found[:SHOWN]
    )
    page.write(path)
    files.write_json(path.with_suffix(".json"), ladder.details(allowed))


def exact_text(ladder: Ladder) -> str:
    """Whether a microcontroller gives the reference kernels' bits, in words; empty without TFLite."""
    if ladder.exact is None:
        return ""
    return (
        f"Of {ladder.pictures} pictures, {MICRO} gives the bits of {REFERENCE} on {ladder.exact}, "
        f"{ENGINE} those of {MICRO} on {ladder.engine_exact}."
    )


def terminal(title: str, ladder: Ladder) -> Table:
    """The table for a terminal."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for index, name in enumerate(HEAD):
        table.add_column(name, justify="right" if 0 < index < len(HEAD) - 1 else "left")
    for step in ladder.steps:
        table.add_row(*_cells(step))
    return table


def errors_plot(ladder: Ladder) -> Any:
    """The relative error of each layer, a line a form, on a logarithmic scale."""
    require("matplotlib", "workstation")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8))
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    for step in ladder.steps:
        if any(step.errors.values()):
            axes.plot(list(step.errors), list(step.errors.values()), marker=".", label=step.form, linewidth=1.4)
    axes.set(ylabel="error against the form above", yscale="log")
    axes.tick_params("x", rotation=90, labelsize=7)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _cells(step: Step) -> tuple[str, ...]:
    return (
        step.form,
        "-" if step.ap is None else f"{step.ap:.4f}",
        str(len(step.flips)),
        str(step.flips_above),
        f"{step.difference:.2g}",
        f"{step.difference_above:.2g}",
        step.born or "-",
    )


def _kind(flips: dict[str, Flip]) -> str:
    return "defect" if next(iter(flips.values())).label == DEFECT else "good"


def _margins(flips: dict[str, Flip], top: str) -> str:
    first = next(iter(flips.values()))
    return ", ".join([f"{top} {first.top:+.2f}", *(f"{form} {flip.found:+.2f}" for form, flip in flips.items())])
