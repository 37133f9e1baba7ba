"""From a trained network to its bundle: exported, measured through real engines, and packed.

The flow: convert; run every format on the test split; choose golden vectors; let each engine
prove itself on them; refuse what does not agree; write. The same checkpoint, data and machine give
the same bytes. Leaves out: the conversions themselves, what the gate asks (`export/ladder.py`), and
timing (`diagline bench --record`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from diagline import bundle, files, record
from diagline.bundle import FORMATS, Bundle, Format, Golden, HeatOutput, Manifest
from diagline.config import Config
from diagline.console import console, track
from diagline.errors import BundleError, DatasetError, ExportError, ParityError
from diagline.heat import Grid
from diagline.preprocess import InputContract, preprocess
from diagline.samples import DEFECT, GOOD, SampleSet
from edge_runtime import selftest
from edge_runtime.engines import Engine, engines_of, missing, open_engine
from export import golden, ladder, ladder_page, parity
from export.calibrate import METHODS
from export.choose import Judges, choose
from export.golden import GoldenSet
from export.ladder import Ladder
from export.parity import Parity, Picture
from export.quantise import QuantisedModel, Steps, measure
from export.to_onnx import student_onnx, teacher_onnx
from export.to_tflite import student_tflite
from training import evaluate, quantised, student, student_spec, teacher


@dataclass(frozen=True, slots=True)
class ExportData:
    """The pictures an export needs.

    Attributes:
        calibration: training pictures, for the int8 ranges.
        val: validation pictures; golden vectors come from them, and from training ones where
            they are too few.
        test: what every format is measured on; it chooses nothing.
    """

    calibration: tuple[SampleSet, ...]
    val: tuple[SampleSet, ...]
    test: SampleSet


@dataclass(frozen=True, slots=True)
class Exported:
    """A network and its files, not measured yet.

    Attributes:
        kind: "student" or "teacher".
        network: the torch form, on the CPU in eval mode.
        spec: the student's as plain data; None for a teacher.
        checkpoint: where the network came from.
        formats: by name, with thresholds, without metrics and engines.
        models: file contents by the same names.
        quantisation: how the int8 ONNX file came about, as plain data.
    """

    kind: str
    network: nn.Module
    spec: dict[str, Any] | None
    checkpoint: Path
    formats: dict[str, Format]
    models: dict[str, bytes]
    quantisation: dict[str, Any]


def export_bundle(config: Config, checkpoint: Path, threshold: float, data: ExportData, target: Path) -> Bundle:
    """Export the student in three formats and write its bundle.

    Args:
        checkpoint: what `training.student.save` wrote.
        threshold: torch logit; a part is rejected at or above it.
        target: `NAME.bundle`; one that exists is replaced only by a whole one.

    Raises:
        TrainingError: the checkpoint is missing or is not a student's.
        ExportError: a student of another spec than the config's, fewer training pictures than
            `export.calibration_images` or only good or only defective ones, or a format that
            cannot be made or that no engine runs.
        DatasetError: a test split without both classes, or a picture that cannot be read.
    """
    network = student.load(checkpoint)
    _check_spec(network.spec, config, checkpoint)
    _check_test(data.test)
    chosen = _calibration(config, data.calibration)
    folded = network if network.folded else student.fold(network)
    console.print("student: converting (loading TensorFlow takes some seconds)")
    fp32 = student_onnx(folded)
    measured = measure(fp32, _inputs(chosen, config.input, "calibrating ONNX int8"))
    int8, quantisation = choose(measured, config.export, Judges(folded, threshold, data.val, config.input), "ONNX int8")
    made = {
        "onnx_int8": int8,
        "tflite_int8": student_tflite(folded, _inputs(chosen, config.input, "calibrating TFLite int8")),
    }
    grid = folded.spec.heat_grid
    formats = {"onnx_fp32": _with_heat(_format("onnx_fp32", threshold), grid, Steps("float32", 1.0, 0))}
    formats |= {name: _with_heat(_format(name, threshold, model), grid, model.heat) for name, model in made.items()}
    models = {"onnx_fp32": fp32, **{name: model.data for name, model in made.items()}}
    exported = Exported("student", folded, folded.spec.to_plain(), checkpoint, formats, models, quantisation)
    return _pack(config, exported, threshold, data, target)


def export_teacher(config: Config, checkpoint: Path, threshold: float, data: ExportData, target: Path) -> Bundle:
    """Export the teacher as fp32 and int8 ONNX and write its bundle: the benchmark's reference.

    `export.calibration = "best"` tries but minmax and percentile here: each is judged plainly, which
    takes ResNet-50 long.

    Raises:
        TrainingError: the checkpoint is missing or is not a teacher's.
        ExportError: it cannot become ONNX, ONNX Runtime does not run it rightly, or the training
            pictures cannot calibrate (as `export_bundle`).
        DatasetError: as `export_bundle`.
    """
    network = teacher.load(checkpoint)
    _check_test(data.test)
    chosen = _calibration(config, data.calibration)
    console.print("teacher: converting")
    fp32 = teacher_onnx(network, config.input)
    measured = measure(fp32, _inputs(chosen, config.input, "teacher: calibrating ONNX int8"))
    judges = Judges(network, threshold, data.val, config.input)
    int8, quantisation = choose(measured, config.export, judges, "teacher: ONNX int8", METHODS[:2])
    formats = {"onnx_fp32": _format("onnx_fp32", threshold), "onnx_int8": _format("onnx_int8", threshold, int8)}
    models = {"onnx_fp32": fp32, "onnx_int8": int8.data}
    exported = Exported("teacher", network, None, checkpoint, formats, models, quantisation)
    return _pack(config, exported, threshold, data, target)


@dataclass(frozen=True, slots=True)
class Trial:
    """What the exported files did.

    Attributes:
        tested: every form on the test split, the formats through their engines.
        vectors: the golden pictures, with plain outputs.
        engines: per format the engines that are verified, in the order of `engines_of`.
        proven: per format that has any, the first one's golden outputs.
        climbed: the parity ladder on the test split and the golden pictures.
    """

    tested: Parity
    vectors: GoldenSet
    engines: dict[str, tuple[str, ...]]
    proven: dict[str, NDArray[np.float64]]
    climbed: Ladder


def _pack(config: Config, exported: Exported, threshold: float, data: ExportData, target: Path) -> Bundle:
    trial = _try(config, exported, threshold, data)
    _gate(config, exported, trial, target)
    vectors = trial.vectors
    outputs = vectors.outputs | trial.proven  # the plain output stays where an engine is not verified
    packed = [
        (Golden(f"golden/{i:03}.png", label, {name: float(outputs[name][i]) for name in exported.formats}), frame)
        for i, (label, frame) in enumerate(zip(vectors.labels, vectors.frames, strict=True))
    ]
    manifest = _manifest(config, exported, trial, threshold, data)
    return bundle.write(target, manifest, exported.models, packed, config.signing_key)


def _try(config: Config, exported: Exported, threshold: float, data: ExportData) -> Trial:
    formats, network, contract, who = exported.formats, exported.network, config.input, exported.kind
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / fmt.file for name, fmt in formats.items()}
        for name, path in paths.items():
            files.write_bytes(path, exported.models[name])
        engines = {
            name: _open_all(paths[name], name, fmt, contract, config.run.threads) for name, fmt in formats.items()
        }
        fast = {name: next(iter(some.values())).infer for name, some in engines.items()}
        rungs = ladder.forms(network, contract, formats, exported.models, fast)
        plain = {name: parity.run_plainly(paths[name], name, fmt) for name, fmt in formats.items()}
        shown = [(data.test, sample) for sample in data.test]
        tested = parity.compare(network, rungs.runners, shown, contract, f"{who}: test split in every form")
        pool = golden.candidates(data.val, data.calibration, config.export.golden_images, config.seed)
        known = parity.compare(network, plain, pool, contract, f"{who}: choosing golden pictures")
        vectors = golden.choose(pool, known, formats, threshold, config.export.golden_images, contract)
        proof = parity.compare(network, rungs.runners, vectors.shown, contract, f"{who}: golden pictures in every form")
        climbed = ladder.build(rungs, tested, proof)
        said = {name: _verified(vectors, name, formats[name], some) for name, some in engines.items()}
    proven = {name: next(iter(outputs.values())) for name, outputs in said.items() if outputs}
    if not proven:
        raise ExportError(
            f"{exported.checkpoint}: no engine gives its golden verdicts here (tried {', '.join(formats)}); "
            f"expected at least one; install the versions in constraints.txt, or export on another machine"
        )
    return Trial(tested, vectors, {name: tuple(outputs) for name, outputs in said.items()}, proven, climbed)


def _gate(config: Config, exported: Exported, trial: Trial, target: Path) -> None:
    """Leave a report, and refuse a network whose forms disagree.

    Raises:
        ParityError: names what disagrees and the report.
    """
    refusals, allowed = trial.climbed.refusals(config.export.flips), config.export.flips
    report = config.output / "parity" / f"{exported.kind}.html"
    ladder_page.write(report, f"{config.name}, {exported.kind}", trial.climbed, trial.tested.shown, allowed)
    if refusals:
        raise ParityError(
            f"{target}: not written, as its forms disagree: {'; '.join(refusals)}; the report: {report}; "
            f"next: longer int8 fine-tuning (student.quantised_epochs), more export.calibration_images, "
            f"or export.flips = the share that the line can bear"
        )


def _open_all(path: Path, name: str, fmt: Format, contract: InputContract, threads: int) -> dict[str, Engine]:
    """The format's own engine, and the others that are installed and take the file."""
    own, *others = engines_of(name)
    opened = {own: open_engine(path, name, fmt, contract, own, threads)}
    for other in others:
        if missing(other) is None:
            try:
                opened[other] = open_engine(path, name, fmt, contract, other, threads)
            except BundleError as error:
                console.print(f"{name}: not verified on {other}: {error}", soft_wrap=True)
    return opened


