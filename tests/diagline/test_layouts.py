"""What the folder readers promise, on imitations of every layout."""

from __future__ import annotations

from collections import Counter

import pytest

from diagline import layouts, samples
from diagline.errors import ConfigError, DatasetError

SEED = 7
NAMES = sorted(layouts.LAYOUTS)


def by_image(found):
    return {sample.image: sample for sample in found}


@pytest.fixture
def heard(capsys):
    """What the console says is left out, since the last call."""
    return lambda: [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_is_found_out_and_read(name, make, tmp_path):
    root = make(name, tmp_path / "data")
    assert layouts.detect(root) == name
    found = layouts.open_data(root, "auto", SEED)
    assert found.samples == layouts.open_data(root, name, SEED).samples
    assert {sample.label for sample in found} == {0, 1}
    assert all(found.read_image(sample).ndim == 3 for sample in found)
    assert all((sample.kind == "good") == (sample.label == 0) for sample in found)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_split(name, make, tmp_path):
    root = make(name, tmp_path / "data")
    assert layouts.open_data(root, name, SEED).samples == layouts.open_data(root, name, SEED).samples


@pytest.mark.parametrize("name", ["kolektorsdd", "magnetic_tile", "good_bad", "ksdd2", "mvtec"])
def test_another_seed_draws_another_split(name, make, tmp_path):
    root = make(name, tmp_path / "data")
    splits = {tuple(sample.split for sample in layouts.open_data(root, name, seed)) for seed in range(4)}
    assert len(splits) > 1


@pytest.mark.parametrize("name", NAMES)
def test_no_group_stands_in_two_splits(name, make, tmp_path):
    homes = {}
    for sample in layouts.open_data(make(name, tmp_path / "data"), name, SEED):
        assert homes.setdefault(sample.group, sample.split) == sample.split


@pytest.mark.parametrize("name", ["kolektorsdd", "magnetic_tile", "good_bad"])
def test_a_drawn_split_is_half_train_a_tenth_val_and_has_defects_everywhere(name, make, tmp_path):
    found = layouts.open_data(make(name, tmp_path / "data"), name, SEED)
    groups = Counter({sample.group: sample.split for sample in found}.values())
    total = sum(groups.values())
    assert abs(groups["train"] - 0.5 * total) <= 2 and abs(groups["test"] - 0.4 * total) <= 2
    assert all(len(found.split(split).labelled(1)) for split in samples.SPLITS)


def test_a_drawn_split_shares_out_every_kind():
    groups = {f"{kind}{number}": (kind,) for kind in ("crack", "fray") for number in range(20)}
    drawn = layouts.draw_splits(groups, layouts.SPLIT_TURNS, SEED)
    for kind in ("crack", "fray"):
        counts = Counter(split for group, split in drawn.items() if group.startswith(kind))
        assert counts == {"train": 10, "test": 8, "val": 2}


@pytest.mark.parametrize(("groups", "expected"), [(1, {"train"}), (2, {"train", "test"}), (3, set(samples.SPLITS))])
def test_few_defects_reach_as_many_splits_as_there_are(groups, expected):
    drawn = layouts.draw_splits({str(number): ("crack",) for number in range(groups)}, layouts.SPLIT_TURNS, SEED)
    assert set(drawn.values()) == expected


@pytest.mark.parametrize("seed", range(4))
def test_ksdd2_keeps_its_test_split_and_gives_a_tenth_of_train_to_val(seed, make, tmp_path):
    found = layouts.open_data(make("ksdd2", tmp_path), "auto", seed)
    assert all((sample.split == "test") == sample.image.startswith("test/") for sample in found)
    assert found.counts() == {
        ("train", "good"): 28,
        ("train", "defect"): 7,
        ("val", "good"): 4,
        ("val", "defect"): 1,
        ("test", "good"): 8,
        ("test", "defect"): 2,
    }


def test_ksdd2_labels_come_from_the_ground_truth(make, tmp_path, mask):
    root = make("ksdd2", tmp_path)
    mask(root / "train/10001_GT.png", marked=True)
    found = by_image(layouts.open_data(root, "ksdd2", SEED))
    assert found["train/10001.png"].label == 1 and found["train/10001.png"].kind == "defect"
    assert found["train/10002.png"].label == 0 and found["train/10002.png"].kind == "good"
    assert found["train/10001.png"].group == "10001"


def test_ksdd2_passes_over_stray_copies_and_names_them(make, tmp_path):
    root = make("ksdd2", tmp_path)
    found = layouts.open_data(root, "auto", SEED)
    assert not [sample for sample in found if "copy" in sample.image]
    assert layouts.strays(found) == [root / "train/10301 (copy).png", root / "train/10301_GT (copy).png"]


def test_kolektorsdd_keeps_one_side_of_each_duplicate(make, tmp_path):
    found = layouts.open_data(make("kolektorsdd", tmp_path), "auto", SEED)
    images = {sample.image for sample in found}
    assert len(images) == 50 * 8 - 2 * 8 - 1
    assert {"kos01/Part0.jpg", "kos27/Part0.jpg", "kos21/Part6.jpg"} <= images
    assert not images & {"kos26/Part0.jpg", "kos34/Part0.jpg", "kos21/Part7.jpg"}
    assert {sample.group for sample in found if sample.image.startswith("kos05/")} == {"kos05"}


def test_kolektorsdd_reads_png_labels_too(picture, mask, tmp_path):
    for folder in ("kos01", "kos02"):
        picture(tmp_path / folder / "Part0.jpg")
    mask(tmp_path / "kos01/Part0_label.png", marked=True)
    mask(tmp_path / "kos02/Part0_label.bmp", marked=False)
    found = by_image(layouts.open_data(tmp_path, "auto", SEED))
    assert [found[f"kos0{number}/Part0.jpg"].label for number in (1, 2)] == [1, 0]


def test_magnetic_tile_takes_the_label_from_the_folder_though_the_mask_is_empty(make, tmp_path):
    found = layouts.open_data(make("magnetic_tile", tmp_path), "auto", SEED)
    uneven = [sample for sample in found if sample.kind == "uneven"]
    assert len(uneven) == 3 and all(sample.label == 1 for sample in uneven)
    assert not any(found.read_mask(sample).any() for sample in uneven)
    assert Counter(sample.kind for sample in found) == {"good": 20, "blowhole": 10, "uneven": 3}


def test_magnetic_tile_groups_by_the_number_in_the_name(picture, mask, tmp_path):
    for kind in ("Free", "Crack"):
        for exposure in (1, 2):
            image = picture(tmp_path / f"MT_{kind}/Imgs/exp{exposure}_num_{kind}5.jpg")
            mask(image.with_suffix(".png"), marked=kind == "Crack")
    found = layouts.open_data(tmp_path, "auto", SEED)
    assert sorted(sample.group for sample in found) == ["Crack5", "Crack5", "Free5", "Free5"]


def test_mvtec_draws_val_from_the_good_training_pictures_alone(make, tmp_path):
    found = layouts.open_data(make("mvtec", tmp_path), "auto", SEED)
    assert found.counts() == {
        ("train", "good"): 18,
        ("val", "good"): 2,
        ("test", "good"): 3,
        ("test", "crack"): 3,
        ("test", "hole"): 3,
    }
    assert by_image(found)["test/crack/001.png"].mask == "ground_truth/crack/001_mask.png"


def test_good_bad_takes_masks_where_there_are_some(make, mask, tmp_path):
    root = make("good_bad", tmp_path)
    assert all(sample.mask is None for sample in layouts.open_data(root, "auto", SEED))
    for number in range(10):
        mask(root / f"masks/{number}.png", marked=True)
    found = by_image(layouts.open_data(root, "auto", SEED))
    assert found["bad/3.jpg"].mask == "masks/3.png" and found["good/3.jpg"].mask is None


def test_a_samples_folder_keeps_source_and_provenance(make, tmp_path):
    painted = by_image(layouts.open_data(make("samples", tmp_path), "auto", SEED))["d0.png"]
    assert (painted.source, painted.provenance) == ("memseg", {"note": "a\u2028b é"})


def test_split_csv_wins_over_what_else_lies_there(make, tmp_path):
    for name in NAMES:
        make(name, tmp_path)
    make("split_csv", tmp_path)
    assert layouts.detect(tmp_path) == "split_csv"
    (tmp_path / "split.csv").unlink()
    assert layouts.detect(tmp_path) == "samples"


def test_strays_are_the_pictures_that_no_sample_names(make, picture, tmp_path):
    root = make("split_csv", tmp_path)
    (root / "readme.txt").write_text("not a picture")
    picture(root / "._g0.png")
    extra = picture(root / "deeper/extra.jpg")
    assert layouts.strays(layouts.open_data(root, "auto", SEED)) == [extra]


@pytest.mark.parametrize(
    ("layout", "missing"),
    [
        ("ksdd2", "train/10003_GT.png"),
        ("kolektorsdd", "kos05/Part2_label.bmp"),
        ("magnetic_tile", "MT_Blowhole/Imgs/exp1_num_Blowhole4.png"),
        ("magnetic_tile", "MT_Free/Imgs/exp1_num_Free4.png"),
        ("mvtec", "ground_truth/hole/001_mask.png"),
        ("split_csv", "d2_mask.png"),
        ("samples", "d0_mask.png"),
    ],
)
def test_an_image_without_its_mask_is_named(layout, missing, make, tmp_path):
    root = make(layout, tmp_path)
    (root / missing).unlink()
    with pytest.raises(DatasetError) as caught:
        layouts.open_data(root, layout, SEED)
    assert missing in str(caught.value) and "\n" not in str(caught.value)


def test_a_bad_picture_without_its_mask_is_named_where_there_are_masks(make, mask, tmp_path):
    root = make("good_bad", tmp_path)
    for number in range(9):
        mask(root / f"masks/{number}.png", marked=True)
    with pytest.raises(DatasetError, match=r"masks/9\.png: mask not found; bad/9\.jpg needs it"):
        layouts.open_data(root, "auto", SEED)


@pytest.mark.parametrize("layout", ["auto", *NAMES])
def test_a_missing_folder_an_empty_one_and_a_file_are_refused(layout, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, reason in (("missing", "not found"), ("empty", "empty"), ("file", "a file")):
        with pytest.raises(DatasetError, match=reason) as caught:
            layouts.open_data(tmp_path / name, layout, SEED)
        assert str(tmp_path / name) in str(caught.value) and "data.root" in str(caught.value)


@pytest.mark.parametrize("layout", NAMES)
def test_a_folder_without_pictures_of_the_layout_is_refused(layout, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(DatasetError, match=str(tmp_path)):
        layouts.open_data(tmp_path, layout, SEED)


def test_a_folder_of_no_known_layout_lists_the_layouts(picture, tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(DatasetError) as caught:
        layouts.detect(tmp_path)
    assert all(name in str(caught.value) for name in NAMES)


def test_an_unknown_layout_names_the_nearest(make, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.layout = 'kolektor_sdd'.*did you mean 'kolektorsdd'"):
        layouts.open_data(make("good_bad", tmp_path), "kolektor_sdd", SEED)


@pytest.mark.parametrize("folder", ["good", "bad"])
def test_good_bad_needs_pictures_on_both_sides(folder, make, tmp_path):
    root = make("good_bad", tmp_path)
    for path in (root / folder).iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=f"{folder}: no pictures"):
        layouts.open_data(root, "auto", SEED)


def test_a_part_in_train_and_in_test_is_refused(make, picture, mask, tmp_path):
    root = make("ksdd2", tmp_path)
    picture(root / "test/10004.png")
    mask(root / "test/10004_GT.png", marked=False)
    with pytest.raises(DatasetError, match="group '10004'"):
        layouts.open_data(root, "auto", SEED)


def test_without_skip_bad_a_corrupt_picture_is_an_error_when_it_is_read(make, tmp_path):
    root = make("good_bad", tmp_path)
    (root / "good/3.jpg").write_text("not a picture")
    found = layouts.open_data(root, "auto", SEED)
    with pytest.raises(DatasetError, match=r"good/3\.jpg: not an image"):
        found.read_image(by_image(found)["good/3.jpg"])


@pytest.mark.parametrize(("layout", "victim"), [("good_bad", "bad/3.jpg"), ("ksdd2", "train/10003.png")])
def test_skip_bad_lists_what_it_leaves_out_and_keeps_the_rest(layout, victim, make, tmp_path, heard):
    root = make(layout, tmp_path)
    whole = layouts.open_data(root, layout, SEED)
    (root / victim).write_bytes((root / victim).read_bytes()[:200])
    kept = layouts.open_data(root, layout, SEED, skip_bad=True)
    assert {sample.image for sample in whole} - {sample.image for sample in kept} == {victim}
    [line] = heard()
    assert victim in line


def test_skip_bad_leaves_out_a_picture_whose_label_mask_is_corrupt(make, tmp_path, heard):
    root = make("ksdd2", tmp_path)
    (root / "train/10005_GT.png").write_bytes(b"\x89PNG")
    with pytest.raises(DatasetError, match="10005_GT"):
        layouts.open_data(root, "auto", SEED)
    kept = layouts.open_data(root, "auto", SEED, skip_bad=True)
    assert "train/10005.png" not in by_image(kept) and len(kept) == 49
    [line] = heard()
    assert "10005_GT" in line


def test_skip_bad_with_nothing_readable_is_an_error(make, tmp_path, heard):
    root = make("good_bad", tmp_path)
    for path in root.rglob("*.jpg"):
        path.write_text("not a picture")
    with pytest.raises(DatasetError, match="no readable picture"):
        layouts.open_data(root, "auto", SEED, skip_bad=True)
    assert len(heard()) == 30
