"""A signed bundle is the signer's to the last byte, and runs only where his key is trusted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_bundle import MODELS, a_manifest, every_file, overwrite, put_manifest, reseal, vectors

from diagline import bundle, signing
from diagline.errors import BundleError

MANIFEST, SEAL, SIGNATURE = bundle.MANIFEST, bundle.SEAL, bundle.SIGNATURE


@pytest.fixture(autouse=True)
def nobody_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: signing.make_pair(name, folder)[0] for name in ("line", "attacker")}


def public(key: Path) -> Path:
    return key.with_suffix(".pub")


def name_of(key: Path) -> str:
    return signing.key_id(signing.public_key(public(key)))


@pytest.fixture
def signed(tmp_path, keys):
    return bundle.write(tmp_path / "line.bundle", a_manifest(), MODELS, vectors(), keys["line"])


def refused(root: Path) -> str:
    with pytest.raises(BundleError) as caught:
        bundle.read(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def not_trusted(root: Path, *keys: Path, allow_unsigned: bool = False) -> str:
    with pytest.raises(BundleError) as caught:
        signing.check_trusted(bundle.read(root), keys, allow_unsigned)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)
    return str(caught.value)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in every_file(root)}


def test_a_signed_bundle_reads_back_with_its_signer(signed, keys):
    again = bundle.read(signed.root)
    assert again == signed and again.signer == name_of(keys["line"])
    assert len(again.signer) == 16 and again.public_key == signing.public_key(public(keys["line"]))


def test_a_signature_changes_nothing_but_that_it_is_there(signed, tmp_path):
    plain = bundle.write(tmp_path / "plain.bundle", a_manifest(), MODELS, vectors())
    assert plain.signer is None and plain.sha256 == signed.sha256
    with_signature = contents(signed.root)
    assert set(json.loads(with_signature.pop(SIGNATURE))) == {"algorithm", "public_key", "signature"}
    assert with_signature == contents(plain.root)


def test_two_signed_writes_are_equal_byte_for_byte(signed, keys, tmp_path):
    again = bundle.write(tmp_path / "again.bundle", a_manifest(), MODELS, vectors(), keys["line"])
    assert contents(again.root) == contents(signed.root)


def tampered(data: bytes, place: int) -> list[bytes]:
    """The data with a byte's lowest bit flipped, with zero in its place, and without it."""
    head, tail = data[:place], data[place + 1 :]
    return [head + byte + tail for byte in (bytes([data[place] ^ 1]), b"\0", b"") if byte != data[place : place + 1]]


def test_every_byte_of_every_file_counts(signed):
    for path in every_file(signed.root):
        data = path.read_bytes()
        named = path.with_name(MANIFEST) if path.name == SEAL else path  # those two vouch for each other
        for place in range(len(data)):
            for changed in tampered(data, place):
                overwrite(path, changed)
                assert str(named) in refused(signed.root), (path, place, changed)
        path.write_bytes(data)
    assert bundle.read(signed.root) == signed


def test_every_byte_of_the_manifest_counts_where_an_attacker_seals_it_again(signed):
    data = (signed.root / MANIFEST).read_bytes()
    for place in range(len(data)):
        put_manifest(signed.root, tampered(data, place)[0])
        message = refused(signed.root)
        assert any(str(signed.root / name) in message for name in (SIGNATURE, MANIFEST)), (place, message)
    put_manifest(signed.root, data)
    assert bundle.read(signed.root) == signed


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["formats"]["tflite_int8"].update(threshold=127),
        lambda body: body.update(name="other"),
        lambda body: body.update(schema_version=1) or body.pop("parity"),
        lambda body: body["provenance"].update(seed=2),
    ],
)
def test_a_changed_and_resealed_manifest_is_refused_by_its_signature(change, signed):
    reseal(signed.root, change)
    assert f"{signed.root / SIGNATURE}: is not the signature of the manifest" in refused(signed.root)


def test_a_stripped_signature_leaves_an_unsigned_bundle_that_does_not_run(signed, keys):
    (signed.root / SIGNATURE).unlink()
    assert bundle.read(signed.root).signer is None
    message = not_trusted(signed.root, public(keys["line"]))
    assert "not signed" in message and "diagline sign" in message and "--allow-unsigned" in message
    signing.check_trusted(bundle.read(signed.root), (), allow_unsigned=True)


def test_a_bundle_that_an_attacker_signs_with_his_own_key_is_not_trusted(signed, keys):
    reseal(signed.root, lambda body: body["formats"]["tflite_int8"].update(threshold=127))
    manifest = (signed.root / MANIFEST).read_bytes()
    (signed.root / SIGNATURE).write_bytes(signing.sign(manifest, keys["attacker"]))
    signing.trust(public(keys["line"]))
    for allow in (False, True):  # what allows unsigned bundles allows no stranger's
        message = not_trusted(signed.root, public(keys["line"]), allow_unsigned=allow)
        assert name_of(keys["attacker"]) in message and "diagline keys trust" in message


