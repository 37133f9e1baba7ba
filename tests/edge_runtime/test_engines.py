"""Engines answer in the file's own domain, and refuse a file that is not what the manifest says.

OpenVINO is no part of the edge extra: its cases skip where it is not installed.
"""

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
from diagline.record import cpu_flags
from edge_runtime.engines import choice
from edge_runtime.engines.choice import BF16_FLAGS, engines_of, missing, open_engine
from edge_runtime.engines.engine import OPENVINO_BF16, Engine, shift_to_i8
from edge_runtime.selftest import self_test

FILE = {"onnx_fp32": "model.fp32.onnx", "onnx_int8": "model.int8.onnx", "tflite_int8": "model.int8.tflite"}
ALL = tuple(FILE)
RUNS = [(name, engine) for name in ALL for engine in engines_of(name) if engine != OPENVINO_BF16]
LIBRARY = {"onnxruntime": "onnxruntime", "litert": "ai_edge_litert", "openvino": "openvino"}


@pytest.fixture(params=RUNS, ids=lambda pair: "-".join(pair))
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A format and an engine that runs it."""
    name, engine = request.param
    pytest.importorskip(LIBRARY[engine], reason=f"{engine} is not installed: an extra of its own")
    return name, engine


def opened(bundle: Bundle, pair: tuple[str, str], threads: int = 1) -> Engine:
    return reopened(bundle, pair, bundle.manifest.formats[pair[0]], bundle.manifest.input, threads)


def reopened(bundle: Bundle, pair: tuple[str, str], fmt: Format, contract: InputContract, threads: int = 1) -> Engine:
    return open_engine(bundle.path(pair[0]), pair[0], fmt, contract, pair[1], threads)


def bf16() -> None:
    pytest.importorskip("openvino", reason="openvino is not installed: an extra of its own")
    if not BF16_FLAGS & cpu_flags():
        pytest.skip("this processor has no bf16")


def test_the_xor_is_uint8_minus_128_for_every_value() -> None:
    every = np.arange(256, dtype=np.uint8)
    out = np.zeros(256, np.int8)
    shift_to_i8(every, out)
    assert out.tolist() == [value - 128 for value in range(256)]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_format_answers_in_its_own_domain(pair: tuple[str, str], threads: int, bundle: Bundle) -> None:
    engine = opened(bundle, pair, threads)
    assert engine.name == pair[1]
    fmt = bundle.manifest.formats[pair[0]]
    rng = np.random.default_rng([7, threads])
    for level in (0, 64, 127, 128, 255):
        image = rng.integers(max(0, level - 9), min(255, level + 9) + 1, (16, 16, 3)).astype(np.uint8)
        expected = 8 * float(image.mean()) / 255 - 4
        allowed = 1.01 * fmt.scale if fmt.output_dtype == "int8" else 1e-4
        raw = engine.infer(image)
        at_edge = fmt.output_dtype == "int8" and raw in (-128, 127)
        assert at_edge or abs(fmt.to_logit(raw) - expected) <= allowed
        assert fmt.output_dtype == "float32" or raw == int(raw)


def test_every_engine_passes_the_golden_vectors_of_the_first(pair: tuple[str, str], bundle: Bundle) -> None:
    assert self_test(bundle, pair[0], opened(bundle, pair)).fault is None


def test_a_picture_leaves_no_trace_in_the_next(pair: tuple[str, str], bundle: Bundle) -> None:
    engine = opened(bundle, pair)
    dark, bright = np.full((16, 16, 3), 20, np.uint8), np.full((16, 16, 3), 230, np.uint8)
    first = engine.infer(dark)
    assert engine.infer(bright) > first
    assert engine.infer(dark) == first
    assert dark.min() == dark.max() == 20


def test_a_file_of_another_size_than_the_contract_is_refused(pair: tuple[str, str], bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=rf"{FILE[pair[0]]}.*16, 16, 3.*\[1, 16, 32, 3\]"):
        reopened(bundle, pair, bundle.manifest.formats[pair[0]], InputContract(32, 16))


@pytest.mark.parametrize("key", ["input_dtype", "output_dtype"])
def test_a_file_of_another_type_than_the_manifest_is_refused(pair: tuple[str, str], key: str, bundle: Bundle) -> None:
    fmt = bundle.manifest.formats[pair[0]]
    other = {"uint8": "int8", "int8": "uint8", "float32": "int8"}[getattr(fmt, key)]
    change: dict[str, Any] = {key: other}
    with pytest.raises(BundleError, match=key.partition("_")[0]):
        reopened(bundle, pair, replace(fmt, **change), bundle.manifest.input)


def test_a_file_that_is_no_network_is_refused_in_one_line(
    pair: tuple[str, str], bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name, engine = pair
    path = tmp_path / FILE[name]
    path.write_bytes(b"not a network, whatever its name says" * 9)
    with pytest.raises(BundleError, match="cannot open it") as caught:
        open_engine(path, name, bundle.manifest.formats[name], bundle.manifest.input, engine, 1)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("onnx_int8", "litert"),
        ("tflite_int8", "onnxruntime"),
        ("caffe", None),
        ("onnx_int8", "openvino_bf16"),
        ("tflite_int8", "openvino_bf16"),
    ],
)
def test_a_pairing_that_cannot_run_is_refused(name: str, engine: str | None, formats: dict[str, Format]) -> None:
    with pytest.raises(ConfigError, match=name):
        open_engine(Path("x"), name, next(iter(formats.values())), InputContract(16, 16), engine, 1)


@pytest.mark.parametrize("asked", [*RUNS, ("onnx_fp32", OPENVINO_BF16)], ids=lambda pair: "-".join(pair))
def test_a_missing_engine_names_the_extra(
    asked: tuple[str, str], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("onnxruntime", "ai_edge_litert", "ai_edge_litert.interpreter", "openvino"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(choice, "cpu_flags", lambda: BF16_FLAGS)
    extra = "openvino" if asked[1].startswith("openvino") else "edge"
    with pytest.raises(MissingExtraError, match=rf"diagline\[{extra}\]"):
        opened(bundle, asked)
    assert f"diagline[{extra}]" in str(missing(asked[1]))


def test_bf16_is_refused_where_the_processor_has_none(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(choice, "require", lambda *_: None)
    with pytest.raises(ConfigError, match="this processor has no bf16"):
        opened(bundle, ("onnx_fp32", OPENVINO_BF16))
    assert missing(OPENVINO_BF16) == "this processor has no bf16" and missing("openvino") is None


def test_an_engine_of_a_later_diagline_is_missing_here() -> None:
    assert "'abacus'" in str(missing("abacus"))


def test_bf16_runs_within_what_its_self_test_allows(bundle: Bundle) -> None:
    bf16()
    assert self_test(bundle, "onnx_fp32", opened(bundle, ("onnx_fp32", OPENVINO_BF16))).fault is None


def test_an_engine_says_what_it_computes_in(pair: tuple[str, str], bundle: Bundle) -> None:
    said = opened(bundle, pair).precision.split("+")
    assert set(said) <= {"fp32", "int8"} and (pair[1] == "openvino" or said == [pair[0].partition("_")[2]])


ONE_ENGINE = """
import sys
from dataclasses import replace
from pathlib import Path
bundle, name, engine, *others = sys.argv[1:]
sys.modules.update(dict.fromkeys(others))  # as if they were not installed
from diagline import bundle as bundles
from edge_runtime.bench import measure as bench
from edge_runtime.camera import open_camera
from edge_runtime.loop import open_inspector, run
read = bundles.read(Path(bundle))
fmt = replace(read.manifest.formats[name], engines=(engine,))
manifest = replace(read.manifest, formats={name: fmt})
inspector = open_inspector(replace(read, manifest=manifest), name, 2, engine)
assert inspector.fault is None, inspector.fault
with open_camera(str(read.root / "golden")) as camera:
    print(run(inspector, camera, []))
heavy = {"torch", "tensorflow", "diffusers", "sklearn", "matplotlib", "onnx", "keras"}
print(sorted(heavy & set(sys.modules)))
"""


def test_a_box_with_one_engine_and_no_training_library_inspects_in_silence(
    pair: tuple[str, str], bundle: Bundle
) -> None:
    others = [library for engine, library in LIBRARY.items() if engine != pair[1]]
    command = [sys.executable, "-c", ONE_ENGINE, str(bundle.root), *pair, *others]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["4 frames: 2 PASS, 2 REJECT, 0 NO_DECISION", "[]"]
