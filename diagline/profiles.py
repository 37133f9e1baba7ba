"""The two profiles of the paper, as values: nothing else in the code knows about them.

A config's `profile` (or `--profile`) lays these below its own keys: what the file or `--set`
says wins. `corrected` is the default and is what the dataclasses of `config.py` hold; `paper`
is what the authors' published code did, quirks included.

Source: DIAG, section 4, and the authors' code. Where the code cannot be followed: every
picture has a generator of its own, where theirs is one that runs on through all pictures, so
that a run can be resumed and shared. The paper trains 50 epochs, its code 30: the paper's count
is taken. Leaves out: a seed of each step (their training has another than their painting).
"""

from __future__ import annotations

from typing import Any

PROFILES: dict[str, dict[str, Any]] = {
    "corrected": {},
    "paper": {
        "seed": 0,
        "input": {"width_px": 256, "height_px": 704},  # resized a second time
        "teacher": {
            "weights": "imagenet",
            "freeze": 0,
            "batch_norm": "frozen_after_first_epoch",
            "labels": "mask",
            "keep": "last",
            "epochs": 50,
            "batch_size": 32,
            "learning_rate": 1e-4,
            "schedule": "constant",
            "balance": False,
            "flips": "none",
            "precision": "fp32",
        },
        "evaluate": {"ap": "step", "threshold": "best_f1"},
        "generate": {
            "masks": "real",  # so their "zero-shot" uses the masks of real defects
            "spread": "uniform",
            "prompts": ["white marks on the wall", "copper metal scratches"],
            "negative_prompt": "smooth, plain, black, dark, shadow",
            "diag": {
                "model": "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
                "steps": 30,
                "guidance": 20.0,
                "strength": 0.99,
                "size_px": 1024,
                "padding_px": 2,
                "paste": "pipeline",
                "resize_width_px": 224,
                "resize_height_px": 632,
                "batch_size": 1,
                "precision": "fp16",
            },
            "quality": {"gate": False},
        },
    },
}
