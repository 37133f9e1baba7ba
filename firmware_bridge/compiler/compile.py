"""TFLite in, model image out: places in memory, tiles, the table of steps.

A tile's width is chosen for each segment: as wide as the memory allows that the network needs at
its deepest place anyway, so that wide early rows go in few passes and no RAM is spent on it. Leaves
out: what operators mean (`read_graph.py`), the order of rows (`segments.py`), golden answers
(`golden.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diagline.errors import ExportError
from firmware_bridge import image
from firmware_bridge.compiler import tflite_file
from firmware_bridge.compiler.graph import Graph, Map, Node
from firmware_bridge.compiler.read_graph import read_graph
from firmware_bridge.compiler.segments import Plan, Segment, last_uses, plan
from firmware_bridge.image import NAME_BYTES, Golden, Header, Kind, Step, aligned

PITCH = 16  # a row of weights ends on it, so that a vector may be read over its end
COLUMN_PX = 4
SLACK_BYTES = 32
NET_BYTES = 20  # rs_net on a 32-bit processor
KEPT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Judgement:
    """How outputs become a verdict, and what the model is called.

    Attributes:
        threshold: REJECT at or above, int8; None: a logit of 0.
        judged: which output; None: the last.
        model_version: a device refuses one lower than what it runs.
        bundle_digest: SHA-256 of the bundle's manifest.
    """

    name: str
    threshold: int | None = None
    judged: int | None = None
    model_version: int = 1
    bundle_digest: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class Network:
    """A compiled network, all but its golden answers and signature.

    Attributes:
        tflite: the file whose outputs it gives bit for bit (without a last SOFTMAX).
        tail_macs: of `header.macs`, those left when the last row has been pushed.
        notes: what was left off, for people.
    """

    header: Header
    steps: tuple[Step, ...]
    tensors: bytes
    tflite: bytes
    tail_macs: int
    notes: tuple[str, ...] = ()

    def image(self, golden: Sequence[Golden], key: bytes = b"") -> bytes:
        """The finished image; without a key only a device without one takes it."""
        return image.assemble(self.header, self.steps, self.tensors, golden, key)


def compile_tflite(data: bytes, judgement: Judgement) -> Network:
    """Compile an int8 TFLite file.

    Raises:
        ExportError: not a TFLite file, an operator or shape that the engine does not know (with its
            tensor's name), a name or threshold that does not fit.
        MissingExtraError: LiteRT is not installed.
    """
    tflite = tflite_file.without_ending(data)
    notes = []
    if tflite is not data:
        last = tflite_file.read(data).operators[-1]
        notes.append(f"left off the last {last.name}: the device judges logits, whose order it does not change")
    graph = read_graph(tflite_file.read(tflite))
    found = plan(graph)
    made = _Writer(found).write()
    header = _header(graph, found, made, judgement)
    return Network(header, tuple(made.steps), bytes(made.tensors), tflite, found.tail_macs, tuple(notes))


@dataclass
class _Made:
    steps: list[Step] = field(default_factory=list)
    tensors: bytearray = field(default_factory=bytearray)
    scratch_bytes: int = 0
    column_bytes: int = 0


def _header(graph: Graph, found: Plan, made: _Made, judgement: Judgement) -> Header:
    outputs, source = graph.maps[graph.outputs], graph.maps[graph.source]
    heat = graph.maps[graph.heat] if graph.heat is not None else None
    judged = outputs.channels - 1 if judgement.judged is None else judgement.judged
    threshold = min(outputs.zero_point, 127) if judgement.threshold is None else judgement.threshold
    if len(judgement.name.encode()) >= NAME_BYTES:
        raise ExportError(f"name {judgement.name!r}; expected at most {NAME_BYTES - 1} bytes; choose one with --name")
    if len(made.steps) > image.MAX_STEPS:
        raise ExportError(f"{len(made.steps)} steps; expected at most {image.MAX_STEPS}; make the network smaller")
    if not 0 <= judged < outputs.channels or not -128 <= threshold <= 127:
        raise ExportError(
            f"threshold {threshold} on output {judged}; expected -128 to 127 on one of {outputs.channels} outputs"
        )
    heat_bytes = aligned(heat.height * heat.width) if heat else 0
    arena = len(made.steps) * KEPT_BYTES + image.MAX_OUTPUTS + heat_bytes
    arena += sum(aligned(step.kept_bytes) for step in made.steps)
    arena += aligned(made.scratch_bytes) + aligned(made.column_bytes) + SLACK_BYTES
    return Header(
        image_bytes=0,
        model_version=judgement.model_version,
        width_px=source.width,
        height_px=source.height,
        channels=source.channels,
        outputs=outputs.channels,
        judged=judged,
        output_scale=outputs.scale,
        heat_scale=heat.scale if heat else 0.0,
        output_zero_point=outputs.zero_point,
        heat_zero_point=heat.zero_point if heat else 0,
        threshold=threshold,
        heat_rows=heat.height if heat else 0,
        heat_columns=heat.width if heat else 0,
        arena_bytes=arena,
        ram_bytes=arena + NET_BYTES + source.width * source.channels,
        macs=found.macs,
        steps_offset=0,
        golden_offset=0,
        step_count=0,
        golden_count=0,
        scratch_bytes=made.scratch_bytes,
        column_bytes=made.column_bytes,
        bundle_digest=judgement.bundle_digest,
        name=judgement.name,
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a segment's maps lie in the scratch, for tiles of `tile_px`, and how much they take."""

    tile_px: int
    places: dict[int, int]
    bytes: int


class _Writer:
    """Writes the steps of a plan, segment by segment."""

    def __init__(self, found: Plan) -> None:
        self._plan = found
        self._maps = found.graph.maps
        self._made = _Made()
        self._first: list[int] = []  # by segment, the index of its head's step
        self._kept: dict[tuple[int, int], int] = {}  # by map and reading segment, the index of its KEEP
        self._targets: dict[int, int | tuple[int, int]] = {}  # by step: a segment, or (map, segment) to take

    def write(self) -> _Made:
        places = self._tiles()
        for index, segment in enumerate(self._plan.segments):
            self._first.append(len(self._made.steps))
            self._segment(index, segment, places[index])
        self._made.steps = [self._aim(index, step) for index, step in enumerate(self._made.steps)]
        return self._made

    # ---- places ----

    def _tiles(self) -> list[_Places]:
        segments = self._plan.segments
        least = [self._placed(i, min(COLUMN_PX, self._maps[one.made].width)) for i, one in enumerate(segments)]
        budget = max(one.bytes for one in least)
        found = []
        for index, (segment, places) in enumerate(zip(segments, least, strict=True)):
            width = self._maps[segment.made].width
            while places.tile_px < width:
                wider = self._placed(index, min(places.tile_px + COLUMN_PX, width))
                if wider.bytes > budget:
                    break
                places = wider
            found.append(places)
        self._made.scratch_bytes = max(one.bytes for one in found)
        return found

    def _placed(self, index: int, tile_px: int) -> _Places:
        """Lay a segment's maps into the scratch, first place that fits, each while it is used."""
        segment = self._plan.segments[index]
        uses = last_uses(segment, self._taken(index))
        busy: list[tuple[int, int, int]] = []  # first byte, byte after the last, last follower that reads it
        places: dict[int, int] = {}

        def place(number: int, now: int, over: int | None = None) -> None:
            """`over`: the first input, pixel by pixel read before it is written, whose place may be taken."""
            freed = places[over] if over is not None and uses[over] == now else -1
            busy[:] = [one for one in busy if one[2] >= now and one[0] != freed]
            size = aligned(tile_px * self._maps[number].channels)
            at = 0
            for first, after, _ in sorted(busy):
                if at + size <= first:
                    break
                at = max(at, after)
            busy.append((at, at + size, max(uses[number], now)))
            places[number] = at
            ends.append(at + size)

        ends: list[int] = []
        for number in (segment.made, *sorted(self._taken(index))):
            place(number, -1)
        for now, node in enumerate(segment.nodes):
            place(node.output, now, node.inputs[0] if node.kind is Kind.ADD else None)
        return _Places(tile_px, places, max(ends))

    def _taken(self, index: int) -> set[int]:
        kept = {keep.number for keep in self._plan.keeps if keep.reader == index}
        return kept | {number for segment, number in self._plan.from_ring if segment == index}

    # ---- steps ----

    def _segment(self, index: int, segment: Segment, places: _Places) -> None:
        self._computed(segment.head, segment.made, places)
        for number in sorted(self._taken(index)):
            step = Step(Kind.TAKE, **_flat(self._maps[number]), tile_px=places.tile_px, out=places.places[number])
            self._targets[len(self._made.steps)] = (number, index)
            self._made.steps.append(step)
        self._used(index, segment.made, places)
        for node in segment.nodes:
            self._computed(node, node.output, places)
            self._used(index, node.output, places)

    def _used(self, index: int, number: int, places: _Places) -> None:
        """Feed, keep and store a map as soon as it is made."""
        graph, steps = self._plan.graph, self._made.steps
        step = Step(Kind.FEED, **_flat(self._maps[number]), tile_px=places.tile_px, source=places.places[number])
        for fed, target in self._plan.segments[index].feeds:
            if fed == number:
                self._targets[len(steps)] = target
                steps.append(step)
        for keep in self._plan.keeps:
            if (keep.number, keep.writer) == (number, index):
                self._kept[keep.number, keep.reader] = len(steps)
                steps.append(replace(step, kind=Kind.KEEP, kernel_rows=keep.rows))
        if number == graph.outputs:
            steps.append(replace(step, kind=Kind.OUTPUT))
        if number == graph.heat:
            steps.append(replace(step, kind=Kind.HEAT))

    def _aim(self, index: int, step: Step) -> Step:
        """A step with the index of the step that it feeds or takes from."""
        target = self._targets.get(index)
        if target is None:
            return step
        if isinstance(target, tuple):
            return replace(step, target=self._kept.get(target, self._first[target[1]]))
        return replace(step, target=self._first[target])

    def _computed(self, node: Node | None, number: int, places: _Places) -> None:
        """The step that makes a map; of the camera without a node."""
        out = self._maps[number]
        step = Step(
            Kind.CAMERA, **_flat(out), tile_px=places.tile_px, out=places.places[number], zero_point=out.zero_point
        )
        if node is not None:
            source = self._maps[node.inputs[0]]
            step = replace(
                step,
                kind=node.kind,
                kernel_rows=node.kernel[0],
                kernel_columns=node.kernel[1],
                stride_y=node.stride[0],
                stride_x=node.stride[1],
                pad_top=node.pads[0],
                pad_left=node.pads[1],
                pad_right=node.pads[2],
                in_width=source.width,
                in_height=source.height,
                in_channels=source.channels,
                pad_value=source.zero_point,
                least=node.least,
                most=node.most,
                method=node.method,
                source=0 if node.is_head else places.places[node.inputs[0]],
                other=places.places[node.inputs[1]] if node.kind is Kind.ADD else 0,
            )
            step = self._with_tensors(step, node)
        self._made.steps.append(step)

    def _with_tensors(self, step: Step, node: Node) -> Step:
        if node.weights is not None:
            depth = node.weights.shape[1]
            pitch = depth if node.kind is Kind.DEPTHWISE else aligned(depth, PITCH)
            padded = np.zeros((len(node.weights), pitch), np.int8)
            padded[:, :depth] = node.weights
            step = replace(step, pitch=pitch, weights=self._tensor(padded.tobytes()))
            if node.kind is not Kind.DEPTHWISE:  # pixels spread to two bytes each; gathered first in a convolution
                columns = 3 if node.kind is Kind.CONV else 2
                self._made.column_bytes = max(self._made.column_bytes, columns * COLUMN_PX * pitch)
        if node.channels:
            step = replace(step, params=self._tensor(b"".join(one.pack() for one in node.channels)))
        return step

    def _tensor(self, data: bytes) -> int:
        at = len(self._made.tensors)
        self._made.tensors += data.ljust(aligned(len(data)), b"\0")
        return at


def _flat(here: Map) -> dict[str, Any]:
    """The sizes of a step whose input and output are alike."""
    sizes = {"width": here.width, "height": here.height, "channels": here.channels}
    return {f"{end}_{name}": value for end in ("in", "out") for name, value in sizes.items()}
