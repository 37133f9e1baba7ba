"""The certificate of a bundle: its files run on real parts, bounded, and written into its manifest.

Every verified format goes through the engine a box would run it on. All of them reach the targets
and the bundle is rewritten whole with their thresholds, figures and certificate, or nothing is
changed: whichever format a box runs, it is a certified one. Leaves out: the bounds and the choice
of a threshold (`training/certify.py`, `certify_threshold.py`), and the page (`certificate_page.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline import bundle as bundles
from diagline import files
from diagline.bundle import Bundle, Format, Golden
from diagline.config_train import CertifyConfig
from diagline.console import track
from diagline.errors import BundleError, CertificateError, DatasetError, ParityError
from diagline.preprocess import preprocess
from diagline.samples import DEFECT, GOOD, SampleSet
from edge_runtime.engines.choice import open_engine
from edge_runtime.engines.engine import Engine
from edge_runtime.selftest import self_test, tolerance
from export.golden import LEAST_STEPS
from export.parity import threshold_for
from training import certify, certify_threshold, evaluate
from training.certify import Certificate, Evidence
from training.certify_threshold import Choice


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one format showed.

    Attributes:
        evidence: the test split and the format's raw outputs on it.
        certificate: its threshold and bounds, on the raw scale.
        engine: it was open on this engine.
    """

    choice: Choice
    evidence: Evidence
    certificate: Certificate
    engine: Engine


def measure(
    bundle: Bundle, val: SampleSet, test: SampleSet, targets: CertifyConfig, threads: int
) -> dict[str, Outcome]:
    """Choose a threshold on `val`, carry it into every verified format, and bound what each does on `test`.

    One logit for all of them, chosen on the first: were each to choose its own, a few validation parts would
    put them apart, and the formats of one network would judge parts differently.

    Args:
        val: real validation pictures; defects among them only where the line may use them.
        test: the evidence.

    Raises:
        DatasetError: a test picture that is not real, too few parts for the targets, no good
            validation part, or another test split than the bundle's figures rest on.
        BundleError: no format is verified, a file does not open, the golden vectors fail on this machine, or an
            output is not finite.
    """
    certify.check_evidence(test, targets)
    _check_same(bundle, test)
    if not len(val.labelled(GOOD)):
        raise DatasetError(
            f"{val.root}: no real good pictures in the validation split; expected some to choose the threshold on; "
            f"move some there"
        )
    verified = {name: fmt for name, fmt in bundle.manifest.formats.items() if fmt.engines}
    if not verified:
        raise BundleError(f"{bundle.root}: no format is verified on an engine; export it again where one runs it")
    engines = {name: _engine(bundle, name, fmt, threads) for name, fmt in verified.items()}
    first, fmt = next(iter(verified.items()))
    seen = _outputs(bundle, first, engines[first], val, "validation")
    counts = (len(test.labelled(DEFECT)), len(test.labelled(GOOD)))
    choice = certify_threshold.choose(_labels(val), seen, *counts, targets, fmt.output_dtype == "int8")
    logit, outcomes = fmt.to_logit(choice.threshold), {}
    for name, fmt in verified.items():
        evidence = Evidence(_labels(test), _outputs(bundle, name, engines[name], test, "test"), _groups(test))
        carried = choice
        if name != first:
            carried = Choice(threshold_for(fmt, logit), f"that of {first} in this file's numbers; there {choice.rule}")
        shown = certify.certify(evidence, carried.threshold, targets)
        outcomes[name] = Outcome(carried, evidence, shown, engines[name])
    return outcomes


def _check_same(bundle: Bundle, test: SampleSet) -> None:
    said, found = str(bundle.manifest.metrics_split.get("data_hash")), test.hash()
    if said != found:
        raise DatasetError(
            f"{test.root}: its test split (SHA-256 {found[:12]}...) is not the one {bundle.root} was exported with "
            f"({said[:12]}...), so its network may have learnt from these pictures; export the bundle again"
        )


