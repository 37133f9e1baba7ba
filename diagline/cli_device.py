"""The commands that ask line devices: ports, facts, self-test, pictures, bench; and devices without a board.

Leaves out: what they do (`firmware_bridge/`), and putting models on devices (`cli_image.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from diagline.cli_image import BAUD, Baud, DeviceKey, require_firmware
from diagline.cli_options import Json, signals
from diagline.console import console, progress
from diagline.errors import FlashError, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from firmware_bridge.device import Device
    from firmware_bridge.replies import Judged, Model

device_app = typer.Typer(no_args_is_help=True, help="Line devices on serial ports.")

WRONG_EXIT = 1
SHADES = " .:-=+*#%@"

Port = Annotated[str, typer.Option("--port", metavar="PORT", help="Serial port, such as /dev/ttyACM0")]


def add_to(app: typer.Typer) -> None:
    """Make every command of this file one of `app`."""
    app.add_typer(device_app, name="device", rich_help_panel="Line device")
    app.command(rich_help_panel="Line device")(emulate)


@device_app.command("list")
def show(as_json: Json = False) -> None:
    """The serial ports of this machine."""
    from firmware_bridge import ports as room

    ports = room.list_ports()
    if as_json:
        print(json.dumps([asdict(port) for port in ports]))
        return
    for port in ports:
        console.print(f"{port.path}  {port.description}  {port.usb}".rstrip(), soft_wrap=True)
    if not ports:
        console.print("no serial ports; plug a device in, and check that this user may read it (group dialout)")


@device_app.command("info")
def info(port: Port, baud: Baud = BAUD, as_json: Json = False) -> None:
    """What a device is, which model runs, and what lies in its slots."""
    with _device(port, baud) as device:
        from firmware_bridge.link import RefusedError
        from firmware_bridge.replies import plain

        slots = [plain(slot) for slot in device.slots()]
        try:
            found, model = device.info()
            told = {**plain(found), "model": None if model is None else plain(model), **plain(device.facts())}
        except RefusedError:  # another SMP server: its images are all there is to tell
            told = {}
    if as_json:
        print(json.dumps({"port": port, **told, "slots": slots}))
        return
    of_model = told.pop("model", None) or {}
    told |= {"model" if name == "model" else f"model_{name}": value for name, value in of_model.items()}
    for name, value in told.items():
        console.print(f"{name.replace('_', ' '):<16} {value}", soft_wrap=True)
    for slot in slots:
        flags = ", ".join(name for name in ("active", "confirmed", "pending", "permanent") if slot[name])
        console.print(f"slot {slot['slot']:<11} version {slot['version']}, {slot['hash'][:12]}: {flags or 'spare'}")
    if not slots:
        console.print("no model in it; next: diagline flash BUNDLE --port " + port, soft_wrap=True)


@device_app.command("selftest")
def selftest(port: Port, baud: Baud = BAUD, as_json: Json = False) -> None:
    """Run the golden pictures on a device; exit code 1 where one comes out wrong."""
    with _device(port, baud) as device:
        found = device.selftest()
    right = found.trusted and found.passed == found.golden
    if as_json:
        print(json.dumps({"port": port, "passed": right, "right": found.passed, "golden": found.golden}))
    said = f"{port}: {found.passed} of {found.golden} golden pictures came out right"
    console.print(said if right else f"{said}; the device passes no part", style="green" if right else "bold red")
    if not right:
        raise typer.Exit(WRONG_EXIT)


@device_app.command("push")
def push(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture of a part")],
    port: Port,
    resize: Annotated[
        str, typer.Option(help="How it comes to the model's size: stretch, letterbox, or none: it has that size")
    ] = "none",
    baud: Baud = BAUD,
    as_json: Json = False,
) -> None:
    """Send a picture to a device row by row, and print its logit, verdict and heat."""
    require("cv2", "edge")
    with _device(port, baud) as device:
        model = device.model()
        picture = _picture(image, model, resize)
        with progress() as display:
            task = display.add_task(str(image), total=model.height, note="rows")
            found = device.judge(picture, lambda row: display.update(task, completed=row))
    if as_json:
        print(json.dumps({"port": port, "image": str(image), **_judged(found, model)}))
        return
    console.print(f"{image}: {found.verdict}, logit {found.logit} against {model.threshold}", soft_wrap=True)
    console.print(
        f"rows {found.rows_us / 1000:.1f} ms, after the last one {found.tail_us / 1000:.1f} ms", soft_wrap=True
    )
    for row in _heat(found, model):
        console.print("".join(2 * SHADES[(cell + 128) * len(SHADES) // 256] for cell in row))


@device_app.command("bench")
def bench(
    port: Port,
    size: Annotated[
        int | None, typer.Option("--bytes", min=1, help="Of a picture; asked of the device where it can say")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="How often it is measured")] = 5,
    warm_up: Annotated[int, typer.Option(min=0, help="Inferences before each run")] = 5,
    seconds: Annotated[float, typer.Option(min=0.001, help="Least length of a run, by the device's clock")] = 10.0,
    baud: Baud = BAUD,
    as_json: Json = False,
) -> None:
    """Measure any device that speaks MLPerf Tiny's serial protocol."""
    require_firmware()
    from firmware_bridge import bench as room

    picture = room.noise(size if size is not None else room.picture_bytes(port, baud))
    with room.speaker(port, baud) as device, progress() as display:
        task = display.add_task(port, total=len(picture), note="")
        found = room.bench(
            device, picture, room.Plan(runs, warm_up, seconds),
            lambda stage, done, whole: display.update(task, completed=done, total=whole, note=stage),
        )  # fmt: skip
    if as_json:
        print(json.dumps({"port": port, **asdict(found), "median_us": found.median_us}))
        return
    table = Table(title=f"{port}: {found.name}", title_justify="left", show_header=False)
    for name, value in (
        ("profile", found.profile),
        ("model", found.model or "not said"),
        ("picture", f"{found.input_bytes} bytes, loaded in {found.load_s:.1f} s"),
        ("latency, median", f"{found.median_us / 1000:.3f} ms"),
        ("latency, least to most", f"{min(found.latency_us) / 1000:.3f} to {max(found.latency_us) / 1000:.3f} ms"),
        ("measured", f"{len(found.latency_us)} runs of {found.iterations} after {found.warm_up}"),
        ("a command and its reply", f"{found.round_trip_ms:.2f} ms"),
        ("result", found.result),
    ):
        table.add_row(name, value)
    console.print(table)


