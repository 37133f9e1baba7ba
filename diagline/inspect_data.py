"""What `diagline data inspect` says of a SampleSet before anyone trains on it.

Leaves out: finding corrupt pictures (`diagline.samples.split_bad`, to be called first) and
printing (`diagline/cli.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from diagline.console import track
from diagline.layouts import strays
from diagline.samples import DEFECT, Sample, SampleSet

LISTED = 20  # names listed of each finding; its count is always given


def describe(
    samples: SampleSet,
    progress: Callable[[Iterable[Sample]], Iterable[Sample]] = lambda items: track(items, "measuring pictures"),
) -> dict[str, Any]:
    """Count and measure a set; every picture is decoded.

    Returns:
        Plain data for JSON: `images`, `groups` and their number per split, `counts` per split
        and kind, `width_px` and `height_px` and `defect_share` (of the picture's area, of the
        masks that are not empty) as min, median and max, `masks`, `empty_defect_masks`
        (labelled a defect, nothing above 127), `strays`, `sources`, `hash`.

    Raises:
        DatasetError: a picture or mask cannot be read.
    """
    widths_px, heights_px, shares, empty = [], [], [], []
    for sample in progress(samples):
        height_px, width_px = samples.read_image(sample).shape[:2]
        widths_px.append(width_px)
        heights_px.append(height_px)
        if sample.mask is None or sample.label != DEFECT:
            continue
        share = float(np.count_nonzero(samples.read_mask(sample))) / (width_px * height_px)
        if share > 0:
            shares.append(share)
        else:
            empty.append(sample.image)
    counts: dict[str, dict[str, int]] = {}
    for (split, kind), number in samples.counts().items():
        counts.setdefault(split, {})[kind] = number
    split_of = {sample.group: sample.split for sample in samples}
    stray = [path.relative_to(samples.root).as_posix() for path in strays(samples)]
    return {
        "root": str(samples.root),
        "images": len(samples),
        "masks": sum(sample.mask is not None for sample in samples),
        "counts": counts,
        "groups": dict(sorted(Counter(split_of.values()).items())),
        "width_px": _spread(widths_px),
        "height_px": _spread(heights_px),
        "defect_share": _spread(shares),
        "empty_defect_masks": {"count": len(empty), "images": empty[:LISTED]},
        "strays": {"count": len(stray), "images": stray[:LISTED]},
        "sources": dict(sorted(Counter(sample.source for sample in samples).items())),
        "hash": samples.hash(),
    }


def _spread(values: list[Any]) -> dict[str, float] | None:
    """Minimum, median and maximum; None where there is nothing to measure."""
    if not values:
        return None
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}
