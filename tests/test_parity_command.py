"""`diagline parity` and the gate of `diagline export` as a user meets them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_line import Diagline, Line

from diagline import bundle as bundles
from diagline.bundle import FORMATS
from edge_runtime.engines.choice import open_engine
from edge_runtime.engines.engine import FakeEngine
from export import climb, trial

FORMS = ["torch", *FORMATS, "tflite_reference", "tflite_micro", "c_engine"]


@pytest.fixture
def output(line: Line, tmp_path: Path) -> Path:
    """The line's output where a test may spoil it."""
    shutil.copytree(line.output, tmp_path / "out", copy_function=os.link)  # outputs are replaced, never written into
    return tmp_path / "out"


def forms(outcome: Any) -> list[str]:
    return list(json.loads(outcome.out)["forms"])


def test_every_form_climbs_down_the_ladder_and_the_report_lies_where_it_says(
    line: Line, tmp_path: Path, diagline: Diagline
) -> None:
    found = diagline("parity", line.bundle, line.data, "--allow-unsigned", "--json", "--flips", 1, "--output", tmp_path)
    assert found.code == 0, found.err
    body = json.loads(found.out)
    assert list(body["forms"]) == FORMS
    assert body["micro_equals_reference"] == body["engine_equals_micro"] == body["pictures"] > 0
    assert body["golden"] == len(bundles.read(line.bundle).golden)
    assert body["forms"]["onnx_fp32"]["difference"] < 1e-4 and body["forms"]["onnx_int8"]["errors"]
    assert json.loads((tmp_path / "parity.json").read_text()) == body
    assert "Layer by layer" in (tmp_path / "parity.html").read_text()


def test_the_manifest_keeps_what_the_ladder_said_at_export(line: Line) -> None:
    kept = bundles.read(line.bundle).manifest.parity
    assert kept is not None and list(kept["forms"]) == FORMS and kept["refusals"] == []
    assert kept["micro_equals_reference"] == kept["engine_equals_micro"] == kept["pictures"]
    assert (line.output / "parity" / "student.html").is_file()


def test_without_the_checkpoint_onnx_fp32_is_the_top_and_it_is_said(
    line: Line, output: Path, tmp_path: Path, diagline: Diagline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(climb, "STUDENT", "elsewhere")
    found = diagline("parity", line.bundle, line.data, "--allow-unsigned", "--json", "--flips", 1, "--output", tmp_path)
    assert found.code == 0 and forms(found) == FORMS[1:] and "--checkpoint" in found.err


def test_another_checkpoint_is_refused(line: Line, tmp_path: Path, diagline: Diagline) -> None:
    other = line.output / "student_alone" / "student.pt"
    found = diagline("parity", line.bundle, line.data, "--allow-unsigned", "--checkpoint", other, "--output", tmp_path)
    assert found.code == 2 and f"{other}: SHA-256" in found.err and "was made of" in found.err


def broken(path: Path, name: str, *rest: Any, **more: Any) -> Any:
    return FakeEngine([-128.0]) if name == "tflite_int8" else open_engine(path, name, *rest, **more)


def test_a_bundle_whose_forms_disagree_ends_with_exit_code_3_and_the_report(
    line: Line, tmp_path: Path, diagline: Diagline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(climb, "open_engine", broken)
    found = diagline("parity", line.bundle, line.data, "--allow-unsigned", "--flips", 0.1, "--output", tmp_path)
    assert found.code == 3 and "tflite_int8 flips" in found.err and str(tmp_path / "parity.html") in found.err
    assert "the forms disagree" in (tmp_path / "parity.html").read_text()


def test_an_export_whose_forms_disagree_is_refused_with_exit_code_3_and_the_old_bundle_stays(
    line: Line, output: Path, diagline: Diagline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bundles.read(output / "tiny.bundle")
    monkeypatch.setattr(trial, "open_engine", broken)
    found = diagline("export", line.config, "--set", f'output="{output}"', "--set", "export.flips=0.01")
    assert found.code == 3 and "tflite_int8 flips" in found.err
    assert str(output / "parity" / "student.html") in found.err and "export.flips" in found.err
    assert "the forms disagree" in (output / "parity" / "student.html").read_text()
    assert bundles.read(output / "tiny.bundle").sha256 == before.sha256


def test_a_folder_that_is_no_bundle_and_one_without_pictures_are_refused(
    line: Line, tmp_path: Path, diagline: Diagline
) -> None:
    nothing = diagline("parity", tmp_path, line.data)
    assert nothing.code == 2 and "expected a bundle folder" in nothing.err
    empty = diagline("parity", line.bundle, tmp_path, "--allow-unsigned")
    assert empty.code == 2 and str(tmp_path) in empty.err
