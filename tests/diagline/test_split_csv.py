"""A label file that disagrees with its folder is refused with its line."""

from __future__ import annotations

import pytest

from diagline import layouts, split_csv
from diagline.errors import DatasetError

HEADER = "image,mask,label,kind,group,split"


@pytest.fixture
def table(tmp_path, picture, mask):
    """Write split.csv with these rows below a valid one; a.png to d.png and m.png exist."""
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    mask(tmp_path / "m.png", marked=True)

    def write(*rows, header=HEADER):
        (tmp_path / "split.csv").write_text("\n".join([header, "a.png,,0,good,g1,train", *rows]) + "\n")
        return tmp_path

    return write


def test_good_rows_are_read_as_they_stand(table):
    found = split_csv.read(table("b.png,m.png,1,Crack,g2,val", "c.png,,0,free,g3,test", "d.png,,1,fray,g4,test"))
    assert [(sample.image, sample.mask, sample.label, sample.kind, sample.group, sample.split) for sample in found] == [
        ("a.png", None, 0, "good", "g1", "train"),
        ("b.png", "m.png", 1, "crack", "g2", "val"),
        ("c.png", None, 0, "good", "g3", "test"),
        ("d.png", None, 1, "fray", "g4", "test"),
    ]


def test_columns_may_stand_in_any_order_behind_a_byte_order_mark(table):
    root = table()
    text = "\ufeffsplit,group,kind,label,mask,image\r\ntest,g9,crack,1,m.png,b.png\r\n"
    (root / "split.csv").write_bytes(text.encode())
    [sample] = split_csv.read(root)
    assert (sample.image, sample.mask, sample.label, sample.split) == ("b.png", "m.png", 1, "test")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("z.png,,0,good,g2,train", "z.png is not in the folder"),
        ("b.png,z.png,1,crack,g2,train", "z.png is not in the folder"),
        ("b.png,m.png,2,crack,g2,train", "label '2'; expected 0"),
        ("b.png,m.png,,crack,g2,train", "label ''; expected 0"),
        ("b.png,m.png,0,crack,g2,train", "label 0 with kind 'crack'"),
        ("b.png,m.png,1,good,g2,train", "label 1 with kind 'good'"),
        ("b.png,m.png,1,free,g2,train", "label 1 with kind 'free'"),
        ("b.png,m.png,1,,g2,train", "label 1 with kind ''"),
        ("b.png,,0,good,g2,validation", "split 'validation'; expected one of train, val, test"),
        ("b.png,,0,good,,train", "group is empty"),
        (",,0,good,g2,train", "image is empty"),
        ("a.png,,0,good,g1,train", "a.png stands in line 2 too"),
        ("./a.png,,0,good,g1,train", "a.png stands in line 2 too"),
        ("b.png,,0,good,g1,test", "group 'g1' is in test, but in train in line 2"),
        ("../b.png,,0,good,g2,train", "leaves the data folder"),
        ("/etc/b.png,,0,good,g2,train", "leaves the data folder"),
        ("b.png,,0,good,g2", "expected 6 fields"),
        ("b.png,,0,good,g2,train,more", "expected 6 fields"),
    ],
)
def test_a_wrong_line_is_named_with_file_and_number(row, reason, table):
    root = table("c.png,,0,good,g7,val", row)
    with pytest.raises(DatasetError) as caught:
        layouts.open_data(root, "auto", 1)
    assert str(caught.value).startswith(f"{root / 'split.csv'}:4: ") and reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    ["image,mask,label,kind,group", HEADER + ",note", HEADER.replace(",", ";"), HEADER.replace("kind", "class")],
)
def test_other_columns_are_refused_naming_the_expected(header, table):
    with pytest.raises(DatasetError, match=r"split\.csv:1: columns .*expected image, mask, label, kind, group, split"):
        split_csv.read(table(header=header))


@pytest.mark.parametrize("content", [b"", HEADER.encode() + b"\n"])
def test_a_table_without_rows_is_refused(content, table):
    root = table()
    (root / "split.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=r"split_csv|split\.csv"):
        layouts.open_data(root, "auto", 1)


def test_a_table_in_another_encoding_is_refused(table):
    root = table()
    (root / "split.csv").write_bytes((HEADER + "\nprüfung.png,,0,good,g,train\n").encode("latin-1"))
    with pytest.raises(DatasetError, match="not a CSV file in UTF-8"):
        split_csv.read(root)


def test_pictures_the_table_does_not_name_are_strays_and_no_error(table):
    root = table("b.png,m.png,1,crack,g2,val")
    assert layouts.strays(layouts.open_data(root, "auto", 1)) == [root / "c.png", root / "d.png"]
