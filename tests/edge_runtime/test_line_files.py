"""A line a record, whole whatever came before it, on the disk when `send` returns; no file is overwritten."""

from __future__ import annotations

import csv
import errno
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from diagline.errors import ConfigError, OutputError
from diagline.verdict import State, Verdict
from edge_runtime.outputs.line_files import COLUMNS, LineFiles, LineFilesConfig, open_output
from edge_runtime.outputs.spool import RefusedError
from edge_runtime.sinks import JsonLog, LineFile

STAMPS = {"taken": 1, "decided": 3_500_000}
NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)


def record(part_id: str = "a", cause: str | None = None) -> dict[str, Any]:
    state, logit = (State.PASS, -3.5) if cause is None else (State.NO_DECISION, None)
    taken_utc = "2030-01-31T12:00:00.000000+00:00"
    return Verdict(part_id, state, logit, 2.0, "tiny@0123456789ab", taken_utc, cause, STAMPS).record()


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


def files_in(folder: Path, clock: Clock | None = None, **config: Any) -> LineFiles:
    return LineFiles(LineFilesConfig(folder, **config), clock or Clock())


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream, strict=True))


def test_csv_has_its_columns_once_and_a_line_a_record(tmp_path: Path) -> None:
    output = files_in(tmp_path / "deep")
    output.send(record("a"))
    output.close()
    output.send(record("b", "no frame"))
    path = tmp_path / "deep" / "verdicts-2030-01-31-000.csv"
    head, first, second = rows(path)
    assert head == list(COLUMNS)
    assert first == ["a", "PASS", "-3.5", "2.0", "tiny@0123456789ab", "", record()["taken_utc"], json.dumps(STAMPS)]
    assert second[:6] == ["b", "NO_DECISION", "", "2.0", "tiny@0123456789ab", "no frame"]
    assert path.read_bytes().count(b"\r\n") == path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("odd", ['a,"b"', "tab\tand 'quote", "naïve 零件", "lone \udcff", "=1+1", '"', ",,,"])
def test_an_odd_part_keeps_to_its_cell(tmp_path: Path, odd: str) -> None:
    output = files_in(tmp_path)
    output.send(record(odd))
    output.send(record("next"))
    _, first, second = rows(tmp_path / "verdicts-2030-01-31-000.csv")
    assert first[0] == odd.replace("\udcff", "\\udcff") and second[0] == "next"


def test_a_line_break_within_a_cell_does_not_break_the_line(tmp_path: Path) -> None:
    output = files_in(tmp_path)
    output.send(record("a\r\nb", "c\nd"))
    path = tmp_path / "verdicts-2030-01-31-000.csv"
    assert path.read_bytes().count(b"\n") == 2
    assert (rows(path)[1][0], rows(path)[1][5]) == ("a b", "c d")


def test_csv_refuses_what_has_no_columns_and_json_lines_take_it(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="verdicts alone"):
        files_in(tmp_path).send({"kind": "counts", "PASS": 1})
    files_in(tmp_path, format="jsonl").send({"kind": "counts", "PASS": 1})
    assert json.loads((tmp_path / "verdicts-2030-01-31-000.jsonl").read_text()) == {"kind": "counts", "PASS": 1}


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_half_line_is_gone_before_the_next_record(tmp_path: Path, format: str) -> None:
    """For every place a power cut may have left the last of three writes at."""
    for part_id in ("a", 'b,"c'):
        files_in(tmp_path / "whole", format=format).send(record(part_id))
    whole = next((tmp_path / "whole").iterdir())
    data = whole.read_bytes()
    for cut in range(len(data) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / whole.name).write_bytes(data[:cut])
        files_in(folder, format=format).send(record("last"))
        kept = data[: data[:cut].rfind(b"\n") + 1]
        after = (folder / whole.name).read_bytes()
        assert after.startswith(kept)
        if format == "csv":
            parts = [row[0] for row in rows(folder / whole.name)]
            assert parts == [*["part_id", "a", 'b,"c'][: max(1, kept.count(b"\n"))], "last"]
        else:
            lines = [json.loads(line)["part_id"] for line in after.splitlines()]
            assert lines == [*["a", 'b,"c'][: kept.count(b"\n")], "last"]


