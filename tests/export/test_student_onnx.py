"""What the ONNX files promise: the same logits, the same bytes, integers inside."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from small_students import lively, logits, pictures, random_spec, residual_spec
from torch import nn

import export.quantise
from diagline.errors import ExportError
from diagline.preprocess import InputContract
from export.quantise import OPERATORS, QuantisedModel, quantise_onnx
from export.to_onnx import student_onnx, teacher_onnx
from training.student import Student, fold
from training.student_spec import POOLS, StudentSpec, spec

SMALL = spec("S10", InputContract(48, 64, 3))


@pytest.fixture(scope="module")
def student() -> Student:
    return fold(lively(SMALL))


@pytest.fixture(scope="module")
def int8(student: Student) -> QuantisedModel:
    return quantise_onnx(student_onnx(student), pictures(SMALL, 24))


def run(model: bytes, images: list[NDArray[np.uint8]], optimised: Path | None = None) -> NDArray[np.float64]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.array([session.run(["logit"], {"image": image[None]})[0].item() for image in images], np.float64)


def ends(model: bytes) -> list[tuple[str, int, list[int]]]:
    graph = onnx.load_model_from_string(model).graph
    found = []
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        found.append((value.name, kind.elem_type, [dim.dim_value for dim in kind.shape.dim]))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_fp32_gives_torchs_logits_at_any_size(seed: int) -> None:
    network = lively(random_spec(seed), seed)
    images = pictures(network.spec, 4, seed)
    np.testing.assert_allclose(run(student_onnx(network), images), logits(network, images), atol=1e-4)


def test_fp32_takes_the_picture_and_pads_inside_its_convolutions(student: Student) -> None:
    model = student_onnx(student)
    assert ends(model) == [
        ("image", TensorProto.UINT8, [1, 64, 48, 3]),
        ("logit", TensorProto.FLOAT, [1, 1]),
        ("heat", TensorProto.FLOAT, [1, 1, 4, 3]),
    ]
    kinds = {node.op_type for node in onnx.load_model_from_string(model).graph.node}
    assert "Pad" not in kinds and "Sigmoid" not in kinds


def test_equal_students_give_equal_bytes(student: Student, int8: QuantisedModel) -> None:
    assert student_onnx(student) == student_onnx(fold(lively(SMALL)))
    again = quantise_onnx(student_onnx(student), pictures(SMALL, 24))
    assert again == int8
    other = quantise_onnx(student_onnx(fold(lively(SMALL, seed=1))), pictures(SMALL, 24))
    assert other.data != int8.data


def test_int8_takes_the_picture_and_returns_an_int8_logit(int8: QuantisedModel) -> None:
    assert ends(int8.data) == [
        ("image", TensorProto.UINT8, [1, 64, 48, 3]),
        ("logit", TensorProto.INT8, [1, 1]),
        ("heat", TensorProto.UINT8, [1, 1, 4, 3]),
    ]
    graph = onnx.load_model_from_string(int8.data).graph
    counted = Counter(node.op_type for node in graph.node)
    assert counted["Conv"] == len(list(SMALL.convolutions())) + 1  # the heat map's
    assert not {"Cast", "Mul", "Clip", "Pad", "Sigmoid"} & set(counted)


@pytest.mark.parametrize("made", [SMALL, residual_spec("average"), residual_spec("max")], ids=["S10", "average", "max"])
def test_int8_convolutions_become_integer_ones_in_the_engine(made: StudentSpec, tmp_path: Path) -> None:
    int8 = quantise_onnx(student_onnx(lively(made)), pictures(made, 4))
    run(int8.data, pictures(made, 1), tmp_path / "optimised.onnx")
    counted = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert counted["QLinearConv"] == len(list(made.convolutions())) + 1 and counted["Conv"] == counted["Add"] == 0


def test_int8_stays_within_a_few_steps_of_torch(student: Student, int8: QuantisedModel) -> None:
    images = pictures(SMALL, 24)
    apart = int8.scale * (run(int8.data, images) - int8.zero_point) - logits(student, images)
    assert np.abs(apart).max() < 8 * int8.scale
    assert np.abs(apart).mean() < 3 * int8.scale


def test_int8_is_within_a_few_steps_of_most_random_students() -> None:
    medians = []
    for seed in range(12):
        network = lively(random_spec(seed), seed)
        images = pictures(network.spec, 16, seed)
        made = quantise_onnx(student_onnx(network), images)
        apart = run(made.data, images) - made.zero_point - logits(network, images) / made.scale
        medians.append(float(np.median(np.abs(apart))))
    print([f"{median:.1f}" for median in medians])
    assert sum(median < 5 for median in medians) >= 9 and max(medians) < 40


def test_an_operator_that_is_no_integer_one_is_refused_by_name_and_place(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.quantise, "OPERATORS", OPERATORS - {"GlobalAveragePool"})
    where = r"GlobalAveragePool \(node \d+, GlobalAveragePool:pooled\)"
    with pytest.raises(ExportError, match=rf"^int8 ONNX holds {where}; expected only Add, .*; build"):
        quantise_onnx(student_onnx(student), pictures(SMALL, 2))


def test_int8_sees_every_grey_level_exactly(int8: QuantisedModel) -> None:
    values = {
        item.name: onnx.numpy_helper.to_array(item) for item in onnx.load_model_from_string(int8.data).graph.initializer
    }
    graph = onnx.load_model_from_string(int8.data).graph
    first = next(node for node in graph.node if "planes" in node.input)
    assert first.op_type == "DequantizeLinear"
    assert values[first.input[1]] == np.float32(1 / 255) and values[first.input[2]] == 0
    assert values[first.input[2]].dtype == np.uint8


@pytest.mark.parametrize("pool", POOLS)
def test_int8_agrees_with_residuals_grey_odd_and_either_pool(pool: str) -> None:
    network = lively(residual_spec(pool))
    images = pictures(network.spec, 24)
    made = quantise_onnx(student_onnx(network), images)
    expected = logits(network, images)
    apart = made.scale * (run(made.data, images) - made.zero_point) - expected
    assert np.abs(apart).mean() < np.ptp(expected) / 20


def test_calibration_holds_one_picture_at_a_time(student: Student) -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    most = 0

    def one_by_one() -> Iterator[NDArray[np.uint8]]:
        nonlocal most
        for seed in range(12):
            picture = pictures(SMALL, 1, seed)[0]
            alive.append(weakref.ref(picture))
            most = max(most, sum(ref() is not None for ref in alive))
            yield picture
            del picture

    quantise_onnx(student_onnx(student), one_by_one())
    assert len(alive) == 12 and most <= 3


def test_no_calibration_picture_is_refused(student: Student) -> None:
    with pytest.raises(ExportError, match="no calibration picture"):
        quantise_onnx(student_onnx(student), [])


class SmallTeacher(nn.Module):
    """Normalises inside and repeats a grey channel, as the teacher does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logit: torch.Tensor = self.fc(self.body(images - self.mean).flatten(1))
        return logit.flatten()


