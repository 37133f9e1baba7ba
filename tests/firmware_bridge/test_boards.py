"""The fast kernels give the plain ones' bits on the processors they are for, in fewer instructions."""

from __future__ import annotations

import int8_nets
import pytest

from firmware_bridge.compiler import golden
from firmware_bridge.compiler.compile import Judgement, compile_tflite
from firmware_bridge.emulation import boards, engine
from firmware_bridge.emulation.boards import BOARDS, GENERIC
from training.student_spec import Block, Stem, StudentSpec

if (absent := boards.missing()) is not None:
    pytest.skip(absent, allow_module_level=True)
STUDENT = StudentSpec(57, 40, 3, Stem(3, 2, 16), (Block(1, 16, True), Block(2, 40), Block(1, 40, True)))


def image_of(data: bytes) -> bytes:
    """An image whose golden answers are those of the plain C kernels on this machine."""
    network = compile_tflite(data, Judgement("board"))
    return network.image(golden.answers(network, engine.Engine(network.image([])).run))


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 6, 9, 13, 21])
@pytest.mark.parametrize("board", ["mps2_an386", "mps3_an547"])
def test_every_shape_gives_the_plain_kernels_bits(board, seed):
    found = boards.run(BOARDS[board], image_of(int8_nets.of_anything(seed)))
    assert len(found.pictures) == len(golden.SEEDS) and all(picture.right for picture in found.pictures)


@pytest.mark.parametrize(("board", "times"), [("mps2_an386", 1.5), ("mps2_an500", 1.5), ("mps3_an547", 3.0)])
def test_a_student_takes_fewer_instructions_than_with_plain_kernels_and_the_same_bits(board, times):
    data = image_of(int8_nets.of_spec(STUDENT, 3))
    fast, plain = (boards.run(BOARDS[board], data, flags) for flags in ((), (GENERIC,)))
    assert all(picture.right for run in (fast, plain) for picture in run.pictures)
    assert fast.pictures[-1].instructions * times < plain.pictures[-1].instructions
    assert 0 < fast.pictures[-1].tail < fast.pictures[-1].instructions
    assert 0 < fast.stack_bytes < 1024


def test_a_wrong_answer_on_a_board_is_seen():
    data = image_of(int8_nets.of_spec(STUDENT, 3))
    network = compile_tflite(int8_nets.of_spec(STUDENT, 4), Judgement("other"))
    right = golden.answers(network, engine.Engine(network.image([])).run)
    wrong = network.image([right[0], golden.Golden(right[1].seed, right[1].heat_crc ^ 1, right[1].outputs)])
    assert [picture.right for picture in boards.run(BOARDS["mps2_an386"], wrong).pictures] == [True, False]
    assert all(picture.right for picture in boards.run(BOARDS["mps2_an386"], data).pictures)
