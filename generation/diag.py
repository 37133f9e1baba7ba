"""DIAG: a text-conditioned latent diffusion model inpaints the masked region of a good picture.

The one file that knows diffusers' inpainting. Two ways back into the picture: "masked" (corrected)
paints a square around the mask and puts only masked pixels onto the untouched original; "pipeline"
does what the authors' script did, whole-picture resampling included. What a pipeline class takes is
read from its signature; StableDiffusionXLInpaint, StableDiffusionInpaint and Flux2KleinInpaint are
tested. Leaves out: finding and loading models, words, geometry, and plans and files.

Source: "Exploiting Multimodal Latent Diffusion Models for Accurate Anomaly Detection in Industry 5.0".
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import cv2
import diffusers
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures

from diagline.config_generate import DiagConfig
from diagline.errors import DatasetError, GenerationError
from generation import crops
from generation.diffusion import pipelines, prompts
from generation.diffusion.model_folder import ModelFolder
from generation.masks import fit_mask
from generation.painting import Image, Job, Painted, as_grey_as

SECTION = "generate.diag"
_GIVEN = {"prompt", "image", "mask_image", "generator"}  # what every call here passes


class DiagPainter:
    """`painting.Painter` on a diffusers inpainting pipeline.

    The model loads at construction, which takes seconds to a minute.

    Raises:
        GenerationError: the model is missing, broken, cannot inpaint, does not read a setting, or
            does not fit the memory.
    """

    name = "diag"

    def __init__(self, config: DiagConfig) -> None:
        folder, self._revision = pipelines.locate(config.model, f"{SECTION}.model")
        found = pipelines.survey(folder)
        kind = inpainting_class(found)
        self._config = config
        self._takes = prompts.parameters(kind.__call__)
        self._check_settings(kind)
        self._placement = pipelines.place(config, found)
        self._pipeline = pipelines.load(found, kind, self._placement, config)
        self._park = config.memory == "low" and self._placement.device.type != "cpu"
        self._words = prompts.Words(self._pipeline, config.guidance, SECTION, self._park)
        self._cell_px = _cell_px(self._pipeline)
        if config.size_px % self._cell_px:
            nearest = max(round(config.size_px / self._cell_px), 1) * self._cell_px
            raise GenerationError(
                f"{SECTION}.size_px = {config.size_px}: this {kind.__name__} works in steps of {self._cell_px} px; "
                f"expected a multiple; set {SECTION}.size_px = {nearest}"
            )
        self.batch_size = config.batch_size if config.paste == "masked" else 1  # diffusers crops one picture a call
        self.keeps_outside = config.paste == "masked" and not config.resize_width_px

    def paint(self, jobs: Sequence[Job]) -> list[Painted]:
        """Paint a batch; `paint(jobs)[i]` is of `jobs[i]`.

        A picture's `facts["batch"]` says how many shared its call and its place among them: a call
        of the same size with the same job in the same place paints the same bits again, whatever
        the others are (of another size they differ by rounding).

        Raises:
            DatasetError: a mask that is empty or not of the picture's size.
            GenerationError: words that the model does not read, too little memory, or NaN.
            ValueError: a job without a mask.
        """
        masks = [_checked(job) for job in jobs]
        words = [self._words.encode(job.prompt, job.negative_prompt) for job in jobs]
        painted: dict[int, Painted] = {}
        for places in self._calls(words):
            here = [jobs[place] for place in places]
            made = self._paint_call(here, [masks[place] for place in places], [words[place] for place in places])
            painted.update(zip(places, made, strict=True))
        return [painted[place] for place in range(len(jobs))]

    def check_words(self, prompt: str, negative_prompt: str) -> None:
        """Refuse words that the model would not read to their end, before anything is painted.

        Raises:
            GenerationError: says what would be cut.
        """
        self._words.check(prompt, negative_prompt)

    def adjusted(self, config: DiagConfig) -> DiagPainter:
        """The same loaded model with other settings.

        Args:
            config: model, precision, memory, device and size_px as they are.

        Raises:
            GenerationError: a setting that the pipeline does not read.
        """
        other = copy.copy(self)
        other._config = config
        other._check_settings(type(self._pipeline))
        other._words = prompts.Words(self._pipeline, config.guidance, SECTION, self._park)
        return other

    def facts(self) -> dict[str, Any]:
        """Plain data that builds this painter again: model, its revision, settings, versions."""
        return {
            "method": self.name,
            "model": self._config.model,
            "revision": self._revision,
            "pipeline": type(self._pipeline).__name__,
            "settings": asdict(self._config),
            "precision": self._placement.precision,
            "device": self._placement.name,
            "versions": pipelines.versions(),
        }

    def _calls(self, words: Sequence[prompts.Encoded]) -> list[list[int]]:
        """Which jobs share a pipeline call: up to `batch_size`, with words of one shape."""
        alike: dict[Any, list[int]] = {}
        for place, each in enumerate(words):
            alike.setdefault(prompts.form(each), []).append(place)
        return [
            group[start : start + self.batch_size]
            for group in alike.values()
            for start in range(0, len(group), self.batch_size)
        ]

    def _paint_call(
        self, jobs: Sequence[Job], masks: Sequence[Image], words: Sequence[prompts.Encoded]
    ) -> list[Painted]:
        if self._config.paste == "pipeline":
            return [self._paint_whole(job, mask, each) for job, mask, each in zip(jobs, masks, words, strict=True)]
        return self._paint_masked(jobs, masks, words)

    def _paint_masked(
        self, jobs: Sequence[Job], masks: Sequence[Image], words: Sequence[prompts.Encoded]
    ) -> list[Painted]:
        config, size_px = self._config, self._config.size_px
        normals = [job.normal_bgr for job in jobs]
        if config.resize_width_px:
            sides = config.resize_width_px, config.resize_height_px
            normals = [crops.resize(normal, *sides) for normal in normals]
            masks = [fit_mask(mask, config.resize_height_px, config.resize_width_px) for mask in masks]
        squares = [crops.around(mask, config.padding_px) for mask in masks]
        made = self._call(
            jobs,
            words,
            image=[_to_pil(crops.cut(normal, crop, size_px)) for normal, crop in zip(normals, squares, strict=True)],
            mask_image=[
                Pictures.fromarray(crops.cut_mask(mask, crop, size_px, self._cell_px))
                for mask, crop in zip(masks, squares, strict=True)
            ],
        )
        painted = []
        for place, (job, normal, mask, crop) in enumerate(zip(jobs, normals, masks, squares, strict=True)):
            square = as_grey_as(pipelines.to_bgr(made[place]), normal)
            image = crops.paste(normal, square, mask, crop, config.feather_px)
            painted.append(Painted(image, mask, self._drawn(job, len(jobs), place) | {"crop": asdict(crop)}))
        return painted

    def _paint_whole(self, job: Job, mask: Image, words: prompts.Encoded) -> Painted:
        """The authors' script, but for the noise: theirs ran on from picture to picture."""
        config, size_px = self._config, self._config.size_px
        normal = job.normal_bgr
        if config.resize_width_px:
            sides = config.resize_width_px, config.resize_height_px
            normal = cv2.resize(normal, sides).astype(np.uint8, copy=False)
            mask = cv2.resize(mask, sides).astype(np.uint8, copy=False)
        image, mask_image = _to_pil(normal), Pictures.fromarray(mask).convert("RGB")
        square, square_mask = (
            each.resize((size_px, size_px), Pictures.Resampling.BICUBIC) for each in (image, mask_image)
        )
        if np.asarray(square_mask).max() <= 127:
            raise DatasetError(
                f"mask of {int((mask > 0).sum())} px in {mask.shape[1]}x{mask.shape[0]}: vanishes at {size_px} px; "
                f"expected some of it to stay; set {SECTION}.paste = 'masked', or draw it wider"
            )
        # The script also passed original_size and target_size, with the values that are the default.
        made = self._call([job], [words], image=square, mask_image=square_mask, padding_mask_crop=config.padding_px)
        back, back_mask = (each.resize(image.size, Pictures.Resampling.BICUBIC) for each in (made[0], square_mask))
        saved = np.where(np.asarray(back_mask.convert("L")) > 127, np.uint8(255), np.uint8(0))
        return Painted(pipelines.to_bgr(back), saved, self._drawn(job, 1, 0))

    def _call(self, jobs: Sequence[Job], words: Sequence[prompts.Encoded], **more: Any) -> list[Pictures.Image]:
        config = self._config
        settings = self._words.settings | {
            name: value
            for name, value in (
                ("num_inference_steps", config.steps),
                ("strength", config.strength),
                ("height", config.size_px),
                ("width", config.size_px),
            )
            if name in self._takes
        }
        noise = [pipelines.generator(job.stream) for job in jobs]
        call = prompts.collate(words) | settings | {"generator": noise} | more
        made = pipelines.run(self._pipeline, config, self._placement, **call)
        wrong = next((image.size for image in made if image.size != (config.size_px, config.size_px)), None)
        if wrong is not None:
            raise GenerationError(
                f"{SECTION}.size_px = {config.size_px}: {type(self._pipeline).__name__} painted {wrong[0]}x{wrong[1]}; "
                f"expected the size asked for; set a smaller size_px (1024 suits every model)"
            )
        return made

    def _drawn(self, job: Job, size: int, place: int) -> dict[str, Any]:
        return {"seed": pipelines.seed_of(job.stream), "batch": {"size": size, "place": place}}

    def _check_settings(self, kind: type[Any]) -> None:
        """Refuse a class that needs more than words, picture and mask, and settings that it would ignore."""
        config, name = self._config, kind.__name__
        empty = [
            key for key, each in self._takes.items() if each.default is each.empty and each.kind is not each.VAR_KEYWORD
        ]
        unknown = [key for key in empty if key not in _GIVEN]
        if unknown:
            raise GenerationError(
                f"{config.model}: {name} also needs {', '.join(unknown)}; expected an inpainting pipeline that takes "
                f"words, a picture and a mask; choose another with --model PATH"
            )
        if "strength" not in self._takes and config.strength < 1:
            raise GenerationError(
                f"{SECTION}.strength = {config.strength}: {name} does not read it; expected 1; "
                f"set {SECTION}.strength = 1.0"
            )
        if config.paste == "pipeline" and "padding_mask_crop" not in self._takes:
            raise GenerationError(
                f"{SECTION}.paste = 'pipeline': {name} has no padding_mask_crop; expected a pipeline that crops; "
                f"set {SECTION}.paste = 'masked'"
            )
        if "strength" in self._takes and int(config.steps * config.strength) < 1:
            raise GenerationError(
                f"{SECTION}.steps = {config.steps} with strength = {config.strength}: no step would be taken; "
                f"expected steps * strength of 1 or more; set {SECTION}.steps = {math.ceil(1 / config.strength)}"
            )


