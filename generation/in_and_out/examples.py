"""What is learnt from: pictures scaled into their buckets and encoded once, and the words they go with.

The VAE and the text encoder are frozen, so what they give is kept: of a picture the distribution of
its latents, from which every view draws anew. Leaves out: which pictures share a batch (`buckets.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from diagline import console, samples
from diagline.config_generate import TuneConfig
from diagline.errors import GenerationError
from generation import crops
from generation.diffusion import prompts
from generation.in_and_out import buckets
from generation.painting import Image


@dataclass(frozen=True, slots=True)
class Example:
    """A picture, encoded.

    Attributes:
        name: its path, for errors.
        is_class: a class picture, else a real defect.
        bucket: width and height it was scaled to, px.
        mean, std: `(4, h / 8, w / 8)` float32 on the processor: the VAE's distribution of its latents.
    """

    name: str
    is_class: bool
    bucket: buckets.Size
    mean: torch.Tensor
    std: torch.Tensor


def read(
    pipeline: Any, size_px: int, real: Sequence[Path], prior: Sequence[Path], device: torch.device
) -> list[Example]:
    """Read and encode the pictures, the real ones first.

    Args:
        pipeline: whose VAE encodes, on `device`.
        size_px: the buckets' size.

    Raises:
        DatasetError: a picture that cannot be read.
    """
    step = buckets.step_of(size_px, cell_of(pipeline))
    found = []
    for place, path in enumerate(console.track([*real, *prior], "Encoding pictures")):
        image = samples.read_image(path)
        size = buckets.bucket_of(image.shape[1], image.shape[0], size_px, step)
        pixels = _to_pixels(crops.resize(image, *size)).to(device, pipeline.vae.dtype)
        with torch.no_grad():
            latents = pipeline.vae.encode(pixels).latent_dist
        mean, std = (value[0].float().cpu() for value in (latents.mean, latents.std))
        found.append(Example(str(path), place >= len(real), size, mean, std))
    return found


def encode_words(pipeline: Any, config: TuneConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt's and the class prompt's embeddings, each `(1, tokens, width)`; raises as `check_words`."""
    words = prompts.Words(pipeline, 1.0, "generate.tune")
    check_words(words, config)
    made, of_class = (words.encode(each, "")["prompt_embeds"] for each in (config.prompt, config.class_prompt))
    return made, of_class


def check_words(words: prompts.Words, config: TuneConfig) -> None:
    """Refuse prompts that the model would not read to their end.

    Raises:
        GenerationError: names the key and what would be cut.
    """
    for key in ("prompt", "class_prompt"):
        try:
            words.check(getattr(config, key), "")
        except GenerationError as error:
            raise GenerationError(f"generate.tune.{key}: {error}") from error


def cell_of(pipeline: Any) -> int:
    """Pixels that a picture's sides must be a multiple of: a latent's, and the U-Net's halvings of them where few."""
    return math.lcm(int(pipeline.vae_scale_factor), 8)


def _to_pixels(image_bgr: Image) -> torch.Tensor:
    """`(1, 3, h, w)` float32 RGB, -1 to 1."""
    rgb = np.ascontiguousarray(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB).transpose(2, 0, 1))
    return torch.from_numpy(rgb)[None].float() / 127.5 - 1.0
