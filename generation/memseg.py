"""MemSeg's simulated defects: a Perlin mask filled from a texture or from the part itself.

The cheap baseline of the paper's tables: no model, no words, no real defects. Every choice is
drawn from the generator passed in, so the same generator paints the same picture. A mask that
comes from elsewhere is filled exactly. Leaves out: files and records (`generate.py`).

Source: MemSeg (arXiv 2205.00908), section 3.1. Chosen here, because the paper leaves it open or
thinks of square pictures: the grid's long side follows the picture's; a texture is scaled to
cover the picture and cropped, not squashed; a grey picture gets grey defects; a mask that covers
more than `max_cover` of the part is drawn again (it is a new surface, not a defect on this one, and
leaves nothing to compare it with), and so is a draw that changes no pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from diagline.errors import DatasetError
from generation import masks
from generation.painting import Image, Job, Painted, as_grey_as

_PAINT = 1  # of the random streams of a picture, the one it is painted from
_LEVELS = np.arange(256, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class MemSegSettings:
    """The values of the method.

    Attributes:
        foreground: "full" where the surface fills the picture, "otsu" where a part stands on a background.
        texture_share: probability of the texture source where there are textures.
        opacity_low, opacity_high: range of delta, the defect's share in the blend.
        augmenters: how many of the ten change the structure source.
        grid_short, grid_long: cells along the picture's short and long side, shuffled.
        max_cover: largest share of the part that a mask may cover.
        tries: draws before giving up.
    """

    foreground: str = "full"
    texture_share: float = 0.5
    opacity_low: float = 0.15
    opacity_high: float = 1.0
    augmenters: int = 3
    grid_short: int = 4
    grid_long: int = 8
    max_cover: float = 0.6
    tries: int = 50

    def __post_init__(self) -> None:
        if self.foreground not in ("full", "otsu"):
            raise ValueError(f"foreground = {self.foreground!r}; expected full or otsu")
        if not 0.0 < self.opacity_low <= self.opacity_high <= 1.0:
            raise ValueError(f"opacity {self.opacity_low} to {self.opacity_high}; expected 0 < low <= high <= 1")
        if not 0.0 <= self.texture_share <= 1.0 or not 0.0 < self.max_cover <= 1.0:
            raise ValueError(f"texture_share {self.texture_share}, max_cover {self.max_cover}; expected shares of 1")
        if not 0 <= self.augmenters <= len(AUGMENTERS) or min(self.grid_short, self.grid_long, self.tries) < 1:
            raise ValueError(
                f"augmenters {self.augmenters}; expected 0 to {len(AUGMENTERS)}; grid and tries at least 1"
            )


class MemSegPainter:
    """MemSeg as a `painting.Painter`; it neither reads a job's words nor needs a model."""

    name: str = "memseg"
    batch_size: int = 1
    keeps_outside: bool = True

    def __init__(self, settings: MemSegSettings) -> None:
        self.settings = settings

    def paint(self, jobs: Sequence[Job]) -> list[Painted]:
        """Paint each job from the generator `[*job.stream, 1]`; raises as `paint`."""
        return [
            paint(
                job.normal_bgr,
                np.random.default_rng([*job.stream, _PAINT]),
                self.settings,
                job.texture_bgr,
                job.mask,
                job.region,
            )
            for job in jobs
        ]

    def check_words(self, prompt: str, negative_prompt: str) -> None:
        """MemSeg reads no words."""

    def facts(self) -> dict[str, Any]:
        """Method, settings and the versions of the libraries that paint."""
        versions = {"numpy": np.__version__, "opencv": cv2.__version__}
        return {"method": self.name, "settings": asdict(self.settings), "versions": versions}


