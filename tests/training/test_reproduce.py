"""What the paper's grid trains on and how its tables are laid out; nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagline.config import Config, EvaluateConfig
from diagline.config_generate import GenerateConfig, InAndOutConfig, QualityConfig
from diagline.errors import ConfigError, DatasetError, OutputError
from diagline.samples import DEFECT, GOOD, SampleSet
from generation.quality import pyramid_features
from training import evaluate, paper_tables, reproduce
from training.paper_tables import PAPER, Row, Tables
from training.reproduce import Grid
from training.trials import Result, Trial

Paint = Callable[..., SampleSet]
SEEDS = (7, 8)
GRID = Grid(("memseg", "none"), (6, 3), ("full", "zero"), len(SEEDS))


@pytest.fixture
def real(paint: Paint) -> SampleSet:
    """Train, val and test in one set."""
    parts = [paint(8, 4), paint(4, 2, "val"), paint(3, 3, "test")]
    root = parts[0].root.parent
    moved = [
        replace(one, image=f"{part.root.name}/{one.image}", mask=one.mask and f"{part.root.name}/{one.mask}")
        for part in parts
        for one in part
    ]
    return SampleSet(root, tuple(moved))


@pytest.fixture
def line(config: Config) -> Config:
    return replace(config, generate=GenerateConfig(quality=QualityConfig(gate=False)))


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The trials that a grid asks for, each answered at once with plain logits."""
    seen: list[Trial] = []

    def answer(trials: list[Trial], *_: object, **__: object) -> tuple[dict[str, Result], dict[str, str]]:
        seen.extend(trials)
        found = {}
        for place, trial in enumerate(trials):
            labels = np.array([one.label for one in trial.measured], np.int64)
            logits = labels + np.random.default_rng(place).normal(0, 0.8, len(labels))
            metrics = evaluate.measure(labels, logits, 0.9)
            found[trial.name] = Result(labels, logits, {**vars_of(metrics)}, 1.0)
        return found, {}

    monkeypatch.setattr(reproduce.trials, "run", answer)
    return seen


def vars_of(metrics: evaluate.Metrics) -> dict[str, Any]:
    return {name: getattr(metrics, name) for name in metrics.__slots__}


def run(config: Config, real: SampleSet, grid: Grid = GRID) -> Tables:
    return reproduce.run(config, real, False, grid, pyramid_features)


def sources(parts: tuple[SampleSet, ...], label: int) -> set[str]:
    return {one.source for part in parts for one in part if one.label == label}


def test_every_trial_learns_from_what_its_row_allows(line: Config, real: SampleSet, queued: list[Trial]) -> None:
    tables = run(line, real)
    assert [(row.shots, row.method, row.count) for row in tables.rows] == [
        ("zero", "memseg", 3), ("zero", "memseg", 6), ("full", "none", 0), ("full", "memseg", 3), ("full", "memseg", 6),
    ]  # fmt: skip
    assert len(queued) == len(SEEDS) * len(tables.rows) == len({trial.name for trial in queued})
    test = {one.image for one in real.split("test")}
    for trial in queued:
        zero, none = trial.name.startswith("zero"), "none" in trial.name
        assert sources(trial.train, GOOD) == {"real"}
        assert sources(trial.train, DEFECT) == ({"memseg"} if zero else {"real"} if none else {"real", "memseg"})
        assert sources(trial.val, DEFECT) == ({"memseg"} if zero else {"real"})
        assert {one.image for one in trial.measured} == test
        assert all(one.split == split for split in ("train", "val") for part in getattr(trial, split) for one in part)
        painted = [one for part in trial.train for one in part if one.source == "memseg"]
        assert none or f"-{len(painted)}-" in trial.name
        assert trial.config.teacher.synthetic and trial.name.endswith(f"seed{trial.config.seed}")


