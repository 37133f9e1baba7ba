"""Pictures, masks and folders of every layout, small enough to be made anew for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

SHAPE = (30, 20)


def draw(path: Path, shape: tuple[int, int] = SHAPE) -> Path:
    """Write a noise picture in the format of its suffix."""
    rng = np.random.default_rng([len(str(path.name)), *map(ord, path.name)])
    return _write(path, rng.integers(60, 190, (*shape, 3), dtype=np.uint8))


def draw_mask(path: Path, marked: bool, shape: tuple[int, int] = SHAPE) -> Path:
    """Write a mask, black or with a block of 4 x 3 px."""
    mask = np.zeros(shape, np.uint8)
    if marked:
        mask[10:14, 5:8] = 255
    return _write(path, mask)


def _write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, image)
    assert done
    path.write_bytes(data.tobytes())
    return path


def make_ksdd2(root: Path) -> None:
    for split, first, count in (("train", 10000, 40), ("test", 20000, 10)):
        for number in range(first, first + count):
            draw(root / split / f"{number}.png")
            draw_mask(root / split / f"{number}_GT.png", marked=number % 5 == 0)
    draw(root / "train/10301 (copy).png")
    draw_mask(root / "train/10301_GT (copy).png", marked=False)


def make_kolektorsdd(root: Path) -> None:
    for number in range(1, 51):
        for part in range(8):
            draw(root / f"kos{number:02}" / f"Part{part}.jpg", shape=(12, 8))
            draw_mask(root / f"kos{number:02}" / f"Part{part}_label.bmp", marked=part == number % 8, shape=(12, 8))


def make_magnetic_tile(root: Path) -> None:
    for kind, count in (("Free", 20), ("Blowhole", 10), ("Uneven", 3)):
        for number in range(count):
            image = draw(root / f"MT_{kind}" / "Imgs" / f"exp1_num_{kind}{number}.jpg")
            draw_mask(image.with_suffix(".png"), marked=kind == "Blowhole")  # MT_Uneven: empty above 127


def make_mvtec(root: Path) -> None:
    for number in range(20):
        draw(root / "train/good" / f"{number:03}.png")
    for kind in ("good", "crack", "hole"):
        for number in range(3):
            draw(root / "test" / kind / f"{number:03}.png")
            if kind != "good":
                draw_mask(root / "ground_truth" / kind / f"{number:03}_mask.png", marked=True)


def make_good_bad(root: Path) -> None:
    for number in range(20):
        draw(root / "good" / f"{number}.jpg")
    for number in range(10):
        draw(root / "bad" / f"{number}.jpg")
    (root / "good/notes.txt").write_text("not a picture")


def make_split_csv(root: Path) -> None:
    rows = ["image,mask,label,kind,group,split"]
    for number, split in enumerate(["train", "train", "val", "test"]):
        draw(root / f"g{number}.png")
        draw(root / f"d{number}.png")
        draw_mask(root / f"d{number}_mask.png", marked=True)
        rows.append(f"g{number}.png,,0,free,part{number},{split}")
        rows.append(f"d{number}.png,d{number}_mask.png,1,Crack,part{number},{split}")
    (root / "split.csv").write_text("\n".join(rows) + "\n")


def make_samples(root: Path) -> None:
    from diagline.samples import Sample, SampleSet

    make_split_csv(root)
    (root / "split.csv").unlink()
    good = Sample("g0.png", None, 0, "good", "g0", "train")
    painted = Sample("d0.png", "d0_mask.png", 1, "crack", "d0", "val", "memseg", {"note": "a\u2028b é"})
    SampleSet(root, (good, painted)).save()


@pytest.fixture
def make() -> Callable[[str, Path], Path]:
    """Make a folder of the named layout."""

    def build(layout: str, root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        globals()[f"make_{layout}"](root)
        return root

    return build


@pytest.fixture
def picture() -> Callable[..., Path]:
    """`draw`, as a fixture: test folders here are no packages."""
    return draw


@pytest.fixture
def mask() -> Callable[..., Path]:
    """`draw_mask`, as a fixture."""
    return draw_mask
