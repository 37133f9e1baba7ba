"""What stands between the loop and a slow or dead output: a queue on disk and one thread that sends.

`put` returns at once. Each record reaches the output in order and at least once: it is forgotten only
when `send` has returned, so SIGKILL can repeat the record under way and loses none. A power cut loses at most
what was put in the last `sync_s`. Leaves out: the file itself (`spool_disk.py`), and telling repeats
apart, which is the reader's (`part_id` with `taken_utc`).
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diagline.config_checks import within
from diagline.errors import OutputError
from edge_runtime.outputs.base import Output, Record
from edge_runtime.outputs.spool_disk import KINDS, Row, SpoolFile

NO_ROOM, DISK_REFUSES, REFUSED, UNREADABLE, CLOSED = "no room", "disk refuses", "refused", "unreadable", "closed"
"""Why a record was dropped: over the budget; neither disk nor memory took it; the output will not; it went bad
on the disk; it came after `close`."""
TAIL, TAIL_BYTES = 1000, 4_000_000
"""Records, and bytes of them, kept in memory while the disk takes none."""
JOURNAL_BYTES = 16_000_000
"""A longer journal is made to begin anew. It does so by itself where the disk syncs faster than records come."""
FLUSH = 50
"""Records of the tail that are written in one step; `put` may wait for one step."""
RETRY_S, RETRY_LONGEST_S, SYNC_S = 0.5, 30.0, 1.0
CLOSE_WAIT_S = 1.0


class RefusedError(OutputError):
    """An output that will never take this record; the spool drops it, counts it and goes on."""


@dataclass(frozen=True, slots=True)
class SpoolConfig:
    """How records wait for an output.

    Attributes:
        folder: where the spools lie, one file an output.
        limit_mb: disk budget of one spool, 10^6 bytes.
        retry_s: wait after the first failure; doubles with each more.
        retry_longest_s: the longest of these waits.
        sync_s: how often what was put is brought to the disk.
    """

    folder: Path = Path("spool")
    limit_mb: int = 256
    retry_s: float = RETRY_S
    retry_longest_s: float = RETRY_LONGEST_S
    sync_s: float = SYNC_S

    def __post_init__(self) -> None:
        within("spool.limit_mb", self.limit_mb, 1, 1_000_000)
        within("spool.retry_s", self.retry_s, 0.01, 3600.0)
        within("spool.retry_longest_s", self.retry_longest_s, self.retry_s, 3600.0)
        within("spool.sync_s", self.sync_s, 0.05, 60.0)


@dataclass(frozen=True, slots=True)
class SpoolHealth:
    """How one output is doing, since the start of this process.

    Attributes:
        name: the output's.
        waiting: records put and neither sent nor dropped, those of an earlier run included.
        in_memory: how many of them the disk has not taken.
        oldest_s: age of the oldest that waits; 0 when none does.
        sent: records the output took.
        dropped: by kind and cause (`NO_ROOM`, ...).
        failures: tries in a row that did not arrive.
        errors: of all tries, those that ended in anything but OutputError.
        last_error: of the output; None before the first.
        disk_error: why the disk takes no records at present; None when it does.
        connected: the output's own word where it has one, else whether the last try arrived; None before.
    """

    name: str
    waiting: int
    in_memory: int
    oldest_s: float
    sent: int
    dropped: dict[tuple[str, str], int]
    failures: int
    errors: int
    last_error: str | None
    disk_error: str | None
    connected: bool | None


def backoff_s(failures: int, first_s: float, longest_s: float) -> float:
    """How long to wait after so many failures in a row: twice as long each time, up to the longest."""
    return float(min(longest_s, first_s * 2 ** min(failures - 1, 30)))


class Spool:
    """A queue on disk before one output; `put` from any thread."""

    def __init__(
        self,
        output: Output,
        folder: Path,
        limit_bytes: int,
        *,
        retry_s: float = RETRY_S,
        retry_longest_s: float = RETRY_LONGEST_S,
        sync_s: float = SYNC_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Open `folder/NAME.spool` and start sending what an earlier run left.

        Args:
            limit_bytes: disk budget; over it the oldest diagnostics go, then the oldest verdicts.
            now_s: Unix time, for ages.

        Raises:
            OutputError: the folder cannot be written, or another process has this spool.
        """
        self._output, self._now_s = output, now_s
        self._retry_s, self._retry_longest_s, self._sync_s = retry_s, retry_longest_s, sync_s
        self._disk = SpoolFile(folder / f"{output.name}.spool", limit_bytes)
        self._changed = threading.Condition()
        self._tail: list[Row] = []
        self._seq, self._done, self._under_way = self._disk.last_seq, 0, 0
        self._waiting = sum(self._disk.count.values())
        self._sent = self._failures = self._errors = 0
        self._dropped: Counter[tuple[str, str]] = Counter()
        damaged = self._disk.damaged
        self._last_error = f"{self._disk.path}: damaged; put aside as {damaged.name}" if damaged else None
        self._disk_error: str | None = None
        self._arrived: bool | None = None
        self._stopping = self._closed = self._holding = False
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"{what} {output.name}", daemon=True)
            for work, what in ((self._send_all, "spool"), (self._sync_all, "sync"))
        ]
        for thread in self._threads:
            thread.start()

    def put(self, record: Record, kind: str = "verdict") -> None:
        """Take one record; never waits for the output and never raises for the disk's sake.

        Args:
            record: plain data for JSON.
            kind: "verdict", or "diagnostic": the first to go when room runs out.
        """
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}; expected one of {', '.join(KINDS)}")
        line = json.dumps(record, separators=(",", ":")).encode()
        with self._changed:
            if self._stopping:
                self._dropped[kind, CLOSED] += 1
                return
            self._seq += 1
            self._waiting += 1
            self._tail.append(Row(self._seq, kind, self._now_s(), line))
            if len(self._tail) == 1:  # else the disk refuses, and `_sync_all` tries it again
                self._flush()
            while len(self._tail) > TAIL or sum(len(row.line) for row in self._tail) > TAIL_BYTES:
                if not self._shorten_tail():
                    break
            self._changed.notify_all()

    def sync(self) -> None:
        """Bring to the disk what was put; what a full disk refused is tried again."""
        self._flush_all()
        try:
            if self._disk.sync() > JOURNAL_BYTES:
                self._begin_journal()
        except sqlite3.Error as error:
            with self._changed:
                self._disk_error = None if self._closed else str(error)

    def _begin_journal(self) -> None:
        """Sync while nothing is written, so that the next record begins the journal anew; it waits in memory till then.

        A sync that is always overtaken by another record never empties the journal. Raises sqlite3.Error.
        """
        with self._changed:
            self._holding = True
        try:
            self._disk.sync()
        finally:
            with self._changed:
                self._holding = False
            self._flush_all()

    def _flush_all(self) -> None:
        flushed = True
        while flushed:
            with self._changed:
                flushed = bool(self._tail) and not self._closed and self._flush()

    def health(self) -> SpoolHealth:
        """How the output is doing."""
        with self._changed:
            oldest = None if self._closed else self._oldest()
            return SpoolHealth(
                name=self._output.name,
                waiting=self._waiting,
                in_memory=len(self._tail),
                oldest_s=0.0 if oldest is None else max(0.0, self._now_s() - oldest.at_s),
                sent=self._sent,
                dropped=dict(self._dropped),
                failures=self._failures,
                errors=self._errors,
                last_error=self._last_error,
                disk_error=self._disk_error,
                connected=getattr(self._output, "connected", self._arrived),
            )

    def close(self, wait_s: float) -> None:
        """Take no more, send what waits for up to `wait_s`, close the output; the next start sends what is left.

        Returns within `wait_s` and a few seconds, also when the output hangs; its thread is then left alone.
        """
        with self._changed:
            self._stopping = True
            self._changed.wait_for(lambda: self._waiting == 0, wait_s)
            self._stop.set()
            self._changed.notify_all()
        sending, syncing = self._threads
        sending.join(CLOSE_WAIT_S)
        self._output.close()  # also ends a send that hangs
        sending.join(CLOSE_WAIT_S)
        syncing.join(CLOSE_WAIT_S)
        if syncing.is_alive() or self._closed:  # it hangs in the disk, and keeps the file
            return
        self.sync()
        with self._changed:
            self._closed = True
            for row in self._tail:
                self._drop(row, DISK_REFUSES)
            self._tail.clear()
            self._disk.close()

    # Below here, with the lock held unless said otherwise.

    def _flush(self) -> bool:
        if self._holding:
            return False
        rows = self._tail[:FLUSH]
        try:
            self._disk.append(rows)
            del self._tail[: len(rows)]
            for row in self._disk.make_room(keep=self._under_way):
                if row.seq > self._done:
                    self._drop(row, NO_ROOM)
            self._disk_error = None
        except sqlite3.Error as error:
            self._disk_error = str(error)
            return False
        return True

    def _shorten_tail(self) -> bool:
        spare = [row for row in self._tail if row.seq != self._under_way]
        row = next((row for row in spare if row.kind == "diagnostic"), next(iter(spare), None))
        if row is None:
            return False
        self._tail.remove(row)
        self._drop(row, DISK_REFUSES)
        return True

    def _drop(self, row: Row, cause: str) -> None:
        self._dropped[row.kind, cause] += 1
        self._waiting -= 1

    def _oldest(self) -> Row | None:
        try:
            found = self._disk.oldest(after=self._done)
        except sqlite3.Error as error:
            self._disk_error = str(error)
            found = None
        return found or next(iter(self._tail), None)

    def _forget(self, row: Row) -> None:
        self._done, self._under_way = row.seq, 0
        self._tail = [left for left in self._tail if left.seq > row.seq]
        try:
            if not self._holding:  # the next call makes up for it
                self._disk.done(row.seq)
        except sqlite3.Error as error:
            self._disk_error = str(error)

    def _send_all(self) -> None:  # a thread, without the lock
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting > 0 or self._stop.is_set())
                row = None if self._stop.is_set() else self._oldest()
                self._under_way = row.seq if row else 0
            if self._stop.is_set():
                return
            if row is None:  # on a disk that cannot be read
                self._stop.wait(self._sync_s)
                continue
            self._send(row)
            if self._failures:
                self._stop.wait(backoff_s(self._failures, self._retry_s, self._retry_longest_s))

    def _send(self, row: Row) -> None:  # without the lock
        dropped = error = None
        unexpected = False
        try:
            record = json.loads(row.line)
        except ValueError:
            dropped, error = UNREADABLE, f"{self._disk.path}: a record cannot be read"
        else:
            try:
                self._output.send(record)
            except RefusedError as refusal:
                dropped, error = REFUSED, str(refusal)
            except OutputError as failure:
                error = str(failure)
            except Exception as failure:  # whatever it is, the record stays; its text might hold a secret
                error, unexpected = f"{self._output.name}: {type(failure).__name__}", True
        with self._changed:
            if self._closed:  # sent after `close` gave up on it: the next start repeats it
                return
            self._errors += unexpected
            self._last_error = error or self._last_error
            self._arrived = error is None or dropped == REFUSED
            self._failures = self._failures + 1 if error and not dropped else 0
            self._under_way = 0
            if dropped:
                self._drop(row, dropped)
            elif not error:
                self._sent += 1
                self._waiting -= 1
            if dropped or not error:
                self._forget(row)
                self._changed.notify_all()

    def _sync_all(self) -> None:  # a thread, without the lock
        while not self._stop.wait(self._sync_s):
            self.sync()


def open_spool(output: Output, config: SpoolConfig) -> Spool:
    """The spool of one output as a config says; raises as `Spool`."""
    return Spool(
        output,
        config.folder,
        config.limit_mb * 1_000_000,
        retry_s=config.retry_s,
        retry_longest_s=config.retry_longest_s,
        sync_s=config.sync_s,
    )
