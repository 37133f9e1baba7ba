"""Compiling: what is refused is named, RAM is what the plan says, and nothing is left off in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import int8_nets
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from int8_nets import NONE, RELU6, VALID, Net

from diagline.errors import ExportError, FlashError, MissingExtraError
from firmware_bridge import image, make
from firmware_bridge.compiler import fixed_point, golden, tflite_file, tflm
from firmware_bridge.compiler.compile import Judgement, Network, compile_tflite
from firmware_bridge.image import Kind
from training.student_spec import Block, Stem, StudentSpec

ANY = Judgement("net")


def small() -> tuple[Net, int]:
    net = Net(1, (12, 10, 3))
    return net, net.convolve(net.image, 8, (3, 3))


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        (
            lambda net, x: net.unary("TANH", x),
            "TANH at tensor 'tanh' (1x12x10x8 int8): the engine has no such operator",
        ),
        (lambda net, x: net.convolve(x, 16, (3, 3), depthwise=True), "16 outputs of 8 channels"),
        (lambda net, x: net.pool(net.pad(x, (1, 1, 0, 0)), "MEAN"), "PAD is known before a convolution only"),
        (lambda net, x: net.pad(x, (3, 0, 0, 0)), "padding as wide as its kernel"),
        (lambda net, x: net.add(x, x), "added to itself"),
        (lambda net, x: net.reshape(x, (1, 10, 12, 8)), "only a vector"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_operator_and_tensor(operator, said) -> None:
    net, x = small()
    y = operator(net, x)
    if len(net.shape(y)) == 4 and net.shape(y)[1] > 1:
        y = net.pool(net.convolve(y, 4, (3, 3), padding=VALID), "MEAN")
    with pytest.raises(ExportError) as caught:
        compile_tflite(net.finish(net.connect(y, 2)), ANY)
    assert said in str(caught.value)


def test_an_activation_and_a_dilation_that_are_not_known_are_named() -> None:
    net, x = small()
    y = net.convolve(x, 8, activation=4)  # TANH
    with pytest.raises(ExportError, match=r"CONV_2D at tensor 't1' .*its activation is none of NONE, RELU"):
        compile_tflite(net.finish(net.connect(net.pool(y, "MEAN"), 1)), ANY)


def test_a_tensor_that_nobody_reads_and_an_output_that_is_none_are_refused() -> None:
    net, x = small()
    net.convolve(x, 8)
    with pytest.raises(ExportError, match="'t1' is computed and not used"):
        compile_tflite(net.finish(net.connect(net.pool(x, "MEAN"), 1)), ANY)
    net, x = small()
    with pytest.raises(ExportError, match=r"output .* expected a vector of at most 16 logits"):
        compile_tflite(net.finish(x), ANY)


def test_bytes_that_are_no_tflite_file_are_refused(tmp_path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"\0\0\0\0TFL3" + bytes(range(200)))
    for path, said in ((tmp_path / "net.tflite", "not a whole TFLite file"), (tmp_path / "no.tflite", "No such file")):
        with pytest.raises(ExportError, match=said):
            make.of_file(path)
    with pytest.raises(ExportError, match="does not say TFL3"):
        compile_tflite(b"PK\3\4" * 10, ANY)


def test_a_last_softmax_is_left_off_and_said() -> None:
    net, x = small()
    logits = net.connect(net.pool(x, "MEAN"), 3)
    network = compile_tflite(net.finish(net.unary("SOFTMAX", logits)), ANY)
    assert network.notes and "SOFTMAX" in network.notes[0] and network.header.outputs == 3
    assert [one.name for one in tflite_file.read(network.tflite).operators] == ["CONV_2D", "MEAN", "FULLY_CONNECTED"]
    image_u8 = int8_nets.pictures(1, (12, 10, 3), 1)[0]
    assert tflm.micro(network)(image_u8)[0].shape == (3,)


def changed(data: bytes, name: bytes, change: Callable[[Any, Any], None]) -> bytes:
    """A TFLite file with one tensor changed; `change` is given the tensor and its buffer."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    tensor = next(one for one in model.subgraphs[0].tensors if one.name == name)
    change(tensor, model.buffers[tensor.buffer])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def two_layers() -> bytes:
    net, x = small()
    y = net.convolve(x, 8, activation=RELU6)
    return net.finish(net.connect(net.pool(y, "MEAN"), 1))


def test_a_channel_whose_weights_died_under_a_huge_bias_is_compiled_as_the_constant_that_it_is() -> None:
    def die(tensor: Any, buffer: Any) -> None:
        numbers = np.frombuffer(bytes(buffer.data), np.int32).copy()
        numbers[2] = -(2**30) - 5
        buffer.data = np.frombuffer(numbers.tobytes(), np.uint8)

    network = compile_tflite(changed(two_layers(), b"t1/b", die), ANY)
    step = next(step for step in network.steps if step.kind is Kind.POINTWISE)
    bias = image.Channel.LAYOUT.unpack_from(network.tensors, step.params + 2 * image.Channel.LAYOUT.size)[0]
    weights = network.tensors[step.weights + 2 * step.pitch : step.weights + 3 * step.pitch]
    assert weights == bytes(step.pitch) and -(2**30) < bias < -(2**29)  # what the fast kernels can double
    assert make.finish(network).oracle == "tflite_micro"  # which answers the same


def test_a_live_channel_whose_sums_leave_32_bits_is_refused() -> None:
    def scale(tensor: Any, buffer: Any) -> None:
        tensor.quantization.scale = np.where(np.arange(8) == 2, 1e5, tensor.quantization.scale).astype(np.float32)

    with pytest.raises(ExportError, match=r"CONV_2D at tensor 't1' .*its sums reach from"):
        compile_tflite(changed(two_layers(), b"t1/w", scale), ANY)


