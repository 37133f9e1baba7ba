"""Why a frame must not be judged: what cameras and cables do that a network would call a good part.

Looked for before inference, on a coarse grid of pixels where that is enough. A real sensor always
has noise: two pictures that agree to the last bit, or rows that do, came from a fault. Leaves out:
what needs to know the part (focus, light that is merely weak, a part that is not there).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diagline.config_checks import one_of, within
from edge_runtime.camera.frames import Frame

Image = NDArray[np.uint8]

CHECKS = ("size", "black", "flat", "truncated", "frozen", "duplicated", "stale")
GRID = 64  # rows and columns looked at for brightness
TAIL = 0.01  # share of pixels that may be brighter or darker than what is called the range: hot and dead ones


@dataclass(frozen=True, slots=True)
class ChecksConfig:
    """What a frame must show to be judged.

    Attributes:
        off: checks left out, names of `CHECKS`; what is no 8-bit colour picture at all is refused even so.
        width_px, height_px: the picture's size; 0: as the first good frame's.
        black_level: 99 of 100 pixels at or below this, of 255, is black.
        contrast: the fewest levels between the darkest and the brightest 1 % of any channel.
        truncated_rows: so many rows at the bottom that are all equal, or equal the frame before, are the remains of
            a cut transfer; 16 is a row of JPEG blocks.
        frozen_frames, frozen_s: the same picture repeated more often, or for longer, is a frozen source.
        max_age_ms: a frame taken longer ago shows where the part was.
    """

    off: tuple[str, ...] = ()
    width_px: int = 0
    height_px: int = 0
    black_level: int = 12
    contrast: int = 2
    truncated_rows: int = 16
    frozen_frames: int = 5
    frozen_s: float = 1.0
    max_age_ms: float = 1000.0

    def __post_init__(self) -> None:
        for name in self.off:
            one_of("camera.checks.off", name, CHECKS)
        within("camera.checks.width_px", self.width_px, 0, 65_535)
        within("camera.checks.height_px", self.height_px, 0, 65_535)
        within("camera.checks.black_level", self.black_level, 0, 254)
        within("camera.checks.contrast", self.contrast, 1, 255)
        within("camera.checks.truncated_rows", self.truncated_rows, 2, 65_535)
        within("camera.checks.frozen_frames", self.frozen_frames, 1, 1_000_000)
        within("camera.checks.frozen_s", self.frozen_s, 0.001, 3600.0)
        within("camera.checks.max_age_ms", self.max_age_ms, 1.0, 3_600_000.0)


class Refusal(NamedTuple):
    """Why a frame is not judged: the name of the check, and the cause in words."""

    check: str
    cause: str


def wrong_size(image: Image, width_px: int, height_px: int) -> str | None:
    """Anything but `(height_px, width_px, 3)` uint8; 0 takes any length."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        return (
            f"wrong size: {image.dtype} of {'x'.join(map(str, image.shape))}; expected uint8 rows, columns, 3 colours"
        )
    height, width = image.shape[:2]
    if width != (width_px or width) or height != (height_px or height):
        return f"wrong size: {width}x{height}; expected {width_px or width}x{height_px or height}"
    return None


