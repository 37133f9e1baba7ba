"""What the page of one line shows, in which order.

`report.py` knows how to draw; this file knows what a user wants to see: the table of all
formats, the parts, the painted defects, what was judged wrongly, the curves, and how it was
made. Leaves out: measuring.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from diagline import record
from diagline.bundle import Bundle
from diagline.config import Config
from diagline.report import Page, curves_plot, history_plot
from diagline.samples import DEFECT, GOOD, Sample, SampleSet

if TYPE_CHECKING:
    from export.compare import Comparison, Row

SHOWN = 8


@dataclass(frozen=True, slots=True)
class Extra:
    """What only some runs have: a benchmark and a film.

    Attributes:
        bench: head and rows of the latency table.
        film: one line on what the camera loop said of the film.
        note: a caution that stands at the top.
    """

    bench: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    film: str = ""
    note: str = ""


def write(
    path: Path, config: Config, real: SampleSet, painted: SampleSet | None, found: Comparison, extra: Extra
) -> None:
    """Write the page of a trained, and perhaps exported, line."""
    page = Page(f"diagline: {config.name}", _lead(config, found))
    page.heading("Every form of the inspector on the same test pictures", extra.note)
    page.table(SIDE_BY_SIDE, [_cells(name, row) for name, row in found.rows.items()])
    page.heading("Good parts")
    page.pictures(_captioned(real, real.split("train").labelled(GOOD).samples[:SHOWN]))
    page.heading("Defects of the test split", "Never trained on, never used to choose anything.")
    page.pictures(_captioned(real, _spread(real.split("test").labelled(DEFECT).samples)))
    if painted is not None:
        page.heading("Generated defects and their masks")
        page.pictures(_captioned(painted, _spread(painted.labelled(DEFECT).samples)))
    _mistakes(page, found)
    _curves(page, config, found)
    if extra.bench is not None:
        page.heading("Latency on this machine", _machine())
        page.table(*extra.bench)
    if extra.film:
        page.heading("The camera loop", extra.film)
    page.heading("How it was made")
    page.table(("", ""), _made(config, found))
    page.write(path)


SIDE_BY_SIDE = (
    "form", "AP", "precision at best F1", "recall at best F1", "precision", "recall", "escape", "overkill", "size",
)  # fmt: skip


def _lead(config: Config, found: Comparison) -> str:
    metrics = next(iter(found.rows.values())).metrics
    return (
        f"{metrics.images} test pictures, {metrics.defects} of them defective, "
        f"at {config.input.width_px}x{config.input.height_px} px. "
        "Precision to overkill: at the threshold chosen on validation."
    )


def _cells(name: str, row: Row) -> tuple[str, ...]:
    metrics = row.metrics
    figures = (metrics.ap, metrics.precision_at_best_f1, metrics.recall_at_best_f1, metrics.precision, metrics.recall)
    return (
        name,
        *(f"{value:.3f}" for value in figures),
        f"{metrics.escape:.1%}",
        f"{metrics.overkill:.1%}",
        size_text(row.size_bytes),
    )


def side_by_side(found: Comparison) -> Table:
    """The table of all forms, for the terminal."""
    metrics = next(iter(found.rows.values())).metrics
    title = f"{metrics.images} test pictures, {metrics.defects} defective; P*, R*: at best F1"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for index, name in enumerate(("form", "AP", "P*", "R*", "P", "R", "escape", "overkill", "size")):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for name, row in found.rows.items():
        table.add_row(*_cells(name, row))
    return table


def bundle_table(bundle: Bundle) -> Table:
    """A bundle's formats with their size, AP, flips and engines, for the terminal."""
    manifest = bundle.manifest
    title = f"{bundle.model}, fastest: {' on '.join(manifest.fastest)}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for index, name in enumerate(("format", "size", "AP", "flips", "threshold", "verified on")):
        table.add_column(name, justify="right" if index else "left")
    for name, fmt in manifest.formats.items():
        size = size_text((bundle.root / fmt.file).stat().st_size)
        flips = f"{manifest.flips[name]} of {fmt.metrics['images']:.0f}"
        table.add_row(name, size, f"{fmt.metrics['ap']:.3f}", flips, f"{fmt.threshold:g}", ", ".join(fmt.engines))
    return table


def size_text(size_bytes: int) -> str:
    """A file size for people: kB below 1 MB, MB above."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


def _spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    step = max(1, len(samples) // SHOWN)
    return samples[::step][:SHOWN]


def _captioned(source: SampleSet, samples: Sequence[Sample]) -> list[tuple[Any, str]]:
    from generation.sheet import outline

    shown = []
    for sample in samples:
        image = source.read_image(sample)
        if sample.mask is not None:
            image = outline(image, source.read_mask(sample))
        shown.append((image, sample.kind))
    return shown


def _mistakes(page: Page, found: Comparison) -> None:
    from training import evaluate

    name, row = list(found.rows.items())[-1]
    misses, false_calls = evaluate.worst(found.test.samples, found.labels, row.logits, row.threshold, SHOWN)
    for title, cases in (("Worst misses", misses), ("Worst false calls", false_calls)):
        page.heading(f"{title} of {name}", f"Threshold {row.threshold:+.2f}; a part is rejected at or above it.")
        pictures = _captioned(found.test, [case.sample for case in cases])
        page.pictures(
            (image, f"{kind}, logit {case.logit:+.2f}") for (image, kind), case in zip(pictures, cases, strict=True)
        )


def _curves(page: Page, config: Config, found: Comparison) -> None:
    from training import evaluate

    page.heading("Curves")
    page.plot(
        curves_plot({name: evaluate.curve(found.labels, row.logits) for name, row in found.rows.items()}),
        "precision over recall",
    )
    histories = {}
    for name in ("teacher", "student"):
        path = config.output / name / "history.json"
        if path.is_file():
            histories[name] = json.loads(path.read_text())
    if histories:
        page.plot(history_plot(histories), "training loss and validation AP")


def _machine() -> str:
    facts = record.machine()
    return f"{facts['cpu']}, {facts['cores']} cores, {', '.join(facts['int8'])}; governor {facts['governor']}"


def _made(config: Config, found: Comparison) -> list[tuple[str, str]]:
    lines = [
        ("seed", str(config.seed)),
        ("test split, SHA-256", found.test.hash()[:16]),
        ("revision", record.git_revision()),
        ("machine", _machine()),
    ]
    return lines + list(record.versions().items())
