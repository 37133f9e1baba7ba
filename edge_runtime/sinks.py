"""Where verdicts go: a log of JSON lines, and stdout for people or for machines.

A sink is any call that takes a verdict, on the hot path: it writes one whole record and
returns. Leaves out: what a plant's own systems want (`outputs/`) and keeping pictures.
"""

from __future__ import annotations

import contextlib
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

BLOCK_BYTES = 1 << 16


def sinks(log: Path, as_json: bool = False, quiet: bool = False) -> list[Sink]:
    """The sinks of the `run` command: the log, and stdout unless `quiet`.

    Raises:
        OutputError: the log cannot be opened.
    """
    found: list[Sink] = [JsonLog(log)]
    if not quiet:
        found.append(JsonPrinter(sys.stdout) if as_json else LinePrinter(sys.stdout))
    return found


class LineFile:
    """A file of whole lines: each appended in one write, none of them half."""

    def __init__(self, path: Path, cut: bool = False) -> None:
        """Open the file, and deal with a line that a power cut left unfinished: end it, or with `cut` remove it.

        Raises:
            OutputError: it cannot be written to.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            self.close = weakref.finalize(self, os.close, self._handle)  # called, or when the file is let go
            end = _end_of_whole_lines(self._handle)
            if end < self.size and cut:
                os.ftruncate(self._handle, end)
            elif end < self.size:
                os.write(self._handle, b"\n")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; expected a writable file") from error

    @property
    def size(self) -> int:
        """Bytes it holds."""
        return os.fstat(self._handle).st_size

    def append(self, line: bytes) -> None:
        """Write one line, its end included; raises OutputError when the disk refuses it, and leaves no half."""
        try:
            written = os.write(self._handle, line)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; free some space and run again") from error
        if written != len(line):
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self.size - written)
            raise OutputError(f"cannot write {self.path}: the disk took half a record; free some space and run again")

    def sync(self) -> None:
        """Return when the disk has every line; raises OutputError when it has not."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; check the disk") from error


class JsonLog:
    """Appends one JSON line a verdict to a file, in one write, before the next frame is taken."""

    def __init__(self, path: Path) -> None:
        """Open the file, and end a line that a power cut left unfinished.

        Raises:
            OutputError: it cannot be written to.
        """
        self._file = LineFile(path)
        self.close = self._file.close

    def __call__(self, verdict: Verdict) -> None:
        """Write one record; raises OutputError when the disk refuses it."""
        self._file.append(as_line(verdict).encode())


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


def _end_of_whole_lines(handle: int) -> int:
    """Where the last whole line ends, in bytes from the start."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
