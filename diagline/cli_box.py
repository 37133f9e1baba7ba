"""The commands of the edge box: what is wrong with it, how it becomes a service, its work, its speed, replay.

Leaves out: what they do (`edge_runtime/`), and the other commands (`cli.py`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box as boxes
from rich.table import Table
from rich.text import Text

from diagline.cli_options import INTERRUPTED, AllowUnsigned, Json, Keys, open_bundle, signals
from diagline.console import console
from diagline.errors import ConfigError, MissingExtraError, require

if TYPE_CHECKING:
    from edge_runtime.box_config import BoxConfig
    from edge_runtime.doctor.probes import Finding

STYLES = {"well": "green", "doubtful": "yellow", "wrong": "bold red"}
WRONG_EXIT = 2

Box = Annotated[Path, typer.Argument(metavar="BOX.toml", help="TOML file of the box")]


def add_to(app: typer.Typer) -> None:
    """Make every command of this file one of `app`."""
    for command in (doctor, install, serve, bench_line, challenge, replay):
        app.command(rich_help_panel="Edge box")(command)


def doctor(
    target: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE|BOX.toml", help="A bundle folder, or the box that runs it")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Camera index, film, folder, rtsp:// or http:// address")] = None,
    broker: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="MQTT broker")] = None,
    plc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Modbus TCP server of the PLC")] = None,
    archive: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the box keeps its records")] = None,
    gb_per_day: Annotated[
        float | None, typer.Option(min=0.001, help="What the archive grows by; otherwise as its last day did")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Limit of each answer of camera, broker and PLC")] = 5.0,
    keys: Keys = None,
    allow_unsigned: AllowUnsigned = False,
    as_json: Json = False,
) -> None:
    """What is well, doubtful or wrong with this box, and the next step; exit code 2 where a line would stop."""
    require("cv2", "edge")
    from edge_runtime import box_config
    from edge_runtime.doctor import line as doctor_line
    from edge_runtime.doctor import machine as doctor_machine
    from edge_runtime.doctor import probes as room
    from edge_runtime.service import unit

    root, box, checks, trusted, of_box = target, None, None, list(keys or ()), []
    if target is not None and target.suffix == ".toml":
        found, box = box_config.load(target), target
        root, archive, checks = found.bundle, archive or found.folder, found.camera.checks
        trusted += unit.keys_beside(target)
        if (encoder := found.encoder) is not None:
            of_box.append(room.Probe("encoder", lambda: doctor_line.encoder(encoder)))
    findings = room.examine(
        [
            *doctor_machine.probes(archive, gb_per_day),
            room.Probe("serial ports", _serial_ports),
            *doctor_line.probes(root, trusted, allow_unsigned, box, source, broker, plc, timeout_s, checks),
            *of_box,
        ]
    )
    if as_json:
        print(json.dumps(room.to_json(findings)))
    else:
        console.print(_table(findings))
    if room.worst(findings) is room.Grade.WRONG:
        raise typer.Exit(WRONG_EXIT)


def _serial_ports() -> Iterator[Finding]:
    from edge_runtime.doctor.probes import well
    from firmware_bridge import ports as serial_ports

    try:
        ports = serial_ports.list_ports()
    except MissingExtraError as error:
        yield well("serial ports", "not looked for", str(error).rpartition("; ")[2])
        return
    names = ", ".join(f"{port.path} ({port.description})" for port in ports)
    yield well("serial ports", names or "none")


def _table(findings: list[Finding]) -> Table:
    table = Table(box=boxes.SIMPLE_HEAD, pad_edge=False)
    for name in ("what", "", "found, and the next step"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        step = f"\n→ {finding.next}" if finding.next else ""
        table.add_row(finding.what, Text(finding.grade, STYLES[finding.grade]), finding.found + step)
    return table


def install(
    box: Box,
    unit_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the unit there and leave users, folders and systemd alone")
    ] = None,
    user: Annotated[str, typer.Option(help="The user of its own that the box runs as")] = "diagline",
    memory_max_mib: Annotated[int | None, typer.Option(min=64, help="The box is restarted above this")] = None,
    keys: Keys = None,
    allow_unsigned: AllowUnsigned = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing")] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Take the box from systemd; records stay")] = False,
) -> None:
    """Make a box a service: systemd unit, user, folders, trusted key, and the fastest engine of this machine."""
    require("cv2", "edge")
    from edge_runtime.service import install as room
    from edge_runtime.service.unit import keys_beside

    found = room.read_box(box)
    unit = room.make_unit(box, found, user, memory_max_mib, allow_unsigned)
    room.check_root(unit_dir, dry_run)
    if uninstall:
        steps = room.uninstall_steps(unit, unit_dir)
    else:
        trusted = [*(keys or ()), *keys_beside(unit.config)]
        bundle = open_bundle(found.bundle, trusted, allow_unsigned)
        steps = room.install_steps(unit, found, bundle, trusted, unit_dir)
    for said in room.take(steps, dry_run):
        console.print(said, soft_wrap=True)
    if not uninstall and not dry_run and unit_dir is None:
        start = f"systemctl enable {unit.file} && systemctl restart {unit.file}"
        console.print(f"next: {start}", style="bold", soft_wrap=True)


def serve(
    box: Box,
    allow_unsigned: AllowUnsigned = False,
) -> None:
    """Run a box: camera, triggers, gate, outputs, archive and the operator's page, until Ctrl-C or SIGTERM."""
    require("cv2", "edge")
    from edge_runtime.dashboard.server import PageServer
    from edge_runtime.service.watchdog import notify
    from edge_runtime.station import Station
    from edge_runtime.station_view import StationView

    config = _config(box, allow_unsigned)
    with contextlib.ExitStack() as undo:
        stop = undo.enter_context(signals())
        station = Station(config, box)
        undo.callback(station.close)
        page = PageServer(StationView(station), config.page)
        undo.callback(page.close)
        url = page.start()
        health = station.box.health()
        console.print(f"{config.name}: {health.fault or health.model}; page: {url}", soft_wrap=True)
        notify("READY=1")
        stop.wait()
        notify("STOPPING=1")
    tally = station.box.health().tally
    told = ", ".join(f"{count} {state.value}" for state, count in tally.states.items())
    console.print(f"stopped: {tally.triggers} triggers: {told}", soft_wrap=True)


