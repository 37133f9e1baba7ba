"""Golden vectors allow an engine's rounding and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from diagline.bundle import Bundle
from edge_runtime.engines.engine import OPENVINO_BF16, FakeEngine
from edge_runtime.selftest import self_test


def answers(bundle: Bundle, name: str, by: float, at: int = 2) -> FakeEngine:
    """An engine that gives the golden outputs, but one of them `by` off."""
    golden = [vector.outputs[name] for vector in bundle.golden]
    golden[at] += by
    return FakeEngine(golden)


@pytest.mark.parametrize(("name", "by", "passes"), [("onnx_fp32", 0.04, True), ("onnx_fp32", 0.3, False)])
def test_bf16_may_stray_by_a_twentieth_and_no_other_engine(name: str, by: float, passes: bool, bundle: Bundle) -> None:
    loose = answers(bundle, name, by)
    loose.name = OPENVINO_BF16
    assert (self_test(bundle, name, loose).fault is None) == passes
    assert self_test(bundle, name, answers(bundle, name, by)).fault is not None


def test_bf16_may_not_flip_a_verdict(bundle: Bundle) -> None:
    edge = bundle.golden[2].outputs["onnx_fp32"] + 0.04
    formats = {name: replace(fmt, threshold=edge) for name, fmt in bundle.manifest.formats.items()}
    tight = replace(bundle, manifest=replace(bundle.manifest, formats=formats))
    loose = answers(tight, "onnx_fp32", 0.05)
    loose.name = OPENVINO_BF16
    assert "flips" in str(self_test(tight, "onnx_fp32", loose).fault)


@pytest.mark.parametrize(
    ("name", "by", "passes"),
    [
        ("onnx_int8", 0, True),
        ("onnx_int8", 1, True),
        ("onnx_int8", -1, True),
        ("onnx_int8", 2, False),
        ("tflite_int8", -2, False),
        ("onnx_fp32", 0.0009, True),
        ("onnx_fp32", -0.01, False),
        ("onnx_fp32", float("nan"), False),
    ],
)
def test_one_step_or_a_thousandth_is_rounding_and_more_is_not(
    name: str, by: float, passes: bool, bundle: Bundle
) -> None:
    found = self_test(bundle, name, answers(bundle, name, by))
    assert found.checked == 4
    assert (found.fault is None) == passes
    if not passes:
        assert len(found.failures) == 1 and bundle.golden[2].image in str(found.fault)


def test_a_verdict_that_flips_fails_even_within_one_step(bundle: Bundle) -> None:
    edge = bundle.golden[2].outputs["onnx_int8"] + 1
    formats = {name: replace(fmt, threshold=edge) for name, fmt in bundle.manifest.formats.items()}
    tight = replace(bundle, manifest=replace(bundle.manifest, formats=formats))
    assert self_test(tight, "onnx_int8", answers(tight, "onnx_int8", 0)).fault is None
    assert "flips" in str(self_test(tight, "onnx_int8", answers(tight, "onnx_int8", 1)).fault)


def test_an_engine_that_throws_fails_every_picture(bundle: Bundle) -> None:
    found = self_test(bundle, "onnx_fp32", FakeEngine([RuntimeError("no such device")]))
    assert len(found.failures) == 4 and "no such device" in str(found.fault)


def test_a_golden_picture_that_went_missing_fails(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "x.bundle")
    (bundle.root / bundle.golden[0].image).unlink()
    found = self_test(bundle, "onnx_fp32", answers(bundle, "onnx_fp32", 0))
    assert bundle.golden[0].image in found.failures[0]


def test_a_format_without_golden_outputs_fails(bundle: Bundle) -> None:
    other = replace(bundle, golden=tuple(replace(vector, outputs={}) for vector in bundle.golden))
    assert "no golden output" in str(self_test(other, "onnx_fp32", FakeEngine([0.0])).fault)
