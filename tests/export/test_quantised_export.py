"""What simulated int8 promises of the real files: it foretells them, and what it teaches arrives in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rough_students import badly_scaled
from small_students import lively, logits, pictures, residual_spec

from diagline.bundle import FORMATS, Bundle, Format
from diagline.config import Config, DataConfig, ExportConfig, StudentConfig
from diagline.preprocess import InputContract
from diagline.samples import Sample, SampleSet
from export import pack, parity
from export.pack import export_bundle
from export.quantise import QuantisedModel, quantise_onnx
from export.to_onnx import student_onnx
from export.to_tflite import student_tflite
from export.trial import ExportData
from training import loop, student, student_spec
from training.data import Batch, Pictures
from training.evaluate import predict
from training.quantised import Simulated, calibration_batches, calibration_indices, fine_tune

CONTRACT = InputContract(48, 64, 3)
SPEC = student_spec.spec("S10", CONTRACT)
INT8 = ("onnx_int8", "tflite_int8")
Image = NDArray[np.uint8]


def stacked(images: Sequence[Image]) -> Image:
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def run(path: Path, name: str, fmt: Format, images: Sequence[Image]) -> NDArray[np.float64]:
    runner = parity.run_plainly(path, name, fmt)
    return np.array([fmt.to_logit(runner(image)) for image in images])


def converted(network: student.Student, calibration: list[Image], folder: Path) -> dict[str, tuple[Path, Format]]:
    made: dict[str, QuantisedModel] = {
        "onnx_int8": quantise_onnx(student_onnx(network), calibration),
        "tflite_int8": student_tflite(network, calibration),
    }
    found = {}
    for name, model in made.items():
        path = folder / FORMATS[name]
        path.write_bytes(model.data)
        taken = "int8" if name.startswith("tflite") else "uint8"
        found[name] = path, Format(path.name, taken, "int8", model.scale, model.zero_point, 0)
    return found


@pytest.mark.parametrize(
    "spec", [SPEC, residual_spec("average"), residual_spec("max")], ids=["S10", "residual", "residual, max pool"]
)
def test_the_simulation_foretells_the_files_where_int8_hurts(spec: student_spec.StudentSpec, tmp_path: Path) -> None:
    network, known, unseen = badly_scaled(spec), pictures(spec, 24), pictures(spec, 48, seed=5)
    simulated = Simulated(network, lambda: [stacked(known)])
    told, plain = predict(simulated, [stacked(unseen)]), logits(network, unseen)
    low, high = float(simulated.low[-1]), float(simulated.high[-1])
    for name, (path, fmt) in converted(network, known, tmp_path).items():
        assert fmt.scale == pytest.approx((high - low) / 255, rel=1e-5)
        assert fmt.zero_point == round(-128 - low / fmt.scale)
        found = run(path, name, fmt, unseen)
        apart = np.abs(found - told).mean() / fmt.scale
        hurt = np.abs(found - plain).mean() / fmt.scale
        print(f"{name}: {apart:.2f} steps from the simulation, {hurt:.2f} from the float network")
        assert apart < 4 and apart < 0.3 * hurt


def test_the_simulation_is_as_near_where_int8_does_not_hurt(tmp_path: Path) -> None:
    network, known, unseen = student.fold(lively(SPEC)), pictures(SPEC, 24), pictures(SPEC, 48, seed=5)
    told = predict(Simulated(network, lambda: [stacked(known)]), [stacked(unseen)])
    for name, (path, fmt) in converted(network, known, tmp_path).items():
        apart = np.abs(run(path, name, fmt, unseen) - told) / fmt.scale
        print(f"{name}: {apart.mean():.2f} steps, at most {apart.max():.1f}")
        assert apart.mean() < 1.5 and apart.max() < 6


class Line:
    """A student that int8 hurts, pictures, and what its float form says of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.network = badly_scaled(SPEC)
        shown = pictures(SPEC, 120)
        said = logits(self.network, shown)
        self.threshold = float(np.median(said))
        samples = []
        for index, (image, logit) in enumerate(zip(shown, said, strict=True)):
            cv2.imwrite(str(root / f"{index:03}.png"), image[:, :, ::-1])
            split = ("train", "train", "val", "test")[index % 4]
            samples.append(Sample(f"{index:03}.png", None, int(logit >= self.threshold), "x", str(index), split))
        every = SampleSet(root, tuple(samples))
        self.train, self.val, self.test = (every.split(name) for name in ("train", "val", "test"))
        self.config = Config(
            "line",
            root / "out",
            DataConfig(root),
            CONTRACT,
            seed=3,
            student=StudentConfig(size="S10"),
            export=ExportConfig(calibration_images=40, golden_images=6, flips=1.0),
        )
        self.unseen = shown[3::4]
        self.said = said[3::4]

    def export(self, network: student.Student, name: str) -> Bundle:
        checkpoint = self.root / f"{name}.pt"
        student.save(network, checkpoint, {})
        data = ExportData((self.train,), (self.val,), self.test)
        return export_bundle(self.config, checkpoint, self.threshold, data, self.root / f"{name}.bundle")

    def error(self, bundle: Bundle, name: str) -> float:
        """Mean distance of a packed file's logits from the float student's as it was, on unseen pictures."""
        found = run(bundle.path(name), name, bundle.manifest.formats[name], self.unseen)
        return float(np.abs(found - self.said).mean())


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(tmp_path_factory.mktemp("line"))


def test_fine_tuning_brings_the_packed_files_nearer_to_the_float_network(line: Line) -> None:
    train = Pictures([line.train], CONTRACT, "both", 1)
    val = Pictures([line.val], CONTRACT, "none", 1)
    asked = torch.from_numpy(np.stack([predict(line.network, train.in_order(32, way)) for way in range(4)]))

    def as_said(found: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        return (found - asked[batch.variants, batch.indices]).square().mean()

    settings = loop.Settings(epochs=12, batch_size=8, learning_rate=3e-5, balance=True, schedule="cosine")
    chosen = calibration_indices(train.labels, line.config.export.calibration_images, line.config.seed)
    shown = calibration_batches(train, chosen)
    torch.manual_seed(0)
    tuned, done = fine_tune(line.network, train, val, settings, line.root / "tuning", {}, as_said, shown)
    assert done.epoch > 0, done.epoch_rule
    before, after = line.export(line.network, "before"), line.export(tuned, "after")
    for name in INT8:
        errors = line.error(before, name), line.error(after, name)
        print(f"{name}: mean error {errors[0]:.3f} before, {errors[1]:.3f} after; {done.epoch_rule}")
        assert errors[1] < 0.5 * errors[0]


def test_ranges_are_taken_on_the_pictures_that_the_export_takes(line: Line) -> None:
    train = Pictures([line.train], CONTRACT, "none", 1)
    chosen = calibration_indices(train.labels, line.config.export.calibration_images, line.config.seed)
    exported = [sample.image for _, sample in pack._calibration(line.config, [line.train])]
    assert [train.samples[index].image for index in chosen] == exported
