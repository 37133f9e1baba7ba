"""What a training run can go on from after a kill, and what tells that it is finished.

One file, `checkpoint.pt`, replaced whole after every epoch. It carries the run's identity
(config, seed, data): a rerun goes on only with an equal one. A finished run's checkpoint
keeps the identity alone. Leaves out: what is trained (`loop.py`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diagline import files
from diagline.config import Config
from diagline.console import console
from diagline.errors import TrainingError
from diagline.samples import SampleSet

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.json"
RESULT = "result.json"
FORMAT = "diagline-checkpoint-1"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        history: one row per finished epoch.
        best: the epoch (from 1) to keep as things stand, its `val_ap` and its `network` state; empty before epoch 1.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)


def describe(config: Config, section: str, train: Sequence[SampleSet], val: Sequence[SampleSet]) -> dict[str, Any]:
    """A run's identity: all that shapes what a section of the config trains, flat plain data."""
    plain = config.plain()
    parts = {"input": plain["input"], section: plain[section]}
    flat = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    data = {"training pictures": [part.hash() for part in train], "validation pictures": [part.hash() for part in val]}
    return {"seed": config.seed, **flat, **data}


def resume(
    target: Path,
    identity: dict[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    averaged: nn.Module | None = None,
) -> Progress:
    """Load target/checkpoint.pt into network, optimiser, average and torch's generator; a fresh start without one.

    Raises:
        TrainingError: the checkpoint is damaged, of another identity or of another network.
    """
    content = _read(target, identity)
    if content is None or content["finished"]:
        return Progress()
    _check_network(target, content, network)
    network.load_state_dict(content["network"])
    optimiser.load_state_dict(content["optimiser"])
    if averaged is not None:
        averaged.load_state_dict(content["averaged"])
    torch.set_rng_state(content["rng"])
    history = json.loads(content["history"])
    console.print(f"{target}: going on after epoch {len(history)}", soft_wrap=True)
    return Progress(history, content["best"])


def keep(
    target: Path,
    identity: dict[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    averaged: nn.Module | None,
    state: Progress,
) -> None:
    """Replace target/checkpoint.pt and history.json; raises as `files.write_bytes`."""
    newest = averaged is None and state.best["epoch"] == len(state.history)
    content = {
        "format": FORMAT,
        "finished": False,
        "identity": json.dumps(identity),
        "kind": type(network).__name__,
        "network": state.best["network"] if newest else network.state_dict(),  # one copy on disk when equal
        "optimiser": optimiser.state_dict(),
        "averaged": None if averaged is None else averaged.state_dict(),
        "rng": torch.get_rng_state(),
        "history": json.dumps(state.history),
        "best": state.best,
    }
    _write(target, content)
    files.write_json(target / HISTORY, state.history)


def finish(target: Path, identity: dict[str, Any], result: dict[str, Any]) -> None:
    """Write result.json and mark the run finished, which frees the optimiser's space."""
    files.write_json(target / RESULT, result)
    _write(target, {"format": FORMAT, "finished": True, "identity": json.dumps(identity)})


def finished(target: Path, identity: dict[str, Any], made: Path) -> bool:
    """Whether this very run was finished here and `made` is still there; says so on the console.

    Raises:
        TrainingError: as `resume`.
    """
    content = _read(target, identity)
    if content is None or not content["finished"] or not made.is_file() or not (target / RESULT).is_file():
        return False
    console.print(f"{made}: already trained with this config and data; remove {target} to train again")
    return True


def _read(target: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    path = target / CHECKPOINT
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        known = json.loads(content["identity"]) if content["format"] == FORMAT else None
    except Exception as error:  # torch.load raises many kinds: EOFError, UnpicklingError, RuntimeError ...
        raise TrainingError(
            f"{path}: cannot be read; expected a checkpoint; remove {target} and train again"
        ) from error
    if known is None:
        raise TrainingError(f"{path}: not a {FORMAT}; written by another version; remove {target} and train again")
    wanted = json.loads(json.dumps(identity))
    changed = [
        f"{key} = {_short(known.get(key))} there, {_short(wanted.get(key))} now"
        for key in sorted({*known, *wanted})
        if known.get(key) != wanted.get(key)
    ]
    if changed:
        raise TrainingError(
            f"{target}: trained with other settings ({'; '.join(changed)}); expected the same to go on; "
            f"remove {target} or set another output"
        )
    return dict(content)


def _check_network(target: Path, content: dict[str, Any], network: nn.Module) -> None:
    there, now = content["network"], network.state_dict()
    odd = [name for name in {**there, **now} if _shape(there, name) != _shape(now, name)]
    if odd:
        raise TrainingError(
            f"{target / CHECKPOINT}: of another network: {_size(content.get('kind', 'network'), there)} there, "
            f"{_size(type(network).__name__, now)} now; {odd[0]} is {_shape(there, odd[0])} there, "
            f"{_shape(now, odd[0])} now; expected the same to go on; remove {target} or set another output"
        )


def _shape(state: Mapping[str, torch.Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "missing"


def _size(kind: str, state: Mapping[str, torch.Tensor]) -> str:
    return f"{kind} of {len(state)} tensors, {sum(value.numel() for value in state.values()):,} numbers"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _write(target: Path, content: dict[str, Any]) -> None:
    stream = io.BytesIO()
    torch.save(content, stream)
    files.write_bytes(target / CHECKPOINT, stream.getvalue())
