"""README's commands are real: every one parses, and those on a config run on a small line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from statistics import mean, stdev

import pytest
from tiny_line import Diagline, Line

ROOT = Path(__file__).parent.parent
COMMANDS = re.findall(r"^ {4}(?:\.venv/bin/)?diagline +(.+?)(?: +#.*)?$", (ROOT / "README.md").read_text(), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_the_readme_is_understood(
    command: str, diagline: Diagline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where nothing that it names is there
    outcome = diagline(*shlex.split(command))
    if command.startswith("keys new"):  # needs nothing that is there
        assert outcome.code == 0, outcome.err
        return
    assert outcome.code == 2
    assert "error: " in outcome.err and "Usage:" not in outcome.err, outcome.err


def test_the_readme_shows_every_verb() -> None:
    shown = {shlex.split(command)[0] for command in COMMANDS}
    assert shown >= {"data", "generate", "train", "distill", "export", "evaluate", "keys", "run", "bench"}


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^ {4}make ([a-z-]+)", (ROOT / "README.md").read_text(), re.M)) <= targets


def test_the_readmes_order_of_commands_works_on_a_config(line: Line, diagline: Diagline) -> None:
    for verb in ("generate", "train", "distill", "export", "evaluate"):
        outcome = diagline(verb, line.config)
        assert outcome.code == 0, outcome.err


def test_the_readme_quotes_the_recorded_figures() -> None:
    text = (ROOT / "README.md").read_text()
    lines = json.loads((ROOT / "benchmarks/results/accuracy.json").read_text())
    for name, by_shots in lines.items():
        for shots, seeds in by_shots.items():
            forms = ("teacher", "student_alone", "student", "onnx_int8", "tflite_int8")
            aps = {form: [result["forms"][form]["ap"] for result in seeds.values()] for form in forms}
            for number, seed in enumerate(seeds):
                figures = " | ".join(f"{aps[form][number]:.3f}" for form in forms)
                assert f"{seed} | {figures}" in text, f"{name}, {shots}: {seed} | {figures}"
            if len(seeds) > 1:
                figures = " | ".join(f"{mean(aps[form]):.3f} ± {stdev(aps[form]):.3f}" for form in forms)
                assert f"{len(seeds)} seeds | {figures}" in text, f"{name}, {shots}: {len(seeds)} seeds | {figures}"
    value = json.loads((ROOT / "benchmarks/results/value.json").read_text())["magnetic_tile"]["method"]
    (row,) = (each for each in value["rows"] if each["name"] == "memseg")
    assert f"escape {row['escape_with']:.1%} with them, {row['escape_without']:.1%} without".replace("%", " %") in text
    points = [f"{100 * row[key]:+.1f}" for key in ("difference", "low", "high")]
    assert (
        f"difference {points[0]} points, 95 % interval {points[1]} to {points[2]}; {value['defects']} held-out" in text
    )
    latency = json.loads((ROOT / "benchmarks/results/edge_latency.json").read_text())
    for key in ("student_int8_p50_ms", "student_int8_p99_ms"):
        assert f"{latency[key]:.2f} ms" in text
    for key in ("resnet50_p50_ms", "resnet50_fp32_p50_ms"):
        assert f"{latency[key]:.0f} ms" in text
    assert f"{latency['speedup']:.0f} times" in text and f"{latency['loop_overhead']:.2f} times" in text
    soak = json.loads((ROOT / "benchmarks/results/line_soak.json").read_text())
    assert f"{soak['triggers']} triggers" in text and f"p99 {soak['p99_ms']:.1f} ms" in text
    device = json.loads((ROOT / "benchmarks/results/mcu.json").read_text())
    for name in ("S10", "S30", "S100"):
        one = device[name]
        sizes = " | ".join(f"{one[key] / 1e3:.1f} kB" for key in ("ram_bytes", "tflm_arena_bytes"))
        counts = " | ".join(f"{one[key] / 1e6:.1f} M" for key in ("m4_instructions", "m55_instructions"))
        assert f"{sizes} | {one['bit_exact_images'][0]} of {one['bit_exact_images'][1]} | {counts}" in text
    cuts = json.loads((ROOT / "benchmarks/results/flash_faults.json").read_text())
    assert cuts["violations"] == 0 and f"{cuts['cuts']:,} cuts" in text
    parity = json.loads((ROOT / "benchmarks/results/parity.json").read_text())
    for seeds in parity.values():
        for seed, one in seeds.items():
            assert f"{seed} | {one['tflm_bit_exact'][0]} | {one['flips']['tflite_int8']}" in text
