"""A grid of trials: each trains one teacher, measures it on given pictures and keeps what it found.

A trial's result is one JSON file, written whole when the trial ends: labels and logits of every
measured picture, so that any figure can be taken from it later. A rerun reads finished trials
and goes on in the middle of an unfinished one. Networks are not kept. Under `accelerate launch`
each process trains every n-th trial by itself. Leaves out: what is compared with what
(`reproduce.py`, `value.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diagline import files
from diagline.config import Config
from diagline.console import console
from diagline.errors import TrainingError
from diagline.samples import SampleSet
from generation.worker import Worker
from training import checkpoint, evaluate, teach, teacher

FORMAT = "diagline-trial-1"
POLL_S = 1.0
"""How often the first process looks whether the others have finished."""
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher says to a process; LOCAL_WORLD_SIZE stays, as a machine's memory and threads are still shared."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One teacher to train and measure.

    Attributes:
        name: unique in its grid; names a file.
        config: its `seed`, `input` and `teacher` shape the training.
        train, val: what it learns from, and what chooses its epoch and threshold (may be empty).
        measured: what it is measured on.
    """

    name: str
    config: Config
    train: tuple[SampleSet, ...]
    val: tuple[SampleSet, ...]
    measured: SampleSet


@dataclass(frozen=True, slots=True)
class Result:
    """What a trial found.

    Attributes:
        labels: (N,) int64 of the measured pictures, 1 = defect; logits: (N,) float64 in their order.
        figures: `evaluate.Metrics` at the threshold that `val` chose, as plain data.
        seconds: the trial took, over all its runs.
    """

    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    figures: dict[str, Any]
    seconds: float


def run(
    trials: Sequence[Trial], folder: Path, worker: Worker, keep_going: bool = False
) -> tuple[dict[str, Result], dict[str, str]]:
    """Run what is not finished yet; every process returns, the first one with everything.

    Args:
        trials: in the order in which they run; every process is given the same.
        folder: holds NAME.json of each finished trial, and work/NAME of each unfinished one.
        worker: which share this process takes. It leaves the others for good: nothing after
            this call may wait for them.
        keep_going: a trial that cannot train does not stop the others.

    Returns:
        Results by trial name, and why a trial has none by its name.

    Raises:
        DatasetError: a picture cannot be read or nothing can be measured.
        TrainingError: a finished trial is of other settings or data; without `keep_going` also what
            `teach.train_teacher` raises.
        OutputError: the folder cannot be written to.
    """
    if len({trial.name for trial in trials}) != len(trials):
        raise ValueError("two trials of one name")
    identities = _identities(trials)
    results = {trial.name: _read(folder, trial.name, identities[trial.name]) for trial in trials}
    if worker.is_main:
        for path in folder.glob("*.failed"):
            path.unlink()
    _part(worker)
    for trial in worker.share([trial for trial in trials if results[trial.name] is None]):
        _say(trial, trials, results, folder, worker)
        try:
            results[trial.name] = _run_one(trial, folder, identities[trial.name])
        except TrainingError as error:
            if not keep_going:
                raise
            console.print(f"{trial.name}: cannot be trained: {error}", style="yellow", soft_wrap=True)
            files.write_text(folder / f"{trial.name}.failed", str(error))
    if worker.is_main:
        _wait(trials, folder)
        results = {trial.name: _read(folder, trial.name, identities[trial.name]) for trial in trials}
    found = {name: result for name, result in results.items() if result is not None}
    reasons = {name: (folder / f"{name}.failed") for name in results if name not in found}
    return found, {name: path.read_text(encoding="utf-8") for name, path in reasons.items() if path.is_file()}


