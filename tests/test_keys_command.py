"""From a new key to a box that runs what it signed, and nothing else, as a user meets it."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tiny_line import Diagline, Line, Outcome, refused

from diagline import bundle as bundles
from diagline import cli, signing

LOOSE = ("--escape", "0.95", "--overkill", "0.95", "--confidence", "0.6")


@pytest.fixture(autouse=True)
def nobody_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def copied(line: Line, output: Path) -> str:
    """The option that makes a copy of the tiny line's outputs the config's output."""
    shutil.copytree(line.output, output)
    return f'output="{output}"'


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signing.make_pair("line", tmp_path_factory.mktemp("keys"))[0]


@pytest.fixture(scope="module")
def signed(line: Line, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the tiny line, exported with --sign."""
    output = tmp_path_factory.mktemp("signed") / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(line.config), "--set", copied(line, output), "--sign", str(key)])
    assert stop.value.code == 0
    return output


def public(key: Path) -> Path:
    return key.with_suffix(".pub")


def contents(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    return found


def shown(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    return outcome.err


def test_a_key_is_made_trusted_listed_and_forgotten(
    diagline: Diagline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = shown(diagline("keys", "new", "line"))
    name = signing.key_id(signing.public_key(tmp_path / "line.pub"))
    assert name in said and "next: diagline keys trust line.pub" in said and "--sign line.key" in said
    refused(diagline("keys", "new", "line"), "line.key", "there already")
    assert "no trusted keys" in shown(diagline("keys", "list"))
    assert json.loads(diagline("keys", "list", "--json").out) == []
    assert name in shown(diagline("keys", "trust", "line.pub"))
    listed = json.loads(diagline("keys", "list", "--json").out)
    assert listed == [{"id": name, "file": str(tmp_path / f"config/diagline/trusted/{name}.pub")}]
    assert name in shown(diagline("keys", "list"))
    refused(diagline("keys", "forget", "0" * 16), "0" * 16, name)
    shown(diagline("keys", "forget", name))
    assert json.loads(diagline("keys", "list", "--json").out) == []
    refused(diagline("keys", "trust", "line.key"), "line.key", "not an Ed25519 public key")


def test_an_unsigned_bundle_runs_and_benches_only_when_allowed(line: Line, diagline: Diagline, tmp_path: Path) -> None:
    run = ("run", line.bundle, "--source", line.data / "bad", "--limit", 1, "--log", tmp_path / "log")
    bench = ("bench", line.bundle, "--seconds", "0.1", "--threads", "1")
    for command in (run, bench):
        refused(diagline(*command), line.bundle, "not signed", "diagline sign", "--allow-unsigned")
        shown(diagline(*command, "--allow-unsigned"))


def test_a_signed_bundle_runs_and_benches_only_where_its_key_is_trusted(
    signed: Path, key: Path, line: Line, diagline: Diagline, tmp_path: Path
) -> None:
    other = signing.make_pair("other", tmp_path)[0]
    root, name = signed / "tiny.bundle", signing.key_id(signing.public_key(public(key)))
    run = ("run", root, "--source", line.data / "bad", "--limit", 1, "--log", tmp_path / "log")
    bench = ("bench", root, "--seconds", "0.1", "--threads", "1")
    for command in (run, bench):
        refused(diagline(*command), root, name, "diagline keys trust")
        refused(diagline(*command, "--allow-unsigned", "--key", public(other)), root, name)
        shown(diagline(*command, "--key", public(other), "--key", public(key)))
    shown(diagline("keys", "trust", public(key)))
    for command in (run, bench):
        shown(diagline(*command))


def test_the_benchs_reference_is_held_to_the_same(signed: Path, key: Path, line: Line, diagline: Diagline) -> None:
    unsigned = line.output / "tiny-teacher.bundle"
    bench = ("bench", signed / "tiny.bundle", "--reference", unsigned, "--seconds", "0.1", "--threads", "1")
    refused(diagline(*bench, "--key", public(key)), unsigned, "not signed")


def test_a_changed_bundle_does_not_run_whatever_is_allowed(
    signed: Path, key: Path, line: Line, diagline: Diagline, tmp_path: Path
) -> None:
    root = shutil.copytree(signed / "tiny.bundle", tmp_path / "changed.bundle")
    model = root / "model.int8.tflite"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    options = ("--source", line.data / "bad", "--allow-unsigned", "--key", public(key))
    refused(diagline("run", root, *options), model)


def test_both_bundles_of_a_signed_export_are_signed_and_valid_and_name_no_key_file(signed: Path, key: Path) -> None:
    schema = json.loads((resources.files("diagline") / "manifest.schema.json").read_text())
    for name in ("tiny.bundle", "tiny-teacher.bundle"):
        found = bundles.read(signed / name)
        assert found.public_key == signing.public_key(public(key))
        text = (found.root / bundles.MANIFEST).read_text()
        assert str(key.parent) not in text and "key" not in json.loads(text)["provenance"]["config"]["export"]
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_where_the_key_lies_and_how_it_is_given_changes_nothing(
    signed: Path, key: Path, line: Line, diagline: Diagline, tmp_path: Path
) -> None:
    moved = Path(shutil.copy(key, tmp_path / "moved.key"))
    options = ("--set", copied(line, tmp_path / "out"), "--set", f'export.key="{moved}"')
    said = shown(diagline("export", line.config, *options))
    found, expected = contents(tmp_path / "out/tiny.bundle"), contents(signed / "tiny.bundle")
    assert found.keys() == expected.keys()
    for one in (found, expected):
        del one[bundles.SEAL], one[bundles.SIGNATURE]  # of a manifest with other paths and timings
        body = json.loads(one[bundles.MANIFEST])
        del body["fastest"], body["provenance"]["config"]["output"]
        one[bundles.MANIFEST] = body
    assert found == expected
    made = bundles.read(tmp_path / "out/tiny.bundle")
    assert f"signed by {made.signer}" in said and f"keys trust NAME.pub    # of key {made.signer}" in said
    assert "--allow-unsigned" not in said
    for part in ("models ", f"{len(made.golden)} golden pictures ", "manifest ", "; together "):
        assert part in said


def test_a_key_that_cannot_be_used_stops_export_and_certify_before_any_work(
    signed: Path, key: Path, line: Line, diagline: Diagline, tmp_path: Path
) -> None:
    nowhere = ("--set", f'data.root="{tmp_path / "nowhere"}"', "--set", f'output="{signed}"')
    for command in ("export", "certify"):
        for bad in (tmp_path / "none.key", public(key)):
            refused(diagline(command, line.config, *nowhere, "--sign", bad), bad, "diagline keys new")


def test_certifying_a_signed_bundle_without_a_key_is_refused_before_any_work(
    signed: Path, key: Path, line: Line, diagline: Diagline, tmp_path: Path
) -> None:
    here = ("--set", f'output="{signed}"')
    before = contents(signed)
    nowhere = ("--set", f'data.root="{tmp_path / "nowhere"}"')
    refused(diagline("certify", line.config, *here, *nowhere, *LOOSE), signed / "tiny.bundle", "strip", "--sign")
    assert contents(signed) == before


def test_a_certified_bundle_is_signed_again(
    signed: Path, key: Path, line: Line, diagline: Diagline, tmp_path: Path
) -> None:
    output = shutil.copytree(signed, tmp_path / "out")
    said = shown(diagline("certify", line.config, "--set", f'output="{output}"', *LOOSE, "--sign", key))
    found = bundles.read(output / "tiny.bundle")
    assert found.manifest.certificate is not None and found.public_key == signing.public_key(public(key))
    assert "--allow-unsigned" not in said


def test_a_bundle_that_is_there_is_signed_and_hints_tell_the_two_apart(
    line: Line, key: Path, diagline: Diagline, tmp_path: Path
) -> None:
    root = shutil.copytree(line.bundle, tmp_path / "tiny.bundle")
    before = contents(root)
    name = signing.key_id(signing.public_key(public(key)))
    said = shown(diagline("sign", root, key))
    assert f"signed by {name}" in said and "keys trust" in said and f"run {root} --source 0\n" in said
    after = contents(root)
    assert after.pop(bundles.SIGNATURE) and after == before
    shown(diagline("keys", "trust", public(key)))
    assert "keys trust" not in shown(diagline("sign", root, key))
    refused(diagline("sign", tmp_path / "nowhere", key), tmp_path / "nowhere")
    refused(diagline("sign", root, tmp_path / "none.key"), tmp_path / "none.key")
