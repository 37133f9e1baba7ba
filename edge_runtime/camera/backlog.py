"""Frames that came and wait to be asked for: numbered, bounded, and every loss counted with its cause.

    newest    the oldest makes room for one that comes; `read` gives the newest
    all       one that comes and finds no room is lost; `read` gives them in order

Leaves out: threads and waiting; whoever owns a backlog holds its lock (`watched.py`).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import NamedTuple

from edge_runtime.camera.frames import Frame

KEEP = ("newest", "all")
LONG_AGO_NS = -(2**62)

NEWER, FULL, EARLY, LATE = "a newer one came", "no room", "before the trigger", "came after the read was given up"
"""Causes of a lost frame."""


class _Waiting(NamedTuple):
    frame: Frame
    before_ns: int  # when the frame that came before it was taken, kept or not


class Backlog:
    """Frames between capture and use.

    Whatever came is given, lost or waiting: `number == given + lost.total() + len(waiting)`.

    Attributes:
        number: frames so far, those that stand for a missing one included; the next one's number.
        given: frames handed over.
        lost: frames nobody was given, by cause.
        last_ns: monotonic clock of the frame that came last.
    """

    def __init__(self, keep: str, limit: int) -> None:
        self._keep, self._limit = keep, limit
        self._waiting: deque[_Waiting] = deque()
        self._given_ns = LONG_AGO_NS
        self._given_number = -1
        self.number = self.given = 0
        self.lost: Counter[str] = Counter()
        self.last_ns = LONG_AGO_NS

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, frame: Frame) -> None:
        """Take in a frame and number it."""
        entry = _Waiting(replace(frame, number=self._count()), self.last_ns)
        self.last_ns = frame.taken_ns
        if len(self._waiting) == self._limit:
            if self._keep == "all":
                self.lost[FULL] += 1
                return
            self._lose_oldest(NEWER)
        self._waiting.append(entry)

    def lose(self, cause: str) -> None:
        """Count a frame that came and cannot be used."""
        self._count()
        self.lost[cause] += 1

    def next(self) -> Frame | None:
        """The frame whose turn it is; None: none waits."""
        while self._keep == "newest" and len(self._waiting) > 1:
            self._lose_oldest(NEWER)
        return self._give(self._waiting.popleft()) if self._waiting else None

    def first_from(self, from_ns: int, until_ns: int, after_ns: int = LONG_AGO_NS) -> Frame | str:
        """The first frame taken at `from_ns` or later, or why it cannot be given. Earlier ones are lost.

        Args:
            until_ns: one taken later shows another part: it stays, for that one.
            after_ns: the part before came then, and if no frame has come since, this one may be its.
        """
        while self._waiting and self._waiting[0].frame.taken_ns < from_ns:
            self._lose_oldest(EARLY)
        if self.last_ns < from_ns:
            return "no frame came"
        if self._waiting and self._waiting[0].before_ns < from_ns:
            late_ms = (self._waiting[0].frame.taken_ns - from_ns) / 1e6
            if self._waiting[0].frame.taken_ns > until_ns:
                return f"no frame in time: the next, {late_ms:.1f} ms after the trigger, may be another part's"
            if self._waiting[0].before_ns < after_ns:
                return "no frame of its own: the part before got none, and this may be its"
            return self._give(self._waiting.popleft())
        if self._given_ns >= from_ns:
            return f"duplicated: its frame {self._given_number} was given for another part"
        return "its frame was lost before it was asked for"

    def absent(self, utc: str, at_ns: int, cause: str) -> Frame:
        """A frame that stands for one that did not come; its number is its own."""
        self.given += 1
        return Frame(None, self._count(), utc, at_ns, cause)

    def _give(self, entry: _Waiting) -> Frame:
        self.given += 1
        self._given_ns, self._given_number = entry.frame.taken_ns, entry.frame.number
        return entry.frame

    def _lose_oldest(self, cause: str) -> None:
        self._waiting.popleft()
        self.lost[cause] += 1

    def _count(self) -> int:
        self.number += 1
        return self.number - 1
