"""The seeded plan of a run: which normal, which mask, which words, for every picture.

Entries are plain data, written before the first picture is painted. An entry depends on the
seed, the split, its index and the attempt alone, so that a run may be killed, resumed or
divided among processes and ends with the same set. Leaves out: painting and files
(`generate.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from diagline.config_generate import GenerateConfig
from diagline.errors import DatasetError
from diagline.samples import DEFECT, GOOD, IMAGE_SUFFIXES, SPLITS, Sample, SampleSet, read_image, read_mask
from generation import masks, regions, shapes
from generation.painting import Image, Job

# The random streams of one entry: its draw, (1 is the painting's own,) its mask; and those of the turns.
_PICK, _MASK = 0, 2
_NORMALS, _MASKS, _PROMPTS, _TEXTURES = range(4)
_TURN = 2**31  # no index reaches it

Entry = dict[str, Any]


class Draws:
    """What a run draws from, and how.

    Args:
        normals: the line's pictures; defective ones in it are left alone.
        settings: method, mask source, prompts, spread.
        seed: of everything drawn.
        counts: pictures per split.
        positives: real defects with masks, for `masks = "real"`.

    Raises:
        DatasetError: nothing to paint, no good picture in a split, no real mask where they are asked
            for, no prompt where the method needs one, a textures folder without pictures.
        ConfigError: the expert's drawing cannot be used.
    """

    def __init__(
        self,
        normals: SampleSet,
        settings: GenerateConfig,
        seed: int,
        counts: Mapping[str, int],
        positives: SampleSet | None = None,
    ) -> None:
        _check_counts(counts)
        self.normals, self.settings, self.seed, self.counts = normals, settings, seed, dict(counts)
        self._good = {split: normals.split(split).labelled(GOOD).samples for split in counts}
        self._by_image = {sample.image: sample for good in self._good.values() for sample in good}
        for split, good in self._good.items():
            if counts[split] and not good:
                raise DatasetError(
                    f"{normals.root}: no good pictures in split {split}; expected at least one to paint on; "
                    f"check the layout and the split"
                )
        if settings.method != "memseg" and not settings.prompts:
            raise DatasetError(
                f"generate.prompts is empty; {settings.method} paints what the expert says; "
                f'set it, e.g. prompts = ["thin bright scratches on metal"]'
            )
        self._textures = _textures(settings.textures)
        self._regions = None if settings.regions is None else regions.read(settings.regions)
        self._positives = positives
        self._real: dict[str, list[Sample]] = {}
        if settings.mask_source == "real":
            self._real = {split: _with_masks(positives, split) for split in counts if counts[split]}
        if settings.mask_source == "regions" and (self._regions is None or not self._regions.mask_names):
            raise DatasetError(
                'generate.masks = "regions" without a mask in generate.regions; expected the file of the expert\'s '
                'drawing with at least one region of role "mask"; draw one, or choose other masks'
            )

    def first(self) -> list[Entry]:
        """The plan: attempt 0 of every slot, in slot order."""
        return [self.entry(slot, 0) for slot in range(sum(self.counts.values()))]

    def entry(self, slot: int, attempt: int) -> Entry:
        """What is painted in `slot` at its `attempt` (from 0); a later attempt keeps the words."""
        split, index = self._place(slot)
        stream = [self.seed, SPLITS.index(split), index, attempt]
        pick = np.random.default_rng([*stream, _PICK])
        even = self.settings.spread == "even" and attempt == 0
        good, count = self._good[split], self.counts[split]

        def draw(axis: int, options: int) -> int:
            return self._turn(split, axis, index, options) if even else int(pick.integers(options))

        normal = good[draw(_NORMALS, len(good))]
        found: Entry = {"slot": slot, "split": split, "index": index, "attempt": attempt, "stream": stream}
        found["normal"] = normal.image
        found["mask"] = self._mask(split, draw)
        found["prompt"], found["negative_prompt"] = "", ""
        prompts = self.settings.prompts
        if prompts and self.settings.method != "memseg":
            block = self.settings.spread == "uniform"
            place = index * len(prompts) // count if block else self._turn(split, _PROMPTS, index, len(prompts))
            found["prompt"], found["negative_prompt"] = prompts[place], self.settings.negative_prompt
        found["texture"] = str(self._textures[draw(_TEXTURES, len(self._textures))]) if self._textures else None
        return found

    def load(self, entry: Entry) -> Job:
        """Read the pictures of an entry and draw its mask.

        Raises:
            DatasetError: a picture or mask cannot be read or used; names the normal.
        """
        normal_bgr = read_image(self.normals.root / entry["normal"])
        height_px, width_px = normal_bgr.shape[:2]
        region = None if self._regions is None else self._regions.allowed(height_px, width_px)
        try:
            mask = self._draw_mask(entry, normal_bgr, region)
            if mask is not None:
                masks.check_mask(mask, normal_bgr, _named(entry["mask"]))
        except DatasetError as error:
            raise DatasetError(f"{self.normals.root / entry['normal']}: {error}") from error
        texture_bgr = None if entry["texture"] is None else read_image(Path(entry["texture"]))
        stream = tuple(entry["stream"])
        return Job(normal_bgr, mask, stream, entry["prompt"], entry["negative_prompt"], texture_bgr, region)

    def normal(self, entry: Entry) -> Sample:
        """The good picture an entry is painted on."""
        return self._by_image[entry["normal"]]

    def calibrating(self) -> list[Sample]:
        """The good pictures that the gate's thresholds are measured on, of the splits that are painted on."""
        pool = [sample for sample in self.normals if self.counts.get(sample.split) and sample.label == GOOD]
        order = np.random.default_rng([self.seed, 0]).permutation(len(pool))
        return [pool[place] for place in order[: self.settings.quality.calibration_images]]

    def originals(self) -> list[Path]:
        """Real pictures that nothing generated may copy: good ones the gate is calibrated on, and real defects."""
        found = [self.normals.root / sample.image for sample in self.calibrating()]
        if self._positives is not None:
            wanted = self._positives.where(lambda sample: sample.split in self.counts and sample.label == DEFECT)
            found += [wanted.root / sample.image for sample in wanted]
        return found

    def _place(self, slot: int) -> tuple[str, int]:
        for split in sorted(self.counts, key=SPLITS.index):
            if slot < self.counts[split]:
                return split, slot
            slot -= self.counts[split]
        raise ValueError(f"slot {slot} beyond the plan's end")

    def _turn(self, split: str, axis: int, index: int, options: int) -> int:
        """Option of `index` when all options take turns, newly shuffled each time round."""
        turn, place = divmod(index, options)
        rng = np.random.default_rng([self.seed, SPLITS.index(split), _TURN, axis, turn])
        return int(rng.permutation(options)[place])

    def _mask(self, split: str, draw: Any) -> Entry:
        source = self.settings.mask_source
        if source == "real":
            sample = self._real[split][draw(_MASKS, len(self._real[split]))]
            return {"source": source, "mask": sample.mask, "kind": sample.kind}
        if source == "shapes":
            return {"source": source, "kind": self.settings.shapes.kinds[draw(_MASKS, len(self.settings.shapes.kinds))]}
        if source == "regions" and self._regions is not None:
            place = draw(_MASKS, len(self._regions.mask_names))
            return {"source": source, "place": place, "kind": self._regions.mask_names[place]}
        return {"source": source}

    def _draw_mask(self, entry: Entry, normal_bgr: Image, region: Image | None) -> Image | None:
        what, (height_px, width_px) = entry["mask"], normal_bgr.shape[:2]
        if what["source"] == "real" and self._positives is not None:
            return masks.fit_mask(read_mask(self._positives.root / what["mask"]), height_px, width_px)
        if what["source"] == "shapes":
            rng = np.random.default_rng([*entry["stream"], _MASK])
            if self.settings.foreground == "otsu":
                part = masks.foreground_mask(normal_bgr)
                region = part if region is None else cast(Image, cv2.bitwise_and(region, part))
            return shapes.draw(what["kind"], height_px, width_px, rng, self.settings.shapes, region)[0]
        if what["source"] == "regions" and self._regions is not None:
            drawn: Image = self._regions.masks(height_px, width_px)[what["place"]][1]
            return drawn
        return None


