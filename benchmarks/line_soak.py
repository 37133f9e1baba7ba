"""A simulated line at 200 parts a second that meets every fault, and whether the box keeps its word.

    python benchmarks/line_soak.py [--quick] [--minutes 10] [--rate 200] [--keep]

One process: a camera that stamps its frames itself, a gate, a PLC that writes its watchdog, a broker (mosquitto),
files of lines, the archive and the page; the network is a small int8 student of random weights, whose verdict
on each picture is known beforehand. Faults come one after the other, each with a while to recover: the camera
unplugged, hanging, black, frozen, cut, of another size; the broker killed; the PLC silent; ten times the rate; a
corrupt bundle switched to; the disk refusing the archive; rubbish over HTTP, Modbus and MQTT; the wall clock
stepped. The last line of stdout is one JSON object: `triggers`, `verdicts` (equal), `pass_without_evidence` (a PASS
on anything but its own part's good picture), `lost_records` (not in archive or files, or not acknowledged by the
broker), `p99_ms` and `deadline_misses` outside faults, and the process's memory (below). --quick takes every fault
once, less than a minute; --keep writes the result to `benchmarks/results/`. Leaves out: SIGKILL (the tests of archive
and spool do that at every step), and cameras whose frames are stamped when they arrive.

Memory is looked at when a fault is over and nothing waits any more in archive, spools and box, after malloc gave
back what it had kept (`malloc_trim`), so that what stays is in use. What the line itself remembers has its full size
from the start, and the network is made in another process (`soak_bundle.py`). `rss_growth_mb`: the mean of the last
round of faults less that of the second (--quick: the last look less the first); `rss_mb_per_hour`: the slope from the
second round on, with three rounds or more; `rss_kept_mb`: the most that malloc had kept; `rss_peak_mb`: the most
there ever was, with what waited.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simulated_line
import stand_aside
from simulated_line import POOL, SEED, Broker, Plc, Scene

from diagline import bundle as bundles
from diagline import files, record
from diagline.console import console
from diagline.errors import DiaglineError
from diagline.verdict import State
from edge_runtime.archive import store as archives
from edge_runtime.archive.reader import Reader
from edge_runtime.box_config import BoxConfig, TriggerConfig
from edge_runtime.camera.config import CameraConfig
from edge_runtime.camera.frames import Frame
from edge_runtime.camera.watched import WatchedCamera
from edge_runtime.dashboard.server import PageConfig, PageServer
from edge_runtime.gate.config import GateConfig
from edge_runtime.gate.driver import SimulatedActuator
from edge_runtime.ledger import Decision
from edge_runtime.outputs.line_files import LineFilesConfig
from edge_runtime.outputs.mqtt_output import MqttConfig
from edge_runtime.outputs.spool import SpoolConfig
from edge_runtime.plc.coil import CoilConfig
from edge_runtime.plc.modbus_server import ModbusConfig
from edge_runtime.station import Station
from edge_runtime.station_view import StationView
from edge_runtime.trigger import Trigger

RESULTS = stand_aside.HERE / "results" / "line_soak.json"
DEADLINE_MS = 50.0
RECOVERY_S = 1.5  # after a fault; what happens until then is its doing
DRAIN_S, QUIET_S = 30.0, 2.0
SPARE_S = 300.0  # of parts that the line can remember beyond the time asked for


def part_of(frame: Frame | None) -> int | None:
    """The part that a frame shows, from its first pixel."""
    if frame is None or frame.frame_bgr is None:
        return None
    low, middle, high = (int(value) for value in frame.frame_bgr[0, 0])
    return low | middle << 8 | high << 16


class Marks:
    """How often each part was met, by its number: as large from the start as it will ever be."""

    def __init__(self, most: int) -> None:
        self._times = np.empty(most + 1, np.uint8)
        self._times.fill(0)

    def add(self, part: int) -> None:
        self._times[part] = min(255, int(self._times[part]) + 1)

    def missing(self, parts: int) -> int:
        """How many of the parts 1 to `parts` were not met."""
        return int((self._times[1 : parts + 1] == 0).sum())

    def met(self) -> int:
        return int(np.count_nonzero(self._times))

    def twice(self) -> int:
        return int((self._times > 1).sum())


class Witness:
    """Hears every decision and holds it against what was before the camera."""

    def __init__(self, expected: list[State], most: int, line: Line) -> None:
        self.expected, self._line = expected, line
        self.seen = Marks(most)
        self.without_evidence: list[str] = []
        self.misses = self.undecided = self.outside = 0
        self._whole_ms = np.empty(most + 1, np.float32)
        self._whole_ms.fill(0)
        self.causes: Counter[str] = Counter()

    @property
    def whole_ms(self) -> Any:
        """Trigger to decision, of the parts outside faults."""
        return self._whole_ms[: self.outside]

    def __call__(self, decision: Decision) -> None:
        verdict, trigger = decision.verdict, decision.trigger
        number = int(verdict.part_id)
        self.seen.add(number)
        if verdict.state is State.PASS and (
            part_of(decision.frame) != number & 0xFFFFFF or self.expected[number % POOL] is not State.PASS
        ):
            self.without_evidence.append(f"{verdict.part_id} by {part_of(decision.frame)} in {self._line.fault_now}")
        if verdict.cause is not None:
            self.causes[re.sub(r"[0-9.]+", "N", verdict.cause.split(":")[-1].strip())[:40]] += 1
        if not self._line.in_fault(trigger.at_ns):
            self._whole_ms[self.outside] = (verdict.stamps_ns["decided"] - trigger.at_ns) / 1e6
            self.outside += 1
            self.misses += (verdict.cause or "").startswith("late")
            self.undecided += verdict.state is State.NO_DECISION


class Line:
    """The line, its clock and its faults."""

    def __init__(self, folder: Path, rate_hz: float, seconds: float) -> None:
        subprocess.run(
            [sys.executable, stand_aside.HERE / "soak_bundle.py", folder], check=True, stderr=subprocess.DEVNULL
        )
        self.bundle = bundles.read(folder / "soak.bundle")
        expected = [State(value) for value in json.loads((folder / "verdicts.json").read_text())]
        self.rate_hz, self.pulled = rate_hz, 0
        most = round(2 * rate_hz * (seconds + SPARE_S))
        self.scene = Scene([simulated_line.picture(number) for number in range(POOL)])
        self.witness = Witness(expected, most, self)
        self._windows: deque[tuple[int, int]] = deque(maxlen=8)
        self._open_window: tuple[str, int] | None = None
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        self.broker = Broker(folder, program) if program is not None else None
        camera = CameraConfig(source="soak", timeout_s=0.5, triggered=True, queue_frames=32, window_ms=900 / rate_hz)
        self.config = BoxConfig(
            "soak", self.bundle.root, folder / "box", allow_unsigned=True, camera=camera,
            trigger=TriggerConfig("page", DEADLINE_MS, 64),
            gate=GateConfig(delay_ms=100.0, open_ms=4.0, heartbeat_ms=500.0, gap_ms=100.0),
            coil=CoilConfig("127.0.0.1"),
            modbus=ModbusConfig(port=0), lines=LineFilesConfig(folder / "box/lines"),
            spool=SpoolConfig(folder / "box/spool"),
            mqtt=MqttConfig("127.0.0.1", self.broker.port) if self.broker is not None else None,
            page=PageConfig(port=0, token_file=folder / "box/token"),
        )  # fmt: skip
        self.station = Station(self.config, camera=WatchedCamera(self.scene.open, camera), actuator=SimulatedActuator())
        self.station.box.listen("witness", self.witness)
        self.view = StationView(self.station)
        self.page = PageServer(self.view, self.config.page)
        self.url = self.page.start()
        assert self.station.modbus is not None
        self.plc = Plc(self.station.modbus.address)
        self.plc.start()
        self._arrived = Marks(most)
        self._subscriber = self._subscribe()

    def _subscribe(self) -> Any:
        if self.broker is None:
            return None
        from paho.mqtt.client import CallbackAPIVersion, Client

        client = Client(CallbackAPIVersion.VERSION2, client_id="witness", clean_session=False)
        client.on_connect = lambda *_: client.subscribe("diagline/verdicts", qos=1)
        client.on_message = lambda _, __, message: self._arrived.add(int(json.loads(message.payload)["part_id"]))
        client.reconnect_delay_set(1, 1)
        client.connect_async("127.0.0.1", self.broker.port)
        client.loop_start()
        return client

    def in_fault(self, at_ns: int) -> bool:
        """Whether a fault, or the recovery from one, was under way."""
        if self._open_window is not None and at_ns >= self._open_window[1] - DEADLINE_MS * 1e6:
            return True
        return any(start <= at_ns <= end for start, end in tuple(self._windows))

    @property
    def fault_now(self) -> str | None:
        """The fault that is under way."""
        return self._open_window and self._open_window[0]

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """What happens within, and for a while after it, is this fault's doing."""
        self._open_window = (name, time.monotonic_ns())
        try:
            yield
        finally:
            start = self._open_window[1] - round(DEADLINE_MS * 1e6)
            self._windows.append((start, time.monotonic_ns() + round(RECOVERY_S * 1e9)))
            self._open_window = None

    def run(self, seconds: float, rate_hz: float | None = None) -> None:
        """Let the line run, open loop: each part at its own time."""
        rate_hz = rate_hz or self.rate_hz
        start_ns, number = time.monotonic_ns(), 0
        while number < seconds * rate_hz:
            due_ns = start_ns + round(number * 1e9 / rate_hz)
            time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            number += 1
            self.pulled += 1
            trigger = Trigger(f"{self.pulled:08d}", time.monotonic_ns(), datetime.now(UTC).isoformat())
            self.station.pull(trigger)
            self.scene.show(self.pulled)

    def rubbish(self) -> None:
        """Noise over HTTP, Modbus and MQTT."""
        rng = np.random.default_rng([SEED, self.pulled])
        assert self.station.modbus is not None
        addresses = [self.station.modbus.address, ("127.0.0.1", int(self.url.rpartition(":")[2]))]
        for address in addresses * 10:
            with suppress(OSError), socket.create_connection(address, 1) as connection:
                connection.sendall(rng.integers(0, 256, int(rng.integers(1, 3000)), np.uint8).tobytes())
        for path in ("/bundle", "/../../etc/passwd", "/picture?" + "x" * 5000):
            with suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(self.url + path, timeout=1).read()
        if self._subscriber is not None:
            for topic in ("diagline/trigger", "diagline/command", "diagline/verdicts/x"):
                self._subscriber.publish(topic, rng.integers(0, 256, 200, np.uint8).tobytes())

    def corrupt_bundle(self) -> None:
        """Switch to a bundle whose file was cut."""
        root = self.bundle.root.with_name("corrupt.bundle")
        if not root.exists():
            shutil.copytree(self.bundle.root, root)
            (root / "model.int8.tflite").write_bytes((root / "model.int8.tflite").read_bytes()[:-1])
        with suppress(DiaglineError):
            self.view.switch_bundle(root.name)
            raise RuntimeError("a corrupt bundle judges")

    def faults(self, seconds: float) -> dict[str, Callable[[], None]]:
        """Each fault; a call lets the line run through it for `seconds`."""

        def camera(kind: str) -> Callable[[], None]:
            def strike() -> None:
                self.scene.fault = kind
                self.run(seconds)
                self.scene.fault = None

            return strike

        def broker() -> None:
            assert self.broker is not None
            self.broker.kill()
            self.run(seconds)
            self.broker.start()

        def plc() -> None:
            self.plc.silent.set()
            self.run(seconds + 1.0)
            self.plc.silent.clear()

        def full_disk() -> None:
            writer = self.station.archive._writer.trail._db
            pages = writer.execute("PRAGMA page_count").fetchone()[0]
            writer.execute(f"PRAGMA max_page_count = {pages}")
            self.run(seconds)
            writer.execute("PRAGMA max_page_count = 1000000000")

        def clock() -> None:
            real, archives.utc_now = self.station.archive._now, lambda: datetime.now(UTC) - timedelta(days=3)
            self.station.archive._now = archives.utc_now
            self.run(seconds)
            self.station.archive._now = real

        def noisy() -> None:
            thread = threading.Thread(target=self.rubbish)
            thread.start()
            self.run(seconds)
            thread.join()

        def corrupt() -> None:
            thread = threading.Thread(target=self.corrupt_bundle)
            thread.start()
            self.run(seconds)
            thread.join()

        kinds = ("unplugged", "hangs", "black", "frozen", "cut", "another size")
        found = {f"camera: {kind}": camera(kind) for kind in kinds}
        found |= {"plc silent": plc, "disk full": full_disk, "clock stepped": clock, "rubbish": noisy}
        found |= {"corrupt bundle": corrupt, "ten times the rate": lambda: self.run(seconds / 4, 10 * self.rate_hz)}
        return found | ({"broker killed": broker} if self.broker is not None else {})

    def close(self) -> dict[str, Any]:
        """Stop everything and count what arrived."""
        if self.broker is not None:
            self._until(self._all_arrived())
        self.plc.stopped.set()
        self.page.close()
        health = self.station.archive.health()
        sent = {spool.health().name: spool.health().sent for spool in self.station.spools}
        self.station.close()
        if self._subscriber is not None:
            self._subscriber.loop_stop()
        if self.broker is not None:
            self.broker.kill()
        with closing(Reader(self.config.folder / "archive")) as reader:
            rows = [row.content["part_id"] for row in reader.verdicts(10**9)]
            chain = reader.verify().fault
        lines = [text.split(",")[0] for path in (self.config.folder / "lines").iterdir() for text in path.open()]
        wanted = {f"{number:08d}" for number in range(1, self.pulled + 1)}
        lost = {name: len(wanted - held) for name, held in (("archive", set(rows)), ("lines", set(lines)))}
        found = {"chain": chain, "archive_lost": health.lost}
        if self.broker is not None:  # what a killed broker had taken and not passed on is its own loss
            lost["mqtt"] = max(0, self.pulled - sent["mqtt"])
            found["mqtt_arrived"] = self._arrived.met()
        return {"lost": lost, **found}

    def _all_arrived(self) -> Callable[[], bool]:
        """Whether every part's record came from the broker, or no more come: a killed one loses what it had taken."""
        met, since_s = 0, time.monotonic()

        def arrived() -> bool:
            nonlocal met, since_s
            before, met = met, self._arrived.met()
            since_s = since_s if met == before else time.monotonic()
            return met >= self.pulled or time.monotonic() - since_s > QUIET_S

        return arrived

    def drain(self) -> None:
        """Wait until nothing waits any more."""
        station = self.station
        self._until(lambda: station.box.health().tally.open == 0)
        station.archive.flush(DRAIN_S)
        self._until(lambda: not any(spool.health().waiting for spool in station.spools))

    def _until(self, reached: Callable[[], bool], wait_s: float = DRAIN_S) -> None:
        until = time.monotonic() + wait_s
        while not reached() and time.monotonic() < until:
            time.sleep(0.1)


