"""The row-streaming engine beside TensorFlow Lite Micro: RAM, bits, instructions on emulated Cortex-M.

    python benchmarks/mcu.py [--quick] [--models FOLDER] [--keep]

Three int8 networks of 10, 30 and 97 MMAC at 632x224x3, read from a folder (S10_DS.tflite,
S30_DS.tflite, S100_DS.tflite). Each is compiled to a model image; the C engine, built for this
machine, is held against tflite-micro's reference kernels on random pictures, bit for bit; then the
image's golden pictures are answered on QEMU's Cortex-M4 and M55 (M7 too without --quick), whose
SysTick counts instructions exactly. RAM is everything but the stack: arena, net, one camera row.
TFLite Micro's arena is what its interpreter says it allocated in this run. The table goes to
stderr; the last line of stdout is one JSON object; --keep also writes it to `benchmarks/results/`.
--quick takes about two minutes. Leaves out: milliseconds, which an emulator cannot tell.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import stand_aside  # noqa: F401
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from diagline import files, record
from diagline.console import console, track
from diagline.errors import DiaglineError, ExportError
from firmware_bridge import make
from firmware_bridge.compiler import golden, tflm
from firmware_bridge.compiler.compile import Network
from firmware_bridge.emulation import boards
from firmware_bridge.emulation.boards import BOARDS
from firmware_bridge.emulation.engine import Engine

SEED = 7
NETWORKS = ("S10", "S30", "S100")
MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
CORES = {"m4": "mps2_an386", "m55": "mps3_an547", "m7": "mps2_an500"}


def pictures(shape: tuple[int, int, int], count: int) -> Iterator[NDArray[np.uint8]]:
    """(height, width, channels) uint8: patches of random size, brightness and contrast."""
    rng = np.random.default_rng(SEED)
    for _ in range(count):
        side = int(rng.integers(1, 64))
        grid = (shape[0] // side + 1, shape[1] // side + 1, shape[2])
        patches = rng.normal(rng.uniform(0, 255), rng.uniform(5, 120), grid).repeat(side, 0).repeat(side, 1)
        yield patches[: shape[0], : shape[1]].clip(0, 255).astype(np.uint8)


def same_bits(network: Network, image: bytes, count: int, what: str) -> tuple[int, int]:
    """On how many pictures the engine gives TFLite Micro's bits, and how many different answers there were."""
    header = network.header
    engine, micro = Engine(image), tflm.micro(network)
    exact, answers = 0, set()
    for picture in track(pictures((header.height_px, header.width_px, header.channels), count), what, count):
        (outputs, heat), (expected, expected_heat) = engine.run(picture), micro(picture)
        exact += np.array_equal(outputs, expected) and (heat is None or np.array_equal(heat, expected_heat))
        answers.add(tuple(expected.tolist()))
    return exact, len(answers)


def counted(image: bytes, core: str) -> dict[str, int]:
    """The most instructions of a golden picture on a board, and the deepest stack."""
    found = boards.run(BOARDS[CORES[core]], image)
    wrong = [f"{one.seed:#x}" for one in found.pictures if not one.right]
    if wrong:
        raise ExportError(f"{CORES[core]}: wrong bits on golden pictures {', '.join(wrong)}")
    return {
        f"{core}_instructions": max(one.instructions for one in found.pictures),
        f"{core}_tail_instructions": max(one.tail for one in found.pictures),
        f"{core}_stack_bytes": found.stack_bytes,
    }


def measure(path: Path, name: str, count: int, cores: list[str]) -> dict[str, Any]:
    """Everything of one network."""
    network = make.of_file(path)
    made = make.finish(network)
    short = network.image(golden.answers(network, tflm.micro(network), golden.SEEDS[-2:]))
    exact, answers = same_bits(network, made.image, count, f"{name}: pictures")
    found: dict[str, Any] = {
        "ram_bytes": network.header.ram_bytes,
        "tflm_arena_bytes": tflm.arena_bytes(network.tflite),
        "bit_exact_images": [exact, count],
        "different_answers": answers,
        "flash_bytes": len(made.image),
        "macs": network.header.macs,
        "row_tail": round(network.tail_macs / network.header.macs, 4),
    }
    for core in track(cores, f"{name}: emulated boards"):
        found |= counted(short, core)
    return found


def table(results: dict[str, dict[str, Any]], cores: list[str]) -> Table:
    """A row for each network."""
    shown = Table(
        title="RAM beside TFLite Micro's arena; instructions a picture, exact, emulated",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for name in ("", "MMAC", "RAM kB", "TFLM kB", "same bits", *(f"{core} M" for core in cores)):
        shown.add_column(name, justify="right" if name else "left", no_wrap=True)
    for core in cores:
        shown.add_column(f"{core}/MAC", justify="right", no_wrap=True)
    for name, found in results.items():
        exact, count = found["bit_exact_images"]
        macs, counts = found["macs"], [found[f"{core}_instructions"] for core in cores]
        shown.add_row(
            name, f"{macs / 1e6:.1f}", f"{found['ram_bytes'] / 1e3:.1f}", f"{found['tflm_arena_bytes'] / 1e3:.1f}",
            f"{exact} of {count}", *(f"{one / 1e6:.1f}" for one in counts), *(f"{one / macs:.2f}" for one in counts),
        )  # fmt: skip
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 pictures a network instead of 300, no Cortex-M7")
    parser.add_argument("--models", type=Path, default=MODELS, help=f"folder of the three networks ({MODELS})")
    parser.add_argument("--keep", action="store_true", help="write the result to benchmarks/results/mcu.json")
    arguments = parser.parse_args()
    cores = ["m4", "m55"] if arguments.quick else list(CORES)
    paths = {name: arguments.models / f"{name}_DS.tflite" for name in NETWORKS}
    if absent := [str(path) for path in paths.values() if not path.is_file()]:
        raise SystemExit(f"not there: {', '.join(absent)}; expected three int8 networks; name their folder by --models")
    if (missing := boards.missing()) is not None:
        raise SystemExit(missing)
    try:
        results = {name: measure(path, name, 100 if arguments.quick else 300, cores) for name, path in paths.items()}
    except DiaglineError as error:
        raise SystemExit(str(error)) from error
    console.print(table(results, cores))
    facts = {"seed": SEED, "git_revision": record.git_revision(), "versions": record.versions()}
    result = {**results, "facts": facts}
    if arguments.keep:
        files.write_json(Path(__file__).parent / "results" / "mcu.json", result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
