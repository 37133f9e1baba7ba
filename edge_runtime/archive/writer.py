"""What the archive's thread does each round: delete what is due, commit a batch of rows, write their pictures.

A row is committed with its picture's path and hash before the picture is written, so that no picture
lies there without a row; one that could not be written is told by an event, like one that was
deleted. Leaves out: the queue and when a round is due (`store.py`).
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline import files
from diagline.errors import OutputError
from diagline.verdict import State
from edge_runtime.archive import images, retention
from edge_runtime.archive.config import ArchiveConfig
from edge_runtime.archive.database import FILE, Kept, Kind, Trail, canonical

SHORT = "less than min_free_bytes free"
RATE_S = 3600.0
"""How far back the rate goes that `days_left` counts with."""


@dataclass(slots=True)
class Item:
    """One row on its way to the disk.

    Attributes:
        text: its canonical content, as far as it is known.
        text_bytes: what that took when it was put.
        frame_bgr: a frame to keep; None once it is encoded.
        frame_bytes: what that frame takes or took in memory.
        kept: where the picture goes, once the row is committed.
    """

    text: str
    text_bytes: int
    frame_bgr: NDArray[np.uint8] | None = None
    frame_bytes: int = 0
    picture: images.Picture | None = None
    kept: Kept | None = None


def free_bytes(folder: Path) -> int:
    """Free space on a folder's disk."""
    return shutil.disk_usage(folder).free


class Writer:
    """Writes rows and pictures and deletes pictures; belongs to one thread.

    Attributes:
        free: bytes on the disk.
        used: bytes by verdict, and "rows": the database.
        days_left: until the disk is full, at the rate of the last hour; None while it does not fill.
        refused: what the disk refused in this round, or None.
    """

    def __init__(
        self,
        folder: Path,
        config: ArchiveConfig,
        now: Callable[[], datetime],
        stamped: Callable[[Kind, dict[str, Any]], dict[str, Any]],
        lose_image: Callable[[str], None],
    ) -> None:
        """Open the trail and find what a stop left half done.

        Args:
            now: wall clock, UTC.
            stamped: adds kind, run and time to a row's content.
            lose_image: counts a picture that is not kept though it should be, by cause.

        Raises:
            OutputError: as `Trail`.
        """
        self.folder, self._config, self._now = folder, config, now
        self._stamped, self._lose_image = stamped, lose_image
        self.trail = Trail(folder)
        try:
            self._gone, self._written = retention.unfinished(folder, self.trail)
            self.free = free_bytes(folder)
        except (OSError, sqlite3.Error) as error:
            self.trail.close()
            raise OutputError(f"cannot read {folder}: {error}; expected an archive") from error
        self.used: dict[str, int] = {}
        self.days_left: float | None = None
        self._samples: deque[tuple[float, int]] = deque()  # monotonic seconds, bytes used in all
        self.refused: str | None = None
        self._swept_s = -float("inf")

    @property
    def owes(self) -> bool:
        """Pictures went, and no row says so yet."""
        return bool(self._gone)

    def sweep(self, at_once: bool) -> None:
        """Delete the pictures that must go: every `sweep_s`, at once if asked to, and whenever the disk is short."""
        self.free, now_s = free_bytes(self.folder), time.monotonic()
        if now_s - self._swept_s < self._config.sweep_s and not at_once and not self._short:
            return
        pending = [kept for _, kept in self._gone]
        due = retention.due(self.trail, self._config, self._now(), self.free, pending)
        for why, kept in due:
            try:
                retention.delete(self.folder, kept)
            except OSError as error:
                self.refused = f"cannot delete {self.folder / kept.path}: {error.strerror}"
            else:
                self._gone.append((why, kept))
        self._swept_s = now_s if len(due) < retention.BATCH else -float("inf")
        self.free = free_bytes(self.folder)
        used = {state.value: self.trail.used_bytes(state) for state in State}
        for _, kept in self._gone:
            used[kept.state.value] -= kept.bytes
        self.used = {**used, "rows": sum(path.stat().st_size for path in self.folder.glob(f"{FILE}*"))}
        self._samples.append((now_s, sum(self.used.values())))
        while now_s - self._samples[0][0] > RATE_S:
            self._samples.popleft()
        self.days_left = retention.days_left(self._samples, self.free - self._config.min_free_bytes)

    @property
    def _short(self) -> bool:
        return self.free < self._config.min_free_bytes

    def encode(self, item: Item) -> None:
        """Turn an item's frame into a picture, or its row into one that says why there is none."""
        if item.frame_bgr is None:
            return
        cause = SHORT if self._short else None
        if cause is None:
            try:
                item.picture = images.encode(item.frame_bgr, self._config)
            except ValueError as error:
                cause = f"cannot encode it: {error}"
        item.frame_bgr = None
        if cause is not None:
            item.text = canonical({**json.loads(item.text), "no_image": cause})
            self._lose_image(cause)

    def commit(self, batch: Sequence[Item], untold: Counter[str]) -> None:
        """Write rows in one transaction: the batch, which pictures went, and how many rows were lost.

        Raises:
            sqlite3.Error: the disk refuses; nothing is written.
        """
        gone, written = list(self._gone), list(self._written)
        if not (batch or gone or written or untold):
            return
        with self.trail.writing():
            for item in batch:
                self._append(item)
            for why, group in groupby(gone, key=lambda entry: entry[0]):
                rows = [kept.seq for _, kept in group]
                self.trail.mark_gone(rows, self._append_event(Kind.IMAGE_GONE, {"why": why, "rows": rows}))
            if untold:
                self._append_event(Kind.LOST, dict(untold))
            self.trail.mark_written(written)
        del self._gone[: len(gone)], self._written[: len(written)]

    def _append(self, item: Item) -> None:
        if item.picture is None:
            self.trail.append(item.text)
            return
        content, seq, suffix = json.loads(item.text), self.trail.next_seq, item.picture.suffix
        part_id, state, taken_utc = content["part_id"], State(content["state"]), content["taken_utc"]
        path = images.path_of(seq, part_id, state, taken_utc, suffix)
        item.kept = Kept(seq, state, taken_utc, path, len(item.picture.data))
        image = {"image": path, "image_sha256": item.picture.sha256, "image_exact": suffix == images.EXACT}
        self.trail.append(canonical({**content, **image}))
        self.trail.add_image(item.kept)

    def _append_event(self, kind: Kind, payload: dict[str, Any]) -> int:
        return self.trail.append(canonical(self._stamped(kind, {"payload": payload})))

    def write_pictures(self, batch: Sequence[Item]) -> None:
        """Write the pictures that committed rows name; of one that the disk refuses an event will tell."""
        for item in batch:
            if item.kept is None or item.picture is None:
                continue
            try:
                files.write_bytes(self.folder / item.kept.path, item.picture.data)
            except (OutputError, OSError) as error:
                self.refused = str(error)
                self._gone.append((f"not written: {error}", item.kept))
                self._lose_image("the disk refused it")
            else:
                self._written.append(item.kept.seq)