def rss_mb() -> float:
    """Memory of this process's own in use, 10^6 bytes: RssAnon, as pages of files come and go with what others need."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024 / 1e6


class Look(NamedTuple):
    """Memory in use at one moment, 10^6 bytes, before and after malloc gave back what it had kept."""

    at_s: float
    before_mb: float
    used_mb: float


def soak(seconds: float, rate_hz: float, folder: Path) -> dict[str, Any]:
    """Run every fault in turn until the time is over, each at least once."""
    line = Line(folder, rate_hz, seconds)
    gate = line.station.gate
    line.rubbish()  # what is loaded when it is first needed is there from now on
    line.run(2.0)
    started, looks = time.monotonic(), list[Look]()
    each_s, looks_a_round = (0.4, 2) if seconds < 120 else (2.0, len(line.faults(0.0)))

    def look() -> None:
        line.drain()
        looks.append(look_at_memory())

    while not looks or time.monotonic() - started < seconds:
        faults = line.faults(each_s)
        for number, (name, strike) in enumerate(faults.items(), 1):
            with line.fault(name):
                strike()
            line.run(RECOVERY_S + each_s)
            if number * looks_a_round // len(faults) > (number - 1) * looks_a_round // len(faults):
                look()
    tally, remembered = line.station.box.health().tally, memory(looks, looks_a_round)
    witness, counts = line.witness, dict(gate.gate.counts) if gate is not None else {}
    told = line.close()
    p50, p99, p999, most = np.percentile(witness.whole_ms, (50, 99, 99.9, 100)).round(3).tolist()
    return {
        "triggers": tally.triggers,
        "verdicts": witness.seen.met(),
        "twice": witness.seen.twice(),
        "states": {state.value: count for state, count in tally.states.items()},
        "pass_without_evidence": len(witness.without_evidence),
        "which": witness.without_evidence[:20],
        "lost_records": sum(told["lost"].values()),
        **told,
        "p50_ms": p50,
        "p99_ms": p99,
        "p999_ms": p999,
        "max_ms": most,
        "deadline_misses": witness.misses,
        "no_decision_outside_faults": witness.undecided,
        "outside_faults": witness.outside,
        **remembered,
        "faults": len(faults),
        "gate": counts,
        "causes": dict(witness.causes.most_common(20)),
        "rate_hz": rate_hz,
        "deadline_ms": DEADLINE_MS,
        "seconds": round(time.monotonic() - started, 1),
    }


def look_at_memory() -> Look:
    """Now, and after malloc gave back what it had kept."""
    before_mb = rss_mb()
    ctypes.CDLL(None).malloc_trim(0)
    return Look(time.monotonic(), before_mb, rss_mb())


def memory(looks: list[Look], a_round: int) -> dict[str, Any]:
    """What the looks show, `a_round` of them a round of faults."""
    rounds = len(looks) // a_round
    mb = np.array([look.used_mb for look in looks])
    settled = looks[a_round:] if rounds > 1 else looks
    first_mb = mb[a_round : 2 * a_round].mean() if rounds > 2 else mb[0]
    last_mb = mb[-a_round:].mean() if rounds > 2 else mb[-1]
    line = np.polyfit([look.at_s for look in settled], [look.used_mb for look in settled], 1)
    return {
        "rss_mb": mb.round(1).tolist(),
        "rss_growth_mb": round(float(last_mb - first_mb), 1),
        "rss_mb_per_hour": round(3600 * float(line[0]), 1) if rounds > 2 else None,
        "rss_kept_mb": round(max(look.before_mb - look.used_mb for look in looks), 1),
        "rss_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        "rounds": rounds,
    }


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every fault once")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0, help="parts a second")
    parser.add_argument("--keep", action="store_true", help="keep the result in benchmarks/results/line_soak.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(0.0 if asked.quick else 60 * asked.minutes, asked.rate, Path(folder))
    console.print({name: found[name] for name in ("states", "causes", "gate")})
    if asked.keep:
        facts = {"machine": record.machine(), "versions": record.versions(), "git_revision": record.git_revision()}
        files.write_json(RESULTS, {**found, **facts})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