def test_no_image_is_made_when_tflite_micro_and_the_engine_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    network = compile_tflite(two_layers(), ANY)
    monkeypatch.setattr(tflm, "micro", lambda network: lambda picture: (np.array([5], np.int8), None))
    with pytest.raises(ExportError, match="the C engine differs from TFLite Micro on golden pictures 0x0"):
        make.finish(network)


def test_without_tflite_micro_the_answers_are_the_engines_own_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(network: Network) -> None:
        raise MissingExtraError("tflite_micro is not installed")

    monkeypatch.setattr(tflm, "micro", absent)
    made = make.finish(compile_tflite(two_layers(), ANY))
    assert made.oracle == "engine" and image.read(made.image)[0].golden_count == len(golden.SEEDS)


@pytest.mark.parametrize(
    ("judgement", "said"),
    [
        (Judgement("x" * 32), "at most 31 bytes"),
        (Judgement("net", threshold=128), "threshold 128"),
        (Judgement("net", judged=2), "one of 2 outputs"),
    ],
)
def test_a_judgement_that_cannot_be_is_refused(judgement, said) -> None:
    net, x = small()
    with pytest.raises(ExportError, match=said):
        compile_tflite(net.finish(net.connect(net.pool(x, "MEAN"), 2)), judgement)


def kinds(data: bytes) -> list[Kind]:
    return [step.kind for step in compile_tflite(data, ANY).steps]


def test_a_residual_around_a_separable_block_keeps_no_row_and_an_inverted_one_two() -> None:
    spec = StudentSpec(24, 24, 1, Stem(3, 1, 8), (Block(1, 8, True),))
    assert Kind.KEEP not in kinds(int8_nets.of_spec(spec, 1)) and Kind.TAKE in kinds(int8_nets.of_spec(spec, 1))
    net = Net(1, (24, 24, 1))
    x = net.convolve(net.image, 8, (3, 3))
    y = net.convolve(net.convolve(x, 24), 24, (3, 3), depthwise=True)
    z = net.add(x, net.convolve(y, 8, activation=NONE))
    steps = compile_tflite(net.finish(net.connect(net.pool(z, "MEAN"), 1)), ANY).steps
    assert [step.kernel_rows for step in steps if step.kind is Kind.KEEP] == [2]


def test_ram_is_what_the_steps_keep_and_little_else() -> None:
    spec = StudentSpec(64, 48, 3, Stem(3, 2, 8), (Block(2, 16), Block(1, 24)))
    network = compile_tflite(int8_nets.of_spec(spec, 1), ANY)
    kept = sum(step.kept_bytes for step in network.steps)
    rings = 3 * 65 * 3 + 8 * 3 * 33 + 16 * 3 * 18 + 24 * 4  # picture, stem, block, sums; padded columns counted
    assert kept == rings
    assert kept < network.header.arena_bytes < network.header.ram_bytes < kept + 1800
    assert 0 < network.tail_macs < network.header.macs == spec.macs() + 12 * 16 * 24


def test_an_image_is_read_back_as_it_was_written_and_a_changed_one_refused() -> None:
    spec = StudentSpec(20, 20, 1, Stem(3, 1, 8), ())
    network = compile_tflite(int8_nets.of_spec(spec, 1), Judgement("näme", 5, 0, 9, bytes(range(32))))
    data = network.image([image.Golden(3, 0, (1,))], b"k" * 32)
    header, steps = image.read(data)
    assert (header.name, header.threshold, header.model_version) == ("näme", 5, 9)
    assert header.bundle_digest == bytes(range(32)) and header.golden_count == 1
    assert [step.kind for step in steps] == [step.kind for step in network.steps]
    assert data[-32:] != image.NO_MAC and image.sign(data, b"")[-32:] == image.NO_MAC
    for at in (0, 4, 100, len(data) - 70):
        with pytest.raises(FlashError):
            image.read(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_rescaling_rounds_twice_as_the_engine_does() -> None:
    half = fixed_point.channel(0, *fixed_point.multiplier(0.5))
    assert [fixed_point.rescale(value, half) for value in (3, 1, -1, -3)] == [2, 1, 0, -1]  # ties upwards
    quarter = fixed_point.channel(0, *fixed_point.multiplier(0.25))
    assert [fixed_point.rescale(value, quarter) for value in (6, 2, -2, -6)] == [2, 1, -1, -2]  # then away from zero


def test_sources_for_tflite_micro_hold_the_file_and_its_operators(tmp_path) -> None:
    net, x = small()
    data = net.finish(net.connect(net.pool(x, "MEAN"), 1))
    paths = tflm.write_sources(tmp_path, "my-line 1", data)
    assert [path.name for path in paths] == ["my_line_1_model.h", "my_line_1_model.c", "my_line_1_ops.h"]
    numbers = paths[1].read_text().split("{")[1].split("}")[0].replace("\n", "").split(",")
    assert bytes(int(number, 16) for number in numbers if number.strip()) == data
    operators = paths[2].read_text()
    assert "MicroMutableOpResolver<3>" in operators and "AddConv2D()" in operators and "AddMean()" in operators
    with pytest.raises(ExportError, match="begins with a letter"):
        tflm.write_sources(tmp_path, "1st", data)


def test_the_arena_that_tflite_micro_needs_is_measured() -> None:
    net, x = small()
    data = net.finish(net.connect(net.pool(x, "MEAN"), 1))
    assert 12 * 10 * (3 + 8) < tflm.arena_bytes(data) < 20000
