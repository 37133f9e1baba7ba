"""One line trained several times, each time from another seed: what of its figures is luck.

Leaves out: training the seeds (`diagline/verbs_seeds.py`) and the resampling itself
(`training/intervals.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from diagline.errors import DatasetError
from export.compare import Comparison
from training import evaluate, intervals
from training.intervals import Spread

COUNTS = ("images", "defects", "missed", "threshold")
"""What of Metrics and Kind is no figure to take a mean of."""


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """Every form over the seeds.

    Attributes:
        seeds: in the order of every `Spread.values`.
        runs: each seed's own comparison, by seed.
        forms: by form and figure of `evaluate.Metrics`.
        kinds: by form, kind of defect, and figure of `evaluate.Kind`.
        left_out: forms that only some of the seeds have.
        note: what the numbers do not say, in words; empty when there is nothing to say.
    """

    seeds: tuple[int, ...]
    runs: dict[int, Comparison]
    forms: dict[str, dict[str, Spread]]
    kinds: dict[str, dict[str, dict[str, Spread]]]
    left_out: tuple[str, ...]
    note: str

    @property
    def first(self) -> Comparison:
        """One of them, for what all share: pictures, forms, rules."""
        return self.runs[self.seeds[0]]

    def plain(self) -> dict[str, Any]:
        """Everything but logits and pictures, for JSON."""
        return {
            "seeds": list(self.seeds),
            "note": self.note,
            "left_out": list(self.left_out),
            "test": self.first.evidence(),
            "ap": self.first.ap,
            "forms": {
                form: {
                    "figures": {name: asdict(one) for name, one in spreads.items()},
                    "kinds": {
                        kind: {name: asdict(one) for name, one in figures.items()}
                        for kind, figures in self.kinds[form].items()
                    },
                }
                for form, spreads in self.forms.items()
            },
            "runs": {str(seed): run.plain() for seed, run in self.runs.items()},
        }


def summarise(runs: Mapping[int, Comparison], resamples: int, draw_seed: int) -> OverSeeds:
    """Mean, deviation, range and interval of every figure.

    Args:
        runs: by training seed; all measured on the same test pictures.
        resamples: draws behind each interval.
        draw_seed: of these draws.

    Raises:
        DatasetError: the runs saw different test pictures.
    """
    if not runs:
        raise ValueError("no runs; expected at least one seed")
    seeds, found = tuple(runs), list(runs.values())
    first = found[0]
    for seed, run in runs.items():
        if run.test.samples != first.test.samples:
            raise DatasetError(
                f"seed {seed} was measured on other test pictures ({len(run.test)}) than seed {seeds[0]} "
                f"({len(first.test)}); expected one test split for all; set data.split_seed, or bring a split.csv"
            )
    everywhere = [name for name in first.rows if all(name in run.rows for run in found)]
    left_out = sorted({name for run in found for name in run.rows} - set(everywhere))
    forms, kinds = {}, {}
    for name in everywhere:
        rows = [run.rows[name] for run in found]
        between = intervals.over_seeds(
            first.labels, [(row.logits, row.threshold) for row in rows], first.groups, resamples, draw_seed
        )
        forms[name] = {
            figure: intervals.spread([getattr(row.metrics, figure) for row in rows], between.get(figure))
            for figure in _figures(evaluate.Metrics)
        }
        kinds[name] = {
            kind: {
                figure: intervals.spread([getattr(row.kinds[kind], figure) for row in rows])
                for figure in _figures(evaluate.Kind)
            }
            for kind in rows[0].kinds
        }
    return OverSeeds(seeds, dict(runs), forms, kinds, tuple(left_out), _note(len(seeds), left_out))


def _figures(kind: type[evaluate.Metrics] | type[evaluate.Kind]) -> list[str]:
    return [item.name for item in fields(kind) if item.name not in COUNTS]


def _note(seeds: int, left_out: list[str]) -> str:
    said = []
    if seeds < 2:
        said.append("One seed: no deviation can be given, and the interval holds that of the pictures alone.")
    elif seeds < 5:
        said.append(f"{seeds} seeds: the deviation is itself uncertain; 5 or more are usual.")
    if left_out:
        said.append(f"Left out, as not every seed has it: {', '.join(left_out)}.")
    return " ".join(said)
