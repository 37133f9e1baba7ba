"""Teacher, students and every exported format on the same pictures, side by side.

The figures a format earns come through its own file and a real engine, never from the torch
network it was made of. Leaves out: where two of them part ways (`export/parity.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from diagline import bundle as bundles
from diagline import files
from diagline.config import STUDENT, TEACHER, Config
from diagline.console import track
from diagline.errors import DatasetError, ExportError
from diagline.preprocess import InputContract, preprocess
from diagline.samples import DEFECT, GOOD, SampleSet
from edge_runtime.engines.choice import open_engine
from edge_runtime.loop import fastest
from training import evaluate, intervals, student, student_spec, teacher

BEST_F1 = "best F1 on the test split itself, as in the paper: optimistic, as it is chosen by what it is measured on"
BUNDLED = "the bundle's own"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A logit at or above which a part is rejected, and in words how it was chosen."""

    logit: float
    rule: str


@dataclass(frozen=True, slots=True)
class Row:
    """One network in one form on the test split.

    Attributes:
        logits: `(N,)` float64, real-valued whatever the format's own domain.
        threshold: REJECT at or above; on the scale of `logits`.
        rule: how the threshold was chosen, in words.
        size_bytes: size of the file that would be shipped.
        kinds: by kind of defect.
        intervals: by figure (`intervals.FIGURES`); None where too few groups carry it.
    """

    metrics: evaluate.Metrics
    logits: NDArray[np.float64]
    threshold: float
    rule: str
    size_bytes: int
    kinds: dict[str, evaluate.Kind]
    intervals: dict[str, intervals.Interval | None]

    def plain(self) -> dict[str, Any]:
        """Everything but the logits, for JSON."""
        return {
            **asdict(self.metrics),
            "threshold_rule": self.rule,
            "size_bytes": self.size_bytes,
            "intervals": {name: [one.low, one.high] if one else None for name, one in self.intervals.items()},
            "kinds": {name: asdict(kind) for name, kind in self.kinds.items()},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows, and the pictures all of them saw.

    Attributes:
        labels: `(N,)` int, in the order of `test` and of each row's logits.
        rows: by name: teacher, student, student_alone (the same without a teacher, where it was
            trained), then the bundle's formats.
        shipped: the row whose mistakes matter most: the format that would run on the line, or
            the student before any export.
        ap: which of `ap` and `ap_trapezoid` heads a table, as the config says.
        resamples: behind each interval.
    """

    test: SampleSet
    labels: NDArray[np.int64]
    rows: dict[str, Row]
    shipped: str
    ap: str
    resamples: int

    @property
    def rules(self) -> dict[str, list[str]]:
        """Each way in which a threshold was chosen, in words, and the rows it holds for."""
        found: dict[str, list[str]] = {}
        for name, row in self.rows.items():
            found.setdefault(row.rule, []).append(name)
        return found

    @property
    def groups(self) -> list[str]:
        """`(N,)` names; pictures of one name are of one part."""
        return [sample.group for sample in self.test]

    def evidence(self) -> dict[str, Any]:
        """How much the figures rest on: good and defective pictures, and the groups that hold them."""
        held = intervals.group_counts(self.labels, self.groups)
        pictures = {label: int(np.sum(self.labels == label)) for label in (GOOD, DEFECT)}
        return {
            "good": pictures[GOOD],
            "good_groups": held[GOOD],
            "defects": pictures[DEFECT],
            "defect_groups": held[DEFECT],
            "interval_share": intervals.SHARE,
            "resamples": self.resamples,
        }

    def plain(self) -> dict[str, Any]:
        """Everything but logits and pictures, for JSON."""
        return {
            "forms": {name: row.plain() for name, row in self.rows.items()},
            "shipped": self.shipped,
            "ap": self.ap,
            "test": self.evidence(),
        }


def compare(config: Config, test: SampleSet, thresholds: Mapping[str, Threshold]) -> Comparison:
    """Score what is there: the networks that have a threshold, and the bundle's formats once exported.

    Args:
        test: holds good and defective pictures.
        thresholds: of "teacher", "student" and, where it was trained, "student_alone", chosen on
            validation. With `evaluate.threshold = "best_f1"` the test split's own replace them.

    Raises:
        TrainingError: teacher or student was not trained.
        ExportError: a network or bundle made for another input or size than the config's, or a
            bundle of another student than the one trained here.
        DatasetError: the test split holds one class only, or a network gives no finite scores.
    """
    labels = _labels(test)
    networks = {name: checkpoint_path(config, name) for name in thresholds}
    opened = {name: _open(name, path, config) for name, path in networks.items()}
    bundle = bundles.read(config.bundle) if (config.bundle / bundles.MANIFEST).is_file() else None
    if bundle is not None:
        _check_bundle(bundle, config, networks[STUDENT])
    rows: dict[str, Row] = {}
    for name, network in opened.items():
        _, logits, _ = evaluate.scores(network, [test], config.input, batch_size=16)
        rows[name] = _row(config, test, name, logits.astype(np.float64), thresholds[name], networks[name])
    shipped = STUDENT
    if bundle is not None:
        rows.update(_formats(config, bundle, test))
        shipped = fastest(bundle)[0] if config.run.format == "fastest" else config.run.format
    ap = {"step": "ap", "trapezoid": "ap_trapezoid"}[config.evaluate.ap]
    return Comparison(test, labels, rows, shipped, ap, config.evaluate.bootstrap)


def checkpoint_path(config: Config, name: str) -> Path:
    """Where training leaves the network of that name."""
    return config.output / name / ("teacher.pt" if name == TEACHER else "student.pt")


def _labels(test: SampleSet) -> NDArray[np.int64]:
    """Of both classes: said before anything is scored."""
    labels = np.array([sample.label for sample in test], np.int64)
    defects = int(np.sum(labels == DEFECT))
    if defects in (0, len(labels)):
        raise DatasetError(
            f"{test.root}: the test split holds {len(labels) - defects} good and {defects} defective pictures; "
            f"expected both to measure on; move some of the missing class there"
        )
    return labels


def _open(name: str, path: Path, config: Config) -> nn.Module:
    """The network of a checkpoint that was made for the config's input."""
    if name == TEACHER:
        network = teacher.load(path)
        made_for = _trained_for(path)
        if made_for is not None and made_for != config.input:
            raise ExportError(
                f"{path}: a teacher trained for {_input_text(made_for)}; the config's input is "
                f"{_input_text(config.input)}; train it again, or use the config it came from"
            )
        return network
    found = student.load(path)
    if found.spec != student_spec.spec(config.student.size, config.input):
        raise ExportError(
            f"{path}: a student of {found.spec.macs() / 1e6:.1f} MMAC for {found.spec.width_px}x"
            f"{found.spec.height_px}x{found.spec.channels}; the config asks for {config.student.size} at "
            f"{_input_text(config.input)}; distil it again, or use the config it came from"
        )
    return found


def _trained_for(path: Path) -> InputContract | None:
    """The input in the run's record; None without a record: ResNet-50 itself takes any size."""
    beside = path.with_name("run.json")
    return InputContract(**json.loads(beside.read_bytes())["config"]["input"]) if beside.is_file() else None


def _check_bundle(bundle: bundles.Bundle, config: Config, student_path: Path) -> None:
    manifest = bundle.manifest
    if manifest.input != config.input:
        raise ExportError(
            f"{bundle.root}: a bundle for {_input_text(manifest.input)}; the config's input is "
            f"{_input_text(config.input)}; export again, or use the config it came from"
        )
    made_of = manifest.provenance.get("checkpoint_sha256")
    here = {path.name: files.sha256_file(path) for path in sorted(student_path.parent.glob("*.pt"))}
    if made_of is not None and made_of not in here.values():
        raise ExportError(
            f"{bundle.root}: made of a student with SHA-256 {made_of[:12]}; {student_path} is "
            f"{here.get(student_path.name, 'missing')[:12]}; expected the same; run: diagline export CONFIG"
        )


def _input_text(contract: InputContract) -> str:
    return f"{contract.width_px}x{contract.height_px}x{contract.channels} ({contract.resize})"


def _formats(config: Config, bundle: bundles.Bundle, test: SampleSet) -> dict[str, Row]:
    contract = bundle.manifest.input
    pictures = [preprocess(test.read_image(sample), contract) for sample in test]
    rows = {}
    for name, fmt in bundle.manifest.formats.items():
        engine = open_engine(bundle.path(name), name, fmt, contract, engine=None, threads=2)
        outputs = [engine.infer(picture) for picture in track(pictures, f"scoring {name}")]
        logits = np.array([fmt.to_logit(output) for output in outputs], np.float64)  # as exact as the threshold
        threshold = Threshold(fmt.to_logit(fmt.threshold), BUNDLED)
        rows[name] = _row(config, test, name, logits, threshold, bundle.path(name))
    return rows


def _row(
    config: Config, test: SampleSet, name: str, logits: NDArray[np.float64], threshold: Threshold, path: Path
) -> Row:
    bad = np.flatnonzero(~np.isfinite(logits))
    if len(bad):
        raise DatasetError(
            f"{path}: {name} gives {logits[bad[0]]} for {test.samples[bad[0]].image} ({len(bad)} of {len(logits)} "
            f"scores are not finite); expected finite logits; train or export it again"
        )
    labels = [sample.label for sample in test]
    if config.evaluate.threshold == "best_f1":
        threshold = Threshold(evaluate.choose_threshold(labels, logits), BEST_F1)
    return Row(
        metrics=evaluate.measure(labels, logits, threshold.logit),
        logits=logits,
        threshold=threshold.logit,
        rule=threshold.rule,
        size_bytes=path.stat().st_size,
        kinds=evaluate.by_kind([sample.kind for sample in test], labels, logits, threshold.logit),
        intervals=intervals.bootstrap(
            labels, logits, threshold.logit, [s.group for s in test], config.evaluate.bootstrap, config.seed
        ),
    )