def bench_line(
    box: Box,
    rates: Annotated[
        list[float] | None,
        typer.Option("--rate", metavar="PARTS_PER_S", help="Open loop at this rate; several: one after the other"),
    ] = None,
    closed: Annotated[
        bool, typer.Option("--closed", help="Closed loop, first; what is measured where no --rate is given")
    ] = False,
    seconds: Annotated[float, typer.Option(help="How long each loop is measured")] = 30.0,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="The bundle's golden pictures in place of the camera")
    ] = False,
    drive: Annotated[
        bool, typer.Option("--drive", help="Move the real gate, and tell the real PLC and outputs; else simulated")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A new folder for the result; else runs/bench-line/TIME")
    ] = None,
    allow_unsigned: AllowUnsigned = False,
    as_json: Json = False,
) -> None:
    """Put a whole box under load: latency of every stage, missed deadlines, and why parts were not decided.

    Nothing beside the line moves: gate, PLC and outputs are simulated unless --drive is given.
    The box must not be serving. Ctrl-C keeps what was measured.
    """
    require("cv2", "edge")
    from edge_runtime.bench import line as room
    from edge_runtime.bench import line_report
    from edge_runtime.bench.rehearsal import Rehearsal

    loads = [room.Load(None, seconds)] if closed or not rates else []
    loads += [room.Load(rate, seconds) for rate in rates or ()]
    folder = output or Path("runs/bench-line") / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}"
    line_report.check(folder)
    rehearsal = Rehearsal(_config(box, allow_unsigned), box, simulated, drive)
    for words in rehearsal.stands_in:
        console.print(words, soft_wrap=True)
    with signals() as stop:
        result = room.bench(rehearsal, loads, stop)
        if result is None:
            console.print("nothing was measured: stopped before the first verdict", style="yellow")
            raise typer.Exit(INTERRUPTED)
        line_report.write(folder, result)
    if as_json:
        print(json.dumps(line_report.to_json(result)))
    else:
        console.print(line_report.to_table(result))
    for words in line_report.said(result):
        console.print(words, soft_wrap=True)
    console.print(f"result: {folder}", soft_wrap=True)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


