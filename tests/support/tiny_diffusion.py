"""Tiny diffusers pipelines of the real classes, randomly initialised, saved to disk.

Everything a full-size model folder has: `model_index.json`, both SDXL text encoders with their
tokenizers, a 9-channel UNet, a VAE, a scheduler. Only the sizes and the weights differ. Byte-level
tokenizers without merges read any text: a CLIP prompt costs one token a letter.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXT_WIDTH = 8
START, END = "<|startoftext|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_sdxl_inpaint(folder: Path, seed: int = 0, variant: str | None = None) -> Path:
    """StableDiffusionXLInpaintPipeline with a 9-channel UNet; its latents are a quarter of the picture's side."""
    torch.manual_seed(seed)
    pipeline = StableDiffusionXLInpaintPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_clip_config()),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config()),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=_unet(
            in_channels=9,
            cross_attention_dim=2 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + TEXT_WIDTH,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )
    return _save(pipeline, folder, variant)


def save_sd_inpaint(folder: Path, seed: int = 0) -> Path:
    """StableDiffusionInpaintPipeline with a 9-channel UNet, without a safety checker."""
    torch.manual_seed(seed)
    pipeline = StableDiffusionInpaintPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_clip_config()),
        tokenizer=clip_tokenizer(),
        unet=_unet(in_channels=9),
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _save(pipeline, folder)


def save_sd15(folder: Path, seed: int = 0) -> Path:
    """StableDiffusionPipeline as Stable Diffusion 1.5 ships it (PNDM), without a safety checker."""
    torch.manual_seed(seed)
    pipeline = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_clip_config()),
        tokenizer=clip_tokenizer(),
        unet=_unet(in_channels=4),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _save(pipeline, folder)


def save_flux2_klein(folder: Path, seed: int = 0, is_distilled: bool = False) -> Path:
    """Flux2KleinPipeline (text-to-image, as the hub has it); its inpainting twin loads from the same folder."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH,
            num_hidden_layers=28,  # the pipeline reads layers 9, 18 and 27
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=2,
            norm_num_groups=4,
            sample_size=64,
        ),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=8,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=1,
            joint_attention_dim=3 * TEXT_WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=is_distilled,
    )
    return _save(pipeline, folder)


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-level CLIP tokenizer, 77 tokens: a letter is a token, and "white" and "crack" are one."""
    letters = _byte_letters()
    words = [word for text in ("white", "crack") for word in _merged(text)]
    vocab = [*letters, *(letter + "</w>" for letter in letters), *dict.fromkeys(joined for _, joined in words)]
    merges = list(dict.fromkeys(pair for pair, _ in words))
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate([*vocab, START, END])},
        merges=merges,
        model_max_length=77,
    )


def qwen_tokenizer() -> Qwen2TokenizerFast:
    """Byte-level Qwen tokenizer with a chat template, a letter a token."""
    tokenizer = Qwen2TokenizerFast(
        vocab={token: index for index, token in enumerate([END, *_byte_letters()])},
        merges=[],
        model_max_length=512,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _merged(word: str) -> list[tuple[tuple[str, str], str]]:
    """The merges that build `word` letter by letter: ((left, right), joined)."""
    letters = [*word[:-1], word[-1] + "</w>"]
    steps, left = [], letters[0]
    for right in letters[1:]:
        steps.append(((left, right), left + right))
        left += right
    return steps


def _byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    stand_in = {value: chr(value) for value in printable} | {value: chr(256 + n) for n, value in enumerate(others)}
    return [stand_in[value] for value in range(256)]


def _clip_config() -> CLIPTextConfig:
    tokenizer = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    )


def _unet(in_channels: int, cross_attention_dim: int = TEXT_WIDTH, **extra: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=cross_attention_dim,
        **extra,
    )


def _ddim() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _save(pipeline: object, folder: Path, variant: str | None = None) -> Path:
    diffusers_logging.disable_progress_bar()
    pipeline.save_pretrained(folder, variant=variant)
    return folder
