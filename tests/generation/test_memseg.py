from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagline.errors import DatasetError
from generation import masks, memseg
from generation.memseg import AUGMENTERS, MemSegPainter, MemSegSettings, paint
from generation.painting import Job, Painter

SIDES = st.integers(16, 150)
SETTINGS = MemSegSettings()


def picture(height_px: int, width_px: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), np.uint8)


@settings(max_examples=60)
@given(height_px=SIDES, width_px=SIDES, seed=st.integers(0, 2**32 - 1), textured=st.booleans())
def test_outside_the_mask_nothing_changes_and_the_mask_is_never_empty(
    height_px: int, width_px: int, seed: int, textured: bool
) -> None:
    image = picture(height_px, width_px, seed)
    before = image.copy()
    texture = picture(31, 47, seed + 1) if textured else None
    painted = paint(image, np.random.default_rng(seed), SETTINGS, texture)
    assert painted.image_bgr.shape == image.shape and painted.image_bgr.dtype == np.uint8
    assert painted.mask.shape == image.shape[:2] and set(np.unique(painted.mask)) <= {0, 255}
    assert np.array_equal(image, before)
    outside = painted.mask == 0
    assert np.array_equal(painted.image_bgr[outside], image[outside])
    assert 0 < (~outside).mean() <= SETTINGS.max_cover
    assert (painted.image_bgr != image).any()


def test_an_empty_mask_and_one_that_covers_too_much_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = np.zeros((40, 40), np.uint8)
    wanted[3:20, 5:30] = 255
    queue = [np.zeros((40, 40), np.uint8), np.full((40, 40), 255, np.uint8), wanted]
    monkeypatch.setattr(masks, "perlin_mask", lambda height_px, width_px, rng: queue.pop(0))
    painted = paint(picture(40, 40), np.random.default_rng(0), SETTINGS)
    assert np.array_equal(painted.mask, wanted)
    assert painted.facts["draws"] == 3


def test_draws_that_never_fit_end_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    monkeypatch.setattr(
        masks,
        "perlin_mask",
        lambda height_px, width_px, rng: tries.append(1) or np.zeros((height_px, width_px), np.uint8),
    )
    with pytest.raises(DatasetError, match=r"picture of 30x40 px.*no usable defect in 7 draws"):
        paint(picture(40, 30), np.random.default_rng(0), replace(SETTINGS, tries=7))
    assert len(tries) == 7


def test_the_blend_is_the_papers_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    image, texture = picture(48, 64), picture(48, 64, 1)  # of one size: the texture is neither scaled nor cropped
    settings_ = replace(SETTINGS, texture_share=1.0)
    painted = paint(image, np.random.default_rng(2), settings_, texture)
    delta = painted.facts["opacity"]
    inside = painted.mask > 0
    expected = delta * texture[inside].astype(float) + (1 - delta) * image[inside].astype(float)
    assert np.abs(painted.image_bgr[inside] - expected).max() <= 0.5 + 1e-3
    change = np.abs(painted.image_bgr.astype(int) - image)[inside].mean()
    assert painted.facts["contrast"] == pytest.approx(change)
    assert painted.facts["cover"] == pytest.approx(inside.mean())


def test_textures_serve_half_of_the_draws_and_opacity_keeps_to_its_range() -> None:
    image, texture = picture(40, 32), picture(50, 50, 1)
    facts = [paint(image, np.random.default_rng([4, index]), SETTINGS, texture).facts for index in range(300)]
    share = np.mean([fact["source"] == "texture" for fact in facts])
    assert 0.4 < share < 0.6
    opacity = [fact["opacity"] for fact in facts]
    assert 0.15 <= min(opacity) < 0.2 and 0.95 < max(opacity) <= 1.0
    assert {fact["source"] for fact in (paint(image, np.random.default_rng(i), SETTINGS).facts for i in range(20))} == {
        "structure"
    }


def test_the_structure_source_uses_three_different_augmenters_of_all_ten() -> None:
    image = picture(40, 32)
    drawn = [paint(image, np.random.default_rng([5, index]), SETTINGS).facts["augmenters"] for index in range(80)]
    assert all(len(set(names)) == 3 for names in drawn)
    assert {name for names in drawn for name in names} == set(AUGMENTERS) and len(AUGMENTERS) == 10


@pytest.mark.parametrize("name", AUGMENTERS)
def test_every_augmenter_changes_the_picture_and_keeps_its_form(name: str) -> None:
    image = picture(33, 27) // 2 + 30  # room above and below for autocontrast
    changed = AUGMENTERS[name](image, np.random.default_rng(1))
    assert changed.shape == image.shape and changed.dtype == np.uint8
    assert (changed != image).any()


