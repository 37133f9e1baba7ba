"""`diagline evaluate` as a user meets it: one run, several seeds, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny_line import Diagline, Line, refused

from diagline import config as configs
from diagline import pages, samples, verbs, verbs_seeds
from diagline.samples import Sample, SampleSet
from training import student, student_spec

FORMS = ["teacher", "student", "student_alone", "onnx_fp32", "onnx_int8", "tflite_int8"]


@pytest.fixture
def copy(line: Line, tmp_path: Path) -> tuple[Path, str]:
    """The line's output where a test may spoil it, and the option that points there."""
    target = tmp_path / "copy"
    shutil.copytree(line.output, target, copy_function=os.link)  # outputs are replaced, never written into
    return target, f'output="{target}"'


def test_json_and_page_hold_everything(line: Line, copy: tuple[Path, str], diagline: Diagline) -> None:
    output, here = copy
    evaluated = diagline("evaluate", line.config, "--json", "--set", here, "--set", "evaluate.bootstrap=100")
    assert evaluated.code == 0, evaluated.err
    found = json.loads(evaluated.out)
    assert found == json.loads((output / "evaluation" / "metrics.json").read_text())
    assert list(found["forms"]) == FORMS and found["seeds"] is None and found["shipped"] in FORMS[3:]
    for form in found["forms"].values():
        assert form["intervals"]["ap"][0] <= form["ap"] <= form["intervals"]["ap"][1]
        assert set(form["kinds"]) == {"defect"} and form["threshold_rule"]
    page = (output / "evaluation" / "report.html").read_text()
    for words in ("Each kind of defect", "How far to trust", f"Worst misses of {found['shipped']}", "Curves"):
        assert words in page
    assert "validation" in page and "what the network saw there" in page


def test_both_students_stand_in_table_and_page(line: Line, copy: tuple[Path, str], diagline: Diagline) -> None:
    output, here = copy
    evaluated = diagline("evaluate", line.config, "--set", here)
    assert evaluated.code == 0, evaluated.err
    assert "student alone" in evaluated.err
    assert "student alone" in (output / "evaluation" / "report.html").read_text()
    assert list(json.loads((output / "evaluation" / "metrics.json").read_text())["forms"])[1:3] == [
        "student",
        "student_alone",
    ]


def test_the_papers_threshold_is_said_in_words(line: Line, copy: tuple[Path, str], diagline: Diagline) -> None:
    output, here = copy
    evaluated = diagline("evaluate", line.config, "--set", here, "--set", "evaluate.threshold=best_f1")
    words = "best F1 on the test split itself"
    assert words in " ".join(evaluated.err.split()) and words in (output / "evaluation" / "report.html").read_text()
    assert "never used to choose" not in (output / "evaluation" / "report.html").read_text()


def test_a_bundle_of_an_older_student_is_refused(line: Line, copy: tuple[Path, str], diagline: Diagline) -> None:
    output, here = copy
    path = output / "student" / "student.pt"
    student.save(student.load(path), path, {"trained": "again"})
    refused(diagline("evaluate", line.config, "--set", here), "tiny.bundle", "student.pt", "diagline export")


def test_a_bundle_for_another_input_is_refused(line: Line, copy: tuple[Path, str], diagline: Diagline) -> None:
    output, here = copy
    wide = configs.load(line.config, ("input.width_px=96",)).input
    student.save(student.Student(student_spec.spec("S10", wide)), output / "student" / "student.pt", {})
    (output / "teacher" / "run.json").unlink()
    shutil.rmtree(output / "student_alone")
    outcome = diagline("evaluate", line.config, "--set", here, "--set", "input.width_px=96")
    refused(outcome, "tiny.bundle", "48x64x1", "96x64x1")


def test_the_terminals_table_drops_leading_zeros_and_no_others(line: Line) -> None:
    found = verbs.evaluate(configs.load(line.config, (f'output="{line.output}"', "evaluate.bootstrap=100")))
    row = found.rows["teacher"]
    metrics = replace(row.metrics, ap=0.875, escape=0.3, overkill=0.005)
    shown = replace(found, rows={"teacher": replace(row, metrics=metrics, size_bytes=10_040_000)})
    Console(width=150, file=(text := StringIO())).print(pages.side_by_side(shown))
    cells = next(words for words in map(str.split, text.getvalue().splitlines()) if words[:1] == ["teacher"])
    assert cells[1] == ".875" and cells[-4:] == ["30.0%", ".5%", "10.0", "MB"]


