from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from diagline import console, samples
from diagline.config_generate import GenerateConfig, InAndOutConfig, TuneConfig
from diagline.errors import DatasetError, GenerationError, TrainingError
from diagline.samples import SampleSet
from generation.diffusion import pipelines
from generation.in_and_out import InAndOutPainter, adapters, buckets, loop, objective, prior, progress
from generation.in_and_out.tune import tune
from generation.painting import Job

SEED = 5


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def settings(model: Path, sampling: dict[str, Any] | None = None, **changes: Any) -> GenerateConfig:
    base = TuneConfig(
        prompt="sks", class_prompt="crack", class_images=3, rank=3, alpha=2, conv_rank=2, conv_alpha=1, size_px=32,
        epochs=2, repeats=1, batch_size=2, learning_rate=1e-2, precision="fp32",
    )  # fmt: skip
    drawn = InAndOutConfig(model=str(model), steps=2, guidance=5.0, size_px=16, batch_size=2, device="cpu")
    return GenerateConfig(in_and_out=replace(drawn, **sampling or {}), tune=replace(base, **changes))


def weights(target: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(target / "lora" / adapters.WEIGHTS))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(target: Path) -> list[Any]:
    return [{**row, "seconds": 0} for row in json.loads((target / "tune.json").read_bytes())["history"]]


@pytest.fixture(scope="module")
def tuned(model: Path, positives: SampleSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run straight through."""
    AcceleratorState._reset_state(reset_partial_state=True)
    target = tmp_path_factory.mktemp("runs") / "tuned"
    assert tune(settings(model), positives, SEED, target) == target / "lora"
    return target


class Stop(BaseException):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, calls: int) -> None:
    """Let the run end after the n-th call of a function, as a signal would."""
    real, made = getattr(where, name), []

    def stopping(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        made.append(1)
        if len(made) == calls:
            raise Stop
        return result

    monkeypatch.setattr(where, name, stopping)


def test_tuning_changes_what_is_painted_and_the_record_says_how(model: Path, positives: SampleSet, tuned: Path) -> None:
    linear, convolutions = adapters.layers(StableDiffusionPipeline.from_pretrained(model).unet)
    found = weights(tuned)
    assert len(found) == 2 * (len(linear) + len(convolutions))
    moved = [name for name, value in found.items() if ".lora_B." in name and value.abs().max() > 0]
    assert len(moved) == len(linear) + len(convolutions), "every layer learnt"
    for names, rank in ((linear, 3), (convolutions, 2)):
        assert all(len(found[f"unet.{name}.lora_A.weight"]) == rank for name in names)
    config = replace(settings(model).in_and_out, in_share=1.0, precision="fp32")
    asked = Job(np.zeros((16, 16, 3), np.uint8), None, (1,), "sks", "")
    (plain,), (painted,) = (InAndOutPainter(config, lora).paint([asked]) for lora in (None, tuned))
    assert not np.array_equal(plain.image_bgr, painted.image_bgr)
    record = json.loads((tuned / "tune.json").read_bytes())
    assert record["plan"]["positives_sha256"] == positives.hash() and record["plan"]["seed"] == SEED
    assert record["plan"]["revision"] == pipelines.locate(str(model), "key")[1]
    assert record["plan"]["tune"]["rank"] == 3 and record["plan"]["tune"]["precision"] == "fp32"
    assert {"torch", "diffusers", "peft", "accelerate"} <= record["versions"].keys()
    assert [row["epoch"] for row in record["history"]] == [1, 2] and len(record["class_pictures_sha256"]) == 3
    assert all(row["loss"] > 0 and row["loss_real"] > 0 and row["loss_class"] > 0 for row in record["history"])
    assert not (tuned / "checkpoint.pt").exists()


def test_a_loss_of_all_pictures_falls_when_they_are_learnt(model: Path, positives: SampleSet, tmp_path: Path) -> None:
    asked = settings(model, class_images=0, epochs=12, repeats=2, batch_size=8, cycles=1, size_px=16)
    tune(asked, positives, SEED, tmp_path / "tuned")
    history = losses(tmp_path / "tuned")
    first, last = (np.mean([row["loss"] for row in rows]) for rows in (history[:3], history[-3:]))
    assert last < 0.97 * first


@pytest.mark.parametrize(
    ("where", "name", "calls", "left"),
    [
        (prior.samples, "write_image", 1, 1.0),  # amid the class pictures
        (progress, "keep", 1, 0.5),  # after the first epoch
        (loop.Run, "_step", 7, 0.5),  # amid the second
        (progress, "keep", 2, 0.0),  # trained, nothing saved
        (adapters, "save", 1, 0.0),  # saved, not noted
    ],
)
def test_a_run_stopped_anywhere_goes_on_and_ends_with_the_same_weights(
    model: Path, positives: SampleSet, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    where: Any, name: str, calls: int, left: float,
) -> None:  # fmt: skip
    target = tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, where, name, calls)
        tune(settings(model), positives, SEED, target)
    assert not (target / "tune.json").exists()
    steps = []
    torch.manual_seed(calls)  # what else the process drew must not count
    real = loop.Run._step
    monkeypatch.setattr(loop.Run, "_step", lambda run, *rest: (steps.append(1), real(run, *rest))[1])
    tune(settings(model), positives, SEED, target)
    assert len(steps) == left * json.loads((tuned / "tune.json").read_bytes())["steps"]
    assert equal(weights(target), weights(tuned)) and losses(target) == losses(tuned)
    for made, wanted in zip(prior.paths(target, 3), prior.paths(tuned, 3), strict=True):
        assert made.read_bytes() == wanted.read_bytes()


RUN = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[4:]
import test_tune
from diagline import samples
from generation.in_and_out import progress
from generation.in_and_out.tune import tune
model, positives, target = map(Path, sys.argv[1:4])
real = progress.keep
def keep(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ.get("KILL"):
    progress.keep = keep
tune(test_tune.settings(model), samples.load(positives), test_tune.SEED, target)
"""


def command(model: Path, positives: SampleSet, target: Path) -> list[str]:
    positives.save()
    support = Path(__file__).parents[2] / "support"
    return [str(each) for each in (model, positives.root, target, Path(__file__).parent, support)]


def test_a_killed_process_loses_at_most_an_epoch(
    model: Path, positives: SampleSet, tuned: Path, tmp_path: Path
) -> None:
    target = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command(model, positives, target)],
        env={**os.environ, "KILL": "1"}, capture_output=True, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (target / "lora").exists() and (target / "checkpoint.pt").is_file()
    tune(settings(model), positives, SEED, target)
    assert equal(weights(target), weights(tuned)) and losses(target) == losses(tuned)


