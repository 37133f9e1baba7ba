"""From the folder layouts people have to a SampleSet.

    ksdd2          train/ and test/ with NNNNN.png and NNNNN_GT.png
    kolektorsdd    kosNN/PartK.jpg and PartK_label.bmp or .png
    magnetic_tile  MT_KIND/Imgs/NAME.jpg and NAME.png
    mvtec          train/good, test/KIND, ground_truth/KIND/NAME_mask.png
    good_bad       good/ and bad/; where there is a masks/, one mask per bad picture
    split_csv      split.csv beside the pictures (`diagline/split_csv.py`)
    samples        samples.jsonl, what diagline itself writes

A layout that brings no split gets a seeded one, by group: 50 % train, 10 % val, 40 % test;
one that brings train and test alone gives 10 % of its training groups to val. A file that
is not a picture by its name is passed over; a picture that no sample names is a stray
(`strays`). Leaves out: resizing, and decoding every picture (`diagline.samples.split_bad`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diagline import samples as records
from diagline import split_csv
from diagline.console import console, track
from diagline.errors import ConfigError, DatasetError
from diagline.samples import DEFECT, GOOD, IMAGE_SUFFIXES, Sample, SampleSet

Reader = Callable[[Path, int, bool], SampleSet]

# Every ten groups of one kind go here in turn, so each split has its share of every kind.
SPLIT_TURNS = ("train", "test", "val", "train", "test", "train", "test", "train", "test", "train")
VAL_TURNS = ("train", "val", *["train"] * 8)
# Pictures the KolektorSDD folder holds twice: kos26 = kos01, kos34 = kos27, kos21/Part7 = kos21/Part6.
KOLEKTOR_DUPLICATES = ("kos26/", "kos34/", "kos21/Part7")


@dataclass(frozen=True, slots=True)
class _Draft:
    """A sample whose label (None: the mask tells) or split (None: drawn) is still open."""

    image: str
    mask: str | None
    label: int | None
    kind: str
    group: str
    split: str | None


def open_data(root: Path, layout: str, seed: int, skip_bad: bool = False) -> SampleSet:
    """Read a data folder.

    Args:
        root: the folder.
        layout: a name of `LAYOUTS`, or "auto".
        seed: draws the split where the layout brings none.
        skip_bad: decode everything, list what cannot be used on the console and leave it out.
            Without it a corrupt picture is an error when it is read.

    Raises:
        ConfigError: no such layout.
        DatasetError: a missing or empty folder, a missing picture or mask, a label file that
            disagrees with the folder, a group in two splits, or nothing readable.
    """
    root = Path(root)
    name = detect(root) if layout == "auto" else layout
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name, LAYOUTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"data.layout = {name!r}; expected auto or one of {', '.join(LAYOUTS)}{hint}")
    _check_folder(root)
    found = LAYOUTS[name](root, seed, skip_bad)
    _check_any(found, f"no pictures in the layout {name}")
    found.check_groups()
    if skip_bad:
        found, bad = records.split_bad(found, lambda items: track(items, "checking pictures"))
        _leave_out(bad)
        _check_any(found, "no readable picture")
    return found


def detect(root: Path) -> str:
    """Name the layout of a folder: `split.csv` wins, then `samples.jsonl`, then the data sets' own.

    Raises:
        DatasetError: missing, not a folder, empty, or none of the layouts.
    """
    root = Path(root)
    _check_folder(root)

    def has(pattern: str) -> bool:
        return next(root.glob(pattern), None) is not None

    marks = {
        "split_csv": has("split.csv"),
        "samples": has(records.RECORDS),
        "mvtec": has("train/good") and has("test"),
        "ksdd2": has("train/[0-9]*.png") and has("test"),
        "magnetic_tile": has("MT_*/Imgs"),
        "kolektorsdd": has("kos[0-9]*/Part*"),
        "good_bad": has("good") and has("bad"),
    }
    for name, found in marks.items():
        if found:
            return name
    raise DatasetError(
        f"{root}: no known layout; expected one of {', '.join(LAYOUTS)}; arrange the pictures as good/ and bad/, "
        f"or add a split.csv with the columns {', '.join(split_csv.COLUMNS)}"
    )


def strays(samples: SampleSet) -> list[Path]:
    """Picture files below the root that no sample names, as image or as mask; sorted."""
    named = {path for sample in samples for path in (sample.image, sample.mask)}
    found = (path for path in samples.root.rglob("*") if _is_picture(path))
    return sorted(path for path in found if path.relative_to(samples.root).as_posix() not in named)


def read_ksdd2(root: Path, seed: int, skip_bad: bool = False) -> SampleSet:
    """KSDD2: the label is read from the full-size ground truth (black = good); every picture a group of its own.

    Only purely numeric names count: the original holds stray copies such as `10301 (copy).png`.
    """
    drafts = []
    for split in ("train", "test"):
        for image in _pictures(root / split):
            if re.fullmatch(r"\d+", image.stem):
                mask = _mask(root, image, [f"{split}/{image.stem}_GT.png"])
                drafts.append(_Draft(_name(root, image), mask, None, "defect", image.stem, split))
    return _finish(root, drafts, seed, skip_bad)


def read_kolektorsdd(root: Path, seed: int, skip_bad: bool = False) -> SampleSet:
    """KolektorSDD: the label is read from the label picture; a commutator (`kosNN`) is a group.

    One side of each known duplicate is dropped: kos26 (= kos01), kos34 (= kos27) and
    kos21/Part7 (= kos21/Part6).
    """
    drafts = []
    for image in (image for folder in sorted(root.glob("kos[0-9]*")) for image in _pictures(folder)):
        name = _name(root, image)
        if re.fullmatch(r"Part\d+", image.stem) and not name.startswith(KOLEKTOR_DUPLICATES):
            stem = f"{image.parent.name}/{image.stem}_label"
            drafts.append(
                _Draft(name, _mask(root, image, [stem + ".bmp", stem + ".png"]), None, "crack", image.parent.name, None)
            )
    return _finish(root, drafts, seed, skip_bad)


def read_magnetic_tile(root: Path, seed: int, skip_bad: bool = False) -> SampleSet:
    """Magnetic tile: label and kind from the folder's name, as four `MT_Uneven` masks are empty above 127.

    The number in `expN_num_NUMBER.jpg` is the group.
    """
    drafts = []
    for folder in sorted(root.glob("MT_*")):
        kind = folder.name.removeprefix("MT_").lower()
        label, kind = (GOOD, "good") if kind == "free" else (DEFECT, kind)
        for image in _pictures(folder / "Imgs"):
            if image.suffix.lower() in (".jpg", ".jpeg"):
                mask = _mask(root, image, [f"{folder.name}/Imgs/{image.stem}.png"])
                group = image.stem.rpartition("num_")[2]
                drafts.append(_Draft(_name(root, image), mask, label, kind, group, None))
    return _finish(root, drafts, seed, skip_bad)


def read_mvtec(root: Path, seed: int, skip_bad: bool = False) -> SampleSet:
    """MVTec-style: label and kind from the folder; val is drawn from `train/good`, so it holds no defects."""
    drafts = []
    for folder in (root / "train/good", *sorted((root / "test").glob("*"))):
        good, split = folder.name == "good", folder.parent.name
        for image in _pictures(folder):
            masks = [f"ground_truth/{folder.name}/{image.stem}_mask.png"]
            mask = None if good else _mask(root, image, masks)
            kind, group = ("good" if good else folder.name.lower()), _name(root, image.with_suffix(""))
            drafts.append(_Draft(_name(root, image), mask, GOOD if good else DEFECT, kind, group, split))
    return _finish(root, drafts, seed, skip_bad)


def read_good_bad(root: Path, seed: int, skip_bad: bool = False) -> SampleSet:
    """`good/` and `bad/`, every picture a group of its own; a `masks/` must then hold one for each of `bad/`."""
    drafts = []
    for folder, label, kind in (("good", GOOD, "good"), ("bad", DEFECT, "defect")):
        images = _pictures(root / folder)
        if not images:
            raise DatasetError(f"{root / folder}: no pictures; expected good/ and bad/ to hold some; add them")
        for image in images:
            masked = label == DEFECT and (root / "masks").is_dir()
            masks = [f"masks/{image.stem}{suffix}" for suffix in (".png", *sorted(IMAGE_SUFFIXES - {".png"}))]
            mask = _mask(root, image, masks) if masked else None
            drafts.append(_Draft(_name(root, image), mask, label, kind, _name(root, image.with_suffix("")), None))
    return _finish(root, drafts, seed, skip_bad)


def _read_split_csv(root: Path, seed: int, skip_bad: bool = False) -> SampleSet:
    return split_csv.read(root)  # brings its own labels and splits: nothing to draw


def _read_samples(root: Path, seed: int, skip_bad: bool = False) -> SampleSet:
    return records.load(root)


LAYOUTS: dict[str, Reader] = {
    "ksdd2": read_ksdd2,
    "kolektorsdd": read_kolektorsdd,
    "magnetic_tile": read_magnetic_tile,
    "mvtec": read_mvtec,
    "good_bad": read_good_bad,
    "split_csv": _read_split_csv,
    "samples": _read_samples,
}


def draw_splits(groups: dict[str, tuple[str, ...]], turns: tuple[str, ...], seed: int) -> dict[str, str]:
    """Deal groups to splits so that each split has its share of every kind.

    Args:
        groups: the defect kinds in each group; empty where all of it is good.
        turns: the splits in the order in which groups are dealt, repeated as needed.
        seed: shuffles the groups of one kind among themselves.
    """
    names = sorted(groups)
    luck = dict(zip(names, np.random.default_rng([seed, 0]).permutation(len(names)), strict=True))
    drawn = {}
    for defective in (False, True):
        dealt = sorted((kinds, luck[name], name) for name, kinds in groups.items() if bool(kinds) == defective)
        drawn.update({name: turns[turn % len(turns)] for turn, (_, _, name) in enumerate(dealt)})
    return drawn


def _finish(root: Path, drafts: list[_Draft], seed: int, skip_bad: bool) -> SampleSet:
    """Read the open labels, draw the open splits."""
    drafts, bad = _label(root, drafts, skip_bad)
    _leave_out(bad)
    turns = SPLIT_TURNS if any(draft.split is None for draft in drafts) else VAL_TURNS
    kinds: dict[str, set[str]] = {}
    for draft in drafts:
        if draft.split != "test":
            kinds.setdefault(draft.group, set()).update({draft.kind} if draft.label == DEFECT else ())
    drawn = draw_splits({group: tuple(sorted(found)) for group, found in kinds.items()}, turns, seed)
    found = tuple(
        Sample(
            image=draft.image,
            mask=draft.mask,
            label=int(draft.label == DEFECT),
            kind=draft.kind if draft.label == DEFECT else "good",
            group=draft.group,
            split="test" if draft.split == "test" else drawn[draft.group],
        )
        for draft in drafts
    )
    return SampleSet(root, found)


def _label(root: Path, drafts: list[_Draft], skip_bad: bool) -> tuple[list[_Draft], list[str]]:
    done, bad = [], []
    for draft in track(drafts, "reading labels") if any(draft.label is None for draft in drafts) else drafts:
        if draft.label is not None or draft.mask is None:
            done.append(draft)
            continue
        try:
            label = DEFECT if records.read_mask(root / draft.mask).any() else GOOD
        except DatasetError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
        else:
            done.append(replace(draft, label=label))
    return done, bad


def _leave_out(bad: Iterable[str]) -> None:
    for line in bad:
        console.print(f"left out: {line}", style="yellow", markup=False, soft_wrap=True)


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise DatasetError(f"{root}: not found; expected a data folder; correct data.root")
    if not root.is_dir():
        raise DatasetError(f"{root}: a file; expected a data folder; correct data.root")
    if next(root.iterdir(), None) is None:
        raise DatasetError(f"{root}: empty; expected a data folder with pictures; fill it or correct data.root")


def _check_any(samples: SampleSet, what: str) -> None:
    if not len(samples):
        raise DatasetError(f"{samples.root}: {what}; expected some; correct data.root or data.layout")


def _mask(root: Path, image: Path, candidates: list[str]) -> str:
    for name in candidates:
        if (root / name).is_file():
            return name
    raise DatasetError(f"{root / candidates[0]}: mask not found; {_name(root, image)} needs it; restore it")


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if _is_picture(path))


def _is_picture(path: Path) -> bool:
    # Names with a leading dot are other programs' bookkeeping (macOS writes ._x.png beside x.png).
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
