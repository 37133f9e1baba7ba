"""A simulated line at 200 parts a second that meets every fault, and whether the box keeps its word.

    python benchmarks/line_soak.py [--quick] [--minutes 10] [--rate 200] [--keep]

One process: a camera that stamps its frames itself, a gate, a PLC that writes its watchdog, a broker (mosquitto),
files of lines, the archive and the page; the network is a small int8 student of random weights, whose verdict
on each picture is known beforehand. Faults come one after the other, each with a while to recover: the camera
unplugged, hanging, black, frozen, cut, of another size; the broker killed; the PLC silent; ten times the rate; a
corrupt bundle switched to; the disk refusing the archive; rubbish over HTTP, Modbus and MQTT; the wall clock
stepped. The last line of stdout is one JSON object: `triggers`, `verdicts` (equal), `pass_without_evidence` (a PASS
on anything but its own part's good picture), `lost_records` (not in archive or files, or not acknowledged by the
broker), `p99_ms` and `deadline_misses` outside faults, `rss_growth_mb` (from a quarter of the time on). --quick
takes every fault once, about a minute; --keep writes the result to `benchmarks/results/`. Leaves out: SIGKILL
(the tests of archive and spool do that at every step), and cameras whose frames are stamped when they arrive.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import stand_aside
import torch
from numpy.typing import NDArray

from diagline import bundle as bundles
from diagline import files, record
from diagline.bundle import FORMATS, Bundle, Format, Golden, HeatOutput, Manifest
from diagline.console import console
from diagline.errors import CameraError, DiaglineError
from diagline.preprocess import InputContract, preprocess
from diagline.verdict import State, decide
from edge_runtime.archive import store as archives
from edge_runtime.archive.reader import Reader
from edge_runtime.box_config import BoxConfig, TriggerConfig
from edge_runtime.camera.config import CameraConfig
from edge_runtime.camera.frames import Closing, Frame, stamp
from edge_runtime.camera.watched import WatchedCamera
from edge_runtime.dashboard.server import PageConfig, PageServer
from edge_runtime.engines.choice import open_engine
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
from export import to_tflite
from training.student import Student
from training.student_spec import spec

RESULTS = stand_aside.HERE / "results" / "line_soak.json"
SEED, POOL, DEADLINE_MS = 7, 64, 50.0
CONTRACT = InputContract(160, 160, 1)
SIDE = 320  # pixels of the camera's pictures
RECOVERY_S = 1.5  # after a fault; what happens until then is its doing


def picture(number: int) -> NDArray[np.uint8]:
    """One of the pool: patches and noise."""
    rng = np.random.default_rng([SEED, number])
    patches = rng.normal(rng.uniform(60, 200), 30, (SIDE // 20, SIDE // 20)).repeat(20, 0).repeat(20, 1)
    grey = (patches + rng.normal(0, 6, (SIDE, SIDE))).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, 2)


def student_bundle(folder: Path, pool: list[NDArray[np.uint8]]) -> tuple[Bundle, list[State]]:
    """An S10 student that rejects about half of the pool, and its verdict on each picture.

    The threshold stands in the widest gap amid the logits, as a part's mark in a picture moves them a little.
    """
    torch.manual_seed(SEED)
    network = Student(spec("S10", CONTRACT)).eval()
    torch.nn.init.normal_(network.fc.weight)
    images = [preprocess(one, CONTRACT) for one in pool]
    made = to_tflite.student_tflite(network, images)
    assert made.heat is not None
    heat = HeatOutput(network.spec.heat_grid, made.heat.dtype, made.heat.scale, made.heat.zero_point)
    fmt = Format(FORMATS["tflite_int8"], "int8", "int8", made.scale, made.zero_point, 0, {}, ("litert",), heat)
    path = folder / fmt.file
    path.write_bytes(made.data)
    engine = open_engine(path, "tflite_int8", fmt, CONTRACT)
    logits = [engine.infer(image) for image in images]
    ranked = np.sort(logits)[POOL // 4 : -POOL // 4]
    widest = int(np.argmax(np.diff(ranked)))
    fmt = replace(fmt, threshold=int(ranked[widest : widest + 2].mean()) + 1)
    golden = [(Golden(f"golden/{i}.png", 0, {"tflite_int8": logits[i]}), pool[i]) for i in range(8)]
    manifest = Manifest("soak", "student", None, CONTRACT, {"tflite_int8": fmt}, None, {}, {}, {"seed": SEED})
    bundle = bundles.write(folder / "soak.bundle", manifest, {"tflite_int8": made.data}, golden)
    return bundle, [decide(logit, fmt.threshold) for logit in logits]


@dataclass
class Scene:
    """What stands before the camera, and how the camera fails.

    Attributes:
        fault: of the frames that come now; None while it is well.
        plugged: the camera that is open.
    """

    pool: list[NDArray[np.uint8]]
    fault: str | None = None
    plugged: Camera | None = None

    def show(self, part: int) -> None:
        """A part stands before the camera."""
        if self.plugged is not None:
            self.plugged.parts.put((part, *stamp()))

    def open(self) -> Camera:
        """Plug the camera in again; CameraError while it is unplugged."""
        if self.fault == "unplugged":
            raise CameraError("the camera is gone")
        self.plugged = Camera(self)
        return self.plugged


class Camera(Closing):
    """Gives the frame of each part that is shown to it, however it is told to fail.

    It stamps a frame when the part stands there, as a camera with a clock of its own does.
    """

    dropped = 0

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.parts: queue.SimpleQueue[tuple[int, str, int] | None] = queue.SimpleQueue()
        self._last = scene.pool[0]
        self._number = 0

    def read(self) -> Frame | None:
        while True:
            shown = self.parts.get()
            fault = self._scene.fault
            if shown is None or fault == "unplugged":
                raise CameraError("the camera is gone")
            part, taken_utc, taken_ns = shown
            if fault == "hangs":
                continue
            image = self._scene.pool[part % POOL].copy()
            image[0, 0] = (part & 255, part >> 8 & 255, part >> 16 & 255)
            if fault == "black":
                image[:] = 0
            elif fault == "frozen":
                image = self._last
            elif fault == "cut":
                image[SIDE // 2 :] = 128
            elif fault == "another size":
                image = image[: SIDE // 2]
            self._last = image
            self._number += 1
            return Frame(image, self._number, taken_utc, taken_ns)

    def close(self) -> None:
        """Let a waiting read go."""
        self.parts.put(None)


def part_of(frame: Frame | None) -> int | None:
    """The part that a frame shows, from its first pixel."""
    if frame is None or frame.frame_bgr is None:
        return None
    low, middle, high = (int(value) for value in frame.frame_bgr[0, 0])
    return low | middle << 8 | high << 16


@dataclass
class Witness:
    """Hears every decision and holds it against what was before the camera."""

    expected: list[State]
    seen: Counter[str] = field(default_factory=Counter)
    without_evidence: list[str] = field(default_factory=list)
    misses: int = 0
    undecided: int = 0
    whole_ms: list[float] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)
    in_fault: Callable[[int], bool] = lambda at_ns: False
    fault: Callable[[], str | None] = lambda: None

    def __call__(self, decision: Decision) -> None:
        verdict, trigger = decision.verdict, decision.trigger
        self.seen[verdict.part_id] += 1
        number = int(verdict.part_id)
        if verdict.state is State.PASS and (
            part_of(decision.frame) != number & 0xFFFFFF or self.expected[number % POOL] is not State.PASS
        ):
            self.without_evidence.append(f"{verdict.part_id} by {part_of(decision.frame)} in {self.fault()}")
        if verdict.cause is not None:
            self.causes[verdict.cause.split(":")[-1].strip()[:40]] += 1
        if not self.in_fault(trigger.at_ns):
            self.whole_ms.append((verdict.stamps_ns["decided"] - trigger.at_ns) / 1e6)
            self.misses += (verdict.cause or "").startswith("late")
            self.undecided += verdict.state is State.NO_DECISION


class Broker:
    """mosquitto on a free port, and everything that arrives there."""

    def __init__(self, folder: Path, program: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [program, "-c", str(folder / "mosquitto.conf")]
        says = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "persistence false", "user root"]
        (folder / "mosquitto.conf").write_text("\n".join([*says, "max_queued_messages 0"]) + "\n")
        self.start()

    def start(self) -> None:
        """Start it, as after a kill."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


