"""The paper's grid: method x N x {zero-shot, full-shot} x seeds, painted, trained and measured.

Painted first (all processes together), then trained (each process its share of the trials). A
set of N pictures is painted for itself: the first 80 of 120 are not it, as the paper's words
change at N / 2 and the quality gate judges a set as a whole. Zero- and full-shot share a set;
only In&Out, which is tuned on real defects where they may be used, paints one for each. Every
part can be killed and goes on. Leaves out: the tables' form (`paper_tables.py`), and how one trial runs
(`trials.py`).

Source: DIAG, section 4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diagline import files, samples
from diagline.config import Config
from diagline.config_checks import one_of, within
from diagline.config_generate import METHODS, GenerateConfig
from diagline.console import console
from diagline.errors import (
    ConfigError,
    DatasetError,
    GenerationError,
    MissingExtraError,
    OutputError,
    TrainingError,
)
from diagline.samples import DEFECT, GOOD, SampleSet
from generation import generate, painters
from generation.painting import Painter
from generation.plan import Draws
from generation.quality import Features
from generation.worker import Worker
from training import paper_tables, trials
from training.paper_tables import Row, Tables
from training.trials import Result, Trial

NONE = "none"
SHOTS = ("zero", "full")
CANNOT = (GenerationError, MissingExtraError, DatasetError, TrainingError)
"""What keeps one method from painting, and not the others."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What is asked: methods of `METHODS` or "none", counts N, shots, and how many seeds from the config's on."""

    methods: tuple[str, ...]
    counts: tuple[int, ...]
    shots: tuple[str, ...]
    seeds: int

    def __post_init__(self) -> None:
        for name, values, allowed in (("methods", self.methods, (NONE, *METHODS)), ("shots", self.shots, SHOTS)):
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name} = {','.join(values)!r}; expected some of {', '.join(allowed)}, each once")
            for value in values:
                one_of(name, value, allowed)
        if not self.counts or len(set(self.counts)) != len(self.counts):
            raise ConfigError(f"counts = {self.counts}; expected numbers such as 80,100,120, each once")
        for count in self.counts:
            within("counts", count, 1, 1_000_000)
        within("seeds", self.seeds, 1, 1000)
        if not self.rows():
            raise ConfigError('method "none" has no positives in zero-shot; expected another method, or shots "full"')

    def rows(self) -> list[Row]:
        """The empty rows of both tables, in their order; "none" has no zero-shot row: there is no positive."""
        found = []
        for shots in (one for one in SHOTS if one in self.shots):
            for method in (one for one in (NONE, *METHODS) if one in self.methods):
                if method != NONE:
                    found += [Row(shots, method, count) for count in sorted(self.counts)]
                elif shots == "full":
                    found.append(Row(shots, NONE, 0))
        return found


def run(config: Config, real: SampleSet, is_ksdd2: bool, grid: Grid, features: Features) -> Tables:
    """Run the grid, or go on with it; the tables as far as every cell can be run.

    Args:
        config: everything but method, count, shots and seed; results go to `config.output`.
        real: the line's pictures.
        is_ksdd2: whether they are laid out as KSDD2.
        grid: what is asked.
        features: what the quality gate measures pictures by.

    Raises:
        DatasetError: a picture that cannot be read, or a test split without both kinds.
        TrainingError, OutputError: the folder holds trials or sets of other settings or pictures.
        OutputError: it cannot be written to.
    """
    real, notes = _as_chosen(config, real)
    test = real.split("test")
    if not len(test.labelled(DEFECT)) or not len(test.labelled(GOOD)):
        raise DatasetError(
            f"{real.root}: the test split holds {len(test.labelled(GOOD))} good and {len(test.labelled(DEFECT))} "
            f"defective pictures; expected both to measure on; check data.root and data.layout"
        )
    worker = Worker.here()
    seeds = tuple(config.seed + place for place in range(grid.seeds))
    shop = _Shop(config, real, features, worker)
    wanted: list[tuple[Row, int, Trial | str]] = []
    rows = grid.rows()
    for row in sorted(rows, key=lambda row: (row.method, _tuned(row))):  # a model is loaded once
        for seed in seeds:
            painted = None if row.method == NONE else shop.painted(row.method, row.count, seed, _tuned(row))
            made = painted if isinstance(painted, str) else _trial(config, real, test, row, seed, painted)
            wanted.append((row, seed, made))
    shop.close()
    queue = [made for _, _, made in sorted(wanted, key=lambda one: one[1]) if isinstance(made, Trial)]
    results, failed = trials.run(queue, config.output / "trials", worker, keep_going=True)
    done = [_filled(config, row, [one for one in wanted if one[0] is row], results, failed) for row in rows]
    if any(trial.config.teacher.labels != config.teacher.labels for trial in queue):
        notes += ("In&Out's whole pictures have no mask: its trials take labels from the records.",)
    return Tables(tuple(done), is_ksdd2, seeds, _rules(config, seeds), (*notes, *shop.notes(), *_none_note(grid)))


