"""A bundle is read whole and unchanged, or refused with the file and the reason."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_bundle import MODELS, a_manifest, every_file, put_manifest, reseal, vectors

from diagline import bundle
from diagline.bundle import Golden, HeatOutput
from diagline.errors import BundleError
from diagline.heat import Grid


@pytest.fixture
def made(tmp_path):
    return bundle.write(tmp_path / "line.bundle", a_manifest(), MODELS, vectors())


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


@pytest.mark.parametrize("version", [0, 3, "1", "2", None, True, 1.0, 2.0, [2]])
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
        lambda body: body.pop("parity"),
        lambda body: body.pop("certificate"),
        lambda body: body.update(files=3),
        lambda body: body.update(formats=[]),
        lambda body: body.update(fastest="x"),
        lambda body: body["input"].update(width_px=3),
        lambda body: body["input"].update(depth=3),
        lambda body: body["formats"]["onnx_fp32"].pop("engines"),
        lambda body: body["formats"]["onnx_fp32"].update(file="../model.fp32.onnx"),
        lambda body: body["formats"]["onnx_fp32"].update(file="manifest.json"),
        lambda body: body["formats"]["onnx_fp32"].update(file=3),
        lambda body: body["formats"]["onnx_int8"].pop("heat"),
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


def test_a_bundle_whose_fastest_format_was_not_measured_is_read(tmp_path):
    manifest = replace(a_manifest(), fastest=None, parity={"rungs": [1, "x", None]})
    assert bundle.write(tmp_path / "line.bundle", manifest, MODELS, vectors()).manifest == manifest


@pytest.mark.parametrize("where", ["files", "formats", "golden"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "golden/../../x", "..", "a\\b", "a//b", "./a", "a/", "", "."])
def test_a_path_that_leaves_the_folder_or_is_not_plain_is_refused_naming_it(where, name, made):
    def change(body):
        if where == "files":
            body["files"][name] = "0" * 64
        elif where == "formats":
            body["formats"]["onnx_fp32"]["file"] = name
        else:
            golden = json.loads((made.root / bundle.GOLDEN).read_text())
            golden[0]["image"] = name
            (made.root / bundle.GOLDEN).write_text(json.dumps(golden))
            body["files"][bundle.GOLDEN] = hashlib.sha256((made.root / bundle.GOLDEN).read_bytes()).hexdigest()

    reseal(made.root, change)
    assert f"{made.root / bundle.MANIFEST}: names {name!r}" in refused(made.root)


def test_a_file_whose_name_holds_a_backslash_is_refused_even_where_the_manifest_has_it(made):
    (made.root / "a\\b").write_bytes(b"x")
    reseal(made.root, lambda body: body["files"].update({"a\\b": hashlib.sha256(b"x").hexdigest()}))
    assert "names 'a\\\\b'" in refused(made.root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"name": "line"', b'"name": "line", "name": "other"'),
        (b'"width_px": 16', b'"width_px": 16, "width_px": 16'),
        (b'"seed": 1', b'"": 1, "": 2'),
        (b'"scale": 0.125', b'"scale": NaN'),
        (b'"threshold": 0.25', b'"threshold": -Infinity'),
        (b'"seed": 1', b'"seed": ' + b"[" * 100_000 + b"]" * 100_000),
        (b'"line"', b'"l\xefne"'),
    ],
)
def test_json_that_readers_could_understand_differently_is_refused(old, new, made):
    data = (made.root / bundle.MANIFEST).read_bytes()
    assert old in data
    put_manifest(made.root, data.replace(old, new, 1))
    assert f"{made.root / bundle.MANIFEST}: not a manifest" in refused(made.root)


@pytest.mark.parametrize("name", ["pipe", bundle.MANIFEST, bundle.SEAL, bundle.SIGNATURE])
def test_what_is_neither_file_nor_folder_is_refused_without_waiting_for_it(name, made):
    (made.root / name).unlink(missing_ok=True)
    os.mkfifo(made.root / name)
    assert str(made.root / name) in refused(made.root)


def test_a_link_to_the_whole_folder_is_followed(made, tmp_path):
    (tmp_path / "current").symlink_to(made.root)
    assert bundle.read(tmp_path / "current").model == made.model
    (made.root / "extra").write_bytes(b"x")
    assert "extra: is not in the manifest" in refused(tmp_path / "current")


VERSION_1 = """{
  "schema_version": 1, "name": "line", "network": "student", "spec": {"stem": 8},
  "input": {"width_px": 16, "height_px": 24, "channels": 3, "resize": "letterbox"},
  "formats": {
    "onnx_fp32": {
      "file": "model.fp32.onnx", "input_dtype": "uint8", "output_dtype": "float32", "scale": 1.0, "zero_point": 0,
      "threshold": 0.25, "metrics": {"ap": 0.9}, "engines": ["onnxruntime"], "heat": null
    },
    "tflite_int8": {
      "file": "model.int8.tflite", "input_dtype": "int8", "output_dtype": "int8", "scale": 0.125, "zero_point": 4,
      "threshold": 6, "metrics": {"ap": 0.9}, "engines": ["litert"],
      "heat": {
        "grid": {"rows": 3, "columns": 2, "stride_px": 8, "top_px": 7, "left_px": 6},
        "dtype": "uint8", "scale": 0.25, "zero_point": 100
      }
    }
  },
  "fastest": ["tflite_int8", "litert"], "metrics_split": {"split": "test"}, "flips": {"onnx_fp32": 0},
  "provenance": {"seed": 1}, "certificate": null, "files": FILES
}"""


def version_1(root: Path) -> Path:
    """A bundle as the first schema has it."""
    contents = {
        "model.fp32.onnx": b"fp32 weights",
        "model.int8.tflite": b"flat buffer",
        "golden/golden.json": b'[{"image": "golden/000.png", "label": 1, "outputs": {"onnx_fp32": 1.5}}]',
        "golden/000.png": b"a picture",
    }
    (root / "golden").mkdir(parents=True)
    for name, data in contents.items():
        (root / name).write_bytes(data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    put_manifest(root, VERSION_1.replace("FILES", json.dumps(hashes)).encode())
    return root


def test_a_bundle_of_schema_version_1_is_read(tmp_path):
    found = bundle.read(version_1(tmp_path / "old.bundle"))
    manifest = found.manifest
    assert (manifest.parity, manifest.certificate, found.signer) == (None, None, None)
    assert manifest.fastest == ("tflite_int8", "litert") and manifest.input == a_manifest().input
    heat = manifest.formats["tflite_int8"].heat
    assert heat == HeatOutput(Grid(3, 2, 8, 7, 6), "uint8", 0.25, 100)
    assert found.golden == (Golden("golden/000.png", 1, {"onnx_fp32": 1.5}),)


def test_a_version_1_bundle_made_before_there_were_heat_maps_and_certificates_is_read_without(tmp_path):
    root = version_1(tmp_path / "old.bundle")
    reseal(root, lambda body: [one.pop("heat") for one in body["formats"].values()] + [body.pop("certificate")])
    assert bundle.read(root).manifest.certificate is None
    assert {fmt.heat for fmt in bundle.read(root).manifest.formats.values()} == {None}


@pytest.mark.parametrize(
    "change",
    [lambda body: body.update(parity=None), lambda body: body.update(surplus=1), lambda body: body.pop("fastest")],
)
def test_a_version_1_manifest_with_other_keys_than_its_own_is_refused(change, tmp_path):
    root = version_1(tmp_path / "old.bundle")
    reseal(root, change)
    assert f"{root / bundle.MANIFEST}: cannot be understood" in refused(root)


def test_reading_a_bundle_needs_neither_torch_nor_tensorflow(made):
    code = (
        "import sys; from pathlib import Path; from diagline import bundle; bundle.read(Path(sys.argv[1]));"
        "print(sorted({'torch', 'tensorflow', 'onnxruntime', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(made.root)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
