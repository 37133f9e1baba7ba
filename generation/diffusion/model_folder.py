"""Finding a diffusers model on this machine, and checking that it is whole before anything loads it.

A model is a folder in diffusers' format or a hub id in the local Hugging Face cache. Nothing here
touches the network or loads a weight: of a weights file only the header is read. Leaves out:
loading (`pipelines.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagline.errors import GenerationError

_KNOWN = {  # hub id: size on disk, licence, the files to fetch
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": (
        "about 7 GB in fp16", "CreativeML OpenRAIL++-M", ' --include "*.json" "*.txt" "*.fp16.safetensors"',
    ),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        "about 3 GB in fp16", "CreativeML OpenRAIL-M", ' --include "*.json" "*.txt" "*.fp16.safetensors"',
    ),
    "black-forest-labs/FLUX.2-klein-4B": ("about 16 GB in bf16", "Apache-2.0", ""),
}  # fmt: skip
LEFT_OUT = ("safety_checker", "feature_extractor")  # parts no method here uses; they need not be there
_HALF = "fp16"  # the variant files that hubs publish
_STEMS = ("diffusion_pytorch_model", "model")  # diffusers' and transformers' weights
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of one part in one variant, and the number of values in them."""

    variant: str | None
    files: tuple[Path, ...]
    values: int


