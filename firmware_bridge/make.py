"""From a TFLite file or a bundle to a finished model image, its golden answers worked out.

The answers are TFLite Micro's where it is installed and otherwise the C engine's own: then they
prove the device alone, and `oracle` says so. Leaves out: getting it onto a device (`flash.py`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from diagline.bundle import Bundle
from diagline.errors import ExportError, FlashError, MissingExtraError
from firmware_bridge.compiler import golden, tflm
from firmware_bridge.compiler.compile import Judgement, Network, compile_tflite
from firmware_bridge.emulation import engine
from firmware_bridge.image import NAME_BYTES

FORMAT = "tflite_int8"


@dataclass(frozen=True, slots=True)
class Made:
    """A finished image.

    Attributes:
        oracle: whose golden answers it holds, "tflite_micro" or "engine".
    """

    network: Network
    image: bytes
    oracle: str


def of_file(path: Path, judgement: Judgement | None = None) -> Network:
    """Compile a TFLite file; by default its name is the file's.

    Raises:
        ExportError, MissingExtraError: as `compile_tflite`; also where there is no such file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}; expected an int8 .tflite file or a bundle folder") from error
    try:
        return compile_tflite(data, judgement or Judgement(short_name(path.stem)))
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


def of_bundle(bundle: Bundle, model_version: int = 1, name: str | None = None) -> Network:
    """Compile a bundle's int8 student, with its threshold and the digest of its manifest.

    Raises:
        ExportError: it holds no int8 TFLite file, or one that the engine does not know.
        MissingExtraError: LiteRT is not installed.
    """
    fmt = bundle.manifest.formats.get(FORMAT)
    if fmt is None:
        raise ExportError(f"{bundle.root} holds no {FORMAT}; expected one, as every student's; export it again")
    digest = hashlib.sha256((bundle.root / "manifest.json").read_bytes()).digest()
    called = short_name(name or bundle.manifest.name)
    return of_file(bundle.path(FORMAT), Judgement(called, int(fmt.threshold), 0, model_version, digest))


def finish(network: Network, key: bytes = b"") -> Made:
    """The image with golden answers, signed by a device key; without one only a development device takes it.

    Raises:
        ExportError: TFLite Micro and the engine disagree on a golden picture.
        FlashError: no C compiler.
    """
    own = golden.answers(network, engine.Engine(network.image([], key)).run)
    try:
        oracle, answers = "tflite_micro", golden.answers(network, tflm.micro(network))
    except MissingExtraError:
        oracle, answers = "engine", own
    if answers != own:
        wrong = [f"{one.seed:#x}" for one, other in zip(own, answers, strict=True) if one != other]
        raise ExportError(
            f"{network.header.name}: the C engine differs from TFLite Micro on golden pictures {', '.join(wrong)}; "
            f"expected the same bits; please report it with the file"
        )
    return Made(network, network.image(answers, key), oracle)


def read_key(path: Path) -> bytes:
    """A device key: a file of 64 hex digits.

    Raises:
        FlashError: no such file, or something else in it.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FlashError(f"{path}: {error}; expected a device key, 64 hex digits") from error
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise FlashError(f"{path} holds {len(text)} characters; expected a device key, 64 hex digits")
    return bytes.fromhex(text)


def short_name(name: str) -> str:
    """A name that an image has room for."""
    return name.encode()[: NAME_BYTES - 1].decode(errors="ignore")
