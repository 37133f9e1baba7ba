"""A bundle is read whole and unchanged, or refused with the file and the reason."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diagline import bundle
from diagline.bundle import Format, Golden, HeatOutput, Manifest
from diagline.errors import BundleError
from diagline.heat import Grid
from diagline.preprocess import InputContract

MODELS = {"onnx_fp32": b"fp32 weights", "onnx_int8": b"int8 weights", "tflite_int8": b"flat buffer"}
HEAT = HeatOutput(Grid(3, 2, 8, 7, 6), "uint8", 0.25, 100)
METRICS = {"ap": 0.9, "precision": 0.8, "recall": 0.7, "escape": 0.3, "overkill": 0.1}


def a_manifest() -> Manifest:
    return Manifest(
        name="line",
        network="student",
        spec={"stem": 8},
        input=InputContract(16, 24, 3, "letterbox"),
        formats={
            "onnx_fp32": Format(
                bundle.FORMATS["onnx_fp32"], "uint8", "float32", 1.0, 0, 0.25, METRICS, ("onnxruntime",)
            ),
            "onnx_int8": Format(
                bundle.FORMATS["onnx_int8"], "uint8", "int8", 0.125, 4, 6, METRICS, ("onnxruntime",), HEAT
            ),
            "tflite_int8": Format(bundle.FORMATS["tflite_int8"], "int8", "int8", 0.125, 4, 6, METRICS, ("litert", "x")),
        },
        fastest=("tflite_int8", "litert"),
        metrics_split={"hash": "ab", "split": "test", "good": 3, "defect": 2},
        flips={"onnx_fp32": 0, "onnx_int8": 1, "tflite_int8": 0},
        provenance={"seed": 1},
    )


def vectors() -> list[tuple[Golden, np.ndarray]]:
    rng = np.random.default_rng(3)
    outputs = {"onnx_fp32": -1.5, "onnx_int8": -8, "tflite_int8": -8}
    frames = [rng.integers(0, 256, (6, 5, 3), dtype=np.uint8) for _ in range(2)]
    return [(Golden(f"golden/{i}.png", i, outputs), frame) for i, frame in enumerate(frames)]


@pytest.fixture
def made(tmp_path):
    return bundle.write(tmp_path / "line.bundle", a_manifest(), MODELS, vectors())


def every_file(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def refused(root: Path) -> str:
    with pytest.raises(BundleError) as caught:
        bundle.read(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def named(path: Path, message: str) -> bool:
    """The message names the file; manifest and seal vouch for each other and are named together."""
    if path.name in (bundle.MANIFEST, bundle.SEAL):
        return str(path.with_name(bundle.MANIFEST)) in message
    return str(path) in message


def test_a_written_bundle_reads_back_equal(made):
    again = bundle.read(made.root)
    assert again == made and again.manifest == a_manifest()
    assert again.golden == tuple(vector for vector, _ in vectors())
    for vector, frame in vectors():
        assert (again.golden_frame(vector) == frame).all()
    assert {name: again.path(name).read_bytes() for name in MODELS} == MODELS
    assert [path.relative_to(made.root).as_posix() for path in every_file(made.root)] == [
        "golden/0.png",
        "golden/1.png",
        "golden/golden.json",
        "manifest.json",
        "manifest.sha256",
        "model.fp32.onnx",
        "model.int8.onnx",
        "model.int8.tflite",
    ]


def test_a_bundle_is_named_after_its_manifests_hash(made):
    digest = hashlib.sha256((made.root / bundle.MANIFEST).read_bytes()).hexdigest()
    assert made.model == f"line@{digest[:12]}"


def test_equal_contents_make_equal_bundles(made, tmp_path):
    again = bundle.write(tmp_path / "again.bundle", a_manifest(), MODELS, vectors())
    assert again.sha256 == made.sha256


def test_one_changed_byte_in_any_file_is_refused_naming_it(made):
    for path in every_file(made.root):
        data = path.read_bytes()
        for place in {*range(0, len(data), 7), len(data) - 1}:
            changed = bytearray(data)
            changed[place] ^= 1
            path.write_bytes(changed)
            message = refused(made.root)
            assert named(path, message), (path, place, message)
        path.write_bytes(data)
    assert bundle.read(made.root) == made


def test_a_file_cut_or_grown_is_refused_naming_it(made):
    for path in every_file(made.root):
        data = path.read_bytes()
        for other in (b"", data[: len(data) // 2], data[:-1], data + b"\n"):
            path.write_bytes(other)
            assert named(path, refused(made.root)), (path, len(other))
        path.write_bytes(data)
    assert bundle.read(made.root) == made


def test_a_missing_file_is_refused_naming_it(made):
    for path in every_file(made.root):
        data = path.read_bytes()
        path.unlink()
        assert named(path, refused(made.root)), path
        path.write_bytes(data)
    assert bundle.read(made.root) == made


def test_a_link_is_refused_even_to_the_same_content(made, tmp_path):
    for number, path in enumerate(every_file(made.root)):
        aside = tmp_path / f"aside{number}"
        path.rename(aside)
        path.symlink_to(aside)
        assert str(path) in refused(made.root)
        path.unlink()
        aside.rename(path)
    (made.root / "golden").rename(tmp_path / "golden")
    (made.root / "golden").symlink_to(tmp_path / "golden")
    assert str(made.root / "golden") in refused(made.root)


@pytest.mark.parametrize("name", ["extra.bin", "golden/extra.png", ".hidden", "deep/er/x", "golden/manifest.json"])
def test_an_added_file_is_refused_naming_it(name, made):
    path = made.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    message = refused(made.root)
    assert str(path) in message and "not in the manifest" in message


def reseal(root: Path, change) -> None:
    """Change the manifest and seal it again: what a wrong writer would leave."""
    path = root / bundle.MANIFEST
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    (root / bundle.SEAL).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_schema_version_is_refused_naming_it(version, made):
    reseal(made.root, lambda body: body.update(schema_version=version))
    message = refused(made.root)
    assert str(made.root / bundle.MANIFEST) in message and f"schema version {version!r}" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("schema_version"),
        lambda body: body.pop("files"),
        lambda body: body.pop("name"),
        lambda body: body.update(surplus=1),
        lambda body: body.update(files=3),
        lambda body: body.update(formats=[]),
        lambda body: body.update(fastest="x"),
        lambda body: body["input"].update(width_px=3),
        lambda body: body["input"].update(depth=3),
        lambda body: body["formats"]["onnx_fp32"].pop("engines"),
        lambda body: body["formats"]["onnx_fp32"].update(file="../model.fp32.onnx"),
        lambda body: body["formats"]["onnx_fp32"].update(file="manifest.json"),
        lambda body: body["formats"]["onnx_int8"].update(heat=3),
        lambda body: body["formats"]["onnx_int8"]["heat"].pop("grid"),
        lambda body: body["formats"]["onnx_int8"]["heat"]["grid"].update(depth=3),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_refused(change, made):
    reseal(made.root, change)
    assert str(made.root / bundle.MANIFEST) in refused(made.root)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_manifest_that_is_no_json_object_is_refused(body, made):
    (made.root / bundle.MANIFEST).write_bytes(body)
    assert f"{made.root / bundle.MANIFEST}: not a manifest" in refused(made.root)


def test_a_missing_folder_and_a_file_are_refused_with_the_next_step(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for name in ("missing", "file"):
        message = refused(tmp_path / name)
        assert str(tmp_path / name) in message and "diagline export" in message


def test_a_format_the_bundle_does_not_hold_is_refused(tmp_path):
    only = {"onnx_fp32": a_manifest().formats["onnx_fp32"]}
    teacher = replace(a_manifest(), network="teacher", spec=None, formats=only, fastest=("onnx_fp32", "onnxruntime"))
    made = bundle.write(tmp_path / "t.bundle", teacher, {"onnx_fp32": b"x"}, vectors())
    with pytest.raises(BundleError, match="holds no tflite_int8; expected one of onnx_fp32"):
        made.path("tflite_int8")


def test_a_write_that_goes_wrong_leaves_the_old_bundle_whole(made):
    vector, frame = vectors()[0]
    missing_format = {**MODELS, "onnx_fp16": b"x"}
    unreadable = replace(a_manifest(), fastest=("one",))
    for manifest, models in ((a_manifest(), missing_format), (unreadable, MODELS)):
        with pytest.raises((KeyError, BundleError)):
            bundle.write(made.root, manifest, models, [(vector, frame)])
        assert bundle.read(made.root) == made
        assert [path.name for path in made.root.parent.iterdir()] == [made.root.name]


def test_a_bundle_can_be_copied_and_read_elsewhere(made, tmp_path):
    import shutil

    copy = shutil.copytree(made.root, tmp_path / "elsewhere")
    assert bundle.read(copy).model == made.model


def test_the_seal_is_what_sha256sum_checks(made):
    done = subprocess.run(["sha256sum", "-c", bundle.SEAL], cwd=made.root, capture_output=True, text=True)
    assert done.returncode == 0 and "manifest.json: OK" in done.stdout


def test_an_int8_output_is_scaled_to_its_logit():
    assert a_manifest().formats["onnx_int8"].to_logit(-8) == 0.125 * (-8 - 4)
    assert a_manifest().formats["onnx_fp32"].to_logit(-1.5) == -1.5


def test_a_heat_map_is_stored_in_steps_and_read_in_logits():
    heat = HeatOutput(Grid(2, 3, 16, 7, 7), "int8", 0.5, -10)
    found = heat.to_logits(np.array([[[-128, -10], [-9, 0], [10, 127]]], np.int8))
    assert found.dtype == np.float32
    assert found.tolist() == [[-59.0, 0.0, 0.5], [5.0, 10.0, 68.5]]


def test_a_bundle_made_before_there_were_heat_maps_is_read_without(made):
    reseal(made.root, lambda body: [entry.pop("heat") for entry in body["formats"].values()])
    again = bundle.read(made.root).manifest
    assert {name: replace(fmt, heat=None) for name, fmt in made.manifest.formats.items()} == again.formats


def test_reading_a_bundle_needs_neither_torch_nor_tensorflow(made):
    code = (
        "import sys; from pathlib import Path; from diagline import bundle; bundle.read(Path(sys.argv[1]));"
        "print(sorted({'torch', 'tensorflow', 'onnxruntime', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(made.root)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