@dataclass(frozen=True, slots=True)
class Part:
    """One entry of `model_index.json`; `weights` is empty for tokenizers, schedulers and processors."""

    name: str
    library: str
    kind: str
    weights: tuple[Weights, ...]

    def chosen(self, half: bool) -> Weights:
        """The fp16 files where half precision is wanted and they are there, else the full ones, else what there is."""
        wanted = _HALF if half else None
        return next((each for each in self.weights if each.variant == wanted), self.weights[0])


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A whole model folder.

    Attributes:
        root: the folder.
        pipeline: diffusers' class, as `model_index.json` names it.
        parts: in the file's order.
        again: how to get the folder anew, for error messages.
    """

    root: Path
    pipeline: str
    parts: tuple[Part, ...]
    again: str

    @property
    def models(self) -> tuple[Part, ...]:
        """The parts that have weights."""
        return tuple(part for part in self.parts if part.weights)


def locate(model: str, key: str) -> tuple[Path, str]:
    """The folder of a model and its revision: the snapshot's commit or, for a local folder, `revision_of`.

    Args, Raises: as `find`.
    """
    folder = find(model, key)
    return folder, revision_of(folder) if Path(os.path.expanduser(model)).is_dir() else folder.name


def find(model: str, key: str) -> Path:
    """The folder of a model, whole, from this machine alone; quick, whatever its size.

    Args:
        model: a folder with `model_index.json`, or a hub id that was downloaded.
        key: the config key that named it, for the error.

    Raises:
        GenerationError: not here (with size, licence and the command that brings it), or not whole.
    """
    folder = Path(os.path.expanduser(model))
    if folder.is_dir():
        survey(folder)
        return folder
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise GenerationError(
            f"{key} = {model!r}: no such folder; expected one with model_index.json, or a hub id; "
            f"correct it with --model PATH or {key}"
        )
    snapshot = _snapshot(model)
    if snapshot is None:
        about = "its size and licence stand on its hub page"
        if model in _KNOWN:
            about = f"{_KNOWN[model][0]}, licence {_KNOWN[model][1]}"
        raise GenerationError(
            f"{key} = {model!r}: not on this machine; expected its files ({about}); "
            f"get them with: {_download(model)}; or name a folder with --model PATH or {key}"
        )
    survey(snapshot)
    return snapshot


def survey(folder: Path) -> ModelFolder:
    """Read `model_index.json` and check that every part it names is there and whole.

    Raises:
        GenerationError: names the folder, the part, what was expected and the next step.
    """
    again = _again(folder)
    index = _json(folder, "model_index.json", again)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        raise _broken(folder, "model_index.json", "names no pipeline (_class_name)", "a diffusers pipeline", again)
    parts = []
    for name, value in index.items():
        if name.startswith("_") or name in LEFT_OUT or not isinstance(value, list) or value[1:] in ([], [None]):
            continue
        parts.append(_part(folder, name, str(value[0]), str(value[1]), again))
    return ModelFolder(folder, pipeline, tuple(parts), again)


def revision_of(folder: Path) -> str:
    """A quick fingerprint of a local folder: `sampled-sha256:` and 64 hex digits.

    It covers the name and size of every file, small files whole, and of files above 192 KiB three
    windows of 64 KiB: start (a weights file's header), middle and end.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue  # download caches and the like
        size = path.stat().st_size
        digest.update(f"{name.as_posix()}\0{size}\0".encode())
        with path.open("rb") as stream:
            if size <= 3 * _SAMPLE_BYTES:
                digest.update(stream.read())
                continue
            for start in (0, size // 2, size - _SAMPLE_BYTES):
                stream.seek(start)
                digest.update(stream.read(_SAMPLE_BYTES))
    return f"sampled-sha256:{digest.hexdigest()}"


def _snapshot(model: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _again(folder: Path) -> str:
    owner = folder.parent.parent.name  # the cache keeps models--OWNER--NAME/snapshots/COMMIT
    if folder.parent.name == "snapshots" and owner.startswith("models--"):
        return f"get it again with: {_download(owner.removeprefix('models--').replace('--', '/'))}"
    return "copy the folder again, or name another with --model PATH"


def _download(model: str) -> str:
    return f"hf download {model}{_KNOWN.get(model, ('', '', ''))[2]}"


def _part(folder: Path, name: str, library: str, kind: str, again: str) -> Part:
    if kind.endswith("Scheduler"):
        _json(folder, f"{name}/scheduler_config.json", again)
        return Part(name, library, kind, ())
    if "Tokenizer" in kind:
        if not any((folder / name / file).is_file() for file in _VOCABULARIES):
            raise _broken(folder, name, "no vocabulary", f"one of {', '.join(_VOCABULARIES)}", again)
        return Part(name, library, kind, ())
    if kind.endswith(("Processor", "FeatureExtractor")):
        if not (folder / name).is_dir():
            raise _broken(folder, name, "not found", f"the {kind} that model_index.json names", again)
        return Part(name, library, kind, ())
    _json(folder, f"{name}/config.json", again)
    found = tuple(each for variant in (None, _HALF) if (each := _weights(folder, name, variant, again)))
    if not found:
        raise _broken(folder, name, "no weights", f"{_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors", again)
    return Part(name, library, kind, found)


def _weights(folder: Path, name: str, variant: str | None, again: str) -> Weights | None:
    dot = f".{variant}" if variant else ""
    for stem in _STEMS:
        index = folder / name / f"{stem}.safetensors.index{dot}.json"
        if index.is_file():
            mapped = _json(folder, f"{name}/{index.name}", again).get("weight_map", {})
            files = tuple(folder / name / file for file in sorted(set(mapped.values())))
        else:
            files = (folder / name / f"{stem}{dot}.safetensors",)
            if not files[0].is_file():
                continue
        return Weights(variant, files, sum(_values(folder, path, again) for path in files))
    return None


def _values(folder: Path, path: Path, again: str) -> int:
    """Number of values in a safetensors file, which must be as long as its header says.

    Format: 8 bytes little-endian header length, JSON header, then the data; `data_offsets` count
    from the data's start.
    """
    part = path.relative_to(folder).as_posix()
    if not path.is_file():
        raise _broken(folder, part, "not found", "the shard that its index names", again)
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError(f"header of {length} bytes in a file of {size}")
            header: dict[str, Any] = json.loads(stream.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        end = max((entry["data_offsets"][1] for entry in tensors), default=0)
        values = int(sum(math.prod(entry["shape"]) for entry in tensors))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(folder, part, f"not a safetensors file ({error})", "whole weights", again) from error
    if size != 8 + length + end:
        raise _broken(folder, part, f"{size} bytes", f"{8 + length + end} bytes, as its header says", again)
    return values


def _json(folder: Path, name: str, again: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _broken(folder, name, "not found", "a model in diffusers' format", again) from error
    except (OSError, ValueError) as error:
        raise _broken(folder, name, f"cannot be read ({error})", "JSON", again) from error
    if not isinstance(value, dict):
        raise _broken(folder, name, f"holds a {type(value).__name__}", "a JSON object", again)
    return value


def _broken(folder: Path, part: str, what: str, expected: str, again: str) -> GenerationError:
    return GenerationError(f"{folder}: {part}: {what}; expected {expected}; {again}")
