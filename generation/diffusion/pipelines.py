"""Loading a diffusers pipeline: onto which device, in which precision, with how little memory.

Shared by DIAG and In&Out. Nothing here touches the network, and nothing that was asked for is
replaced by something else in silence. Leaves out: finding the folder (`model_folder.py`), words
(`prompts.py`) and what is painted.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import torch
import transformers
from PIL.Image import Image as Picture

from diagline import console
from diagline.config_generate import DiagConfig, InAndOutConfig
from diagline.errors import DiaglineError, GenerationError
from generation.diffusion.model_folder import LEFT_OUT, ModelFolder, Part, locate, survey
from generation.painting import Image

__all__ = [
    "Placement", "generator", "guard", "load", "locate", "place", "run", "seed_of", "survey", "to_bgr", "translated",
    "versions",
]  # fmt: skip

Settings = DiagConfig | InAndOutConfig
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_ROOM = 1.15  # weights and the little that CUDA itself takes
_LIBRARIES = ("diffusers", "transformers")
_SECTIONS = {DiagConfig: "generate.diag", InAndOutConfig: "generate.in_and_out"}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a pipeline computes: device, dtype, its name in configs (fp32, fp16, bf16), the device's name."""

    device: torch.device
    dtype: torch.dtype
    precision: str
    name: str


def place(config: Settings, found: ModelFolder) -> Placement:
    """Resolve `device` and `precision`.

    Under `accelerate launch` each process takes the GPU that Accelerate gives it. Precision auto
    is fp32 on a processor; on a GPU fp16 for U-Nets, as their checkpoints are published, and bf16
    for transformers, which overflow in fp16.

    Raises:
        GenerationError: a GPU, or bf16 on it, was asked for and is not there.
    """
    section = _SECTIONS[type(config)]
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise GenerationError(
            f"{section}.device = 'cuda': PyTorch {torch.__version__} sees no CUDA GPU, only the processor; "
            f"expected a GPU; set {section}.device = 'cpu', or install PyTorch for CUDA"
        )
    if config.device == "cpu" or not there:
        device, name = torch.device("cpu"), "cpu"
        if config.memory == "offload":
            raise GenerationError(
                f"{section}.memory = 'offload': computing on the processor; expected a GPU to move parts off; "
                f"set {section}.memory = 'low'"
            )
    else:
        device = torch.device("cuda", 0)
        if "LOCAL_RANK" in os.environ:
            from accelerate import PartialState

            device = PartialState().device
        name = torch.cuda.get_device_name(device)
    precision = config.precision
    if precision == "auto":
        precision = "fp32"
        if device.type == "cuda":
            transformer = any(part.name == "transformer" for part in found.parts)
            precision = "bf16" if transformer else "fp16"
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise GenerationError(
            f"{section}.precision = {config.precision!r}: {name} has no bf16; expected a GPU from Ampere on; "
            f"set {section}.precision = 'fp32'"
        )
    return Placement(device, DTYPES[precision], precision, name)


