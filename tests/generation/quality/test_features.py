from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from generation.materials import SURFACES, paint_surface
from generation.quality.features import Reference, pyramid_features, reference


def surface(seed: int, name: str = "cast", height_px: int = 72, width_px: int = 64) -> np.ndarray:
    return paint_surface(name, height_px, width_px, np.random.default_rng(seed))


def normals(count: int, name: str = "cast") -> list[np.ndarray]:
    return [surface(seed, name) for seed in range(count)]


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (17, 16), (64, 200)])
def test_every_size_gives_a_finite_vector_of_one_length(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = pyramid_features(image)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    assert found.shape == pyramid_features(surface(0)).shape


@pytest.mark.parametrize("name", SURFACES)
def test_another_good_picture_is_near_and_another_material_is_far(name: str) -> None:
    known = reference(normals(12, name), pyramid_features)
    near = max(known.distance(pyramid_features(surface(100 + seed, name))) for seed in range(4))
    far = min(known.distance(pyramid_features(surface(100, other))) for other in SURFACES if other != name)
    assert near < 1.2
    assert far > 1.4 * near


def test_lost_texture_an_inverted_picture_and_noise_are_far() -> None:
    known = reference(normals(12), pyramid_features)
    good = surface(50)
    own = known.distance(pyramid_features(good))
    noise = np.random.default_rng(0).integers(0, 256, good.shape, np.uint8)
    for strange in (cv2.GaussianBlur(good, (0, 0), 3), 255 - good // 4, noise, np.full_like(good, 128)):
        assert known.distance(pyramid_features(strange)) > 2 * own


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_few_pictures_give_finite_distances_that_know_good_from_strange(count: int) -> None:
    known = reference(normals(count), pyramid_features)
    good, strange = known.distance(pyramid_features(surface(60))), known.distance(pyramid_features(surface(60) // 8))
    assert 0 < good < 2 < strange < 50


def test_equal_flat_grey_pictures_do_not_divide_by_zero() -> None:
    known = reference([np.full((40, 40, 3), 120, np.uint8)] * 3, pyramid_features)
    assert np.isfinite(known.own) and known.own > 0
    assert known.distance(pyramid_features(np.full((40, 40, 3), 120, np.uint8))) == 0
    assert 1 < known.distance(pyramid_features(np.full((40, 40, 3), 220, np.uint8))) < 60


def test_a_tint_on_a_grey_line_is_far_but_not_beyond_measure() -> None:
    grey = [cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) for image in normals(12)]
    known = reference(grey, pyramid_features)
    tinted = np.clip(grey[0] + np.array([0, 0, 25]), 0, 255).astype(np.uint8)
    assert 1.3 < known.distance(pyramid_features(tinted)) < 3


def test_a_feature_that_never_varied_does_not_decide_alone() -> None:
    draws = np.random.default_rng(0).normal(0, 10, (40, 10)).astype(np.float32)
    draws[:, 0] = 0
    vectors = iter(draws)
    known = reference([np.zeros((8, 8, 3), np.uint8)] * 20, lambda image: next(vectors))
    near, far = draws[25].copy(), draws[25].copy()
    far[0] = 1.0  # a tenth of what the others vary
    assert known.distance(far) < 1.1 * known.distance(near)


def test_a_reference_reads_back_from_json_bit_for_bit() -> None:
    known = reference(normals(5), pyramid_features)
    again = Reference.from_plain(json.loads(json.dumps(known.plain())))
    vector = pyramid_features(surface(9, "textile"))
    assert again.distance(vector) == known.distance(vector)
    assert again.own == known.own and np.array_equal(again.rows, known.rows)


def test_features_of_another_kind_are_refused() -> None:
    known = reference(normals(2), pyramid_features)
    with pytest.raises(ValueError, match="expected"):
        known.distance(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="finite"):
        known.distance(np.full(known.centre.shape, np.nan, np.float32))
    with pytest.raises(ValueError, match="one length"):
        reference(normals(2), lambda image: np.zeros(int(image[0, 0, 0]) + image.shape[0], np.float32))
