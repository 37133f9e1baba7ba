"""The audit trail on disk: one SQLite table of rows, each with a hash over the row before it and itself.

    trail    seq, content (canonical JSON; its fields are columns too), hash
    head     how many rows there are, and the last one's hash; written with every row, in one transaction
    images   which row's picture is there, and its size: bookkeeping of retention, not part of the chain

In WAL mode with synchronous=FULL: what is committed survives SIGKILL and a power cut, and readers
never stop the writer. Who can write to the file can also write the whole chain anew; that shows
only against a head that was noted elsewhere (docs/archive.md). Leaves out: reading and
checking it (`reader.py`), queue and thread (`store.py`), and what a picture is (`images.py`).
"""

from __future__ import annotations

import enum
import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagline.errors import OutputError
from diagline.verdict import State

FILE, LOCK = "archive.db", "archive.lock"
VERSION = 1
COLUMNS = (
    "kind", "run_id", "at_utc", "part_id", "state", "logit", "threshold", "model", "format", "engine", "cause",
    "taken_utc", "image", "no_image", "payload",
)  # fmt: skip
SCHEMA = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE trail (seq INTEGER PRIMARY KEY, content TEXT NOT NULL, hash BLOB NOT NULL,
        {", ".join(f"{name} GENERATED ALWAYS AS (json_extract(content, '$.{name}')) VIRTUAL" for name in COLUMNS)});
    CREATE INDEX parts ON trail (part_id) WHERE part_id IS NOT NULL;
    CREATE INDEX events ON trail (kind) WHERE kind <> 'verdict';
    CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER NOT NULL, hash BLOB NOT NULL);
    INSERT INTO head VALUES (1, 0, zeroblob(32));
    CREATE TABLE images (seq INTEGER PRIMARY KEY, state TEXT NOT NULL, taken_utc TEXT NOT NULL, path TEXT NOT NULL,
        bytes INTEGER NOT NULL, written INTEGER NOT NULL DEFAULT 0, gone INTEGER);
    CREATE INDEX kept ON images (state, seq, bytes) WHERE gone IS NULL;
    CREATE INDEX unwritten ON images (seq) WHERE written = 0 AND gone IS NULL;
    PRAGMA user_version = {VERSION};
    COMMIT;
"""


class Kind(enum.Enum):
    """What a row of the trail tells of."""

    VERDICT = "verdict"
    START = "start"
    STOP = "stop"
    BUNDLE = "bundle"
    SELF_TEST = "self_test"
    CHALLENGE = "challenge"
    GATE = "gate"
    IMAGE_GONE = "image_gone"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: what to note elsewhere, so that a trail written anew shows.

    Attributes:
        count: rows.
        hash: the last row's, 64 hex digits.
    """

    count: int
    hash: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A row's picture that should be there.

    Attributes:
        path: relative to the archive's folder.
        taken_utc: as in its verdict.
    """

    seq: int
    state: State
    taken_utc: str
    path: str
    bytes: int


def link(before: bytes, content: bytes) -> bytes:
    """A row's hash: SHA-256 over the hash of the row before (32 bytes; zeros before the first) and its content."""
    return hashlib.sha256(before + content).digest()


def canonical(content: dict[str, Any]) -> str:
    """A row's content as the one text that is hashed: JSON in ASCII, keys sorted, no spaces.

    Raises:
        ValueError, TypeError: it is no plain data, or holds a number that is none.
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Trail:
    """The one writer; belongs to one thread at a time.

    Attributes:
        head: as last committed.
    """

    def __init__(self, folder: Path) -> None:
        """Open or make `folder/archive.db`.

        Raises:
            OutputError: the folder cannot be written to, another process holds it, the file is no
                archive or of another version, or its last row is not the one its head names.
        """
        path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror}; expected a writable folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self.head = self._open(path)
        except BaseException as error:
            os.close(self._lock)
            if hasattr(self, "_db"):
                self._db.close()
            if isinstance(error, BlockingIOError):
                raise OutputError(f"{folder}: another process writes this archive; name another folder") from error
            if isinstance(error, sqlite3.Error):
                raise OutputError(f"{path}: {error}; expected an archive; move it away, a new one starts") from error
            raise

    def _open(self, path: Path) -> Head:
        (mode,) = self._db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise OutputError(f"{path}: the file system allows no write-ahead log; name a folder on a local disk")
        self._db.execute("PRAGMA synchronous = FULL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(SCHEMA)
        elif version != VERSION:
            raise OutputError(f"{path}: archive version {version}; this diagline writes {VERSION}; name another folder")
        count, digest = self._db.execute("SELECT count, hash FROM head").fetchone()
        last = self._db.execute("SELECT seq, hash FROM trail ORDER BY seq DESC LIMIT 1").fetchone()
        if (last or (0, bytes(32))) != (count, digest):
            raise OutputError(
                f"{path}: the last row is not the one its head names ({count}); rows were changed from outside; "
                f"move the folder away, a new archive starts"
            )
        return Head(count, digest.hex())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction: every row appended inside is on disk when it ends, or none is."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._count, self._digest = self._db.execute("SELECT count, hash FROM head").fetchone()
            yield
            self._db.execute("UPDATE head SET count = ?, hash = ?", (self._count, self._digest))
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self.head = Head(self._count, self._digest.hex())

    @property
    def next_seq(self) -> int:
        """The number that the next row gets; inside `writing`."""
        return int(self._count) + 1

    def append(self, content: str) -> int:
        """Add a row inside `writing`; returns its number."""
        self._count, self._digest = self.next_seq, link(self._digest, content.encode())
        self._db.execute(
            "INSERT INTO trail (seq, content, hash) VALUES (?, ?, ?)", (self._count, content, self._digest)
        )
        return int(self._count)

    def add_image(self, kept: Kept) -> None:
        """Note that a row names a picture, which is still to be written."""
        row = (kept.seq, kept.state.value, kept.taken_utc, kept.path, kept.bytes)
        self._db.execute("INSERT INTO images (seq, state, taken_utc, path, bytes) VALUES (?, ?, ?, ?, ?)", row)

    def mark_written(self, rows: Iterable[int]) -> None:
        """Note that the pictures of these rows are on disk."""
        self._db.executemany("UPDATE images SET written = 1 WHERE seq = ?", [(seq,) for seq in rows])

    def mark_gone(self, rows: Iterable[int], event: int) -> None:
        """Note that the pictures of these rows are gone, and which row says why."""
        self._db.executemany("UPDATE images SET gone = ? WHERE seq = ?", [(event, seq) for seq in rows])

    def kept(self, state: State) -> Iterator[Kept]:
        """The pictures of a verdict, oldest first."""
        return self._images("state = ? AND gone IS NULL", state.value)

    def unwritten(self) -> list[Kept]:
        """Pictures of which nothing says that they reached the disk."""
        return list(self._images("written = 0 AND gone IS NULL"))

    def _images(self, where: str, *values: str) -> Iterator[Kept]:
        query = f"SELECT seq, state, taken_utc, path, bytes FROM images WHERE {where} ORDER BY seq"
        for seq, state, taken_utc, path, size in self._db.execute(query, values):
            yield Kept(seq, State(state), taken_utc, path, size)

    def used_bytes(self, state: State) -> int:
        """What the pictures of a verdict take."""
        query = "SELECT coalesce(sum(bytes), 0) FROM images WHERE state = ? AND gone IS NULL"
        return int(self._db.execute(query, (state.value,)).fetchone()[0])

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._db.close()
        os.close(self._lock)
