"""What each workstation command does: open the data, call the room, leave a record.

`cli.py` and `demo.py` call these; with them this is the only module of the package that
imports stages, and only inside functions, so that the edge box never loads torch. Leaves
out: printing and exit codes (`cli.py`), and the commands of the edge box, which need no config.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diagline import files, inspect_data, layouts, pages, record, samples, signing
from diagline.bundle import Bundle
from diagline.config import STUDENT, STUDENT_ALONE, TEACHER, Config
from diagline.config_generate import METHODS
from diagline.console import SPEAKS, console, track
from diagline.errors import DatasetError, TrainingError, require
from diagline.samples import DEFECT, GOOD, Sample, SampleSet

if TYPE_CHECKING:
    from export.compare import Comparison


def real_data(config: Config, skip_bad: bool = False) -> SampleSet:
    """The line's own pictures, read by the config's layout."""
    return layouts.open_data(config.data.root, config.data.layout, config.split_seed, skip_bad)


def inspect(root: Path, layout: str, seed: int, skip_bad: bool) -> dict[str, Any]:
    """Decode every picture and mask of a folder and describe what is there, as plain data.

    Raises:
        DatasetError: a picture or mask cannot be used and `skip_bad` is not set; names the
            first and counts the others.
    """
    layout = layouts.detect(root) if layout == "auto" else layout
    found = layouts.open_data(root, layout, seed, skip_bad)
    if not skip_bad:
        _, bad = samples.split_bad(found, lambda items: track(items, "reading pictures"))
        if bad:
            raise DatasetError(bad[0] + (f" (and {len(bad) - 1} more like it)" if len(bad) > 1 else ""))
    return {"layout": layout, **inspect_data.describe(found)}


def learning_sets(
    config: Config, skip_bad: bool = False, synthetic: bool = True
) -> tuple[list[SampleSet], list[SampleSet]]:
    """The sets that train and the sets that validate.

    With `data.shots = "zero"` no real defect is in either: both use synthetic ones, painted
    on good pictures of their own split. What was accepted on the expert's page joins the
    synthetic ones. The test split is in neither.

    Args:
        synthetic: whether synthetic defects train where real ones do too; with "zero" they are all there is.

    Raises:
        DatasetError: synthetic defects are configured and not painted yet.
    """
    real = real_data(config, skip_bad)
    zero = config.data.shots == "zero"
    if zero:
        real = real.labelled(GOOD)
    train, val = [real.split("train")], [real.split("val")]
    wanted = synthetic or zero
    if wanted and config.generate.count:
        painted = samples.load(generated_folder(config))
        train.append(painted.split("train"))
        if zero:
            val.append(painted.split("val"))
    accepted = studio_folder(config) / "accepted"
    if wanted and (accepted / samples.RECORDS).is_file():
        chosen = samples.load(accepted)
        console.print(f"{len(chosen)} defects that were accepted on the expert's page join in", soft_wrap=True)
        train.append(chosen.split("train"))
        if zero:
            val.append(chosen.split("val"))
    if not any(sample.label == DEFECT for part in train for sample in part):
        raise DatasetError(
            f"{config.data.root}: no defects to train on; expected real ones (data.shots = 'full') "
            f"or synthetic ones (generate.count > 0)"
        )
    return train, val


def generated_folder(config: Config, method: str | None = None) -> Path:
    """Where `generate` leaves the sample set of a method, by default the config's."""
    return config.output / "generated" / (method or config.generate.method)


def studio_folder(config: Config) -> Path:
    """Where the expert's page keeps its session and the accepted samples."""
    return config.output / "studio"


def tuned_folder(config: Config) -> Path:
    """Where `tune` leaves the adapters of In&Out."""
    return config.output / "tuned"