class _Shop:
    """The painted sets of a grid, each made when it is first asked for."""

    def __init__(self, config: Config, real: SampleSet, features: Features, worker: Worker) -> None:
        self._config, self._real, self._features, self._worker = config, real, features, worker
        self._good, self._bad = real.labelled(GOOD), real.labelled(DEFECT)
        self._hash = real.where(lambda sample: sample.split != "test").hash()
        self._painter: tuple[tuple[str, bool], Painter] | None = None
        self._refused: dict[tuple[str, bool], str] = {}
        self._short: list[str] = []
        self._masks_are_real = False

    def painted(self, method: str, count: int, seed: int, tuned: bool) -> SampleSet | str:
        """The set, painted now or earlier, or why it cannot be."""
        settings = self._settings(method, count, tuned)
        self._masks_are_real |= settings.mask_source == "real"
        target = self._config.output / "sets" / f"{method}{'-tuned' if tuned else ''}-{count}-seed{seed}"
        marker = target.with_name(f"{target.name}.json")
        asked = {"generate": _plain(asdict(settings)), "seed": seed, "pictures": self._hash}
        if marker.is_file() and json.loads(marker.read_bytes()) != asked:
            raise OutputError(
                f"{target}: painted with other settings or pictures; expected the same to go on; "
                f"remove {self._config.output} or choose another output"
            )
        if not marker.is_file() or not (target / samples.RECORDS).is_file():  # else no model is needed
            try:
                draws, painter = self._prepared(settings, seed, (method, tuned))
            except CANNOT as error:
                return _line(error)
            if self._worker.is_main:
                files.write_json(marker, asked)
            console.print(f"painting {target.name}", style="bold", soft_wrap=True)
            try:
                generate.generate(draws, painter, self._features, target)
            except CANNOT as error:
                if self._worker.count > 1:  # the others wait for this one
                    raise
                return _line(error)
        made = samples.load(target)
        kept = len(made.split("train"))
        if kept < count:
            self._short.append(f"{target.name}: the quality gate left {kept} of {count} pictures.")
        return made

    def notes(self) -> tuple[str, ...]:
        """What the tables' reader must know of the sets."""
        found = tuple(self._short)
        if self._masks_are_real:
            found += ("DIAG's masks are those of real training defects, as in the paper: no strict zero-shot.",)
        return found

    def close(self) -> None:
        """Free the model's memory."""
        self._painter = None

    def _prepared(self, settings: GenerateConfig, seed: int, key: tuple[str, bool]) -> tuple[Draws, Painter]:
        val = max(1, settings.count // 5) if len(self._good.split("val")) else 0
        counts = {"train": settings.count, **({"val": val} if val else {})}
        draws = Draws(self._good, settings, seed, counts, self._bad)
        painter = self._built(settings, key)
        for prompt in settings.prompts:
            painter.check_words(prompt, settings.negative_prompt)
        return draws, painter

    def _built(self, settings: GenerateConfig, key: tuple[str, bool]) -> Painter:
        if key in self._refused:
            raise GenerationError(self._refused[key])
        if self._painter is None or self._painter[0] != key:
            self._painter = None
            try:
                self._painter = key, painters.build(settings, self._adapters(settings, key[1]))
            except CANNOT as error:
                self._refused[key] = str(error)
                raise
        return self._painter[1]

    def _adapters(self, settings: GenerateConfig, tuned: bool) -> Path:
        """Tune In&Out on the real defects, once for all sets."""
        folder = self._config.output / "tuned"
        if tuned:
            from generation.in_and_out.tune import tune

            tune(settings, self._bad.split("train"), self._config.seed, folder)
        return folder

    def _settings(self, method: str, count: int, tuned: bool) -> GenerateConfig:
        base = self._config.generate
        # real masks are DIAG's; MemSeg draws its own
        masks = "auto" if method != "diag" and base.masks == "real" else base.masks
        settings = replace(base, method=method, count=count, masks=masks)
        if method == "in_and_out":
            lora = "tuned" if tuned else "none"
            settings = replace(settings, in_and_out=replace(base.in_and_out, lora=lora))
        return replace(settings, prompts=(base.tune.prompt,)) if tuned else settings


def _tuned(row: Row) -> bool:
    return row.method == "in_and_out" and row.shots == "full"


def _as_chosen(config: Config, real: SampleSet) -> tuple[SampleSet, tuple[str, ...]]:
    """Where validation chooses nothing its pictures train too, as in the paper, which has no such split."""
    if config.teacher.keep != "last" or config.evaluate.threshold != "best_f1" or not len(real.split("val")):
        return real, ()
    moved = tuple(replace(one, split="train") if one.split == "val" else one for one in real)
    note = f"Validation chooses nothing here: its {len(real.split('val'))} pictures train too, as in the paper."
    return replace(real, samples=moved), (note,)


def _trial(config: Config, real: SampleSet, test: SampleSet, row: Row, seed: int, painted: SampleSet | None) -> Trial:
    own = real.labelled(GOOD) if row.shots == "zero" else real
    train, val = [own.split("train")], [own.split("val")]
    if painted is not None:
        train.append(painted.split("train"))
        if row.shots == "zero":
            val.append(painted.split("val"))
    maskless = any(one.label == DEFECT and one.mask is None for one in painted or ())
    labels = "record" if maskless else config.teacher.labels
    teacher = replace(config.teacher, head="pool", synthetic=True, labels=labels)
    mine = replace(config, seed=seed, teacher=teacher, data=replace(config.data, shots=row.shots))
    return Trial(_name(row, seed), mine, tuple(train), tuple(part for part in val if len(part)), test)


def _name(row: Row, seed: int) -> str:
    return f"{row.shots}-{row.method}" + (f"-{row.count}" if row.count else "") + f"-seed{seed}"


def _filled(
    config: Config,
    row: Row,
    wanted: Sequence[tuple[Row, int, Trial | str]],
    results: dict[str, Result],
    failed: dict[str, str],
) -> Row:
    """The row with what its seeds found."""
    found: list[dict[str, Any]] = []
    reasons: list[str] = []
    for _, seed, made in wanted:
        if isinstance(made, str):
            reasons.append(made)
        elif made.name in failed:
            reasons.append(failed[made.name])
        elif made.name in results:
            found.append({"seed": seed, **_figures(config, results[made.name].figures)})
    return replace(row, seeds=tuple(found), reasons=tuple(reasons))


def _figures(config: Config, metrics: dict[str, Any]) -> dict[str, Any]:
    """What the tables show, by the rules of `config.evaluate`; everything measured stands beside it."""
    at = "_at_best_f1" if config.evaluate.threshold == "best_f1" else ""
    return {
        "ap": metrics["ap_trapezoid" if config.evaluate.ap == "trapezoid" else "ap"],
        "precision": metrics[f"precision{at}"],
        "recall": metrics[f"recall{at}"],
        "ap_step": metrics["ap"],
        "ap_trapezoid": metrics["ap_trapezoid"],
        "metrics": metrics,
    }


def _rules(config: Config, seeds: Sequence[int]) -> str:
    ap = {"step": "scikit-learn's average precision", "trapezoid": "area under the PR curve by trapezoids"}
    where = {"best_f1": "at the best F1 on the test split", "validation": "at the threshold chosen on validation"}
    rules = f"AP: {ap[config.evaluate.ap]}; P and R {where[config.evaluate.threshold]}"
    return f"{rules}; {paper_tables.summary(seeds)}."


def _none_note(grid: Grid) -> tuple[str, ...]:
    if NONE not in grid.methods or "zero" not in grid.shots:
        return ()
    return ('Zero-shot has no row "none": without synthetic defects there is no positive to learn from.',)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
