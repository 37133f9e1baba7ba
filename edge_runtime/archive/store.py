"""The audit trail of a box: every verdict and what bears on it, on disk, behind the loop's back.

`put` and `event` note a row in memory and return; one thread writes (`writer.py`). A slow
or dead disk costs frames first, then events, and verdicts last: all counted, and told in the trail
when the disk is back. Leaves out: what a row looks like on disk (`database.py`), pictures
(`images.py`), what is deleted when (`retention.py`), reading (`reader.py`) and judging a part
again (`replay.py`).
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline.verdict import Verdict
from edge_runtime.archive import images
from edge_runtime.archive.config import ArchiveConfig
from edge_runtime.archive.database import Head, Kind, canonical
from edge_runtime.archive.writer import Item, Writer

CLOSE_WAIT_S = 10.0
BATCH_ROWS, BATCH_FRAMES = 500, 4
"""What one commit holds at most, so that a verdict does not wait for the encoding of many frames."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What gave a verdict: all that a replay needs besides the frame."""

    bundle_sha256: str
    format: str
    engine: str
    threads: int


NO_ORIGIN = dict.fromkeys(("bundle_sha256", "format", "engine", "threads"))


@dataclass(frozen=True, slots=True)
class ArchiveHealth:
    """How the archive does.

    Attributes:
        rows: committed, verdicts and events.
        queue: rows that wait in memory.
        lost: how many verdicts, events and images are not in the archive though they should be, by cause.
        used_bytes: pictures by verdict, and "rows": the database; empty before the first sweep.
        free_bytes: on its disk.
        days_left: until the disk is full, at the rate of the last hour; None while it does not fill.
        error: what the disk refuses now, or None.
        last_error: what it refused last, also when that is over.
    """

    rows: int
    queue: int
    lost: dict[str, int]
    used_bytes: dict[str, int]
    free_bytes: int
    days_left: float | None
    error: str | None
    last_error: str | None


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Archive:
    """One box's trail, open for writing; one process at a time.

    Attributes:
        run_id: names this run; part ids are unique within it.
    """

    def __init__(
        self,
        folder: Path,
        config: ArchiveConfig | None = None,
        facts: dict[str, Any] | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """Open or make the archive, and note the start.

        Args:
            facts: what the start event tells, plain data: versions, machine, resolved config.
            now: the wall clock, UTC.

        Raises:
            OutputError: the folder cannot be written to, another process writes there, or what is
                there is no whole archive.
        """
        self._config, self._now = config or ArchiveConfig(), now
        self.run_id = f"{now():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._changed = threading.Condition()
        self._queue: deque[Item] = deque()
        self._row_bytes = self._frame_bytes = self._accepted = self._settled = 0
        self._asked = self._served = self._target = 0  # flushes, and how many rows the last one waits for
        self._closing = False
        self._lost: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._error: str | None = None
        self._last_error: str | None = None
        self._writer = Writer(folder, self._config, now, self._stamped, self._lose_image)
        self._add(Kind.START, {"payload": facts or {}})
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def put(self, verdict: Verdict, frame_bgr: NDArray[np.uint8] | None = None, origin: Origin | None = None) -> bool:
        """Note a verdict, and the frame if it is one to keep; never waits for the disk.

        Args:
            frame_bgr: what the inspector was given, `(h, w, 3)` uint8 BGR or `(h, w)` grey; not copied, so it must
                not be written to afterwards. A part of a larger picture is copied where it is kept.
            origin: what gave the verdict; None: no engine was open.

        Returns:
            False where the row is lost; `health().lost` says why.
        """
        why = images.not_kept(verdict.state, verdict.part_id, frame_bgr, self._config)
        given = asdict(origin) if origin is not None else NO_ORIGIN
        image = {"image": None, "image_sha256": None, "image_exact": None, "no_image": why}
        return self._add(Kind.VERDICT, {**verdict.record(), **given, **image}, None if why else frame_bgr)

    def event(self, kind: Kind, payload: dict[str, Any]) -> bool:
        """Note what bears on the verdicts: plain data for JSON; as `put`."""
        return self._add(kind, {"payload": payload})

    def _add(self, kind: Kind, content: dict[str, Any], frame_bgr: NDArray[np.uint8] | None = None) -> bool:
        what, limit, limit_bytes = "verdict", self._config.queue_rows, self._config.queue_row_bytes
        if kind is not Kind.VERDICT:
            what, limit, limit_bytes = "event", max(1, limit // 2), limit_bytes // 2
        content = self._stamped(kind, content)
        frame_bytes = 0 if frame_bgr is None else frame_bgr.nbytes
        with self._changed:
            if self._frame_bytes and self._frame_bytes + frame_bytes > self._config.queue_frame_bytes and frame_bytes:
                frame_bgr, frame_bytes, content["no_image"] = None, 0, "the queue of frames is full"
                self._lost[f"image: {content['no_image']}"] += 1
            if self._closing:
                return self._lose(f"{what}: the archive is closed")
            try:
                text = canonical(content)
            except (TypeError, ValueError, RecursionError) as error:
                return self._lose(f"{what}: not plain data ({error})")
            if len(self._queue) >= limit or self._row_bytes + len(text) > limit_bytes:
                return self._lose(f"{what}: the queue is full" + (f" ({self._error})" if self._error else ""))
            self._queue.append(Item(text, len(text), _by_itself(frame_bgr), frame_bytes))
            self._row_bytes += len(text)
            self._frame_bytes += frame_bytes
            self._accepted += 1
            if len(self._queue) in (1, BATCH_ROWS):  # what the writer waits for
                self._changed.notify_all()
        return True

    def _stamped(self, kind: Kind, content: dict[str, Any]) -> dict[str, Any]:
        at_utc = self._now().isoformat(timespec="microseconds")
        return {"kind": kind.value, "run_id": self.run_id, "at_utc": at_utc, **content}

    def _lose(self, cause: str) -> bool:
        self._lost[cause] += 1
        self._untold[cause] += 1
        return False

    def _lose_image(self, cause: str) -> None:
        with self._changed:
            self._lost[f"image: {cause}"] += 1

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything put so far is committed, its pictures written and the quotas kept; False: not yet."""
        with self._changed:
            self._asked += 1
            asked, self._target = self._asked, self._accepted
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._served >= asked, timeout_s)

    def head(self) -> Head:
        """The end of the chain as last committed: noted elsewhere, it shows a trail that was written anew."""
        return self._writer.trail.head

    def health(self) -> ArchiveHealth:
        """How it does; never waits for the disk."""
        with self._changed:
            return ArchiveHealth(
                rows=self.head().count,
                queue=len(self._queue),
                lost=dict(self._lost),
                used_bytes=self._writer.used,
                free_bytes=self._writer.free,
                days_left=self._writer.days_left,
                error=self._error,
                last_error=self._last_error,
            )

    def close(self, wait_s: float = CLOSE_WAIT_S) -> int:
        """Note the stop and write what waits; returns the rows that could not be written, 0 when all is well."""
        if not self._closing:
            self.event(Kind.STOP, {})
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(wait_s)
        return len(self._queue)

    def _run(self) -> None:
        closing = False
        while not closing or self._wanted_rows():
            with self._changed:
                self._changed.wait_for(lambda: self._wanted_rows() or self._in_haste(), self._config.sweep_s)
                if self._queue:  # others may come to share the commit
                    enough = lambda: self._in_haste() or len(self._queue) >= BATCH_ROWS  # noqa: E731
                    self._changed.wait_for(enough, self._config.commit_s)
                closing, asked = self._closing, self._asked
                batch = self._batch()
            error = self._round(batch, asked)
            if closing and error is not None:
                break
        self._writer.trail.close()

    def _wanted_rows(self) -> bool:
        return bool(self._queue) or self._writer.owes

    def _in_haste(self) -> bool:
        return self._closing or self._asked > self._served

    def _batch(self) -> list[Item]:
        batch, frames = [], 0
        for item in islice(self._queue, BATCH_ROWS):
            frames += item.frame_bytes > 0
            if frames > BATCH_FRAMES:
                break
            batch.append(item)
        return batch

    def _round(self, batch: list[Item], asked: int) -> str | None:
        """Delete what is due, commit a batch, write its pictures; returns what the disk refused, or None."""
        self._writer.refused = None
        with self._changed:
            untold, self._untold = self._untold, Counter()
        done = 0
        try:
            self._writer.sweep(at_once=asked > self._served)
            for item in batch:
                self._writer.encode(item)
            self._writer.commit(batch, untold)
            done, untold = len(batch), Counter()
            self._writer.write_pictures(batch)
        except Exception as error:  # whatever it is, the thread lives and the rows wait
            self._writer.refused = f"{self._writer.folder}: {error}"
        error_now = self._writer.refused
        with self._changed:
            for _ in range(done):
                item = self._queue.popleft()
                self._row_bytes -= item.text_bytes
                self._frame_bytes -= item.frame_bytes
            self._settled += done
            self._untold.update(untold)
            self._error, self._last_error = error_now, error_now or self._last_error
            if error_now is None and self._settled >= self._target and not self._writer.owes:
                self._served = asked
                self._changed.notify_all()
            if error_now is not None:
                self._changed.wait_for(lambda: self._closing, self._config.retry_s)
        return error_now


def _by_itself(frame_bgr: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    """The picture without the larger one it may be a part of, which would otherwise wait with it."""
    whole = None if frame_bgr is None else frame_bgr.base
    if frame_bgr is None or whole is None or getattr(whole, "nbytes", frame_bgr.nbytes) <= frame_bgr.nbytes:
        return frame_bgr
    return frame_bgr.copy()
