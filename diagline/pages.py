"""What the page of one line shows, in which order.

`report.py` knows how to draw; this file knows what a user wants to see: the table of all
formats, the parts, the painted defects, what was judged wrongly, the curves, and how it was
made. Leaves out: measuring.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from diagline import record
from diagline.bundle import Bundle
from diagline.config import Config
from diagline.report import Page, curves_plot, history_plot
from diagline.samples import DEFECT, GOOD, Sample, SampleSet

if TYPE_CHECKING:
    from export.compare import Comparison, Row
    from training.evaluate import Case, Kind

LEADING_ZERO = re.compile(r"(?<!\d)0\.")
SHOWN = 8
FEW_GROUPS = 30
"""Fewer groups than this give rough intervals."""
LABELS = {"student_alone": "student alone"}
AP_NAMES = {"ap": "AP", "ap_trapezoid": "AP (trapezoid)"}


@dataclass(frozen=True, slots=True)
class Extra:
    """What only some runs have.

    Attributes:
        bench: head and rows of the latency table.
        film: one line on what the camera loop said of the film.
        note: a caution that stands at the top.
        overlay: draws on a part that was judged wrongly what the network saw there (its heat map):
            from the sample and its picture `(h, w, 3)` uint8 BGR to such a picture, shown beside
            the one with the mask.
    """

    bench: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    film: str = ""
    note: str = ""
    overlay: Callable[[Sample, NDArray[np.uint8]], NDArray[np.uint8]] | None = None


def write(
    path: Path, config: Config, real: SampleSet, painted: SampleSet | None, found: Comparison, extra: Extra
) -> None:
    """Write the page of a trained, and perhaps exported, line."""
    page = Page(f"diagline: {config.name}", _lead(config, found))
    page.heading("Every form of the inspector on the same test pictures", extra.note)
    page.table(_head(found), [_cells(name, row, found.ap) for name, row in found.rows.items()])
    page.note(f"Below a figure: its {found.evidence()['interval_share']:.0%} interval. {rules_text(found)}")
    page.heading("Each kind of defect")
    page.table(("kind", "test defects", *map(label, found.rows)), _kind_rows(found))
    page.note("Missed at the threshold; below it the average precision of the kind alone against all good parts.")
    page.heading("How far to trust these figures", evidence_text(found))
    page.heading("Good parts")
    page.pictures(captioned(real, real.split("train").labelled(GOOD).samples[:SHOWN]))
    page.heading("Defects of the test split", _test_text(config))
    page.pictures(captioned(real, _spread(real.split("test").labelled(DEFECT).samples)))
    if painted is not None:
        page.heading("Generated defects and their masks")
        page.pictures(captioned(painted, _spread(painted.labelled(DEFECT).samples)))
    _mistakes(page, found, extra)
    _curves(page, config, found)
    if extra.bench is not None:
        page.heading("Latency on this machine", _machine())
        page.table(*extra.bench)
    if extra.film:
        page.heading("The camera loop", extra.film)
    page.heading("How it was made")
    page.table(("", ""), _made(config, found))
    page.write(path)


def label(name: str) -> str:
    """A form's name as people read it."""
    return LABELS.get(name, name)


def _head(found: Comparison) -> tuple[str, ...]:
    return (
        "form", AP_NAMES[found.ap], "AUROC", "precision\nat best F1", "recall\nat best F1", "precision", "recall",
        "escape", "overkill", "size",
    )  # fmt: skip


def _lead(config: Config, found: Comparison) -> str:
    return (
        f"{len(found.test)} test pictures, {found.evidence()['defects']} of them defective, "
        f"at {config.input.width_px}x{config.input.height_px} px."
    )


def _test_text(config: Config) -> str:
    chose = "the thresholds" if config.evaluate.threshold == "best_f1" else "anything"
    return f"Never trained on, {'used to choose' if chose != 'anything' else 'never used to choose'} {chose}."


def rules_text(found: Comparison) -> str:
    """How each form's threshold was chosen, in one sentence or two."""
    said = "; ".join(f"{', '.join(map(label, names))}: {rule}" for rule, names in found.rules.items())
    return f"Precision, recall, escape and overkill hold at a threshold. {said}."


