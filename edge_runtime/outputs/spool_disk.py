"""The records of one spool on disk: in order, within a budget, whole after SIGKILL.

SQLite in WAL mode: appending is one transaction into the page cache, which SIGKILL leaves whole; `sync`
brings it to the disk, for power cuts, from a connection of its own so that nobody waits for it. One table
a kind, so that the oldest of a kind can go and its pages serve again. Leaves out: threads and sending
(`spool.py`). Not safe by itself for several threads, `sync` excepted.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from diagline.errors import OutputError

KINDS = ("verdict", "diagnostic")
PAGE_BYTES = 1024
"""Small, because a record dirties one page when it comes and one when it goes."""


class Row(NamedTuple):
    """One record: its place in the order, a word of `KINDS`, Unix time it was put, and one line of JSON."""

    seq: int
    kind: str
    at_s: float
    line: bytes


class SpoolFile:
    """What waits, by kind.

    Attributes:
        count: records on disk.
        damaged: where a file that could not be read was put aside; None where there was none.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        """Open or make the file; one that is damaged is put aside and a new one begun.

        Raises:
            OutputError: it cannot be written, or another process has it.
        """
        self.path, self._limit_bytes = path, limit_bytes
        self.damaged: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; expected a writable folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                self._open()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # not a database, or a malformed one
                self._set_aside()
                self._open()
        except BlockingIOError as error:
            os.close(self._lock)
            raise OutputError(f"{path}: another process writes it; expected one box a spool; stop the other") from error
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise OutputError(f"cannot write {path}: {error}; expected a writable disk; free some space") from error

    def _open(self) -> None:
        self._db, self._syncing = (
            sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False) for _ in range(2)
        )
        self.count, self.last_seq, self._room_bytes = dict.fromkeys(KINDS, 0), 0, -1
        for db in (self._db, self._syncing):
            db.execute(f"PRAGMA page_size={PAGE_BYTES}")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")  # only `sync` waits for the disk
            db.execute("PRAGMA wal_autocheckpoint=0")
        for kind in KINDS:
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {kind} (seq INTEGER PRIMARY KEY, at_s REAL, line BLOB)")
            self.count[kind], last_seq = self._db.execute(f"SELECT count(*), max(seq) FROM {kind}").fetchone()
            self.last_seq = max(self.last_seq, last_seq or 0)

    def _set_aside(self) -> None:
        for db in (self._db, self._syncing):
            db.close()
        self.damaged = self.path.with_name(f"{self.path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
        for end in ("", "-wal", "-shm"):
            found = self.path.with_name(self.path.name + end)
            if found.exists():
                found.rename(self.damaged.with_name(self.damaged.name + end))

    def append(self, rows: Sequence[Row]) -> None:
        """Add records, all or none.

        Raises:
            sqlite3.Error: the disk refuses them.
        """
        if len(rows) > 1:
            self._db.execute("BEGIN IMMEDIATE")
        try:
            for seq, kind, at_s, line in rows:
                self._db.execute(f"INSERT INTO {kind} VALUES (?, ?, ?)", (seq, at_s, line))
            if len(rows) > 1:
                self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        for row in rows:
            self.count[row.kind] += 1
            self._room_bytes -= len(row.line) + 4 * PAGE_BYTES  # more than it can take

    def oldest(self, after: int) -> Row | None:
        """The first record behind place `after`; raises sqlite3.Error."""
        heads = []
        for kind in KINDS:
            if self.count[kind]:
                found = self._db.execute(
                    f"SELECT seq, at_s, line FROM {kind} WHERE seq > ? ORDER BY seq LIMIT 1", (after,)
                ).fetchone()
                heads += [Row(found[0], kind, *found[1:])] if found else []
        return min(heads, default=None)

    def done(self, up_to: int) -> None:
        """Forget every record up to a place; raises sqlite3.Error, and then the next call makes up for it."""
        for kind in KINDS:
            if self.count[kind]:
                self._delete(kind, "seq <= ?", up_to)

    def make_room(self, keep: int) -> Iterator[Row]:
        """Delete what is over the budget: the oldest diagnostics, then the oldest verdicts.

        Args:
            keep: the place of a record that is being sent; it stays.

        Yields:
            What went, without its line.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        if self._room_bytes >= 0:  # the question itself takes as long as the append
            return
        self._room_bytes = self._limit_bytes - self._pragma("page_count") * PAGE_BYTES
        if self._room_bytes >= 0:
            return
        for kind in reversed(KINDS):
            while self.used_bytes() > self._limit_bytes:
                gone = self._delete(kind, f"seq = (SELECT min(seq) FROM {kind} WHERE seq != ?)", keep)
                if not gone:
                    break
                yield from gone

    def used_bytes(self) -> int:
        """What the records take on the disk; the journal (a few MB) comes on top. Raises sqlite3.Error."""
        return (self._pragma("page_count") - self._pragma("freelist_count")) * PAGE_BYTES

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _delete(self, kind: str, which: str, value: int) -> list[Row]:
        rows = self._db.execute(f"DELETE FROM {kind} WHERE {which} RETURNING seq", (value,)).fetchall()
        self.count[kind] -= len(rows)
        return [Row(seq, kind, 0.0, b"") for (seq,) in rows]

    def sync(self) -> int:
        """Bring what was appended so far to the disk; may wait for it. Raises sqlite3.Error.

        Returns:
            Bytes of the journal; it begins anew with the next record where none came meanwhile.
        """
        _, pages, _ = self._syncing.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return int(pages) * PAGE_BYTES

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        for db in (self._db, self._syncing):
            db.close()
        os.close(self._lock)
