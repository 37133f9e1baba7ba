"""A whole box under load: how long a part waits for its verdict, and at which stage.

    open loop     parts come at a stated rate, ready or not; each is timed from when it was due
    closed loop   the next part comes when the verdict of the last is out

In an open loop a stall delays every part behind it, and each of them shows it; a closed loop shows it once and
hides what the line would have suffered meanwhile. Percentiles are of every part, the slowest and those without a
decision included; warm-up stands apart. Trigger source and box share one process, so `Run.lag` says whether parts
were pulled when they were due. Leaves out: opening the box (`rehearsal.py`), counting (`witness.py`), and showing
the result (`line_report.py`, `line_picture.py`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any

from diagline import record
from diagline.config_checks import within
from diagline.console import progress
from diagline.errors import CameraError
from edge_runtime.bench.rehearsal import Rehearsal
from edge_runtime.bench.witness import Run, Stage, Witness, figures
from edge_runtime.camera.watched import OPENING
from edge_runtime.station import Station

WARM_UP_PARTS = 20
DRAIN_S = 5.0  # beyond the deadline, by which every part has its verdict
LOOK_S = 0.05
REDRAW_S = 1.0
HIGHEST_HZ = 10_000.0


@dataclass(frozen=True, slots=True)
class Load:
    """How parts come.

    Attributes:
        rate_hz: parts a second in an open loop; None: a closed loop.
        seconds: for how long.
        most: no more parts than this; None: as many as come.
    """

    rate_hz: float | None
    seconds: float
    most: int | None = None

    def __post_init__(self) -> None:
        if self.rate_hz is not None:
            within("--rate", self.rate_hz, 0.01, HIGHEST_HZ)
        within("--seconds", self.seconds, 0.1, 7 * 86_400)

    def __str__(self) -> str:
        return "closed loop" if self.rate_hz is None else f"open loop, {self.rate_hz:g} parts/s"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one box did under one load, from its opening on.

    Attributes:
        warm_up: the parts before the run, whole.
        gate: what the gate did, warm-up included; None where the box has none.
        lost: what archive and spools did not keep, by cause.
        failures: by listener, how often it raised; one that raises is quick and proves nothing.
    """

    run: Run
    warm_up: Stage
    gate: dict[str, int] | None
    lost: dict[str, int]
    failures: dict[str, int]


@dataclass(frozen=True, slots=True)
class LineResult:
    """The loads, and what they were measured on.

    Attributes:
        line: the box's name.
        bundle: `Bundle.model` of what judged.
        stands_in: what was not as on the line.
        load_1min: the machine's load average before the first part.
        interrupted: it was stopped before its time.
    """

    line: str
    bundle: str
    format: str
    engine: str
    precision: str
    threads: int
    deadline_ms: float
    most_open: int
    stands_in: tuple[str, ...]
    machine: dict[str, Any]
    versions: dict[str, str]
    git_revision: str
    load_1min: float
    interrupted: bool
    loads: tuple[LoadResult, ...]


def bench(rehearsal: Rehearsal, loads: Sequence[Load], stop: threading.Event) -> LineResult | None:
    """Put a box under each load in turn, opened anew each time, so that none inherits the last one's backlog.

    Args:
        stop: set from elsewhere, no part comes any more; what was measured is the result.

    Returns:
        None where it was stopped before the first verdict that counts.

    Raises:
        CameraError: the camera gives no picture.
        DiaglineError: as `Rehearsal.open`.
    """
    load_1min, found = round(os.getloadavg()[0], 2), []
    for load in loads:
        if stop.is_set():
            break
        with rehearsal.open() as station:
            _await_camera(station, stop)
            inspector = station.box.inspector
            found.append(_measure(station, load, stop))
    found = [one for one in found if len(one.run.parts)]
    if not found:
        return None
    config = rehearsal.config
    return LineResult(
        line=config.name,
        bundle=inspector.bundle.model,
        format=inspector.format_name,
        engine=inspector.engine.name,
        precision=inspector.engine.precision,
        threads=config.engine.threads,
        deadline_ms=config.trigger.deadline_ms,
        most_open=config.trigger.most_open,
        stands_in=rehearsal.stands_in,
        machine=record.machine(),
        versions=record.versions(),
        git_revision=record.git_revision(),
        load_1min=load_1min,
        interrupted=stop.is_set(),
        loads=tuple(found),
    )