def _engine(bundle: Bundle, name: str, fmt: Format, threads: int) -> Engine:
    timed, runs_on = bundle.manifest.fastest or (None, None)  # what a box runs: what was timed, or the first
    chosen = runs_on if timed == name else fmt.engines[0]
    engine = open_engine(bundle.path(name), name, fmt, bundle.manifest.input, chosen, threads)
    _check_golden(bundle, name, engine)
    return engine


def _check_golden(bundle: Bundle, name: str, engine: Engine) -> None:
    """A machine that fails the golden vectors measures nothing that could be trusted."""
    fault = self_test(bundle, name, engine).fault
    if fault is not None:
        raise BundleError(f"{bundle.root}: {fault}; expected the outputs of the export; export it on this machine")


def _outputs(bundle: Bundle, name: str, engine: Engine, pictures: SampleSet, what: str) -> NDArray[np.float64]:
    outputs = np.empty(len(pictures), np.float64)
    for index, sample in enumerate(track(pictures.samples, f"{name}: {what}")):
        outputs[index] = engine.infer(preprocess(pictures.read_image(sample), bundle.manifest.input))
        if not np.isfinite(outputs[index]):
            raise BundleError(
                f"{bundle.path(name)}: gives {outputs[index]} for {pictures.root / sample.image}; expected a finite "
                f"output; train it again"
            )
    return outputs


def _labels(pictures: SampleSet) -> NDArray[np.int64]:
    return np.array([sample.label for sample in pictures], np.int64)


def _groups(pictures: SampleSet) -> tuple[str, ...]:
    return tuple(sample.group for sample in pictures)


def check_reached(bundle: Bundle, outcomes: Mapping[str, Outcome]) -> None:
    """Refuse unless every format reached both targets.

    Raises:
        CertificateError: says what the first format that did not has reached, what would mend
            it, and which certificate the bundle keeps.
    """
    missed = {name: outcome.certificate for name, outcome in outcomes.items() if not outcome.certificate.reached}
    if not missed:
        return
    name, first = next(iter(missed.items()))
    others = f" (and {len(missed) - 1} of its other formats)" if len(missed) > 1 else ""
    old = bundle.manifest.certificate
    kept = f"its certificate of {old['issued'][:10]}" if old is not None else "no certificate"
    raise CertificateError(f"{bundle.root}: {name}{others}: {first.shortfall}; the bundle is as it was, with {kept}")


def check_flips(bundle: Bundle, outcomes: Mapping[str, Outcome], allowed: float) -> None:
    """Refuse where the formats judge the evidence differently at the threshold to be certified.

    Args:
        allowed: share of the test parts that a format may judge otherwise than the first.

    Raises:
        ParityError: names the format and how many.
    """
    first = next(iter(outcomes))
    for name, flips in _flips(outcomes).items():
        parts = len(outcomes[name].evidence.labels)
        if flips > allowed * parts:
            raise ParityError(
                f"{bundle.root}: at the threshold to be certified {name} flips {flips} of {parts} verdicts of {first} "
                f"({flips / parts:.2%}; export.flips allows {allowed:.2%}); the bundle is as it was; see where: "
                f"diagline parity {bundle.root} DATA"
            )


def _flips(outcomes: Mapping[str, Outcome]) -> dict[str, int]:
    """Per format the test parts that it judges otherwise than the first."""
    first = _rejected(next(iter(outcomes.values())))
    return {name: int(np.sum(_rejected(outcome) != first)) for name, outcome in outcomes.items()}


