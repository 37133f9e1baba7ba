"""`diagline evaluate CONFIG --seeds N`: the whole line once a seed, then one table of them all.

Every seed has a folder of its own, `OUTPUT/seeds/SEED/`, and the same test split. What no
training seed changes is shared with the line itself: the expert's accepted defects and tuned
adapters. A run that was stopped goes on: each step knows what it has finished. As `verbs.py`,
imports stages inside functions alone. Leaves out: the figures (`export/over_seeds.py`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diagline import bundle as bundles
from diagline import files, pages_seeds, record, verbs
from diagline.config import STUDENT, TEACHER, Config
from diagline.console import console
from diagline.errors import DiaglineError, OutputError, require

if TYPE_CHECKING:
    from export.over_seeds import OverSeeds

STEPS = ("generate", "train", "distill", "export")
"""Functions of `verbs`, in order."""


def evaluate_seeds(config: Config, count: int, skip_bad: bool = False) -> OverSeeds:
    """Run and measure the line with seeds `config.seed`, +1, ...

    Writes `evaluation/seeds.json` and `evaluation/seeds.html`, and below `seeds/SEED/` what the
    steps write.

    Raises:
        ConfigError: a seed beyond what a config may hold.
        DiaglineError: as the steps do; the message names seed and step.
    """
    require("torch", "workstation")
    from export import over_seeds

    configs = {seed: of_seed(config, seed) for seed in range(config.seed, config.seed + count)}
    runs = {}
    for number, (seed, one) in enumerate(configs.items(), 1):
        _share(config, one)
        for step in (*STEPS, "evaluate"):
            if (step == "generate" and not one.generate.count) or (step == "export" and _exported(one)):
                continue
            console.print(f"seed {seed} ({number} of {count}): {step}", style="bold", soft_wrap=True)
            try:
                result = getattr(verbs, step)(one, skip_bad)
            except DiaglineError as error:
                raise type(error)(f"seed {seed}, {step}: {error}") from error
        runs[seed] = result
    found = over_seeds.summarise(runs, config.evaluate.bootstrap, config.seed)
    folder = config.output / "evaluation"
    provenance = record.provenance(config, found.first.test.hash())
    files.write_json(folder / "seeds.json", {**found.plain(), "provenance": provenance})
    pages_seeds.write(folder / "seeds.html", config, found)
    return found


def of_seed(config: Config, seed: int) -> Config:
    """The config of one training seed: its own output, the line's own split."""
    return replace(
        config,
        seed=seed,
        output=config.output / "seeds" / str(seed),
        data=replace(config.data, split_seed=config.split_seed),
    )


def _share(config: Config, one: Config) -> None:
    """Make what the expert accepted and the tuned adapters part of a seed's folder."""
    for folder in (verbs.studio_folder, verbs.tuned_folder):
        theirs, mine = folder(config), folder(one)
        if theirs.exists() and not mine.exists():
            _link(theirs, mine)


def _link(theirs: Path, mine: Path) -> None:
    try:
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.symlink_to(os.path.relpath(theirs.resolve(), mine.parent.resolve()), target_is_directory=True)
    except OSError as error:
        raise OutputError(
            f"cannot link {mine} to {theirs}: {error.strerror}; expected a folder that holds links; "
            f"set another output, or copy it there"
        ) from error


def _exported(config: Config) -> bool:
    """Whether both bundles were made of the networks that are there now, by the same [export]."""
    for root, network in (
        (config.bundle, config.output / STUDENT / "student.pt"),
        (config.teacher_bundle, config.output / TEACHER / "teacher.pt"),
    ):
        if not (root / bundles.MANIFEST).is_file():
            return False
        made_of = bundles.read(root).manifest.provenance
        same = made_of["config"]["export"] == config.plain()["export"]
        if not same or made_of["checkpoint_sha256"] != files.sha256_file(network):
            return False
    return True
