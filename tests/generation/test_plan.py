from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from diagline import samples
from diagline.config_generate import SHAPE_KINDS, GenerateConfig, ShapesConfig
from diagline.errors import DatasetError
from diagline.samples import DEFECT, GOOD, Sample, SampleSet
from generation.plan import Draws
from generation.regions import Region, Regions
from generation.regions import write as write_regions

WORDS = GenerateConfig(method="diag", count=12, prompts=("thin scratch", "rust stain"), negative_prompt="smooth")


@pytest.fixture
def positives(tmp_path: Path) -> SampleSet:
    """Three real defects of train: a line one pixel wide, a blob, and one whose mask is empty."""
    root, records = tmp_path / "positives", []
    for number, draw in enumerate(("line", "blob", "empty")):
        mask = np.zeros((122, 80), np.uint8)
        if draw == "line":
            mask[20:100, 33] = 255
        elif draw == "blob":
            cv2.circle(mask, (40, 60), 12, 255, -1)
        samples.write_image(root / f"{number}.png", np.full((122, 80, 3), 90, np.uint8))
        samples.write_image(root / f"{number}m.png", mask)
        records.append(Sample(f"{number}.png", f"{number}m.png", DEFECT, draw, f"real-{number}", "train"))
    return SampleSet(root, tuple(records))


def draws(normals: SampleSet, settings: GenerateConfig, count: int = 12, **more: object) -> Draws:
    return Draws(normals.labelled(GOOD), settings, 7, {"train": count}, **more)


def test_even_spread_takes_prompts_shapes_and_normals_in_turns(normals: SampleSet) -> None:
    entries = draws(normals, WORDS).first()
    assert set(Counter(entry["prompt"] for entry in entries).values()) == {6}
    assert set(Counter(entry["normal"] for entry in entries).values()) == {6}
    assert Counter(entry["mask"]["kind"] for entry in entries) == dict.fromkeys(SHAPE_KINDS, 2)
    assert {entry["negative_prompt"] for entry in entries} == {"smooth"}


def test_uniform_spread_takes_the_prompts_one_after_the_other_as_the_paper_did(normals: SampleSet) -> None:
    entries = draws(normals, replace(WORDS, spread="uniform"), 13).first()
    prompts = [entry["prompt"] for entry in entries]
    assert prompts == ["thin scratch"] * 7 + ["rust stain"] * 6
    drawn = Counter(entry["normal"] for entry in draws(normals, replace(WORDS, spread="uniform"), 200).first())
    assert len(drawn) == 2 and abs(drawn["0.png"] - 100) < 40 and drawn["0.png"] != 100


def test_an_entry_does_not_depend_on_how_many_are_painted(normals: SampleSet) -> None:
    assert draws(normals, WORDS, 5).first() == draws(normals, WORDS, 12).first()[:5]


def test_a_later_attempt_keeps_the_words_and_draws_the_rest_anew(normals: SampleSet) -> None:
    plan = draws(normals, WORDS)
    entries = [plan.entry(3, attempt) for attempt in range(12)]
    assert len({entry["prompt"] for entry in entries}) == 1
    assert len({tuple(entry["stream"]) for entry in entries}) == 12
    assert len({entry["mask"]["kind"] for entry in entries}) > 2 and len({entry["normal"] for entry in entries}) == 2


def test_real_masks_fit_the_normal_and_a_line_of_one_pixel_survives(normals: SampleSet, positives: SampleSet) -> None:
    plan = draws(normals, replace(WORDS, masks="real"), positives=positives)
    kinds = set()
    for entry in plan.first():
        mask = plan.load(entry).mask
        assert mask is not None and mask.shape == (61, 40) and mask.any() and set(np.unique(mask)) <= {0, 255}
        kinds.add(entry["mask"]["kind"])
        if entry["mask"]["kind"] == "line":
            assert (mask > 0).any(axis=1).sum() >= 40
    assert kinds == {"line", "blob"}, "the empty mask is never drawn"


def test_real_masks_that_are_not_there_are_named(normals: SampleSet, positives: SampleSet) -> None:
    for have in (None, positives.where(lambda sample: sample.kind == "empty")):
        with pytest.raises(DatasetError, match=r'generate\.masks = "real".*expected at least one.*shapes'):
            draws(normals, replace(WORDS, masks="real"), positives=have)


def test_shapes_and_perlin_keep_to_the_experts_region(normals: SampleSet, tmp_path: Path) -> None:
    left = Region("left", "allow", polygon=((0, 0), (20, 0), (20, 61), (0, 61)))
    write_regions(tmp_path / "regions.json", Regions(40, 61, (left,)))
    settings = replace(WORDS, regions=tmp_path / "regions.json", shapes=ShapesConfig(size_min=0.2, size_max=0.3))
    plan = draws(normals, settings)
    for entry in plan.first():
        job = plan.load(entry)
        assert job.mask is not None and job.mask.any() and not job.mask[:, 22:].any()
    perlin = draws(normals, replace(settings, method="memseg"))
    job = perlin.load(perlin.first()[0])
    assert job.mask is None and job.region is not None and not job.region[:, 22:].any()


def test_shapes_keep_to_the_part_where_it_stands_on_a_background(tmp_path: Path) -> None:
    image = np.full((60, 60, 3), 20, np.uint8)
    image[15:50, 10:40] = np.random.default_rng(0).integers(150, 200, (35, 30, 3), np.uint8)
    samples.write_image(tmp_path / "part.png", image)
    parts = SampleSet(tmp_path, (Sample("part.png", None, GOOD, "good", "a", "train"),))
    plan = Draws(parts, replace(WORDS, foreground="otsu"), 7, {"train": 12})
    for entry in plan.first():
        mask = plan.load(entry).mask
        assert (
            mask is not None
            and mask[12:53, 7:43].any()
            and cv2.countNonZero(mask) == cv2.countNonZero(mask[12:53, 7:43])
        )


def test_regions_are_painted_exactly_as_the_expert_drew_them(normals: SampleSet, tmp_path: Path) -> None:
    box = Region("scuff", "mask", polygon=((4, 4), (12, 4), (12, 30), (4, 30)))
    write_regions(tmp_path / "regions.json", Regions(40, 61, (box,)))
    plan = draws(normals, replace(WORDS, masks="regions", regions=tmp_path / "regions.json"))
    masks = {plan.load(entry).mask.tobytes() for entry in plan.first()}
    assert len(masks) == 1 and {entry["mask"]["kind"] for entry in plan.first()} == {"scuff"}
    with pytest.raises(DatasetError, match="without a mask"):
        draws(normals, replace(WORDS, masks="regions"))


def test_a_drawn_mask_that_covers_all_is_refused_with_the_normals_name(normals: SampleSet, tmp_path: Path) -> None:
    whole = Region("all", "mask", polygon=((0, 0), (40, 0), (40, 61), (0, 61)))
    write_regions(tmp_path / "regions.json", Regions(40, 61, (whole,)))
    plan = draws(normals, replace(WORDS, masks="regions", regions=tmp_path / "regions.json"))
    with pytest.raises(DatasetError, match=r"[01]\.png: all: mask covers the whole"):
        plan.load(plan.first()[0])


def test_words_are_needed_where_the_method_reads_them(normals: SampleSet) -> None:
    for method in ("diag", "in_and_out"):
        with pytest.raises(DatasetError, match=r"generate\.prompts is empty"):
            draws(normals, GenerateConfig(method=method))
    assert draws(normals, GenerateConfig(prompts=("unread",))).first()[0]["prompt"] == ""