def evidence_text(found: Comparison, seeds: int = 1) -> str:
    """What the intervals are, what they leave out, and how much they rest on.

    Args:
        seeds: trainings behind each figure.
    """
    held = found.evidence()
    said = [
        f"{held['defects']} test defects in {held['defect_groups']} groups and {held['good']} good parts in "
        f"{held['good_groups']}: one defect more or less is {1 / held['defects']:.1%} of escape, one good part "
        f"{1 / held['good']:.1%} of overkill.",
        f"Intervals are {held['interval_share']:.0%} of {found.resamples} resamples of whole groups"
        + (
            ", networks and thresholds staying as they are: another training would differ too (evaluate --seeds)."
            if seeds == 1
            else f" and, anew with each, of the {seeds} seeds: with so few, what luck in training adds is understated."
        ),
        "A rate of 0 has an interval of 0 to 0, as resampling cannot show what was never seen: "
        "the bound that a line's owner signs is exact (certify).",
    ]
    few = [what for what in ("defect_groups", "good_groups") if held[what] < FEW_GROUPS]
    for what in few:
        name = "defects" if what == "defect_groups" else "good parts"
        said.append(f"Only {held[what]} groups hold {name}: these intervals are rough, and with one there is none.")
    return " ".join(said)


def figure_text(value: float, name: str) -> str:
    """A figure of Metrics as text: rates in per cent, the others to three places."""
    return f"{value:.1%}" if name in ("escape", "overkill") else f"{value:.3f}"


def interval_text(low: float | None, high: float | None, name: str) -> str:
    """An interval as text, rates in per cent to two places; a dash where there is none."""
    if low is None or high is None:
        return "-"
    if name in ("escape", "overkill"):
        return "-".join(f"{100 * end:.0f}" if end >= 0.0995 else f"{100 * end:.1f}" for end in (low, high))
    return f"{low:.3f}-{high:.3f}"


def _cells(name: str, row: Row, ap: str) -> tuple[str, ...]:
    def with_interval(figure: str) -> str:
        one = row.intervals[figure]
        low, high = (one.low, one.high) if one else (None, None)
        return f"{figure_text(getattr(row.metrics, figure), figure)}\n{interval_text(low, high, figure)}"

    metrics = row.metrics
    between = (metrics.precision_at_best_f1, metrics.recall_at_best_f1, metrics.precision, metrics.recall)
    return (
        label(name),
        with_interval(ap),
        with_interval("auroc"),
        *(f"{value:.3f}" for value in between),
        with_interval("escape"),
        with_interval("overkill"),
        size_text(row.size_bytes),
    )


def _kind_rows(found: Comparison) -> list[tuple[str, ...]]:
    rows = list(found.rows.values())
    return [
        (kind, str(first.defects), *(_kind_cell(row.kinds[kind], found.ap) for row in rows))
        for kind, first in rows[0].kinds.items()
    ]


def _kind_cell(kind: Kind, ap: str) -> str:
    return f"{kind.missed} ({kind.escape:.0%})\n{getattr(kind, ap):.3f}"


def side_by_side(found: Comparison) -> Table:
    """The table of all forms, for the terminal."""
    held = found.evidence()
    title = (
        f"{len(found.test)} test pictures, {held['defects']} defective; P*, R*: at best F1; "
        f"below: {held['interval_share']:.0%} intervals"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, caption_justify="left")
    table.caption = "; ".join(f"{', '.join(map(label, names))}: {rule}" for rule, names in found.rules.items())
    heads = ("form", AP_NAMES[found.ap].replace(" ", "\n"), "AUROC", "P*", "R*", "P", "R", "escape", "overkill", "size")
    for index, name in enumerate(heads):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for name, row in found.rows.items():
        table.add_row(*(LEADING_ZERO.sub(".", cell) for cell in _cells(name, row, found.ap)))
    return table


def kinds_table(found: Comparison) -> Table:
    """Missed defects by kind and form, for the terminal."""
    title = f"missed of each kind; below: {AP_NAMES[found.ap]} of the kind against all good parts"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for index, name in enumerate(("kind", "defects", *map(label, found.rows))):
        table.add_column(name, justify="right" if index else "left")
    for cells in _kind_rows(found):
        table.add_row(*cells)
    return table


