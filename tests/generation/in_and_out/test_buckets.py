from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generation.in_and_out.buckets import bucket_of, plan, step_of

SIDES = st.integers(16, 5000)


@settings(max_examples=300)
@given(width_px=SIDES, height_px=SIDES, size=st.sampled_from([(256, 32), (512, 64), (768, 96)]))
def test_a_bucket_keeps_the_aspect_and_up_to_one_to_four_the_area(
    width_px: int, height_px: int, size: tuple[int, int]
) -> None:
    size_px, step = size
    assert step_of(size_px, 8) == step
    width, height = bucket_of(width_px, height_px, size_px, step)
    assert width % step == height % step == 0 and min(width, height) >= step
    assert bucket_of(height_px, width_px, size_px, step) == (height, width)
    aspect = width_px / height_px
    if 1 / 32 <= aspect <= 32:
        assert abs(math.log(width / height / aspect)) < math.log(1.09)
    if 1 / 4 <= aspect <= 4:
        assert abs(math.log(width * height / size_px**2)) <= math.log(1.25) + 1e-9


def test_the_steps_are_whole_cells() -> None:
    assert [step_of(size_px, 8) for size_px in (16, 32, 64, 128, 512)] == [8, 8, 8, 16, 64]
    assert step_of(512, 24) == 48
    with pytest.raises(ValueError, match="at least 1"):
        bucket_of(0, 5, 512, 64)


def test_kolektorsdd2s_601_sizes_fall_into_few_buckets() -> None:
    found = {bucket_of(width, height, 512, 64) for width in range(220, 241) for height in range(600, 661)}
    assert found == {(320, 832), (320, 896), (320, 960)}


@settings(max_examples=100)
@given(
    real=st.lists(st.sampled_from([(8, 24), (16, 16), (24, 8)]), min_size=1, max_size=12),
    prior=st.integers(0, 9),
    repeats=st.integers(1, 5),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_epoch_shows_each_picture_its_times_in_batches_of_one_bucket(
    real: list[tuple[int, int]], prior: int, repeats: int, batch_size: int, seed: int
) -> None:
    sizes = [*real, *[(16, 16)] * prior]
    seen: Counter[int] = Counter()
    lengths = set()
    for epoch in range(3):
        batches = plan(real, sizes[len(real) :], repeats, batch_size, seed, epoch)
        assert batches == plan(real, sizes[len(real) :], repeats, batch_size, seed, epoch)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        assert all(len({sizes[place] for place in batch}) == 1 for batch in batches)
        views = Counter(place for batch in batches for place in batch)
        assert all(views[place] == repeats for place in range(len(real)))
        assert sum(views.values()) == len(real) * repeats * (2 if prior else 1)
        seen += views
        lengths.add(len(batches))
    assert len(lengths) == 1, "the learning rate's schedule counts on equal epochs"
    turns = [seen[len(real) + place] for place in range(prior)]
    assert not turns or max(turns) - min(turns) <= 1, "class pictures take turns across epochs"


def test_the_order_follows_seed_and_epoch() -> None:
    orders = [plan([(8, 8)] * 9, [], 2, 4, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert all(orders.count(order) == 1 for order in orders)