def _check_counts(counts: Mapping[str, int]) -> None:
    for split, count in counts.items():
        if split not in SPLITS or count < 0:
            raise DatasetError(f"{split}: {count} pictures to paint; expected a split and a count from 0")
    if not sum(counts.values()):
        raise DatasetError("generate.count = 0: no defects to paint; expected 1 or more; set it in [generate]")


def _with_masks(positives: SampleSet | None, split: str) -> list[Sample]:
    """The real defects of a split whose masks are not empty."""
    usable = []
    if positives is not None:
        for sample in positives.where(lambda one: one.split == split and one.label == DEFECT and one.mask is not None):
            mask = positives.read_mask(sample)
            if cv2.countNonZero(mask):
                masks.check_mask(mask, positives.read_image(sample), f"{positives.root / str(sample.mask)}")
                usable.append(sample)
    if not usable:
        raise DatasetError(
            f'generate.masks = "real": no real defect of split {split} has a mask; '
            f'expected at least one; choose generate.masks = "shapes", which needs none'
        )
    return usable


def _textures(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        what = "holds no pictures" if folder.is_dir() else "not a folder"
        raise DatasetError(
            f"generate.textures = {str(folder)!r}: {what}; expected texture pictures, such as DTD's; "
            f"or leave the key out to paint from the parts themselves"
        )
    return found


def _named(mask: Entry) -> str:
    """A mask's file, or the name that the expert gave it."""
    return str(mask.get("mask") or mask.get("kind") or mask["source"])
