"""Stable Diffusion as In&Out samples it: words in, square pictures out, by DDIM.

Used for defect pictures (`sample.py`) and for the class pictures of prior preservation (`prior.py`).
Leaves out: which words, the mixture, and the picture's final size.

Source: In&Out samples 512x512 by DDIM in 50 steps with guidance 7.5.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, StableDiffusionPipeline

from diagline.config_generate import InAndOutConfig
from diagline.errors import GenerationError
from generation.diffusion import pipelines, prompts
from generation.diffusion.model_folder import ModelFolder
from generation.in_and_out import adapters
from generation.painting import Image

SECTION = "generate.in_and_out"


class Sampler:
    """A loaded text-to-image model; loading takes seconds to a minute.

    Args:
        config: model, size, steps and guidance.
        lora: folder of adapters, as `adapters.find` takes it.

    Attributes:
        revision: of the model.
        placement: where it computes.
        words: checks and encodes prompts, each once.

    Raises:
        GenerationError: the model or its adapters are missing, broken or of another kind, or do
            not fit the memory.
    """

    def __init__(self, config: InAndOutConfig, lora: Path | None = None) -> None:
        folder, self.revision = pipelines.locate(config.model, f"{SECTION}.model")
        found = pipelines.survey(folder)
        check_kind(found)
        weights = None if lora is None else adapters.find(lora, self.revision)
        self._config = config
        self.placement = pipelines.place(config, found)
        self._pipeline = pipelines.load(found, StableDiffusionPipeline, self.placement, config)
        cell_px = math.lcm(int(self._pipeline.vae_scale_factor), 8)  # the pipeline refuses others than 8
        if config.size_px % cell_px:
            nearest = max(round(config.size_px / cell_px), 1) * cell_px
            raise GenerationError(
                f"{SECTION}.size_px = {config.size_px}: this model works in steps of {cell_px} px; "
                f"expected a multiple; set {SECTION}.size_px = {nearest}"
            )
        # Latents are not bound to -1..1; a checkpoint made for another scheduler need not say so.
        scheduler: Any = DDIMScheduler
        self._pipeline.scheduler = scheduler.from_config(self._pipeline.scheduler.config, clip_sample=False)
        if weights is not None:
            with pipelines.guard(config):
                adapters.merge(self._pipeline, weights)
        self.words = self._read(config)

    def paint(self, words: Sequence[tuple[str, str]], streams: Sequence[Sequence[int]]) -> list[Image]:
        """One pipeline call.

        Args:
            words: prompt and negative prompt of each picture.
            streams: seeds of each picture's noise.

        Returns:
            A `(size_px, size_px, 3)` uint8 BGR picture each.

        Raises:
            GenerationError: words that are not read to their end, too little memory, or NaN.
        """
        config = self._config
        call = prompts.collate([self.words.encode(*each) for each in words]) | self.words.settings
        made = pipelines.run(
            self._pipeline,
            config,
            self.placement,
            **call,
            height=config.size_px,
            width=config.size_px,
            num_inference_steps=config.steps,
            generator=[pipelines.generator(stream) for stream in streams],
        )
        return [pipelines.to_bgr(picture) for picture in made]

    def adjusted(self, config: InAndOutConfig) -> Sampler:
        """The same loaded model with other steps and guidance; the rest of `config` as it is."""
        other = copy.copy(self)
        other._config = config
        other.words = other._read(config)
        return other

    def _read(self, config: InAndOutConfig) -> prompts.Words:
        park = config.memory == "low" and self.placement.device.type != "cpu"
        return prompts.Words(self._pipeline, config.guidance, SECTION, park)


def check_kind(found: ModelFolder) -> None:
    """Refuse a model that is not Stable Diffusion 1.x or 2.x for text-to-image.

    Raises:
        GenerationError: names its pipeline.
    """
    if found.pipeline != StableDiffusionPipeline.__name__:
        raise GenerationError(
            f"{found.root}: its pipeline is {found.pipeline}; expected {StableDiffusionPipeline.__name__}, as "
            f"Stable Diffusion 1.5 has it; choose another with --model PATH"
        )