def _verified(
    vectors: GoldenSet, name: str, fmt: Format, engines: Mapping[str, Engine]
) -> dict[str, NDArray[np.float64]]:
    """Golden outputs of the engines that give the golden verdicts and that a box's self-test takes.

    The first of them is the one whose outputs the bundle holds.
    """
    proven: dict[str, NDArray[np.float64]] = {}
    for engine_name, engine in engines.items():
        outputs = vectors.verify(name, fmt, engine)
        if outputs is None:
            continue
        held = next(iter(proven.values()), outputs)
        pairs = zip(held.tolist(), outputs.tolist(), strict=True)
        if all(selftest.difference(name, fmt, engine_name, *pair) is None for pair in pairs):
            proven[engine_name] = outputs
    return proven


def _manifest(config: Config, exported: Exported, trial: Trial, threshold: float, data: ExportData) -> Manifest:
    tested, formats = trial.tested, {}
    for name, fmt in exported.formats.items():
        metrics = evaluate.measure(tested.labels, tested.logits_of(name, fmt), fmt.to_logit(fmt.threshold))
        formats[name] = replace(fmt, metrics=asdict(metrics), engines=trial.engines[name])
    facts = {
        "checkpoint_sha256": files.sha256_file(exported.checkpoint),
        "threshold": threshold,
        "onnx_int8": exported.quantisation,
        "largest_logit_difference": {name: tested.largest_difference(name, fmt) for name, fmt in formats.items()},
    }
    return Manifest(
        name=config.name,
        network=exported.kind,
        spec=exported.spec,
        input=config.input,
        formats=formats,
        fastest=None,
        metrics_split={"split": "test", "data_hash": data.test.hash(), **_counts(data.test)},
        parity=trial.climbed.plain(config.export.flips),
        flips={name: len(tested.flips(name, fmt, threshold)) for name, fmt in formats.items()},
        provenance={**record.provenance(config, _hash(data)), **facts},
    )


