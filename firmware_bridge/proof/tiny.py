"""A model image of a few hundred bytes: the camera's mean, with weights of nothing to give it a length.

Flat pictures have outputs that anybody can tell (-128, 0, 127), so its golden answers need no
interpreter. Different seeds make different images of one length.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from firmware_bridge.compiler.compile import KEPT_BYTES, SLACK_BYTES
from firmware_bridge.image import MAX_OUTPUTS, Golden, Header, Kind, Step, aligned, assemble


@dataclass(frozen=True)
class Tiny:
    """What the image is to be; `length` is its bytes, a multiple of 4, or 0 for the shortest."""

    width_px: int = 8
    height_px: int = 4
    channels: int = 1
    version: int = 1
    length: int = 0
    seed: int = 0
    threshold: int = 0
    wrong_golden: bool = False
    arena_extra: int = 0
    key: bytes = b""

    def build(self) -> bytes:
        """The image."""
        width, height, channels = self.width_px, self.height_px, self.channels
        camera = Step(
            Kind.CAMERA, tile_px=width, in_width=width, in_height=height, in_channels=channels,
            out_width=width, out_height=height, out_channels=channels,
        )  # fmt: skip
        mean = replace(camera, kind=Kind.POOL, tile_px=1, out_width=1, out_height=1)
        steps = [
            camera,
            replace(camera, kind=Kind.FEED, target=2),
            mean,
            replace(mean, kind=Kind.OUTPUT, in_width=1, in_height=1),
        ]
        scratch = width * channels
        arena = len(steps) * KEPT_BYTES + MAX_OUTPUTS + 4 * channels + aligned(scratch) + SLACK_BYTES
        answers = ((0, -128), (1, 0), (2, 126 if self.wrong_golden else 127))
        golden = [Golden(seed, 0, (value,) * channels) for seed, value in answers]
        header = Header(
            image_bytes=0, model_version=self.version, width_px=width, height_px=height, channels=channels,
            outputs=channels, judged=0, output_scale=0.5, heat_scale=1.0, output_zero_point=0, heat_zero_point=0,
            threshold=self.threshold, heat_rows=0, heat_columns=0, arena_bytes=arena + self.arena_extra,
            ram_bytes=arena + 32, macs=0, steps_offset=0, golden_offset=0, step_count=0, golden_count=0,
            scratch_bytes=scratch, column_bytes=0, bundle_digest=bytes(32), name=f"tiny {self.seed}",
        )  # fmt: skip
        filler = max(self.length - len(assemble(header, steps, b"", golden)), 0)
        image = assemble(header, steps, random.Random(self.seed).randbytes(filler), golden, self.key)
        assert not self.length or len(image) == self.length, (len(image), self.length)
        return image
