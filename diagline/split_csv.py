"""`split.csv`: anyone's pictures with labels and splits written down by hand or by script.

Columns image, mask, label, kind, group, split, in any order. Paths start at the folder of
the file; mask may be empty. Each mistake is named with the file and the line. Leaves out:
decoding the pictures.
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from diagline.errors import DatasetError
from diagline.samples import DEFECT, GOOD, Sample, SampleSet

FILE = "split.csv"
COLUMNS = ("image", "mask", "label", "kind", "group", "split")
GOOD_KINDS = ("good", "free")


def read(root: Path) -> SampleSet:
    """Read the folder's `split.csv`.

    Raises:
        DatasetError: no such file; other columns; a label that is not 0 or 1, or that its kind
            contradicts; an image named twice; a picture or mask that is not there; a group in
            two splits. Names the line.
    """
    path = root / FILE
    samples: list[Sample] = []
    lines: dict[str, int] = {}
    homes: dict[str, tuple[str, int]] = {}
    for line, row in _rows(path):
        try:
            sample = _sample(root, row)
            if sample.image in lines:
                raise DatasetError(f"{sample.image} stands in line {lines[sample.image]} too; expected one line each")
            split, first = homes.setdefault(sample.group, (sample.split, line))
            if split != sample.split:
                raise DatasetError(
                    f"group {sample.group!r} is in {sample.split}, but in {split} in line {first}; "
                    f"expected one split a group"
                )
        except DatasetError as error:
            raise DatasetError(f"{path}:{line}: {error}; correct the line") from None
        lines[sample.image] = line
        samples.append(sample)
    return SampleSet(root, tuple(samples))


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:  # -sig: Excel writes a byte order mark
            reader = csv.DictReader(stream, restkey="", restval=None, strict=True)
            found = tuple(reader.fieldnames or ())
            if sorted(found) != sorted(COLUMNS):
                raise DatasetError(
                    f"{path}:1: columns {', '.join(found) or 'none'}; expected {', '.join(COLUMNS)}; correct line 1"
                )
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; expected a table of the pictures; restore it") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a CSV file in UTF-8 ({error}); save it as one") from error
    for line, row in rows:
        if len(row) != len(COLUMNS) or None in row.values():
            raise DatasetError(f"{path}:{line}: expected {len(COLUMNS)} fields, one for each column; correct the line")
    return rows


def _sample(root: Path, row: dict[str, str]) -> Sample:
    row = {column: value.strip() for column, value in row.items()}
    for column in ("image", "group"):
        if not row[column]:
            raise DatasetError(f"{column} is empty; expected a value")
    if row["label"] not in ("0", "1"):
        raise DatasetError(f"label {row['label']!r}; expected 0 (good) or 1 (defect)")
    label, kind = int(row["label"]), row["kind"].lower()
    if label == GOOD and kind not in GOOD_KINDS:
        raise DatasetError(f"label 0 with kind {row['kind']!r}; expected good or free, or label 1")
    if label == DEFECT and kind in ("", *GOOD_KINDS):
        raise DatasetError(f"label 1 with kind {row['kind']!r}; expected the defect's kind, or label 0")
    image = str(PurePosixPath(row["image"]))
    mask = str(PurePosixPath(row["mask"])) if row["mask"] else None
    sample = Sample(image, mask, label, "good" if label == GOOD else kind, row["group"], row["split"])
    for name in (image, mask):
        if name is not None and not (root / name).is_file():
            raise DatasetError(f"{name} is not in the folder; expected every file that {FILE} names")
    return sample
