"""Who signed a bundle, and whether this user trusts him.

The signature is Ed25519 over the manifest's bytes, which hold the SHA-256 of every other file;
it lies beside the manifest. A key is named by its id, the first 16 hex digits of the SHA-256 of
the raw public key, and compared whole. Leaves out: certificate chains, expiry and revocation; a
box trusts the keys that its user put there (docs/bundle.md).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diagline import files
from diagline.errors import BundleError, ConfigError, OutputError, require

if TYPE_CHECKING:
    from diagline.bundle import Bundle

ALGORITHM = "Ed25519"
ID_DIGITS = 16


def key_id(public: bytes) -> str:
    """A key's name: the first 16 hex digits of the SHA-256 of its 32 raw public bytes."""
    return hashlib.sha256(public).hexdigest()[:ID_DIGITS]


def make_pair(name: str, folder: Path) -> tuple[Path, Path]:
    """Make a key pair: NAME.key (PEM, PKCS8, for its owner alone) and NAME.pub (PEM); returns both paths.

    Raises:
        ConfigError: a name that cannot name files.
        OutputError: one of the files is there already, or cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"key name {name!r}; expected letters, digits, ., - and _ (it names files)")
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    for path in (private, public):
        if os.path.lexists(path):
            raise OutputError(f"{path}: there already; expected none, as no key is overwritten; choose another name")
    pem, key = _serialization(), _ed25519().Ed25519PrivateKey.generate()
    files.write_bytes(public, _public_pem(key.public_key()))
    files.write_secret(private, key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
    return private, public


def private_key(path: Path) -> Any:
    """Read NAME.key.

    Raises:
        BundleError: not there, not an Ed25519 private key in PEM, or one with a passphrase.
    """
    load = _serialization().load_pem_private_key
    return _load(path, "private", "key", lambda data: load(data, None), _ed25519().Ed25519PrivateKey)


def public_key(path: Path) -> bytes:
    """The 32 raw bytes of NAME.pub.

    Raises:
        BundleError: not there, or not an Ed25519 public key in PEM.
    """
    found = _load(path, "public", "pub", _serialization().load_pem_public_key, _ed25519().Ed25519PublicKey)
    return bytes(found.public_bytes_raw())


def sign(manifest: bytes, key: Path) -> bytes:
    """What manifest.sig holds for a manifest's bytes; equal keys and bytes give equal signatures.

    Raises:
        BundleError: as `private_key`.
    """
    private = private_key(key)
    return _encode(private.public_key().public_bytes_raw(), private.sign(manifest))


def verify(path: Path, manifest: bytes) -> bytes:
    """The raw public key whose signature at `path` fits the manifest's bytes.

    Raises:
        BundleError: not a signature exactly as `sign` writes it, or of other bytes.
        MissingExtraError: `cryptography` is not installed.
    """
    data = path.read_bytes()
    try:
        body = json.loads(data)
        public, signature = (base64.b64decode(body[name], validate=True) for name in ("public_key", "signature"))
        if _encode(public, signature) != data:
            raise ValueError("other bytes than a signer writes")
        key = _ed25519().Ed25519PublicKey.from_public_bytes(public)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: not an {ALGORITHM} signature ({error}); copy the bundle again") from error
    try:
        key.verify(signature, manifest)
    except require("cryptography.exceptions", "edge").InvalidSignature:
        raise BundleError(
            f"{path}: is not the signature of the manifest beside it; one of them is changed; copy the bundle again"
        ) from None
    return public


def check_rewritable(bundle: Bundle, key: Path | None) -> None:
    """Refuse, before any work, to rewrite a signed bundle without a key, or with one that is none.

    Raises:
        BundleError: says what to give.
    """
    if key is not None:
        private_key(key)
    elif bundle.signer is not None:
        raise BundleError(
            f"{bundle.root}: signed by {bundle.signer}, and this would strip the signature; expected a key to sign "
            f"it with again; give --sign NAME.key or set export.key"
        )


def trusted_folder() -> Path:
    """Where this user's trusted keys lie, each as ID.pub."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))  # to be ignored unless absolute, says its specification
    return (base if base.is_absolute() else Path.home() / ".config") / "diagline" / "trusted"


