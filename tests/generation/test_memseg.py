from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagline.errors import DatasetError
from generation import masks, memseg
from generation.memseg import AUGMENTERS, MemSegSettings, paint

SIDES = st.integers(16, 150)
SETTINGS = MemSegSettings()


def picture(height_px: int, width_px: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), np.uint8)


@settings(deadline=None, max_examples=60)
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
