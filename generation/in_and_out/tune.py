"""DreamBooth-LoRA: Stable Diffusion learns a line's defects from its real ones (`diagline tune`).

The run, top to bottom: plan, class pictures, encoding, epochs, adapters. A run that is killed goes
on after its last whole epoch and, on a processor, ends with the same weights bit for bit. Runs
under `accelerate launch` too: a batch is spread over the processes, so their number changes only
the rounding. Leaves out: the epochs (`loop.py`), the files of a run (`progress.py`).

Source: In&Out's recipe; DreamBooth (arXiv 2208.12242); LoRA (arXiv 2106.09685). README.md says
which values are published.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import accelerate
import peft
import torch
from accelerate import Accelerator

from diagline import console, files
from diagline.config_generate import GenerateConfig, InAndOutConfig
from diagline.errors import DatasetError, TrainingError
from diagline.samples import DEFECT, SampleSet
from generation.diffusion import pipelines
from generation.diffusion.model_folder import ModelFolder
from generation.in_and_out import adapters, prior, progress
from generation.in_and_out.loop import Run
from generation.in_and_out.sampler import SECTION, check_kind

_MIXED = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}


def tune(settings: GenerateConfig, positives: SampleSet, seed: int, target: Path) -> Path:
    """Fine-tune the model of `settings.in_and_out` on real defects, as `settings.tune` says.

    Args:
        settings: of `in_and_out` the model, its device and memory (other than "full" saves memory
            by computing activations twice), and how class pictures are sampled.
        positives: pictures with defects.
        seed: of the adapters' first values, the order and every noise.
        target: the run's folder, as `progress.py` draws it; a finished run returns at once.

    Returns:
        The folder with `pytorch_lora_weights.safetensors`, for `in_and_out.lora`.

    Raises:
        DatasetError: no positives, or a picture that cannot be read.
        GenerationError: the model is missing or broken, too little memory for it, or a prompt that is too long.
        TrainingError: a setting that cannot be trained with, another run in the folder, a loss that
            is no finite number, too little memory to train.
        OutputError: the folder cannot be written to.
    """
    chosen = positives.labelled(DEFECT)
    if not len(chosen):
        raise DatasetError(
            f"{positives.root}: no real defects to learn from; expected at least one in the train split; "
            f"add some, or generate with generate.in_and_out.lora = 'none', which needs none"
        )
    sampling = replace(settings.in_and_out, precision=settings.tune.precision)
    folder, revision = pipelines.locate(sampling.model, f"{SECTION}.model")
    found = pipelines.survey(folder)
    check_kind(found)
    placement = _place(sampling, found)
    accelerator = Accelerator(mixed_precision=_MIXED[placement.precision], cpu=placement.device.type == "cpu")
    plan = _plan(settings, seed, revision, placement.precision, chosen.hash())
    progress.open_run(target, plan, accelerator.is_main_process)
    ended = progress.finished(target)
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked
    if ended:
        console.console.print(
            f"{target}: already tuned with these settings and pictures; remove it to tune again", soft_wrap=True
        )
        return target / adapters.LORA
    started = time.monotonic()
    prior.paint_missing(settings.tune, sampling, seed, target, accelerator.process_index, accelerator.num_processes)
    accelerator.wait_for_everyone()
    run = Run.prepare(settings, seed, target, accelerator, placement, found, chosen)
    history = run.epochs()
    if accelerator.is_main_process:
        weights = adapters.save(run.unet, target / adapters.LORA)
        result = {
            "format": progress.FORMAT,
            "plan": plan,
            "model": sampling.model,
            "positives": [sample.image for sample in chosen],
            "class_pictures_sha256": [
                files.sha256_file(path) for path in prior.paths(target, settings.tune.class_images)
            ],
            "buckets": sorted({example.bucket for example in run.examples}),
            "steps": run.total,
            "processes": accelerator.num_processes,
            "device": placement.name,
            "versions": pipelines.versions() | {"peft": peft.__version__, "accelerate": accelerate.__version__},
            "history": history,
            "seconds": round(time.monotonic() - started, 1),  # of this call; the epochs carry their own
            "lora_sha256": files.sha256_file(weights),
        }
        progress.finish(target, result)
    accelerator.wait_for_everyone()
    return target / adapters.LORA


def _plan(settings: GenerateConfig, seed: int, revision: str, precision: str, positives_sha256: str) -> dict[str, Any]:
    """Everything that decides the weights, but for the machine and its libraries."""
    sampling = settings.in_and_out
    plan: dict[str, Any] = {
        "seed": seed,
        "revision": revision,
        "positives_sha256": positives_sha256,
        "tune": asdict(settings.tune) | {"precision": precision},
    }
    if settings.tune.class_images:
        plan["class_sampling"] = {
            "steps": sampling.steps, "guidance": sampling.guidance, "size_px": sampling.size_px,
        }  # fmt: skip
    return plan


def _place(sampling: InAndOutConfig, found: ModelFolder) -> pipelines.Placement:
    """Device and precision, with the words of the section that asked for it."""
    there = sampling.device != "cpu" and torch.cuda.is_available()
    if sampling.precision == "bf16" and there and not torch.cuda.is_bf16_supported():
        raise TrainingError(
            f"generate.tune.precision = 'bf16': {torch.cuda.get_device_name()} has no bf16; expected a GPU from "
            f"Ampere on; set generate.tune.precision = 'fp16'"
        )
    placement = pipelines.place(replace(sampling, memory="full"), found)
    if placement.precision == "fp16" and placement.device.type == "cpu":
        raise TrainingError(
            "generate.tune.precision = 'fp16': the processor trains in fp32 or bf16 only; expected one of these, "
            "or a GPU; set generate.tune.precision = 'auto'"
        )
    return placement
