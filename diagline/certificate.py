"""A bundle's certificate as the bundle's reader sees it: does it fit, and what does it say?

Plain data, so that the edge box needs no statistics. Its keys stand in docs/certificate.md. Leaves
out: issuing one (`training/certify.py`, `export/issue.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagline.errors import BundleError

if TYPE_CHECKING:
    from diagline.bundle import Manifest

MEND = "export the bundle again, then certify it"


def verify(path: Path, manifest: Manifest, hashes: dict[str, str]) -> None:
    """Refuse a manifest whose certificate is of another file, another threshold or other data than its own.

    Args:
        path: the manifest's, for messages.
        hashes: SHA-256 by path in the bundle, as the files have it.

    Raises:
        BundleError: names the format and what differs.
    """
    if manifest.certificate is None:
        return
    try:
        _verify(path, manifest.certificate, manifest, hashes)
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: the certificate cannot be understood ({error!r}); {MEND}") from error


def _verify(path: Path, certificate: dict[str, Any], manifest: Manifest, hashes: dict[str, str]) -> None:
    evidence, measured = certificate["evidence"]["data_hash"], manifest.metrics_split["data_hash"]
    if evidence != measured:
        raise BundleError(
            f"{path}: the certificate rests on other data (SHA-256 {evidence[:12]}...) than the bundle's figures "
            f"({measured[:12]}...); {MEND}"
        )
    uncertified = [name for name, fmt in manifest.formats.items() if fmt.engines and name not in certificate["formats"]]
    if uncertified:
        raise BundleError(f"{path}: the certificate leaves out {uncertified[0]}, which a box may run; {MEND}")
    for name, entry in certificate["formats"].items():
        fmt = manifest.formats[name]
        if entry["sha256"] != hashes[fmt.file]:
            raise BundleError(
                f"{path}: the certificate is of another {fmt.file} (SHA-256 {entry['sha256'][:12]}..., the bundle's "
                f"is {hashes[fmt.file][:12]}...); {MEND}"
            )
        if entry["threshold"] != fmt.threshold:
            raise BundleError(
                f"{path}: {name} is certified at threshold {entry['threshold']}, but {fmt.threshold} is set; {MEND}"
            )
        if not all(isinstance(text, str) for text in (certificate["issued"], entry["says"], entry["says_overkill"])):
            raise TypeError("issued, says and says_overkill are texts")


def line(manifest: Manifest, format_name: str) -> str:
    """What the certificate says of a format, or that there is none, in one line for people."""
    certificate = manifest.certificate
    if certificate is None or format_name not in certificate["formats"]:
        return f"{format_name}: no certificate, escape and overkill are not shown; next: diagline certify CONFIG"
    entry = certificate["formats"][format_name]
    return f"{format_name}, certified {certificate['issued'][:10]}: {entry['says']}; {entry['says_overkill']}"
