"""The C engine gives TFLite Micro's bits, whatever the network, and says so when it does not."""

from __future__ import annotations

from dataclasses import replace

import int8_nets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagline.errors import FlashError
from firmware_bridge.compiler import golden, tflm
from firmware_bridge.compiler.compile import Judgement, Network, compile_tflite
from firmware_bridge.emulation.engine import Engine
from training.student_spec import Block, Stem, StudentSpec

pytest.importorskip("tflite_micro", reason="tflite-micro is not installed; it is what the engine is held against")
SEEDS = st.integers(0, 2**31)


def assert_same_bits(network: Network, seed: int, count: int = 3) -> None:
    header = network.header
    micro, engine = tflm.micro(network), Engine(network.image([]))
    for picture in int8_nets.pictures(seed, (header.height_px, header.width_px, header.channels), count):
        (outputs, heat), (expected, expected_heat) = engine.run(picture), micro(picture)
        np.testing.assert_array_equal(outputs, expected)
        assert (heat is None) == (expected_heat is None)
        if heat is not None and expected_heat is not None:
            np.testing.assert_array_equal(heat, expected_heat)


@st.composite
def specs(draw: st.DrawFn) -> StudentSpec:
    widths = st.sampled_from([8, 16, 24, 40])
    channels = draw(widths)
    stem = Stem(draw(st.sampled_from([3, 5, 7])), draw(st.sampled_from([1, 2, 4])), channels)
    blocks = []
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            blocks.append(Block(1, channels, residual=True))
        else:
            channels = draw(widths)
            blocks.append(Block(draw(st.sampled_from([1, 2])), channels))
    sides = st.integers(3, 48)
    size = (draw(sides), draw(sides), draw(st.sampled_from([1, 3])))
    return StudentSpec(*size, stem, tuple(blocks), draw(st.sampled_from(["average", "max"])))


@settings(max_examples=25)
@given(specs(), SEEDS)
def test_any_student_gives_the_bits_of_tflite_micro_heat_map_included(spec, seed):
    assert_same_bits(compile_tflite(int8_nets.of_spec(spec, seed), Judgement("student")), seed)


@settings(max_examples=60)
@given(SEEDS)
def test_any_network_of_the_known_operators_gives_the_bits_of_tflite_micro(seed):
    assert_same_bits(compile_tflite(int8_nets.of_anything(seed), Judgement("any")), seed)


def golden_network(seed: int = 5) -> tuple[Network, bytes]:
    spec = StudentSpec(40, 33, 3, Stem(3, 2, 8), (Block(2, 16), Block(1, 16, True)))
    network = compile_tflite(int8_nets.of_spec(spec, seed), Judgement("golden"))
    return network, network.image(golden.answers(network, tflm.micro(network)))


def test_golden_pictures_are_made_alike_on_both_sides_and_answered_as_tflite_micro_does():
    _, data = golden_network()
    assert Engine(data).selftest() == len(golden.SEEDS)


@pytest.mark.parametrize("wrong", range(len(golden.SEEDS)))
def test_a_golden_answer_that_is_one_bit_off_stops_the_self_test_there(wrong):
    network, _ = golden_network()
    answers = golden.answers(network, tflm.micro(network))
    off = replace(answers[wrong], outputs=(answers[wrong].outputs[0] ^ 1,))
    heat = replace(answers[wrong], heat_crc=answers[wrong].heat_crc ^ 1)
    for changed in (off, heat):
        data = network.image([*answers[:wrong], changed, *answers[wrong + 1 :]])
        assert Engine(data).selftest() == wrong


def test_rows_too_many_and_too_few_are_refused_and_a_new_picture_drops_the_old_one():
    network, data = golden_network()
    header = network.header
    engine = Engine(data)
    picture = golden.picture(golden.SEEDS[-1], header.height_px, header.width_px, header.channels)
    expected, _ = engine.run(picture)
    with pytest.raises(FlashError, match="rows missing or too many"):
        engine.run(picture[:-1])
    np.testing.assert_array_equal(engine.run(picture)[0], expected)  # what was begun left nothing behind
    with pytest.raises(FlashError, match="rows missing or too many"):
        engine.push(picture[0])
    np.testing.assert_array_equal(engine.run(picture)[0], expected)


def test_the_engine_refuses_a_changed_image():
    _, data = golden_network()
    with pytest.raises(FlashError, match="SHA-256"):
        Engine(data[:-200] + bytes([data[-200] ^ 1]) + data[-199:])
    with pytest.raises(FlashError, match="not an image"):
        Engine(data[:-4])
