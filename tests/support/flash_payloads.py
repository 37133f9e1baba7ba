"""What can be flashed without a network: tiny images of known answers, and a device that hurries."""

from __future__ import annotations

import numpy as np

from diagline.verdict import State, decide
from firmware_bridge.image import Header
from firmware_bridge.link import Patience
from firmware_bridge.payload import Expected, Payload
from firmware_bridge.proof.tiny import Tiny

HURRIED = Patience(again_s=0.2, tries=30)
LOGITS = (-118, 112)  # of flat pictures: the tiny network's output is their mean


def payload(tiny: Tiny, *more: Expected) -> Payload:
    """The image, and flat pictures with the answers that anybody can tell."""
    image = tiny.build()
    shape = (tiny.height_px, tiny.width_px, tiny.channels)
    flat = [
        Expected(f"golden/{logit}.png", np.full(shape, logit + 128, np.uint8), logit, decide(logit, tiny.threshold))
        for logit in LOGITS
    ]
    return Payload(Header.unpack(image), image, (*flat, *more), bool(tiny.key), "hand")


def wrong_picture(tiny: Tiny) -> Expected:
    """A golden picture whose expected answer no device gives."""
    shape = (tiny.height_px, tiny.width_px, tiny.channels)
    return Expected("golden/wrong.png", np.full(shape, 50, np.uint8), -77, State.PASS)
