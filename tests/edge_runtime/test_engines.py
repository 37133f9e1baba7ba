"""Engines answer in the file's own domain, and refuse a file that is not what the manifest says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagline.bundle import Bundle, Format
from diagline.errors import BundleError, ConfigError, MissingExtraError
from diagline.preprocess import InputContract
from edge_runtime.engines import Engine, open_engine, shift_to_i8

FILE = {"onnx_fp32": "model.fp32.onnx", "onnx_int8": "model.int8.onnx", "tflite_int8": "model.int8.tflite"}
ALL = tuple(FILE)


def opened(bundle: Bundle, name: str, threads: int = 1) -> Engine:
    return open_engine(bundle.path(name), name, bundle.manifest.formats[name], bundle.manifest.input, None, threads)


def test_the_xor_is_uint8_minus_128_for_every_value() -> None:
    every = np.arange(256, dtype=np.uint8)
    out = np.zeros(256, np.int8)
    shift_to_i8(every, out)
    assert out.tolist() == [value - 128 for value in range(256)]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_format_answers_in_its_own_domain(name: str, threads: int, bundle: Bundle) -> None:
    engine = opened(bundle, name, threads)
    fmt = bundle.manifest.formats[name]
    rng = np.random.default_rng([7, threads])
    for level in (0, 64, 127, 128, 255):
        image = rng.integers(max(0, level - 9), min(255, level + 9) + 1, (16, 16, 3)).astype(np.uint8)
        expected = 8 * float(image.mean()) / 255 - 4
        allowed = 1.01 * fmt.scale if fmt.output_dtype == "int8" else 1e-4
        raw = engine.infer(image)
        at_edge = fmt.output_dtype == "int8" and raw in (-128, 127)
        assert at_edge or abs(fmt.to_logit(raw) - expected) <= allowed
        assert fmt.output_dtype == "float32" or raw == int(raw)


@pytest.mark.parametrize("name", ALL)
def test_a_picture_leaves_no_trace_in_the_next(name: str, bundle: Bundle) -> None:
    engine = opened(bundle, name)
    dark, bright = np.full((16, 16, 3), 20, np.uint8), np.full((16, 16, 3), 230, np.uint8)
    first = engine.infer(dark)
    assert engine.infer(bright) > first
    assert engine.infer(dark) == first
    assert dark.min() == dark.max() == 20


@pytest.mark.parametrize("name", ALL)
def test_a_file_of_another_size_than_the_contract_is_refused(name: str, bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=rf"{FILE[name]}.*16, 16, 3.*\[1, 16, 32, 3\]"):
        open_engine(bundle.path(name), name, bundle.manifest.formats[name], InputContract(32, 16), None, 1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("key", ["input_dtype", "output_dtype"])
def test_a_file_of_another_type_than_the_manifest_is_refused(name: str, key: str, bundle: Bundle) -> None:
    fmt = bundle.manifest.formats[name]
    other = {"uint8": "int8", "int8": "uint8", "float32": "int8"}[getattr(fmt, key)]
    change: dict[str, Any] = {key: other}
    with pytest.raises(BundleError, match=key.partition("_")[0]):
        open_engine(bundle.path(name), name, replace(fmt, **change), bundle.manifest.input, None, 1)


@pytest.mark.parametrize("name", ALL)
def test_a_file_that_is_no_network_is_refused(name: str, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / FILE[name]
    path.write_bytes(b"not a network, whatever its name says" * 9)
    with pytest.raises(BundleError, match="cannot open it"):
        open_engine(path, name, bundle.manifest.formats[name], bundle.manifest.input, None, 1)


@pytest.mark.parametrize(("name", "engine"), [("onnx_int8", "litert"), ("tflite_int8", "onnxruntime"), ("caffe", None)])
def test_a_pairing_that_cannot_run_is_refused(name: str, engine: str | None, formats: dict[str, Format]) -> None:
    with pytest.raises(ConfigError, match=name):
        open_engine(Path("x"), name, next(iter(formats.values())), InputContract(16, 16), engine, 1)


@pytest.mark.parametrize("name", ALL)
def test_a_missing_engine_names_the_extra(name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnxruntime", "ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"diagline\[edge\]"):
        opened(bundle, name)


ONE_ENGINE = """
import sys
from pathlib import Path
bundle, name, other = sys.argv[1:]
sys.modules[other] = None  # as if it were not installed
from diagline import bundle as bundles
from edge_runtime import bench
from edge_runtime.camera import open_camera
from edge_runtime.loop import open_inspector, run
read = bundles.read(Path(bundle))
inspector = open_inspector(read, name, 2)
assert inspector.fault is None, inspector.fault
with open_camera(str(read.root / "golden")) as camera:
    print(run(inspector, camera, []))
heavy = {"torch", "tensorflow", "diffusers", "sklearn", "matplotlib", "onnx", "keras"}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("name", ALL)
def test_a_box_with_one_engine_and_no_training_library_inspects_in_silence(name: str, bundle: Bundle) -> None:
    other = "onnxruntime" if name.startswith("tflite") else "ai_edge_litert"
    command = [sys.executable, "-c", ONE_ENGINE, str(bundle.root), name, other]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["4 frames: 2 PASS, 2 REJECT, 0 NO_DECISION", "[]"]
