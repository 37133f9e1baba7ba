"""What OpenVINO makes of a student's files: the precision that is said, and the heat of the engine it stands in for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_students import lively, pictures

from diagline.bundle import FORMATS, Format, HeatOutput
from diagline.preprocess import InputContract
from diagline.record import cpu_flags
from edge_runtime.engines.choice import BF16_FLAGS, open_engine
from edge_runtime.engines.engine import OPENVINO_BF16
from export import quantise, to_onnx, to_tflite
from training import student, student_spec

pytest.importorskip("openvino", reason="openvino is not installed: an extra of its own")
CONTRACT = InputContract(48, 64, 3)
SPEC = student_spec.spec("S10", CONTRACT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Format]]:
    """A student's three files, and what a manifest says of them."""
    folder = tmp_path_factory.mktemp("made")
    network = student.fold(lively(SPEC))
    fp32 = to_onnx.student_onnx(network)
    int8 = {
        "onnx_int8": quantise.quantise_onnx(fp32, pictures(SPEC, 16)),
        "tflite_int8": to_tflite.student_tflite(network, pictures(SPEC, 16)),
    }
    grid = SPEC.heat_grid
    formats = {
        "onnx_fp32": Format(FORMATS["onnx_fp32"], "uint8", "float32", 1, 0, 0, heat=HeatOutput(grid, "float32", 1, 0))
    }
    for name, one in int8.items():
        assert one.heat is not None
        heat = HeatOutput(grid, one.heat.dtype, one.heat.scale, one.heat.zero_point)
        first = "int8" if name == "tflite_int8" else "uint8"
        formats[name] = Format(FORMATS[name], first, "int8", one.scale, one.zero_point, 0, heat=heat)
    for name, fmt in formats.items():
        (folder / fmt.file).write_bytes(fp32 if name == "onnx_fp32" else int8[name].data)
    return {name: (folder / fmt.file, fmt) for name, fmt in formats.items()}


def opened(made: dict[str, tuple[Path, Format]], name: str, engine: str | None) -> Any:
    path, fmt = made[name]
    return open_engine(path, name, fmt, CONTRACT, engine, 1)


@pytest.mark.parametrize(
    ("name", "engine", "said"),
    [
        ("onnx_fp32", "openvino", {"fp32"}),
        ("onnx_fp32", OPENVINO_BF16, {"bf16"}),
        ("onnx_int8", "openvino", {"int8", "int8+fp32"}),
        ("tflite_int8", "openvino", {"int8", "int8+fp32"}),
    ],
)
def test_the_precision_that_ran_is_the_one_that_was_asked_for_and_is_said(
    name: str, engine: str, said: set[str], made: dict[str, tuple[Path, Format]]
) -> None:
    if engine == OPENVINO_BF16 and not BF16_FLAGS & cpu_flags():
        pytest.skip("this processor has no bf16")
    assert opened(made, name, engine).precision in said


@pytest.mark.parametrize("name", FORMATS)
def test_logit_and_heat_are_those_of_the_formats_own_engine(name: str, made: dict[str, tuple[Path, Format]]) -> None:
    own, other = opened(made, name, None), opened(made, name, "openvino")
    with pytest.raises(RuntimeError, match="no heat map"):
        other.heat()
    fmt = made[name][1]
    assert fmt.heat is not None
    for image in pictures(SPEC, 8, seed=1):
        assert abs(own.infer(image) - other.infer(image)) <= (1 if fmt.output_dtype == "int8" else 1e-3)
        mine, others = own.heat(), other.heat()
        assert mine.shape == others.shape == SPEC.map_size
        assert np.abs(mine - others).max() <= (fmt.heat.scale * 1.01 if fmt.output_dtype == "int8" else 1e-2)
