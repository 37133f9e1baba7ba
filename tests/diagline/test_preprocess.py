"""Any frame becomes exactly what the contract says, and no defect is lost on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagline.errors import ConfigError, DatasetError
from diagline.preprocess import LETTERBOX_GREY, RESIZE_RULES, InputContract, placement, preprocess, preprocess_mask

sides_px = st.integers(1, 400)
RESIZING = [rule for rule in RESIZE_RULES if rule != "none"]
contracts = st.builds(
    InputContract, st.integers(16, 300), st.integers(16, 300), st.sampled_from([1, 3]), st.sampled_from(RESIZING)
)


@settings(max_examples=150)
@given(sides_px, sides_px, st.sampled_from([(), (1,), (3,)]), contracts, st.integers(0, 255))
def test_any_frame_takes_the_contracts_shape(height_px, width_px, channels, contract, value):
    frame = np.full((height_px, width_px, *channels), value, np.uint8)
    image = preprocess(frame, contract)
    assert image.shape == contract.shape == (contract.height_px, contract.width_px, contract.channels)
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
    assert (frame == value).all()
    assert set(np.unique(image)) <= {value, *([LETTERBOX_GREY] if contract.resize == "letterbox" else [])}
    assert value in image


@settings(max_examples=300)
@given(st.data(), sides_px, sides_px, contracts)
def test_a_defect_of_one_pixel_survives_any_resizing(data, height_px, width_px, contract):
    mask = np.zeros((height_px, width_px), np.uint8)
    mask[data.draw(st.integers(0, height_px - 1)), data.draw(st.integers(0, width_px - 1))] = 255
    small = preprocess_mask(mask, contract)
    assert small.shape == (contract.height_px, contract.width_px) and small.dtype == np.uint8
    assert set(np.unique(small)) <= {0, 255} and small.any()


def test_a_defect_of_one_pixel_survives_when_one_side_shrinks_and_the_other_grows():
    contract = InputContract(width_px=32, height_px=128)
    for x in range(400):
        mask = np.zeros((64, 400), np.uint8)
        mask[30, x] = 255
        assert preprocess_mask(mask, contract).any(), x


@settings(max_examples=100)
@given(st.integers(20, 300), st.integers(20, 300), contracts)
def test_a_mask_stays_over_the_defect_it_marks(height_px, width_px, contract):
    frame = np.zeros((height_px, width_px), np.uint8)
    frame[height_px // 4 : height_px // 2, width_px // 2 : 3 * width_px // 4] = 255
    image, mask = preprocess(frame, contract).max(axis=2), preprocess_mask(frame, contract)
    seen = image > (LETTERBOX_GREY if contract.resize == "letterbox" else 0)
    assert (mask[seen] == 255).all()


@given(contracts)
@settings(max_examples=30)
def test_an_empty_mask_stays_empty(contract):
    assert not preprocess_mask(np.zeros((50, 70), np.uint8), contract).any()


def test_a_thin_line_keeps_its_contrast_when_one_side_shrinks_and_the_other_grows():
    frame = np.zeros((30, 400), np.uint8)
    frame[:, 101] = 255
    columns = preprocess(frame, InputContract(50, 60, 1))[:, :, 0].max(axis=0)
    assert columns.max() == 32  # a column in eight: 255 / 8


def test_bgr_becomes_rgb_and_grey_becomes_three_equal_channels():
    blue = np.zeros((16, 16, 3), np.uint8)
    blue[..., 0] = 200
    assert preprocess(blue, InputContract(16, 16))[0, 0].tolist() == [0, 0, 200]
    grey = np.full((16, 16), 90, np.uint8)
    assert preprocess(grey, InputContract(16, 16))[0, 0].tolist() == [90, 90, 90]
    assert preprocess(grey[:, :, None], InputContract(16, 16, 1)).tolist() == grey[:, :, None].tolist()


@pytest.mark.parametrize(("channel", "expected"), [(0, 11), (1, 59), (2, 30)])
def test_colour_becomes_grey_by_luminance(channel, expected):
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[..., channel] = 100
    assert preprocess(frame, InputContract(16, 16, 1))[0, 0, 0] == expected  # ITU-R BT.601: .114 B, .587 G, .299 R


def test_a_frame_at_the_networks_size_keeps_every_value():
    frame = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    for resize in RESIZE_RULES:
        assert (preprocess(frame, InputContract(24, 40, 3, resize)) == frame[:, :, ::-1]).all()


def test_letterbox_keeps_the_sides_in_proportion():
    frame = np.full((50, 100), 255, np.uint8)
    image = preprocess(frame, InputContract(64, 64, 1, "letterbox"))[:, :, 0]
    rows = np.flatnonzero((image == 255).all(axis=1))
    assert (rows[0], rows[-1]) == (16, 47) and (np.delete(image, rows, axis=0) == LETTERBOX_GREY).all()


def test_a_view_of_a_larger_frame_is_read_as_it_looks():
    frame = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    view = frame[::2, 10:60]
    for contract in (InputContract(32, 32), InputContract(50, 40), InputContract(50, 40, 1)):
        for seen in (view, view[:, :, 1]):
            image = preprocess(seen, contract)
            assert image.flags["C_CONTIGUOUS"] and (image == preprocess(seen.copy(), contract)).all()


def test_without_a_resize_rule_another_size_is_refused_with_the_remedy():
    contract = InputContract(32, 48, 1, "none")
    frame = np.zeros((48, 31), np.uint8)
    wanted = r'parts/7\.png: 31x48 px; expected 32x48, .*set input\.resize = "stretch" or "letterbox"'
    with pytest.raises(DatasetError, match=wanted):
        preprocess(frame, contract, "parts/7.png")
    with pytest.raises(DatasetError, match="mask: 31x48 px; expected 32x48"):
        preprocess_mask(frame, contract)
    assert preprocess_mask(np.full((48, 32), 1, np.uint8), contract).all()
    assert placement(48, 32, contract) == (0, 0, 48, 32)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((9, 9, 3), np.float32),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        np.zeros((9,), np.uint8),
        np.zeros((1, 9, 9, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(frame):
    with pytest.raises(ValueError, match="frame"):
        preprocess(frame, InputContract(16, 16))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ((15, 16), "input.width_px = 15"),
        ((16, 4097), "input.height_px = 4097"),
        ((16, 16, 2), "input.channels = 2"),
        ((16, 16, 3, "crop"), "input.resize = 'crop'"),
    ],
)
def test_a_contract_that_cannot_be_names_its_key(values, key):
    with pytest.raises(ConfigError, match=key):
        InputContract(*values)
