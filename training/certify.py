"""What real parts show of one inspector: bounds on escape and overkill, each at a confidence.

Labels, scores and groups in, a `Certificate` out. The scores are a format's raw outputs, so that
what is certified is the file that ships. Leaves out: choosing the threshold
(`certify_threshold.py`), running the files and putting the certificate into the bundle
(`export/issue.py`).

Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of
the binomial", Biometrika 26 (1934); here one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta  # type: ignore[import-untyped]

from diagline.config_train import CertifyConfig
from diagline.errors import DatasetError
from diagline.samples import DEFECT, GOOD, SampleSet

ROUND_TARGETS = (0.1, 0.05, 0.01, 0.005, 0.001)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Real parts and what was said of them, all `(N,)` in one order.

    Attributes:
        labels: int, 1 = defect.
        outputs: float64, higher = more likely a defect.
        groups: pictures of one group show the same part.
    """

    labels: NDArray[np.int64]
    outputs: NDArray[np.float64]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """How often parts of one class were judged wrongly.

    Attributes:
        wrong: parts judged wrongly.
        parts: parts of the class.
        bound: upper bound of the share at the confidence, each picture taken as a part of its own.
        groups: groups of those parts.
        wrong_groups: groups with at least one of them judged wrongly.
        group_bound: upper bound of the share of such groups: the cautious figure where pictures share groups.
    """

    wrong: int
    parts: int
    bound: float
    groups: int
    wrong_groups: int
    group_bound: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """What one format's verdicts on the evidence show.

    Attributes:
        threshold: REJECT at or above, on the scale of the scores.
        escape: of the defects.
        overkill: of the good parts.
        targets: what was asked.
    """

    threshold: float
    escape: Rate
    overkill: Rate
    targets: CertifyConfig

    @property
    def reached(self) -> bool:
        """Whether both bounds lie within their targets."""
        return self.escape.bound <= self.targets.escape and self.overkill.bound <= self.targets.overkill

    @property
    def says(self) -> str:
        """The escape bound in a sentence, with what would show the next round target."""
        confidence = self.targets.confidence
        sentence = (
            f"escape ≤ {percent_up(self.escape.bound)} at {percent(confidence)} from {self.escape.parts} real "
            f"defects ({self.escape.wrong} missed)"
        )
        target = next_target(self.escape.bound)
        if target is None:
            return sentence
        more = needed(self.escape.wrong, target, confidence) - self.escape.parts
        return f"{sentence}; {more} more without a miss certify {percent(target)}"

    @property
    def says_overkill(self) -> str:
        """The overkill bound in a sentence."""
        return (
            f"overkill ≤ {percent_up(self.overkill.bound)} at {percent(self.targets.confidence)} from "
            f"{self.overkill.parts} real good parts ({self.overkill.wrong} rejected)"
        )

    @property
    def shortfall(self) -> str:
        """What was missed and what would mend it; empty when both targets are reached."""
        targets, found = self.targets, []
        if self.escape.bound > targets.escape:
            reached = self.says.partition(";")[0]
            found.append(_short(reached, self.escape, targets.escape, targets.confidence, "defects without a miss"))
        if self.overkill.bound > targets.overkill:
            more = "good parts without a false call"
            found.append(_short(self.says_overkill, self.overkill, targets.overkill, targets.confidence, more))
        return "; ".join(found)


def upper_bound(wrong: int, parts: int, confidence: float) -> float:
    """One-sided Clopper-Pearson upper bound of a share, 0 to 1; 1 where all are wrong or there are no parts."""
    return float(upper_bounds(np.array([wrong]), parts, confidence)[0])


def needed(wrong: int, target: float, confidence: float) -> int:
    """The fewest parts of which `wrong` may be judged wrongly and the bound still is at most `target`."""
    low, high = wrong, wrong + 1  # the bound of `low` is above the target, in the end that of `high` is not
    while upper_bound(wrong, high, confidence) > target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if upper_bound(wrong, middle, confidence) <= target else (middle, high)
    return high


def most_wrong(parts: int, target: float, confidence: float) -> int:
    """How many of the parts may be judged wrongly with the bound at most `target`; -1 where not even none."""
    return int(np.searchsorted(upper_bounds(np.arange(parts), parts, confidence), target, "right")) - 1


def upper_bounds(wrong: NDArray[np.int64], parts: int, confidence: float) -> NDArray[np.float64]:
    """`upper_bound` for each count, (N,) float64."""
    if parts == 0:
        return np.ones(len(wrong))
    # A beta of (wrong + 1, 0) has no quantile: all parts wrong bound nothing.
    some = np.minimum(wrong, parts - 1)
    return np.where(wrong < parts, beta.ppf(confidence, some + 1, parts - some), 1.0)


