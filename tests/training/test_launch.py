"""One run in several processes is the run of one, and ends as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_line import paint_parts, write_config

from diagline import config as configs
from diagline import verbs
from training import launch, teacher
from training.data import Batch

ROOT = Path(__file__).parents[2]
LAUNCH = [
    str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu", "--num_processes", "2",
    "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
]  # fmt: skip
# A network without batch norm, 13 pictures in batches of 5, 5 and 3: uneven parts. The last arguments say
# what goes wrong, if anything, and in which process.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from diagline import cli, samples
from diagline.errors import TrainingError
from diagline.preprocess import InputContract
from training import checkpoint, data, loop

root, target, batch_size, wrong, rank = sys.argv[1:]
torch.set_num_threads(1)
here = os.environ.get("RANK", "0") == rank
steps = iter(range(1000))

def loss(logits, labels, batch):
    step = next(steps)
    if wrong == "killed" and step == 5 and here:
        os.kill(os.getpid(), 9)
    return loop.hard_loss(logits, labels, batch) * (float("nan") if wrong == "nan" and step == 4 and here else 1)

if wrong == "full" and here:
    def keep(*_):
        raise TrainingError("cannot write: the disk is full")
    checkpoint.keep = keep
if wrong == "unread":
    data.CACHE_BYTES = 0

def run():
    torch.manual_seed(4)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3, 2), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 1)
    )
    contract = InputContract(48, 48, 1)
    train = samples.load(Path(root))
    pictures = data.Pictures([train.split("train")], contract, "both", 5)
    if wrong == "unread" and here:
        pictures._pairs = [(one, sample) for one, sample in pictures._pairs]
        pictures._pairs[2] = (samples.SampleSet(Path(root) / "gone", ()), pictures._pairs[2][1])
    validation = data.Pictures([train.split("val")], contract, "none", 5)
    settings = loop.Settings(
        epochs=3, batch_size=int(batch_size), learning_rate=0.01, balance=False, schedule="cosine", jitter=0.1
    )
    loop.fit(network, pictures, validation, settings, Path(target), {}, loss)
    torch.save(network.state_dict(), f"{target}/rank{os.environ.get('RANK', '0')}.pt")

cli.app = lambda arguments: run()  # errors end as the command's do
cli.main([])
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("launch") / "run.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 training and 6 validation pictures as a sample set."""
    from diagline.samples import DEFECT, GOOD, Sample, SampleSet, write_image

    root, made = tmp_path_factory.mktemp("parts"), []
    for index in range(19):
        rng = np.random.default_rng(index)
        image, label = rng.integers(70, 130, (48, 48, 3), dtype=np.uint8), DEFECT if index % 2 else GOOD
        if label == DEFECT:
            image[20:25, 4:-4] = 240
        write_image(root / f"{index}.png", image)
        kind, split = "scratch" if label else "good", "train" if index < 13 else "val"
        made.append(Sample(f"{index}.png", None, label, kind, str(index), split))
    SampleSet(root, tuple(made)).save()
    return root


def run(command: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=120, cwd=ROOT
    )


def history(target: Path) -> list[dict[str, Any]]:
    return list(json.loads((target / "history.json").read_bytes()))


