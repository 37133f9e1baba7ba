"""What the device's firmware takes: text, RAM and the worst-case stack, for each board.

    make firmware

Builds all ports, then prints a table. The stack is the deepest path of GCC's call graph
(-fcallgraph-info=su) from main, plus an exception's frame with its handler on top. A call through a pointer
counts as the deepest of all functions that nobody calls by name; what newlib brings (memcpy,
memset and their like), which has no call graph, counts LIBC_BYTES. Leaves out: what the network
needs (`diagline image`) and how fast it is (benchmarks/mcu.py).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from diagline.console import console
from diagline.errors import FlashError
from firmware_bridge.emulation import boards, build

LIBC_BYTES = 32
EXCEPTION_BYTES = 104 + 8  # eight registers, the FPU's eighteen, and the handler's own
NODE = re.compile(r'node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes \(([\w,]+)\)')
EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
INDIRECT = "__indirect_call"


@dataclass
class Calls:
    """A call graph: each function's own stack in bytes, and whom it calls."""

    stack: dict[str, int] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Takes a file of -fcallgraph-info=su.

        Raises:
            FlashError: a function whose stack has no bound.
        """
        for name, size, kind in NODE.findall(text):
            if kind == "dynamic":
                raise FlashError(f"{name}: its stack has no bound; expected no variable-length array")
            self.stack[name] = int(size)
        for source, target in EDGE.findall(text):
            self.calls.setdefault(source, set()).add(target)

    def deepest(self, start: str) -> tuple[int, tuple[str, ...]]:
        """The stack in bytes from a function on, and the path that takes it.

        Raises:
            FlashError: functions that call themselves in a circle.
        """
        named = {target for targets in self.calls.values() for target in targets}
        pointed = {name for name in self.stack if name not in named}
        return self._deepest(start, pointed - {start}, (), {})

    def _deepest(
        self, name: str, pointed: Iterable[str], above: tuple[str, ...], known: dict[str, tuple[int, tuple[str, ...]]]
    ) -> tuple[int, tuple[str, ...]]:
        if name in above:
            raise FlashError(f"{' -> '.join((*above[above.index(name) :], name))}: a circle; expected no recursion")
        if name not in known:
            below = pointed if name == INDIRECT else self.calls.get(name, ())
            paths = [self._deepest(target, pointed, (*above, name), known) for target in sorted(below)]
            size, path = max(paths, default=(0, ()))
            own = 0 if name == INDIRECT else self.stack.get(name, LIBC_BYTES)
            known[name] = (own + size, path if name == INDIRECT else (name, *path))
        return known[name]


@dataclass(frozen=True, slots=True)
class Footprint:
    """One board's firmware, in bytes. `ram` is all but stack and arena; `path` takes the stack."""

    text: int
    ram: int
    arena: int
    stack: int
    path: tuple[str, ...]


def measure(board: boards.Board) -> Footprint:
    """Build a board's firmware and measure it.

    Raises:
        FlashError: no cross compiler, or it does not compile; a stack without bound.
    """
    program = boards.device(board)
    sizes = _run("arm-none-eabi-size", str(program)).splitlines()[1].split()
    arena = next(line for line in _run("arm-none-eabi-nm", "-S", str(program)).splitlines() if line.endswith(" arena"))
    text, data, bss = map(int, sizes[:3])
    arena_bytes = int(arena.split()[1], 16)
    graph = Calls()
    with tempfile.TemporaryDirectory() as folder:
        for source in [one for one in boards.device_sources() if not one.endswith("startup.c")]:
            made = Path(folder) / f"{source.replace('/', '_')}.o"
            flags = [flag for flag in boards.device_flags(board) if not flag.startswith(("-T", "-Wl", "-nostart"))]
            _run(
                boards.CROSS, *build.STRICT, *flags, f"-I{build.FIRMWARE}", "-fcallgraph-info=su",
                "-c", str(build.FIRMWARE / source), "-o", str(made),
            )  # fmt: skip
            graph.add(made.with_suffix(".ci").read_text())
    stack, path = graph.deepest("main")
    names = tuple(name.rpartition(":")[2] for name in path)
    return Footprint(text + data, data + bss - arena_bytes, arena_bytes, stack + EXCEPTION_BYTES, names)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FlashError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def main() -> None:
    """Build every port; print what each takes."""
    table = Table("port", "processor", "text", "RAM", "arena", "stack, at most")
    console.print(f"host: {build.host_port()}")
    if shutil.which(boards.CROSS) is None:
        raise SystemExit(f"{boards.missing()}")
    for board in boards.BOARDS.values():
        found = measure(board)
        figures = (found.text, found.ram, found.arena, found.stack)
        table.add_row(board.name, board.core, *(f"{value:,}" for value in figures))
        console.print(f"{board.name}: deepest stack {' > '.join(found.path)}", highlight=False)
    console.print(table)
    console.print("bytes; RAM is all but stack and the network's arena")


if __name__ == "__main__":
    main()
