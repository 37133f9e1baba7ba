"""`diagline reproduce` as a user meets it: a tiny imitation of KSDD2 gives every row of both tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_line import Diagline, paint_parts, refused, write_config

from diagline import samples

LAUNCH = [
    str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_processes", "2",
    "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "diagline.cli",
]  # fmt: skip


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from diagline.cli import main; main()", *(str(argument) for argument in arguments)]


@pytest.fixture
def ksdd2(tmp_path: Path) -> Path:
    """Train and test as KSDD2 has them, with the original's stray copies."""
    root, rng = tmp_path / "KSDD2", np.random.default_rng(0)
    for split, first, good, bad in (("train", 10000, 16, 10), ("test", 20000, 6, 5)):
        (root / split).mkdir(parents=True)
        for index in range(good + bad):
            image = rng.normal(140, 12, (80, 28, 3)).clip(0, 255).astype(np.uint8)
            mask = np.zeros((80, 28), np.uint8)
            if index >= good:
                top, left = int(rng.integers(5, 55)), int(rng.integers(2, 18))
                mask[top : top + 16, left : left + 6] = 255
                image[mask > 0] = 25
            samples.write_image(root / split / f"{first + index}.png", image)
            samples.write_image(root / split / f"{first + index}_GT.png", mask)
    for name in ("10301 (copy).png", "10301_GT (copy).png"):
        samples.write_image(root / "train" / name, np.full((80, 28, 3), 255, np.uint8))
    return root


