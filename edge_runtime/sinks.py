"""Where verdicts go: a log of JSON lines, and stdout for people or for machines.

A sink is any call that takes a verdict, on the hot path: it writes one whole record and
returns. Leaves out: what a plant's own systems want (`outputs/`) and keeping pictures.
"""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from diagline.errors import OutputError
from diagline.verdict import Verdict

Sink = Callable[[Verdict], None]


def sinks(log: Path, as_json: bool = False, quiet: bool = False) -> list[Sink]:
    """The sinks of the `run` command: the log, and stdout unless `quiet`.

    Raises:
        OutputError: the log cannot be opened.
    """
    found: list[Sink] = [JsonLog(log)]
    if not quiet:
        found.append(JsonPrinter(sys.stdout) if as_json else LinePrinter(sys.stdout))
    return found


class JsonLog:
    """Appends one JSON line a verdict to a file, in one write, before the next frame is taken."""

    def __init__(self, path: Path) -> None:
        """Open the file, and end a line that a power cut left unfinished.

        Raises:
            OutputError: it cannot be written to.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            self.close = weakref.finalize(self, os.close, self._handle)  # called, or when the log is let go
            if _ends_in_half_a_line(path):
                os.write(self._handle, b"\n")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; expected a writable file") from error

    def __call__(self, verdict: Verdict) -> None:
        """Write one record; raises OutputError when the disk refuses it."""
        line = as_line(verdict).encode()
        try:
            written = os.write(self._handle, line)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}; free some space and run again") from error
        if written != len(line):
            raise OutputError(f"cannot write {self._path}: the disk took half a record; free some space and run again")


class JsonPrinter:
    """Prints one JSON line a verdict."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, verdict: Verdict) -> None:
        """Print one record; raises OutputError when nobody reads any more."""
        _print(self._stream, as_line(verdict))


class LinePrinter:
    """Prints one line for people a verdict."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, verdict: Verdict) -> None:
        """Print one line; raises OutputError when nobody reads any more."""
        why = verdict.cause if verdict.logit is None else f"logit {verdict.logit:g}, rejects at {verdict.threshold:g}"
        stamps = verdict.stamps_ns
        took_ms = (stamps["decided"] - stamps["received"]) / 1e6
        _print(self._stream, f"{verdict.part_id}  {verdict.state.value:<11}  {took_ms:7.2f} ms  {why}\n")


def as_line(verdict: Verdict) -> str:
    """The verdict as one line of ASCII JSON."""
    return json.dumps(verdict.record()) + "\n"


def _print(stream: TextIO, line: str) -> None:
    try:
        stream.write(line)
        stream.flush()
    except OSError as error:
        raise OutputError(f"cannot print: {error.strerror}; expected a reader of stdout; the log is whole") from error


def _ends_in_half_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return False
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"
