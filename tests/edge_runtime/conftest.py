"""A bundle of three tiny networks that say how bright a picture is, made without torch, TensorFlow or onnx.

Each logit is 8 * (mean brightness in 0..1) - 4 and rejects from 0: dark pictures pass, bright ones do not.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from diagline import bundle as bundles
from diagline.bundle import FORMATS, Bundle, Format, Golden, Manifest
from diagline.preprocess import InputContract
from edge_runtime.camera import Frame
from edge_runtime.camera.frames import stamp

CONTRACT = InputContract(16, 16)
GOLDEN_LEVELS = (10, 60, 200, 250)
SCALE, ZERO_POINT = 1 / 32, 0
UINT8, INT8, FLOAT = 2, 3, 1  # onnx.TensorProto.DataType
INT, INTS = 2, 7  # onnx.AttributeProto.AttributeType


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number: int, value: int | str | bytes) -> bytes:
    """One protobuf field: a varint, or a string or message with its length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _value_info(name: str, kind: int, shape: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _field(1, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims)))


def _node(kind: str, inputs: Sequence[str], output: str, *attributes: bytes) -> bytes:
    names = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, kind)
    return names + b"".join(_field(5, attribute) for attribute in attributes)


def _int(name: str, value: int) -> bytes:
    return _field(1, name) + _field(3, value) + _field(20, INT)


def _ints(name: str, values: Sequence[int]) -> bytes:
    return _field(1, name) + b"".join(_field(8, value) for value in values) + _field(20, INTS)


def _scalar(name: str, kind: int, raw: bytes) -> bytes:
    return _field(2, kind) + _field(8, name) + _field(9, raw)


def tiny_onnx(input_kind: int, output_kind: int, contract: InputContract = CONTRACT) -> bytes:
    """The brightness network as ONNX, from `image` uint8 or int8 to `logit` float32 or int8."""
    offset = 128.0 if input_kind == INT8 else 0.0
    nodes = [
        _node("Cast", ["image"], "pixels", _int("to", FLOAT)),
        _node("ReduceMean", ["pixels"], "mean", _ints("axes", [1, 2, 3]), _int("keepdims", 1)),
        _node("Flatten", ["mean"], "level", _int("axis", 1)),
        _node("Add", ["level", "offset"], "brightness"),
        _node("Mul", ["brightness", "gain"], "scaled"),
        _node("Sub", ["scaled", "four"], "real" if output_kind == INT8 else "logit"),
    ]
    constants = [
        _scalar("offset", FLOAT, struct.pack("<f", offset)),
        _scalar("gain", FLOAT, struct.pack("<f", 8 / 255)),
        _scalar("four", FLOAT, struct.pack("<f", 4.0)),
    ]
    if output_kind == INT8:
        nodes.append(_node("QuantizeLinear", ["real", "scale", "zero"], "logit"))
        constants += [
            _scalar("scale", FLOAT, struct.pack("<f", SCALE)),
            _scalar("zero", INT8, struct.pack("<b", ZERO_POINT)),
        ]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, "tiny")
    graph += b"".join(_field(5, constant) for constant in constants)
    graph += _field(11, _value_info("image", input_kind, (1, *contract.shape)))
    graph += _field(12, _value_info("logit", output_kind, (1, 1)))
    return _field(1, 8) + _field(8, _field(2, 17)) + _field(7, graph)


def flat(level: int, size: tuple[int, int] = (16, 16)) -> NDArray[np.uint8]:
    """A picture of one brightness, `(h, w, 3)`."""
    return np.full((*size, 3), level, np.uint8)


def frame(level: int = 10, number: int = 0) -> Frame:
    """A frame of one brightness."""
    return Frame(flat(level), number, *stamp())


@pytest.fixture
def make_frame() -> Callable[..., Frame]:
    return frame


@pytest.fixture
def make_onnx() -> Callable[..., bytes]:
    return tiny_onnx


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    """The three files by format name."""
    stored = json.loads((Path(__file__).parent.parent / "golden" / "tiny_tflite.json").read_text())
    return {
        "onnx_fp32": tiny_onnx(UINT8, FLOAT),
        "onnx_int8": tiny_onnx(INT8, INT8),
        "tflite_int8": base64.b64decode(stored["base64"]),
    }


@pytest.fixture(scope="session")
def formats() -> dict[str, Format]:
    """What a manifest says of the three files."""
    stored = json.loads((Path(__file__).parent.parent / "golden" / "tiny_tflite.json").read_text())
    scale, zero = stored["scale"], stored["zero_point"]
    metrics, onnx, litert = {"ap": 0.75}, ("onnxruntime",), ("litert",)
    int8 = ("int8", "int8")
    return {
        "onnx_fp32": Format(FORMATS["onnx_fp32"], "uint8", "float32", 1.0, 0, 0.0, metrics, onnx),
        "onnx_int8": Format(FORMATS["onnx_int8"], *int8, SCALE, ZERO_POINT, ZERO_POINT, metrics, onnx),
        "tflite_int8": Format(FORMATS["tflite_int8"], *int8, scale, zero, zero, metrics, litert),
    }


def expected_output(fmt: Format, level: int) -> float:
    """What a format must give for a picture of one brightness, worked out by hand."""
    logit = 8 * level / 255 - 4
    if fmt.output_dtype == "float32":
        return logit
    return float(np.clip(round(logit / fmt.scale) + fmt.zero_point, -128, 127))


@pytest.fixture(scope="session")
def make_bundle(models: dict[str, bytes], formats: dict[str, Format]) -> Callable[..., Bundle]:
    """`make_bundle(path, network="student", shift=0.0)`; `shift` falsifies every golden output."""

    def make(path: Path, network: str = "student", shift: float = 0.0) -> Bundle:
        golden = [
            (
                Golden(
                    f"golden/{level:03}.png",
                    int(level > 127),
                    {name: expected_output(fmt, level) + shift for name, fmt in formats.items()},
                ),
                flat(level),
            )
            for level in GOLDEN_LEVELS
        ]
        manifest = Manifest(
            name="tiny",
            network=network,
            spec=None,
            input=CONTRACT,
            formats={name: replace(fmt) for name, fmt in formats.items()},
            fastest=("tflite_int8", "litert"),
            metrics_split={},
            flips={},
            provenance={},
        )
        return bundles.write(path, manifest, models, golden)

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, whole."""
    return make_bundle(tmp_path_factory.mktemp("edge") / "tiny.bundle")


@pytest.fixture
def picture_folder(tmp_path: Path) -> Iterator[Path]:
    """Five pictures in name order, the third one truncated: dark, bright, broken, dark, bright."""
    import cv2

    for index, level in enumerate((10, 250, 10, 10, 250)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), flat(level, (20, 30)))
    broken = tmp_path / "2.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    yield tmp_path
