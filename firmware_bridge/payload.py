"""A bundle as a device takes it: the model image, and what the device must answer to its golden pictures.

Expected logits are TFLite Micro's where it is installed, otherwise the C engine's on this machine, which
has the same bits. The manifest's own golden outputs are those of the box's fast kernels, a rounding
away: of them the verdicts count. Leaves out: sending it (`flash.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diagline.bundle import Bundle
from diagline.errors import BundleError
from diagline.preprocess import preprocess
from diagline.verdict import State, decide
from firmware_bridge import make
from firmware_bridge.compiler import tflm
from firmware_bridge.emulation import engine
from firmware_bridge.image import DIGEST_BYTES, TRAILER_BYTES, Header
from firmware_bridge.replies import Info, Model


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
        oracle: whose logits are expected, "tflite_micro" or "engine".
    """

    header: Header
    image: bytes
    pictures: tuple[Expected, ...]
    signed: bool
    oracle: str

    @property
    def digest(self) -> bytes:
        """The SHA-256 in the image."""
        return self.image[-TRAILER_BYTES:-DIGEST_BYTES]

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.header.name} ({self.digest.hex()[:12]})"


def of_bundle(bundle: Bundle, key: bytes = b"", model_version: int = 1) -> Payload:
    """Compile a bundle's int8 TFLite file and find out what a device must answer.

    Args:
        key: of the devices; empty for those without one.
        model_version: a device refuses one lower than that in force.

    Raises:
        BundleError: no golden picture in it, or one gets another verdict than the bundle says.
        ExportError: no int8 TFLite file in it, or an operator that the engine does not know.
        FlashError: no C compiler here.
    """
    if not bundle.golden:
        raise BundleError(f"{bundle.root}: no golden pictures; expected some to prove the device with; export it again")
    made = make.finish(make.of_bundle(bundle, model_version), key)
    run = tflm.micro(made.network) if made.oracle == "tflite_micro" else engine.Engine(made.image).run
    header = Header.unpack(made.image)
    pictures = []
    for vector in bundle.golden:
        picture = preprocess(bundle.golden_frame(vector), bundle.manifest.input, vector.image)
        logit, told = int(run(picture)[0][header.judged]), vector.outputs[make.FORMAT]
        state = decide(logit, header.threshold)
        if state is not decide(told, header.threshold):
            raise BundleError(
                f"{bundle.root}: {vector.image} is {state.value} with logit {logit} by {made.oracle}; expected the "
                f"verdict on {told:g}, as it was exported; export it again"
            )
        pictures.append(Expected(vector.image, picture, logit, state))
    return Payload(header, made.image, tuple(pictures), bool(key), made.oracle)


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
        yield "the device takes images signed with its key alone; give --device-key FILE"
    if payload.signed and not info.signed:
        yield "the device has no key and takes unsigned images alone; leave out --device-key, or provision the device"


def _size(size: tuple[int, int, int]) -> str:
    width, height, channels = (str(one) if one else "any" for one in size)
    return f"{width}x{height}x{channels}"
