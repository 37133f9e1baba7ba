"""Reading an archive, also while the box writes it, and checking that nobody changed it since.

Opens the file read-only. Leaves out: judging a part again (`replay.py`).
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagline.errors import OutputError
from diagline.verdict import State
from edge_runtime.archive.database import FILE, VERSION, Head, Kind, link


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the trail; `content` as in docs/archive.md."""

    seq: int
    kind: Kind
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verification:
    """What walking the chain showed.

    Attributes:
        head: the head record; None when it cannot be read.
        row: the first row that is not as it was written; None when all are.
        fault: one line that says what is wrong with it, or None.
    """

    head: Head | None
    row: int | None
    fault: str | None


class Reader:
    """Reads a trail, also while it is written; one thread. Each call raises OutputError where the file is damaged."""

    def __init__(self, folder: Path) -> None:
        """Open `folder/archive.db`.

        Raises:
            OutputError: there is no archive, or it cannot be read.
        """
        self.folder = folder
        path = folder / FILE
        try:
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise OutputError(f"{path}: {error}; expected an archive; name the folder that holds one") from error
        if version != VERSION:
            self._db.close()
            raise OutputError(f"{path}: archive version {version}; this diagline reads {VERSION}")

    def head(self) -> Head:
        """The end of the chain, as last committed."""
        ((count, digest),) = self._query("SELECT count, hash FROM head")
        return Head(count, digest.hex())

    def part(self, part_id: str) -> list[Row]:
        """The verdicts on a part of that name, one a run, oldest first."""
        return self._rows("part_id = ? AND kind = 'verdict' ORDER BY seq", part_id)

    def verdicts(self, limit: int, state: State | None = None) -> list[Row]:
        """The newest verdicts, newest first; of one state, where it is given."""
        where, values = ("", ()) if state is None else (" AND state = ?", (state.value,))
        return self._rows(f"kind = 'verdict'{where} ORDER BY seq DESC LIMIT ?", *values, limit)

    def events(self, kind: Kind, limit: int = 1000) -> list[Row]:
        """The newest events of a kind, newest first."""
        return self._rows("kind = ? AND kind <> 'verdict' ORDER BY seq DESC LIMIT ?", kind.value, limit)

    def image_gone(self, seq: int) -> Row | None:
        """The event that says why a row's picture is gone; None while it should be there."""
        found = self._rows("seq = (SELECT gone FROM images WHERE seq = ?)", seq)
        return found[0] if found else None

    def verify(self, anchor: Head | None = None) -> Verification:
        """Walk the chain and find the first row that was changed, removed or inserted.

        Args:
            anchor: a head that was noted elsewhere; the row it names must still have that hash.
        """
        try:
            self._db.execute("BEGIN")  # one view of rows and head, while others write
            try:
                return self._walk(anchor)
            finally:
                self._db.execute("ROLLBACK")
        except (sqlite3.Error, OutputError) as error:
            return Verification(None, None, f"the file cannot be read: {error}")

    def _walk(self, anchor: Head | None) -> Verification:
        head, digest, row = self.head(), bytes(32), 0
        rows = self._db.execute("SELECT seq, CAST(content AS BLOB), hash FROM trail ORDER BY seq")
        for row, (seq, content, found) in enumerate(rows, 1):
            if seq != row:
                return Verification(head, row, f"row {row} is missing; row {seq} stands in its place")
            if found != link(digest, content):
                why = "it was changed, or a row before it was changed, removed or inserted"
                return Verification(head, row, f"row {row} does not follow from row {row - 1}: {why}")
            digest = found
            if row == head.count and found.hex() != head.hash:
                return Verification(head, row, f"row {row} is not the one that the head names")
            if anchor is not None and row == anchor.count and found.hex() != anchor.hash:
                return Verification(head, row, f"row {row} is not the one that was noted: the chain was written anew")
        if row != head.count:
            first = min(row, head.count) + 1
            what = "is missing" if row < head.count else "was added"
            return Verification(head, first, f"row {first} {what}: the head counts {head.count} rows, there are {row}")
        if anchor is not None and anchor.count > row:
            return Verification(head, row + 1, f"row {row + 1} is missing: {anchor.count} rows were noted")
        return Verification(head, None, None)

    def _rows(self, where: str, *values: Any) -> list[Row]:
        found = self._query(f"SELECT seq, content FROM trail WHERE {where}", *values)
        rows = [(seq, json.loads(content)) for seq, content in found]
        return [Row(seq, Kind(content["kind"]), content) for seq, content in rows]

    def _query(self, query: str, *values: Any) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise OutputError(f"{self.folder / FILE}: {error}; expected a whole archive; verify it") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()
