"""A box with everything its config asks for, opened in order and closed in reverse.

    camera and trigger sources -> box -> gate, PLC, page, archive, spooled outputs

The gate hears of every trigger before the box does, and of every verdict before anyone else. The
inspecting thread is the heartbeat of gate, PLC and systemd: if it hangs, all three know. Leaves
out: what the page may ask (`station_view.py`) and the command (`diagline serve`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from diagline import bundle as bundles
from diagline import record, signing
from diagline.errors import BundleError
from edge_runtime import box_config
from edge_runtime.archive.database import Kind
from edge_runtime.archive.store import Archive, Origin
from edge_runtime.bench.recorded import recorded_engine
from edge_runtime.box import Box, Listener
from edge_runtime.box_config import BoxConfig
from edge_runtime.camera.frames import Frame
from edge_runtime.camera.watched import watch
from edge_runtime.gate.driver import Actuator, GateDriver
from edge_runtime.gate.encoder import Encoder
from edge_runtime.gate.gate import GateEvent
from edge_runtime.gpio import GpioOutputs, GpioTrigger
from edge_runtime.ledger import Decision
from edge_runtime.loop import Inspector, open_inspector
from edge_runtime.outputs import line_files, mqtt_output, webhook
from edge_runtime.outputs.base import Output
from edge_runtime.outputs.mqtt_output import MqttOutput, MqttTrigger
from edge_runtime.outputs.spool import Spool, open_spool
from edge_runtime.plc.coil import CoilActuator
from edge_runtime.plc.modbus_server import ModbusServer
from edge_runtime.recent import Recent
from edge_runtime.service.watchdog import Watchdog
from edge_runtime.trigger import Trigger

CLOSE_S = 2.0
FLUSH_S = 1.0
LAMPS_S = 0.25  # how often PLC and lamps are told whether the box is well


class Source(Protocol):
    """The camera of a station; `camera.watched.WatchedCamera` is one."""

    def read(self, timeout_s: float | None = None) -> Frame | None: ...

    def announce(self, trigger: Trigger) -> None: ...

    def frame_for(self, trigger: Trigger, timeout_s: float) -> Frame: ...

    def health(self) -> Any: ...

    def close(self) -> None: ...


class Station:
    """One box at work.

    Attributes:
        config: what it was made from.
        camera, box, archive, recent, spools: its parts.
        gate, modbus: None where the config has none.
    """

    def __init__(
        self,
        config: BoxConfig,
        path: Path | None = None,
        camera: Source | None = None,
        actuator: Actuator | None = None,
        outputs: Sequence[Output] = (),
    ) -> None:
        """Open everything, and judge from now on.

        Args:
            path: BOX.toml, beside which the engine of this machine is recorded.
            camera, actuator: stand in for those of the config.
            outputs: stand beside those of the config.

        Raises:
            DiaglineError: whatever cannot be opened; nothing is left open.
        """
        self.config, self._path = config, path
        self._stopping = threading.Event()
        self._watchdog = Watchdog()
        self._started_ns = time.monotonic_ns()
        self.gate: GateDriver | None = None
        self.modbus: ModbusServer | None = None
        self._encoder: Encoder | None = None
        self._gpio: GpioOutputs | None = None
        self.spools: list[Spool] = []
        with ExitStack() as undo:
            self._open(undo, camera, actuator, outputs)
            self._undo = undo.pop_all()

    def _open(
        self, undo: ExitStack, camera: Source | None, actuator: Actuator | None, outputs: Sequence[Output]
    ) -> None:
        config = self.config
        inspector = self.open_bundle(config.bundle)
        facts = {"line": config.name, "machine": record.machine(), "versions": record.versions()}
        self.archive = Archive(config.folder / "archive", config.archive, facts)
        undo.callback(self.archive.close)
        self._note_self_test(inspector)
        self.archive.flush(FLUSH_S)  # the trail knows of a run before anyone hears of its verdicts
        listeners: dict[str, Listener] = {}
        self._open_gate(undo, listeners, actuator)
        if config.modbus is not None:
            self.modbus = ModbusServer(config.modbus, self._asked_by_plc, self._overrun)
            undo.callback(self.modbus.close)
            deliver = self.modbus.deliver
            listeners["modbus"] = lambda decision: deliver(decision.verdict)
        self.recent = Recent()
        listeners["recent"] = self.recent
        listeners["archive"] = self._archive
        mqtt = self._open_outputs(undo, listeners, outputs)
        self.camera: Source = camera or watch(config.camera)
        undo.callback(self.camera.close)
        trigger = config.trigger
        self.box = Box(
            self.camera, inspector, listeners, trigger.deadline_ms, trigger.most_open, config.region, self._beat
        )
        self.box.start()
        undo.callback(self.box.close)
        self._listen(undo, mqtt)
        self._run_beside(undo, self._lamps, "lamps")

    def pull(self, trigger: Trigger, frame: Frame | None = None) -> None:
        """A part stands before the camera; returns at once."""
        trigger = self._expect(trigger)
        if frame is None:
            self.camera.announce(trigger)
        self.box.pull(trigger, frame)

    def open_bundle(self, root: Path) -> Inspector:
        """Read a bundle, check who signed it, and open the engine this box runs it on.

        Raises:
            BundleError: it is not whole or not trusted, or no engine opens it.
        """
        config = self.config
        bundle = bundles.read(root)
        signing.check_trusted(bundle, config.keys, config.allow_unsigned)
        name, threads = config.engine.format, config.engine.threads
        if name == "fastest" and self._path is not None:
            recorded = recorded_engine(self._path, bundle, threads)
            if recorded is not None:
                return open_inspector(bundle, recorded.format, threads, recorded.engine)
        return open_inspector(bundle, name, threads)

    def self_test(self) -> Inspector:
        """Read the bundle anew and run its golden pictures; a box that fails stands down until one passes.

        Raises:
            BundleError: they fail, or the bundle is not what it was.
        """
        try:
            inspector = self.open_bundle(self.box.inspector.bundle.root)
            if inspector.fault is not None:
                raise BundleError(f"{inspector.bundle.root}: {inspector.fault}; export it again, or switch to another")
        except BundleError as error:
            self.box.stand_down(f"self-test failed: {error}")
            self.archive.event(Kind.SELF_TEST, {"passed": False, "cause": str(error)})
            raise
        self.box.switch(inspector)
        self._note_self_test(inspector)
        return inspector

    def switch(self, root: Path) -> Inspector:
        """Judge with another bundle from the next part on; the old one stays where its self-test fails.

        Raises:
            BundleError: it is not whole, not trusted, or fails its self-test.
        """
        before = self.box.inspector.bundle
        try:
            inspector = self.open_bundle(root)
            self.box.switch(inspector)
        except BundleError as error:
            self.archive.event(Kind.BUNDLE, {"from": before.model, "to": str(root), "refused": str(error)})
            raise
        self.archive.event(Kind.BUNDLE, {"from": before.model, "to": inspector.bundle.model, "root": str(root)})
        return inspector

    @property
    def uptime_s(self) -> float:
        """Since it was opened."""
        return (time.monotonic_ns() - self._started_ns) / 1e9

    def close(self) -> None:
        """Stop: triggers first, then what waits becomes NO_DECISION, then outputs and archive."""
        self._stopping.set()
        self._undo.close()

    def _open_gate(self, undo: ExitStack, listeners: dict[str, Listener], actuator: Actuator | None) -> None:
        config = self.config
        if config.gpio is not None and max(config.gpio.accept, config.gpio.reject, config.gpio.busy) >= 0:
            self._gpio = GpioOutputs(config.gpio)
            undo.callback(self._gpio.close)
        if config.gate is None:
            return
        if config.encoder is not None:
            self._encoder = Encoder(config.encoder)
        moves = actuator or (CoilActuator(config.coil) if config.coil is not None else self._gpio)
        assert moves is not None  # the config was checked
        read = self._encoder.read if self._encoder is not None else None
        self.gate = GateDriver(config.gate, moves, self._gate_event, read)
        self.gate.start()
        undo.callback(self.gate.close)
        judge = self.gate.gate.judge
        listeners["gate"] = lambda decision: judge(decision.verdict)

    def _open_outputs(
        self, undo: ExitStack, listeners: dict[str, Listener], more: Sequence[Output]
    ) -> MqttOutput | None:
        config = self.config
        mqtt = mqtt_output.open_output(config.mqtt) if config.mqtt is not None else None
        outputs: list[Output] = [mqtt] if mqtt is not None else []
        if config.webhook is not None:
            outputs.append(webhook.open_output(config.webhook))
        if config.lines is not None:
            outputs.append(line_files.open_output(config.lines))
        for output in (*outputs, *more):
            spool = open_spool(output, config.spool)
            undo.callback(spool.close, CLOSE_S)
            self.spools.append(spool)
            listeners[f"output {output.name}"] = _puts_into(spool)
        return mqtt

    def _listen(self, undo: ExitStack, mqtt: MqttOutput | None) -> None:
        by = self.config.trigger.by
        if by == box_config.FREE:
            self._run_beside(undo, self._run_free, "free")
        elif by == box_config.MQTT:
            assert mqtt is not None
            MqttTrigger(mqtt, self.pull)
        elif by == box_config.GPIO:
            assert self.config.gpio is not None
            lost = self.gate.gate.fail if self.gate is not None else lambda why: None
            undo.callback(GpioTrigger(self.config.gpio, self.pull, lost).close)

    def _run_beside(self, undo: ExitStack, run: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        undo.callback(thread.join, CLOSE_S)
        undo.callback(self._stopping.set)

    def _run_free(self) -> None:
        """Every frame is a part; so is one that should have come."""
        while not self._stopping.is_set():
            frame = self.camera.read()
            if frame is None:
                return
            if not self._stopping.is_set():
                self.pull(Trigger(frame.part_id, frame.taken_ns, frame.taken_utc), frame)

    def _asked_by_plc(self, trigger: Trigger) -> None:
        if self.config.trigger.by == box_config.MODBUS:
            self.pull(trigger)

    def _overrun(self, trigger: Trigger) -> None:
        if self.config.trigger.by == box_config.MODBUS:
            self._expect(trigger)

    def _expect(self, trigger: Trigger) -> Trigger:
        """Tell the gate of a part, and where the belt was when it stood before the camera."""
        if self._encoder is not None:
            trigger = replace(trigger, position=self._encoder.at(trigger.at_ns))
        if self.gate is not None:
            self.gate.gate.expect(trigger)
        return trigger

    def _archive(self, decision: Decision) -> None:
        inspector, frame = self.box.inspector, decision.frame
        bundle, threads = inspector.bundle, self.config.engine.threads
        origin = Origin(bundle.sha256, inspector.format_name, inspector.engine.name, threads)
        picture = frame.frame_bgr if frame is not None else None
        # A verdict of the bundle before a switch must not be replayed on the one after it.
        self.archive.put(decision.verdict, picture, origin if decision.verdict.model == bundle.model else None)

    def _gate_event(self, event: GateEvent) -> None:
        self.archive.event(Kind.GATE, {"part_id": event.part_id, "did": event.did.value, "why": event.why})

    def _note_self_test(self, inspector: Inspector) -> None:
        payload = {"bundle": inspector.bundle.model, "passed": inspector.fault is None, "cause": inspector.fault}
        self.archive.event(Kind.SELF_TEST, payload)

    def _beat(self) -> None:
        now_ns = time.monotonic_ns()
        if self.gate is not None:
            self.gate.gate.beat(now_ns)
        if self.modbus is not None:
            self.modbus.beat(now_ns)
        self._watchdog.beat()

    def _lamps(self) -> None:
        while not self._stopping.wait(LAMPS_S):
            gate_fault = self.gate.gate.fault if self.gate is not None else None
            faulty = bool(self.box.inspector.fault or gate_fault or self.camera.health().state != "live")
            if self.modbus is not None:
                self.modbus.fault(faulty)
            if self._gpio is not None:
                self._gpio.fault(faulty)


def _puts_into(spool: Spool) -> Listener:
    return lambda decision: spool.put(decision.verdict.record())
