"""What lies in a bundle's folder: plain files, no others than the manifest names, each as its hash says.

For `bundle.py` alone, which knows what the files mean.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diagline import files
from diagline.errors import BundleError


def read_json(data: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN, and no key twice, which readers would resolve differently."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise ValueError(f"key {key!r} stands there twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    return json.loads(data.decode(), object_pairs_hook=once, parse_constant=refuse)


def check_files(root: Path, present: Sequence[str], hashes: dict[str, str]) -> None:
    """Refuse unless the files present are those with a hash, and each has it.

    Raises:
        BundleError: names the first file that is missing, added or changed.
        OSError: a file cannot be read.
    """
    for name in sorted(set(present) ^ set(hashes)):
        what = "is not in the manifest" if name in present else "is missing"
        raise BundleError(
            f"{root / name}: {what}; expected the files of the export and no others; copy the bundle again"
        )
    for name, expected in sorted(hashes.items()):
        found = files.sha256_file(root / name)
        if found != expected:
            raise BundleError(
                f"{root / name}: changed (SHA-256 {found[:12]}..., the manifest says {str(expected)[:12]}...); "
                f"copy the bundle again"
            )


def check_path(path: Path, name: Any) -> None:
    """Refuse a name in the manifest at `path` that is no plain path below the bundle's folder."""
    if not isinstance(name, str) or "\\" in name or {"", ".", ".."} & set(name.split("/")):
        raise BundleError(
            f"{path}: names {name!r}; expected a plain path with / inside the bundle; export the bundle again"
        )


def listing(root: Path) -> list[str]:
    """Paths of all files below root, forward slashes, sorted.

    Raises:
        BundleError: something there is neither a file nor a folder, such as a link.
    """
    names = []
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BundleError(f"{path}: not a plain file; expected no links in a bundle; copy the bundle again")
        if path.is_file():
            names.append(path.relative_to(root).as_posix())
    return names
