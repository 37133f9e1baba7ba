"""What every exported file's heat map promises: the logit's own parts, at no cost to its bits, in each engine.

TensorFlow takes seconds to load: few conversions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_students import lively, logits, pictures, random_spec, residual_spec
from torch.nn import functional

from diagline.bundle import FORMATS, Format, HeatOutput
from diagline.errors import BundleError
from diagline.heat import enlarge
from diagline.preprocess import InputContract
from edge_runtime.engines.choice import open_engine
from edge_runtime.engines.engine import Engine
from export.quantise import QuantisedModel, Steps, quantise_onnx
from export.to_keras import keras_twin
from export.to_onnx import student_onnx
from export.to_tflite import OPERATORS, operators, student_tflite
from training.student import Student
from training.student_spec import Block, Stem, StudentSpec, spec

RGB = spec("S10", InputContract(45, 64, 3))
GREY = replace(residual_spec("average"), channels=1)
MAX = residual_spec("max")
KINDS = {"onnx_fp32": ("uint8", "float32"), "onnx_int8": ("uint8", "int8"), "tflite_int8": ("int8", "int8")}


@dataclass
class Exported:
    """A student, its pictures, and its files with and without heat."""

    student: Student
    images: list[NDArray[np.uint8]]
    contract: InputContract
    files: dict[tuple[str, bool], tuple[bytes, Format]]

    def open(self, folder: Path, name: str, heat: bool = True) -> tuple[Engine, Format]:
        data, fmt = self.files[name, heat]
        path = folder / f"{heat}-{fmt.file}"
        path.write_bytes(data)
        return open_engine(path, name, fmt, self.contract, threads=1), fmt


def export(student: Student, images: list[NDArray[np.uint8]]) -> Exported:
    made, files = student.spec, {}
    for heat in (True, False):
        fp32 = student_onnx(student, heat)
        plain = QuantisedModel(fp32, 1.0, 0, Steps("float32", 1.0, 0) if heat else None)
        models = (plain, quantise_onnx(fp32, images), student_tflite(student, images, heat))
        for (name, kinds), model in zip(KINDS.items(), models, strict=True):
            fmt = Format(FORMATS[name], *kinds, model.scale, model.zero_point, 0.0)
            if (steps := model.heat) is not None:
                fmt = replace(fmt, heat=HeatOutput(made.heat_grid, steps.dtype, steps.scale, steps.zero_point))
            files[name, heat] = (model.data, fmt)
    return Exported(student, images, InputContract(made.width_px, made.height_px, made.channels), files)


@pytest.fixture(scope="module", params=[RGB, GREY, MAX], ids=["rgb", "grey odd residual", "max pool"])
def exported(request: pytest.FixtureRequest) -> Exported:
    return export(lively(request.param), pictures(request.param, 24))


def torch_heat(student: Student, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        batch = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)) / 255
        heat: NDArray[np.float32] = student.heat(batch)[1][0].numpy()
    return heat


@pytest.mark.parametrize("name", FORMATS)
def test_the_second_output_changes_no_bit_of_the_logit(exported: Exported, name: str, tmp_path: Path) -> None:
    (one, fmt), (other, bare) = (exported.open(tmp_path, name, heat) for heat in (True, False))
    assert replace(fmt, heat=None) == bare
    assert [one.infer(image) for image in exported.images] == [other.infer(image) for image in exported.images]
    assert other.heat() is None


@pytest.mark.parametrize("name", FORMATS)
def test_each_engine_gives_torchs_heat_map_within_its_steps(exported: Exported, name: str, tmp_path: Path) -> None:
    engine, fmt = exported.open(tmp_path, name)
    assert fmt.heat is not None and fmt.heat.dtype in ("float32", "int8", "uint8")
    expected = [torch_heat(exported.student, image) for image in exported.images]
    found = []
    for image in exported.images:
        logit = fmt.to_logit(engine.infer(image))
        heat = engine.heat()
        assert heat is not None and heat.shape == exported.student.spec.map_size and heat.dtype == np.float32
        if exported.student.spec.pool == "average":
            # Rounded apart: the logit, the mean of the rounded cells, and the pooled features.
            assert abs(float(heat.mean()) - logit) <= (
                1e-4 if name == "onnx_fp32" else 4 * (fmt.scale + fmt.heat.scale)
            )
        found.append(heat)
    apart = np.abs(np.array(found) - np.array(expected))
    if name == "onnx_fp32":
        assert apart.max() < 1e-4
    else:
        assert apart.mean() < 3 * fmt.heat.scale and apart.mean() < np.ptp(expected) / 20


def test_tflite_heat_is_one_convolution_of_an_operator_the_c_engine_knows(exported: Exported) -> None:
    names = {heat: operators(exported.files["tflite_int8", heat][0]) for heat in (True, False)}
    assert set(names[True]) <= OPERATORS
    assert sorted(names[True]) == sorted([*names[False], "CONV_2D"])


@pytest.mark.parametrize("name", FORMATS)
def test_heat_is_that_of_the_last_inference_and_of_no_failed_one(exported: Exported, name: str, tmp_path: Path) -> None:
    engine, _ = exported.open(tmp_path, name)
    with pytest.raises(RuntimeError, match="nothing was inferred"):
        engine.heat()
    first, second = exported.images[:2]
    engine.infer(first)
    kept = engine.heat()
    engine.infer(second)
    now = engine.heat()
    assert kept is not None and now is not None and not np.array_equal(kept, now)
    engine.infer(first)
    again = engine.heat()
    assert again is not None
    np.testing.assert_array_equal(again, kept)  # what was given is a copy, and engines repeat themselves
    with pytest.raises(ValueError, match="broadcast"):
        engine.infer(np.zeros((5, 5, 7), np.uint8))
    with pytest.raises(RuntimeError, match="failed"):
        engine.heat()


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_whose_heat_is_not_what_the_manifest_says_is_refused(
    exported: Exported, name: str, tmp_path: Path
) -> None:
    data, fmt = exported.files[name, True]
    assert fmt.heat is not None
    (tmp_path / fmt.file).write_bytes(data)
    wrong_grid = replace(fmt.heat, grid=replace(fmt.heat.grid, rows=99))
    for other in (
        replace(fmt, heat=None),
        replace(fmt, heat=wrong_grid),
        replace(fmt, heat=replace(fmt.heat, dtype="int16")),
    ):
        with pytest.raises(BundleError, match=r"output is .* the manifest says"):
            open_engine(tmp_path / fmt.file, name, other, exported.contract, threads=1)
    bare, _ = exported.files[name, False]
    (tmp_path / fmt.file).write_bytes(bare)
    with pytest.raises(BundleError, match=r"output is .* the manifest says"):
        open_engine(tmp_path / fmt.file, name, fmt, exported.contract, threads=1)


@pytest.mark.parametrize("seed", range(6))
def test_fp32_and_the_twin_give_torchs_heat_at_any_size(seed: int, tmp_path: Path) -> None:
    network = lively(random_spec(seed), seed)
    made = network.spec
    path = tmp_path / "model.onnx"
    path.write_bytes(student_onnx(network))
    fmt = Format(path.name, "uint8", "float32", 1.0, 0, 0.0, heat=HeatOutput(made.heat_grid, "float32", 1.0, 0))
    contract = InputContract(made.width_px, made.height_px, made.channels)
    engine, twin = open_engine(path, "onnx_fp32", fmt, contract, threads=1), keras_twin(network)
    for image in pictures(made, 2, seed):
        expected = torch_heat(network, image)
        engine.infer(image)
        heat = engine.heat()
        assert heat is not None
        np.testing.assert_allclose(heat, expected, atol=1e-4)
        _, of_twin = twin(image[None].astype(np.float32) / 255)
        np.testing.assert_allclose(of_twin.numpy()[0, :, :, 0], expected, atol=1e-4)


def spotted(rng: np.random.Generator, places: list[tuple[int, int] | None]) -> list[NDArray[np.uint8]]:
    """Noisy pictures of random brightness, each with a dark 12x12 spot at its place, or without."""
    images = rng.uniform(130, 190, (len(places), 1, 1, 1)) + rng.normal(0, 5, (len(places), 64, 64, 1))
    for image, place in zip(images, places, strict=True):
        if place is not None:
            image[place[0] : place[0] + 12, place[1] : place[1] + 12] = 15
    return list(images.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def spotter() -> Exported:
    """A student that learnt within seconds to find dark spots, and its files."""
    rng, labels = np.random.default_rng(0), np.arange(32) % 2
    made = StudentSpec(64, 64, 1, Stem(3, 2, 8), (Block(2, 16), Block(2, 24)))  # sees 15 px around a place
    torch.manual_seed(0)
    student = Student(made)
    optimiser = torch.optim.AdamW(student.parameters(), 1e-2)
    for _ in range(80):
        places = [
            (int(y), int(x)) if label else None
            for (y, x), label in zip(rng.integers(0, 52, (32, 2)), labels, strict=True)
        ]
        shown = spotted(rng, places)
        x = torch.from_numpy(np.stack(shown).transpose(0, 3, 1, 2).astype(np.float32)) / 255
        loss = functional.binary_cross_entropy_with_logits(student(x), torch.from_numpy(labels.astype(np.float32)))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    student.eval()
    assert ((logits(student, shown) >= 0) == labels).all()
    return export(student, shown)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("top", "left"), [(4, 4), (4, 48), (48, 4), (48, 48)])
def test_a_defect_in_one_corner_lights_that_corner(
    spotter: Exported, name: str, top: int, left: int, tmp_path: Path
) -> None:
    (image,) = spotted(np.random.default_rng([top, left]), [(top, left)])
    engine, fmt = spotter.open(tmp_path, name)
    assert fmt.to_logit(engine.infer(image)) > 0
    heat = engine.heat()
    assert heat is not None and fmt.heat is not None
    spread = enlarge(heat, fmt.heat.grid, spotter.contract, (64, 64))
    defect = np.zeros((64, 64), np.bool_)
    defect[top : top + 12, left : left + 12] = True
    assert (spread[defect] > 0).all()
    rows, columns = np.nonzero(spread > spread.max() / 2)
    assert abs(rows.mean() - (top + 5.5)) < 4 and abs(columns.mean() - (left + 5.5)) < 4  # half a cell
