"""The command as a user meets it: the verbs one after the other, and one clear line for bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_line import Diagline, Line, paint_parts, refused, write_config

from diagline import bundle as bundles
from diagline import layouts


def leftovers(folder: Path) -> list[Path]:
    """Half-written things: diagline writes under names that begin with a dot."""
    return [path for path in folder.rglob(".*")] if folder.exists() else []


def test_every_verb_works_alone_on_a_config(line: Line, diagline: Diagline) -> None:
    assert diagline("data", "inspect", line.config).code == 0
    evaluated = diagline("evaluate", line.config, "--json")
    assert evaluated.code == 0
    forms = json.loads(evaluated.out)["forms"]
    assert list(forms) == ["teacher", "student", "student_alone", "onnx_fp32", "onnx_int8", "tflite_int8"]
    assert all(0 < form["ap"] <= 1 for form in forms.values())
    page = (line.output / "evaluation" / "report.html").read_text()
    for heading in (
        "Good parts",
        "Defects of the test split",
        "Generated defects",
        "Worst misses",
        "Curves",
        "tflite_int8",
    ):
        assert heading in page
    benched = diagline("bench", line.config, "--seconds", "0.1", "--threads", "1", "--json", "--allow-unsigned")
    assert benched.code == 0
    rows = json.loads(benched.out)["rows"]
    assert {row["format"] for row in rows} >= {"onnx_fp32", "onnx_int8", "tflite_int8"}
    assert any("ResNet-50" in row["network"] for row in rows)
    assert json.loads(benched.out)["recorded"] is None
    test = layouts.open_data(line.data, "good_bad", 3).split("test")
    assert json.loads(benched.out)["data"]["data_hash"] == test.hash()
    metrics = bundles.read(line.bundle).manifest.formats
    for row in rows:  # where the bundle was exported, the same pictures give the same figures
        if row["network"] == "student" and row["engine"] in ("onnxruntime", "litert"):
            for name in ("ap", "escape", "overkill"):
                assert row["accuracy"][name] == pytest.approx(metrics[row["format"]].metrics[name])


def test_bench_records_the_fastest_and_run_takes_it_without_a_word(
    line: Line, diagline: Diagline, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.bundle"
    shutil.copytree(line.bundle, copy)
    run = (
        "run",
        copy,
        "--source",
        line.data / "bad",
        "--limit",
        "1",
        "--allow-unsigned",
        "--log",
        tmp_path / "log.jsonl",
    )
    assert "nothing was timed yet" in diagline(*run).err
    quick = (
        "bench",
        copy,
        "--seconds",
        "0.1",
        "--threads",
        "1",
        "--record",
        "--allow-unsigned",
        "--data",
        line.data,
        "--json",
    )
    benched = diagline(*quick)
    assert benched.code == 0, benched.err
    found = json.loads(benched.out)
    manifest = bundles.read(copy).manifest
    assert manifest.fastest == (found["recorded"]["format"], found["recorded"]["engine"])
    assert manifest.fastest[1] in manifest.formats[manifest.fastest[0]].engines
    assert found["recorded"]["threads"] == 2 in {row["threads"] for row in found["rows"]}  # as run takes by itself
    assert manifest == replace(bundles.read(line.bundle).manifest, fastest=manifest.fastest)
    assert found["data"]["good"] and found["data"]["defects"]
    ran = diagline(*run)
    assert ran.code == 0 and "nothing was timed" not in ran.err


def test_run_gives_one_verdict_a_picture_and_logs_it(line: Line, diagline: Diagline, tmp_path: Path) -> None:
    log = tmp_path / "verdicts.jsonl"
    options = ("--source", line.data / "bad", "--json", "--log", log, "--allow-unsigned")
    outcome = diagline("run", line.bundle, *options)
    assert outcome.code == 0
    printed = [json.loads(text) for text in outcome.out.splitlines()]
    logged = [json.loads(text) for text in log.read_text().splitlines()]
    assert len(printed) == len(logged) == len(list((line.data / "bad").iterdir()))
    assert [entry["part_id"] for entry in printed] == [entry["part_id"] for entry in logged]
    assert {entry["state"] for entry in printed} <= {"PASS", "REJECT"}


def test_inspect_counts_splits_and_kinds(line: Line, diagline: Diagline) -> None:
    found = json.loads(diagline("data", "inspect", line.data, "--json").out)
    assert sum(sum(kinds.values()) for kinds in found["counts"].values()) == found["images"] == 40
    assert found["layout"] == "good_bad"


@pytest.mark.parametrize("verb", ["generate", "train", "distill", "evaluate", "export"])
def test_a_missing_config_is_named(verb: str, diagline: Diagline, tmp_path: Path) -> None:
    refused(diagline(verb, tmp_path / "nowhere.toml"), tmp_path / "nowhere.toml")


def test_an_unknown_key_names_the_nearest(diagline: Diagline, tmp_path: Path) -> None:
    config = write_config(tmp_path / "line.toml", tmp_path, tmp_path / "out")
    config.write_text(config.read_text().replace("batch_size = 8", "batchsize = 8", 1))
    refused(diagline("train", config), "teacher.batchsize", "teacher.batch_size")


@pytest.mark.parametrize("verb", ["generate", "train", "export"])
def test_a_missing_data_folder_is_named(verb: str, diagline: Diagline, tmp_path: Path) -> None:
    config = write_config(tmp_path / "line.toml", tmp_path / "nowhere", tmp_path / "out")
    refused(diagline(verb, config), tmp_path / "nowhere")
    assert not leftovers(tmp_path)


def test_an_empty_data_folder_is_named(diagline: Diagline, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    refused(diagline("data", "inspect", tmp_path / "data"), tmp_path / "data")


def test_a_truncated_picture_stops_and_is_left_out_only_when_asked(diagline: Diagline, tmp_path: Path) -> None:
    data = paint_parts(tmp_path / "data")
    bad = data / "good" / "003.png"
    bad.write_bytes(bad.read_bytes()[:-60])
    config = write_config(tmp_path / "line.toml", data, tmp_path / "out")
    refused(diagline("train", config, "--set", "generate.count=0"), bad, "--skip-bad")
    refused(diagline("data", "inspect", config), bad)
    assert not leftovers(tmp_path)
    skipped = diagline("data", "inspect", config, "--skip-bad", "--json")
    assert skipped.code == 0
    assert str(bad) in skipped.err
    assert json.loads(skipped.out)["images"] == 39


def test_a_label_file_that_names_a_missing_picture_is_refused(diagline: Diagline, tmp_path: Path) -> None:
    data = paint_parts(tmp_path / "data")
    (data / "split.csv").write_text(
        "image,mask,label,kind,group,split\ngood/000.png,,0,good,a,train\ngone.png,,1,x,b,train\n"
    )
    refused(diagline("data", "inspect", data), "gone.png")


def test_a_group_on_both_sides_is_refused(diagline: Diagline, tmp_path: Path) -> None:
    data = paint_parts(tmp_path / "data")
    rows = ["image,mask,label,kind,group,split", "good/000.png,,0,good,a,train", "good/001.png,,0,good,a,test"]
    (data / "split.csv").write_text("\n".join(rows) + "\n")
    refused(diagline("data", "inspect", data), "'a'", "train", "test")


def test_stages_out_of_order_name_the_command_that_is_missing(diagline: Diagline, tmp_path: Path) -> None:
    data = paint_parts(tmp_path / "data")
    config = write_config(tmp_path / "line.toml", data, tmp_path / "out")
    refused(diagline("train", config), "diagline generate")
    refused(diagline("distill", config, "--set", "generate.count=0"), "diagline train")
    refused(diagline("evaluate", config), "diagline train")
    refused(diagline("run", config, "--source", data / "bad"), "diagline export")


def test_a_bundle_with_a_changed_byte_neither_runs_nor_benches(line: Line, diagline: Diagline, tmp_path: Path) -> None:
    broken = tmp_path / "broken.bundle"
    shutil.copytree(line.bundle, broken)
    model = broken / "model.int8.tflite"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(bytes(data))
    refused(diagline("run", broken, "--source", line.data / "bad"), "model.int8.tflite")
    refused(diagline("bench", broken), "model.int8.tflite")


@pytest.mark.parametrize(
    "source", ["97", "rtsp://user:secret@127.0.0.1:9/x", "http://127.0.0.1:9/x", "/no/such/film.mp4"]
)
def test_a_camera_that_does_not_open_is_named_without_its_password(
    source: str, line: Line, diagline: Diagline, tmp_path: Path
) -> None:
    options = ("--timeout-s", "2", "--log", tmp_path / "log.jsonl", "--allow-unsigned")
    outcome = diagline("run", line.bundle, "--source", source, *options)
    refused(outcome)
    assert "secret" not in outcome.out + outcome.err


@pytest.mark.parametrize("text", ["0", "two", "1,-1"])
def test_thread_counts_that_are_none_are_refused(text: str, line: Line, diagline: Diagline) -> None:
    refused(diagline("bench", line.bundle, "--threads", text), text)


def test_a_finished_run_returns_at_once_and_its_record_stands(line: Line, diagline: Diagline) -> None:
    record = line.output / "teacher" / "run.json"
    before = record.read_text()
    assert diagline("train", line.config).code == 0
    assert record.read_text() == before


def test_ctrl_c_leaves_whole_epochs_and_says_that_the_run_goes_on(line: Line, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from diagline.cli import main; main()", "train", str(line.config)]
    options = ["--set", f'output="{tmp_path}"', "--set", "generate.count=0", "--set", "teacher.epochs=500"]

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it

    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, preexec_fn=hear) as process:
        while not (tmp_path / "teacher" / "history.json").exists() and process.poll() is None:
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        printed = process.communicate()[1]
    assert process.returncode == 130, printed
    assert "the same command goes on" in printed and "Traceback" not in printed
    assert not leftovers(tmp_path)
    assert json.loads((tmp_path / "teacher" / "history.json").read_text())[0]["epoch"] == 1


def test_a_file_that_is_no_picture_is_named(diagline: Diagline, tmp_path: Path) -> None:
    data = paint_parts(tmp_path / "data")
    (data / "bad" / "002.png").write_text("not a picture")
    refused(diagline("data", "inspect", data), data / "bad" / "002.png", "--skip-bad")


def test_a_picture_without_the_mask_it_needs_is_named(diagline: Diagline, tmp_path: Path) -> None:
    data = paint_parts(tmp_path / "data")
    (data / "masks").mkdir()  # from now on every bad picture needs one
    refused(diagline("data", "inspect", data), data / "masks" / "000.png", "bad/000.png")


def test_serial_ports_are_listed_for_machines(diagline: Diagline, monkeypatch: pytest.MonkeyPatch) -> None:
    port = SimpleNamespace(device="/dev/ttyACM0", description="board", vid=0x1366, pid=0x0105)
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: [port])
    listed = json.loads(diagline("device", "list", "--json").out)
    assert listed == [{"path": "/dev/ttyACM0", "description": "board", "usb": "1366:0105"}]