@pytest.mark.parametrize("channels", (1, 3))
def test_the_teachers_file_takes_the_same_picture_and_gives_its_logit(channels: int) -> None:
    torch.manual_seed(0)
    teacher = SmallTeacher().train()
    model = teacher_onnx(teacher, InputContract(33, 21, channels))
    assert teacher.training
    assert str(Path(__file__).resolve().parents[2]).encode() not in model  # the exporter notes stack traces
    assert ends(model) == [("image", TensorProto.UINT8, [1, 21, 33, channels]), ("logit", TensorProto.FLOAT, [1, 1])]
    images = [np.random.default_rng(i).integers(0, 256, (21, 33, channels), dtype=np.uint8) for i in range(3)]
    with torch.no_grad():
        batch = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)) / 255
        np.testing.assert_allclose(run(model, images), teacher.eval()(batch).numpy(), atol=1e-4)


@pytest.mark.parametrize("channels", (1, 3))
def test_the_teachers_int8_file_counts_in_integers_and_rounds_its_logit_alone_at_the_end(
    channels: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    fp32 = teacher_onnx(SmallTeacher().eval(), InputContract(33, 21, channels))
    rng = np.random.default_rng(4)
    images = [(rng.uniform(0.2, 1) * rng.integers(0, 256, (21, 33, channels))).astype(np.uint8) for _ in range(24)]
    made = quantise_onnx(fp32, images)
    assert ends(made.data) == [("image", TensorProto.UINT8, [1, 21, 33, channels]), ("logit", TensorProto.INT8, [1, 1])]
    assert made.heat is None
    apart = run(made.data, images, tmp_path / "optimised.onnx") - made.zero_point - run(fp32, images) / made.scale
    assert np.abs(apart).max() < 8 and np.abs(apart).mean() < 3
    counted = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert counted["QLinearConv"] == 1 and counted["Conv"] == 0


def test_a_teacher_that_cannot_be_traced_is_refused() -> None:
    class Undecided(SmallTeacher):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) if images.sum().item() > 0 else images.mean((1, 2, 3))

    with pytest.raises(ExportError, match="Undecided cannot become ONNX"):
        teacher_onnx(Undecided(), InputContract(32, 32))