def generate(config: Config, skip_bad: bool = False, restart: bool = False) -> SampleSet:
    """Paint `generate.count` defects on the good training pictures, and a fifth as many on
    validation pictures when no real defect may be used.

    Raises:
        DatasetError: no good pictures, or nothing to paint.
        GenerationError: the method's model is missing or cannot paint.
    """
    require("cv2", "edge")
    from generation import generate as room
    from generation import painters
    from generation.plan import Draws

    if config.generate.count == 0:
        raise DatasetError("generate.count = 0; expected the number of defects to paint; set it in [generate]")
    started = time.monotonic()
    real = real_data(config, skip_bad)
    good = real.labelled(GOOD)
    counts = {"train": config.generate.count}
    if config.data.shots == "zero" and len(good.split("val")):
        counts["val"] = max(1, config.generate.count // 5)
    if config.data.shots == "zero" and config.generate.mask_source == "real":
        console.print(
            "the masks of real defects are used, as in the paper: no zero-shot in the strict sense", soft_wrap=True
        )
    draws = Draws(good, config.generate, config.seed, counts, real.labelled(DEFECT))
    painter = painters.build(config.generate, tuned_folder(config))
    target = generated_folder(config)
    painted = room.generate(draws, painter, picture_features(config), target, restart)
    if SPEAKS and not (target / "run.json").is_file():  # else painted earlier: its record stands
        record.write(target, config, real.hash(), seconds=round(time.monotonic() - started, 1))
    return painted


def generated_result(config: Config) -> dict[str, Any]:
    """What the last finished `generate` asked, painted, kept and rejected (reasons and counts)."""
    return dict(json.loads((generated_folder(config) / "result.json").read_bytes()))


def picture_features(config: Config) -> Any:
    """What the quality gate measures pictures by.

    Raises:
        TrainingError: ResNet-50 features are asked for without weights.
    """
    if config.generate.quality.features == "pyramid":
        from generation.quality import pyramid_features

        return pyramid_features
    require("torch", "workstation")
    from training import features

    return features.resnet50(config.teacher.weights, config.teacher.stride_in_1x1)


def tune(config: Config, skip_bad: bool = False) -> Path:
    """Fine-tune In&Out's model on the real training defects; returns the adapters' folder.

    Raises:
        DatasetError: no real defects, or `data.shots` forbids them.
    """
    require("peft", "workstation")
    from generation.in_and_out.tune import tune as fine_tune

    if config.data.shots == "zero":
        raise DatasetError(
            'data.shots = "zero" forbids real defects, and tune learns from them; set data.shots = "full"'
        )
    positives = real_data(config, skip_bad).split("train").labelled(DEFECT)
    return fine_tune(config.generate, positives, config.seed, tuned_folder(config))


def repaint(config: Config, name: str) -> tuple[Path, NDArray[np.uint8]]:
    """Paint a generated picture again from its record.

    Args:
        name: its path in the set, such as images/00012.png, or its number.

    Returns:
        The picture on disk, and the same picture painted anew, `(h, w, 3)` uint8 BGR.

    Raises:
        DatasetError: no such picture, or it comes out differently.
    """
    from generation.repaint import repaint as paint_again

    folder = generated_folder(config)
    made = samples.load(folder)
    wanted = f"images/{int(name):05d}.png" if name.isdigit() else name
    found = [sample for sample in made if sample.image == wanted]
    if not found:
        raise DatasetError(f"{folder / wanted}: not in the set of {len(made)}; expected such as images/00000.png")
    return folder / wanted, paint_again(config.data.root, found[0]).image_bgr


def sheet(config: Config, skip_bad: bool = False) -> Path:
    """Lay normals, real defects and each method's pictures side by side; returns the picture's path.

    Source: DIAG, figure 2.
    """
    from generation import sheet as room

    real = real_data(config, skip_bad)
    painted = {}
    for method in METHODS:
        if (generated_folder(config, method) / samples.RECORDS).is_file():
            painted[method] = samples.load(generated_folder(config, method))
    path = config.output / "generated" / "sheet.png"
    samples.write_image(path, room.compare(real.split("train"), painted))
    return path


def studio(config: Config, skip_bad: bool, host: str, port: int, open_browser: bool) -> None:
    """Serve the expert's page until Ctrl-C.

    Raises:
        DatasetError: no good pictures outside the test split.
        OutputError: the port is taken, or the session's folder cannot be written to.
    """
    require("gradio", "workstation")
    from generation.studio import page, parts

    good = real_data(config, skip_bad).labelled(GOOD).where(lambda sample: sample.split != "test")
    if not len(good):
        raise DatasetError(f"{config.data.root}: no good pictures in train and val; expected at least one to paint on")
    made = parts.assemble(config, good, studio_folder(config), tuned_folder(config), picture_features(config))
    console.print(f"studio: http://{host}:{port}  (Ctrl-C ends it; everything is kept)", soft_wrap=True)
    page.serve(made, host, port, open_browser)


def train(config: Config, skip_bad: bool = False) -> Path:
    """Train the ResNet-50; returns its folder."""
    require("torch", "workstation")
    from training import teach

    started = time.monotonic()
    train, val = learning_sets(config, skip_bad, config.teacher.synthetic)
    with _recorded(config, TEACHER, train, val, started) as target:
        teach.train_teacher(config, train, val, target)
    return target


def distill(config: Config, skip_bad: bool = False) -> Path:
    """Distil the student from the trained teacher, and train the same one without; returns the first's folder.

    Raises:
        TrainingError: the teacher was not trained yet.
    """
    require("torch", "workstation")
    from training import distill as room

    teacher = config.output / TEACHER / "teacher.pt"
    started = time.monotonic()
    train, val = learning_sets(config, skip_bad, config.student.synthetic)
    without = room.alone(config)
    runs = {STUDENT_ALONE: without, STUDENT: config} if without != config else {STUDENT: config}
    for network, one in runs.items():
        with _recorded(one, network, train, val, started) as target:
            room.distill(one, teacher, train, val, target)
        started = time.monotonic()
    return target


@contextmanager
def _recorded(
    config: Config, network: str, train: list[SampleSet], val: list[SampleSet], started: float
) -> Iterator[Path]:
    """Yield the folder of a network that is trained within, and leave a record unless it was finished earlier."""
    target = config.output / network
    result = target / "result.json"
    before = result.stat().st_mtime_ns if result.is_file() else None
    yield target
    if result.stat().st_mtime_ns != before:
        hashes = {"train": [part.hash() for part in train], "val": [part.hash() for part in val]}
        record.write(target, config, json.dumps(hashes), seconds=round(time.monotonic() - started, 1))


def threshold(config: Config, network: str) -> float:
    """The logit at which a trained network rejects, chosen on the validation split.

    Raises:
        TrainingError: the network was not trained yet.
    """
    return float(_result(config, network)["threshold"])


def _result(config: Config, network: str) -> dict[str, Any]:
    path = config.output / network / "result.json"
    if not path.is_file():
        command = "train" if network == TEACHER else "distill"
        raise TrainingError(f"{path}: not found; expected a trained {network}; run: diagline {command} CONFIG")
    return dict(json.loads(path.read_bytes()))


def export(config: Config, skip_bad: bool = False) -> Bundle:
    """Quantise and pack the student, and the teacher beside it as the reference; both signed where there is a key.

    Raises:
        DiaglineError: as `pack.export_bundle`; BundleError: the key cannot be used.
    """
    require("torch", "workstation")
    from export import pack, trial

    if config.signing_key is not None:
        signing.private_key(config.signing_key)
    train, val = learning_sets(config, skip_bad)
    data = trial.ExportData(calibration=tuple(train), val=tuple(val), test=real_data(config, skip_bad).split("test"))
    student = pack.export_bundle(
        config, config.output / STUDENT / "student.pt", threshold(config, STUDENT), data, config.bundle
    )
    pack.export_teacher(
        config, config.output / TEACHER / "teacher.pt", threshold(config, TEACHER), data, config.teacher_bundle
    )
    return student


def evaluate(config: Config, skip_bad: bool = False) -> Comparison:
    """Score teacher, students and every format of the bundle (where exported) on the test split.

    Writes `evaluation/metrics.json` and `evaluation/report.html`.

    Raises:
        TrainingError, ExportError, DatasetError: as `compare.compare`.
    """
    require("torch", "workstation")
    from export import compare

    real = real_data(config, skip_bad)
    names = [TEACHER, STUDENT]
    if (config.output / STUDENT_ALONE / "student.pt").is_file():
        names.append(STUDENT_ALONE)
    results = {name: _result(config, name) for name in names}
    thresholds = {
        name: compare.Threshold(float(result["threshold"]), str(result["threshold_rule"]))
        for name, result in results.items()
    }
    found = compare.compare(config, real.split("test"), thresholds)
    folder = config.output / "evaluation"
    files.write_json(folder / "metrics.json", {**found.plain(), "seeds": _seeds(config)})
    record.write(folder, config, found.test.hash())
    write_page(folder / "report.html", config, real, found, pages.Extra(overlay=_heat_over(config, found)))
    return found


def _heat_over(config: Config, found: Comparison) -> Callable[[Sample, NDArray[np.uint8]], NDArray[np.uint8]]:
    """Draws on a picture where the student sees a defect."""
    import torch

    from diagline import heat
    from diagline.preprocess import preprocess
    from training import student

    network, threshold = student.load(config.output / STUDENT / "student.pt"), found.rows[STUDENT].threshold

    def draw(sample: Sample, image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels = preprocess(image_bgr, config.input, sample.image).transpose(2, 0, 1)[None]
        with torch.inference_mode():
            _, warm = network.heat(torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255)
        return heat.overlay(image_bgr, warm[0].numpy(), threshold, network.spec.heat_grid, config.input)

    return draw


def _seeds(config: Config) -> dict[str, Any] | None:
    """What `evaluate --seeds` found for this very config; None where it was not run."""
    path = config.output / "evaluation" / "seeds.json"
    found = json.loads(path.read_bytes()) if path.is_file() else None
    return found if found is not None and found["provenance"]["config"] == config.plain() else None


def write_page(path: Path, config: Config, real: SampleSet, found: Comparison, extra: pages.Extra) -> None:
    """Write the line's page, with the painted defects where there are any."""
    painted = samples.load(generated_folder(config)) if config.generate.count else None
    pages.write(path, config, real, painted, found, extra)