def bundle_table(bundle: Bundle) -> Table:
    """A bundle's formats with their size, AP, flips and engines, for the terminal."""
    manifest = bundle.manifest
    fastest = " on ".join(manifest.fastest) if manifest.fastest is not None else "not timed yet"
    title = f"{bundle.model}, fastest: {fastest}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    for index, name in enumerate(("format", "size", "AP", "flips", "threshold", "verified on")):
        table.add_column(name, justify="right" if index else "left")
    for name, fmt in manifest.formats.items():
        size = size_text((bundle.root / fmt.file).stat().st_size)
        flips = f"{manifest.flips[name]} of {fmt.metrics['images']:.0f}"
        table.add_row(name, size, f"{fmt.metrics['ap']:.3f}", flips, f"{fmt.threshold:g}", ", ".join(fmt.engines))
    return table


def bundle_parts(bundle: Bundle) -> str:
    """How large the parts of a bundle are and all of it, in one line."""
    sizes = {path: path.stat().st_size for path in bundle.root.rglob("*") if path.is_file()}
    golden = sum(size for path, size in sizes.items() if path.parent != bundle.root)
    models = sum((bundle.root / fmt.file).stat().st_size for fmt in bundle.manifest.formats.values())
    total = sum(sizes.values())
    parts = {"models": models, f"{len(bundle.golden)} golden pictures": golden, "manifest": total - models - golden}
    said = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
    return f"{said}; together {size_text(total)}"


def size_text(size_bytes: int) -> str:
    """A file size for people: kB below 1 MB, MB above."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


def _spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    step = max(1, len(samples) // SHOWN)
    return samples[::step][:SHOWN]


def captioned(source: SampleSet, samples: Sequence[Sample]) -> list[tuple[NDArray[np.uint8], str]]:
    """Pictures with their defects outlined, `(h, w, 3)` uint8 BGR, and their kinds."""
    from generation.sheet import outline

    shown = []
    for sample in samples:
        image = source.read_image(sample)
        if sample.mask is not None:
            image = outline(image, source.read_mask(sample))
        shown.append((image, sample.kind))
    return shown


def _mistakes(page: Page, found: Comparison, extra: Extra) -> None:
    from training import evaluate

    name, row = found.shipped, found.rows[found.shipped]
    misses, false_calls = evaluate.worst(found.test.samples, found.labels, row.logits, row.threshold, SHOWN)
    counts = {"Worst misses": round(row.metrics.escape * row.metrics.defects)}
    counts["Worst false calls"] = round(row.metrics.overkill * (row.metrics.images - row.metrics.defects))
    for title, cases in (("Worst misses", misses), ("Worst false calls", false_calls)):
        said = f"{len(cases)} of {counts[title]}. " if cases else ""
        page.heading(
            f"{title} of {label(name)}", f"{said}Threshold {row.threshold:+.2f}; a part is rejected at or above it."
        )
        page.pictures(_shown_cases(found, cases, extra), height_px=200)


def _shown_cases(found: Comparison, cases: Sequence[Case], extra: Extra) -> Iterator[tuple[NDArray[np.uint8], str]]:
    outlined = captioned(found.test, [case.sample for case in cases])
    for (image, kind), case in zip(outlined, cases, strict=True):
        yield image, f"{kind}, logit {case.logit:+.2f}: {case.sample.image}"
        if extra.overlay is not None:
            yield extra.overlay(case.sample, found.test.read_image(case.sample)), "what the network saw there"


def _curves(page: Page, config: Config, found: Comparison) -> None:
    from training import evaluate

    page.heading("Curves")
    page.plot(
        curves_plot({label(name): evaluate.curve(found.labels, row.logits) for name, row in found.rows.items()}),
        "precision over recall",
    )
    histories = {}
    for name in ("teacher", "student", "student_alone"):
        path = config.output / name / "history.json"
        if name in found.rows and path.is_file():
            histories[label(name)] = json.loads(path.read_text())
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