def test_an_overlay_is_shown_beside_each_misjudged_part(line: Line, tmp_path: Path) -> None:
    config = configs.load(line.config, (f'output="{line.output}"', "evaluate.bootstrap=100"))
    shown: list[str] = []

    def overlay(sample: Sample, image: np.ndarray) -> np.ndarray:
        shown.append(sample.image)
        return image

    found = verbs.evaluate(config)
    pages.write(tmp_path / "page.html", config, verbs.real_data(config), None, found, pages.Extra(overlay=overlay))
    metrics = found.rows[found.shipped].metrics
    wrong = (metrics.escape * metrics.defects, metrics.overkill * (metrics.images - metrics.defects))
    assert len(shown) == sum(min(pages.SHOWN, round(count)) for count in wrong) > 0
    assert (tmp_path / "page.html").read_text().count("what the network saw there") == 2 * len(shown)


@pytest.fixture(scope="module")
def two_seeds(line: Line, tmp_path_factory: pytest.TempPathFactory) -> configs.Config:
    """The tiny line run with one seed and then with two, with a defect the expert accepted."""
    output = tmp_path_factory.mktemp("seeds")
    config = configs.load(line.config, (f'output="{output}"', "evaluate.bootstrap=100"))
    good = verbs.real_data(config).split("train").labelled(0)
    accepted = output / "studio" / "accepted"
    samples.write_image(accepted / "0.png", good.read_image(good.samples[0]))
    record = Sample("0.png", None, 1, "dent", good.samples[0].group, "train", "memseg", {})
    SampleSet(accepted, (record,)).save()
    verbs_seeds.evaluate_seeds(config, 1)
    return config


def test_every_seed_runs_the_whole_line_and_a_second_call_goes_on(
    two_seeds: configs.Config, diagline: Diagline, line: Line
) -> None:
    output = two_seeds.output
    first = [output / "seeds" / "3" / name for name in ("teacher/teacher.pt", "student/student.pt", "tiny.bundle")]
    before = [path.stat().st_mtime_ns for path in first]
    here = ("--set", f'output="{output}"', "--set", "evaluate.bootstrap=100")
    done = diagline("evaluate", line.config, "--seeds", "2", "--json", *here)
    assert done.code == 0, done.err
    assert [path.stat().st_mtime_ns for path in first] == before, "a finished seed ran again"
    assert "seed 4 (2 of 2): distill" in done.err
    found = json.loads(done.out)
    assert found["seeds"] == [3, 4] and list(found["forms"]) == FORMS
    for form in found["forms"].values():
        ap = form["figures"]["ap"]
        assert ap["std"] is not None and ap["least"] <= ap["mean"] <= ap["most"]
        assert form["kinds"]["defect"]["escape"]["mean"] == pytest.approx(form["figures"]["escape"]["mean"])
    assert found["runs"]["3"]["forms"]["student"] != found["runs"]["4"]["forms"]["student"]
    page = (output / "evaluation" / "seeds.html").read_text()
    assert "2 seeds (3 to 4)" in page and "±" in page and "Each seed" in page


def test_training_seeds_share_the_splits_and_what_the_expert_accepted(two_seeds: configs.Config) -> None:
    splits = {
        tuple((sample.image, sample.split) for sample in verbs.real_data(one))
        for one in (two_seeds, verbs_seeds.of_seed(two_seeds, 3), verbs_seeds.of_seed(two_seeds, 99))
    }
    assert len(splits) == 1
    train, _ = verbs.learning_sets(verbs_seeds.of_seed(two_seeds, 3))
    assert [sample.kind for part in train for sample in part].count("dent") == 1


def test_what_fails_names_seed_and_step(line: Line, tmp_path: Path, diagline: Diagline) -> None:
    here = ("--set", f'output="{tmp_path}"', "--set", f'data.root="{tmp_path / "nowhere"}"')
    refused(diagline("evaluate", line.config, "--seeds", "2", *here), "seed 3, generate", tmp_path / "nowhere")


def test_a_seed_beyond_the_last_is_refused(line: Line, tmp_path: Path, diagline: Diagline) -> None:
    here = ("--set", f'output="{tmp_path}"', "--set", "seed=4294967295")
    refused(diagline("evaluate", line.config, "--seeds", "2", *here), "4294967296")
