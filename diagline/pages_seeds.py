"""The page of a line that was trained from several seeds, and its table for the terminal.

Leaves out: measuring, and the page of a single run (`pages.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from diagline import record
from diagline.config import Config
from diagline.pages import AP_NAMES, evidence_text, figure_text, interval_text, label, rules_text
from diagline.report import Page, seeds_plot

if TYPE_CHECKING:
    from export.over_seeds import OverSeeds
    from training.intervals import Spread

NAMES = {
    **AP_NAMES, "auroc": "AUROC", "best_f1": "best F1", "precision_at_best_f1": "precision at best F1",
    "recall_at_best_f1": "recall at best F1",
}  # fmt: skip


def write(path: Path, config: Config, found: OverSeeds) -> None:
    """Write the page of all seeds."""
    page = Page(f"diagline: {config.name}, {_seeds_text(found)}", _lead(config, found))
    page.heading("Every form over the seeds", found.note)
    figures = (found.first.ap, "auroc", "escape", "overkill")
    page.table(
        ("form", *(NAMES.get(name, name) for name in figures)),
        [(label(form), *(_cell(spreads[name], name) for name in figures)) for form, spreads in found.forms.items()],
    )
    page.note(_legend(found))
    page.plot(
        seeds_plot({label(form): spreads[found.first.ap].values for form, spreads in found.forms.items()}, _ap(found)),
        f"{_ap(found)} of each seed",
    )
    page.heading("At the threshold", rules_text(found.first))
    others = ("precision", "recall", "precision_at_best_f1", "recall_at_best_f1")
    page.table(
        ("form", *(NAMES.get(name, name) for name in others)),
        [(label(form), *(_mean(spreads[name], name) for name in others)) for form, spreads in found.forms.items()],
    )
    page.heading("Each kind of defect", f"Mean escape over the seeds; below it {_ap(found)} against all good parts.")
    page.table(("kind", "test defects", *map(label, found.forms)), _kind_rows(found))
    page.heading("Each seed", f"{_ap(found)}; below it escape and overkill.")
    page.table(
        ("seed", *map(label, found.forms)),
        [
            (str(seed), *(_of_seed(found, form, place) for form in found.forms))
            for place, seed in enumerate(found.seeds)
        ],
    )
    page.heading("How far to trust these figures", evidence_text(found.first, len(found.seeds)))
    page.heading("How it was made")
    lines = [
        ("seeds", _seeds_text(found)),
        ("seed of the split", str(config.split_seed)),
        ("test split, SHA-256", found.first.test.hash()[:16]),
        ("revision", record.git_revision()),
    ]
    page.table(("", ""), lines + list(record.versions().items()))
    page.write(path)


def table(found: OverSeeds) -> Table:
    """Mean, deviation and interval of every form, for the terminal."""
    shown = Table(title=_seeds_text(found), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    shown.caption, shown.caption_justify = _legend(found) + (f" {found.note}" if found.note else ""), "left"
    figures = (found.first.ap, "auroc", "escape", "overkill")
    for index, name in enumerate(("form", *(NAMES.get(name, name) for name in figures))):
        shown.add_column(name, justify="right" if index else "left", no_wrap=True)
    for form, spreads in found.forms.items():
        shown.add_row(label(form), *(_cell(spreads[name], name) for name in figures))
    return shown


def _seeds_text(found: OverSeeds) -> str:
    seeds = found.seeds
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]})"


def _lead(config: Config, found: OverSeeds) -> str:
    held = found.first.evidence()
    return (
        f"The line trained anew from each seed; {len(found.first.test)} test pictures, {held['defects']} of them "
        f"defective, the same for all, at {config.input.width_px}x{config.input.height_px} px."
    )


def _legend(found: OverSeeds) -> str:
    share = found.first.evidence()["interval_share"]
    if len(found.seeds) == 1:
        return f"Below a figure: its {share:.0%} interval over pictures."
    return (
        f"Mean ± sample standard deviation over seeds; below: {share:.0%} interval of the mean over pictures and "
        f"seeds; below that: least and most of the seeds."
    )


def _ap(found: OverSeeds) -> str:
    return AP_NAMES[found.first.ap]


def _mean(spread: Spread, name: str) -> str:
    if spread.std is None:
        return figure_text(spread.mean, name)
    return f"{figure_text(spread.mean, name)} ± {figure_text(spread.std, name)}"


def _cell(spread: Spread, name: str) -> str:
    lines = [_mean(spread, name), interval_text(spread.low, spread.high, name)]
    if spread.std is not None:
        lines.append(interval_text(spread.least, spread.most, name))
    return "\n".join(lines)


def _kind_rows(found: OverSeeds) -> list[tuple[str, ...]]:
    first = next(iter(found.first.rows.values()))
    return [
        (
            kind,
            str(one.defects),
            *(
                f"{_mean(kinds[kind]['escape'], 'escape')}\n{_mean(kinds[kind][found.first.ap], found.first.ap)}"
                for kinds in found.kinds.values()
            ),
        )
        for kind, one in first.kinds.items()
    ]


def _of_seed(found: OverSeeds, form: str, place: int) -> str:
    ap, escape, overkill = (
        figure_text(found.forms[form][name].values[place], name) for name in (found.first.ap, "escape", "overkill")
    )
    return f"{ap}\n{escape}, {overkill}"
