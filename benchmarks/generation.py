"""How fast defects are painted: MemSeg on one core, and this pipeline against plain diffusers.

    python benchmarks/generation.py [--quick] [--keep]

MemSeg paints pictures of 224x632 on one thread. For diffusion, `DiagPainter` (batches, prompts
encoded once, half precision where the device has it) takes turns with a plain loop that loads
the same folder with diffusers' defaults and calls it once a picture; both paint the same masks on
the same pictures with the same steps, in one process. Without a GPU the model is a tiny one of the same
classes, and the ratio says little about the full one: there the arithmetic counts, here the calls.
With a CUDA GPU it is SDXL inpainting at full size, with random weights: speed does not depend on
them. The table goes to stderr; the last line of stdout is one JSON object; --keep also writes it
to `benchmarks/results/generation.json`. --quick takes under a minute without a GPU.
Leaves out: how good the pictures are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import stand_aside
import torch
from rich import box
from rich.table import Table

from diagline import files, record
from diagline.config_generate import DiagConfig, ShapesConfig
from diagline.console import console, track
from generation import shapes
from generation.diag import DiagPainter
from generation.materials import SURFACES, paint_surface
from generation.memseg import MemSegPainter, MemSegSettings
from generation.painting import Job

SEED = 3
HEIGHT_PX, WIDTH_PX = 632, 224
PROMPT, NEGATIVE = "white crack", "smooth"
KINDS = ("scratch", "crack", "spot", "stain")


def jobs(count: int) -> list[Job]:
    """Painted normals, each with a procedural mask and a prompt."""
    made = []
    for index in range(count):
        rng = np.random.default_rng([SEED, index])
        normal_bgr = paint_surface(SURFACES[index % len(SURFACES)], HEIGHT_PX, WIDTH_PX, rng)
        kind = KINDS[index % len(KINDS)]
        mask, _ = shapes.draw(kind, HEIGHT_PX, WIDTH_PX, rng, ShapesConfig(size_max=0.2))
        made.append(Job(normal_bgr, mask, (SEED, index), PROMPT, NEGATIVE))
    return made


def memseg(made: Sequence[Job], seconds: float) -> dict[str, Any]:
    """MemSeg on one thread, its own masks."""
    cv2.setNumThreads(1)
    painter = MemSegPainter(MemSegSettings())
    plain = [replace(job, mask=None) for job in made]
    for job in plain[:4]:
        painter.paint([job])
    spent: list[float] = []
    while sum(spent) < seconds:
        job = replace(plain[len(spent) % len(plain)], stream=(SEED, 1, len(spent)))
        started = time.perf_counter()
        painter.paint([job])
        spent.append(time.perf_counter() - started)
    return {
        "images": len(spent),
        "images_per_s": len(spent) / sum(spent),
        "p99_ms": float(np.quantile(spent, 0.99)) * 1e3,
    }


def plain_loop(folder: Path, config: DiagConfig, device: str) -> Callable[[Sequence[Job]], None]:
    """diffusers as its documentation calls it: defaults, one picture a call."""
    from diffusers import AutoPipelineForInpainting
    from PIL import Image

    pipeline = AutoPipelineForInpainting.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def run(made: Sequence[Job]) -> None:
        for job in made:
            pipeline(
                prompt=job.prompt,
                negative_prompt=job.negative_prompt,
                image=Image.fromarray(job.normal_bgr[:, :, ::-1]),
                mask_image=Image.fromarray(job.mask),
                height=config.size_px,
                width=config.size_px,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
                strength=config.strength,
                generator=torch.Generator("cpu").manual_seed(SEED),
            )

    return run


def diffusion(folder: Path, config: DiagConfig, made: Sequence[Job], rounds: int, device: str) -> dict[str, Any]:
    """Pairs of runs over the same jobs, in turns; the first of each is warm-up."""
    painter = DiagPainter(replace(config, model=str(folder), device=device))
    plain = plain_loop(folder, config, device)
    size = config.batch_size

    def ours(part: Sequence[Job]) -> None:
        for start in range(0, len(part), size):
            painter.paint(part[start : start + size])

    spent: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in track(range(rounds + 1), "taking turns"):
        for name, run in (("ours", ours), ("plain", plain)):
            started = time.perf_counter()
            run(made)
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                spent[name].append(time.perf_counter() - started)
    ratios = [slow / fast for slow, fast in zip(spent["plain"], spent["ours"], strict=True)]
    return {
        "speedup": statistics.median(ratios),
        "speedup_min": min(ratios),
        "speedup_max": max(ratios),
        "images_per_s": len(made) / statistics.median(spent["ours"]),
        "plain_images_per_s": len(made) / statistics.median(spent["plain"]),
        "painter": painter.facts(),
    }


def save_model(folder: Path, full: bool) -> Path:
    """SDXL inpainting with random weights, tiny or at full size."""
    sys.path += [str(stand_aside.HERE), str(stand_aside.HERE.parent / "tests" / "support")]
    import full_sdxl
    import tiny_diffusion

    if full:
        return full_sdxl.save(folder, tiny_diffusion.clip_tokenizer())
    return tiny_diffusion.save_sdxl_inpaint(folder)


def main() -> None:
    """Measure both, print the table, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pictures and rounds; under a minute without a GPU")
    parser.add_argument("--keep", action="store_true", help="write the result to benchmarks/results/generation.json")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    asked = parser.parse_args()
    device = asked.device if asked.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    full = device == "cuda"
    count, rounds = (8, 3) if asked.quick else (16, 9)
    made = jobs(count)
    config = DiagConfig(
        batch_size=8 if full else 4,
        size_px=1024 if full else 64,
        precision="bf16" if full else "auto",  # random weights may overflow fp16
    )
    with console.status("MemSeg on one thread"):
        superimposed = memseg(made, 3.0 if asked.quick else 20.0)
    cv2.setNumThreads(-1)
    with tempfile.TemporaryDirectory() as folder:
        inpainted = diffusion(save_model(Path(folder) / "model", full), config, made, rounds, device)
    table = Table(title=f"defects of {WIDTH_PX}x{HEIGHT_PX}, {device}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("method", "images/s", "against"):
        table.add_column(name, justify="left" if name == "method" else "right")
    table.add_row("MemSeg, one thread", f"{superimposed['images_per_s']:.1f}", "")
    what = "SDXL inpainting" if full else "tiny SDXL inpainting"
    table.add_row(f"{what}, batches of {config.batch_size}", f"{inpainted['images_per_s']:.2f}", "")
    table.add_row(f"{what}, plain loop", f"{inpainted['plain_images_per_s']:.2f}", f"{inpainted['speedup']:.2f} times")
    console.print(table)
    result = {
        "memseg_images_per_s_per_core": round(superimposed["images_per_s"], 1),
        "diffusion_speedup": round(inpainted["speedup"], 2),
        "diffusion_speedup_min_max": [round(inpainted["speedup_min"], 2), round(inpainted["speedup_max"], 2)],
        "diffusion_images_per_s": round(inpainted["images_per_s"], 3),
        "plain_images_per_s": round(inpainted["plain_images_per_s"], 3),
        "model": "SDXL inpainting, full size, random weights" if full else "SDXL inpainting, tiny, random weights",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "settings": inpainted["painter"]["settings"] | {"model": "random weights"},
        "memseg_images": superimposed["images"],
        "memseg_p99_ms": round(superimposed["p99_ms"], 2),
        "rounds": rounds,
        "images_a_round": count,
        "seed": SEED,
        "git_revision": record.git_revision(),
        "machine": record.machine(),
        "versions": record.versions(),
    }
    if asked.keep:
        files.write_json(stand_aside.HERE / "results" / "generation.json", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