def certificate(
    bundle: Bundle, outcomes: Mapping[str, Outcome], val: SampleSet, test: SampleSet, targets: CertifyConfig
) -> dict[str, Any]:
    """The certificate as plain data; its keys are explained in docs/certificate.md."""
    weakest = max((outcome.certificate for outcome in outcomes.values()), key=lambda one: one.escape.bound)
    formats = {}
    for name, outcome in outcomes.items():
        fmt, shown = bundle.manifest.formats[name], outcome.certificate
        threshold = _in_domain(fmt, shown.threshold)
        formats[name] = {
            "says": shown.says,
            "says_overkill": shown.says_overkill,
            "file": fmt.file,
            "sha256": files.sha256_file(bundle.path(name)),
            "engine": outcome.engine.name,
            "threshold": threshold,
            "threshold_logit": fmt.to_logit(threshold),
            "rule": outcome.choice.rule,
            "escape": asdict(shown.escape),
            "overkill": asdict(shown.overkill),
        }
    return {
        "says": weakest.says,
        "caution": certify.note_on_groups(weakest),
        "issued": datetime.now(UTC).isoformat(timespec="seconds"),
        "targets": asdict(targets),
        "evidence": {"split": "test", "data_hash": test.hash(), **_counts(test)},
        "threshold_chosen_on": {"split": "val", "data_hash": val.hash(), **_counts(val)},
        "formats": formats,
    }


def _counts(pictures: SampleSet) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, label in (("defects", DEFECT), ("good", GOOD)):
        some = pictures.labelled(label)
        found |= {name: len(some), f"{name}_groups": len(set(_groups(some)))}
    return found


def write(bundle: Bundle, outcomes: Mapping[str, Outcome], issued: dict[str, Any], key: Path | None = None) -> Bundle:
    """Rewrite the bundle whole with its certificate, thresholds and the figures at them, signed by `key`.

    A golden picture nearer to a new threshold than the self-test lets an output stray is left
    out: a healthy box of another make could fail on it. The safest of a class stays in any case.

    Raises:
        BundleError: the golden vectors fail on this machine: what it measured is not to be trusted.
        OutputError: the folder cannot be written to.
    """
    formats, flips = dict(bundle.manifest.formats), {**bundle.manifest.flips, **_flips(outcomes)}
    for name, outcome in outcomes.items():
        old, shown, evidence = formats[name], outcome.certificate, outcome.evidence
        threshold = _in_domain(old, shown.threshold)
        logits = old.scale * (evidence.outputs - old.zero_point)
        metrics = asdict(evaluate.measure(evidence.labels, logits, old.to_logit(threshold)))
        formats[name] = replace(old, threshold=threshold, metrics=metrics)
    manifest = replace(bundle.manifest, formats=formats, flips=flips, certificate=issued)
    golden = safe_golden(bundle.golden, {name: formats[name] for name in outcomes})
    renewed = replace(bundle, manifest=manifest, golden=golden)
    for name, outcome in outcomes.items():
        _check_golden(renewed, name, outcome.engine)
    return bundles.rewrite(bundle, manifest, golden, key)


def safe_golden(golden: tuple[Golden, ...], formats: Mapping[str, Format]) -> tuple[Golden, ...]:
    """The golden vectors at least `LEAST_STEPS` from every format's threshold, and the safest of each class."""
    margins = [min(_margin(vector, name, fmt) for name, fmt in formats.items()) for vector in golden]
    safest = {
        max((place for place, vector in enumerate(golden) if vector.label == label), key=lambda place: margins[place])
        for label in {vector.label for vector in golden}
    }
    return tuple(vector for place, vector in enumerate(golden) if margins[place] >= LEAST_STEPS or place in safest)


def _margin(vector: Golden, name: str, fmt: Format) -> float:
    """Distance from the threshold in steps; half a step more above it, where at the threshold is a REJECT."""
    return abs((vector.outputs[name] - fmt.threshold) / tolerance(fmt, fmt.threshold) + 0.5)


def _rejected(outcome: Outcome) -> NDArray[np.bool_]:
    return outcome.evidence.outputs >= outcome.certificate.threshold


def _in_domain(fmt: Format, threshold: float) -> float:
    return int(threshold) if fmt.output_dtype == "int8" else threshold
