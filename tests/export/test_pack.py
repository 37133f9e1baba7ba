"""What an exported bundle promises: measured through its own files, proven on its golden pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_students import lively, logits, pictures

from diagline import bundle
from diagline.bundle import FORMATS, Bundle
from diagline.config import Config, DataConfig, ExportConfig, StudentConfig
from diagline.errors import BundleError, DatasetError, DiaglineError, ExportError, TrainingError
from diagline.preprocess import InputContract, preprocess
from diagline.samples import Sample, SampleSet
from edge_runtime.engines.choice import open_engine
from edge_runtime.engines.engine import Engine, FakeEngine
from edge_runtime.selftest import self_test
from export import pack, trial
from export.calibrate import METHODS
from export.pack import export_bundle, export_teacher
from export.trial import ExportData
from training import student, student_spec, teacher

CONTRACT = InputContract(48, 64, 3)
SPEC = student_spec.spec("S10", CONTRACT)
ENGINES = {"onnx_fp32": "onnxruntime", "onnx_int8": "onnxruntime", "tflite_int8": "litert"}


class Line:
    """A student, its checkpoint, and a data set that it tells apart at `threshold`."""

    def __init__(self, root: Path) -> None:
        self.config = Config(
            "line",
            root / "out",
            DataConfig(root),
            CONTRACT,
            student=StudentConfig(size="S10"),
            export=ExportConfig(calibration_images=16, golden_images=6, flips=0.9),
        )
        network = lively(SPEC)
        self.checkpoint = root / "student.pt"
        student.save(network, self.checkpoint, {})
        images = pictures(SPEC, 90)
        said = logits(network, images)
        self.threshold = float(np.median(said))
        samples = []
        for index, (image, logit) in enumerate(zip(images, said, strict=True)):
            cv2.imwrite(str(root / f"{index:03}.png"), image[:, :, ::-1])
            split = ("train", "val", "test")[index % 3]
            samples.append(Sample(f"{index:03}.png", None, int(logit >= self.threshold), "x", str(index), split))
        self.all = SampleSet(root, tuple(samples))
        self.data = ExportData((self.all.split("train"),), (self.all.split("val"),), self.all.split("test"))

    def export(self, target: Path, **changes: Any) -> Bundle:
        values = {"config": self.config, "checkpoint": self.checkpoint, "threshold": self.threshold, "data": self.data}
        return export_bundle(**{**values, **changes}, target=target)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="module")
def packed(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return line.export(tmp_path_factory.mktemp("packed") / "line.bundle")


def run(packed: Bundle, name: str, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    fmt = packed.manifest.formats[name]
    engine = open_engine(packed.path(name), name, fmt, CONTRACT)
    return np.array([fmt.to_logit(engine.infer(preprocess(frame, CONTRACT))) for frame in frames])


def test_the_bundle_holds_the_three_formats_and_reads_back(packed: Bundle) -> None:
    assert bundle.read(packed.root) == packed
    manifest = packed.manifest
    assert list(manifest.formats) == list(FORMATS) and manifest.network == "student"
    assert manifest.spec is not None and student_spec.StudentSpec.from_plain(manifest.spec) == SPEC
    assert {name: fmt.engines[0] for name, fmt in manifest.formats.items()} == ENGINES
    assert manifest.fastest is None  # an export times nothing
    assert manifest.metrics_split["split"] == "test"
    assert manifest.metrics_split["good"] + manifest.metrics_split["defects"] == 30


def test_the_bundle_tells_how_its_int8_ranges_were_chosen(line: Line, packed: Bundle, tmp_path: Path) -> None:
    how = packed.manifest.provenance["onnx_int8"]
    assert how["calibration"] in how["scores"] and set(how["scores"]) == set(METHODS)
    assert how["weights"] == "full" and how["pictures"] == 30
    best = how["scores"][how["calibration"]]
    assert best["flips"] == min(score["flips"] for score in how["scores"].values())
    again = line.export(tmp_path / "line.bundle")
    assert again.manifest.provenance == packed.manifest.provenance
    assert [again.path(name).read_bytes() for name in FORMATS] == [packed.path(name).read_bytes() for name in FORMATS]


@pytest.mark.parametrize("name", FORMATS)
def test_metrics_and_flips_are_what_the_packed_file_does_on_the_test_split(
    line: Line, packed: Bundle, name: str
) -> None:
    test = line.data.test
    found = run(packed, name, [test.read_image(sample) for sample in test])
    labels = np.array([sample.label for sample in test])
    fmt = packed.manifest.formats[name]
    rejected = found >= fmt.to_logit(fmt.threshold)
    assert fmt.metrics["recall"] == pytest.approx((rejected & (labels == 1)).sum() / labels.sum())
    assert fmt.metrics["overkill"] == pytest.approx((rejected & (labels == 0)).sum() / (labels == 0).sum())
    assert fmt.metrics["ap"] > 0.9
    assert packed.manifest.flips[name] == (rejected != (labels == 1)).sum()  # labels are torch's verdicts here


@pytest.mark.parametrize("name", FORMATS)
def test_every_verified_engine_passes_the_boxs_self_test(packed: Bundle, name: str) -> None:
    for engine in packed.manifest.formats[name].engines:
        opened = open_engine(packed.path(name), name, packed.manifest.formats[name], CONTRACT, engine)
        assert self_test(packed, name, opened).fault is None


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_tells_where_its_logit_comes_from(packed: Bundle, name: str) -> None:
    fmt = packed.manifest.formats[name]
    assert fmt.heat is not None and fmt.heat.grid == SPEC.heat_grid
    engine = open_engine(packed.path(name), name, fmt, CONTRACT)
    for vector in packed.golden:
        logit = fmt.to_logit(engine.infer(preprocess(packed.golden_frame(vector), CONTRACT)))
        heat = engine.heat()
        assert heat is not None and heat.shape == SPEC.map_size
        assert heat.mean() == pytest.approx(
            logit, abs=1e-4 if name == "onnx_fp32" else 4 * (fmt.scale + fmt.heat.scale)
        )


def test_golden_pictures_are_raw_of_both_classes_and_not_from_the_test_split(line: Line, packed: Bundle) -> None:
    assert {vector.label for vector in packed.golden} == {0, 1} and len(packed.golden) == 6
    known = {split: {line.all.read_image(s).tobytes() for s in line.all.split(split)} for split in ("val", "test")}
    frames = [packed.golden_frame(vector).tobytes() for vector in packed.golden]
    assert set(frames) <= known["val"] and not set(frames) & known["test"]
    assert all(set(vector.outputs) == set(FORMATS) for vector in packed.golden)


def test_two_exports_of_one_checkpoint_are_equal_file_by_file(line: Line, packed: Bundle, tmp_path: Path) -> None:
    again = line.export(tmp_path / "again.bundle")
    first, second = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (packed.root, again.root)
    )
    assert list(first) and {name for name in first | second if first.get(name) != second.get(name)} == set()


def test_an_engine_is_verified_only_within_what_a_boxs_self_test_allows(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Straying:
        """OpenVINO that gives LiteRT's outputs, `by` steps off."""

        def __init__(self, own: Engine, by: float) -> None:
            self.name, self._own, self._by = "openvino", own, by

        def infer(self, image_u8: NDArray[np.uint8]) -> float:
            found = self._own.infer(image_u8)
            return found + (self._by if found < 0 else -self._by)

        def heat(self) -> None: ...

    def opened(path: Path, name: str, fmt: Any, contract: Any, engine: str, threads: int) -> Any:
        own = open_engine(path, name, fmt, contract, None, threads)
        return Straying(own, by[name]) if engine == "openvino" else own

    by = {"onnx_fp32": 0.0, "onnx_int8": 1.0, "tflite_int8": 2.0}
    monkeypatch.setattr(trial, "missing", lambda engine: None if engine == "openvino" else "not here")
    monkeypatch.setattr(trial, "open_engine", opened)
    formats = line.export(tmp_path / "line.bundle").manifest.formats
    assert {name: "openvino" in fmt.engines for name, fmt in formats.items()} == {
        "onnx_fp32": True, "onnx_int8": True, "tflite_int8": False,
    }  # fmt: skip


