"""The folder `accepted/` of a session: a sample set that follows the decisions.

It is derived, so it may lag behind a decision when a session is killed, but is a whole set at any
moment: pictures come before the records that name them and go after. Leaves out: the decisions
(`session.py`).
"""

from __future__ import annotations

from pathlib import Path

from diagline import files, samples
from diagline.errors import DatasetError
from diagline.samples import Sample, SampleSet
from generation.studio.session_files import remove


class AcceptedSet:
    """Brings a sample set to what is wanted.

    Args:
        root: the set's folder.
        candidates: NUMBER.png and NUMBER.mask.png of every sample.
    """

    def __init__(self, root: Path, candidates: Path) -> None:
        self._root, self._candidates = root, candidates
        self._now: tuple[Sample, ...] | None = None  # what is on disk; None: not known

    def bring_to(self, wanted: tuple[Sample, ...]) -> SampleSet:
        """Write what is not there yet and remove what is not wanted; again after a failure, it goes on.

        Raises:
            OutputError: the folder cannot be written to.
        """
        now = self._now
        if wanted != now:
            self._now = None
            there = {sample.image for sample in now or ()}
            for sample in wanted:
                if sample.image not in there:
                    self._place(sample)
            if now is not None or not self._holds(wanted):
                SampleSet(self._root, wanted).save()
            self._clear({Path(sample.image).name for sample in wanted})
            self._now = wanted
        return SampleSet(self._root, wanted)

    def _place(self, sample: Sample) -> None:
        stem = self._candidates / Path(sample.image).stem
        files.place(stem.with_suffix(".png"), self._root / sample.image)
        if sample.mask is not None:
            files.place(stem.with_suffix(".mask.png"), self._root / sample.mask)

    def _holds(self, wanted: tuple[Sample, ...]) -> bool:
        if not (self._root / samples.RECORDS).is_file():
            return not wanted
        try:
            return samples.load(self._root).samples == wanted
        except DatasetError:  # about to be written anew
            return False

    def _clear(self, wanted: set[str]) -> None:
        for path in [*self._root.glob("images/*.png"), *self._root.glob("masks/*.png")]:
            if path.name not in wanted and path.stem.isdecimal():
                remove(path)
