"""An error between two forms of one student is found at the layer where it was made."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_students import lively, logits, pictures, random_spec, residual_spec

from diagline.errors import ExportError
from export import kernels, layers
from export.quantise import quantise_onnx
from export.to_onnx import student_onnx
from export.to_tflite import student_tflite
from training.student import Student, fold
from training.student_spec import StudentSpec


def folded(spec: StudentSpec) -> Student:
    return fold(lively(spec))


@pytest.mark.parametrize("pool", ["average", "max"])
def test_every_form_shows_every_layer_from_the_stem_to_the_logit_as_real_numbers(pool: str) -> None:
    spec = residual_spec(pool)
    network, images = folded(spec), pictures(spec, 8)
    fp32, tflite = student_onnx(network), student_tflite(network, images).data
    readers = [
        layers.of_torch(network),
        layers.of_onnx(fp32, spec),
        layers.of_onnx(quantise_onnx(fp32, images).data, spec),
        *(layers.of_tflite(tflite, spec, one) for one in (kernels.xnnpack, kernels.reference, kernels.micro)),
    ]
    said = logits(network, images)
    for number, image in enumerate(images[:3]):
        first, *others = (read(image) for read in readers)
        assert list(first) == layers.names(spec) and first["logit"].item() == pytest.approx(said[number], abs=1e-4)
        for maps in others:
            assert {name: one.shape for name, one in maps.items()} == {name: one.shape for name, one in first.items()}
            for name, one in maps.items():  # int8 strays, by a small share of the map
                apart = np.sqrt(np.mean((one - first[name]) ** 2))
                assert apart < 0.15 * np.sqrt(np.mean(first[name] ** 2)) + 0.05, name


@pytest.mark.parametrize("place", ["stem", "blocks.1.depthwise", "blocks.1.pointwise", "blocks.3.pointwise", "fc"])
@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_a_layer_that_was_converted_wrongly_is_named(place: str, form: str) -> None:
    spec = residual_spec("average")
    network, images = folded(spec), pictures(spec, 8)
    wrong = copy.deepcopy(network)
    with torch.no_grad():
        conv = wrong.fc if place == "fc" else wrong.get_submodule(f"{place}.conv")
        conv.weight[0] *= 1.5
        conv.bias[0] += 1.0
    if form == "onnx":
        right, other = (layers.of_onnx(student_onnx(one), spec) for one in (network, wrong))
    else:
        right, other = (
            layers.of_tflite(student_tflite(one, images).data, spec, kernels.reference) for one in (network, wrong)
        )
    born = layers.born(layers.errors(right, other, images[:4]))
    assert born in (place, f"{place}.relu6", "logit" if place == "fc" else None)


def test_float_rounding_is_born_nowhere_and_a_single_step_is() -> None:
    assert layers.born({"stem": 1e-7, "logit": 9e-6}) is None
    assert layers.born({"stem": 0.0, "blocks.0": 2e-4, "logit": 1e-4}) == "blocks.0"
    assert layers.born({}) is None


@pytest.mark.parametrize("seed", range(4))
def test_tflite_micro_gives_the_reference_kernels_bits_in_every_layer(seed: int) -> None:
    spec = random_spec(seed)
    network = folded(spec)
    data = student_tflite(network, pictures(spec, 8)).data
    first, second = (layers.of_tflite(data, spec, one) for one in (kernels.reference, kernels.micro))
    for image in pictures(spec, 40, seed=9):
        maps, again = first(image), second(image)
        assert all((maps[name] == again[name]).all() for name in maps)


def test_a_file_of_another_spec_is_refused() -> None:
    spec, other = residual_spec("average"), random_spec(1)
    network = folded(spec)
    with pytest.raises(ExportError, match="holds no"):
        layers.of_onnx(student_onnx(folded(other)), spec)
    with pytest.raises(ExportError, match=r"expected .* and the heat map's"):
        layers.of_tflite(student_tflite(network, pictures(spec, 2)).data, other, kernels.reference)