def test_two_processes_under_accelerate_tune_as_one(
    model: Path, positives: SampleSet, tuned: Path, tmp_path: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    launch = [
        str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", str(script),
    ]  # fmt: skip
    target = tmp_path / "two"
    done = subprocess.run(
        [*launch, *command(model, positives, target)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((target / "tune.json").read_bytes())["processes"] == 2
    for row, wanted in zip(losses(target), losses(tuned), strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
        assert row["learning_rate"] == wanted["learning_rate"]
    for name, wanted in weights(tuned).items():
        torch.testing.assert_close(weights(target)[name], wanted, rtol=0, atol=2e-3)


def test_a_finished_run_returns_at_once_and_another_ones_folder_is_refused(
    model: Path, positives: SampleSet, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tuned.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "prepare", None)  # nothing may load
        assert tune(settings(model), positives, SEED, tuned) == tuned / "lora"
        with pytest.raises(TrainingError, match=r"tune\.rank = 3 there, 4 now.*remove .* or set another output"):
            tune(settings(model, rank=4), positives, SEED, tuned)
        with pytest.raises(TrainingError, match="seed = 5 there, 6 now"):
            tune(settings(model), positives, 6, tuned)
        with pytest.raises(TrainingError, match="positives_sha256"):
            tune(settings(model), positives.where(lambda sample: sample.image != "0.png"), SEED, tuned)
        with pytest.raises(TrainingError, match=r"class_sampling\.steps = 2 there, 3 now"):
            tune(settings(model, {"steps": 3}), positives, SEED, tuned)
    assert {path: path.stat().st_mtime_ns for path in tuned.rglob("*")} == before
    changed = shutil.copytree(tuned, tmp_path / "changed")
    (changed / "lora" / adapters.WEIGHTS).write_bytes(b"other")
    with pytest.raises(TrainingError, match="changed since they were tuned"):
        tune(settings(model), positives, SEED, changed)
    shutil.rmtree(changed / "lora")
    with pytest.raises(TrainingError, match="not found; expected the weights"):
        tune(settings(model), positives, SEED, changed)


def test_until_an_epoch_is_done_other_settings_may_take_the_folder_over(
    model: Path, positives: SampleSet, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running out of memory at the first step names another setting: that one must then go on."""
    target = tmp_path / "tuned"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, loop.Run, "_step", 1)
        tune(settings(model, batch_size=8, class_images=3), positives, SEED, target)
    painted = {path: path.stat().st_mtime_ns for path in prior.paths(target, 3)}
    tune(settings(model), positives, SEED, target)
    assert equal(weights(target), weights(tuned))
    assert {path: path.stat().st_mtime_ns for path in prior.paths(target, 3)} == painted
    other = tmp_path / "other"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_after(patch, loop.Run, "_step", 1)
        tune(settings(model, class_prompt="another"), positives, SEED, other)
    tune(settings(model), positives, SEED, other)
    assert equal(weights(other), weights(tuned)), "class pictures of other words are painted again"


def test_a_damaged_checkpoint_is_said(model: Path, positives: SampleSet, tmp_path: Path) -> None:
    target = tmp_path / "tuned"
    target.mkdir()
    (target / "checkpoint.pt").write_bytes(b"half a check")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: cannot be read; .* remove it"):
        tune(settings(model, class_images=0), positives, SEED, target)


def test_without_class_images_there_is_no_prior_and_its_weight_counts_where_there_is(
    model: Path, positives: SampleSet, tuned: Path, tmp_path: Path
) -> None:
    tune(settings(model, class_images=0), positives, SEED, tmp_path / "none")
    assert not (tmp_path / "none" / "class").exists()
    record = json.loads((tmp_path / "none" / "tune.json").read_bytes())
    assert [row["loss_class"] for row in record["history"]] == [None, None] and "class_sampling" not in record["plan"]
    shutil.copytree(tuned / "class", tmp_path / "heavy" / "class")
    tune(settings(model, prior_weight=10.0), positives, SEED, tmp_path / "heavy")
    assert not equal(weights(tmp_path / "heavy"), weights(tuned))


def test_class_pictures_are_the_untuned_models_own(model: Path, tuned: Path) -> None:
    config = replace(settings(model).in_and_out, in_share=1.0, precision="fp32")
    painter = InAndOutPainter(config)
    asked = [Job(np.zeros((16, 16, 3), np.uint8), None, (SEED, 7, index), "crack", "") for index in range(2)]
    for path, painted in zip(
        prior.paths(tuned, 2), painter._sampler.paint([("crack", "")] * 2, [a.stream for a in asked]), strict=True
    ):
        assert np.array_equal(samples.read_image(path), painted)


def test_only_missing_class_pictures_are_painted(model: Path, tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "class", tmp_path / "class")
    first, second, _ = prior.paths(tmp_path, 3)
    second.unlink()
    first.write_bytes(b"as it was")
    asked = settings(model)
    prior.paint_missing(asked.tune, replace(asked.in_and_out, precision="fp32"), SEED, tmp_path)
    assert first.read_bytes() == b"as it was" and second.read_bytes() == prior.paths(tuned, 3)[1].read_bytes()


def test_each_batch_is_of_one_bucket_and_the_schedule_and_the_weights_are_the_configs(
    model: Path, positives: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, rates, snr = [], [], []
    real_losses, real_step, real_weights = loop.Run._losses, loop.Run._step, objective.min_snr_weights

    def seen_losses(run: Any, pictures: Any, *rest: Any) -> Any:
        shapes.append({picture.bucket for picture in pictures})
        return real_losses(run, pictures, *rest)

    def seen_step(run: Any, epoch: int, step: int, batch: Any, rate: float) -> Any:
        made = real_step(run, epoch, step, batch, rate)
        rates.append([group["lr"] for group in run.optimiser.param_groups])
        return made

    def seen_weights(*arguments: Any) -> Any:
        snr.append(arguments[1:])
        return real_weights(*arguments)

    monkeypatch.setattr(loop.Run, "_losses", seen_losses)
    monkeypatch.setattr(loop.Run, "_step", seen_step)
    monkeypatch.setattr(objective, "min_snr_weights", seen_weights)
    tune(settings(model, epochs=3, min_snr_gamma=4.0), positives, SEED, tmp_path / "tuned")
    assert all(len(found) == 1 for found in shapes) and len(set.union(*shapes)) == 3
    assert snr == [("epsilon", 4.0)]
    wanted = [[1e-2 * objective.cosine_with_restarts(step / len(rates), 3)] for step in range(len(rates))]
    assert rates == wanted and [rate[0] for rate in rates].count(1e-2) == 3


def test_the_loss_is_the_weighted_error_of_the_predicted_noise(
    model: Path, positives: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that guesses the noise of a view exactly has no loss; one that guesses nothing has the weights'."""
    kept: list[loop.Run] = []
    real = loop.Run.epochs
    monkeypatch.setattr(loop.Run, "epochs", lambda run: (kept.append(run), real(run))[1])
    tune(settings(model, class_images=0, epochs=1), positives, SEED, tmp_path / "tuned")
    run = kept[0]
    pictures, stream = [run.examples[3], run.examples[4]], (1, 2)
    assert pictures[0].bucket == pictures[1].bucket

    def drawn(place: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        own = pipelines.generator((*stream, place))
        first = torch.randn(pictures[place].mean.shape, generator=own)
        return first, torch.randn(first.shape, generator=own), int(torch.randint(1000, (1,), generator=own))

    noise = torch.stack([drawn(place)[1] for place in (0, 1)])
    steps = torch.tensor([drawn(place)[2] for place in (0, 1)])
    seen = []

    class Guess:
        def __init__(self, sample: torch.Tensor) -> None:
            self.sample = sample

    def network(guess: torch.Tensor) -> Any:
        def forward(noisy: torch.Tensor, times: torch.Tensor, encoder_hidden_states: torch.Tensor) -> Guess:
            seen.append((noisy, times, encoder_hidden_states))
            return Guess(guess)

        return forward

    exact = replace(run, wrapped=network(noise))._losses(pictures, stream, [0, 1])
    assert torch.equal(exact, torch.zeros(2))
    nothing = replace(run, wrapped=network(torch.zeros_like(noise)))._losses(pictures, stream, [0, 1])
    torch.testing.assert_close(nothing, noise.square().mean(dim=(1, 2, 3)) * run.weights[steps])
    of_class = [replace(pictures[0], is_class=True), pictures[1]]
    replace(run, wrapped=network(noise))._losses(of_class, stream, [0, 1])
    assert torch.equal(seen[2][2], torch.cat([run.words[1], run.words[0]])) and not torch.equal(*run.words)
    noisy, times, words = seen[0]
    assert torch.equal(times, steps) and torch.equal(words, run.words[0].expand(2, -1, -1))
    for place, picture in enumerate(pictures):
        clean = (picture.mean + picture.std * drawn(place)[0]) * run.scale
        signal = run.noise.alphas_cumprod[steps[place]]
        torch.testing.assert_close(noisy[place], clean * signal.sqrt() + noise[place] * (1 - signal).sqrt())


def v_prediction(model: Path, target: Path) -> Path:
    folder = shutil.copytree(model, target)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    return folder


def test_models_that_predict_the_velocity_and_other_ways_to_compute_are_tuned_too(
    model: Path, positives: SampleSet, tuned: Path, tmp_path: Path
) -> None:
    velocity = v_prediction(model, tmp_path / "model")
    tune(settings(velocity, epochs=1, class_images=0), positives, SEED, tmp_path / "velocity")
    shutil.copytree(tuned / "class", tmp_path / "low" / "class")
    tune(settings(model, {"memory": "low"}), positives, SEED, tmp_path / "low")
    for name, value in weights(tuned).items():
        torch.testing.assert_close(weights(tmp_path / "low")[name], value, rtol=0, atol=1e-4)
    AcceleratorState._reset_state(reset_partial_state=True)
    tune(settings(model, epochs=1, class_images=0, precision="bf16"), positives, SEED, tmp_path / "bf16")
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "bf16").values())


def test_what_cannot_be_tuned_is_refused_at_the_start(model: Path, positives: SampleSet, tmp_path: Path) -> None:
    def refused(kind: type[Exception], says: str, asked: GenerateConfig, pictures: SampleSet = positives) -> None:
        with pytest.raises(kind, match=says):
            tune(asked, pictures, SEED, tmp_path / "tuned")

    refused(DatasetError, "no real defects to learn from", settings(model), SampleSet(positives.root, ()))
    refused(GenerationError, r"generate\.in_and_out\.model = '/nowhere'", settings(Path("/nowhere")))
    refused(TrainingError, r"precision = 'fp16': the processor trains", settings(model, precision="fp16"))
    assert not (tmp_path / "tuned").exists()
    long = "a" * 75 + "qqqq"
    refused(GenerationError, r"generate\.tune\.prompt: .*it would cut 'qqqq'", settings(model, prompt=long))
    refused(GenerationError, r"generate\.tune\.class_prompt: .*it would cut 'qqqq'", settings(model, class_prompt=long))
    assert not list((tmp_path / "tuned").glob("class/*")), "refused before anything is painted"


def test_a_loss_that_is_no_number_stops_the_run_and_names_epoch_and_pictures(
    model: Path, positives: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.Run._losses

    def broken(run: Any, pictures: Any, stream: tuple[int, ...], *rest: Any) -> Any:
        made = real(run, pictures, stream, *rest)
        return made * float("nan") if stream[2:] == (1, 0) else made

    monkeypatch.setattr(loop.Run, "_losses", broken)
    with pytest.raises(TrainingError, match=r"epoch 2, step 1: .* no finite number.*\.png.*precision = 'fp32'"):
        tune(settings(model), positives, SEED, tmp_path / "tuned")
    kept = progress.read(tmp_path / "tuned")
    assert kept is not None and len(kept.history) == 1, "the finished epoch stays"


@pytest.mark.parametrize(
    ("memory", "batch_size", "says"),
    [
        ("full", 2, r"set generate\.in_and_out\.memory = 'low'"),
        ("low", 6, r"set generate\.tune\.batch_size = 3"),
        ("low", 1, r"set generate\.tune\.size_px = 64"),
    ],
)
def test_running_out_of_memory_names_the_next_setting(
    model: Path, positives: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    memory: str, batch_size: int, says: str,
) -> None:  # fmt: skip
    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(loop.Run, "_losses", too_large)
    asked = settings(model, {"memory": memory}, class_images=0, batch_size=batch_size)
    with pytest.raises(TrainingError, match="out of GPU memory while tuning.*" + says):
        tune(asked, positives, SEED, tmp_path / "tuned")


def test_the_defaults_are_the_published_settings() -> None:
    config, sampling = TuneConfig(), InAndOutConfig()
    assert (config.rank, config.alpha, config.conv_rank, config.conv_alpha) == (32, 16, 4, 1)
    assert (config.size_px, config.learning_rate, config.cycles, config.min_snr_gamma) == (512, 1e-5, 3, 5.0)
    assert (config.class_images, config.batch_size, config.epochs, config.repeats) == (200, 12, 50, 10)
    assert (sampling.steps, sampling.guidance, sampling.size_px, sampling.lora) == (50, 7.5, 512, "none")
    assert buckets.step_of(config.size_px, 8) == 64
    assert console.command()