@pytest.mark.parametrize(("height_px", "width_px", "rows", "columns"), [(64, 32, 8, 4), (32, 64, 4, 8)])
def test_the_grid_shuffles_whole_cells_its_long_side_along_the_pictures(
    height_px: int, width_px: int, rows: int, columns: int
) -> None:
    cells = np.arange(32, dtype=np.uint8).reshape(rows, columns)
    image = np.repeat(np.kron(cells, np.ones((8, 8), np.uint8))[:, :, None], 3, axis=2)
    assert image.shape == (height_px, width_px, 3)
    settings_ = replace(SETTINGS, augmenters=0, opacity_low=1.0)
    painted = paint(image, np.random.default_rng(8), settings_)
    shuffled, _ = memseg._structure_source(image, np.random.default_rng(8), settings_)
    blocks = shuffled[:, :, 0].reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3).reshape(32, 64)
    assert (blocks == blocks[:, :1]).all()  # no cell is torn
    assert sorted(blocks[:, 0]) == list(range(32)) and list(blocks[:, 0]) != list(range(32))
    assert painted.facts["augmenters"] == []


def test_the_same_generator_paints_the_same_and_another_does_not() -> None:
    image, texture = picture(50, 34), picture(40, 40, 1)
    first, again, other = (paint(image, np.random.default_rng(seed), SETTINGS, texture) for seed in (1, 1, 2))
    assert np.array_equal(first.image_bgr, again.image_bgr) and np.array_equal(first.mask, again.mask)
    assert first.facts == again.facts
    assert not np.array_equal(first.mask, other.mask)


def test_a_part_on_a_background_keeps_its_background() -> None:
    image = np.full((90, 70, 3), 20, np.uint8)
    image[25:70, 20:55] = 150 + picture(45, 35) // 4
    part = masks.foreground_mask(image) > 0
    for index in range(20):
        painted = paint(image, np.random.default_rng([6, index]), replace(SETTINGS, foreground="otsu"))
        assert not (painted.mask[~part] > 0).any() and painted.mask.any()
        assert painted.facts["cover"] == pytest.approx((painted.mask > 0).sum() / part.sum())


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_grey_still_gets_a_visible_defect(value: int) -> None:
    image = np.full((40, 30, 3), value, np.uint8)
    for index in range(20):
        assert (paint(image, np.random.default_rng(index), SETTINGS).image_bgr != image).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"foreground": "all"},
        {"opacity_low": 0.0},
        {"opacity_low": 0.9, "opacity_high": 0.5},
        {"texture_share": 1.5},
        {"max_cover": 0.0},
        {"augmenters": 11},
        {"tries": 0},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(SETTINGS, **wrong)


def box(height_px: int, width_px: int, top: int, left: int, rows: int, columns: int) -> np.ndarray:
    mask = np.zeros((height_px, width_px), np.uint8)
    mask[top : top + rows, left : left + columns] = 255
    return mask


@settings(max_examples=80)
@given(height_px=SIDES, width_px=SIDES, seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.05, 0.9]))
def test_a_given_mask_is_filled_exactly_and_nothing_else_changes(
    height_px: int, width_px: int, seed: int, share: float
) -> None:
    image, rng = picture(height_px, width_px, seed), np.random.default_rng(seed)
    mask = (rng.random((height_px, width_px)) < share).astype(np.uint8) * np.uint8(255)
    mask[0, 0], mask[-1, -1] = 255, 0
    before, region = mask.copy(), box(height_px, width_px, height_px // 2, 0, 3, 3)
    painted = paint(image, np.random.default_rng(seed), replace(SETTINGS, foreground="otsu"), mask=mask, region=region)
    assert np.array_equal(painted.mask, before) and np.array_equal(mask, before)
    assert np.array_equal(painted.image_bgr[mask == 0], image[mask == 0])
    assert (painted.image_bgr[mask > 0] != image[mask > 0]).any() and painted.facts["contrast"] > 0
    assert painted.facts["cover"] == pytest.approx((mask > 0).mean())


def test_a_given_mask_that_a_draw_leaves_unseen_is_filled_again() -> None:
    image = np.full((40, 40, 3), 7, np.uint8)
    image[:20] = 250  # shuffled cells are often of the grey they replace
    mask = box(40, 40, 3, 3, 2, 2)
    plain = replace(SETTINGS, augmenters=0)
    draws = [paint(image, np.random.default_rng(seed), plain, mask=mask).facts["draws"] for seed in range(30)]
    assert min(draws) == 1 and max(draws) > 1


def test_a_given_mask_in_which_nothing_can_show_ends_in_an_error() -> None:
    grey = np.full((40, 30, 3), 90, np.uint8)
    with pytest.raises(DatasetError, match=r"picture of 30x40 px, given mask of 4 px: no visible change in 50 draws"):
        paint(grey, np.random.default_rng(0), replace(SETTINGS, augmenters=0), mask=box(40, 30, 3, 3, 2, 2))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((30, 40), 255, np.uint8), "given mask: mask is 40x30 px, its picture 30x40"),
        (np.zeros((40, 30), np.uint8), "given mask: mask is empty"),
        (np.full((40, 30), 255, np.uint8), "given mask: mask covers the whole"),
    ],
)
def test_given_masks_that_cannot_be_used_are_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        paint(picture(40, 30), np.random.default_rng(0), SETTINGS, mask=mask)


