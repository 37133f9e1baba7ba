from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation import masks

SIDES = st.integers(1, 90)


def slow_perlin(height_px: int, width_px: int, scale_y: int, scale_x: int, rng: np.random.Generator) -> np.ndarray:
    """Perlin's definition, pixel by pixel, on cells of the next whole size."""
    cell_y, cell_x = -(-height_px // scale_y), -(-width_px // scale_x)
    angle = rng.uniform(0, 2 * np.pi, ((height_px - 1) // cell_y + 2, (width_px - 1) // cell_x + 2))
    noise = np.zeros((height_px, width_px))
    for row in range(height_px):
        for column in range(width_px):
            (top, v), (left, u) = divmod(row / cell_y, 1), divmod(column / cell_x, 1)
            for down in (0, 1):
                for right in (0, 1):
                    theta = angle[int(top) + down, int(left) + right]
                    dot = np.cos(theta) * (u - right) + np.sin(theta) * (v - down)
                    near_y, near_x = (1 - abs(v - down)), (1 - abs(u - right))
                    fade = [t * t * t * (t * (t * 6 - 15) + 10) for t in (near_y, near_x)]
                    noise[row, column] += fade[0] * fade[1] * dot
    return noise * np.sqrt(2)


@pytest.mark.parametrize("size", [(32, 32), (63, 23), (7, 50)])
@pytest.mark.parametrize("scales", [(1, 1), (4, 8), (32, 2)])
def test_noise_is_perlins_definition_also_where_scales_do_not_divide_sides(
    size: tuple[int, int], scales: tuple[int, int]
) -> None:
    fast = masks.perlin_noise(*size, *scales, np.random.default_rng(5))
    assert fast.shape == size and fast.dtype == np.float32
    np.testing.assert_allclose(fast, slow_perlin(*size, *scales, np.random.default_rng(5)), atol=2e-5)


@settings(deadline=None, max_examples=50)
@given(height_px=SIDES, width_px=SIDES, seed=st.integers(0, 2**32 - 1))
def test_masks_have_the_asked_size_and_two_values(height_px: int, width_px: int, seed: int) -> None:
    mask = masks.perlin_mask(height_px, width_px, np.random.default_rng(seed))
    assert mask.shape == (height_px, width_px) and mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 255}
    assert np.array_equal(mask, masks.perlin_mask(height_px, width_px, np.random.default_rng(seed)))


def test_rotation_leaves_no_part_of_a_long_picture_without_defects() -> None:
    drawn = [masks.perlin_mask(316, 112, np.random.default_rng([3, index])) > 0 for index in range(300)]
    share = np.mean(drawn, axis=0)
    ends, middle = np.concatenate([share[:40], share[-40:]]).mean(), share[138:178].mean()
    assert ends > 0.6 * middle


@pytest.mark.parametrize("arguments", [(0, 8, 1, 1), (8, 0, 1, 1), (8, 8, 0, 1)])
def test_noise_of_nothing_is_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        masks.perlin_noise(*arguments, np.random.default_rng(0))


@pytest.mark.parametrize(("part_grey", "background_grey"), [(200, 40), (40, 200)])
def test_foreground_is_the_largest_component_bright_or_dark_with_its_holes(
    part_grey: int, background_grey: int
) -> None:
    image = np.full((80, 60, 3), background_grey, np.uint8)
    image[20:60, 10:50] = part_grey
    image[35:45, 25:35] = background_grey  # a hole
    image[2:5, 2:5] = part_grey  # a speck
    expected = np.zeros((80, 60), bool)
    expected[20:60, 10:50] = True
    found = masks.foreground_mask(image)
    assert set(np.unique(found)) == {0, 255}
    assert ((found > 0) != expected).mean() < 0.03
    assert found[40, 30] == 255 and found[3, 3] == 0


def test_a_picture_of_one_grey_is_all_foreground() -> None:
    assert (masks.foreground_mask(np.full((20, 30, 3), 90, np.uint8)) == 255).all()
