"""A line of noise parts with dark bars, small enough to train in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

CONFIG = """
name = "tiny"
output = "{output}"
seed = 3
[data]
root = "{data}"
layout = "{layout}"
[input]
width_px = 48
height_px = 64
channels = 1
[generate]
count = 8
[teacher]
epochs = 1
batch_size = 8
[student]
size = "S10"
epochs = 2
batch_size = 8
[export]
calibration_images = 8
golden_images = 4
flips = 1.0
calibration = "minmax"
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


Diagline = Callable[..., Outcome]


def refused(outcome: Outcome, *named: object) -> None:
    """Exit code 2, and a single line on stderr that names each of these."""
    assert outcome.code == 2, outcome
    lines = [text for text in outcome.err.splitlines() if text.startswith("error: ")]
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for name in named:
        assert str(name) in lines[0]


def paint_parts(folder: Path, good: int = 24, bad: int = 16, seed: int = 0) -> Path:
    """`good/` and `bad/`: grey noise, the bad ones with a dark bar."""
    rng = np.random.default_rng(seed)
    for name, count in (("good", good), ("bad", bad)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image = rng.normal(140, 12, (80, 60)).clip(0, 255).astype(np.uint8)
            if name == "bad":
                top, left = rng.integers(5, 40, 2)
                image[top : top + 20, left : left + 6] = 20
            cv2.imwrite(str(folder / name / f"{index:03}.png"), image)
    return folder


def write_config(path: Path, data: Path, output: Path, layout: str = "good_bad") -> Path:
    """A config of the tiny line."""
    path.write_text(CONFIG.format(data=data, output=output, layout=layout))
    return path


@dataclass(frozen=True)
class Line:
    """A line whose every stage has run once."""

    config: Path
    data: Path
    output: Path

    @property
    def bundle(self) -> Path:
        return self.output / "tiny.bundle"