def paint(
    image_bgr: Image,
    rng: np.random.Generator,
    settings: MemSegSettings,
    texture_bgr: Image | None = None,
    mask: Image | None = None,
    region: Image | None = None,
) -> Painted:
    """Paint one defect; every pixel outside the mask is the input's, bit for bit.

    Args:
        image_bgr: `(h, w, 3)` uint8, a good part, any size.
        texture_bgr: `(h', w', 3)` uint8, any size; None: the structure source alone.
        mask: `(h, w)` uint8 0/255, filled exactly as it is: no Perlin noise, no foreground, no region.
        region: `(h, w)` uint8 0/255: a Perlin mask keeps inside it, and is moved there if it would miss it.

    Returns:
        The picture, its mask (never empty), and the facts: source, opacity, augmenters, draws,
        `cover` (share of the part; of the picture for a given mask) and `contrast` (mean absolute
        change inside the mask, grey levels).

    Raises:
        DatasetError: a mask or region that cannot be used, no usable Perlin mask or no visible
            change in `settings.tries` draws.
    """
    height_px, width_px = image_bgr.shape[:2]
    if mask is not None:
        masks.check_mask(mask, image_bgr, "given mask")
    part = masks.foreground_mask(image_bgr) if mask is None and settings.foreground == "otsu" else None
    part_px = height_px * width_px if part is None else int(cv2.countNonZero(part))
    allowed = part if mask is not None or region is None else _inside(region, part, image_bgr)
    facts: dict[str, Any]
    for draw in range(1, settings.tries + 1):
        drawn = _perlin(height_px, width_px, rng, allowed, region is not None) if mask is None else mask
        area_px = int(cv2.countNonZero(drawn))
        if mask is None and not 0 < area_px <= settings.max_cover * part_px:
            continue
        if texture_bgr is not None and rng.random() < settings.texture_share:
            facts = {"source": "texture"}
            source = _texture_source(texture_bgr, height_px, width_px, rng)
        else:
            source, names = _structure_source(image_bgr, rng, settings)
            facts = {"source": "structure", "augmenters": names}
        source = as_grey_as(source, image_bgr)
        opacity = float(rng.uniform(settings.opacity_low, settings.opacity_high))
        painted = image_bgr.copy()
        cv2.copyTo(cv2.addWeighted(source, opacity, image_bgr, 1.0 - opacity, 0.0), drawn, painted)
        contrast = float(cv2.absdiff(painted, image_bgr).sum()) / (area_px * image_bgr.shape[2])
        if contrast > 0.0:
            facts |= {"opacity": opacity, "draws": draw, "cover": area_px / part_px, "contrast": contrast}
            return Painted(painted, drawn, facts)
    if mask is not None:
        raise DatasetError(
            f"picture of {width_px}x{height_px} px, given mask of {cv2.countNonZero(mask)} px: no visible change in "
            f"{settings.tries} draws; expected another grey than the part's; set generate.textures"
        )
    raise DatasetError(
        f"picture of {width_px}x{height_px} px, {part_px} px of them part: no usable defect in {settings.tries} draws; "
        f"expected a larger part; check generate.foreground = {settings.foreground!r} on this picture"
    )


def _inside(region: Image, part: Image | None, image_bgr: Image) -> Image:
    """Where a Perlin mask may lie: the region, on the part."""
    if region.shape != image_bgr.shape[:2]:
        raise DatasetError(
            f"region is {region.shape[1]}x{region.shape[0]} px, its picture {image_bgr.shape[1]}x{image_bgr.shape[0]}; "
            f"expected the same size; scale the region with the picture"
        )
    allowed = region if part is None else cast(Image, cv2.bitwise_and(region, part))
    if not cv2.countNonZero(allowed):
        what = "covers no pixel" if part is None else "lies beside the part that otsu finds"
        raise DatasetError(f"allowed region {what}; expected it on the part; draw it again, or check the foreground")
    return allowed


def _perlin(height_px: int, width_px: int, rng: np.random.Generator, allowed: Image | None, moves: bool) -> Image:
    """A Perlin mask inside the allowed pixels; one that `moves` is shifted onto them where it misses them all."""
    mask = masks.perlin_mask(height_px, width_px, rng)
    if allowed is None:
        return mask
    inside = cast(Image, cv2.bitwise_and(mask, allowed))
    if moves and cv2.countNonZero(mask) and not cv2.countNonZero(inside):
        starts, ends = np.argwhere(mask), np.argwhere(allowed)  # a small region would else cost dozens of draws
        down, right = ends[rng.integers(len(ends))] - starts[rng.integers(len(starts))]
        shift = np.array([[1, 0, right], [0, 1, down]], np.float64)
        moved = cv2.warpAffine(mask, shift, (width_px, height_px), flags=cv2.INTER_NEAREST)
        inside = cast(Image, cv2.bitwise_and(moved, allowed))
    return inside