def next_target(bound: float) -> float | None:
    """The next round target below a bound; None below the last."""
    return next((target for target in ROUND_TARGETS if target < bound), None)


def check_evidence(test: SampleSet, targets: CertifyConfig) -> None:
    """Refuse what cannot certify these targets whatever the network says.

    Raises:
        DatasetError: a sample that is not a real picture, or too few defects or good parts even
            without one wrong verdict; says how many are there, are needed, and what those there can show.
    """
    for sample in test:
        if sample.source != "real":
            raise DatasetError(
                f"{test.root / sample.image}: source {sample.source!r} is no evidence; expected real pictures alone in "
                f"the test split; leave it out, or move it to train"
            )
    confidence = targets.confidence
    defects, good = len(test.labelled(DEFECT)), len(test.labelled(GOOD))
    _check_enough(test.root, defects, "defects", "escape", "a miss", targets.escape, confidence)
    _check_enough(test.root, good, "good parts", "overkill", "a false call", targets.overkill, confidence)


def _check_enough(root: Path, count: int, what: str, name: str, wrong: str, target: float, confidence: float) -> None:
    enough = needed(0, target, confidence)
    if count >= enough:
        return
    asked = f"{name} ≤ {percent(target)} at {percent(confidence)}"
    if count == 0:
        raise DatasetError(
            f"{root}: no real {what} in the test split; {asked} needs {enough} without {wrong}; add them"
        )
    least = upper_bound(0, count, confidence)
    raise DatasetError(
        f"{root}: {count} real {what} in the test split; {asked} needs {enough} without {wrong}, and {count} show "
        f"{percent_up(least)} at the least; add {enough - count} more, or ask --{name} {_share_up(least):g}"
    )


def certify(evidence: Evidence, threshold: float, targets: CertifyConfig) -> Certificate:
    """Count what the threshold makes of the evidence, and bound it.

    Raises:
        ValueError: a score that is not finite, or arrays of unequal length.
    """
    labels, outputs = evidence.labels, evidence.outputs
    if not labels.shape == outputs.shape == (len(evidence.groups),) or not np.isfinite(outputs).all():
        raise ValueError(
            f"{labels.shape} labels, {outputs.shape} outputs, {len(evidence.groups)} groups; finite, equal"
        )
    rejected = outputs >= threshold
    groups = np.array(evidence.groups)
    defects, good = labels == DEFECT, labels == GOOD
    escape = _rate(~rejected[defects], groups[defects].tolist(), targets.confidence)
    overkill = _rate(rejected[good], groups[good].tolist(), targets.confidence)
    return Certificate(threshold, escape, overkill, targets)


def _rate(wrong: NDArray[np.bool_], groups: Sequence[str], confidence: float) -> Rate:
    hit = {group for group, is_wrong in zip(groups, wrong, strict=True) if is_wrong}
    count, parts, homes = int(wrong.sum()), len(groups), len(set(groups))
    return Rate(
        wrong=count,
        parts=parts,
        bound=upper_bound(count, parts, confidence),
        groups=homes,
        wrong_groups=len(hit),
        group_bound=upper_bound(len(hit), homes, confidence),
    )


def note_on_groups(certificate: Certificate) -> str:
    """A caution where pictures share groups; empty where each is a part of its own."""
    found = [
        f"{rate.parts} {what} stand in {rate.groups} groups, {rate.wrong_groups} with one judged wrongly: by group "
        f"{name} ≤ {percent_up(rate.group_bound)}"
        for what, name, rate in (
            ("defects", "escape", certificate.escape), ("good parts", "overkill", certificate.overkill)
        )
        if rate.groups < rate.parts
    ]  # fmt: skip
    if not found:
        return ""
    return "Pictures of one group are not independent, and the bounds take them as if they were. " + "; ".join(found)


def _short(reached: str, rate: Rate, target: float, confidence: float, what: str) -> str:
    said = f"{reached}, {percent(target)} asked"
    if rate.wrong / rate.parts >= target:
        return f"{said}: the network is not good enough"
    return f"{said}: {needed(rate.wrong, target, confidence) - rate.parts} more {what} would show it"


def percent_up(share: float) -> str:
    """A share in percent with two digits that count, never rounded down: 0.02687 is "2.7 %"."""
    return percent(_share_up(share))


def _share_up(share: float) -> float:
    if share <= 0:
        return 0.0
    digits = 1 - math.floor(math.log10(share))
    raised = math.ceil(round(share * 10.0**digits, 6)) / 10.0**digits
    return min(1.0, round(raised, digits))


def percent(share: float) -> str:
    """A share as text, in percent, as exact as it was given."""
    return f"{100 * share:.6g} %"