def trusted() -> dict[str, bytes]:
    """Raw public keys by id, of the keys this user trusts.

    Raises:
        BundleError: a file there that is no key, or another than its name says.
    """
    found = {path: public_key(path) for path in sorted(trusted_folder().glob("*.pub"))}
    for path, public in found.items():
        if path.stem != key_id(public):
            raise BundleError(f"{path}: holds key {key_id(public)}; expected the key of its name; remove the file")
    return {path.stem: public for path, public in found.items()}


def trust(path: Path) -> str:
    """Put a public key among this user's trusted ones; returns its id.

    Raises:
        BundleError: as `public_key`.
        OutputError: the folder cannot be written to.
    """
    name = key_id(public := public_key(path))
    pem = _public_pem(_ed25519().Ed25519PublicKey.from_public_bytes(public))
    files.write_bytes(trusted_folder() / f"{name}.pub", pem)
    return name


def forget(name: str) -> None:
    """Take a key out of this user's trusted ones.

    Raises:
        BundleError: no trusted key has that id.
        OutputError: it cannot be removed.
    """
    known = trusted()
    if name not in known:
        raise BundleError(f"key {name}: not trusted here; expected one of {', '.join(known) or '(none)'}")
    path = trusted_folder() / f"{name}.pub"
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}; expected a writable folder") from error


def check_trusted(bundle: Bundle, keys: Sequence[Path] = (), allow_unsigned: bool = False) -> None:
    """Refuse a bundle that no trusted key signed: for those who run it.

    Args:
        keys: NAME.pub files that count as trusted too.
        allow_unsigned: take a bundle without a signature; a signed one must be trusted all the same.

    Raises:
        BundleError: unsigned, or signed by a key that is not trusted; says the next step.
    """
    given = [public_key(path) for path in keys]
    if bundle.public_key is None:
        if not allow_unsigned:
            raise BundleError(
                f"{bundle.root}: not signed; expected a signature by a trusted key; sign it where it was exported: "
                f"diagline sign BUNDLE NAME.key, or run it as it is with --allow-unsigned"
            )
    elif bundle.public_key not in given and bundle.public_key not in trusted().values():
        raise BundleError(
            f"{bundle.root}: signed by {bundle.signer}, which is not among the trusted keys; if it is the key of who "
            f"exported the bundle: diagline keys trust NAME.pub, or give --key NAME.pub"
        )


def _load(path: Path, kind: str, suffix: str, load: Callable[[bytes], Any], expected: Any) -> Any:
    mend = f"expected the NAME.{suffix} of: diagline keys new NAME"
    try:
        key = load(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; {mend}") from error
    except (ValueError, TypeError, require("cryptography.exceptions", "edge").UnsupportedAlgorithm):
        key = None  # TypeError: it has a passphrase
    if not isinstance(key, expected):
        raise BundleError(f"{path}: not an {ALGORITHM} {kind} key in PEM without passphrase; {mend}")
    return key


def _encode(public: bytes, signature: bytes) -> bytes:
    texts = {"public_key": public, "signature": signature}
    body = {"algorithm": ALGORITHM, **{name: base64.b64encode(data).decode() for name, data in texts.items()}}
    return (json.dumps(body, indent=2) + "\n").encode()


def _public_pem(key: Any) -> bytes:
    pem = _serialization()
    return bytes(key.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))


def _ed25519() -> ModuleType:
    return require("cryptography.hazmat.primitives.asymmetric.ed25519", "edge")


def _serialization() -> ModuleType:
    return require("cryptography.hazmat.primitives.serialization", "edge")
