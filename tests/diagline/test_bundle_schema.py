"""The published schema is what `write` writes and the dataclasses hold, no more and no less."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from importlib import resources

import jsonschema
import pytest
from small_bundle import MODELS, a_manifest, vectors

from diagline import bundle, signing
from diagline.bundle import Format, HeatOutput, Manifest
from diagline.heat import Grid
from diagline.preprocess import InputContract

SCHEMA = json.loads((resources.files("diagline") / "manifest.schema.json").read_text())
CHECK = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture
def written(tmp_path):
    made = bundle.write(tmp_path / "line.bundle", a_manifest(), MODELS, vectors())
    return json.loads((made.root / bundle.MANIFEST).read_bytes())


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"] == {"const": bundle.SCHEMA_VERSION}
    assert SCHEMA["properties"]["formats"]["propertyNames"]["enum"] == list(bundle.FORMATS)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fastest": None, "parity": {"a": [1, None]}, "certificate": None},
        {"network": "teacher", "spec": None, "formats": {"onnx_fp32": a_manifest().formats["onnx_fp32"]}},
    ],
)
def test_what_is_written_is_valid(changes, tmp_path):
    manifest = replace(a_manifest(), **changes)
    (private, _), models = signing.make_pair("line", tmp_path), {name: MODELS[name] for name in manifest.formats}
    made = bundle.write(tmp_path / "line.bundle", manifest, models, vectors(), private)
    CHECK.validate(json.loads((made.root / bundle.MANIFEST).read_bytes()))


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (Manifest, {"schema_version", "files"}),
        (Format, set()),
        (HeatOutput, set()),
        (InputContract, set()),
        (Grid, set()),
    ],
)
def test_the_schema_and_the_dataclasses_have_the_same_keys(kind, own):
    part = SCHEMA if kind is Manifest else SCHEMA["$defs"][kind.__name__]
    assert set(part["properties"]) == {field.name for field in dataclasses.fields(kind)} | own
    assert set(part["required"]) == set(part["properties"]) and part["additionalProperties"] is False


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(schema_version=1),
        lambda body: body.update(surplus=1),
        lambda body: body.pop("parity"),
        lambda body: body.update(fastest=["tflite_int8"]),
        lambda body: body.update(fastest=["tflite_int8", "litert", "x"]),
        lambda body: body["input"].update(width_px=3),
        lambda body: body["formats"].update(onnx_int4=body["formats"]["onnx_int8"]),
        lambda body: body["formats"]["onnx_int8"].update(threshold="6"),
        lambda body: body["formats"]["onnx_int8"].update(surplus=1),
        lambda body: body["formats"]["onnx_int8"]["heat"]["grid"].pop("rows"),
        lambda body: body["files"].update({"../x": "0" * 64}),
        lambda body: body["files"].update({"/x": "0" * 64}),
        lambda body: body["files"].update({"a\\b": "0" * 64}),
        lambda body: body["files"].update(x="0"),
    ],
)
def test_what_is_no_manifest_is_not_valid(change, written):
    CHECK.validate(written)
    change(written)
    assert not CHECK.is_valid(written)


def test_every_part_says_what_it_is():
    def undescribed(part, where):
        said = part.keys() & {"description", "const", "enum", "$ref", "anyOf"}
        below = {**part.get("properties", {}), **part.get("$defs", {})}
        return ([] if said else [where]) + [name for key, one in below.items() for name in undescribed(one, key)]

    assert undescribed(SCHEMA, "manifest") == []
