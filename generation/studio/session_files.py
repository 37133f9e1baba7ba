"""What a session's folder needs of the file system: one owner, no litter, files that are not half there.

Leaves out: what the files mean (`session.py`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
from pathlib import Path
from typing import IO, Any

import numpy as np

from diagline import files, samples
from diagline.errors import DatasetError, OutputError
from generation.painting import Image

LOCK = ".lock"
_UNFINISHED = re.compile(r"\..+\.(png|jsonl?)\.[a-z0-9_]{8}")  # what `files.write_bytes` leaves when killed


def hold(folder: Path, marker: str) -> IO[bytes]:
    """Make the folder, and make it this process's until the process ends or the stream is closed.

    Args:
        marker: a file that is in every folder of this kind.

    Raises:
        OutputError: another process holds it, it holds something else, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strange = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if strange and not (folder / marker).is_file():
            raise OutputError(f"{folder}: holds {strange[0]} but no {marker}; expected a session or an empty folder")
        stream = (folder / LOCK).open("ab")
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; expected a writable folder") from error
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the system, however the process ends
    except OSError as error:
        stream.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise OutputError(f"cannot lock {folder}: {error.strerror}; expected a folder on a local disk") from error
        raise OutputError(f"{folder}: open in another process; expected one at a time; close the other page") from error
    return stream


def sweep(folder: Path) -> None:
    """Remove what writes that were killed left behind; only the folder's holder may."""
    for path in folder.rglob(".*"):
        if _UNFINISHED.fullmatch(path.name):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        OutputError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}; expected a writable folder") from error


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON table.

    Raises:
        DatasetError: it does not, or cannot be read.
    """
    try:
        return table(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); expected a session's file; restore it") from error


def table(text: str | bytes) -> dict[str, Any]:
    """A JSON table; ValueError when it is something else."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{str(found)[:40]!r} is no table")
    return found


def fingerprint(path: Path, image: Image) -> str:
    """SHA-256 of a picture's file, which must hold `image`, `(h, w, 3)` uint8 BGR.

    Raises:
        DatasetError: it is missing, or holds another picture.
    """
    if not np.array_equal(samples.read_image(path), image):
        raise DatasetError(f"{path}: not the picture that was painted with; expected it unchanged; paint again")
    return files.sha256_file(path)
