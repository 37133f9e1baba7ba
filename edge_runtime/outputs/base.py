"""What an output is: something that takes one verdict's record and says whether it arrived.

A plant adds its own by writing these three. Outputs run behind a spool on disk (`spool.py`), on a
thread of their own, so that a slow or dead one never slows the loop. Leaves out: the gate, which
must not wait in a queue (`edge_runtime/gate/gate.py`).
"""

from __future__ import annotations

from typing import Any, Protocol

from diagline.errors import OutputError

Record = dict[str, Any]
"""`Verdict.record()`: plain data for JSON."""


class Output(Protocol):
    """One way out of the box.

    Attributes:
        name: as the config, metrics and log name it.
    """

    name: str

    def send(self, record: Record) -> None:
        """Hand one record over; returns when the other side has it, or whoever carries it is bound to bring it.

        Raises:
            OutputError: it did not arrive; the spool sends the same record again later.
        """
        ...

    def close(self) -> None:
        """Let go of connections; no send follows."""
        ...


class FakeOutput:
    """Keeps what it is sent; fails while `broken` says why, and counts."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.broken: str | None = None
        self.records: list[Record] = []
        self.tries = 0
        self.closed = False

    def send(self, record: Record) -> None:
        """Keep it, or raise `OutputError(broken)`."""
        self.tries += 1
        if self.broken is not None:
            raise OutputError(self.broken)
        self.records.append(record)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