def challenge(
    box: Box,
    good: Annotated[int, typer.Option(min=0, help="Known good parts to show")] = 3,
    bad: Annotated[int, typer.Option(min=0, help="Known bad parts to show")] = 3,
    allow_unsigned: AllowUnsigned = False,
    as_json: Json = False,
) -> None:
    """Show known good and bad parts to a box that is not serving; exit code 1 where one is judged wrongly."""
    require("cv2", "edge")
    from edge_runtime import challenge as room
    from edge_runtime.station import Station

    def ask(number: int, kind: str) -> None:
        typer.prompt(f"part {number} of {good + bad}: lay a {kind} one before the camera, then Enter", "", err=True,
                     show_default=False)  # fmt: skip

    if good + bad == 0:
        raise ConfigError("--good 0 --bad 0; expected at least one part to show")
    shown = []
    with contextlib.closing(Station(_config(box, allow_unsigned), box)) as station:
        for one in room.challenge(station, ["good"] * good + ["bad"] * bad, ask):
            shown.append(one)
            said = f"{one.state}, {'right' if one.right else 'WRONG'}" + (f": {one.cause}" if one.cause else "")
            console.print(said, style="green" if one.right else "bold red", soft_wrap=True)
    wrong = sum(not one.right for one in shown)
    if as_json:
        print(json.dumps({"passed": not wrong, "parts": [asdict(one) for one in shown]}))
    console.print(f"{len(shown) - wrong} of {len(shown)} challenge parts were judged rightly; it is in the archive")
    if wrong:
        raise typer.Exit(1)


def _config(box: Path, allow_unsigned: bool) -> BoxConfig:
    from edge_runtime import box_config
    from edge_runtime.service.unit import keys_beside

    config = box_config.load(box)
    keys, unsigned = (*config.keys, *keys_beside(box)), config.allow_unsigned or allow_unsigned
    return replace(config, keys=keys, allow_unsigned=unsigned)


def replay(
    part: Annotated[str, typer.Argument(metavar="PART", help="Its part id, as in every record")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle that judged it")],
    archive: Annotated[Path, typer.Option(metavar="FOLDER", help="The box's archive")],
    run_id: Annotated[
        str | None, typer.Option("--run", help="Which run's, where several had a part of that name")
    ] = None,
    keys: Keys = None,
    allow_unsigned: AllowUnsigned = False,
    as_json: Json = False,
) -> None:
    """Judge an archived part again, and say whether the verdict is the same; exit code 1 where it is not."""
    require("cv2", "edge")
    from edge_runtime.archive import replay as room
    from edge_runtime.archive.reader import Reader

    with contextlib.closing(Reader(archive)) as reader:
        found = room.replay(reader, part, open_bundle(bundle, keys, allow_unsigned), run_id)
    now = found.now.record() if found.now is not None else None
    if as_json:
        print(json.dumps({"part_id": part, "same": found.same, "why": found.why, "now": now}))
    elif found.same:
        assert found.now is not None
        console.print(f"{part}: {found.now.state.value} with logit {found.now.logit}, as on the day", soft_wrap=True)
    else:
        console.print(f"{part}: {found.why}", style="bold red", soft_wrap=True)
    if not found.same:
        raise typer.Exit(1)
