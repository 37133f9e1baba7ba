from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from diagline.config_generate import QualityConfig
from diagline.errors import DatasetError
from generation import quality
from generation.materials import SURFACES, paint_surface
from generation.painting import Job, Painted
from generation.quality import Calibration, Scores, calibrate, judge, pyramid_features, score, visibility
from generation.quality.duplicates import Signature, correlation

SETTINGS = QualityConfig()
SIDE_PX = 128


def surface(seed: int, name: str = "cast", height_px: int = SIDE_PX, width_px: int = SIDE_PX) -> np.ndarray:
    return paint_surface(name, height_px, width_px, np.random.default_rng(seed))


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def calibration(name: str, count: int = 10) -> Calibration:
    return calibrate([surface(seed, name) for seed in range(count)], pyramid_features, SETTINGS, 7)


@pytest.fixture(scope="module")
def calibrations() -> dict[str, Calibration]:
    return {name: calibration(name) for name in SURFACES}


@pytest.fixture(scope="module")
def cast(calibrations: dict[str, Calibration]) -> Calibration:
    return calibrations["cast"]


def blob(side_px: int = SIDE_PX) -> np.ndarray:
    mask = np.zeros((side_px, side_px), np.uint8)
    cv2.ellipse(mask, (side_px // 2, side_px // 2), (22, 15), 30, 0, 360, 255, -1)
    return mask


def scratch(thickness_px: int) -> np.ndarray:
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.line(mask, (30, 35), (90, 80), 255, thickness_px)
    return mask


def shifted(normal: np.ndarray, mask: np.ndarray, levels: float | tuple[float, float, float]) -> np.ndarray:
    change = np.broadcast_to(np.asarray(levels, float), (3,)) * (mask[..., None] > 0)
    return np.clip(normal + change, 0, 255).round().astype(np.uint8)


def judged(
    normal: np.ndarray, image: np.ndarray, mask: np.ndarray | None, known: Calibration, keeps_outside: bool = True
) -> tuple[Scores, str | None]:
    scores = score(Job(normal, mask, (0,)), Painted(image, mask, {}), known, pyramid_features, keeps_outside)
    return scores, judge(scores, known, SETTINGS, keeps_outside)


# (a) visible


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("thickness_px", [1, 2])
def test_a_thin_scratch_that_one_sees_passes(
    name: str, thickness_px: int, calibrations: dict[str, Calibration]
) -> None:
    normal, mask = surface(40, name), scratch(thickness_px)
    assert judged(normal, shifted(normal, mask, -55), mask, calibrations[name])[1] is None


@pytest.mark.parametrize("name", SURFACES)
def test_a_thin_scratch_in_a_generous_mask_passes(name: str, calibrations: dict[str, Calibration]) -> None:
    normal = surface(41, name)
    mask = cv2.dilate(scratch(1), np.ones((41, 41), np.uint8))
    assert judged(normal, shifted(normal, scratch(2), 60), mask, calibrations[name])[1] is None


@pytest.mark.parametrize("name", SURFACES)
def test_an_unchanged_region_fails(name: str, calibrations: dict[str, Calibration]) -> None:
    normal = surface(42, name)
    scores, reason = judged(normal, normal.copy(), blob(), calibrations[name])
    assert scores.visibility == 0
    assert reason is not None and reason.startswith("invisible: change 0.00 of")


@pytest.mark.parametrize("name", SURFACES)
def test_a_level_of_difference_fails_however_smooth_the_surface(
    name: str, calibrations: dict[str, Calibration]
) -> None:
    normal = surface(43, name)
    reason = judged(normal, shifted(normal, blob(), 1), blob(), calibrations[name])[1]
    assert reason is not None and reason.startswith("invisible")


@pytest.mark.parametrize("name", SURFACES)
def test_surface_redrawn_as_good_surface_fails(name: str, calibrations: dict[str, Calibration]) -> None:
    rejected = 0
    for seed in range(20):
        normal, donor = surface(200 + seed, name), surface(300 + seed, name)
        redrawn = visibility.redrawn(normal, blob(), donor, (0.3, 0.4))
        assert (redrawn != normal).any()
        rejected += judged(normal, redrawn, blob(), calibrations[name])[1] is not None
    assert rejected >= 18  # visible_quantile = 0.95


def test_a_faint_blend_fails_where_the_texture_hides_it_and_the_same_defect_at_full_strength_passes(
    cast: Calibration,
) -> None:
    normal, mask = surface(44), blob()
    source = surface(45)  # the same surface, from another part, at 0.15
    faint = np.where(mask[..., None] > 0, cv2.addWeighted(source, 0.15, normal, 0.85, 0), normal)
    full = shifted(normal, mask, -45)
    assert (judged(normal, faint, mask, cast)[1] or "").startswith("invisible")
    assert judged(normal, full, mask, cast)[1] is None


def test_a_patch_without_texture_on_a_rough_surface_is_visible(cast: Calibration) -> None:
    normal, mask = surface(46), blob()
    worn = np.where(mask[..., None] > 0, cv2.GaussianBlur(normal, (0, 0), 4), normal)
    assert judged(normal, worn, mask, cast)[1] is None


def test_a_stain_of_the_surface_s_brightness_is_visible_by_its_colour(cast: Calibration) -> None:
    normal, mask = surface(47), blob()
    stained = shifted(normal, mask, (-20, -4, 15))  # luma stays
    assert judged(normal, stained, mask, cast)[1] is None


def test_a_broad_faint_shadow_that_the_texture_hides_pixel_by_pixel_is_visible(cast: Calibration) -> None:
    normal, mask = surface(56), blob()
    assert judged(normal, shifted(normal, mask, -12), mask, cast)[1] is None


def test_a_thin_line_is_not_smoothed_away() -> None:
    normal, lines = surface(57, "ceramic"), [scratch(1), scratch(9)]
    thin, thick = (visibility.change_views(normal, shifted(normal, line, -40), line)[0] for line in lines)
    assert 0.5 * thick < thin <= thick


def test_a_defect_beside_the_part_s_outline_is_visible() -> None:
    parts = [surface(seed) for seed in range(6)]
    for part in parts:
        part[:, :40] = 5
    known = calibrate(parts, pyramid_features, SETTINGS, 0)
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.circle(mask, (50, 60), 5, 255, -1)
    assert judged(parts[0], shifted(parts[0], mask, -60), mask, known)[1] is None


# (b) outside


def test_one_level_of_one_pixel_outside_fails_a_painter_that_keeps_it(cast: Calibration) -> None:
    normal, mask = surface(48), blob()
    image = shifted(normal, mask, -60)
    assert judged(normal, image, mask, cast)[1] is None
    image[2, 3, 1] += 1
    scores, reason = judged(normal, image, mask, cast)
    assert scores.outside_levels == 1
    assert reason == "outside: changed by up to 1 grey levels, expected no change"


def test_a_painter_that_resamples_passes_and_one_that_repaints_the_outside_fails(cast: Calibration) -> None:
    normal, mask = surface(49), blob()
    image = shifted(normal, mask, -60)
    small = cv2.resize(image, (96, 96), interpolation=cv2.INTER_CUBIC)
    resampled = cv2.resize(small, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC)
    assert judged(normal, resampled, mask, cast, keeps_outside=False)[1] is None
    repainted = np.where(mask[..., None] > 0, image, surface(50))
    scores, reason = judged(normal, repainted, mask, cast, keeps_outside=False)
    assert scores.outside_share is not None and scores.outside_share > cast.outside_share
    assert reason is not None and reason.startswith("outside: ") and "expected at most" in reason


def test_a_painter_that_blends_two_pixels_beyond_the_mask_passes_unless_it_promised_not_to(cast: Calibration) -> None:
    normal, mask = surface(58), blob()
    blended = shifted(normal, cv2.dilate(mask, np.ones((5, 5), np.uint8)), -60)
    assert judged(normal, blended, mask, cast, keeps_outside=False)[1] is None
    assert (judged(normal, blended, mask, cast)[1] or "").startswith("outside")


def test_a_surface_whose_specks_resampling_loses_allows_for_it() -> None:
    specked = []
    for seed in range(6):
        image = surface(seed, "ceramic")
        spots = np.random.default_rng(seed).random(image.shape[:2]) < 0.04
        image[spots] = 60
        specked.append(image)
    known = calibrate(specked, pyramid_features, SETTINGS, 0)
    resampled = cv2.GaussianBlur(shifted(specked[0], blob(), -60), (0, 0), 1.0)
    scores, reason = judged(specked[0], resampled, blob(), known, keeps_outside=False)
    assert scores.outside_share is not None and scores.outside_share > 0.01
    assert reason is None


def test_a_mask_over_everything_has_no_outside(cast: Calibration) -> None:
    normal = surface(51)
    scores, _ = judged(normal, shifted(normal, blob(), -60), np.full((SIDE_PX, SIDE_PX), 255, np.uint8), cast)
    assert (scores.outside_levels, scores.outside_share) == (0, 0.0)


def test_an_empty_mask_is_invisible(cast: Calibration) -> None:
    normal = surface(51)
    reason = judged(normal, normal, np.zeros((SIDE_PX, SIDE_PX), np.uint8), cast)[1]
    assert reason is not None and reason.startswith("invisible")


# (c) in distribution


def test_a_picture_of_another_material_fails_and_a_good_one_with_a_defect_passes(
    calibrations: dict[str, Calibration],
) -> None:
    textile = calibrations["textile"]
    good = shifted(surface(52, "textile"), scratch(2), 60)
    assert judged(good, good, None, textile)[1] is None
    scores, reason = judged(good, surface(52, "brushed_metal"), None, textile)
    assert scores.visibility is scores.outside_levels is scores.outside_share is None
    assert (
        reason == f"out of distribution: distance {scores.distance:.2f} of the good pictures' own, expected at most 3"
    )


def test_the_distance_margin_decides(cast: Calibration) -> None:
    scores, _ = judged(surface(53), surface(53), None, cast)
    tight = replace(SETTINGS, distance_margin=0.1)
    assert judge(scores, cast, SETTINGS, True) is None
    assert (judge(scores, cast, tight, True) or "").startswith("out of distribution")


# (d) duplicates


def test_the_same_defect_again_is_found_and_another_in_the_same_mask_is_not(cast: Calibration) -> None:
    mask, seen = blob(), cast.duplicates()
    one, other = surface(54), surface(55)
    first = judged(one, shifted(one, mask, -50), mask, cast)[0].signature
    assert seen.find(first) is None
    seen.add("first", first)
    noisy = shifted(one, mask, -49)
    noisy[mask > 0] ^= 1
    found = seen.find(judged(one, noisy, mask, cast)[0].signature)
    assert found is not None and found[0] == "first" and found[1] > 0.95
    dark_again = shifted(other, mask, 0)
    dark_again[mask > 0] = 60
    dark = shifted(one, mask, 0)
    dark[mask > 0] = 60
    seen.add("dark", judged(one, dark, mask, cast)[0].signature)
    assert seen.find(judged(one, dark, mask, cast)[0].signature) is not None
    assert seen.find(judged(other, dark_again, mask, cast)[0].signature) is None  # the normals differ
    moved = np.roll(mask, 40, axis=1)
    assert seen.find(judged(one, shifted(one, moved, -50), moved, cast)[0].signature) is None


def test_one_tone_on_a_flat_surface_twice_is_a_duplicate(cast: Calibration) -> None:
    flat, mask = np.full((SIDE_PX, SIDE_PX, 3), 128, np.uint8), blob()
    seen = cast.duplicates()
    seen.add("first", judged(flat, shifted(flat, mask, -50), mask, cast)[0].signature)
    assert seen.find(judged(flat, shifted(flat, mask, -40), mask, cast)[0].signature) is not None
    line = scratch(2)
    assert seen.find(judged(flat, shifted(flat, line, -50), line, cast)[0].signature) is None


def test_a_whole_picture_that_copies_a_good_one_is_found_and_a_new_one_is_not(cast: Calibration) -> None:
    seen = cast.duplicates()
    for seed in range(40):  # more than the store first has room for
        seen.add(f"normal-{seed}", cast.signature(surface(seed)))
    resampled = cv2.resize(cv2.resize(surface(33), (100, 100)), (160, 160), interpolation=cv2.INTER_CUBIC)
    found = seen.find(judged(surface(0), resampled, None, cast)[0].signature)
    assert found is not None and found[0] == "normal-33"
    first = seen.find(judged(surface(0), surface(3), None, cast)[0].signature)
    assert first is not None and first[0] == "normal-3"
    assert seen.find(judged(surface(0), surface(77), None, cast)[0].signature) is None
    assert seen.find(judged(surface(33), shifted(surface(33), blob(), -50), blob(), cast)[0].signature) is None


def test_good_pictures_under_the_same_lamp_are_not_copies(cast: Calibration) -> None:
    lamp = np.linspace(-40, 40, SIDE_PX)[None, :, None]
    lit = [np.clip(surface(seed) + lamp, 0, 255).astype(np.uint8) for seed in (81, 82)]
    assert correlation(*map(cast.signature, lit)) < 0.5


def test_good_pictures_that_are_alike_raise_the_duplicate_threshold() -> None:
    pattern = surface(1)
    alike = [shifted(pattern, blob(), 2 * seed) for seed in range(6)]
    strict = replace(SETTINGS, duplicate=0.3)
    assert calibrate(alike, pyramid_features, strict, 0).duplicate_whole > 0.3
    apart = calibrate([surface(seed) for seed in range(6)], pyramid_features, SETTINGS, 0)
    assert apart.duplicate_whole == apart.duplicate == SETTINGS.duplicate


# calibration and records


def test_thresholds_read_back_from_json_judge_the_same_bit_for_bit(cast: Calibration) -> None:
    again = Calibration.from_plain(json.loads(json.dumps(cast.plain())))
    assert again.plain() == cast.plain()
    for seed in range(60, 66):
        normal = surface(seed)
        for mask, image in ((blob(), shifted(normal, blob(), seed - 59)), (None, surface(seed, "textile"))):
            one, two = judged(normal, image, mask, cast), judged(normal, image, mask, again)
            assert one[1] == two[1] and one[0].plain() == two[0].plain()
            kept = Scores.from_plain(json.loads(json.dumps(one[0].plain())))
            assert kept.plain() == one[0].plain() and judge(kept, again, SETTINGS, True) == one[1]
            assert correlation(kept.signature, one[0].signature) == pytest.approx(1)


def test_equal_arguments_give_equal_thresholds_and_another_seed_others(cast: Calibration) -> None:
    assert calibration("cast").plain() == cast.plain()
    normals = [surface(seed) for seed in range(10)]
    assert calibrate(normals, pyramid_features, SETTINGS, 8).redrawn != cast.redrawn


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_good_pictures_still_tell_a_defect_from_none(count: int) -> None:
    known = calibration("textile", count)
    normal, mask = surface(70, "textile"), blob()
    assert np.isfinite(json.loads(json.dumps(known.plain()))["redrawn"]).all()
    assert judged(normal, shifted(normal, mask, 60), mask, known)[1] is None
    assert judged(normal, shifted(normal, mask, 1), mask, known)[1] is not None


def test_no_good_picture_is_refused() -> None:
    with pytest.raises(DatasetError, match="0 good pictures"):
        calibrate([], pyramid_features, SETTINGS, 0)


def test_flat_equal_pictures_calibrate_and_a_clear_change_passes() -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)
    known = calibrate([flat, flat.copy()], pyramid_features, SETTINGS, 0)
    mask = blob(64)
    assert (judged(flat, shifted(flat, mask, 1), mask, known)[1] or "").startswith("invisible")
    scores, _ = judged(flat, shifted(flat, mask, 12), mask, known)
    assert scores.visibility is not None and known.visible < scores.visibility < np.inf
    assert np.isfinite(scores.distance)


def test_grey_pictures_of_several_sizes_and_given_masks_calibrate() -> None:
    sizes = [(128, 128), (90, 150), (300, 70), (20, 16)]
    normals = [grey(surface(seed, "brushed_metal", *size)) for seed, size in enumerate(sizes)]
    masks = [scratch(1), np.zeros((40, 40), np.uint8), np.full((8, 300), 255, np.uint8)]
    known = calibrate(normals, pyramid_features, SETTINGS, 0, masks)
    assert known.plain() != calibrate(normals, pyramid_features, SETTINGS, 0).plain()
    normal = grey(surface(71, "brushed_metal"))
    scores, reason = judged(normal, shifted(normal, scratch(2), 70), scratch(2), known)
    assert reason is None and np.isfinite(scores.distance)


def test_a_painter_that_resizes_first_is_compared_at_its_size(cast: Calibration) -> None:
    normal, mask = surface(72, height_px=140, width_px=120), blob()
    resized = cv2.resize(normal, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)
    unchanged = score(Job(normal, None, (0,)), Painted(resized, mask, {}), cast, pyramid_features, False)
    assert (judge(unchanged, cast, SETTINGS, False) or "").startswith("invisible")
    painted = Painted(shifted(resized, mask, -60), mask, {})
    scores = score(Job(normal, None, (0,)), painted, cast, pyramid_features, False)
    assert judge(scores, cast, SETTINGS, False) is None


def test_features_of_a_callable_s_own_are_used() -> None:
    def mean_only(image: np.ndarray) -> np.ndarray:
        return image.mean(axis=(0, 1)).astype(np.float32)

    known = calibrate([surface(seed) for seed in range(6)], mean_only, SETTINGS, 0)
    job = Job(surface(80), None, (0,))
    assert judge(score(job, Painted(surface(80), None, {}), known, mean_only, True), known, SETTINGS, True) is None
    dark = Painted(surface(80) // 5, None, {})
    assert judge(score(job, dark, known, mean_only, True), known, SETTINGS, True) is not None


def test_a_picture_and_a_mask_of_different_size_are_refused(cast: Calibration) -> None:
    with pytest.raises(ValueError, match="one size"):
        visibility.change_views(surface(0), surface(0), blob(64))
    with pytest.raises(ValueError, match="empty"):
        visibility.change_views(surface(0), surface(0), np.zeros((SIDE_PX, SIDE_PX), np.uint8))


def test_a_signature_stays_within_two_kilobytes_of_json(cast: Calibration) -> None:
    plain = cast.signature(surface(1)).plain()
    assert len(json.dumps(plain)) < 2048
    assert Signature.from_plain(plain).plain() == plain
    assert quality.Duplicates(0.9, 0.9).find(Signature.from_plain(plain)) is None
