"""Prior preservation's class pictures: what the untuned model paints of the class, kept while it is tuned.

Painted before training, each once; a run that is killed goes on with the next. Leaves out: how they
are learnt from (`tune.py`).

Source: DreamBooth (arXiv 2208.12242), section 3.2; In&Out uses at least 200.
"""

from __future__ import annotations

from pathlib import Path

from diagline import console, samples
from diagline.config_generate import InAndOutConfig, TuneConfig
from generation.in_and_out import examples
from generation.in_and_out.progress import CLASS
from generation.in_and_out.sampler import Sampler

_NOISE = 7  # of a run's random streams


def paths(target: Path, count: int) -> list[Path]:
    """Where the class pictures of a run lie."""
    return [target / CLASS / f"{index:05d}.png" for index in range(count)]


def paint_missing(
    config: TuneConfig, sampling: InAndOutConfig, seed: int, target: Path, process: int = 0, processes: int = 1
) -> None:
    """Paint this process's batches of which a picture is missing; the model loads only if there is one.

    Args:
        config: prompt and number.
        sampling: model, steps, guidance, size and batch size.
        process, processes: this process's number, from 0, and how many there are.

    Raises:
        GenerationError: the model cannot paint them, or would not read a prompt to its end.
        OutputError: the folder cannot be written to.
    """
    wanted = paths(target, config.class_images)
    size = sampling.batch_size
    batches = [range(start, min(start + size, len(wanted))) for start in range(0, len(wanted), size)]
    mine = [batch for batch in batches[process::processes] if not all(wanted[index].is_file() for index in batch)]
    if not mine:
        return
    sampler = Sampler(sampling)
    examples.check_words(sampler.words, config)  # the prompt's, too: minutes of painting would be in vain
    for batch in console.track(mine, "Painting class pictures"):
        made = sampler.paint([(config.class_prompt, "")] * len(batch), [(seed, _NOISE, index) for index in batch])
        for index, picture in zip(batch, made, strict=True):
            if not wanted[index].is_file():
                samples.write_image(wanted[index], picture)
