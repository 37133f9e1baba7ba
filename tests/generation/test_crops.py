from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generation import crops
from generation.crops import Crop

SIDES = st.integers(1, 120)


def picture(height_px: int, width_px: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), np.uint8)


def some_mask(height_px: int, width_px: int, seed: int) -> np.ndarray:
    """A line of 1 to 4 px, a pixel, a box or scattered pixels."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height_px, width_px), np.uint8)
    (x0, x1), (y0, y1) = rng.integers(0, width_px, 2), rng.integers(0, height_px, 2)
    match seed % 4:
        case 0:
            cv2.line(mask, (int(x0), int(y0)), (int(x1), int(y1)), 255, int(rng.integers(1, 5)))
        case 1:
            mask[y0, x0] = 255
        case 2:
            mask[min(y0, y1) : max(y0, y1) + 1, min(x0, x1) : max(x0, x1) + 1] = 255
        case _:
            mask[rng.random(mask.shape) < 0.05] = 255
            mask[y0, x0] = 255
    return mask


@settings(max_examples=150)
@given(height_px=SIDES, width_px=SIDES, seed=st.integers(0, 2**31), padding_px=st.integers(0, 60))
def test_the_square_holds_the_mask_and_its_margin_and_leaves_the_picture_only_where_it_must(
    height_px: int, width_px: int, seed: int, padding_px: int
) -> None:
    mask = some_mask(height_px, width_px, seed)
    crop = crops.around(mask, padding_px)
    rows, columns = np.nonzero(mask)
    wanted = max(np.ptp(rows), np.ptp(columns)) + 1 + 2 * padding_px
    assert crop.side == min(wanted, max(height_px, width_px))
    for start, length, low, high in (
        (crop.top, height_px, rows.min(), rows.max()),
        (crop.left, width_px, columns.min(), columns.max()),
    ):
        assert start <= low and high < start + crop.side
        if crop.side <= length:
            assert 0 <= start <= length - crop.side
        else:
            assert start <= 0 and start + crop.side >= length


@settings(max_examples=100)
@given(
    height_px=SIDES,
    width_px=SIDES,
    seed=st.integers(0, 2**31),
    padding_px=st.integers(0, 40),
    feather_px=st.floats(0, 6),
    cells=st.integers(1, 12),
)
def test_outside_the_mask_every_bit_stays_and_inside_the_square_comes_through(
    height_px: int, width_px: int, seed: int, padding_px: int, feather_px: float, cells: int
) -> None:
    normal, mask = picture(height_px, width_px, seed), some_mask(height_px, width_px, seed)
    before = normal.copy()
    crop = crops.around(mask, padding_px)
    assert crops.cut(normal, crop, 8 * cells).shape == (8 * cells, 8 * cells, 3)
    square = np.full((8 * cells, 8 * cells, 3), 255, np.uint8)
    normal[mask > 0] = 0
    painted = crops.paste(normal, square, mask, crop, feather_px)
    assert np.array_equal(painted[mask == 0], before[mask == 0])
    weight = crops.feather(mask, feather_px)
    assert np.array_equal(painted[mask > 0][:, 0], np.rint(weight[mask > 0] * np.float32(255)).astype(np.uint8))
    assert painted.max() == 255


@settings(max_examples=60)
@given(height_px=SIDES, width_px=SIDES, seed=st.integers(0, 2**31), padding_px=st.integers(0, 40))
def test_a_square_that_nothing_was_painted_on_goes_back_unchanged(
    height_px: int, width_px: int, seed: int, padding_px: int
) -> None:
    normal, mask = picture(height_px, width_px, seed), some_mask(height_px, width_px, seed)
    crop = crops.around(mask, padding_px)
    same = crops.paste(normal, crops.cut(normal, crop, crop.side), mask, crop, 0.0)
    assert np.array_equal(same, normal)


def test_a_round_spot_stays_round_on_a_long_picture() -> None:
    image, mask = np.zeros((316, 112, 3), np.uint8), np.zeros((316, 112), np.uint8)
    cv2.circle(image, (30, 200), 12, (255, 255, 255), -1)
    cv2.line(mask, (30, 120), (30, 280), 255, 3)
    crop = crops.around(mask, 16)
    assert crop.side > image.shape[1]
    square = crops.cut(image, crop, 256)
    rows, columns = np.nonzero(square[:, :, 0] > 127)
    inside = np.abs(columns - (30 - crop.left) * 256 / crop.side) < 20  # not its mirror image
    assert abs(np.ptp(rows[inside]) - np.ptp(columns[inside])) <= 1


def test_beyond_a_narrow_picture_its_surface_goes_on() -> None:
    image, mask = picture(40, 10), np.zeros((40, 10), np.uint8)
    mask[2:38, 4] = 255
    crop = crops.around(mask, 2)
    assert crop == Crop(-15, 0, 40)
    square = crops.cut(image, crop, 40)
    assert np.array_equal(square[:, 15:25], image)
    assert np.array_equal(square[:, 14], image[:, 1]) and np.array_equal(square[:, 25], image[:, 8])


@settings(max_examples=150)
@given(
    height_px=st.integers(1, 300),
    width_px=st.integers(1, 300),
    seed=st.integers(0, 2**31),
    cells=st.integers(1, 20),
    cell_px=st.sampled_from([4, 8, 16]),
)
def test_no_masked_pixel_is_lost_on_the_way_to_the_latents(
    height_px: int, width_px: int, seed: int, cells: int, cell_px: int
) -> None:
    mask = some_mask(height_px, width_px, seed)
    crop = crops.around(mask, 3)
    square = crops.cut_mask(mask, crop, cells * cell_px, cell_px)
    assert square.shape == (cells * cell_px,) * 2 and set(np.unique(square)) <= {0, 255}
    tensor = torch.from_numpy(square / np.float32(255))[None, None]
    for mode in ("nearest", "bilinear"):  # how diffusers shrinks masks
        latent = torch.nn.functional.interpolate(tensor, size=(cells, cells), mode=mode)[0, 0].numpy()
        assert set(np.unique(latent)) <= {0.0, 1.0}
        for row, column in zip(*np.nonzero(mask), strict=True):
            y = int((row - crop.top + 0.5) * cells / crop.side)
            x = int((column - crop.left + 0.5) * cells / crop.side)
            assert latent[y, x] == 1.0
    distance = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    for y, x in zip(*np.nonzero(square[::cell_px, ::cell_px]), strict=True):  # and none is masked far from it
        row, column = ((each + 0.5) * crop.side / cells for each in (y, x))
        row, column = row + crop.top, column + crop.left
        near = distance[min(max(int(row), 0), height_px - 1), min(max(int(column), 0), width_px - 1)]
        assert near <= 1.5 * (crop.side / cells + 1)


@pytest.mark.parametrize("width_px", range(1, 12))
@pytest.mark.parametrize("feather_px", [0.0, 0.5, 1.0, 2.0, 2.5, 4.0, 30.0])
def test_the_middle_of_a_band_of_any_width_has_full_weight(width_px: int, feather_px: float) -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[5:55, 20 : 20 + width_px] = 255
    weight = crops.feather(mask, feather_px)
    assert (weight[mask == 0] == 0).all() and (weight[mask > 0] > 0).all() and weight.max() == 1.0
    middle = weight[30, 20 : 20 + width_px]
    assert middle[(width_px - 1) // 2] == 1.0
    depth = np.minimum(np.arange(1, width_px + 1), np.arange(width_px, 0, -1))
    full_px = min(max(feather_px, 1.0), depth.max())
    assert np.allclose(middle, np.minimum(depth / full_px, 1.0), atol=1e-3)


def test_a_thin_crack_out_of_a_wide_stain_keeps_its_full_weight() -> None:
    mask = np.zeros((80, 120), np.uint8)
    mask[10:70, 5:60] = 255
    mask[40, 60:115] = 255
    weight = crops.feather(mask, 6.0)
    assert (weight[40, 68:115] == 1.0).all()
    assert weight[30, 5] == pytest.approx(1 / 6, abs=1e-3) and weight[40, 30] == 1.0


def test_a_mask_is_not_faded_at_the_pictures_border() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 255
    weight = crops.feather(mask, 4.0)
    assert (weight[:, 39] == 1.0).all() and (weight[0] == weight[20]).all()
    assert (crops.feather(np.full((9, 9), 255, np.uint8), 4.0) == 1.0).all()
