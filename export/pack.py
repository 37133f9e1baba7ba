"""From a trained network to its bundle: exported, measured through real engines, and packed.

The flow: convert; run every format on the test split; choose golden vectors; let each engine
prove itself on them; refuse what does not agree; write. The same checkpoint, data and machine give
the same bytes. Leaves out: the conversions themselves, what the gate asks (`export/ladder.py`), and
timing (`diagline bench --record`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagline import bundle, files, record
from diagline.bundle import FORMATS, Bundle, Format, Golden, HeatOutput, Manifest
from diagline.config import Config
from diagline.console import console, track
from diagline.errors import DatasetError, ExportError, ParityError
from diagline.heat import Grid
from diagline.preprocess import InputContract, preprocess
from diagline.samples import DEFECT, GOOD, SampleSet
from export import ladder_page, parity
from export.calibrate import METHODS
from export.choose import Judges, choose
from export.parity import Picture
from export.quantise import QuantisedModel, Steps, measure
from export.to_onnx import student_onnx, teacher_onnx
from export.to_tflite import student_tflite
from export.trial import ExportData, Exported, Trial, attempt
from training import evaluate, quantised, student, student_spec, teacher


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


def _pack(config: Config, exported: Exported, threshold: float, data: ExportData, target: Path) -> Bundle:
    exported, trial = _gate(config, exported, attempt(config, exported, threshold, data), target)
    vectors = trial.vectors
    outputs = vectors.outputs | trial.proven  # the plain output stays where an engine is not verified
    packed = [
        (Golden(f"golden/{i:03}.png", label, {name: float(outputs[name][i]) for name in exported.formats}), frame)
        for i, (label, frame) in enumerate(zip(vectors.labels, vectors.frames, strict=True))
    ]
    manifest = _manifest(config, exported, trial, threshold, data)
    return bundle.write(target, manifest, exported.models, packed, config.signing_key)


def _gate(config: Config, exported: Exported, trial: Trial, target: Path) -> tuple[Exported, Trial]:
    """Leave a report, and refuse a network whose forms disagree; a teacher's int8 file is only left out.

    Raises:
        ParityError: names what disagrees and the report.
    """
    allowed, climbed = config.export.flips, trial.climbed
    report = config.output / "parity" / f"{exported.kind}.html"
    ladder_page.write(report, f"{config.name}, {exported.kind}", climbed, trial.tested.shown, allowed)
    refusals = climbed.refusals(allowed)
    if refusals and exported.kind == "teacher":
        console.print(f"teacher: int8 left out, as it disagrees: {'; '.join(refusals)}; see {report}", soft_wrap=True)
        exported, trial = exported.without("onnx_int8"), replace(trial, climbed=climbed.without("onnx_int8"))
        refusals = trial.climbed.refusals(allowed)
    if refusals:
        raise ParityError(
            f"{target}: not written, as its forms disagree: {'; '.join(refusals)}; the report: {report}; "
            f"next: longer int8 fine-tuning (student.quantised_epochs), more export.calibration_images, "
            f"or export.flips = the share that the line can bear"
        )
    return exported, trial


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
