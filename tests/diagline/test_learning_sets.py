"""What networks learn from: real parts, generated defects, and what the expert accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_line import paint_parts, write_config

from diagline import config as configs
from diagline import verbs
from diagline.samples import DEFECT, GOOD
from generation.memseg import MemSegPainter, MemSegSettings
from generation.painting import Job
from generation.studio.session import Session


@pytest.mark.parametrize("shots", ["full", "zero"])
def test_what_the_expert_accepted_joins_the_splits_of_its_normals_and_nothing_else_does(
    shots: str, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "line.toml", paint_parts(tmp_path / "data"), tmp_path / "out")
    config = configs.load(path, ("generate.count=0", f"data.shots={shots}"))
    good = verbs.real_data(config).labelled(GOOD)
    session = Session(verbs.studio_folder(config), good, config.seed)
    painter, mask = MemSegPainter(MemSegSettings()), np.zeros((80, 60), np.uint8)
    mask[20:40, 10:30] = 255
    for split in ("train", "train", "val"):
        normal = good.split(split).samples[0]
        for decision in ("accepted", "rejected", None):
            (stream,) = session.next_streams(1)
            job = Job(good.read_image(normal), mask, stream)
            made = session.add(painter, job, painter.paint([job])[0], normal, "scuff", {}, None)
            if decision is not None:
                session.decide(made.number, decision, "Ada")
    train, val = verbs.learning_sets(config)
    synthetic = [[sample for part in side for sample in part if sample.source != "real"] for side in (train, val)]
    assert [sample.split for sample in synthetic[0]] == ["train", "train"]
    assert [sample.split for sample in synthetic[1]] == ([] if shots == "full" else ["val"])
    assert all(sample.label == DEFECT and sample.kind == "scuff" for side in synthetic for sample in side)
    without, _ = verbs.learning_sets(config, synthetic=False)
    kept = [sample.source for part in without for sample in part if sample.source != "real"]
    assert len(kept) == (0 if shots == "full" else 2)  # with "zero" they are all the defects there are