class Plc(threading.Thread):
    """Writes the watchdog every 100 ms unless it is silent."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(name="plc", daemon=True)
        self.silent, self.stopped, self._address = threading.Event(), threading.Event(), address

    def run(self) -> None:
        from pymodbus.client import ModbusTcpClient

        client, count = ModbusTcpClient(self._address[0], port=self._address[1]), 0
        while not self.stopped.wait(0.1):
            if not self.silent.is_set():
                count = (count + 1) % 65_536
                with suppress(Exception):
                    client.connect()
                    client.write_register(0, count)
        client.close()


class Line:
    """The line, its clock and its faults."""

    def __init__(self, folder: Path, rate_hz: float) -> None:
        pool = [picture(number) for number in range(POOL)]
        self.bundle, expected = student_bundle(folder, pool)
        self.rate_hz, self.pulled = rate_hz, 0
        self.scene, self.witness = Scene(pool), Witness(expected)
        self.windows: list[tuple[str, int, int]] = []
        self._open_window: tuple[str, int] | None = None
        self.witness.in_fault = self.in_fault
        self.witness.fault = lambda: self._open_window and self._open_window[0]
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
        self._arrived: set[str] = set()
        self._subscriber = self._subscribe()

    def _subscribe(self) -> Any:
        if self.broker is None:
            return None
        from paho.mqtt.client import CallbackAPIVersion, Client

        client = Client(CallbackAPIVersion.VERSION2, client_id="witness", clean_session=False)
        client.on_connect = lambda *_: client.subscribe("diagline/verdicts", qos=1)
        client.on_message = lambda _, __, message: self._arrived.add(json.loads(message.payload)["part_id"])
        client.reconnect_delay_set(1, 1)
        client.connect_async("127.0.0.1", self.broker.port)
        client.loop_start()
        return client

    def in_fault(self, at_ns: int) -> bool:
        """Whether a fault, or the recovery from one, was under way."""
        if self._open_window is not None and at_ns >= self._open_window[1] - DEADLINE_MS * 1e6:
            return True
        return any(start <= at_ns <= end for _, start, end in self.windows)

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """What happens within, and for a while after it, is this fault's doing."""
        self._open_window = (name, time.monotonic_ns())
        try:
            yield
        finally:
            start = self._open_window[1] - round(DEADLINE_MS * 1e6)
            self.windows.append((name, start, time.monotonic_ns() + round(RECOVERY_S * 1e9)))
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
            self._until(lambda: len(self._arrived) >= self.pulled)
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
            found["mqtt_arrived"] = len(wanted & self._arrived)
        return {"lost": lost, **found}

    def _until(self, reached: Callable[[], bool], wait_s: float = 30.0) -> None:
        until = time.monotonic() + wait_s
        while not reached() and time.monotonic() < until:
            time.sleep(0.1)