def same(target: Path, other: Path, rank: int = 0) -> None:
    """Both runs trained alike, up to the rounding of sums taken in another order."""
    for row, wanted in zip(history(target), history(other), strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert (row["val_ap"], row["learning_rate"]) == (wanted["val_ap"], wanted["learning_rate"])
    one = torch.load(other / "rank0.pt", weights_only=True)
    for name, value in torch.load(target / f"rank{rank}.pt", weights_only=True).items():
        torch.testing.assert_close(value, one[name], rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def alone(script: Path, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a single process."""
    target = tmp_path_factory.mktemp("alone") / "t"
    done = run([sys.executable], script, parts, target, 5, "nothing", 0)
    assert done.returncode == 0, done.stderr
    return target


def test_two_processes_train_what_one_trains_and_end_equal(
    script: Path, parts: Path, alone: Path, tmp_path: Path
) -> None:
    done = run([*LAUNCH, str(script)], parts, tmp_path / "t", 5, "nothing", 0)
    assert done.returncode == 0, done.stderr
    same(tmp_path / "t", alone)
    same(tmp_path / "t", alone, rank=1)
    assert done.stderr.count("2 processes share each batch of 5") == 1, done.stderr


@pytest.mark.parametrize("launched", [False, True])
def test_a_process_killed_amid_an_epoch_costs_that_epoch_and_nothing_else(
    script: Path, parts: Path, alone: Path, tmp_path: Path, launched: bool
) -> None:
    target, command = tmp_path / "t", [*LAUNCH, str(script)] if launched else [sys.executable, str(script)]
    killed = run(command, parts, target, 5, "killed", int(launched))
    assert killed.returncode == (1 if launched else -signal.SIGKILL), killed.stderr
    assert len(history(target)) == 1
    done = run(command, parts, target, 5, "nothing", 0)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("going on after epoch 1") == 1
    same(target, alone)


@pytest.mark.parametrize(
    ("wrong", "rank", "line"),
    [
        ("nan", 1, "error: epoch 2, batch 2: the loss is nan; expected a finite number; lower learning_rate, or look"),
        ("unread", 1, "2.png: No such file or directory; expected an image file"),
        ("full", 0, "error: cannot write: the disk is full"),
    ],
)
def test_what_fails_in_one_process_ends_all_with_one_line(
    script: Path, parts: Path, tmp_path: Path, wrong: str, rank: int, line: str
) -> None:
    done = run([*LAUNCH, str(script)], parts, tmp_path / "t", 5, wrong, rank)
    assert done.returncode != 0
    said = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(said) == 1 and line in said[0], done.stderr
    assert "exitcode  : 2" in done.stderr and "exitcode  : 1" not in done.stderr, done.stderr
    assert '/run.py", line' not in done.stderr.replace("distributed/run.py", ""), "no traceback of ours"


@pytest.mark.parametrize("total", [1, 2, 3, 5, 6, 13])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_parts_cover_a_batch_once_and_their_weighted_means_average_to_its_mean(total: int, count: int) -> None:
    whole = Batch(np.arange(total) * 3 + 1, np.arange(total) % 4)
    seen: list[int] = []
    mean = 0.0
    for index in range(count):
        processes = launch.Processes()
        processes.index, processes.count = index, count
        part, place, weight = processes.part(whole)
        assert len(part.indices) >= 1 and part.indices.tolist() == whole.indices[place].tolist()
        assert part.variants.tolist() == whole.variants[place].tolist()
        seen += part.indices.tolist() if weight else []
        mean += weight * float(part.indices.mean()) / count
    assert seen == whole.indices.tolist()
    assert mean == pytest.approx(float(whole.indices.mean()))


def test_the_network_has_its_own_batch_norms_again_after_several_gpus_exchanged_them() -> None:
    network = teacher.Teacher(freeze=1)
    own = dict(network.named_modules())
    with launch.own_norms(network):
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
        assert isinstance(network.resnet.bn1, torch.nn.SyncBatchNorm)
        network.train()
        assert not network.resnet.bn1.training and network.resnet.layer1[0].bn1.training, "the stem stays frozen"
    assert all(module is own[name] for name, module in network.named_modules())


def test_the_command_trains_the_same_teacher_under_the_launcher(tmp_path: Path) -> None:
    path = write_config(tmp_path / "line.toml", paint_parts(tmp_path / "data"), tmp_path / "out")
    few = ("generate.count=0", "teacher.epochs=2", 'teacher.batch_norm="frozen"', "teacher.learning_rate=1e-5")
    options = [part for one in few for part in ("--set", one)]
    two = ("--set", f'output="{tmp_path}/two"')
    done = run([*LAUNCH, "-m", "diagline.cli"], "train", path, *options, *two)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("teacher in ") == 1 and "Traceback" not in done.stderr
    verbs.train(configs.load(path, few))
    for row, wanted in zip(history(tmp_path / "two" / "teacher"), history(tmp_path / "out" / "teacher"), strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
    one = teacher.load(tmp_path / "out" / "teacher" / "teacher.pt").state_dict()
    for name, value in teacher.load(tmp_path / "two" / "teacher" / "teacher.pt").state_dict().items():
        torch.testing.assert_close(value, one[name], rtol=0, atol=2.5e-4)  # at most the steps there are
