"""What the page's fields ask for, and what stands in the way of painting it.

Pure functions, so that they are tested without a browser. Leaves out: layout and events
(`page.py`), and painting (`worker.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diagline.errors import ConfigError, DatasetError, GenerationError
from diagline.samples import Sample, SampleSet
from generation import masks
from generation.painting import Image
from generation.studio.session import Form, Session
from generation.studio.shown import METHODS

MOST = 64  # pictures an order
COUNT = 5  # place of the count among the fields


@dataclass(frozen=True, slots=True)
class Board:
    """What a tab's drawing board shows at the moment a button is pressed, all of it saved.

    Attributes:
        normal: `Sample.image` of the picture on it; "" where there is none. Another tab's may be another.
        corners: of a polygon that is not closed.
        unsaved: one line on why the drawing could not be saved; "" when it was.
    """

    normal: str = ""
    corners: int = 0
    unsaved: str = ""

    @classmethod
    def read(cls, text: str) -> Board:
        """From what the board's script says of itself (JSON)."""
        return cls(**json.loads(text)) if text else cls()

    def check(self) -> None:
        """Refuse to work with another drawing than the one that is seen.

        Raises:
            DatasetError: nothing is shown, a polygon is open, or the drawing is not on disk.
        """
        if not self.normal:
            raise DatasetError("no picture chosen; choose a good part on the left")
        if self.corners:
            raise DatasetError(
                f"the polygon with {self.corners} corners is not closed; close it, or take its corners back with Undo"
            )
        if self.unsaved:
            raise DatasetError(f"the drawing is not saved ({self.unsaved}); draw on, or press Undo, to save it again")


def count_of(value: Any) -> int:
    """The number of pictures that the field asks for.

    Raises:
        ConfigError: it is empty, no whole number, or not in 1 to `MOST`.
    """
    if value is None or value != int(value) or not 1 <= value <= MOST:
        said = "empty" if value is None else f"{value:g}"
        raise ConfigError(f"count is {said}; expected a whole number from 1 to {MOST}; write how many to paint")
    return int(value)


def form_of(before: Form, fields: Sequence[Any], names: Sequence[str]) -> Form:
    """The form as the fields have it; a count that cannot be used leaves the one before.

    Args:
        before: as last saved; its normal stays.
        fields: prompt, negative prompt, kind, method, model, count, person, and one value for each of `names`.
        names: the method's own settings; 0 or empty: as the config says.
    """
    prompt, negative, kind, method, model, count, person, *more = fields
    try:
        usable = count_of(count)
    except ConfigError:
        usable = before.count
    return Form(
        normal=before.normal,
        prompt=(prompt or "").strip(),
        negative_prompt=(negative or "").strip(),
        kind=(kind or "").strip(),
        method=method,
        model=(model or "").strip(),
        count=usable,
        person=(person or "").strip(),
        settings={name: value for name, value in zip(names, more, strict=True) if value},
    )


def needed(
    form: Form, session: Session, normals: SampleSet, check_method: Callable[[str, str], str]
) -> tuple[Sample, Image, Image | None]:
    """The normal, its picture `(h, w, 3)` uint8 BGR and the mask, `(h, w)` uint8 0/255, of an order.

    Raises:
        DiaglineError: one line that says what is missing.
    """
    normal = next((sample for sample in normals if sample.image == form.normal), None)
    if normal is None:
        raise DatasetError("no picture chosen; choose a good part on the left")
    if not form.person:
        raise DatasetError("no name; say who you are, it is kept with every decision")
    if form.method != "memseg" and not form.prompt:
        raise GenerationError(f"no words; {form.method} paints what they say; write what goes wrong there")
    if check_method(form.method, form.model):
        raise GenerationError(f"{METHODS[form.method]} cannot paint yet; what it needs stands under Method")
    image, mask = normals.read_image(normal), session.mask(form.normal)
    if mask is None or not mask.any():
        if form.method == "in_and_out":
            return normal, image, None  # whole pictures; its superimposed share draws its own masks
        raise DatasetError("nothing is marked; paint the region where the defect goes, with brush or polygon")
    masks.check_mask(mask, image, "your drawing")
    return normal, image, mask