def _texture_source(texture_bgr: Image, height_px: int, width_px: int, rng: np.random.Generator) -> Image:
    """A random crop of the texture, scaled so that it just covers the picture."""
    scale = max(height_px / texture_bgr.shape[0], width_px / texture_bgr.shape[1])
    size = max(width_px, round(texture_bgr.shape[1] * scale)), max(height_px, round(texture_bgr.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(texture_bgr, size, interpolation=how)
    top, left = (int(rng.integers(0, slack + 1)) for slack in (size[1] - height_px, size[0] - width_px))
    return cast(Image, np.ascontiguousarray(scaled[top : top + height_px, left : left + width_px]))


def _structure_source(image_bgr: Image, rng: np.random.Generator, settings: MemSegSettings) -> tuple[Image, list[str]]:
    """The picture itself through some of the ten augmenters, cut into a grid and shuffled."""
    names = [str(name) for name in rng.choice(list(AUGMENTERS), settings.augmenters, replace=False)]
    source = image_bgr
    for name in names:
        source = AUGMENTERS[name](source, rng)
    return _shuffle_grid(source, rng, settings.grid_short, settings.grid_long), names


def _shuffle_grid(image: Image, rng: np.random.Generator, short: int, long: int) -> Image:
    height_px, width_px = image.shape[:2]
    rows, columns = (short, long) if width_px > height_px else (long, short)
    rows, columns = min(rows, height_px), min(columns, width_px)
    cell_h, cell_w = -(-height_px // rows), -(-width_px // columns)
    below, right = cell_h * rows - height_px, cell_w * columns - width_px
    padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT) if below or right else image
    shuffled = np.empty_like(padded)
    for target, origin in enumerate(rng.permutation(rows * columns)):
        (ty, tx), (oy, ox) = divmod(target, columns), divmod(int(origin), columns)
        shuffled[ty * cell_h : (ty + 1) * cell_h, tx * cell_w : (tx + 1) * cell_w] = padded[
            oy * cell_h : (oy + 1) * cell_h, ox * cell_w : (ox + 1) * cell_w
        ]
    return np.ascontiguousarray(shuffled[:height_px, :width_px])


def _table(image: Image, levels: NDArray[np.floating]) -> Image:
    """Map grey levels; `levels` is `(256,)`, or `(256, 3)` for one map a channel."""
    table = np.clip(levels + 0.5, 0, 255).astype(np.uint8)
    return cast(Image, cv2.LUT(image, table.reshape(256, 1, -1)))


def _gamma(image: Image, rng: np.random.Generator) -> Image:
    exponent = rng.uniform(0.5, 2.0, 3).astype(np.float32)
    return _table(image, 255 * (_LEVELS[:, None] / 255) ** exponent)


def _brightness(image: Image, rng: np.random.Generator) -> Image:
    return _table(image, _LEVELS * np.float32(rng.uniform(0.8, 1.2)) + np.float32(rng.uniform(-30, 30)))


def _sharpness(image: Image, rng: np.random.Generator) -> Image:
    amount = float(rng.uniform(0.1, 1.9))  # below 1 softens, above sharpens
    return cast(Image, cv2.addWeighted(image, amount, cv2.GaussianBlur(image, (3, 3), 0), 1 - amount, 0))


def _hue_saturation(image: Image, rng: np.random.Generator) -> Image:
    hue, saturation = rng.uniform(-50, 50, 2)
    levels = np.stack([(_LEVELS + hue * 180 / 255) % 180, _LEVELS + saturation, _LEVELS], axis=1)
    levels[:, 0] = np.minimum(levels[:, 0], 179)
    hsv = cast(Image, cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    return cast(Image, cv2.cvtColor(_table(hsv, levels), cv2.COLOR_HSV2BGR))


def _solarize(image: Image, rng: np.random.Generator) -> Image:
    threshold = rng.integers(32, 129)
    return _table(image, np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS))


def _posterize(image: Image, rng: np.random.Generator) -> Image:
    step = 1 << int(rng.integers(1, 8))  # 7 to 1 bits are kept
    return _table(image, _LEVELS // step * step)


def _invert(image: Image, rng: np.random.Generator) -> Image:
    return cast(Image, cv2.bitwise_not(image))


def _autocontrast(image: Image, rng: np.random.Generator) -> Image:
    low, high = image.min(axis=(0, 1)).astype(np.float32), image.max(axis=(0, 1)).astype(np.float32)
    return _table(image, (_LEVELS[:, None] - low) * 255 / np.maximum(high - low, 1))


def _equalize(image: Image, rng: np.random.Generator) -> Image:
    return cast(Image, cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)]))


def _rotate(image: Image, rng: np.random.Generator) -> Image:
    height_px, width_px = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width_px - 1) / 2, (height_px - 1) / 2), float(rng.uniform(-45, 45)), 1.0)
    # Reflected, not black: black corners would be a defect no surface has.
    return cast(Image, cv2.warpAffine(image, turn, (width_px, height_px), borderMode=cv2.BORDER_REFLECT))


AUGMENTERS: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "gamma": _gamma,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "hue_saturation": _hue_saturation,
    "solarize": _solarize,
    "posterize": _posterize,
    "invert": _invert,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
}