def test_anothers_public_key_beside_ones_own_signature_is_refused(signed, keys):
    mine = json.loads(signing.sign((signed.root / MANIFEST).read_bytes(), keys["attacker"]))
    theirs = json.loads((signed.root / SIGNATURE).read_bytes())
    (signed.root / SIGNATURE).write_text(json.dumps({**mine, "public_key": theirs["public_key"]}, indent=2) + "\n")
    assert "is not the signature of the manifest" in refused(signed.root)


def test_a_signature_of_another_bundle_is_refused(signed, keys, tmp_path):
    other = bundle.write(tmp_path / "o.bundle", replace(a_manifest(), name="other"), MODELS, vectors(), keys["line"])
    shutil.copy(other.root / SIGNATURE, signed.root / SIGNATURE)
    assert str(signed.root / SIGNATURE) in refused(signed.root)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b"3", b'"x"', b"\xff", b"[" * 100_000, b'{"public_key": 3, "signature": 4}'],
)
def test_a_signature_file_that_holds_none_is_refused(body, signed):
    (signed.root / SIGNATURE).write_bytes(body)
    assert f"{signed.root / SIGNATURE}: not an Ed25519 signature" in refused(signed.root)


def test_a_signature_written_in_another_way_is_refused(signed):
    """One signature has one form: no byte of the file is without meaning."""
    body = json.loads((signed.root / SIGNATURE).read_bytes())
    for other in (
        json.dumps(body),
        json.dumps(body, indent=2),
        json.dumps({**body, "note": 1}, indent=2) + "\n",
        json.dumps(dict(reversed(body.items())), indent=2) + "\n",
        json.dumps({**body, "algorithm": "none"}, indent=2) + "\n",
        json.dumps({**body, "public_key": body["public_key"].rstrip("=")}, indent=2) + "\n",
        json.dumps({**body, "signature": body["signature"] + "\n"}, indent=2) + "\n",
    ):
        (signed.root / SIGNATURE).write_text(other)
        assert f"{signed.root / SIGNATURE}: not an Ed25519 signature" in refused(signed.root), other


def test_added_missing_cut_and_linked_files_are_refused_in_a_signed_bundle_too(signed, tmp_path):
    for path in every_file(signed.root):
        data = path.read_bytes()
        if path.name != SIGNATURE:
            path.unlink()
            refused(signed.root)
        path.write_bytes(data[:-1])
        refused(signed.root)
        path.unlink()
        (tmp_path / "aside").write_bytes(data)
        path.symlink_to(tmp_path / "aside")
        assert str(path) in refused(signed.root)
        path.unlink()
        path.write_bytes(data)
    (signed.root / "golden" / SIGNATURE).write_bytes(b"x")
    assert f"{signed.root / 'golden' / SIGNATURE}: is not in the manifest" in refused(signed.root)


def test_a_key_that_is_trusted_or_given_runs_its_bundles_until_it_is_forgotten(signed, keys):
    assert "keys trust" in not_trusted(signed.root) and "keys trust" in not_trusted(
        signed.root, public(keys["attacker"])
    )
    signing.check_trusted(signed, [public(keys["attacker"]), public(keys["line"])])
    signing.trust(public(keys["line"]))
    signing.check_trusted(signed)
    signing.forget(name_of(keys["line"]))
    not_trusted(signed.root)


def test_signing_a_bundle_that_is_there_adds_the_signature_alone(signed, keys, tmp_path):
    plain = bundle.write(tmp_path / "plain.bundle", a_manifest(), MODELS, vectors())
    found = bundle.sign(plain.root, keys["line"])
    assert found.signer == name_of(keys["line"]) and contents(plain.root) == contents(signed.root)
    assert bundle.sign(plain.root, keys["attacker"]).signer == name_of(keys["attacker"])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_bundle_that_is_not_whole_is_not_signed(signed, keys):
    (signed.root / "model.fp32.onnx").write_bytes(b"other weights")
    before = contents(signed.root)
    with pytest.raises(BundleError, match=r"model.fp32.onnx: changed"):
        bundle.sign(signed.root, keys["attacker"])
    assert contents(signed.root) == before


def test_a_copy_that_loses_a_file_is_not_put_in_place(signed, keys, monkeypatch):
    before, copy = contents(signed.root), shutil.copytree

    def lose(source, target, *given, **named):  # called for golden/ too
        copy(source, target, *given, **named)
        (Path(target) / "model.fp32.onnx").unlink(missing_ok=True)

    monkeypatch.setattr(shutil, "copytree", lose)
    with pytest.raises(BundleError, match=r"model.fp32.onnx: is missing"):
        bundle.sign(signed.root, keys["attacker"])
    assert contents(signed.root) == before


def test_a_key_that_cannot_sign_leaves_the_bundle_as_it_was(signed, keys, tmp_path):
    before = contents(signed.root)
    for key in (tmp_path / "none.key", public(keys["line"])):
        with pytest.raises(BundleError, match=str(key)):
            bundle.sign(signed.root, key)
        with pytest.raises(BundleError, match=str(key)):
            bundle.write(signed.root, a_manifest(), MODELS, vectors(), key)
        assert contents(signed.root) == before
        assert not [path for path in signed.root.parent.iterdir() if path.name.startswith(".")]