def _format(name: str, threshold: float, made: QuantisedModel | None = None) -> Format:
    """A format as the manifest has it; `made` for an int8 one."""
    fmt = Format(FORMATS[name], "int8" if name.startswith("tflite") else "uint8", "float32", 1.0, 0, threshold)
    if made is not None:
        fmt = replace(fmt, output_dtype="int8", scale=made.scale, zero_point=made.zero_point)
    return replace(fmt, threshold=parity.threshold_for(fmt, threshold))


def _with_heat(fmt: Format, grid: Grid, steps: Steps | None) -> Format:
    """A format with its heat map's place and scale."""
    heat = None if steps is None else HeatOutput(grid, steps.dtype, steps.scale, steps.zero_point)
    return replace(fmt, heat=heat)


def _calibration(config: Config, train: Sequence[SampleSet]) -> list[Picture]:
    """Calibration pictures, drawn by the seed; half of them defects, as far as there are."""
    count, pictures = config.export.calibration_images, [(one, sample) for one in train for sample in one]
    if len(pictures) < count:
        raise ExportError(
            f"export.calibration_images = {count}, but there are {len(pictures)} training pictures; "
            f"set it to {len(pictures)} or fewer, or generate more"
        )
    labels = [sample.label for _, sample in pictures]
    defects = labels.count(DEFECT)
    if count > 1 and defects in (0, len(labels)):
        raise ExportError(
            f"{len(labels) - defects} good and {defects} defective training pictures to calibrate int8 on; expected "
            f"both, or the ranges miss what the others look like; add some of the missing class, or generate them"
        )
    return [pictures[index] for index in quantised.calibration_indices(labels, count, config.seed)]


def _inputs(pictures: Sequence[Picture], contract: InputContract, what: str) -> Iterator[NDArray[np.uint8]]:
    for home, sample in track(pictures, what):
        yield preprocess(home.read_image(sample), contract)


def _check_spec(found: student_spec.StudentSpec, config: Config, checkpoint: Path) -> None:
    if found != student_spec.spec(config.student.size, config.input):
        raise ExportError(
            f"{checkpoint}: a student of {found.macs() / 1e6:.1f} MMAC for {found.width_px}x{found.height_px}x"
            f"{found.channels}; the config asks for {config.student.size} at {config.input.width_px}x"
            f"{config.input.height_px}x{config.input.channels}; distil it again, or use the config it came from"
        )


def _check_test(test: SampleSet) -> None:
    counts = _counts(test)
    if not counts["good"] or not counts["defects"]:
        raise DatasetError(
            f"{test.root}: the test split holds {counts['good']} good and {counts['defects']} defective pictures; "
            f"expected both to measure the formats on; move some of the missing class there"
        )


def _counts(samples: SampleSet) -> dict[str, int]:
    return {"good": len(samples.labelled(GOOD)), "defects": len(samples.labelled(DEFECT))}


def _hash(data: ExportData) -> str:
    sets = {"train": data.calibration, "val": data.val}
    return json.dumps({**{name: [one.hash() for one in some] for name, some in sets.items()}, "test": data.test.hash()})