def too_dark_or_flat(image: Image, black_level: int, contrast: int) -> Refusal | None:
    """No light, or nothing to see: white, grey, or the one colour a decoder leaves."""
    pixels = image[:: max(1, image.shape[0] // GRID), :: max(1, image.shape[1] // GRID)].reshape(-1, 3)
    tail = int(len(pixels) * TAIL)
    ends = np.partition(pixels, (tail, len(pixels) - 1 - tail), axis=0)
    low, high = ends[tail].astype(int), ends[-1 - tail].astype(int)
    if high.max() <= black_level:
        return Refusal("black", f"black: 99 % of the pixels at or below {high.max()} of 255; limit {black_level}")
    spread = int((high - low).max())
    if spread < contrast:
        return Refusal("flat", f"flat: all but one brightness, {spread} levels apart; expected {contrast} or more")
    return None


def truncated(image: Image, before: Image | None, rows: int) -> str | None:
    """The lower part is one row over and over, as a cut transfer leaves it, or is still the frame before.

    The latter is how FFmpeg patches a JPEG that breaks off: the upper part shows this part, the lower the last.
    """
    same = _equal_rows(image, image[-1:], rows)
    if same:
        return f"truncated: the lowest {same} of {len(image)} rows are one and the same; limit {rows}"
    kept = _equal_rows(image, before, rows) if before is not None and before.shape == image.shape else 0
    if 0 < kept < len(image):
        return f"truncated: the lowest {kept} of {len(image)} rows are still the frame before; limit {rows}"
    return None


def same_picture(first: Image, second: Image) -> bool:
    """Whether two pictures agree to the last bit; the middle row tells most apart."""
    middle = len(first) // 2
    return first.shape == second.shape and (first[middle] == second[middle]).all() and np.array_equal(first, second)


def stale(frame: Frame, now_ns: int, max_age_ms: float, from_ns: int | None = None) -> str | None:
    """Taken too long ago, or before the trigger."""
    if from_ns is not None and frame.taken_ns < from_ns:
        return f"stale: taken {(from_ns - frame.taken_ns) / 1e6:.0f} ms before the trigger allows"
    age_ms = (now_ns - frame.taken_ns) / 1e6
    return f"stale: taken {age_ms:.0f} ms ago; limit {max_age_ms:g} ms" if age_ms > max_age_ms else None


class FrameChecks:
    """Every check, for one source. `look` sees each frame in the order taken, `use` those that are judged.

    Keeps the last pictures themselves to compare with, and marks them read-only.
    """

    def __init__(self, config: ChecksConfig) -> None:
        self._config = config
        self._size = (config.width_px, config.height_px)
        self._last: Image | None = None
        self._since_ns = self._repeats = 0
        self._used: tuple[Image, int] | None = None

    def look(self, frame: Frame) -> Refusal | None:
        """Why the picture itself is not to be judged; None for a good one, or where there is none."""
        image = frame.frame_bgr
        if image is None:
            return None
        refusal = self._missized(image)
        if refusal is not None:
            return refusal
        image.flags.writeable = False
        before, self._last = self._last, image
        refusal = self._frozen(image, before, frame.taken_ns) or self._poor(image, before)
        if refusal is None and not all(self._size):
            self._size = (self._size[0] or image.shape[1], self._size[1] or image.shape[0])
        return refusal

    def use(self, frame: Frame, now_ns: int, from_ns: int | None = None) -> Refusal | None:
        """Why the frame is not to be judged now; None for one that may, which then counts as judged.

        Args:
            now_ns: monotonic clock.
            from_ns: the earliest a frame may have been taken for its trigger; None: whenever.
        """
        image = frame.frame_bgr
        if image is None:
            return None
        cause = stale(frame, now_ns, self._config.max_age_ms, from_ns) if self._on("stale") else None
        if cause is not None:
            return Refusal("stale", cause)
        if self._on("duplicated") and self._used is not None and same_picture(self._used[0], image):
            return Refusal("duplicated", f"duplicated: the picture of frame {self._used[1]}, judged before; limit once")
        image.flags.writeable = False
        self._used = (image, frame.number)
        return None

    def _on(self, check: str) -> bool:
        return check not in self._config.off

    def _missized(self, image: Image) -> Refusal | None:
        cause = wrong_size(image, *(self._size if self._on("size") else (0, 0)))
        return Refusal("size", cause) if cause is not None else None

    def _frozen(self, image: Image, before: Image | None, taken_ns: int) -> Refusal | None:
        if before is None or not same_picture(before, image):
            self._repeats, self._since_ns = 0, taken_ns
            return None
        self._repeats += 1
        held_s = (taken_ns - self._since_ns) / 1e9
        frames, limit_s = self._config.frozen_frames, self._config.frozen_s
        if not self._on("frozen") or (self._repeats <= frames and held_s <= limit_s):
            return None
        return Refusal(
            "frozen",
            f"frozen: the same picture again, {self._repeats} times in {held_s:.2g} s; limit {frames} or {limit_s:g} s",
        )

    def _poor(self, image: Image, before: Image | None) -> Refusal | None:
        dull = too_dark_or_flat(image, self._config.black_level, self._config.contrast)
        if dull is not None and self._on(dull.check):
            return dull
        cause = truncated(image, before, self._config.truncated_rows) if self._on("truncated") else None
        return Refusal("truncated", cause) if cause is not None else None


def _equal_rows(image: Image, other: Image, rows: int) -> int:
    """How many rows from the bottom up equal the other's (one row: each the same); 0 when fewer than `rows`."""
    if not (image[-rows:] == other[-rows:]).all():
        return 0
    same = (image == other).all(axis=(1, 2))[::-1]
    return len(image) if same.all() else int(same.argmin())
