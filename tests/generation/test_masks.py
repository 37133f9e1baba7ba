from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagline.errors import DatasetError
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


@settings(max_examples=50)
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


def sparse(height_px: int, width_px: int, seed: int, share: float) -> np.ndarray:
    mask = np.random.default_rng(seed).random((height_px, width_px)) < share
    mask[seed % height_px, seed // 7 % width_px] = True  # never empty
    return mask.astype(np.uint8) * np.uint8(255)


SHARES = st.sampled_from([0.0, 0.01, 0.5, 1.0])


@settings(max_examples=150)
@given(source=st.tuples(SIDES, SIDES), target=st.tuples(SIDES, SIDES), seed=st.integers(0, 2**32 - 1), share=SHARES)
def test_a_fitted_mask_is_never_empty_and_no_pixel_of_it_is_lost(
    source: tuple[int, int], target: tuple[int, int], seed: int, share: float
) -> None:
    mask = sparse(*source, seed, share)
    fitted = masks.fit_mask(mask, *target)
    assert fitted.shape == target and fitted.dtype == np.uint8 and set(np.unique(fitted)) <= {0, 255}
    for row, column in np.argwhere(mask)[:40]:
        at_row, at_column = (row + 0.5) * target[0] / source[0], (column + 0.5) * target[1] / source[1]
        top, left = max(0, int(at_row) - 1), max(0, int(at_column) - 1)
        assert fitted[top : int(at_row) + 2, left : int(at_column) + 2].any(), (row, column)
    assert np.array_equal(masks.fit_mask(mask, *source), mask)


def test_thin_lines_stay_whole_when_shrunk_and_no_fatter_than_the_scale_when_enlarged() -> None:
    mask = np.zeros((90, 60), np.uint8)
    mask[:, 17] = 1  # any value above 0 is defect
    for height_px, width_px in [(9, 6), (45, 59), (90, 1), (180, 7)]:
        assert (masks.fit_mask(mask, height_px, width_px) > 0).any(axis=1).all()
    large = masks.fit_mask(mask, 270, 180)
    assert ((large > 0).sum(axis=1) == 3).all() and set(np.unique(large)) == {0, 255}
    assert not masks.fit_mask(np.zeros((90, 60), np.uint8), 9, 200).any()


@pytest.mark.parametrize(("shape", "target"), [((0, 4), (3, 3)), ((4, 4), (0, 3))])
def test_fitting_to_nothing_is_refused(shape: tuple[int, int], target: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1x1"):
        masks.fit_mask(np.zeros(shape, np.uint8), *target)


PICTURE = np.zeros((30, 20, 3), np.uint8)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            np.full((20, 30), 255, np.uint8),
            "weld: mask is 30x20 px, its picture 20x30 px; expected the same size; export",
        ),
        (np.zeros((30, 20), np.uint8), "weld: mask is empty; expected at least one pixel; mark where"),
        (np.full((30, 20), 255, np.uint8), "weld: mask covers the whole 20x30 px picture; expected some good surface"),
        (np.full((30, 20, 3), 255, np.uint8), "weld: mask is of shape"),
    ],
)
def test_a_mask_nothing_can_be_painted_in_is_refused_and_says_why(mask: np.ndarray, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        masks.check_mask(mask, PICTURE, "weld")


def test_a_mask_of_one_pixel_and_one_that_leaves_one_pixel_are_usable() -> None:
    one, most = np.zeros((30, 20), np.uint8), np.full((30, 20), 255, np.uint8)
    one[3, 4], most[3, 4] = 255, 0
    masks.check_mask(one, PICTURE, "one")
    masks.check_mask(most, PICTURE, "most")


@settings(max_examples=60)
@given(height_px=SIDES, width_px=SIDES, seed=st.integers(0, 2**32 - 1), share=SHARES)
def test_a_mask_comes_back_from_its_text(height_px: int, width_px: int, seed: int, share: float) -> None:
    mask = sparse(height_px, width_px, seed, share)
    text = masks.encode_mask(mask)
    assert text.isascii() and "\n" not in text
    assert np.array_equal(masks.decode_mask(text), mask)


def test_the_text_of_a_mask_is_small() -> None:
    mask = np.zeros((632, 224), np.uint8)
    mask[100:300, 50:90] = 255
    assert len(masks.encode_mask(mask)) < 400


def test_text_that_is_no_mask_is_refused() -> None:
    whole = base64.b64decode(masks.encode_mask(sparse(30, 20, 1, 0.3)))
    for text in ("?", "", base64.b64encode(b"GIF89a").decode(), base64.b64encode(whole[:-20]).decode(), "ü"):
        with pytest.raises(DatasetError, match="restore the record"):
            masks.decode_mask(text)