def _run_one(trial: Trial, folder: Path, identity: Mapping[str, Any]) -> Result:
    work, started = folder / "work" / trial.name, time.monotonic()
    made = teach.train_teacher(trial.config, trial.train, trial.val, work)
    trained = json.loads((work / checkpoint.RESULT).read_bytes())
    network = teacher.load(made).to("cuda" if torch.cuda.is_available() else "cpu")
    labels, logits, _ = evaluate.scores(network, [trial.measured], trial.config.input)
    figures = asdict(evaluate.measure(labels, logits, trained["threshold"]))
    # epochs of an earlier run, which was killed, count too
    seconds = max(time.monotonic() - started, float(trained["training_s"]))
    body = {
        "format": FORMAT,
        "identity": identity,
        "figures": figures,
        "trained": trained,
        "seconds": round(seconds, 1),
        "labels": labels.tolist(),
        "logits": logits.astype(float).tolist(),
    }
    files.write_json(folder / f"{trial.name}.json", body)
    shutil.rmtree(work, ignore_errors=True)  # a teacher is 94 MB
    return _result(body)


def _read(folder: Path, name: str, identity: Mapping[str, Any]) -> Result | None:
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    try:
        body = json.loads(path.read_bytes())
        known = body["identity"] if body["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); expected a trial; remove it and run again") from error
    if known is None:
        raise TrainingError(f"{path}: not a {FORMAT}; written by another version; remove it and run again")
    changed = sorted(key for key in {*known, *identity} if known.get(key) != identity.get(key))
    if changed:
        raise TrainingError(
            f"{path}: of other settings or pictures ({', '.join(changed)} differ); expected the same to go on; "
            f"remove {folder} or choose another output"
        )
    return _result(body)


def _result(body: Mapping[str, Any]) -> Result:
    labels, logits = np.array(body["labels"], np.int64), np.array(body["logits"], np.float64)
    return Result(labels, logits, dict(body["figures"]), float(body["seconds"]))


def _identities(trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """By name, all that shapes a trial's result, flat plain data; each set is hashed once."""
    hashes: dict[int, str] = {}

    def hashed(samples: SampleSet) -> str:
        if id(samples) not in hashes:
            hashes[id(samples)] = samples.hash()
        return hashes[id(samples)]

    found = {}
    for trial in trials:
        plain = trial.config.plain()
        flat = {f"{part}.{key}": value for part in ("input", "teacher") for key, value in plain[part].items()}
        flat["seed"] = trial.config.seed
        flat["training pictures"] = [hashed(one) for one in trial.train]
        flat["validation pictures"] = [hashed(one) for one in trial.val]
        flat["measured pictures"] = hashed(trial.measured)
        found[trial.name] = flat
    return found


def _part(worker: Worker) -> None:
    """End what joins this process to the others, so that each trains its own network on its own GPU."""
    worker.wait()
    if worker.count == 1:
        return
    from accelerate.state import AcceleratorState

    if torch.cuda.is_available():
        torch.cuda.set_device(worker.state.local_process_index % torch.cuda.device_count())
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in LAUNCHER:
        os.environ.pop(name, None)


def _wait(trials: Sequence[Trial], folder: Path) -> None:
    """Return when every trial has ended; a launcher ends all processes when one of them dies."""
    while not all(
        (folder / f"{trial.name}.json").is_file() or (folder / f"{trial.name}.failed").is_file() for trial in trials
    ):
        time.sleep(POLL_S)


def _say(
    trial: Trial, trials: Sequence[Trial], known: Mapping[str, Result | None], folder: Path, worker: Worker
) -> None:
    ended = [one for one in trials if (folder / f"{one.name}.json").is_file()]
    seconds = [result.seconds for result in known.values() if result is not None]
    left_s = sum(seconds) / len(seconds) * (len(trials) - len(ended)) / worker.count if seconds else None
    estimate = "" if left_s is None else f"; about {duration(left_s)} left"
    console.print(f"trial {len(ended) + 1} of {len(trials)}: {trial.name}{estimate}", style="bold", soft_wrap=True)


def duration(seconds: float) -> str:
    """A time span for people: 40 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
