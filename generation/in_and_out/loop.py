"""The training loop of `diagline tune`, and everything it has loaded.

Every noise, timestep and order is seeded by the run's seed, the epoch and the place in it, so that
an epoch is the same however the run came to it, and on however many processes. Tunes the U-Net
alone: whether In&Out tuned the text encoder is not published. Leaves out: the run around it
(`tune.py`), its files (`progress.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from diagline import console
from diagline.config_generate import GenerateConfig
from diagline.errors import TrainingError
from diagline.samples import SampleSet
from generation.diffusion import pipelines
from generation.diffusion.model_folder import ModelFolder
from generation.in_and_out import adapters, buckets, examples, objective, prior, progress
from generation.in_and_out.examples import Example
from generation.in_and_out.sampler import SECTION

MAX_GRADIENT_NORM = 1.0
NAMED = 8
"""Pictures an error names before it only counts."""
_NOISE = 8  # of a run's random streams


@dataclass(frozen=True, slots=True)
class Run:
    """A run with everything loaded.

    Attributes:
        dtype: of the frozen weights.
        words: embeddings of prompt and class prompt, `(1, tokens, width)`.
        scale: of the latents, as the VAE's config has it.
        noise: the scheduler, which knows how much noise a timestep has.
        weights: `(T,)` float32, loss weight of each timestep.
        unet: with adapters; `wrapped` is what Accelerate made of it.
        total: optimiser steps of the whole run.
        history: a row for each epoch that is done.
    """

    settings: GenerateConfig
    seed: int
    target: Path
    accelerator: Any
    dtype: torch.dtype
    examples: list[Example]
    words: tuple[torch.Tensor, torch.Tensor]
    scale: float
    noise: Any
    weights: torch.Tensor
    unet: Any
    wrapped: Any
    optimiser: Any
    total: int
    history: list[dict[str, Any]]

    @classmethod
    def prepare(
        cls,
        settings: GenerateConfig,
        seed: int,
        target: Path,
        accelerator: Any,
        placement: pipelines.Placement,
        found: ModelFolder,
        positives: SampleSet,
    ) -> Run:
        """Load, encode, add adapters, and put back the last checkpoint.

        Raises:
            DatasetError: a picture that cannot be read.
            GenerationError: a model that does not load, or a prompt that is too long.
            TrainingError: a model that predicts something else, a damaged checkpoint, too little memory.
        """
        config = settings.tune
        aside = replace(placement, device=torch.device("cpu"))  # the GPU gets each part when it is its turn
        pipeline = pipelines.load(found, StableDiffusionPipeline, aside, replace(settings.in_and_out, memory="full"))
        scheduler: Any = DDPMScheduler
        noise = scheduler.from_config(pipeline.scheduler.config)
        if noise.config.prediction_type not in objective.PREDICTIONS:
            raise TrainingError(
                f"{found.root}: predicts {noise.config.prediction_type!r}; expected one of "
                f"{', '.join(objective.PREDICTIONS)}; choose another model with {SECTION}.model"
            )
        with _guard(settings):
            words, learnt = _encode(pipeline, settings, target, placement.device, positives)
            unet = pipeline.unet
            trained = adapters.add(unet, config, seed)
            unet.train()
            if settings.in_and_out.memory != "full":
                unet.enable_gradient_checkpointing()
            if placement.device.type == "cuda":
                unet.to(placement.device, memory_format=torch.channels_last)
            optimiser = torch.optim.AdamW(trained, lr=config.learning_rate)
            wrapped, prepared = accelerator.prepare(unet, optimiser)
        weights = objective.min_snr_weights(noise.alphas_cumprod, noise.config.prediction_type, config.min_snr_gamma)
        done = progress.read(target)
        if done is not None:
            adapters.restore(unet, done.adapters)
            optimiser.load_state_dict(done.optimiser)
            if accelerator.scaler is not None and done.scaler is not None:
                accelerator.scaler.load_state_dict(done.scaler)
            console.console.print(f"{target}: going on after epoch {len(done.history)}", soft_wrap=True)
        return cls(
            settings=settings,
            seed=seed,
            target=target,
            accelerator=accelerator,
            dtype=placement.dtype,
            examples=learnt,
            words=words,
            scale=float(pipeline.vae.config.scaling_factor),
            noise=noise,
            weights=weights,
            unet=unet,
            wrapped=wrapped,
            optimiser=prepared,
            total=config.epochs * len(_batches(settings, seed, learnt, 0)),
            history=[] if done is None else done.history,
        )

    def epochs(self) -> list[dict[str, Any]]:
        """Train the epochs that are missing; returns a row for each of all."""
        history, config = list(self.history), self.settings.tune
        with console.progress() as display:
            per_epoch = self.total // config.epochs
            task = display.add_task("tuning", total=self.total, completed=len(history) * per_epoch, note="")
            for epoch in range(len(history), config.epochs):
                started, sums = time.monotonic(), torch.zeros(4, dtype=torch.float64)
                for step, batch in enumerate(_batches(self.settings, self.seed, self.examples, epoch)):
                    rate = config.learning_rate * objective.cosine_with_restarts(
                        (epoch * per_epoch + step) / self.total, config.cycles
                    )
                    with _guard(self.settings):
                        made = self._step(epoch, step, batch, rate)
                    self._check_finite(made, epoch, step, batch)
                    sums += made
                    loss = float((sums[0] + sums[2]) / (sums[1] + sums[3]))
                    display.update(task, advance=1, note=f"epoch {epoch + 1}/{config.epochs}  loss {loss:.4f}")
                row = {
                    "epoch": epoch + 1,
                    "loss": loss,
                    "loss_real": float(sums[0] / sums[1]),
                    "loss_class": float(sums[2] / sums[3]) if sums[3] else None,
                    "learning_rate": rate,
                    "seconds": round(time.monotonic() - started, 3),
                }
                history.append(row)
                self._keep(history)
        return history

    def _step(self, epoch: int, step: int, batch: Sequence[int], rate: float) -> torch.Tensor:
        """One optimiser step on this process's share of a batch.

        Returns:
            `(4,)` float64 over all processes: summed loss and number of the real pictures, and of the class pictures.
        """
        here, count = self.accelerator.process_index, self.accelerator.num_processes
        mine = range(len(batch))[here::count]
        places = mine or range(1)  # a process without a picture computes one that does not count
        losses = self._losses(
            [self.examples[batch[place]] for place in places], (self.seed, _NOISE, epoch, step), places
        )
        is_class = torch.tensor([self.examples[batch[place]].is_class for place in places], device=losses.device)
        share = torch.where(is_class, self.settings.tune.prior_weight, 1.0) * (1.0 if mine else 0.0)
        # Accelerate averages gradients over the processes; each picture shall count the same.
        self.accelerator.backward((losses * share).sum() * count / len(batch))
        trained = [weight for group in self.optimiser.param_groups for weight in group["params"]]
        self.accelerator.clip_grad_norm_(trained, MAX_GRADIENT_NORM)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        counted = torch.stack([losses.detach().double(), torch.ones_like(losses, dtype=torch.float64)])
        counted = counted * (1.0 if mine else 0.0)  # (2, n): loss and number
        sums = torch.cat([(counted * ~is_class).sum(dim=1), (counted * is_class).sum(dim=1)])
        summed: torch.Tensor = self.accelerator.reduce(sums, "sum")
        return summed.cpu()

    def _losses(self, pictures: Sequence[Example], stream: tuple[int, ...], places: Sequence[int]) -> torch.Tensor:
        """The weighted squared error of each picture of one bucket, `(n,)` float32."""
        device, dtype = self.accelerator.device, self.dtype
        clean, noises, times = [], [], []
        for picture, place in zip(pictures, places, strict=True):
            own = pipelines.generator((*stream, place))
            latents = picture.mean + picture.std * torch.randn(picture.mean.shape, generator=own)
            clean.append(latents * self.scale)
            noises.append(torch.randn(picture.mean.shape, generator=own))
            times.append(int(torch.randint(len(self.weights), (1,), generator=own)))
        latent, noise, time_steps = torch.stack(clean), torch.stack(noises), torch.tensor(times)
        noisy = self.noise.add_noise(latent, noise, time_steps)
        epsilon = self.noise.config.prediction_type == "epsilon"
        wanted = noise if epsilon else self.noise.get_velocity(latent, noise, time_steps)
        words = torch.cat([self.words[picture.is_class] for picture in pictures])
        guess: torch.Tensor = self.wrapped(
            noisy.to(device, dtype), time_steps.to(device), encoder_hidden_states=words.to(device, dtype)
        ).sample
        error = (guess.float() - wanted.to(device)).square().mean(dim=(1, 2, 3))
        weighted: torch.Tensor = error * self.weights[time_steps].to(device)
        return weighted

    def _check_finite(self, sums: torch.Tensor, epoch: int, step: int, batch: Sequence[int]) -> None:
        if math.isfinite(float(sums[0] + sums[2])):
            return
        names = sorted({self.examples[place].name for place in batch})
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise TrainingError(
            f"epoch {epoch + 1}, step {step + 1}: the loss is no finite number; expected one; its pictures are "
            f"{', '.join(names[:NAMED])}{more}; look at them, set generate.tune.precision = 'fp32', or lower "
            f"generate.tune.learning_rate = {self.settings.tune.learning_rate}"
        )

    def _keep(self, history: list[dict[str, Any]]) -> None:
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = progress.Checkpoint(
                adapters.state(self.unet),
                self.optimiser.state_dict(),
                None if scaler is None else scaler.state_dict(),
                history,
            )
            progress.keep(self.target, state)


def _encode(
    pipeline: Any, settings: GenerateConfig, target: Path, device: torch.device, positives: SampleSet
) -> tuple[tuple[torch.Tensor, torch.Tensor], list[Example]]:
    """What the frozen parts make of words and pictures; they are on `device` for no longer."""
    config, frozen = settings.tune, (pipeline.vae, pipeline.text_encoder)
    for part in frozen:
        part.to(device)
    words = examples.encode_words(pipeline, config)
    real = [positives.root / sample.image for sample in positives]
    learnt = examples.read(pipeline, config.size_px, real, prior.paths(target, config.class_images), device)
    for part in frozen:
        part.to("cpu")
    return words, learnt


def _batches(settings: GenerateConfig, seed: int, learnt: Sequence[Example], epoch: int) -> list[list[int]]:
    config = settings.tune
    real = [example.bucket for example in learnt if not example.is_class]
    drawn = [example.bucket for example in learnt if example.is_class]
    return buckets.plan(real, drawn, config.repeats, config.batch_size, seed, epoch)


def _guard(settings: GenerateConfig) -> AbstractContextManager[None]:
    """Turn running out of memory while training into the setting that fits next."""
    return pipelines.translated(lambda error: _out_of_memory(error, settings))


def _out_of_memory(error: BaseException, settings: GenerateConfig) -> TrainingError:
    config = settings.tune
    if settings.in_and_out.memory == "full":
        step = f"{SECTION}.memory = 'low'"
    elif config.batch_size > 1:
        step = f"generate.tune.batch_size = {config.batch_size // 2}"
    else:
        step = f"generate.tune.size_px = {max(config.size_px // 2 // 64 * 64, 64)}"
    where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
    return TrainingError(
        f"out of {where} while tuning with {SECTION}.memory = {settings.in_and_out.memory!r}, "
        f"generate.tune.batch_size = {config.batch_size}, "
        f"size_px = {config.size_px}; expected them to fit; set {step}"
    )
