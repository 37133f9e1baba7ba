"""Exactly one verdict a trigger: in time, or NO_DECISION at its deadline, whatever hangs or fails.

The first to close a trigger decides it; an answer that comes later is counted and dropped. So
triggers = PASS + REJECT + NO_DECISION + open at every moment. Leaves out: the inspection itself
(`box.py`) and what is done with a decision.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from diagline.verdict import State, Verdict
from edge_runtime.camera.frames import Frame
from edge_runtime.trigger import Trigger


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a trigger.

    Attributes:
        frame: what was judged; None where no frame came.
    """

    trigger: Trigger
    verdict: Verdict
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """The ledger at one moment; `triggers` is the sum of the states and `open`.

    Attributes:
        late: decisions that their deadline made.
        dropped: answers that came after it.
    """

    triggers: int
    open: int
    states: dict[State, int]
    late: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Open:
    """A trigger that waits for its verdict.

    Attributes:
        frame: its own, where it came with one; let go of with the verdict.
    """

    ticket: int
    trigger: Trigger
    frame: Frame | None


@dataclass(slots=True)
class _Books:
    triggers: int = 0
    states: Counter[State] = field(default_factory=Counter)
    late: int = 0
    dropped: int = 0
    open: dict[int, Open] = field(default_factory=dict)  # by ticket, in the order of the triggers
    given: int = 0  # the last ticket that was handed out to be judged


class Ledger:
    """Keeps every open trigger, and closes those whose deadline has come."""

    def __init__(
        self,
        deadline_ns: int,
        most_open: int,
        undecided: Callable[[Trigger, str], Verdict],
        decided: Callable[[Decision], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Start nothing yet.

        Args:
            deadline_ns: from the trigger to its verdict.
            most_open: more open triggers than this are NO_DECISION at once.
            undecided: makes the NO_DECISION of a trigger from its cause.
            decided: called once a trigger, on whichever thread decided it; must not block or raise.
            clock: monotonic nanoseconds.
        """
        self._deadline_ns, self._most_open = deadline_ns, most_open
        self._undecided, self._decided, self._clock = undecided, decided, clock
        self._changed = threading.Condition()
        self._books = _Books()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the deadlines on a thread."""
        self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
        self._thread.start()

    def close(self, wait_s: float = 1.0) -> None:
        """Decide what is still open, and watch no more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(wait_s)
        for ticket in list(self._books.open):
            self.give_up(ticket, "the box was stopped")

    def open(self, trigger: Trigger, frame: Frame | None = None) -> int | None:
        """A ticket for a trigger; None where it was decided at once, as too many are open."""
        with self._changed:
            self._books.triggers += 1
            ticket = self._books.triggers
            self._books.open[ticket] = Open(ticket, trigger, frame)
            full = len(self._books.open) > self._most_open
            self._changed.notify_all()
        if full:
            self.give_up(ticket, f"more than {self._most_open} parts wait for their verdict")
            return None
        return ticket

    def next(self, timeout_s: float) -> Open | None:
        """The oldest open trigger that was not handed out yet, waiting for one; None: none came, or it closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._unjudged() is not None, timeout_s)
            found = None if self._closing else self._unjudged()
            if found is not None:
                self._books.given = found.ticket
            return found

    def remaining_s(self, trigger: Trigger) -> float:
        """Seconds to a trigger's deadline."""
        return max(0.0, (self._due_ns(trigger) - self._clock()) / 1e9)

    def decide(self, ticket: int, verdict: Verdict, frame: Frame | None) -> bool:
        """Close a trigger with its verdict; False where its deadline was first, or is over now."""
        with self._changed:
            found = self._books.open.get(ticket)
            if found is None:
                self._books.dropped += 1
                return False
        if self._clock() > self._due_ns(found.trigger):
            self._expire(ticket)
            with self._changed:
                self._books.dropped += 1
            return False
        return self._close(ticket, verdict, frame)

    def give_up(self, ticket: int, cause: str) -> bool:
        """Close a trigger with NO_DECISION."""
        with self._changed:
            found = self._books.open.get(ticket)
        return found is not None and self._close(ticket, self._undecided(found.trigger, cause), None)

    def tally(self) -> Tally:
        """The counters, all of one moment."""
        with self._changed:
            books = self._books
            states = {state: books.states[state] for state in State}
            return Tally(books.triggers, len(books.open), states, books.late, books.dropped)

    def oldest_open_s(self) -> float | None:
        """How long the oldest open trigger has waited; None where none is open."""
        with self._changed:
            pulled = [found.trigger.at_ns for found in self._books.open.values()]
        return (self._clock() - min(pulled)) / 1e9 if pulled else None

    def expire(self) -> int | None:
        """Decide every trigger whose deadline has come; when the next one comes, in ns, or None."""
        now_ns = self._clock()
        with self._changed:
            due = {ticket: self._due_ns(found.trigger) for ticket, found in self._books.open.items()}
        for ticket, due_ns in due.items():
            if due_ns <= now_ns:
                self._expire(ticket)
        return min((due_ns for due_ns in due.values() if due_ns > now_ns), default=None)

    def _unjudged(self) -> Open | None:
        return next((found for ticket, found in self._books.open.items() if ticket > self._books.given), None)

    def _due_ns(self, trigger: Trigger) -> int:
        return trigger.at_ns + self._deadline_ns

    def _expire(self, ticket: int) -> None:
        if self.give_up(ticket, f"late: no verdict within {self._deadline_ns / 1e6:g} ms"):
            with self._changed:
                self._books.late += 1

    def _close(self, ticket: int, verdict: Verdict, frame: Frame | None) -> bool:
        with self._changed:
            found = self._books.open.pop(ticket, None)
            if found is None:  # another thread was first
                self._books.dropped += 1
                return False
            self._books.states[verdict.state] += 1
        self._decided(Decision(found.trigger, verdict, frame))
        return True

    def _watch(self) -> None:
        while True:
            with self._changed:
                seen = self._books.triggers
            next_ns = self.expire()
            with self._changed:
                if self._closing:
                    return
                if self._books.triggers == seen:  # else a deadline came that was not looked at
                    self._changed.wait(None if next_ns is None else max(0.0, (next_ns - self._clock()) / 1e9))
