"""The commands that make and flash models: a network as a model image, a bundle on devices.

Leaves out: what they do (`firmware_bridge/`), and the other commands (`cli.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box as boxes
from rich.table import Table

from diagline import files
from diagline.cli_options import AllowUnsigned, Json, Keys, open_bundle
from diagline.console import console, progress
from diagline.errors import FlashError, require

if TYPE_CHECKING:
    from firmware_bridge.make import Made

DeviceKey = Annotated[
    Path | None, typer.Option("--device-key", metavar="FILE", help="The key that the devices hold; 64 hex digits")
]
Baud = Annotated[int, typer.Option(help="Speed of the port")]
BAUD = 115200


def add_to(app: typer.Typer) -> None:
    """Make every command of this file one of `app`."""
    app.command("image", rich_help_panel="Line device")(make_image)
    app.command(rich_help_panel="Line device")(flash)


def require_firmware() -> None:
    """Say at once which extra is missing, for commands that talk to devices."""
    for module in ("serial", "smp"):
        require(module, "firmware")


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
    from firmware_bridge.compiler.compile import Judgement

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
        from firmware_bridge.compiler.tflm import write_sources

        written += write_sources(tflm, network.header.name, network.tflite)
    if as_json:
        print(json.dumps(_facts(made, target)))
    console.print(_table(made))
    for line in (*network.notes, *(f"wrote {path}" for path in written)):
        console.print(line, soft_wrap=True)


def flash(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder")],
    ports: Annotated[
        list[str], typer.Option("--port", metavar="PORT", help="Serial port; again for several devices at once")
    ],
    model_version: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="A device refuses a lower one than it runs")
    ] = 1,
    device_key: DeviceKey = None,
    keys: Keys = None,
    allow_unsigned: AllowUnsigned = False,
    baud: Baud = BAUD,
    as_json: Json = False,
) -> None:
    """Put a bundle's model on devices: fit, upload, self-test and golden pictures on the device, then in force."""
    require_firmware()
    from firmware_bridge import flash as room
    from firmware_bridge import make, payload

    if len(set(ports)) < len(ports):
        raise FlashError(f"--port {' --port '.join(ports)}: one is named twice; expected each device once")
    key = make.read_key(device_key) if device_key is not None else b""
    made = payload.of_bundle(open_bundle(bundle, keys, allow_unsigned), key, model_version)
    console.print(
        f"{made.label}: {len(made.image)} bytes, {made.header.ram_bytes} bytes of RAM; expected outputs by "
        f"{made.oracle}",
        soft_wrap=True,
    )
    with progress() as display:
        tasks = {port: display.add_task(port, total=len(made.image), note="") for port in ports}

        def report(port: str, stage: str, done: int, whole: int) -> None:
            display.update(tasks[port], completed=done, total=whole, note=stage)

        outcomes = room.flash_all(ports, made, report, baud)
    done = [one for one in outcomes if isinstance(one, room.Flashed)]
    failed = [str(one) for one in outcomes if isinstance(one, FlashError)]
    for one in done:
        was = "was there already, proven again" if one.there_already else f"flashed in {one.seconds:.1f} s"
        console.print(
            f"{one.port}: {was}: {one.model} on {one.board}; {one.golden} golden pictures of the image and "
            f"{one.pictures} of the bundle came out right; in force",
            style="green",
            soft_wrap=True,
        )
    if as_json:
        print(json.dumps({"flashed": [asdict(one) for one in done], "failed": failed}))
    if failed:
        several = f"{len(failed)} of {len(ports)} devices were not flashed: " if len(ports) > 1 else ""
        raise FlashError(several + " | ".join(failed))


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