def inpainting_class(found: ModelFolder) -> type[Any]:
    """The diffusers class that inpaints with a folder's parts: its own, or its inpainting twin.

    Raises:
        GenerationError: the folder's pipeline has none.
    """
    own = found.pipeline
    for name in (own, own.replace("Img2Img", "").replace("Pipeline", "InpaintPipeline")):
        kind = getattr(diffusers, name, None)
        if kind is not None and "mask_image" in prompts.parameters(kind.__call__):
            made: type[Any] = kind
            return made
    what = "has no inpainting twin" if hasattr(diffusers, own) else "is not a class"
    raise GenerationError(
        f"{found.root}: its pipeline {own} {what} in diffusers {diffusers.__version__}; expected one that inpaints, "
        f"such as StableDiffusionXLInpaintPipeline; choose another with --model PATH"
    )


def _cell_px(pipeline: Any) -> int:
    """Pixels a latent, on each side; transformers pack 2x2 latents, and count them here as one."""
    cell = int(pipeline.image_processor.config.vae_scale_factor)
    return cell if getattr(pipeline, "unet", None) is None else math.lcm(cell, 8)  # U-Net pipelines refuse others


def _checked(job: Job) -> NDArray[np.uint8]:
    if job.mask is None:
        raise ValueError("a job without a mask; DIAG paints inside one")
    if job.mask.shape != job.normal_bgr.shape[:2]:
        raise DatasetError(
            f"mask is {job.mask.shape[1]}x{job.mask.shape[0]}, its picture {job.normal_bgr.shape[1]}x"
            f"{job.normal_bgr.shape[0]}; expected the same size; draw it on this picture"
        )
    if not job.mask.any():
        raise DatasetError("mask is empty; expected the region to paint; draw one, or choose another mask source")
    return job.mask


def _to_pil(image_bgr: Image) -> Pictures.Image:
    return Pictures.fromarray(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB))
