"""The In&Out painter: a picture is either "in" (Stable Diffusion paints it whole) or "out" (MemSeg superimposes it).

"In" pictures show what the words say; the normal lends them only its size, and its greyness: they
are sampled square, as published, and stretched to it. They have no mask. "Out" pictures are
MemSeg's, mask included. Leaves out: the model (`sampler.py`), its fine-tuning (`tune.py`).

Source: In&Out. The ratio of the mixture is not published.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from diagline.config_generate import InAndOutConfig
from diagline.errors import require
from generation import crops
from generation.diffusion import pipelines
from generation.in_and_out import adapters
from generation.in_and_out.sampler import Sampler
from generation.memseg import MemSegPainter, MemSegSettings
from generation.painting import Job, Painted, as_grey_as

_PART = 3  # of a picture's random streams, the one its part is drawn from; MemSeg and the plan use 0 to 2


class InAndOutPainter:
    """`painting.Painter` on Stable Diffusion text-to-image and MemSeg.

    The model loads at construction, which takes seconds to a minute, even where `in_share` is 0.

    Args:
        config: settings of the sampling and of the mixture.
        lora: folder of adapters: what `diagline tune` made, or one with its weights file; None: the plain model.
        out: how MemSeg paints the "out" pictures.

    Raises:
        GenerationError: the model or its adapters are missing, broken, or do not fit the memory.
        MissingExtraError: adapters are asked for and peft is not installed.
    """

    name = "in_and_out"
    keeps_outside = False

    def __init__(self, config: InAndOutConfig, lora: Path | None = None, out: MemSegSettings | None = None) -> None:
        if lora is not None:
            require("peft", "workstation")
        self._config = config
        self._lora = None if lora is None else adapters.facts(lora)
        self._sampler = Sampler(config, lora)
        self._out = MemSegPainter(out or MemSegSettings())
        self.batch_size = config.batch_size

    def paint(self, jobs: Sequence[Job]) -> list[Painted]:
        """Paint a batch; `paint(jobs)[i]` is of `jobs[i]`.

        `facts["part"]` is "in" or "out", drawn from the job's stream alone. Of an "in" picture
        `facts["batch"]` says how many shared its call and its place among them: a call of the same
        size with the same job in the same place paints the same bits again, whatever the others
        are (of another size they differ by rounding).

        Raises:
            DatasetError: an "out" job that cannot be painted on.
            GenerationError: words that the model does not read to their end, too little memory, or NaN.
        """
        parts = [self._part(job) for job in jobs]
        within = [place for place, part in enumerate(parts) if part == "in"]
        for place in within:
            self.check_words(jobs[place].prompt, jobs[place].negative_prompt)
        painted: dict[int, Painted] = {}
        for start in range(0, len(within), self.batch_size):
            call = within[start : start + self.batch_size]
            painted.update(zip(call, self._paint_call([jobs[place] for place in call]), strict=True))
        for place, part in enumerate(parts):
            if part == "out":
                painted[place] = self._superimpose(jobs[place])
        return [painted[place] for place in range(len(jobs))]

    def check_words(self, prompt: str, negative_prompt: str) -> None:
        """Refuse words that the model would not read to their end, before anything is painted.

        Raises:
            GenerationError: says what would be cut.
        """
        self._sampler.words.check(prompt, negative_prompt)

    def adjusted(self, config: InAndOutConfig) -> InAndOutPainter:
        """The same loaded model with other settings.

        Args:
            config: model, lora, precision, memory, device and size_px as they are.
        """
        other = copy.copy(self)
        other._config, other.batch_size = config, config.batch_size
        other._sampler = self._sampler.adjusted(config)
        return other

    def facts(self) -> dict[str, Any]:
        """Plain data that builds this painter again: model, its revision, adapters, settings, versions."""
        versions = pipelines.versions() | {"opencv": cv2.__version__}
        if self._lora is not None:
            versions["peft"] = str(require("peft", "workstation").__version__)
        return {
            "method": self.name,
            "model": self._config.model,
            "revision": self._sampler.revision,
            "lora": self._lora,
            "scheduler": "ddim",
            "settings": asdict(self._config),
            "out_settings": asdict(self._out.settings),
            "precision": self._sampler.placement.precision,
            "device": self._sampler.placement.name,
            "versions": versions,
        }

    def _part(self, job: Job) -> str:
        drawn = np.random.default_rng([*job.stream, _PART]).random()
        return "in" if drawn < self._config.in_share else "out"

    def _paint_call(self, jobs: Sequence[Job]) -> list[Painted]:
        made = self._sampler.paint([(job.prompt, job.negative_prompt) for job in jobs], [job.stream for job in jobs])
        painted = []
        for place, (job, square) in enumerate(zip(jobs, made, strict=True)):
            height_px, width_px = job.normal_bgr.shape[:2]
            image = as_grey_as(crops.resize(square, width_px, height_px), job.normal_bgr)
            batch = {"size": len(jobs), "place": place}
            painted.append(Painted(image, None, {"part": "in", "seed": pipelines.seed_of(job.stream), "batch": batch}))
        return painted

    def _superimpose(self, job: Job) -> Painted:
        (made,) = self._out.paint([job])
        facts = {"part": "out", **made.facts, "batch": {"size": 1, "place": 0}}
        return Painted(made.image_bgr, made.mask, facts)