def rss_mb() -> float:
    """Memory of this process that is in use, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def soak(seconds: float, rate_hz: float, folder: Path) -> dict[str, Any]:
    """Run every fault in turn until the time is over, each at least once."""
    line = Line(folder, rate_hz)
    gate = line.station.gate
    line.run(2.0)
    started, rounds, first_mb = time.monotonic(), 0, 0.0
    each_s = 0.8 if seconds < 120 else 2.0
    while rounds == 0 or time.monotonic() - started < seconds:
        for name, strike in line.faults(each_s).items():
            with line.fault(name):
                strike()
            line.run(RECOVERY_S + each_s)
            if not first_mb and time.monotonic() - started > seconds / 4:
                first_mb = rss_mb()
        rounds += 1
    line._until(lambda: line.station.box.health().tally.open == 0, 2.0)
    last_mb, tally = rss_mb(), line.station.box.health().tally
    witness, counts = line.witness, dict(gate.gate.counts) if gate is not None else {}
    told = line.close()
    p50, p99, p999 = np.percentile(witness.whole_ms, (50, 99, 99.9)).round(3).tolist()
    return {
        "triggers": tally.triggers,
        "verdicts": len(witness.seen),
        "twice": sum(count > 1 for count in witness.seen.values()),
        "states": {state.value: count for state, count in tally.states.items()},
        "pass_without_evidence": len(witness.without_evidence),
        "which": witness.without_evidence[:20],
        "lost_records": sum(told["lost"].values()),
        **told,
        "p50_ms": p50,
        "p99_ms": p99,
        "p999_ms": p999,
        "max_ms": round(max(witness.whole_ms), 3),
        "deadline_misses": witness.misses,
        "no_decision_outside_faults": witness.undecided,
        "outside_faults": len(witness.whole_ms),
        "rss_growth_mb": round(last_mb - first_mb, 1),
        "rounds": rounds,
        "faults": len(line.faults(each_s)),
        "gate": counts,
        "causes": dict(witness.causes.most_common(20)),
        "rate_hz": rate_hz,
        "deadline_ms": DEADLINE_MS,
        "seconds": round(time.monotonic() - started, 1),
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