@settings(max_examples=60)
@given(height_px=SIDES, width_px=SIDES, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_perlin_masks_keep_inside_the_region_however_small(
    height_px: int, width_px: int, seed: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height_px - 1)), data.draw(st.integers(0, width_px - 1))
    region = box(height_px, width_px, top, left, data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60)))
    image = picture(height_px, width_px, seed)
    painted = paint(image, np.random.default_rng(seed), SETTINGS, region=region)
    assert painted.mask.any() and not painted.mask[region == 0].any()
    assert np.array_equal(painted.image_bgr[painted.mask == 0], image[painted.mask == 0])


def test_a_region_costs_no_extra_draws_and_one_of_everything_changes_nothing() -> None:
    image, everywhere = picture(120, 90), np.full((120, 90), 255, np.uint8)
    small = box(120, 90, 60, 40, 2, 2)
    draws = []
    for seed in range(40):
        free, framed = (paint(image, np.random.default_rng(seed), SETTINGS, region=r) for r in (None, everywhere))
        assert np.array_equal(free.image_bgr, framed.image_bgr) and free.facts == framed.facts
        draws.append(paint(image, np.random.default_rng(seed), SETTINGS, region=small).facts["draws"])
    assert np.mean(draws) < 2


def test_a_region_meets_the_part_on_its_background() -> None:
    image = np.full((90, 70, 3), 20, np.uint8)
    image[25:70, 20:55] = 150 + picture(45, 35) // 4
    otsu = replace(SETTINGS, foreground="otsu")
    part = masks.foreground_mask(image) > 0
    region = box(90, 70, 0, 0, 40, 70)
    for seed in range(10):
        painted = paint(image, np.random.default_rng(seed), otsu, region=region)
        assert painted.mask.any() and not painted.mask[~part | (region == 0)].any()
    with pytest.raises(DatasetError, match="allowed region lies beside the part that otsu finds"):
        paint(image, np.random.default_rng(0), otsu, region=box(90, 70, 0, 0, 10, 10))


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (np.zeros((40, 30), np.uint8), "allowed region covers no pixel"),
        (np.full((30, 40), 255, np.uint8), "region is 40x30 px, its picture 30x40"),
    ],
)
def test_regions_that_cannot_be_used_are_refused(region: np.ndarray, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        paint(picture(40, 30), np.random.default_rng(0), SETTINGS, region=region)


def test_the_painter_paints_each_job_from_its_own_stream() -> None:
    texture, mask, region = picture(31, 47, 9), box(40, 30, 5, 5, 9, 9), box(40, 30, 20, 10, 12, 12)
    jobs = [
        Job(picture(40, 30, 1), None, (7, 0, 1), texture_bgr=texture),
        Job(picture(40, 30, 2), mask, (7, 0, 2), prompt="unread"),
        Job(picture(40, 30, 3), None, (7, 0, 3), region=region),
    ]
    painter: Painter = MemSegPainter(SETTINGS)
    together, alone = painter.paint(jobs), [painter.paint([job])[0] for job in jobs]
    for job, first, again in zip(jobs, together, alone, strict=True):
        rng = np.random.default_rng([*job.stream, 1])
        expected = paint(job.normal_bgr, rng, SETTINGS, job.texture_bgr, job.mask, job.region)
        for painted in (first, again):
            assert np.array_equal(painted.image_bgr, expected.image_bgr)
            assert np.array_equal(painted.mask, expected.mask) and painted.facts == expected.facts
    assert np.array_equal(together[1].mask, mask) and not together[2].mask[region == 0].any()
    assert painter.name == "memseg" and painter.batch_size == 1 and painter.keeps_outside


def test_the_painters_facts_build_it_again() -> None:
    settings_ = replace(SETTINGS, opacity_low=0.5, foreground="otsu")
    facts = MemSegPainter(settings_).facts()
    assert facts["method"] == "memseg" and MemSegSettings(**facts["settings"]) == settings_
    assert facts["settings"] == asdict(settings_) and set(facts["versions"]) == {"numpy", "opencv"}


def test_memseg_starts_without_the_workstations_libraries() -> None:
    heavy = ("torch", "diffusers", "transformers", "peft", "gradio", "accelerate", "torchvision")
    code = f"import sys\nfor name in {heavy}: sys.modules[name] = None\nimport generation.memseg, generation.shapes"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_grey_picture_gets_grey_defects_and_a_coloured_one_coloured_ones() -> None:
    grey = np.repeat(picture(40, 32)[:, :, :1], 3, axis=2)
    textured = [paint(grey, np.random.default_rng(index), SETTINGS, picture(30, 30, 1)) for index in range(20)]
    for painted in [*textured, *(paint(grey, np.random.default_rng(index), SETTINGS) for index in range(20))]:
        assert (painted.image_bgr == painted.image_bgr[:, :, :1]).all()
    coloured = paint(picture(40, 32), np.random.default_rng(0), SETTINGS).image_bgr
    assert (coloured != coloured[:, :, :1]).any()