def emulate(
    board: Annotated[str, typer.Argument(metavar="BOARD", help="host, mps2_an386, mps2_an500 or mps3_an547")],
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where its flash persists; runs/emulated/BOARD otherwise")
    ] = None,
    device_key: DeviceKey = None,
    camera: Annotated[
        str, typer.Option(metavar="WxHxC", help="The only picture size it takes, such as 632x224x3; any otherwise")
    ] = "",
) -> None:
    """Run a line device on this machine and print its serial port, until Ctrl-C or SIGTERM."""
    from firmware_bridge.emulation import emulator as room
    from firmware_bridge.make import read_key
    from firmware_bridge.provision import Parameters

    parameters = None
    if device_key is not None or camera:
        key = read_key(device_key) if device_key is not None else None
        parameters = Parameters(key=key, camera=_camera(camera))
    folder = folder or Path("runs/emulated") / board
    with signals() as stop, room.emulate(board, folder, parameters) as device:
        print(device.port, flush=True)
        console.print(f"{board}, flash in {device.flash}; Ctrl-C ends it", soft_wrap=True)
        while not stop.wait(0.2):
            if (code := device.process.poll()) is not None:
                raise FlashError(f"the emulated {board} ended with {code}; expected it to run; start it again")


def _camera(text: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text or "0x0x0")
    if found is None:
        raise FlashError(f"--camera {text!r}; expected WIDTHxHEIGHTxCHANNELS, such as 632x224x3")
    width, height, channels = map(int, found.groups())
    return width, height, channels


@contextmanager
def _device(port: str, baud: int) -> Iterator[Device]:
    require_firmware()
    from firmware_bridge.device import connect

    with connect(port, baud) as device:
        yield device


def _picture(path: Path, model: Model, resize: str) -> NDArray[np.uint8]:
    from diagline import samples
    from diagline.preprocess import InputContract, preprocess

    frame = samples.read_image(path)
    if resize == "none" and frame.shape[:2] != (model.height, model.width):
        raise FlashError(
            f"{path}: {frame.shape[1]}x{frame.shape[0]} px; expected {model.width}x{model.height}, the model's input; "
            f"give --resize stretch or letterbox, as the bundle's manifest says"
        )
    return preprocess(frame, InputContract(model.width, model.height, model.channels, resize), str(path))


def _heat(found: Judged, model: Model) -> list[list[int]]:
    """The heat map as rows of int8."""
    cells = memoryview(found.heat).cast("b").tolist()
    columns = model.heat_columns or 1
    return [cells[at : at + columns] for at in range(0, len(cells), columns)]


def _judged(found: Judged, model: Model) -> dict[str, Any]:
    return {
        "verdict": found.verdict, "logit": found.logit, "threshold": model.threshold, "gate": found.gate,
        "rows_us": found.rows_us, "tail_us": found.tail_us, "heat": _heat(found, model),
    }  # fmt: skip