def test_an_optional_engine_that_does_not_take_a_file_is_left_out_with_a_line(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def opened(path: Path, name: str, fmt: Any, contract: Any, engine: str, threads: int) -> Any:
        if engine == "openvino":
            raise BundleError("cannot open it")
        return open_engine(path, name, fmt, contract, engine, threads)

    monkeypatch.setattr(trial, "missing", lambda engine: None if engine == "openvino" else "not here")
    monkeypatch.setattr(trial, "open_engine", opened)
    manifest = line.export(tmp_path / "line.bundle").manifest
    assert {name: fmt.engines for name, fmt in manifest.formats.items()} == {k: (v,) for k, v in ENGINES.items()}
    assert "tflite_int8: not verified on openvino: cannot open it" in capfd.readouterr().err


def test_an_engine_that_gives_other_verdicts_is_not_verified(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, name: str, *rest: Any, **more: Any) -> Any:
        return FakeEngine([127.0]) if name == "tflite_int8" else open_engine(path, name, *rest, **more)

    monkeypatch.setattr(trial, "missing", lambda engine: "not here")
    monkeypatch.setattr(trial, "open_engine", broken)
    manifest = line.export(tmp_path / "line.bundle").manifest
    assert manifest.formats["tflite_int8"].engines == ()
    assert manifest.flips["tflite_int8"] > 0 and manifest.formats["onnx_int8"].engines == ("onnxruntime",)


def test_no_bundle_without_any_engine_that_can_be_trusted(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "open_engine", lambda *_, **__: FakeEngine([127.0]))
    with pytest.raises(ExportError, match="no engine gives its golden verdicts"):
        line.export(tmp_path / "line.bundle")
    assert list(tmp_path.iterdir()) == []


def one_class(line: Line) -> dict[str, Any]:
    return {"data": replace(line.data, test=line.data.test.labelled(0))}


def too_few(line: Line) -> dict[str, Any]:
    return {"config": replace(line.config, export=ExportConfig(calibration_images=31, golden_images=6))}


def only(label: int) -> Any:
    def calibration_of_one_class(line: Line) -> dict[str, Any]:
        return {
            "data": replace(line.data, calibration=tuple(one.labelled(label) for one in line.data.calibration)),
            "config": replace(line.config, export=ExportConfig(calibration_images=8, golden_images=6)),
        }

    return calibration_of_one_class


def other_size(line: Line) -> dict[str, Any]:
    return {"config": replace(line.config, student=StudentConfig(size="S30"))}


def other_input(line: Line) -> dict[str, Any]:
    return {"config": replace(line.config, input=InputContract(64, 64, 3))}


def no_checkpoint(line: Line) -> dict[str, Any]:
    return {"checkpoint": line.checkpoint.with_name("gone.pt")}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (one_class, DatasetError, "good and 0 defective"),
        (too_few, ExportError, "export.calibration_images = 31, but there are 30"),
        (only(0), ExportError, "19 good and 0 defective training pictures to calibrate int8 on; expected both"),
        (only(1), ExportError, "0 good and 11 defective training pictures to calibrate int8 on; expected both"),
        (other_size, ExportError, "the config asks for S30 at 48x64x3"),
        (other_input, ExportError, "for 48x64x3; the config asks for S10 at 64x64x3"),
        (no_checkpoint, TrainingError, "gone.pt: not found"),
    ],
)
def test_bad_input_is_refused_before_any_work_and_leaves_nothing(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, error: type[DiaglineError], says: str
) -> None:
    monkeypatch.setattr(pack, "student_onnx", None)  # not to be reached
    with pytest.raises(error) as caught:
        line.export(tmp_path / "line.bundle", **change(line))
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_teachers_bundle_is_the_reference_in_fp32_and_int8(line: Line, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = teacher.Teacher().eval()
    for block in network.modules():
        if hasattr(block, "bn3"):
            block.bn3.weight.data.fill_(0.5)
    teacher.save(network, tmp_path / "teacher.pt", {})
    some = line.data.test.where(lambda sample: int(sample.group) < 36)
    data = replace(line.data, test=some)
    packed = export_teacher(line.config, tmp_path / "teacher.pt", 0.25, data, tmp_path / "line-teacher.bundle")
    manifest = packed.manifest
    assert manifest.network == "teacher" and manifest.spec is None
    assert list(manifest.formats) == ["onnx_fp32", "onnx_int8"] and manifest.fastest is None
    assert all(fmt.heat is None and fmt.engines[0] == "onnxruntime" for fmt in manifest.formats.values())
    assert manifest.formats["onnx_fp32"].threshold == 0.25 and manifest.flips["onnx_fp32"] == 0
    assert manifest.flips["onnx_int8"] <= len(some) / 4
    assert packed.path("onnx_int8").stat().st_size < packed.path("onnx_fp32").stat().st_size / 3
    assert set(manifest.provenance["onnx_int8"]["scores"]) == {"minmax", "percentile"}
    assert manifest.provenance["largest_logit_difference"]["onnx_fp32"] < 1e-3
