"""Keys are made once, read strictly, and trusted by their whole public half."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diagline import signing
from diagline.errors import BundleError, ConfigError, OutputError

# RFC 8032, section 7.1, test 2: secret, public, message, signature
RFC_8032 = (
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "72",
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
)


@pytest.fixture(autouse=True)
def config_home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def put(path: Path, key, password: bytes | None = None) -> Path:
    """A private key in PEM."""
    secret = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    path.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, secret))
    return path


def test_a_new_pair_is_pem_and_the_private_half_is_its_owners_alone(tmp_path):
    mask = os.umask(0)
    try:
        private, public = signing.make_pair("line-2.a", tmp_path / "deep")
    finally:
        os.umask(mask)
    assert (private.name, public.name) == ("line-2.a.key", "line-2.a.pub")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert public.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----\n")
    assert signing.private_key(private).public_key().public_bytes_raw() == signing.public_key(public)
    assert sorted(path.name for path in private.parent.iterdir()) == ["line-2.a.key", "line-2.a.pub"]


@pytest.mark.parametrize("there", ["line.key", "line.pub"])
@pytest.mark.parametrize("kind", ["file", "link"])
def test_no_key_is_overwritten(there, kind, tmp_path):
    path = tmp_path / there
    if kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match=f"{path}: there already"):
        signing.make_pair("line", tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [there] and path.is_symlink() == (kind == "link")


def test_a_private_key_that_comes_while_another_is_made_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    (tmp_path / "line.key").write_text("mine")
    with pytest.raises(OutputError, match=r"line\.key: File exists"):
        signing.make_pair("line", tmp_path)
    assert (tmp_path / "line.key").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", ".hidden", "a b", "-x", "a\n"])
def test_a_name_that_cannot_name_files_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="key name"):
        signing.make_pair(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_signatures_are_those_of_rfc_8032(tmp_path):
    secret, public, message, signature = map(bytes.fromhex, RFC_8032)
    key = put(tmp_path / "a.key", Ed25519PrivateKey.from_private_bytes(secret))
    body = json.loads(signing.sign(message, key))
    assert base64.b64decode(body["public_key"]) == public and base64.b64decode(body["signature"]) == signature
    (tmp_path / "a.sig").write_bytes(signing.sign(message, key))
    assert signing.verify(tmp_path / "a.sig", message) == public
    assert signing.key_id(public) == hashlib.sha256(public).hexdigest()[:16]


def test_openssl_verifies_what_diagline_signs(tmp_path):
    private, public = signing.make_pair("line", tmp_path)
    body = json.loads(signing.sign(b"a manifest", private))
    (tmp_path / "sig").write_bytes(base64.b64decode(body["signature"]))
    (tmp_path / "manifest").write_bytes(b"a manifest")
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        public,
        "-rawin",
        "-in",
        "manifest",
        "-sigfile",
        "sig",
    ]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert done.returncode == 0 and "Verified Successfully" in done.stdout, done.stderr


def test_what_is_no_private_key_is_refused_naming_the_file_and_the_next_step(tmp_path):
    private, public = signing.make_pair("line", tmp_path)
    (tmp_path / "text.key").write_text("no key")
    (tmp_path / "cut.key").write_bytes(private.read_bytes()[:60])
    put(tmp_path / "curve.key", ec.generate_private_key(ec.SECP256R1()))
    put(tmp_path / "locked.key", Ed25519PrivateKey.generate(), b"secret")
    for path in (public, *(tmp_path / f"{name}.key" for name in ("none", "text", "cut", "curve", "locked"))):
        with pytest.raises(BundleError, match=r"NAME\.key of: diagline keys new") as caught:
            signing.private_key(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    with pytest.raises(BundleError, match="Is a directory"):
        signing.private_key(tmp_path)


def test_what_is_no_public_key_is_neither_trusted_nor_taken(tmp_path, config_home):
    private, _ = signing.make_pair("line", tmp_path)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "curve.pub").write_bytes(other.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    for path in (private, tmp_path / "curve.pub", tmp_path / "none.pub", tmp_path):
        with pytest.raises(BundleError, match=r"NAME\.pub of: diagline keys new"):
            signing.trust(path)
    assert not config_home.exists()


def test_trusted_keys_lie_in_the_users_folder_by_their_id_until_forgotten(tmp_path, config_home):
    publics = [signing.make_pair(name, tmp_path)[1] for name in ("a", "b")]
    names = [signing.trust(path) for path in publics]
    assert signing.trust(publics[0]) == names[0]
    folder = config_home / "diagline" / "trusted"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.pub" for name in names)
    assert signing.trusted() == {name: signing.public_key(path) for name, path in zip(names, publics, strict=True)}
    signing.forget(names[0])
    assert list(signing.trusted()) == names[1:]
    for unknown in (names[0], "../b", ""):
        with pytest.raises(BundleError, match=f"expected one of {names[1]}"):
            signing.forget(unknown)


@pytest.mark.parametrize("set_to", [None, "", "relative/config"])
def test_without_an_absolute_config_home_the_users_own_is_taken(set_to, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    if set_to is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", set_to)
    assert signing.trusted_folder() == tmp_path / ".config/diagline/trusted"


def test_a_trusted_file_that_holds_another_key_than_its_name_says_is_refused(tmp_path):
    a, b = (signing.make_pair(name, tmp_path)[1] for name in ("a", "b"))
    path = signing.trusted_folder() / f"{signing.trust(a)}.pub"
    path.write_bytes(b.read_bytes())
    with pytest.raises(BundleError, match=f"{path}: holds key {signing.key_id(signing.public_key(b))}"):
        signing.trusted()
    path.write_bytes(b"broken")
    with pytest.raises(BundleError, match=f"{path}: not an Ed25519 public key"):
        signing.trusted()


def test_without_the_library_the_extra_is_named_and_unsigned_bundles_need_none(tmp_path):
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path; from diagline import bundle, errors, signing\n"
        "try: signing.make_pair('a', Path(sys.argv[1]))\n"
        "except errors.MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "pip install 'diagline[edge]'" in done.stdout and not list(tmp_path.iterdir()), done
