"""What a tuning run can go on from after a kill, and what tells that it is finished.

    TARGET/plan.json       everything that decides the weights, written first
    TARGET/class/          class pictures of prior preservation
    TARGET/checkpoint.pt   replaced whole after every epoch, removed at the end
    TARGET/lora/           the adapters, in diffusers' format
    TARGET/tune.json       written last: plan, loss history, versions, hashes

Every draw of an epoch is seeded by the run's seed and the epoch's number, so there is no state of a
random generator to keep. Leaves out: the training itself (`tune.py`).
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diagline import files
from diagline.errors import TrainingError
from generation.in_and_out.adapters import LORA, PLAN, RESULT, WEIGHTS

CHECKPOINT, CLASS = "checkpoint.pt", "class"
FORMAT = "diagline-tune-1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run after a whole epoch: adapters by name, AdamW's state, the fp16 loss scaler's (or None), a row an epoch."""

    adapters: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any] | None
    history: list[dict[str, Any]]


def open_run(target: Path, plan: Mapping[str, Any], write: bool) -> None:
    """Take a folder for a run: note its plan, or find that it is the same.

    Until the first epoch is done other settings may take the folder over; they keep its class
    pictures where they would paint the same.

    Args:
        write: note it; of several processes one does.

    Raises:
        TrainingError: the folder holds a run with another plan; names what differs.
        OutputError: the folder cannot be written to.
    """
    path = target / PLAN
    wanted = json.loads(json.dumps(plan))
    known: dict[str, Any] = {}
    if path.is_file():
        try:
            known = dict(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(f"{path}: cannot be read ({error}); remove {target} and tune again") from error
    changed = _differences(known, wanted)
    if known and changed and any((target / name).exists() for name in (CHECKPOINT, LORA, RESULT)):
        raise TrainingError(
            f"{target}: tuned with other settings ({'; '.join(changed)}); expected the same to go on; "
            f"remove {target} or set another output"
        )
    if changed and write:
        if known and _class_of(known) != _class_of(wanted):
            shutil.rmtree(target / CLASS, ignore_errors=True)
        files.write_json(path, wanted)


def finished(target: Path) -> bool:
    """Whether the run in this folder ended, and its weights are as it left them.

    Raises:
        TrainingError: the record is damaged, or the weights are missing or changed.
    """
    path, weights = target / RESULT, target / LORA / WEIGHTS
    if not path.is_file():
        return False
    try:
        expected = json.loads(path.read_bytes())["lora_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: cannot be read ({error}); remove {target} and tune again") from error
    if not weights.is_file() or files.sha256_file(weights) != expected:
        what = "changed since they were tuned" if weights.is_file() else "not found"
        raise TrainingError(f"{weights}: {what}; expected the weights of {path}; remove {target} and tune again")
    return True


def read(target: Path) -> Checkpoint | None:
    """The last whole epoch; None before the first.

    Raises:
        TrainingError: the file is damaged or of another version.
    """
    path = target / CHECKPOINT
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        known = content["format"]
        found = Checkpoint(content["adapters"], content["optimiser"], content["scaler"], json.loads(content["history"]))
    except Exception as error:  # torch.load raises many kinds: EOFError, UnpicklingError, RuntimeError ...
        raise TrainingError(
            f"{path}: cannot be read; expected a checkpoint; remove it to tune again from the first epoch"
        ) from error
    if known != FORMAT:
        raise TrainingError(f"{path}: format {known}; expected {FORMAT}; remove it to tune again from the first epoch")
    return found


def keep(target: Path, state: Checkpoint) -> None:
    """Replace the checkpoint; raises as `files.write_bytes`."""
    content = {
        "format": FORMAT,
        "adapters": state.adapters,
        "optimiser": state.optimiser,
        "scaler": state.scaler,
        "history": json.dumps(state.history),
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    files.write_bytes(target / CHECKPOINT, stream.getvalue())


def finish(target: Path, result: Mapping[str, Any]) -> None:
    """Note that the run ended, after its weights are in place; frees the checkpoint's space."""
    files.write_json(target / RESULT, dict(result))
    (target / CHECKPOINT).unlink(missing_ok=True)


def _class_of(plan: Mapping[str, Any]) -> list[Any]:
    """What decides the class pictures."""
    tune = plan.get("tune", {})
    asked = [tune.get(key) for key in ("class_prompt", "class_images", "precision")]
    return [plan.get("seed"), plan.get("revision"), plan.get("class_sampling"), *asked]


def _differences(known: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*known, *wanted}):
        there, now = known.get(key), wanted.get(key)
        if isinstance(there, dict) and isinstance(now, dict):
            found += _differences(there, now, f"{prefix}{key}.")
        elif there != now:
            found.append(f"{prefix}{key} = {_short(there)} there, {_short(now)} now")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
