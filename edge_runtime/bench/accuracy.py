"""How right each format is on each engine, measured on this machine through that very engine.

Leaves out: how fast (`measure.py`), and intervals or bounds on these figures: those are `diagline
evaluate`'s and `certify`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diagline import layouts
from diagline.bundle import Bundle
from diagline.console import track
from diagline.errors import DatasetError
from diagline.metrics import average_precision, escape_and_overkill
from diagline.preprocess import preprocess
from diagline.samples import DEFECT, GOOD, SampleSet
from edge_runtime.engines.choice import open_engine

SPLIT_OF_THEIR_OWN = ("ksdd2", "mvtec", "split_csv", "samples")
"""Layouts that say what is test; of others every picture counts."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares, 0 to 1, at the format's own threshold; None where neither data nor the manifest say.

    Attributes:
        ap: average precision, no threshold.
        escape: share of the defects that pass.
        overkill: share of the good parts that are rejected.
    """

    ap: float | None
    escape: float | None
    overkill: float | None


def said(bundle: Bundle, format_name: str) -> Accuracy:
    """What the manifest has: measured at export on the format's own engine."""
    metrics = bundle.manifest.formats[format_name].metrics
    return Accuracy(metrics.get("ap"), metrics.get("escape"), metrics.get("overkill"))


def measured(bundle: Bundle, format_name: str, engine: str, threads: int, pictures: SampleSet) -> Accuracy:
    """What this engine makes of the pictures.

    Raises:
        DatasetError: a picture that cannot be read, pictures of one class only, or an output that is not finite.
        BundleError, MissingExtraError: as `open_engine`.
    """
    fmt, contract = bundle.manifest.formats[format_name], bundle.manifest.input
    opened = open_engine(bundle.path(format_name), format_name, fmt, contract, engine, threads)
    outputs = [
        opened.infer(preprocess(pictures.read_image(sample), contract))
        for sample in track(pictures.samples, f"scoring {format_name} on {engine}")
    ]
    labels = [sample.label for sample in pictures]
    ap = average_precision(labels, outputs)
    return Accuracy(ap, *escape_and_overkill(labels, outputs, fmt.threshold))


def check(pictures: SampleSet) -> SampleSet:
    """The pictures, if both classes are among them.

    Raises:
        DatasetError: one class is missing.
    """
    good, defects = (len(pictures.labelled(label)) for label in (GOOD, DEFECT))
    if not good or not defects:
        raise DatasetError(
            f"{pictures.root}: {good} good and {defects} defective pictures to measure on; expected both; "
            f"add some of the missing class, or bench the bundle without data"
        )
    return pictures


def pictures_of(folder: Path, bundle: Bundle) -> SampleSet:
    """The pictures of a folder to measure a bundle on.

    Its test split where the folder says which that is, otherwise all of them; but where they are the
    pictures the bundle was exported with, the test split that was drawn then.

    Raises:
        DatasetError: as `layouts.open_data`, or a class is missing.
    """
    layout = layouts.detect(folder)
    config = bundle.manifest.provenance.get("config", {})
    drawn = config.get("data", {}).get("split_seed")
    found = layouts.open_data(folder, layout, config.get("seed", 0) if drawn is None else drawn)
    test = found.split("test")
    if layout in SPLIT_OF_THEIR_OWN or test.hash() == bundle.manifest.metrics_split.get("data_hash"):
        return check(test)
    return check(found)