def test_a_half_line_longer_than_a_block_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.sinks.BLOCK_BYTES", 4)
    path = tmp_path / "lines"
    for whole in (b"", b"a\n", b"abc\n", b"abcd\n", b"a\nb\n"):
        for half in (b"", b"x", b"xyz", b"wxyz", b"vwxyz" * 3):
            path.write_bytes(whole + half)
            LineFile(path, cut=True).append(b"last\n")
            assert path.read_bytes() == whole + b"last\n"


def test_a_new_day_is_a_new_file(tmp_path: Path) -> None:
    clock = Clock()
    output = files_in(tmp_path, clock)
    output.send(record("a"))
    clock.now += timedelta(hours=12)
    output.send(record("b"))
    assert [[row[0] for row in rows(path)] for path in sorted(tmp_path.iterdir())] == [
        ["part_id", "a"],
        ["part_id", "b"],
    ]
    assert sorted(path.name for path in tmp_path.iterdir())[1] == "verdicts-2030-02-01-000.csv"


def test_no_file_grows_over_its_limit_and_none_is_overwritten_after_a_start(tmp_path: Path) -> None:
    for start in range(2):
        output = files_in(tmp_path, limit_mb=1)
        output._limit_bytes = 1000
        for number in range(10):
            output.send(record(f"{start}-{number}"))
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [f"verdicts-2030-01-31-{n:03}.csv" for n in range(len(paths))]
    assert len(paths) > 2 and all(path.stat().st_size <= 1000 for path in paths)
    assert [row[0] for path in paths for row in rows(path)[1:]] == [f"{s}-{n}" for s in range(2) for n in range(10)]


def test_a_record_over_the_limit_gets_a_file_of_its_own(tmp_path: Path) -> None:
    output = files_in(tmp_path, format="jsonl")
    output._limit_bytes = 10
    for part_id in "abc":
        output.send(record(part_id))
    assert len(list(tmp_path.iterdir())) == 3


def test_only_so_many_files_are_kept_and_no_other_is_touched(tmp_path: Path) -> None:
    clock = Clock()
    others = (
        "verdicts-old.csv",
        "verdicts-2029-01-01-000.jsonl",
        "verdicts-2-2029-01-01-000.csv",
        "verdicts-2029-01-01-0.csv",
    )
    for name in others:
        (tmp_path / name).write_text("mine")
    output = files_in(tmp_path, clock, keep=2)
    for _ in range(4):
        output.send(record())
        clock.now += timedelta(days=1)
    assert output.removed == 2
    kept = {"verdicts-2030-02-02-000.csv", "verdicts-2030-02-03-000.csv"}
    assert {path.name for path in tmp_path.iterdir()} == {*others, *kept}


def test_a_file_taken_away_is_begun_again(tmp_path: Path) -> None:
    output = files_in(tmp_path)
    output.send(record("a"))
    path = tmp_path / "verdicts-2030-01-31-000.csv"
    path.unlink()
    output.send(record("b"))
    assert [row[0] for row in rows(path)] == ["part_id", "b"]


def test_a_disk_that_takes_half_a_line_keeps_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = files_in(tmp_path)
    output.send(record("a"))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr("edge_runtime.sinks.os.write", lambda handle, data: write(handle, data[:20]))
        with pytest.raises(OutputError, match="half a record"):
            output.send(record("half"))
    output.send(record("b"))
    assert [row[0] for row in rows(tmp_path / "verdicts-2030-01-31-000.csv")] == ["part_id", "a", "b"]


def test_a_record_counts_as_arrived_only_when_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("edge_runtime.sinks.os.fsync", refuse)
    with pytest.raises(OutputError, match="check the disk"):
        files_in(tmp_path).send(record())


def test_a_folder_that_cannot_be_written_is_for_the_spool_to_wait_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = open_output(LineFilesConfig(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot write"):
        output.send(record())
    (tmp_path / "file").unlink()
    output.send(record())


def test_the_loops_log_and_these_files_share_their_writing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("half")
    log = JsonLog(path)
    log.close()
    assert path.read_text() == "half\n"  # the log keeps what it can of a verdict


@pytest.mark.parametrize("wrong", [{"format": "xml"}, {"name": "a/b"}, {"limit_mb": 0}, {"keep": -1}])
def test_a_config_out_of_range_is_refused_by_its_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"line_files\.{next(iter(wrong))} = "):
        LineFilesConfig(Path("x"), **wrong)
