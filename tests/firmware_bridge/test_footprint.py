"""What `make firmware` says of the firmware's size is what the compiler says, and it stays small."""

from __future__ import annotations

import pytest

from diagline.errors import FlashError
from firmware_bridge.emulation import boards
from firmware_bridge.proof import footprint
from firmware_bridge.proof.footprint import LIBC_BYTES, Calls

GRAPH = r"""
node: { title: "main" label: "main\nmain.c:5:5\n40 bytes (static)" }
node: { title: "a.c:left" label: "left\na.c:1:1\n100 bytes (static)\n0 dynamic objects" }
node: { title: "right" label: "right\nb.c:1:1\n60 bytes (dynamic,bounded)" }
node: { title: "memcpy" label: "memcpy\n<built-in>" shape : ellipse }
node: { title: "driver" label: "driver\nc.c:9:9\n300 bytes (static)" }
edge: { sourcename: "main" targetname: "a.c:left" label: "main.c:7:5" }
edge: { sourcename: "main" targetname: "right" }
edge: { sourcename: "right" targetname: "__indirect_call" }
edge: { sourcename: "driver" targetname: "memcpy" }
"""


def test_the_deepest_path_counts_calls_through_pointers_and_the_c_library() -> None:
    graph = Calls()
    graph.add(GRAPH)
    assert graph.deepest("main") == (40 + 60 + 300 + LIBC_BYTES, ("main", "right", "driver", "memcpy"))


def test_recursion_and_stacks_without_bound_are_refused() -> None:
    graph = Calls()
    graph.add(GRAPH + 'edge: { sourcename: "a.c:left" targetname: "main" }')
    with pytest.raises(FlashError, match=r"main -> a\.c:left -> main: a circle"):
        graph.deepest("main")
    with pytest.raises(FlashError, match="grows: its stack has no bound"):
        Calls().add(r'node: { title: "grows" label: "grows\nx.c:1:1\n8 bytes (dynamic)" }')


@pytest.mark.skipif(boards.missing() is not None, reason=str(boards.missing()))
def test_the_device_takes_little_beside_its_network() -> None:
    found = footprint.measure(boards.BOARDS["mps2_an386"])
    assert found.path[0] == "main" and len(found.path) > 5
    assert 500 < found.stack < 1536
    assert found.ram < 8192
    assert found.text < 40_000