def test_zero_and_full_shot_share_a_set_and_each_seed_has_its_own(
    line: Config, real: SampleSet, queued: list[Trial]
) -> None:
    run(line, real)
    sets = {path.name: path for path in (line.output / "sets").iterdir() if path.is_dir()}
    assert set(sets) == {f"memseg-{count}-seed{seed}" for count in (3, 6) for seed in SEEDS}
    by_name = {trial.name: trial.train[-1] for trial in queued if "memseg" in trial.name}
    for count in (3, 6):
        zero, full = (by_name[f"{shots}-memseg-{count}-seed7"] for shots in ("zero", "full"))
        assert zero.hash() == full.hash() != by_name[f"full-memseg-{count}-seed8"].hash()


def test_what_was_painted_is_not_painted_again_nor_taken_for_other_settings(
    line: Config, real: SampleSet, queued: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(line, real)

    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(reproduce.painters, "build", never)
    run(line, real)
    other = replace(line, generate=replace(line.generate, foreground="otsu"))
    with pytest.raises(OutputError, match="memseg-3-seed7: painted with other settings"):
        run(other, real)


def test_where_validation_chooses_nothing_it_trains_as_in_the_paper(
    line: Config, real: SampleSet, queued: list[Trial]
) -> None:
    paper = replace(
        line, teacher=replace(line.teacher, keep="last"), evaluate=EvaluateConfig(threshold="best_f1", ap="trapezoid")
    )
    tables = run(paper, real)
    for trial in queued:
        assert not trial.val
        assert sum(one.source == "real" for part in trial.train for one in part) == (
            12 if trial.name.startswith("zero") else 18
        )
    assert any("6 pictures train too" in note for note in tables.notes)
    seed = tables.rows[0].seeds[0]
    assert seed["ap"] == seed["metrics"]["ap_trapezoid"] == seed["ap_trapezoid"]
    assert (seed["precision"], seed["recall"]) == tuple(
        seed["metrics"][f"{name}_at_best_f1"] for name in ("precision", "recall")
    )
    assert "at the best F1 on the test split" in tables.rules


def test_the_corrected_rules_are_other_figures_of_the_same_trials(
    line: Config, real: SampleSet, queued: list[Trial]
) -> None:
    tables = run(line, real)
    seed = tables.rows[0].seeds[0]
    assert (seed["ap"], seed["precision"]) == (seed["metrics"]["ap"], seed["metrics"]["precision"])
    assert "validation" in tables.rules and "seeds 7 to 8" in tables.rules


def test_pictures_without_a_mask_are_labelled_by_their_record(line: Config, real: SampleSet) -> None:
    """The paper's rule takes labels from masks; In&Out paints whole pictures, which have none."""
    paper = replace(line, teacher=replace(line.teacher, labels="mask"))
    masked = real.split("train").labelled(DEFECT)
    maskless = replace(masked, samples=tuple(replace(one, mask=None) for one in masked))
    for painted, labels in ((masked, "mask"), (maskless, "record"), (None, "mask")):
        row = Row("full", "in_and_out", 4)
        assert reproduce._trial(paper, real, real.split("test"), row, 1, painted).config.teacher.labels == labels


def test_real_masks_are_diags_and_a_tuned_model_is_asked_by_its_own_words(line: Config, real: SampleSet) -> None:
    generate = GenerateConfig(masks="real", prompts=("white marks",), in_and_out=InAndOutConfig(lora="none"))
    shop = reproduce._Shop(replace(line, generate=generate), real, pyramid_features, reproduce.Worker())
    assert shop._settings("diag", 5, False).mask_source == "real"
    assert shop._settings("memseg", 5, False).mask_source == "perlin"
    zero, full = (shop._settings("in_and_out", 5, tuned) for tuned in (False, True))
    assert (zero.in_and_out.lora, zero.prompts, zero.mask_source) == ("none", ("white marks",), "perlin")
    assert (full.in_and_out.lora, full.prompts) == ("tuned", (generate.tune.prompt,))


def test_a_method_that_cannot_run_is_named_and_the_others_go_on(
    line: Config, real: SampleSet, queued: list[Trial], tmp_path: Path
) -> None:
    diag = replace(line.generate.diag, model=str(tmp_path / "nowhere"))
    asked = replace(line, generate=replace(line.generate, prompts=("a crack",), diag=diag))
    tables = run(asked, real, Grid(("memseg", "diag"), (3,), ("zero", "full"), 2))
    assert [row.ran for row in tables.rows] == [True, False, True, False]
    assert len(tables.missing) == 1 and "nowhere" in tables.missing[0]
    assert tables.cells("zero")[1][2] == "not run (1)"
    assert tables.footnotes()[-1].startswith("(1) ") and not tables.plain()["complete"]
    assert not [trial for trial in queued if "diag" in trial.name]


def test_a_row_with_a_seed_missing_has_no_mean(line: Config) -> None:
    figures = {"ap": 0.5, "precision": 0.5, "recall": 0.5, "ap_step": 0.5, "ap_trapezoid": 0.5}
    row = Row("full", "memseg", 80, ({"seed": 1, **figures},), ("the loss is nan",))
    tables = Tables((row,), True, (1, 2), "")
    assert row.plain()["mean"] is None
    assert tables.cells("full")[0][2:] == ("not run (1)", "", "", "0.744", "0.851", "0.691")


def test_our_figures_stand_beside_the_papers_and_say_whose_those_are() -> None:
    seeds = tuple({"seed": n, "ap": ap, "precision": ap, "recall": ap} for n, ap in enumerate((0.7, 0.8, 0.9)))
    rows = (Row("zero", "diag", 100, seeds), Row("zero", "diag", 77, seeds[:1]))
    tables = Tables(rows, True, (0, 1, 2), "")
    assert tables.cells("zero") == [
        ("DIAG", "100", "0.800 ± 0.100", "0.800 ± 0.100", "0.800 ± 0.100", "0.801", "0.924", "0.664"),
        ("DIAG", "77", "0.700", "0.700", "0.700", "-", "-", "-"),
    ]
    assert tables.head()[-3:] == ("paper AP", "paper P", "paper R")
    assert replace(tables, is_ksdd2=False).head()[5] == "paper (KSDD2) AP"
    axes = paper_tables.plot(tables).axes
    assert len(axes) == 1 and axes[0].get_title() == "zero-shot"


def test_the_papers_diag_rows_are_whole_counts_over_110_test_defects() -> None:
    assert len(PAPER) == 18
    counts = {}
    for (shots, method, n), (_, precision, recall) in PAPER.items():
        if method == "diag":
            hits = round(recall * 110)
            assert abs(hits / 110 - recall) < 6e-4
            false_calls = round(hits / precision - hits)
            assert abs(hits / (hits + false_calls) - precision) < 6e-4
            counts[shots, n] = hits, false_calls
    assert counts == {
        ("zero", 80): (74, 13), ("zero", 100): (73, 6), ("zero", 120): (67, 4),
        ("full", 80): (83, 8), ("full", 100): (88, 2), ("full", 120): (95, 11),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (dict(methods=("none", "memsge")), "did you mean 'memseg'"),
        (dict(methods=()), "methods = ''"),
        (dict(counts=(80, 80)), "each once"),
        (dict(counts=(0,)), "counts = 0"),
        (dict(shots=("few",)), "expected one of zero, full"),
        (dict(methods=("none",), shots=("zero",)), "no positives in zero-shot"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(asked: dict[str, Any], named: str) -> None:
    whole: dict[str, Any] = {"methods": ("memseg",), "counts": (80,), "shots": ("zero", "full"), "seeds": 1}
    with pytest.raises(ConfigError, match=named):
        Grid(**{**whole, **asked})


def test_a_test_split_of_one_kind_is_refused_before_anything_is_painted(line: Config, real: SampleSet) -> None:
    good = real.where(lambda one: one.split != "test" or one.label == GOOD)
    with pytest.raises(DatasetError, match="the test split holds 3 good and 0 defective"):
        run(line, good)
    assert not line.output.exists()


def test_a_picture_that_cannot_be_painted_on_is_named(line: Config, real: SampleSet, queued: list[Trial]) -> None:
    path = real.root / real.samples[0].image
    path.write_bytes(path.read_bytes()[:40])
    tables = run(line, real, Grid(("memseg",), (3,), ("zero",), 1))
    assert not tables.rows[0].ran and str(path) in tables.missing[0]