def test_rows_without_foreign_weights_run_and_missing_weights_are_named_and_a_rerun_trains_nothing(
    ksdd2: Path, diagline: Diagline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "out"
    asked = ("reproduce", ksdd2, "--tiny", "--counts", 4, "--seeds", 1, "--output", output, "--json")
    made = diagline(*asked, "--methods", "none,memseg")
    assert made.code == 0, made.err
    tables = json.loads(made.out)
    assert [(row["shots"], row["method"], row["count"]) for row in tables["rows"]] == [
        ("zero", "memseg", 4), ("full", "none", 0), ("full", "memseg", 4),
    ]  # fmt: skip
    assert tables["complete"] and all(0 < row["mean"]["ap"] <= 1 for row in tables["rows"])
    assert "trial 3 of 3" in made.err and "left" in made.err and "Table 1" in made.err and "paper AP" in made.err
    trials = {path.name: path.stat().st_mtime_ns for path in (output / "trials").glob("*.json")}
    assert json.loads((output / "tables.json").read_text()) == tables
    assert (
        "<svg" not in (output / "tables.html").read_text() and "data:image/svg" in (output / "tables.html").read_text()
    )
    assert json.loads((output / "run.json").read_text())["config"]["input"]["width_px"] == 48
    assert not list(output.rglob("*.pt"))

    more = diagline(*asked, "--methods", "none,memseg,diag")
    refused(more, "2 of 5 rows were not run", "stable-diffusion-xl-1.0-inpainting-0.1", "hf download")
    assert "not run (1)" in more.err and "trial" not in more.err
    again = json.loads(more.out)
    assert not again["complete"] and [row for row in again["rows"] if row["ran"]] == tables["rows"]
    assert {path.name: path.stat().st_mtime_ns for path in (output / "trials").glob("*.json")} == trials
    refused(diagline(*asked, "--set", "teacher.learning_rate=0.5"), "teacher.learning_rate", output / "trials")


def test_what_is_asked_wrongly_is_refused_before_anything_is_written(
    ksdd2: Path, diagline: Diagline, tmp_path: Path
) -> None:
    output = ("--output", tmp_path / "out")
    refused(diagline("reproduce", tmp_path / "nowhere", *output), tmp_path / "nowhere")
    refused(diagline("reproduce", ksdd2, "--methods", "memsge", *output), "memsge", "did you mean")
    refused(diagline("reproduce", ksdd2, "--counts", "80,many", *output), "80,many", "80,100,120")
    refused(diagline("reproduce", ksdd2, "--methods", "none", "--shots", "zero", *output), "no positives")
    assert not (tmp_path / "out").exists()
    refused(diagline("reproduce", ksdd2, "--profile", "papre", *output), "papre", "paper")


def test_value_refuses_what_it_cannot_judge(diagline: Diagline, tmp_path: Path) -> None:
    config = write_config(tmp_path / "line.toml", paint_parts(tmp_path / "data", 20, 20), tmp_path / "out")
    assert diagline("generate", config, "--count", 2).code == 0
    refused(diagline("value", config), "2 real defects", "at least 5")
    refused(diagline("value", config, "--by", "promt"), "promt", "did you mean 'prompt'")
    refused(diagline("value", config, "--overkill", "5"), "overkill = 5")


def test_value_judges_a_line_and_goes_on_after_a_kill(diagline: Diagline, tmp_path: Path) -> None:
    data = paint_parts(tmp_path / "data", 8, 16)
    rows = ["image,mask,label,kind,group,split"]
    for name, label, kind in (("good", 0, "good"), ("bad", 1, "bar")):
        for index, path in enumerate(sorted((data / name).iterdir())):
            split = ("train", "val", "test")[index % 3]
            rows.append(f"{name}/{path.name},,{label},{kind},{name}{index},{split}")
    (data / "split.csv").write_text("\n".join(rows) + "\n")
    config = write_config(tmp_path / "line.toml", data, tmp_path / "out", "split_csv")
    gate = ("--set", "generate.quality.gate=false")
    assert diagline("generate", config, "--count", 3, *gate).code == 0
    refused(diagline("value", config, "--by", "prompt"), "memseg", "--by method")
    folder = tmp_path / "out" / "value" / "method"
    asked = ("value", config, "--seeds", 1, "--overkill", "0.2")
    with subprocess.Popen(command(*asked), stderr=subprocess.DEVNULL) as process:
        while not (folder / "trials" / "all-seed3.json").is_file() and process.poll() is None:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (folder / "value.json").exists()
    made = diagline(*asked, "--json")
    assert made.code == 0, made.err
    found = json.loads(made.out)
    assert [(row["name"], row["pictures"], row["verdict"]) for row in found["rows"]] == [
        ("all synthetic", 3, "undecided"), ("memseg", 3, "undecided"),
    ]  # fmt: skip
    assert found["rows"][0]["difference"] == found["rows"][1]["difference"], "the only method is all there is"
    assert "decide nothing" in made.err and "trial 2 of 2" in made.err and "trial 1 of 2" not in made.err
    assert (found["good"], found["defects"]) == (3, 5)
    assert json.loads((folder / "value.json").read_text()) == found
    assert (folder / "value.html").is_file() and (folder / "run.json").is_file()


@pytest.mark.soak
def test_every_row_of_both_tables_runs_with_tiny_models(ksdd2: Path, diagline: Diagline, tmp_path: Path) -> None:
    import tiny_diffusion

    models = ("--model-diag", tiny_diffusion.save_sdxl_inpaint(tmp_path / "sdxl"))
    models = (*models, "--model-in-and-out", tiny_diffusion.save_sd15(tmp_path / "sd15"))
    words = ("--set", 'generate.prompts=["white crack"]', "--set", 'generate.negative_prompt=""')
    words = (*words, "--set", 'generate.tune.prompt="crack"', "--set", 'generate.tune.class_prompt="white"')
    for profile in ("paper", "corrected"):
        asked = ("--tiny", "--profile", profile, "--counts", 4, "--seeds", 1, "--output", tmp_path / profile)
        made = diagline("reproduce", ksdd2, *asked, *models, *words, "--json")
        assert made.code == 0, made.err
        rows = json.loads(made.out)["rows"]
        assert [(row["shots"], row["method"]) for row in rows] == [
            *(("zero", method) for method in ("memseg", "in_and_out", "diag")),
            *(("full", method) for method in ("none", "memseg", "in_and_out", "diag")),
        ]
        assert all(row["ran"] for row in rows)
        sets = {path.name for path in (tmp_path / profile / "sets").iterdir() if path.is_dir()}
        assert {name.partition("-4")[0] for name in sets} == {"memseg", "in_and_out", "in_and_out-tuned", "diag"}


@pytest.mark.soak
def test_a_grid_killed_in_a_trial_or_shared_by_two_processes_gives_the_same_tables(
    ksdd2: Path, diagline: Diagline, tmp_path: Path
) -> None:
    asked = ("reproduce", ksdd2, "--tiny", "--methods", "memseg", "--shots", "zero", "--counts", 4, "--seeds", 2)
    killed, two, whole = (tmp_path / name for name in ("killed", "two", "whole"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = command(*asked, "--output", killed)
    with subprocess.Popen(first, stderr=subprocess.DEVNULL, env=environment) as process:
        while not list((killed / "trials").glob("work/*/*.json")) and process.poll() is None:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not list((killed / "trials").glob("*.json"))
    for line in (first, command(*asked, "--output", whole), [*LAUNCH, *map(str, asked), "--output", str(two)]):
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    rows = [json.loads((one / "tables.json").read_text())["rows"] for one in (killed, whole, two)]
    assert rows[0] == rows[1] == rows[2]
    assert done.stderr.count("Table 1") == 1, "only one process speaks"
