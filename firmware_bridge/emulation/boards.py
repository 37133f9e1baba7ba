"""The boards that QEMU emulates: how to build for one, and an image's golden pictures counted on it.

QEMU runs with `-icount shift=5`: 32 ns an instruction, exactly, so SysTick counts instructions and
says nothing about time. Leaves out: the device with its serial port on the same boards
(`emulator.py`).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagline.errors import FlashError
from firmware_bridge.emulation import build
from firmware_bridge.emulation.build import FIRMWARE

CROSS, QEMU = "arm-none-eabi-gcc", "qemu-system-arm"
CORE = ("rowstream.c", "image.c", "golden.c", "sha256.c", "kernels_generic.c", "kernels_dsp.c", "kernels_mve.c")
INSTRUCTION_NS = 32
GENERIC = "-DRS_KERNELS_GENERIC"
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Board:
    """One board: its folder below port/, the compiler's flags, QEMU's machine, SysTick's clock, external RAM."""

    name: str
    core: str
    cpu: tuple[str, ...]
    machine: str
    clock_mhz: int
    external: int

    @property
    def instructions_per_tick(self) -> float:
        """As QEMU counts them."""
        return 1000 / self.clock_mhz / INSTRUCTION_NS


_M4 = ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
_M7 = ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16")
_M55 = ("-mcpu=cortex-m55", "-mfloat-abi=hard")
BOARDS = {
    board.name: board
    for board in (
        Board("mps2_an386", "Cortex-M4", _M4, "mps2-an386", 25, 0x21000000),
        Board("mps2_an500", "Cortex-M7", _M7, "mps2-an500", 25, 0x60000000),
        Board("mps3_an547", "Cortex-M55", _M55, "mps3-an547", 32, 0x60000000),
    )
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One golden picture on a board.

    Attributes:
        instructions: of the whole picture; of its generation none.
        tail: those after the last row was handed over.
        right: whether logits and heat map had the promised bits.
    """

    seed: int
    instructions: int
    tail: int
    right: bool


@dataclass(frozen=True, slots=True)
class Run:
    """An image on a board; `stack_bytes` is the deepest that was seen."""

    pictures: tuple[Picture, ...]
    stack_bytes: int


def missing() -> str | None:
    """Which of the two programs is not installed, with the way to get it; None when both are."""
    absent = [name for name in (CROSS, QEMU) if shutil.which(name) is None]
    if not absent:
        return None
    return (
        f"{' and '.join(absent)} not found; install: "
        f"apt-get install --no-install-recommends gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
    )


def link_flags(board: Board) -> tuple[str, ...]:
    """What compiler and linker are told for a program without an operating system."""
    port = FIRMWARE / "port"
    scripts = (f"-T{port / board.name / 'memory.ld'}", f"-T{port / 'cortex_m' / 'sections.ld'}")
    return ("-O2", "-mthumb", *board.cpu, "-ffunction-sections", "-nostartfiles", "-Wl,--gc-sections", *scripts)


def run(board: Board, image: bytes, flags: Sequence[str] = ()) -> Run:
    """Answer an image's golden pictures on a board.

    Args:
        flags: of the compiler; `GENERIC` leaves the fast kernels out.

    Raises:
        FlashError: a program is missing, or the board refuses the image or gives no answer.
    """
    if (absent := missing()) is not None:
        raise FlashError(absent)
    sources = (*CORE, "port/cortex_m/startup.c", "port/bench/bench.c")
    program = build.program(
        f"bench-{board.name}.elf", sources, (*link_flags(board), f"-DIMAGE_AT={board.external:#x}u", *flags), CROSS
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.img"
        path.write_bytes(image)
        command = [
            QEMU, "-M", board.machine, "-display", "none", "-monitor", "none", "-serial", "none", "-icount", "shift=5",
            "-semihosting-config", "enable=on,target=native", "-kernel", str(program),
            "-device", f"loader,file={path},addr={board.external:#x},force-raw=on",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    found = _read(board, done.stderr + done.stdout)
    if done.returncode not in (0, 1) or not found.pictures:
        raise FlashError(
            f"{board.name}: exit code {done.returncode} instead of golden answers (2: it refuses the image; 3: it has "
            f"too little RAM); make the image again; {done.stderr.strip()[-200:]}"
        )
    return found


def device_sources() -> tuple[str, ...]:
    """The C files of the device on a board."""
    core = sorted(path.name for path in FIRMWARE.glob("*.c"))
    return (*core, "port/cortex_m/startup.c", "port/cortex_m/device.c")


def device_flags(board: Board) -> tuple[str, ...]:
    """What compiler and linker are told for the device on a board."""
    return (*link_flags(board), f"-I{FIRMWARE / 'port' / board.name}")


def device(board: Board) -> Path:
    """The device's firmware for a board.

    Raises:
        FlashError: no cross compiler, or it does not compile.
    """
    return build.program(f"device-{board.name}.elf", device_sources(), device_flags(board), CROSS)


def _read(board: Board, text: str) -> Run:
    pictures: list[Picture] = []
    stack_bytes = 0
    for line in text.splitlines():
        match line.split():
            case ["picture", seed, ticks, tail, right]:
                whole, after = (round(int(count) * board.instructions_per_tick) for count in (ticks, tail))
                pictures.append(Picture(int(seed), whole, after, right == "1"))
            case ["stack", used]:
                stack_bytes = int(used)
    return Run(tuple(pictures), stack_bytes)
