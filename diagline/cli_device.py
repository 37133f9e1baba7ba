"""The commands of line devices: a network as a model image.

Leaves out: what they do (`firmware_bridge/`), and the other commands (`cli.py`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box as boxes
from rich.table import Table

from diagline import files
from diagline.cli_options import AllowUnsigned, Json, Keys, open_bundle
from diagline.console import console

if TYPE_CHECKING:
    from firmware_bridge.make import Made

DeviceKey = Annotated[
    Path | None, typer.Option("--device-key", metavar="FILE", help="Signs for devices with this key; 64 hex digits")
]


def add_to(app: typer.Typer) -> None:
    """Make every command of this file one of `app`."""
    app.command("image", rich_help_panel="Line device")(make_image)


def make_image(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.tflite|BUNDLE", help="An int8 TFLite file, or a bundle folder")
    ],
    output: Annotated[Path | None, typer.Option(help="Where the image is written (MODEL.img, here)")] = None,
    tflm: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write C sources for TFLite Micro's interpreter there, too")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the device calls it, at most 31 bytes; the file's name")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(min=-128, max=127, help="REJECT at or above, int8; the bundle's, or a logit of 0")
    ] = None,
    judged: Annotated[int | None, typer.Option(min=0, help="Which output the threshold judges; the last")] = None,
    model_version: Annotated[int, typer.Option(min=0, help="A device refuses a lower one than it runs")] = 1,
    device_key: DeviceKey = None,
    keys: Keys = None,
    allow_unsigned: AllowUnsigned = False,
    as_json: Json = False,
) -> None:
    """Compile an int8 network for a line device: RAM, flash, MACs and row tail, and the image itself."""
    from firmware_bridge import make
    from firmware_bridge.compile import Judgement

    if model.is_dir():
        network = make.of_bundle(open_bundle(model, keys, allow_unsigned), model_version, name)
        if threshold is not None:
            network = replace(network, header=replace(network.header, threshold=threshold))
    else:
        called = name or make.short_name(model.stem)
        network = make.of_file(model, Judgement(called, threshold, judged, model_version))
    with console.status("golden pictures"):
        made = make.finish(network, make.read_key(device_key) if device_key is not None else b"")
    target = output or Path(f"{model.resolve().stem}.img")
    files.write_bytes(target, made.image)
    written = [target]
    if tflm is not None:
        from firmware_bridge.tflm import write_sources

        written += write_sources(tflm, network.header.name, network.tflite)
    if as_json:
        print(json.dumps(_facts(made, target)))
    console.print(_table(made))
    for line in (*network.notes, *(f"wrote {path}" for path in written)):
        console.print(line, soft_wrap=True)


def _facts(made: Made, target: Path) -> dict[str, Any]:
    header = made.network.header
    return {
        "image": str(target),
        "name": header.name,
        "model_version": header.model_version,
        "input": [header.height_px, header.width_px, header.channels],
        "outputs": header.outputs,
        "threshold": header.threshold,
        "heat_map": [header.heat_rows, header.heat_columns] if header.heat_rows else None,
        "ram_bytes": header.ram_bytes,
        "flash_bytes": len(made.image),
        "macs": header.macs,
        "row_tail": round(made.network.tail_macs / header.macs, 4),
        "golden": made.oracle,
    }


def _table(made: Made) -> Table:
    header = made.network.header
    shown = Table(title=header.name, title_justify="left", box=boxes.SIMPLE_HEAD, show_header=False, padding=0)
    heat = f", heat map {header.heat_rows}x{header.heat_columns}" if header.heat_rows else ""
    rows = {
        "input": f"{header.height_px}x{header.width_px}x{header.channels}, row by row",
        "outputs": f"{header.outputs}{heat}; REJECT where number {header.judged} is at or above {header.threshold}",
        "RAM": f"{header.ram_bytes:,} bytes with one camera row; all but the stack",
        "flash": f"{len(made.image):,} bytes",
        "MACs": f"{header.macs / 1e6:.2f} M a picture",
        "row tail": f"{made.network.tail_macs / header.macs:.1%} of them after the last row",
        "golden": f"answers of {made.oracle}",
    }
    for row in rows.items():
        shown.add_row(*row)
    return shown
