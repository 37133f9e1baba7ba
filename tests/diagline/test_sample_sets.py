"""What samples, their files and their records promise."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from diagline import samples
from diagline.errors import DatasetError
from diagline.samples import Sample, SampleSet


@pytest.fixture
def pair(tmp_path, picture, mask):
    """A set of one good and one defective picture, the latter with its mask."""
    picture(tmp_path / "good.png")
    picture(tmp_path / "bad.jpg")
    mask(tmp_path / "bad_mask.png", marked=True)
    good = Sample("good.png", None, 0, "good", "1", "train")
    bad = Sample("bad.jpg", "bad_mask.png", 1, "crack", "2", "test")
    return SampleSet(tmp_path, (good, bad))


def test_saved_sets_load_equal(pair):
    pair.save()
    assert samples.load(pair.root) == pair


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_picture_is_refused_and_named(suffix, keep, tmp_path, picture):
    path = picture(tmp_path / f"a{suffix}", shape=(300, 200))
    assert samples.read_image(path).shape == (300, 200, 3)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    what = "truncated" if suffix in (".png", ".jpg") else "not an image"  # some OpenCV would fill these with grey
    with pytest.raises(DatasetError, match=rf"a\{suffix}: {what}.*--skip-bad"):
        samples.read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"x" * 99 + b"IEND"])
def test_a_file_that_is_no_picture_is_refused_and_named(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.png: not an image"):
        samples.read_image(tmp_path / "a.png")


def test_a_missing_picture_is_refused_and_named(tmp_path):
    with pytest.raises(DatasetError, match=r"a\.png: No such file"):
        samples.read_image(tmp_path / "a.png")


def test_grey_and_16_bit_pictures_are_read_as_8_bit_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 5), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 5), 77 * 257, np.uint16))
    for name in ("grey.png", "deep.png"):
        image = samples.read_image(tmp_path / name)
        assert image.dtype == np.uint8 and image.shape == (4, 5, 3) and (image == 77).all()


def test_a_picture_is_bgr(tmp_path):
    blue = np.zeros((4, 5, 3), np.uint8)
    blue[..., 0] = 200
    samples.write_image(tmp_path / "blue.png", blue)
    assert (samples.read_image(tmp_path / "blue.png") == blue).all()


def test_a_mask_is_0_or_255_and_a_defect_starts_above_127(tmp_path):
    samples.write_image(tmp_path / "m.png", np.array([[0, 1, 127, 128, 255]], np.uint8))
    assert samples.read_mask(tmp_path / "m.png").tolist() == [[0, 0, 0, 255, 255]]


def test_reading_a_mask_that_a_sample_lacks_is_refused(pair):
    with pytest.raises(DatasetError, match=r"good\.png: no mask"):
        pair.read_mask(pair.samples[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": 2}, "label 2"),
        ({"split": "dev"}, "split 'dev'"),
        ({"image": "/a.png"}, "leaves the data folder"),
        ({"image": "x/../../a.png"}, "leaves the data folder"),
        ({"mask": "../a.png"}, "leaves the data folder"),
    ],
)
def test_a_sample_that_cannot_be_is_refused(change, reason):
    with pytest.raises(DatasetError, match=reason):
        replace(Sample("a.png", None, 0, "good", "1", "train"), **change)


def test_a_group_on_both_sides_is_refused_and_named(pair):
    good, bad = pair.samples
    with pytest.raises(DatasetError, match="group '1' stands in train and in test"):
        SampleSet(pair.root, (good, replace(bad, group="1"))).check_groups()


def test_split_bad_finds_every_sort_of_bad_sample(tmp_path, picture, mask):
    def sample(name, label=1):
        picture(tmp_path / f"{name}.png")
        mask(tmp_path / f"{name}_mask.png", marked=True)
        return Sample(f"{name}.png", f"{name}_mask.png", label, "crack", name, "train")

    names = ("whole", "cut", "text", "mask_cut", "mask_small")
    found = SampleSet(tmp_path, (*map(sample, names), sample("mask_on_good", label=0)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-20])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "mask_cut_mask.png").write_bytes(b"\x89PNG")
    mask(tmp_path / "mask_small_mask.png", marked=True, shape=(15, 10))
    good, bad = samples.split_bad(found)
    assert [sample.image for sample in good] == ["whole.png"]
    expected = ("cut.png", "text.png", "mask_cut_mask.png", "mask_small_mask.png", "mask_on_good_mask.png")
    assert len(bad) == 5 and all(name in line for name, line in zip(expected, bad, strict=True))
    assert not any("\n" in line for line in bad)


@pytest.mark.parametrize("line", ["", "{", "[]", '{"image": "good.png"}', '{"picture": 1}', '{"label": 7}'])
def test_a_record_that_is_none_is_named_with_its_line(line, pair):
    pair.save()
    path = pair.root / samples.RECORDS
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DatasetError, match=r"samples\.jsonl:3: "):
        samples.load(pair.root)


def test_a_record_with_a_label_that_cannot_be_is_named_with_its_line(pair):
    pair.save()
    path = pair.root / samples.RECORDS
    path.write_text(path.read_text().replace('"label": 1', '"label": 5'))
    with pytest.raises(DatasetError, match=r"samples\.jsonl:2: .*label 5"):
        samples.load(pair.root)


def test_records_in_another_encoding_are_refused(pair):
    (pair.root / samples.RECORDS).write_bytes(b"\xff\xfe{}\n")
    with pytest.raises(DatasetError, match=r"samples\.jsonl: cannot be read"):
        samples.load(pair.root)


@pytest.mark.parametrize("missing", ["good.png", "bad_mask.png"])
def test_a_record_whose_file_is_gone_is_refused(missing, pair):
    pair.save()
    (pair.root / missing).unlink()
    with pytest.raises(DatasetError, match=rf"{missing}.*not found"):
        samples.load(pair.root)


def test_the_hash_knows_every_byte_and_every_record(pair, tmp_path):
    hashes = {pair.hash()}
    good, bad = pair.samples
    hashes.add(SampleSet(pair.root, (good, replace(bad, label=0))).hash())
    hashes.add(SampleSet(pair.root, (bad, good)).hash())
    for name in ("good.png", "bad.jpg", "bad_mask.png"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data + b"x")
        hashes.add(pair.hash())
        (tmp_path / name).write_bytes(data)
    assert len(hashes) == 6 and pair.hash() in hashes


def test_counts_put_good_first_and_splits_in_order():
    made = [("test", "crack"), ("train", "good"), ("train", "crack"), ("train", "good"), ("val", "bent")]
    found = SampleSet(
        None, tuple(Sample(f"{i}", None, int(k != "good"), k, f"{i}", s) for i, (s, k) in enumerate(made))
    )
    assert list(found.counts().items()) == [
        (("train", "good"), 2),
        (("train", "crack"), 1),
        (("val", "bent"), 1),
        (("test", "crack"), 1),
    ]
