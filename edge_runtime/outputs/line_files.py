"""An output that writes records to files of lines, for spreadsheets and scripts: CSV (RFC 4180) or JSON lines.

A file a day, and a new one where a record would make it longer than its limit: `NAME-2030-01-31-000.csv`. One record is
one whole line, also in CSV (a line break within a cell becomes a space), on the disk before `send` returns. Leaves out:
the log of the loop itself (`edge_runtime/sinks.py`), and what to do with old files beyond how many are kept.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from diagline.config_checks import one_of, within
from edge_runtime.outputs.base import Record
from edge_runtime.outputs.settings import check_name
from edge_runtime.outputs.spool import RefusedError
from edge_runtime.sinks import LineFile

COLUMNS = ("part_id", "state", "logit", "threshold", "model", "cause", "taken_utc", "stamps_ns")
"""Of CSV; `stamps_ns` is a JSON object, what is None an empty cell."""
LINE_BREAKS = re.compile(r"[\r\n]+")


@dataclass(frozen=True, slots=True)
class LineFilesConfig:
    """Where lines are written.

    Attributes:
        folder: made where it is not there.
        format: "csv" or "jsonl".
        name: as metrics and log name it, and what the files' names begin with.
        limit_mb: a file that would grow over it is followed by another, 10^6 bytes.
        keep: files of this name that are kept, the oldest go; 0: all.
    """

    folder: Path
    format: str = "csv"
    name: str = "verdicts"
    limit_mb: int = 100
    keep: int = 0

    def __post_init__(self) -> None:
        one_of("line_files.format", self.format, ("csv", "jsonl"))
        check_name("line_files.name", self.name)
        within("line_files.limit_mb", self.limit_mb, 1, 10_000)
        within("line_files.keep", self.keep, 0, 1_000_000)


class LineFiles:
    """Appends; days are those of UTC.

    Attributes:
        removed: files that went because of `keep`.
    """

    def __init__(self, config: LineFilesConfig, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Nothing is opened yet: a full or missing disk is for the spool to wait for.

        Args:
            now: the time, in UTC.
        """
        self.name, self.removed = config.name, 0
        self._config, self._now = config, now
        self._limit_bytes = config.limit_mb * 1_000_000
        self._file: LineFile | None = None

    def send(self, record: Record) -> None:
        """Write one record; returns when the disk has it.

        Raises:
            RefusedError: CSV has columns for verdicts alone, and this is none.
            OutputError: the disk refuses it.
        """
        line = self._line(record)
        file = self._current(len(line))
        file.append(line if file.size or self._config.format == "jsonl" else _csv_line(COLUMNS) + line)
        file.sync()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _line(self, record: Record) -> bytes:
        if self._config.format == "jsonl":
            return json.dumps(record).encode() + b"\n"
        if "part_id" not in record:
            raise RefusedError(f"{self.name}: CSV takes verdicts alone; expected a record with a part_id; use jsonl")
        cells = {**record, "stamps_ns": json.dumps(record.get("stamps_ns", {}))}
        return _csv_line(cells.get(column) for column in COLUMNS)

    def _current(self, more_bytes: int) -> LineFile:
        """The file of today with room for so many bytes."""
        today = f"{self._now():%Y-%m-%d}"
        file, stem = self._file, f"{self._config.name}-{today}-"
        if file is not None and file.path.name.startswith(stem) and file.path.exists():  # else a new day, or taken away
            size = file.size + more_bytes
            if size <= self._limit_bytes:
                return file
        self.close()
        number = max((number for day, number, _ in self._files() if day == today), default=0)
        self._file = self._open(today, number)
        if self._file.size and self._file.size + more_bytes > self._limit_bytes:
            self._file.close()
            self._file = self._open(today, number + 1)
        self._remove_old()
        return self._file

    def _open(self, day: str, number: int) -> LineFile:
        name = f"{self._config.name}-{day}-{number:03}.{self._config.format}"
        return LineFile(self._config.folder / name, cut=True)  # the spool sends again what was cut

    def _files(self) -> list[tuple[str, int, Path]]:
        """Day, number and path of this output's files, the oldest first."""
        name = re.compile(rf"{self._config.name}-(\d{{4}}-\d\d-\d\d)-(\d{{3,}})\.{self._config.format}")
        paths = self._config.folder.glob(f"{self._config.name}-*")
        return sorted((hit[1], int(hit[2]), path) for path in paths if (hit := name.fullmatch(path.name)))

    def _remove_old(self) -> None:
        if self._config.keep:
            for *_, path in self._files()[: -self._config.keep]:
                with contextlib.suppress(OSError):  # tried again with the next file
                    path.unlink()
                    self.removed += 1


def _csv_line(cells: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(LINE_BREAKS.sub(" ", cell) if isinstance(cell, str) else cell for cell in cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def open_output(config: LineFilesConfig) -> LineFiles:
    """The output a config describes."""
    return LineFiles(config)
