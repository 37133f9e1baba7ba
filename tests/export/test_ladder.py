"""The ladder finds what the forms of one network disagree on, and its gate refuses them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diagline.bundle import Format
from diagline.preprocess import InputContract
from diagline.samples import Sample, SampleSet
from export import ladder, ladder_page
from export.ladder import ENGINE, MICRO, REFERENCE, Forms, Ladder
from export.parity import Parity

FLOAT = Format("model.fp32.onnx", "uint8", "float32", 1.0, 0, 1.0)
INT8 = Format("model.int8.tflite", "int8", "int8", 0.5, 10, 12)  # a logit of 1.0
FORMATS = {"onnx_fp32": FLOAT, "tflite_int8": INT8, REFERENCE: INT8, MICRO: INT8, ENGINE: INT8}
LOGITS = [0.9, 1.1, -3.0, 4.0]  # PASS, REJECT, PASS, REJECT
STEPS = [11.0, 12.0, 4.0, 18.0]  # the same verdicts in int8


class Net:
    """Stands for a torch network, whose logits are given."""


def said(labels: list[int], **outputs: list[float]) -> Parity:
    home = SampleSet(Path(), tuple(Sample(f"{i}.png", None, one, "x", str(i), "test") for i, one in enumerate(labels)))
    values = {"onnx_fp32": LOGITS} | dict.fromkeys(list(FORMATS)[1:], STEPS) | outputs
    return Parity(
        tuple((home, sample) for sample in home),
        np.array(LOGITS),
        {name: np.array(found) for name, found in values.items()},
    )


def built(pictures: Parity, golden: Parity | None = None, network: object = Net()) -> Ladder:
    forms = Forms(network, None, InputContract(16, 16), FORMATS, {}, {})  # type: ignore[arg-type]
    return ladder.build(forms, pictures, golden or said([0, 1, 0, 1]))


def test_forms_that_agree_open_the_gate() -> None:
    found = built(said([0, 1, 0, 1]))
    assert [step.form for step in found.steps] == ["torch", "onnx_fp32", "tflite_int8", REFERENCE, MICRO, ENGINE]
    assert found.refusals(0.0) == [] and found.exact == found.pictures == 4
    assert all(not step.flips and step.ap == 1.0 for step in found.steps)


def test_flips_are_counted_against_the_top_and_against_the_form_above() -> None:
    found = built(said([0, 1, 0, 1], tflite_int8=[12.0, 11.0, 4.0, 18.0], tflite_micro=[12.0, 12.0, 4.0, 18.0]))
    by_form = {step.form: step for step in found.steps}
    int8 = by_form["tflite_int8"]
    assert [flip.picture for flip in int8.flips] == ["0.png", "1.png"] and int8.flips_above == 2
    assert (int8.flips[0].top, int8.flips[0].found, int8.flips[1].label) == (pytest.approx(-0.1), 0.0, 1)
    assert by_form[REFERENCE].flips == () and by_form[REFERENCE].flips_above == 2  # back again
    assert len(by_form[MICRO].flips) == 1 and by_form[MICRO].difference_above == 0.5
    assert by_form["onnx_fp32"].difference == 0.0


@pytest.mark.parametrize(("allowed", "refused"), [(0.5, False), (0.49, True)])
def test_the_gate_allows_the_stated_share_of_flips_and_no_more(allowed: float, refused: bool) -> None:
    flipped = [12.0, 11.0, 4.0, 18.0]
    found = built(said([0, 1, 0, 1], tflite_int8=flipped))
    assert bool(found.refusals(allowed)) is refused
    if refused:
        assert "tflite_int8 flips 2 of 4 verdicts of torch (50.00%; at most 49.00%" in found.refusals(allowed)[0]


@pytest.mark.parametrize("form", list(FORMATS))
def test_no_golden_defect_may_pass_in_any_form_whatever_share_is_allowed(form: str) -> None:
    passed = {form: [0.9, 1.1, -3.0, -4.0] if form == "onnx_fp32" else [11.0, 12.0, 4.0, 2.0]}
    found = built(said([0, 1, 0, 1]), said([0, 1, 0, 1], **passed))
    assert found.refusals(0.99) == [f"golden defect passed by {form}: 3.png"] and found.refusals(1.0) == []
    good = built(said([0, 1, 0, 1]), said([0, 1, 0, 0], **passed))  # a good part that passes is none
    assert good.refusals(0.99) == []


def test_a_single_bit_between_micro_and_reference_kernels_shuts_the_gate() -> None:
    found = built(said([0, 1, 0, 1], tflite_micro=[11.0, 12.0, 4.0, 19.0]))
    assert found.exact == 3 and f"{MICRO} differs from {REFERENCE} on 1 of 4 pictures" in found.refusals(1.0)


def test_a_single_bit_between_the_c_engine_and_micro_shuts_the_gate() -> None:
    found = built(said([0, 1, 0, 1], c_engine=[11.0, 12.0, 4.0, 19.0]))
    assert (found.exact, found.engine_exact) == (4, 3)
    assert found.refusals(1.0) == [f"{ENGINE} differs from {MICRO} on 1 of 4 pictures"]


def test_without_torch_the_first_file_is_the_top() -> None:
    shown = replace(said([0, 1, 0, 1], tflite_int8=[12.0, 12.0, 4.0, 18.0]), logits=np.full(4, np.nan))
    found = built(shown, network=None)
    assert found.steps[0].form == "onnx_fp32" and len(found.steps[1].flips) == 1
    assert found.steps[1].flips[0].top == pytest.approx(-0.1) and np.isfinite(found.steps[1].difference)


def test_pictures_of_one_class_have_flips_and_no_ap() -> None:
    found = built(said([1, 1, 1, 1]))
    assert {step.ap for step in found.steps} == {None} and found.refusals(0.0) == []


def test_the_report_shows_flipped_pictures_with_their_margins(tmp_path: Path) -> None:
    import cv2

    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((8, 8, 3), index, np.uint8))
    shown = said([0, 1, 0, 1], tflite_int8=[12.0, 12.0, 4.0, 18.0])
    home = SampleSet(tmp_path, tuple(sample for _, sample in shown.shown))
    shown = replace(shown, shown=tuple((home, sample) for sample in home))
    found = built(shown)
    ladder_page.write(tmp_path / "parity.html", "line", found, shown.shown, 0.1)
    page, kept = (tmp_path / "parity.html").read_text(), json.loads((tmp_path / "parity.json").read_text())
    assert "0.png, good: torch -0.10, tflite_int8 +0.00" in page and "the forms disagree" in page
    assert page.count("<figure>") == 1
    assert kept["forms"]["tflite_int8"]["flips"][0]["picture"] == "0.png" and kept["refusals"]
