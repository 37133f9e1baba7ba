"""SDXL inpainting at full size with random weights, for measuring speed where no weights may be had.

The sizes are those of `diffusers/stable-diffusion-xl-1.0-inpainting-0.1` (its published
config files); the tokenizers are the tests' small ones. 3.5 billion parameters, 7 GB on disk.
Leaves out: pictures worth looking at.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def build(tokenizer: CLIPTokenizer, device: str = "cpu") -> StableDiffusionXLInpaintPipeline:
    """The pipeline in half precision, on `device` ("meta" allocates nothing)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device(device):
            parts = {
                "vae": _vae(),
                "text_encoder": CLIPTextModel(_text(tokenizer, 768, 3072, 12, 12, "quick_gelu")),
                "text_encoder_2": CLIPTextModelWithProjection(_text(tokenizer, 1280, 5120, 20, 32, "gelu")),
                "unet": _unet(),
            }
    finally:
        torch.set_default_dtype(before)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLInpaintPipeline(
        **parts, tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=scheduler, add_watermarker=False
    )


def _text(tokenizer: CLIPTokenizer, width: int, inner: int, heads: int, layers: int, act: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=inner,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=act,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=1024,
        scaling_factor=0.13025,
    )


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=128,
        in_channels=9,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )


def save(folder: Path, tokenizer: CLIPTokenizer) -> Path:
    """Build it with random weights and save it as the hub has it (fp16)."""
    torch.manual_seed(0)
    build(tokenizer).save_pretrained(folder)
    return folder