def load(found: ModelFolder, kind: type[Any], placement: Placement, config: Settings) -> Any:
    """Load a pipeline from its folder and put it where it computes.

    The safety checker is left out: it knows nothing of surfaces, and blackens what it dislikes.

    Args:
        kind: the diffusers class, which may be another than the folder's own.

    Raises:
        GenerationError: a part that does not load or lacks weights, or too little GPU memory.
    """
    for library in (diffusers, transformers):
        logging: Any = library.utils.logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    _check_memory(found, placement, config)
    takes = kind._get_signature_keys(kind)  # required and optional names
    wanted = {*takes[0], *takes[1]}
    given: dict[str, Any] = {name: None for name in LEFT_OUT if name in wanted}
    if "add_watermarker" in wanted:
        given["add_watermarker"] = False  # it would change pixels everywhere
    with guard(config):
        parts = [part for part in found.models if part.name in wanted and part.name not in given]
        for part in console.track(parts, "Loading the model"):
            if part.library in _LIBRARIES:
                given[part.name] = _load_part(found, part, placement)
        try:
            pipeline = kind.from_pretrained(
                found.root, dtype=placement.dtype, local_files_only=True, use_safetensors=True, **given
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise GenerationError(
                f"{found.root}: does not load as {kind.__name__} ({_first_line(error)}); "
                f"expected its parts; {found.again}"
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        _save_memory(pipeline, placement, config)
    return pipeline


def run(pipeline: Any, config: Settings, placement: Placement, **call: Any) -> list[Picture]:
    """Call a pipeline for its pictures (Pillow, RGB).

    Raises:
        GenerationError: too little memory, a model that its class refuses, or NaN, which diffusers
            would turn to black in silence.
    """
    with guard(config), np.errstate(invalid="raise"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers warns of its own calls
        try:
            return list(pipeline(**call).images)
        except FloatingPointError as error:
            raise GenerationError(
                f"{config.model}: painted NaN in {placement.precision}; expected colours; "
                f"set {_SECTIONS[type(config)]}.precision = 'bf16', or 'fp32'"
            ) from error
        except ValueError as error:  # our arguments are checked; what is left is a model that does not suit its class
            raise GenerationError(
                f"{config.model}: {type(pipeline).__name__} refuses it ({_first_line(error)}); "
                f"expected a model made for this pipeline; choose another with --model PATH"
            ) from error


@contextmanager
def translated(explain: Callable[[BaseException], DiaglineError]) -> Iterator[None]:
    """Turn running out of memory, on a GPU or the processor, into what `explain` makes of it."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise explain(error) from error
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # the processor's allocator has no error of its own
            raise
        raise explain(error) from error


def guard(config: Settings) -> AbstractContextManager[None]:
    """Turn running out of memory into the setting that fits next."""
    return translated(lambda error: out_of_memory(error, config))


def out_of_memory(error: BaseException, config: Settings) -> GenerationError:
    """One line that names the next setting to try: batch size, memory, then the working size."""
    section = _SECTIONS[type(config)]
    gpu = isinstance(error, torch.OutOfMemoryError)
    if config.batch_size > 1:
        step = f"{section}.batch_size = 1"
    elif config.memory == "full":
        step = f"{section}.memory = 'low'"
    elif config.memory == "low" and gpu:
        step = f"{section}.memory = 'offload'"
    else:
        step = f"{section}.size_px = {max(config.size_px // 2 // 64 * 64, 64)}"
    return GenerationError(
        f"out of {'GPU ' if gpu else ''}memory with batch_size = {config.batch_size}, memory = {config.memory!r}, "
        f"size_px = {config.size_px} ({_first_line(error)}); expected them to fit; set {step}"
    )


def to_bgr(picture: Picture) -> Image:
    """A pipeline's picture as `(h, w, 3)` uint8 BGR."""
    return cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)


def versions() -> dict[str, str]:
    """The libraries a picture depends on, for its record."""
    return {
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def seed_of(stream: Sequence[int]) -> int:
    """A 64-bit seed from a job's stream."""
    return int(np.random.SeedSequence(list(stream)).generate_state(1, np.uint64)[0])


def generator(stream: Sequence[int]) -> torch.Generator:
    """A job's own noise, drawn on the processor: the same on every device and in every batch."""
    return torch.Generator("cpu").manual_seed(seed_of(stream))


def _check_memory(found: ModelFolder, placement: Placement, config: Settings) -> None:
    if placement.device.type != "cuda":
        return
    half = placement.precision != "fp32"
    sizes = [part.chosen(half).values * placement.dtype.itemsize for part in found.models]
    need = int((max(sizes, default=0) if config.memory == "offload" else sum(sizes)) * _ROOM)
    free, _ = torch.cuda.mem_get_info(placement.device)
    if need > free:
        section = _SECTIONS[type(config)]
        step = (
            f"set {section}.memory = 'offload'" if config.memory != "offload" else "use a larger GPU or free this one"
        )
        raise GenerationError(
            f"{found.root}: {placement.name} has {free / 1e9:.1f} GB free; expected {need / 1e9:.1f} GB "
            f"for the weights in {placement.precision}; {step}"
        )


def _load_part(found: ModelFolder, part: Part, placement: Placement) -> Any:
    weights = part.chosen(placement.precision != "fp32")
    folder: Path = found.root / part.name
    try:
        kind = getattr(importlib.import_module(part.library), part.kind)
        model, info = kind.from_pretrained(
            folder,
            variant=weights.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=placement.dtype,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # libraries raise what they like: OSError, KeyError, SafetensorError, ...
        raise GenerationError(
            f"{found.root}: {part.name}: does not load as {part.kind} ({_first_line(error)}); "
            f"expected what its config.json describes; {found.again}"
        ) from error
    wrong = sorted(str(name) for key in ("missing_keys", "mismatched_keys") for name in info.get(key, ()))
    if wrong:  # the libraries would go on with random values there
        raise GenerationError(
            f"{found.root}: {part.name}: {len(wrong)} tensors are missing or of another shape (first {wrong[0]}); "
            f"expected all of {part.kind}'s; {found.again}"
        )
    return model


def _save_memory(pipeline: Any, placement: Placement, config: Settings) -> None:
    """`memory`, and the layout in which a GPU's convolutions are quickest."""
    if config.memory != "full":
        pipeline.enable_attention_slicing()
        for step in ("enable_slicing", "enable_tiling"):
            if hasattr(getattr(pipeline, "vae", None), step):
                getattr(pipeline.vae, step)()
    if config.memory == "offload":
        pipeline.enable_model_cpu_offload(device=placement.device)
    else:
        pipeline.to(placement.device)
    if placement.device.type == "cuda" and getattr(pipeline, "unet", None) is not None:
        pipeline.unet.to(memory_format=torch.channels_last)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200].rstrip(".:") if text else type(error).__name__
