"""LoRA adapters of the U-Net: which layers get which rank, and their file in diffusers' format.

Linear layers, and 1x1 convolutions, which are linear layers at every pixel, get `rank`; larger
convolutions get `conv_rank`; all of them in the down, middle and up blocks. Embeddings, the first
and the last convolution and the text encoder stay as they are. Leaves out: training (`tune.py`).

Source: LoRA (arXiv 2106.09685); ranks and alphas are In&Out's.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from diagline import console, files
from diagline.config_generate import TuneConfig
from diagline.errors import GenerationError
from generation.diffusion.pipelines import seed_of

WEIGHTS = "pytorch_lora_weights.safetensors"
LORA, RESULT, PLAN = "lora", "tune.json", "plan.json"
_SEED = 4  # of a run's random streams, the one the adapters' first values come from
_BLOCKS = ("down_blocks", "mid_block", "up_blocks")
_DOWN = ("lora_A.weight", "lora.down.weight", "lora_down.weight")  # the first of a layer's two matrices, by any name


def layers(unet: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the linear layers and of the convolutions that get adapters."""
    linear, convolutions = [], []
    for name, module in unet.named_modules():
        if name.partition(".")[0] not in _BLOCKS:
            continue
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            linear.append(name)
        elif isinstance(module, nn.Conv2d):
            convolutions.append(name)
    return linear, convolutions


def add(unet: Any, config: TuneConfig, seed: int) -> list[nn.Parameter]:
    """Freeze the U-Net and add adapters that change nothing yet; returns their fp32 parameters."""
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    linear, convolutions = layers(unet)
    exact = ["^" + re.escape(name) for name in convolutions]
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of((seed, _SEED)))
        unet.add_adapter(
            LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                target_modules=[*linear, *convolutions],
                rank_pattern=dict.fromkeys(exact, config.conv_rank),
                alpha_pattern=dict.fromkeys(exact, config.conv_alpha),
            )
        )
    cast_training_params(unet, dtype=torch.float32)
    return [weight for weight in unet.parameters() if weight.requires_grad]


def state(unet: Any) -> dict[str, torch.Tensor]:
    """The adapters' weights by peft's names, on the processor."""
    from peft import get_peft_model_state_dict

    return {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(unet).items()}


def restore(unet: Any, weights: dict[str, torch.Tensor]) -> None:
    """Put back what `state` gave."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(unet, weights)


def save(unet: Any, folder: Path) -> Path:
    """Write the weights file, in one step with its folder; ranks and alphas go along as its metadata.

    Raises:
        OutputError: the folder cannot be written to.
    """
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata

    with files.folder_aside(folder) as aside:
        StableDiffusionPipeline.save_lora_weights(
            aside, unet_lora_layers=state(unet), weight_name=WEIGHTS, **_collate_lora_metadata({"unet": unet})
        )
    return folder / WEIGHTS


def find(folder: Path, revision: str | None = None) -> Path:
    """The weights file of a folder: its own, or that of the run of `diagline tune` in it.

    Args:
        revision: of the model they go on; adapters that were tuned on another are refused.

    Raises:
        GenerationError: no such file, an unfinished run, or another model.
    """
    path = next((path for path in (folder / WEIGHTS, folder / LORA / WEIGHTS) if path.is_file()), None)
    if path is None:
        if (folder / PLAN).is_file():
            what = f"holds an unfinished run; finish it with: {console.command()} tune CONFIG"
        else:
            what = f"no {WEIGHTS} there; make it with: {console.command()} tune CONFIG"
        raise GenerationError(f"{folder}: {what}; or set generate.in_and_out.lora = 'none', or name another folder")
    record = path.parent.parent / RESULT
    if revision is not None and path.parent.name == LORA and record.is_file():
        try:
            tuned = json.loads(record.read_bytes())["plan"]["revision"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GenerationError(
                f"{record}: cannot be read ({error}); expected the record of the tuning; restore the file"
            ) from error
        if tuned != revision:
            raise GenerationError(
                f"{path}: tuned on model revision {tuned}, this model is {revision}; expected the same; "
                f"name that model with --model PATH, or tune again in another output"
            )
    return path


def facts(folder: Path) -> dict[str, str]:
    """Folder and SHA-256 of its weights file, for a record; raises as `find`."""
    return {"folder": str(folder), "sha256": files.sha256_file(find(folder))}


def merge(pipeline: Any, weights: Path) -> None:
    """Add a file's adapters into a pipeline's own weights: sampling then costs what it costs without them.

    Raises:
        GenerationError: the file cannot be read, does not fit the model, or is applied in part only.
    """
    from peft.tuners.lora import LoraLayer

    advice = f"expected adapters of this model; tune again with: {console.command()} tune CONFIG"
    try:
        with safe_open(weights, "pt") as file:
            held = sum(str(name).endswith(_DOWN) for name in file.keys())  # noqa: SIM118 (no dict)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # peft's, of layers it skips: they are counted below
            pipeline.load_lora_weights(weights.parent, weight_name=weights.name, local_files_only=True)
        models = [each for each in (pipeline.unet, pipeline.text_encoder) if each is not None]
        used = sum(isinstance(module, LoraLayer) for model in models for module in model.modules())
        if not held or used != held:
            raise GenerationError(f"{weights}: {held} adapters, of which the model takes {used}; {advice}")
        pipeline.fuse_lora(safe_fusing=True)
        pipeline.unload_lora_weights()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        if "allocate memory" in str(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise GenerationError(f"{weights}: does not load as adapters ({reason}); {advice}") from error
