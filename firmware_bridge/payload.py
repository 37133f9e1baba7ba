"""A bundle as a device takes it: the model image, and what the device must answer to its golden pictures.

Expected outputs come from TFLite Micro's reference kernels where they are installed, otherwise from
the C engine on this machine, which gives the same bits. The manifest's own golden outputs are those of
the box's fast kernels, a rounding away: of them the verdicts count. Leaves out: sending it (`flash.py`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Bundle
from diagline.errors import BundleError, FlashError
from diagline.preprocess import preprocess
from diagline.verdict import State, decide
from firmware_bridge import engine, golden
from firmware_bridge.compile import Judgement, Network, compile_tflite
from firmware_bridge.image import DIGEST_BYTES, NAME_BYTES, TRAILER_BYTES, Golden, Header
from firmware_bridge.replies import Info, Model

FORMAT = "tflite_int8"
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Expected:
    """A golden picture of the bundle, and what the device must say of it.

    Attributes:
        name: its path in the bundle.
        input: (height_px, width_px, channels) uint8, as the network is fed.
        logit: int8, to the bit.
    """

    name: str
    input: NDArray[np.uint8]
    logit: int
    state: State


@dataclass(frozen=True, slots=True)
class Payload:
    """What is flashed.

    Attributes:
        image: signed with the key, where there was one.
        digest: the SHA-256 in it, which names it.
        reference: what gave the expected outputs.
    """

    header: Header
    image: bytes
    pictures: tuple[Expected, ...]
    signed: bool
    reference: str

    @property
    def digest(self) -> bytes:
        """The SHA-256 in the image."""
        return self.image[-TRAILER_BYTES:-DIGEST_BYTES]

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.header.name} ({self.digest.hex()[:12]})"


def read_key(path: Path) -> bytes:
    """A device key: a file of 32 raw bytes, or of their 64 hex digits.

    Raises:
        FlashError: not there, or neither.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FlashError(f"{path}: {error.strerror}; expected the key of the device; see docs/device.md") from error
    if len(data) == KEY_BYTES:
        return data
    try:
        key = bytes.fromhex(data.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise FlashError(f"{path}: not a device key; expected 32 raw bytes or 64 hex digits: openssl rand -hex 32")
    return key


def make(bundle: Bundle, key: bytes = b"", model_version: int = 1) -> Payload:
    """Compile a bundle's int8 TFLite file and find out what a device must answer.

    Args:
        key: of the devices; empty for those without one.
        model_version: a device refuses one lower than that in force.

    Raises:
        BundleError: no int8 TFLite file or no golden picture in it; the reference kernels give another
            verdict than the bundle.
        ExportError: an operator that the engine does not know.
        FlashError: neither TFLite Micro nor a C compiler here.
    """
    form, path = bundle.manifest.formats.get(FORMAT), bundle.path(FORMAT)
    assert form is not None
    if not bundle.golden:
        raise BundleError(f"{bundle.root}: no golden pictures; expected some to prove the device with; export it again")
    name = bundle.manifest.name.encode()[: NAME_BYTES - 1].decode(errors="ignore")
    judgement = Judgement(
        name, int(form.threshold), model_version=model_version, bundle_digest=bytes.fromhex(bundle.sha256)
    )
    network = compile_tflite(path.read_bytes(), judgement)
    run, reference = _reference(network)
    pictures = []
    for vector in bundle.golden:
        picture = preprocess(bundle.golden_frame(vector), bundle.manifest.input, vector.image)
        logit = int(run(picture)[0][network.header.judged])
        state = decide(logit, form.threshold)
        if state is not decide(vector.outputs[FORMAT], form.threshold):
            raise BundleError(
                f"{bundle.root}: {vector.image} is {state.value} on {reference} (logit {logit}), and not in the bundle "
                f"({vector.outputs[FORMAT]:g}); export it again"
            )
        pictures.append(Expected(vector.image, picture, logit, state))
    image = network.image(golden.answers(network, run), key)
    return Payload(Header.unpack(image), image, tuple(pictures), bool(key), reference)


def _reference(network: Network) -> tuple[golden.Runner, str]:
    if importlib.util.find_spec("tflite_micro") is not None:
        return golden.micro(network), "TFLite Micro"
    empty: list[Golden] = []
    return engine.Engine(network.image(empty)).run, "the C engine of this machine"


def misfit(payload: Payload, info: Info, running: Model | None) -> str | None:
    """Why a device cannot take it, and what to do; None: it fits. Pure, and asked before anything is erased."""
    return next(_misfits(payload, info, running), None)


def _misfits(payload: Payload, info: Info, running: Model | None) -> Iterator[str]:
    header = payload.header
    if info.locked:
        yield "the device's parameters are damaged; expected whole ones; provision it again"
    size = (header.width_px, header.height_px, header.channels)
    camera = (info.camera_width, info.camera_height, info.camera_channels)
    if any(has not in (0, needs) for has, needs in zip(camera, size, strict=True)):
        yield f"the model takes {_size(size)} and the device's camera gives {_size(camera)}; train for that size"
    needs = {
        "bytes of RAM": (header.arena_bytes, info.arena_bytes),
        "bytes a row": (header.width_px * header.channels, info.row_bytes),
        "bytes of flash": (len(payload.image), info.slot_bytes),
    }
    for what, (need, has) in needs.items():
        if need > has:
            yield f"the model needs {need} {what} and the device has {has}; train a smaller student"
    if running is not None and header.model_version < running.version:
        yield f"model version {header.model_version} is older than {running.version} in force; give --model-version"
    if info.signed and not payload.signed:
        yield "the device takes images signed with its key alone; give --mac-key FILE"
    if payload.signed and not info.signed:
        yield "the device has no key and takes unsigned images alone; leave out --mac-key, or provision the device"


def _size(size: tuple[int, int, int]) -> str:
    width, height, channels = (str(one) if one else "any" for one in size)
    return f"{width}x{height}x{channels}"
