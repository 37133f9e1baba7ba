"""`diagline generate` as a user meets it: every method, killed and resumed, on several processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_line import Diagline, paint_parts, refused, write_config

from diagline import samples

WORDS = ("--set", 'generate.prompts=["white crack"]')
SMALL = (
    "--set", "generate.diag.size_px=32", "--set", "generate.diag.steps=2", "--set", "generate.diag.batch_size=2",
    "--set", "generate.in_and_out.size_px=32", "--set", "generate.in_and_out.steps=2",
)  # fmt: skip
NO_GATE = ("--set", "generate.quality.gate=false")


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_diffusion

    return tiny_diffusion.save_sdxl_inpaint(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture(scope="module")
def text_to_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny_diffusion

    return tiny_diffusion.save_sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path / "line.toml", paint_parts(tmp_path / "data"), tmp_path / "out")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from diagline.cli import main; main()", *(str(argument) for argument in arguments)]


def test_each_method_paints_says_what_the_gate_kept_and_stands_on_one_sheet(
    config: Path, inpainting: Path, text_to_image: Path, diagline: Diagline, tmp_path: Path
) -> None:
    made = diagline("generate", config, "--json")
    assert made.code == 0, made.err
    result = json.loads(made.out)
    assert result["kept"] == len(samples.load(tmp_path / "out" / "generated" / "memseg")) > 0
    if result["rejected"]:
        assert f"kept {result['kept']} of {result['painted']} painted" in made.err
    for method, model in (("diag", inpainting), ("in_and_out", text_to_image)):
        made = diagline(
            "generate", config, "--method", method, "--model", model, "--count", 3, *WORDS, *SMALL, *NO_GATE, "--sheet"
        )
        assert made.code == 0, made.err
        painted = samples.load(tmp_path / "out" / "generated" / method)
        assert painted.counts() == {("train", kind): n for (_, kind), n in painted.counts().items()}
        assert len(painted) == 3 and {sample.source for sample in painted} == {method}
        assert all(sample.provenance["prompt"] == "white crack" for sample in painted)
    sheet = samples.read_image(tmp_path / "out" / "generated" / "sheet.png")
    assert sheet.shape[0] > 5 * 132


@pytest.mark.parametrize("method", ["memseg", "diag", "in_and_out"])
def test_a_picture_is_painted_again_from_its_record_bit_for_bit(
    method: str, config: Path, inpainting: Path, text_to_image: Path, diagline: Diagline, tmp_path: Path
) -> None:
    model = {"memseg": (), "diag": ("--model", inpainting), "in_and_out": ("--model", text_to_image)}[method]
    assert diagline("generate", config, "--method", method, *model, "--count", 3, *WORDS, *SMALL, *NO_GATE).code == 0
    folder = tmp_path / "out" / "generated" / method
    for number in range(3):
        again = diagline("repaint", config, number, "--method", method, "--output", tmp_path / "again.png")
        assert again.code == 0, again.err
        assert np.array_equal(
            samples.read_image(tmp_path / "again.png"), samples.read_image(folder / f"images/{number:05d}.png")
        )
    refused(diagline("repaint", config, 77, "--method", method), "images/00077.png", "not in the set of 3")


@pytest.mark.parametrize("method", ["diag", "in_and_out"])
def test_a_missing_model_is_named_with_its_size_licence_and_the_way_to_get_it(
    method: str, config: Path, diagline: Diagline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    model = {
        "diag": "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        "in_and_out": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    }[method]
    outcome = diagline("generate", config, "--method", method, *WORDS)
    refused(outcome, model, "GB", "OpenRAIL", f"hf download {model}", "--model PATH")
    assert not (tmp_path / "out" / "generated").exists(), "another method must not step in"


def test_words_and_models_that_do_not_fit_the_method_are_refused(
    config: Path, inpainting: Path, diagline: Diagline
) -> None:
    refused(diagline("generate", config, "--model", inpainting), "memseg uses no model")
    refused(diagline("generate", config, "--method", "diag", "--model", inpainting), "generate.prompts is empty")
    long = ("--set", f'generate.prompts=["{"crack " * 90}"]')
    refused(diagline("generate", config, "--method", "diag", "--model", inpainting, *long, *SMALL), "crack", "77")
    refused(diagline("generate", config, "--method", "sdxl"), "generate.method", "memseg, in_and_out, diag")
    refused(diagline("generate", config, "--profile", "papre"), "profile = 'papre'", "paper")


def test_tuning_needs_leave_to_use_real_defects(config: Path, diagline: Diagline) -> None:
    refused(diagline("tune", config, "--set", "data.shots=zero"), 'data.shots = "zero"', "full")


@pytest.mark.parametrize("method", ["memseg", "diag"])
def test_a_run_killed_and_resumed_ends_with_the_same_set(
    method: str, config: Path, inpainting: Path, diagline: Diagline, tmp_path: Path
) -> None:
    options = ("--method", method, "--count", 40 if method == "memseg" else 8, *WORDS, *SMALL, *NO_GATE)
    if method == "diag":
        options = (*options, "--model", inpainting)
    output = ("--set", f'output="{tmp_path}/killed"')
    candidates = tmp_path / "killed" / "generated" / f"{method}.part" / "candidates"
    with subprocess.Popen(command("generate", config, *options, *output), stderr=subprocess.DEVNULL) as process:
        while len(list(candidates.glob("*.json"))) < 2 and process.poll() is None:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in candidates.glob("*.json")}
    for path in candidates.glob("[0-9]*.png"):
        assert cv2.imread(str(path)) is not None, "a half-written picture"
    assert not (tmp_path / "killed" / "generated" / method).exists()
    assert finished
    assert diagline("generate", config, *options, *output).code == 0
    assert diagline("generate", config, *options).code == 0
    killed = samples.load(tmp_path / "killed" / "generated" / method)
    whole = samples.load(tmp_path / "out" / "generated" / method)
    assert killed.hash() == whole.hash() and len(whole) == options[3]


def test_two_processes_under_accelerate_paint_the_same_set_as_one(
    config: Path, inpainting: Path, diagline: Diagline, tmp_path: Path
) -> None:
    options = ("--method", "diag", "--model", inpainting, "--count", 6, *WORDS, *SMALL)
    output = ("--set", f'output="{tmp_path}/two"')
    launch = [
        str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "diagline.cli",
    ]  # fmt: skip
    arguments = [str(argument) for argument in ("generate", config, *options, *output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    alone = subprocess.run(command("generate", config, *options), capture_output=True, text=True, env=environment)
    assert alone.returncode == 0, alone.stderr
    two, one = (samples.load(tmp_path / name / "generated" / "diag") for name in ("two", "out"))
    assert two.hash() == one.hash()
    assert done.stderr.count("defect pictures in") == 1, "only one process speaks"


def test_a_tuned_model_paints_other_pictures_and_a_missing_one_names_the_command(
    config: Path, text_to_image: Path, diagline: Diagline, tmp_path: Path
) -> None:
    options = ("--model", text_to_image, "--set", "generate.in_and_out.in_share=1", *WORDS, *SMALL, *NO_GATE)
    small = [f"generate.tune.{value}" for value in ("epochs=1", "repeats=1", "class_images=2", "size_px=32")]
    small += ["generate.tune.batch_size=2", "generate.tune.learning_rate=0.1"]
    more = [part for value in small for part in ("--set", value)]
    paint = ("generate", config, "--method", "in_and_out", "--count", 2, *options)
    tuned = ("--set", "generate.in_and_out.lora=tuned")
    refused(diagline(*paint, *tuned), "diagline tune")
    assert diagline(*paint).code == 0
    plain = samples.load(tmp_path / "out" / "generated" / "in_and_out")
    before = [plain.read_image(sample) for sample in plain]
    done = diagline("tune", config, *options, *more)
    assert done.code == 0, done.err
    assert diagline(*paint, *tuned).code == 0
    made = samples.load(tmp_path / "out" / "generated" / "in_and_out")
    assert all(not np.array_equal(made.read_image(sample), old) for sample, old in zip(made, before, strict=True))
    again = diagline("repaint", config, 0, "--method", "in_and_out")
    assert again.code == 0, again.err


def test_the_page_is_refused_where_it_cannot_be_served(config: Path, diagline: Diagline, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(diagline("studio", config, "--port", port, "--no-open"), f"port {port}", "--port")
    paint_parts(tmp_path / "bad_only", good=1)
    (tmp_path / "bad_only" / "good" / "000.png").unlink()
    nothing = ("--set", f'data.root="{tmp_path}/bad_only"')
    assert diagline("studio", config, *nothing, "--no-open").code == 2


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """A config of a line whose defects have masks."""
    data = paint_parts(tmp_path / "data")
    for path in (data / "bad").iterdir():
        mask = np.zeros((80, 60), np.uint8)
        mask[30:50, 20:26] = 255
        samples.write_image(data / "masks" / path.name, mask)
    return write_config(tmp_path / "line.toml", data, tmp_path / "out")


def test_the_papers_profile_paints_as_its_authors_did(
    masked: Path, inpainting: Path, diagline: Diagline, tmp_path: Path
) -> None:
    options = ("--profile", "paper", "--method", "diag", "--model", inpainting, "--count", 4)
    made = diagline("generate", masked, *options, "--set", "generate.diag.size_px=64", "--set", "generate.diag.steps=2")
    assert made.code == 0, made.err
    painted = samples.load(tmp_path / "out" / "generated" / "diag")
    assert [sample.provenance["prompt"] for sample in painted] == [
        "white marks on the wall", "white marks on the wall", "copper metal scratches", "copper metal scratches"
    ]  # fmt: skip
    for sample in painted:
        assert painted.read_image(sample).shape == (632, 224, 3) and painted.read_mask(sample).any()
        assert sample.provenance["negative_prompt"] == "smooth, plain, black, dark, shadow"
        assert sample.provenance["settings"]["guidance"] == 20.0 and sample.provenance["precision"] == "fp16"
        assert sample.provenance["entry"]["mask"]["source"] == "real"


def test_a_real_mask_of_another_size_than_its_picture_is_named(
    masked: Path, diagline: Diagline, tmp_path: Path
) -> None:
    for path in (tmp_path / "data" / "masks").iterdir():
        samples.write_image(path, np.full((40, 60), 255, np.uint8))
    outcome = diagline("generate", masked, "--set", "generate.masks=real")
    refused(outcome, tmp_path / "data" / "masks", "60x40", "60x80")


def test_a_region_file_that_covers_everything_is_refused(masked: Path, diagline: Diagline, tmp_path: Path) -> None:
    whole = {"name": "all", "role": "mask", "polygon": [[0, 0], [59, 0], [59, 79], [0, 79]]}
    drawing = {"version": 1, "width_px": 60, "height_px": 80, "regions": [whole]}
    (tmp_path / "regions.json").write_text(json.dumps(drawing))
    options = ("--set", "generate.masks=regions", "--set", f'generate.regions="{tmp_path}/regions.json"')
    refused(diagline("generate", masked, *options), "all", "covers the whole 60x80 px picture")
    (tmp_path / "regions.json").write_text("{")
    refused(diagline("generate", masked, *options), tmp_path / "regions.json", "JSON")
