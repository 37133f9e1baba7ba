"""Every form on the same pictures: refused where it is another's, and luck told from skill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_students import lively, logits, pictures

from diagline.config import Config, DataConfig, EvaluateConfig, StudentConfig
from diagline.errors import DatasetError, DiaglineError, ExportError
from diagline.preprocess import InputContract
from diagline.samples import Sample, SampleSet
from export import over_seeds
from export.compare import BEST_F1, Comparison, Row, Threshold, compare
from training import evaluate, intervals, student, student_spec, teacher

CONTRACT = InputContract(48, 64, 3)
SPEC = student_spec.spec("S10", CONTRACT)
VALIDATION = "best F1 on the validation split"


class Line:
    """A random teacher and a student, and test parts of two kinds that the student mostly tells apart."""

    def __init__(self, root: Path) -> None:
        self.config = Config(
            "line",
            root / "out",
            DataConfig(root),
            CONTRACT,
            student=StudentConfig(size="S10"),
            evaluate=EvaluateConfig(bootstrap=100),
        )
        network = lively(SPEC)
        student.save(network, self.config.output / "student" / "student.pt", {})
        torch.manual_seed(0)
        teacher.save(teacher.Teacher(), self.config.output / "teacher" / "teacher.pt", {})
        images = pictures(SPEC, 24)
        said = logits(network, images)
        order = np.argsort(np.argsort(said))
        samples = []
        for index, image in enumerate(images):
            cv2.imwrite(str(root / f"{index:03}.png"), image[:, :, ::-1])
            label = int(order[index] >= 14 or order[index] == 5)  # one defect among the good
            kind = ("crack" if index % 2 else "hole") if label else "good"
            samples.append(Sample(f"{index:03}.png", None, label, kind, f"part{index // 2}", "test"))
        self.test = SampleSet(root, tuple(samples))
        middle = float(np.sort(said)[13:15].mean())
        self.thresholds = {name: Threshold(middle, VALIDATION) for name in ("teacher", "student")}

    def compare(self, config: Config | None = None, **thresholds: Threshold) -> Comparison:
        return compare(config or self.config, self.test, {**self.thresholds, **thresholds})


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(tmp_path_factory.mktemp("line"))


@pytest.fixture
def moved(line: Line, tmp_path: Path) -> Callable[[], Config]:
    """A config whose output a test may spoil."""

    def make() -> Config:
        for name in ("teacher", "student"):
            (tmp_path / "out" / name).mkdir(parents=True)
            made = f"{name}/{name}.pt"
            (tmp_path / "out" / made).hardlink_to(line.config.output / made)
        return replace(line.config, output=tmp_path / "out")

    return make


def refused(call: Callable[[], object], error: type[DiaglineError], *named: object) -> None:
    with pytest.raises(error) as caught:
        call()
    for name in named:
        assert str(name) in str(caught.value), caught.value


def test_a_row_holds_figures_intervals_and_kinds_and_all_of_it_goes_to_json(line: Line) -> None:
    found = line.compare()
    assert (list(found.rows), found.shipped, found.ap) == (["teacher", "student"], "student", "ap")
    row = found.rows["student"]
    assert row.metrics.escape == pytest.approx(1 / 11) and row.metrics.overkill == 0
    assert sum(kind.missed for kind in row.kinds.values()) == 1 and set(row.kinds) == {"crack", "hole"}
    interval = row.intervals["escape"]
    assert interval and interval.low <= row.metrics.escape <= interval.high and interval.high > interval.low
    plain = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert plain["forms"]["student"]["ap"] == row.metrics.ap
    assert plain["forms"]["student"]["intervals"]["escape"] == [interval.low, interval.high]
    assert plain["forms"]["student"]["threshold_rule"] == VALIDATION
    assert plain["test"]["defects"] == 11 and plain["test"]["good"] == 13 and plain["test"]["defect_groups"] <= 11


def test_the_student_without_a_teacher_stands_beside_the_one_with(line: Line, moved: Callable[[], Config]) -> None:
    config = moved()
    student.save(lively(SPEC, seed=5), config.output / "student_alone" / "student.pt", {})
    found = line.compare(config, student_alone=Threshold(0.0, VALIDATION))
    assert list(found.rows) == ["teacher", "student", "student_alone"]
    assert not np.array_equal(found.rows["student"].logits, found.rows["student_alone"].logits)


def test_the_papers_rule_takes_the_threshold_from_the_test_split_and_says_so(line: Line) -> None:
    config = replace(line.config, evaluate=EvaluateConfig("trapezoid", "best_f1", 100))
    found = line.compare(config, student=Threshold(1e6, VALIDATION))
    assert found.ap == "ap_trapezoid" and list(found.rules) == [BEST_F1]
    for row in found.rows.values():
        assert row.threshold == evaluate.choose_threshold(found.labels, row.logits)
        assert row.metrics.recall == row.metrics.recall_at_best_f1
        assert row.metrics.precision == row.metrics.precision_at_best_f1


@pytest.mark.parametrize("other", [{"width_px": 64}, {"channels": 1}])
def test_a_student_of_another_input_is_refused_naming_both(line: Line, other: dict[str, int]) -> None:
    config = replace(line.config, input=replace(CONTRACT, **other))
    asked = f"{config.input.width_px}x{config.input.height_px}x{config.input.channels}"
    refused(lambda: line.compare(config), ExportError, "student.pt", "48x64x3", asked)


def test_a_student_of_another_size_is_refused(line: Line) -> None:
    config = replace(line.config, student=StudentConfig(size="S30"))
    refused(lambda: line.compare(config), ExportError, "student.pt", "MMAC", "S30")


def test_a_teacher_trained_for_another_input_is_refused_naming_both(line: Line, moved: Callable[[], Config]) -> None:
    config = moved()
    trained = replace(config, input=InputContract(96, 64, 3))
    (config.output / "teacher" / "run.json").write_text(json.dumps({"config": trained.plain()}))
    refused(lambda: line.compare(config), ExportError, "teacher.pt", "96x64x3", "48x64x3")


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_is_said_before_anything_is_opened(line: Line, label: int) -> None:
    config = replace(line.config, output=Path("/nowhere"))
    test = line.test.labelled(label)
    counts = f"{len(test) * (1 - label)} good and {len(test) * label} defective"
    refused(lambda: compare(config, test, line.thresholds), DatasetError, counts)


def test_scores_that_are_no_numbers_name_form_and_picture(line: Line, moved: Callable[[], Config]) -> None:
    config = moved()
    broken = lively(SPEC)
    with torch.no_grad():
        broken.fc.bias.fill_(float("nan"))
    student.save(broken, config.output / "student" / "student.pt", {})
    refused(lambda: line.compare(config), DatasetError, "student.pt", "nan", "000.png", "24 of 24")


def made(test: SampleSet, logits: NDArray[np.float64], forms: tuple[str, ...] = ("teacher",)) -> Comparison:
    """A comparison without networks; the threshold is 0."""
    labels = np.array([sample.label for sample in test])
    kinds, groups = [sample.kind for sample in test], [sample.group for sample in test]
    row = Row(
        evaluate.measure(labels, logits, 0.0),
        logits,
        0.0,
        VALIDATION,
        1,
        evaluate.by_kind(kinds, labels, logits, 0.0),
        intervals.bootstrap(labels, logits, 0.0, groups, 100, 0),
    )
    return Comparison(test, labels, dict.fromkeys(forms, row), "teacher", "ap", 100)


def parts(count: int = 40) -> SampleSet:
    kinds = ("good", "good", "crack", "hole")
    return SampleSet(
        Path("/nowhere"),
        tuple(Sample(f"{i}.png", None, int(i % 4 > 1), kinds[i % 4], str(i), "test") for i in range(count)),
    )


def runs(test: SampleSet, seeds: int) -> dict[int, Comparison]:
    truth = np.array([sample.label for sample in test])
    return {seed: made(test, np.random.default_rng(seed).normal(2.0 * truth - 1, 1.0)) for seed in range(7, 7 + seeds)}


def test_means_and_deviations_are_those_of_the_runs() -> None:
    several = runs(parts(), 5)
    found = over_seeds.summarise(several, 200, 0)
    aps = [run.rows["teacher"].metrics.ap for run in several.values()]
    ap = found.forms["teacher"]["ap"]
    assert (ap.mean, ap.std) == (pytest.approx(np.mean(aps)), pytest.approx(np.std(aps, ddof=1)))
    assert (ap.least, ap.most, ap.values) == (min(aps), max(aps), tuple(aps))
    assert ap.low is not None and ap.high is not None and ap.low < ap.mean < ap.high
    escapes = [run.rows["teacher"].kinds["hole"].escape for run in several.values()]
    assert found.kinds["teacher"]["hole"]["escape"].mean == pytest.approx(np.mean(escapes))
    plain = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert plain["seeds"] == [7, 8, 9, 10, 11] and plain["runs"]["9"]["forms"]["teacher"]["ap"] == aps[2]
    assert "threshold" not in plain["forms"]["teacher"]["figures"] and found.note == ""


def test_one_seed_has_no_deviation_and_that_is_said() -> None:
    found = over_seeds.summarise(runs(parts(), 1), 100, 0)
    assert found.forms["teacher"]["ap"].std is None
    assert "no deviation" in found.note


def test_seeds_on_other_test_pictures_are_refused() -> None:
    several = {**runs(parts(), 1), 8: made(parts(36), np.linspace(-1, 1, 36))}
    refused(lambda: over_seeds.summarise(several, 100, 0), DatasetError, "seed 8", "(36)", "(40)", "split_seed")


def test_a_form_that_one_seed_lacks_is_left_out_by_name() -> None:
    test = parts()
    both = made(test, np.linspace(-1, 1, 40), ("teacher", "onnx_int8"))
    found = over_seeds.summarise({7: both, 8: made(test, np.linspace(-1, 1, 40))}, 100, 0)
    assert (list(found.forms), found.left_out) == (["teacher"], ("onnx_int8",))
    assert "onnx_int8" in found.note
