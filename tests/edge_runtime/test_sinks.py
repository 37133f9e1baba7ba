"""Records are whole lines, whatever came before them and whoever reads them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from diagline.errors import OutputError
from diagline.verdict import State, Verdict
from edge_runtime.sinks import JsonLog, JsonPrinter, LinePrinter, sinks

STAMPS = {"taken": 1, "received": 2_000_000, "preprocessed": 2_100_000, "inferred": 2_500_000, "decided": 3_500_000}


def verdict(part_id: str = "000001", logit: float | None = -3.0) -> Verdict:
    cause = "no frame within 5 s" if logit is None else None
    state = State.PASS if cause is None else State.NO_DECISION
    return Verdict(part_id, state, logit, 2.0, "tiny@0123456789ab", "2030-01-01T00:00:00.000000+00:00", cause, STAMPS)


def test_the_log_holds_a_whole_line_as_soon_as_a_verdict_is_given(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    log = JsonLog(path)
    for number in range(3):
        log(verdict(f"{number:06d}"))
        lines = path.read_text().splitlines()
        assert [json.loads(line)["part_id"] for line in lines] == [f"{count:06d}" for count in range(number + 1)]
    assert json.loads(lines[0]) == verdict("000000").record()


def test_a_log_is_appended_to_and_a_half_written_line_stays_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    JsonLog(path)(verdict("a"))
    with path.open("a") as stream:
        stream.write('{"part_id": "cut')
    JsonLog(path)(verdict("b"))
    first, half, last = path.read_text().splitlines()
    assert (json.loads(first)["part_id"], half, json.loads(last)["part_id"]) == ("a", '{"part_id": "cut', "b")


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/log"):
        JsonLog(tmp_path / "file" / "log.jsonl")
    if Path("/dev/full").exists():
        with pytest.raises(OutputError, match=r"/dev/full: No space left"):
            JsonLog(Path("/dev/full"))(verdict())


def test_people_read_the_state_the_cause_and_the_time() -> None:
    stream = io.StringIO()
    printer = LinePrinter(stream)
    printer(verdict("part.png"))
    printer(verdict(logit=None))
    first, second = stream.getvalue().splitlines()
    for word in ("part.png", "PASS", "1.50 ms", "logit -3", "rejects at 2"):
        assert word in first
    assert "NO_DECISION" in second and "no frame within 5 s" in second


def test_machines_read_what_the_log_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sink in sinks(tmp_path / "log.jsonl", as_json=True):
        sink(verdict("naïve \udcff.png"))
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "log.jsonl").read_text()
    assert printed.isascii() and json.loads(printed)["part_id"] == "naïve \udcff.png"


def test_quiet_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sink in sinks(tmp_path / "log.jsonl", quiet=True):
        sink(verdict())
    assert capsys.readouterr().out == ""
    assert (tmp_path / "log.jsonl").read_text()


def test_a_reader_of_stdout_that_left_is_an_error_with_a_name() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    for printer in (JsonPrinter(Gone()), LinePrinter(Gone())):
        with pytest.raises(OutputError, match="stdout"):
            printer(verdict())
