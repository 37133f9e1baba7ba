"""What a method is given and what it gives back: the one contract of MemSeg, In&Out and DIAG.

`generate.py` plans jobs and keeps what comes back; the methods paint them. Leaves out: files,
plans and the quality gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to paint.

    Attributes:
        normal_bgr: `(h, w, 3)` uint8, a good part.
        mask: `(h, w)` uint8 0/255, where the defect goes; None: the method draws its own, or has none.
        stream: seeds of this picture's random draws; equal streams paint equal pictures.
        prompt, negative_prompt: the expert's words; MemSeg does not read them.
        texture_bgr: `(h', w', 3)` uint8 for MemSeg's texture source.
        region: `(h, w)` uint8 0/255, where a mask that the method draws may lie; None: everywhere.
    """

    normal_bgr: Image
    mask: Image | None
    stream: tuple[int, ...]
    prompt: str = ""
    negative_prompt: str = ""
    texture_bgr: Image | None = None
    region: Image | None = None


@dataclass(frozen=True, slots=True)
class Painted:
    """A defect picture, `(h, w, 3)` uint8 BGR, its mask, `(h, w)` uint8 0/255, and what was drawn.

    The mask is None for methods that paint whole pictures.
    """

    image_bgr: Image
    mask: Image | None
    facts: dict[str, Any]


class Painter(Protocol):
    """A method, ready to paint.

    Attributes:
        name: memseg, in_and_out or diag.
        batch_size: jobs it likes at once.
        keeps_outside: pixels outside the mask are the normal's, bit for bit.
    """

    name: str
    batch_size: int
    keeps_outside: bool

    def paint(self, jobs: Sequence[Job]) -> list[Painted]:
        """Paint a batch; `paint(jobs)[i]` is of `jobs[i]`.

        The same jobs in the same order paint the same pictures on the same machine.

        Raises:
            DatasetError: a job that cannot be painted; names what is wrong with it.
            GenerationError: a model that cannot paint it (memory, a prompt that is too long).
        """
        ...

    def check_words(self, prompt: str, negative_prompt: str) -> None:
        """Refuse words that the method would not read to their end, before anything is painted.

        Raises:
            GenerationError: says what would be cut.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """Plain data that builds this painter again: model, its revision, settings, versions."""
        ...


def as_grey_as(image_bgr: Image, normal_bgr: Image) -> Image:
    """The picture without colour where the normal has none: a grey camera sees no pink defect.

    Args:
        image_bgr: `(h', w', 3)` uint8.
        normal_bgr: `(h, w, 3)` uint8.
    """
    blue, green, red = cv2.split(normal_bgr)
    if not (np.array_equal(blue, green) and np.array_equal(green, red)):
        return image_bgr
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
    return cast(Image, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