def _await_camera(station: Station, stop: threading.Event) -> None:
    """Wait for the first picture of a camera that runs free."""
    camera = station.config.camera
    until_s = time.monotonic() + (OPENING + 1) * camera.timeout_s
    while not camera.triggered and (health := station.camera.health()).state != "live" and not stop.is_set():
        if health.state == "lost" or time.monotonic() > until_s:
            raise CameraError(
                f"{health.source}: {health.cause or 'gives no picture'}; "
                f"stop the service where it holds the camera, or take --simulated"
            )
        stop.wait(LOOK_S)


def _measure(station: Station, load: Load, stop: threading.Event) -> LoadResult:
    warm_up = _run(station, Load(None, 60.0, WARM_UP_PARTS), "warm-up", stop)
    run = _run(station, load, "measured", stop)
    lost = {f"archive: {cause}": count for cause, count in station.archive.health().lost.items()}
    for spool in station.spools:
        health = spool.health()
        lost |= {f"{health.name}: {cause}": count for cause, count in health.dropped.items()}
    return LoadResult(
        run=run,
        warm_up=warm_up.stages["whole"],
        gate=station.gate.health().counts if station.gate is not None else None,
        lost=lost,
        failures=station.box.health().failures,
    )


def _run(station: Station, load: Load, name: str, stop: threading.Event) -> Run:
    """One load, on a thread of its own; this one draws, seldom, as that takes the processor from the box."""
    witness, pull = Witness(name), _closed if load.rate_hz is None else _open
    what, total = (str(load), load.seconds) if load.most is None else (name, load.most)
    station.box.listen("bench", witness)
    with ThreadPoolExecutor(1) as pool, progress(1 / REDRAW_S) as display:
        try:
            task, began_s = display.add_task(what, total=total, note=""), time.monotonic()
            pulled = pool.submit(pull, station, load, witness, stop)
            while not wait_for([pulled], REDRAW_S).done:
                done = time.monotonic() - began_s if load.most is None else witness.count
                note = f"{witness.count} verdicts, {witness.undecided} NO_DECISION"
                display.update(task, completed=min(round(done), total), note=note)
            witness.wait(pulled.result(), _limit_s(station))
        except BaseException:
            stop.set()  # or the thread would be waited for until its time is over
            raise
        finally:
            station.box.unlisten("bench")
    return figures(str(load), load.rate_hz, witness, pulled.result())


def _open(station: Station, load: Load, witness: Witness, stop: threading.Event) -> int:
    """Pull every part when it is due, whatever became of those before; returns how many."""
    assert load.rate_hz is not None
    parts, start_ns = max(1, round(load.seconds * load.rate_hz)), time.monotonic_ns()
    for number in range(parts):
        due_ns = start_ns + round(number * 1e9 / load.rate_hz)
        if stop.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
            return number
        witness.lag_ns.append(time.monotonic_ns() - due_ns)
        station.pull(witness.trigger(number, due_ns))
    return parts


def _closed(station: Station, load: Load, witness: Witness, stop: threading.Event) -> int:
    """Pull each part when the last one's verdict is out; returns how many."""
    until_ns, number = time.monotonic_ns() + round(load.seconds * 1e9), 0
    while number != load.most and (number == 0 or time.monotonic_ns() < until_ns) and not stop.is_set():
        station.pull(witness.trigger(number, time.monotonic_ns()))
        number += 1
        if not witness.wait(number, _limit_s(station)):
            break
    return number


def _limit_s(station: Station) -> float:
    return station.config.trigger.deadline_ms / 1000 + DRAIN_S
