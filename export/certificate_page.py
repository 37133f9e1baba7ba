"""The page of a certificate, or of a bundle that missed its targets: what was shown, and by which parts.

Leaves out: measuring (`issue.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Bundle
from diagline.config_train import CertifyConfig
from diagline.errors import require
from diagline.report import Page
from diagline.samples import Sample, SampleSet
from export.issue import Outcome
from training import certify, evaluate
from training.certify import Evidence, Rate, percent, percent_up

SHOWN = 24
HEAD = (
    "format", "engine", "threshold", "as logit",
    "defects missed", "escape at most", "good rejected", "overkill at most",
)  # fmt: skip
Captioned = Callable[[SampleSet, Sequence[Sample]], Sequence[tuple[NDArray[np.uint8], str]]]
"""Pictures of samples, `(h, w, 3)` uint8 BGR, each with its kind."""


def write(path: Path, bundle: Bundle, outcomes: Mapping[str, Outcome], test: SampleSet, captioned: Captioned) -> None:
    """Write the page; its title says whether every format reached the targets.

    Args:
        test: the evidence, in the order of each outcome's.
        captioned: how a defect's picture is shown.
    """
    certificates = {name: outcome.certificate for name, outcome in outcomes.items()}
    reached = all(one.reached for one in certificates.values())
    targets = next(iter(certificates.values())).targets
    page = Page(f"diagline: {bundle.manifest.name} {'certified' if reached else 'not certified'}", _asked(targets))
    for name, one in certificates.items():
        page.heading(f"{name}: {one.says}", one.says_overkill if one.reached else one.shortfall)
    caution = certify.note_on_groups(max(certificates.values(), key=lambda one: one.escape.bound))
    page.heading("What each file does with the test split", caution)
    page.table(HEAD, [_cells(bundle, name, outcome) for name, outcome in outcomes.items()])
    for name, outcome in outcomes.items():
        page.heading(f"{name} over the threshold", f"The threshold stands where it is {outcome.choice.rule}.")
        page.plot(bounds_plot(outcome), f"bounds of escape and overkill of {name} over its threshold")
    for name, outcome in outcomes.items():
        labels, outputs, threshold = outcome.evidence.labels, outcome.evidence.outputs, outcome.certificate.threshold
        misses, _ = evaluate.worst(test.samples, labels, outputs, threshold, len(test))
        more = f"The {SHOWN} with the lowest outputs of {len(misses)}." if len(misses) > SHOWN else ""
        page.heading(f"Defects that {name} missed: {len(misses)}", more)
        shown = misses[:SHOWN]
        pictures = captioned(test, [case.sample for case in shown])
        page.pictures(
            (image, f"{kind}, {case.sample.image}, output {case.logit:g}")
            for (image, kind), case in zip(pictures, shown, strict=True)
        )
    page.write(path)


def _asked(targets: CertifyConfig) -> str:
    return (
        f"Asked: escape ≤ {percent(targets.escape)} and overkill ≤ {percent(targets.overkill)}, each at "
        f"{percent(targets.confidence)}. Bounds are one-sided Clopper-Pearson, from real test pictures alone."
    )


def _cells(bundle: Bundle, name: str, outcome: Outcome) -> tuple[str, ...]:
    one, fmt = outcome.certificate, bundle.manifest.formats[name]
    threshold = f"{one.threshold:.5g}"
    return (
        name, outcome.engine.name, threshold, f"{fmt.to_logit(one.threshold):+.3f}", *_rate(one.escape),
        *_rate(one.overkill),
    )  # fmt: skip


def _rate(rate: Rate) -> tuple[str, str]:
    return f"{rate.wrong} of {rate.parts}", percent_up(rate.bound)


def bounds_plot(outcome: Outcome) -> Any:
    """Both bounds on the evidence over every threshold, with the chosen one and the targets."""
    require("matplotlib", "workstation")
    from matplotlib.figure import Figure

    one = outcome.certificate
    thresholds, escape, overkill = bounds_over(outcome.evidence, one.targets.confidence)
    figure = Figure(figsize=(7, 3.4))
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    colours = {}
    for name, bounds in (("escape", escape), ("overkill", overkill)):
        (line,) = axes.step(thresholds, 100 * bounds, where="pre", label=f"{name} at most", linewidth=1.6)
        colours[name] = line.get_color()
    for name, target in (("escape", one.targets.escape), ("overkill", one.targets.overkill)):
        axes.axhline(100 * target, color=colours[name], linestyle=":", linewidth=1, label=f"{name} asked")
    axes.axvline(one.threshold, color="black", linewidth=1, label="threshold")
    axes.set(xlabel="threshold, in the file's own output", ylabel="%", ylim=(0, 103))
    axes.legend(frameon=False, fontsize=8)
    return figure


def bounds_over(
    evidence: Evidence, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Thresholds at every output, ascending, and the bounds of escape and overkill there; three (M,) float64."""
    thresholds = np.unique(evidence.outputs)
    bad, good = (np.sort(evidence.outputs[evidence.labels == label]) for label in (1, 0))
    misses = np.searchsorted(bad, thresholds, "left")
    false_calls = len(good) - np.searchsorted(good, thresholds, "left")
    return (
        thresholds,
        certify.upper_bounds(misses, len(bad), confidence),
        certify.upper_bounds(false_calls, len(good), confidence),
    )
