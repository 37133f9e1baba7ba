"""In which order rows are computed, and what must be kept between them.

A segment is a head and all that can follow it pixel by pixel. Two arms of an ADD may end in
different segments; the earlier one's rows are then taken from the ring of the later segment's head
where it holds them anyway, and else kept in a line of their own, as long as the schedule shows to
be needed. `play` repeats the schedule of `firmware/rowstream.c`. Leaves out: bytes (`compile.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from diagline.errors import ExportError
from firmware_bridge.compiler.graph import Graph, Map, Node
from firmware_bridge.image import Kind

CAMERA = 0
"""The number of the first segment, whose head is the camera."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Rows of a map that one segment keeps for another; `rows` at a time."""

    number: int
    writer: int
    reader: int
    rows: int = 1


@dataclass
class Segment:
    """A head (None: the camera) and what follows it.

    Attributes:
        made: the number of the head's map.
        nodes: followers, in order.
        feeds: by map number, the segments whose heads take it.
    """

    head: Node | None
    made: int
    nodes: list[Node] = field(default_factory=list)
    feeds: list[tuple[int, int]] = field(default_factory=list)

    @property
    def maps(self) -> list[int]:
        """Numbers of the maps made here."""
        return [self.made, *(node.output for node in self.nodes)]

    @property
    def row_macs(self) -> int:
        """Multiply-accumulates of one row of all its maps."""
        return (self.head.macs if self.head else 0) + sum(node.macs for node in self.nodes)


@dataclass
class Plan:
    """The network as segments.

    Attributes:
        from_ring: maps that an ADD of a segment takes from its own head's ring: (segment, map).
    """

    graph: Graph
    segments: list[Segment]
    keeps: list[Keep] = field(default_factory=list)
    from_ring: set[tuple[int, int]] = field(default_factory=set)
    macs: int = 0
    tail_macs: int = 0


def plan(graph: Graph) -> Plan:
    """Cut a network into segments.

    Raises:
        ExportError: an ADD whose arms cannot be brought together row by row.
    """
    found = Plan(graph, [Segment(None, graph.source)])
    home = {graph.source: CAMERA}
    for node in graph.nodes:
        if node.is_head:
            home[node.output] = len(found.segments)
            found.segments[home[node.inputs[0]]].feeds.append((node.inputs[0], len(found.segments)))
            found.segments.append(Segment(node, node.output))
            continue
        place = _latest(found, {home[number] for number in node.inputs}, node)
        for number in node.inputs:
            if home[number] != place:
                _bring(found, number, home[number], place)
        found.segments[place].nodes.append(node)
        home[node.output] = place
    _unused(found, home)
    return play(found)


def _latest(found: Plan, places: set[int], node: Node) -> int:
    """Of the segments that a node takes maps from, the one whose rows always come last."""
    if len(places) == 1:
        return places.pop()
    turns = [_Turn() for _ in found.segments]
    moments: dict[int, list[int]] = {place: [] for place in places}
    count = itertools.count()
    for _ in range(found.graph.maps[found.graph.source].height):
        turns[CAMERA].got += 1
        for index in _rows(found, turns):
            if index in moments:
                moments[index].append(next(count))
    one, other = places
    later = {mine > yours for mine, yours in zip(moments[one], moments[other], strict=True)}
    if len(later) > 1:
        raise ExportError(
            f"ADD at tensor {found.graph.maps[node.output].name!r}: neither arm's rows always come first; "
            f"change the network, or stay with TFLite Micro"
        )
    return one if later.pop() else other


def _bring(found: Plan, number: int, early: int, late: int) -> None:
    head = found.segments[late].head
    assert head is not None  # a later segment has one
    if head.kind is not Kind.POOL and head.inputs[0] == number and head.stride == (1, 1):
        found.from_ring.add((late, number))
    elif Keep(number, early, late) not in found.keeps:
        found.keeps.append(Keep(number, early, late))


def _unused(found: Plan, home: dict[int, int]) -> None:
    graph = found.graph
    used = {number for node in graph.nodes for number in node.inputs} | {graph.outputs, graph.heat}
    for number in home:
        if number not in used:
            raise ExportError(
                f"tensor {graph.maps[number].name!r} is computed and not used; remove it and convert again"
            )


@dataclass
class _Turn:
    """Rows that a head has got and made."""

    got: int = 0
    made: int = 0


def play(found: Plan) -> Plan:
    """Run the schedule over one picture: how long rows are kept, and what is left to do after the last one.

    Raises:
        ExportError: a map of which not all rows are made.
    """
    maps = found.graph.maps
    turns = [_Turn() for _ in found.segments]
    longest = {keep: 1 for keep in found.keeps}
    for _ in range(maps[found.graph.source].height):
        turns[CAMERA].got += 1
        found.tail_macs = 0
        for index in _rows(found, turns):
            found.tail_macs += found.segments[index].row_macs
            found.macs += found.segments[index].row_macs
            for keep in found.keeps:
                written, read = turns[keep.writer].made, turns[keep.reader].made
                pending = read - 1 if index == keep.reader else read  # the row just read was still needed
                longest[keep] = max(longest[keep], written - pending)
    for segment, turn in zip(found.segments, turns, strict=True):
        if turn.made != maps[segment.made].height:
            raise ExportError(f"tensor {maps[segment.made].name!r}: {turn.made} rows of {maps[segment.made].height}")
    found.keeps = [Keep(keep.number, keep.writer, keep.reader, longest[keep]) for keep in found.keeps]
    return found


def _rows(found: Plan, turns: list[_Turn]) -> Iterator[int]:
    """The segments in the order in which they make rows until none can; `turns` go along."""
    at = CAMERA
    while at >= CAMERA:
        if not _ready(found.graph.maps, found.segments[at], turns[at]):
            at -= 1
            continue
        turns[at].made += 1
        yield at
        for _, target in found.segments[at].feeds:
            turns[target].got += 1
        at = max((target for _, target in found.segments[at].feeds), default=at)


def _ready(maps: dict[int, Map], segment: Segment, turn: _Turn) -> bool:
    if turn.made >= maps[segment.made].height:
        return False
    head = segment.head
    if head is None:
        return turn.got > turn.made
    rows = maps[head.inputs[0]].height
    if head.kind is Kind.POOL:
        return turn.got >= rows
    needed = turn.made * head.stride[0] + head.kernel[0] - head.pads[0]
    return turn.got >= min(needed, rows)


def last_uses(segment: Segment, kept: set[int]) -> dict[int, int]:
    """By map made in a segment, the index of the last follower that reads it (-1: none)."""
    uses = dict.fromkeys(itertools.chain(segment.maps, kept), -1)
    for index, node in enumerate(segment.nodes):
        for number in node.inputs:
            uses[number] = index
    return uses
