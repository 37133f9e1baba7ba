"""How fast networks are trained: this loop against a plain fp32 loop, images a second, in one process.

    python benchmarks/training.py [--quick] [--keep]

The plain loop is what torchvision's reference script does: a DataLoader whose workers decode and
resize every picture in every epoch, fp32, PyTorch's own memory layout, zero_grad, backward, step.
Ours keeps decoded pictures, computes in bf16 where the device has it, channels last, and, where
stages are frozen, computes their maps once. The two take turns on the same pictures with the same
batch; a turn is one epoch, the first of each is warm-up; making the caches is given apart. Rows:
the teacher trained whole, the teacher frozen up to layer3, the student S30. The table goes to
stderr; the last line of stdout is one JSON object; --keep also writes it to
`benchmarks/results/training.json`. --quick takes under a minute on two quiet cores, with pictures
of 96x96. Leaves out: what is learned.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import stand_aside
import torch
from rich import box
from rich.table import Table
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Dataset

from diagline import files, record
from diagline.console import console
from diagline.preprocess import InputContract, preprocess
from diagline.samples import Sample, SampleSet, write_image
from generation.materials import SURFACES, paint_surface
from training import frozen, loop, precision, student, student_spec, teacher
from training.data import Pictures

SEED = 3


class Decoded(Dataset[tuple[torch.Tensor, float]]):
    """Decodes and resizes a picture whenever it is asked for."""

    def __init__(self, samples: SampleSet, contract: InputContract) -> None:
        self.samples, self.contract = samples, contract

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, float]:
        sample = self.samples.samples[index]
        image = preprocess(self.samples.read_image(sample), self.contract).transpose(2, 0, 1)
        return torch.from_numpy(image.astype(np.float32) / 255), float(sample.label)


def paint(root: Path, count: int, height_px: int, width_px: int) -> SampleSet:
    """Camera-sized pictures on disk, twice as large each way as what the network takes; labels alternate."""
    made = []
    for index in range(count):
        rng = np.random.default_rng([SEED, index])
        surface = paint_surface(SURFACES[index % len(SURFACES)], 2 * height_px, 2 * width_px, rng)
        write_image(root / f"{index}.png", surface)
        made.append(Sample(f"{index}.png", None, index % 2, "x" if index % 2 else "good", str(index), "train"))
    return SampleSet(root, tuple(made))


def plain(
    network: nn.Module, samples: SampleSet, contract: InputContract, batch: int, device: str
) -> Callable[[], None]:
    """One epoch of the plain loop."""
    loader = DataLoader(
        Decoded(samples, contract), batch, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True
    )
    network.to(device)
    optimiser = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], 1e-4)

    def epoch() -> None:
        network.train()
        for images, labels in loader:
            loss = binary_cross_entropy_with_logits(network(images.to(device)), labels.float().to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return epoch


def ours(network: nn.Module, pictures: Pictures, batch: int, numbers: str, folder: Path) -> Callable[[], float]:
    """One epoch of `loop.fit`; its seconds as the history has them, checkpoint and set-up aside."""
    count = iter(range(1_000_000))

    def epoch() -> float:
        settings = loop.Settings(1, batch, 1e-4, balance=False, precision=numbers)
        return float(loop.fit(network, pictures, None, settings, folder / str(next(count)), {}).history[0]["seconds"])

    return epoch


def compare(
    name: str, samples: SampleSet, contract: InputContract, batch: int, rounds: int, folder: Path
) -> dict[str, Any]:
    """A row: images a second of both, and the paired ratios."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def fresh() -> nn.Module:
        torch.manual_seed(SEED)
        if name == "student S30":
            return student.Student(student_spec.spec("S30", contract))
        return teacher.Teacher(freeze=4 if "frozen" in name else 0)

    started = time.perf_counter()
    pictures, network, numbers = Pictures([samples], contract, "none", SEED), fresh(), "fp32"
    if isinstance(network, teacher.Teacher):
        numbers = "auto"
        if "frozen" in name:
            network, pictures, _ = frozen.split(network, 4, pictures, None, numbers)
    caches_s = time.perf_counter() - started
    turns = {
        "ours": ours(network, pictures, batch, numbers, folder / name),
        "plain": plain(fresh(), samples, contract, batch, device),
    }
    spent: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(rounds + 1):
        for which, run in turns.items():
            started = time.perf_counter()
            told = run()
            if turn:
                spent[which].append(told if told is not None else time.perf_counter() - started)
    ratios = [slow / fast for slow, fast in zip(spent["plain"], spent["ours"], strict=True)]
    return {
        "images_per_s": round(len(samples) / statistics.median(spent["ours"]), 2),
        "plain_images_per_s": round(len(samples) / statistics.median(spent["plain"]), 2),
        "speedup": round(statistics.median(ratios), 2),
        "speedup_min_max": [round(min(ratios), 2), round(max(ratios), 2)],
        "precision": precision.computed_precision(numbers, device),
        "caches_s": round(caches_s, 2),
    }


def main() -> None:
    """Measure every row, print the table, and the JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller pictures, fewer turns; under a minute")
    parser.add_argument("--keep", action="store_true", help="write the result to benchmarks/results/training.json")
    asked = parser.parse_args()
    gpu = torch.cuda.is_available()
    height_px, width_px = (96, 96) if asked.quick else (632, 224)
    count, batch, rounds = (32, 8, 2) if asked.quick else (256, 32, 5) if gpu else (32, 8, 3)
    contract = InputContract(width_px, height_px, 3)
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        samples = paint(Path(place) / "pictures", count, height_px, width_px)
        for name in ("teacher", "teacher, frozen to layer3", "student S30"):
            rows[name] = compare(name, samples, contract, batch, rounds, Path(place))
    device = torch.cuda.get_device_name() if gpu else "cpu"
    table = Table(
        title=f"training at {width_px}x{height_px}, batch {batch}, {device}", title_justify="left", box=box.SIMPLE_HEAD
    )
    for name in ("network", "images/s", "plain fp32 loop", "times as fast", "precision"):
        table.add_column(name, justify="left" if name == "network" else "right")
    for name, row in rows.items():
        figures = (f"{row['images_per_s']:.1f}", f"{row['plain_images_per_s']:.1f}", f"{row['speedup']:.2f}")
        table.add_row(name, *figures, row["precision"])
    console.print(table)
    result = {
        "rows": rows, "width_px": width_px, "height_px": height_px, "batch_size": batch, "images": count,
        "rounds": rounds, "device": device, "threads": torch.get_num_threads(), "seed": SEED,
        "git_revision": record.git_revision(), "machine": record.machine(), "versions": record.versions(),
    }  # fmt: skip
    if asked.keep:
        files.write_json(stand_aside.HERE / "results" / "training.json", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
