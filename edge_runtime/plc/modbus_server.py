"""The handshake as a Modbus TCP server: a PLC triggers, reads the result and acknowledges.

The PLC wants the present, so verdicts come straight from the loop (`deliver`) and through no spool.
Nothing that is written here can make a PASS. Modbus knows no password: whoever reaches the port can pull
the trigger, so it listens on loopback unless told otherwise. Leaves out: requests a client sends before it
has the answer to its last (Modbus forbids them), and TLS.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from diagline.config_checks import within
from diagline.errors import ConfigError, OutputError, require
from diagline.verdict import Verdict
from edge_runtime.plc.handshake import Error, Handshake, Signals
from edge_runtime.plc.registers import COILS, DISCRETE, HOLDING, INPUT_WORDS, Tally, input_words, status_bits
from edge_runtime.trigger import Trigger

logging.getLogger("pymodbus").addHandler(logging.NullHandler())  # a client's rubbish is no line on stderr

MS = 1_000_000
CLOSE_WAIT_S = 2.0
UNREAD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class ModbusConfig:
    """How the PLC is served.

    Attributes:
        host: address to listen on; 0.0.0.0 for every one.
        port: 502 is Modbus's own and needs root.
        connections: most clients at once; the one that has said nothing for `plc_timeout_ms` gives way.
        timeout_ms: a trigger without a verdict ends as NG after this.
        plc_timeout_ms: a PLC that has not changed its watchdog for longer is silent.
        heartbeat_ms: a loop that has not beaten for longer is silent.
        tick_ms: how often time alone moves the handshake on.
    """

    host: str = "127.0.0.1"
    port: int = 5020
    connections: int = 4
    timeout_ms: float = 1000.0
    plc_timeout_ms: float = 1000.0
    heartbeat_ms: float = 500.0
    tick_ms: float = 20.0

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("modbus.host = ''; expected an address to listen on, such as 127.0.0.1")
        within("modbus.port", self.port, 0, 65535)
        within("modbus.connections", self.connections, 1, 100)
        within("modbus.timeout_ms", self.timeout_ms, 1.0, 600_000.0)
        within("modbus.plc_timeout_ms", self.plc_timeout_ms, 10.0, 600_000.0)
        within("modbus.heartbeat_ms", self.heartbeat_ms, 10.0, 600_000.0)
        within("modbus.tick_ms", self.tick_ms, 1.0, 1000.0)


@dataclass(frozen=True, slots=True)
class ModbusHealth:
    """How the PLC is served.

    Attributes:
        error: why Fault is up.
        plc_silent: the PLC does not write its watchdog.
        connections: clients connected now.
        turned_away: connections refused for want of room.
        callback_errors: calls of `on_trigger` and `on_overrun` that raised; the trigger got NG.
        stopped: why the server's thread ended; None while it serves.
    """

    error: Error
    plc_silent: bool
    connections: int
    turned_away: int
    callback_errors: int
    stopped: str | None


class ModbusServer:
    """Serves the map of `registers.py`.

    Attributes:
        address: host and port it listens on.
    """

    def __init__(
        self,
        config: ModbusConfig,
        on_trigger: Callable[[Trigger], None],
        on_overrun: Callable[[Trigger], None] = lambda trigger: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Listen.

        Args:
            on_trigger: a part stands before the camera; must return at once. Its verdict goes to `deliver`.
            on_overrun: a part stood there that is not taken, for the gate to know; must return at once.

        Raises:
            OutputError: the address cannot be listened on.
            MissingExtraError: pymodbus is not installed.
        """
        require("pymodbus", "edge")
        self._config, self._clock = config, clock
        self._on_trigger, self._on_overrun = on_trigger, on_overrun
        self._lock = threading.Lock()
        self._handshake = Handshake(round(config.timeout_ms * MS))
        self._tally = Tally()
        self._part_id: str | None = None
        self._coils = [False] * len(COILS)
        self._watchdog: int | None = None
        self._watchdog_ns: int | None = None
        self._beat_ns: int | None = None
        self._beats = self._turned_away = self._callback_errors = 0
        self._fault: Error = Error.NONE
        self._stopped: str | None = None
        self._server: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        started: Future[tuple[str, int]] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="modbus", daemon=True)
        self._thread.start()
        self.address = started.result()

    def deliver(self, verdict: Verdict) -> None:
        """Tell a verdict, whoever pulled its trigger; it ends the cycle it belongs to and is shown as the last."""
        with self._lock:
            self._tally.add(verdict)
            if verdict.part_id == self._part_id:
                self._handshake.result(self._handshake.signals().acquisition, verdict.state)

    def beat(self, now_ns: int) -> None:
        """Show that the loop lives; the PLC sees a counter and a bit that toggles."""
        with self._lock:
            self._beat_ns, self._beats = now_ns, self._beats + 1

    def fault(self, is_faulty: bool) -> None:
        """Show that something else is wrong with the box (camera, model, gate), or no longer is."""
        with self._lock:
            self._fault = Error.BOX if is_faulty else Error.NONE

    def health(self) -> ModbusHealth:
        """How it fares now."""
        signals, plc_silent = self._step()
        connections = len(self._server.active_connections)
        return ModbusHealth(
            signals.error, plc_silent, connections, self._turned_away, self._callback_errors, self._stopped
        )

    def close(self) -> None:
        """Stop serving; connections are closed."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(CLOSE_WAIT_S)

    def _step(self, coils: dict[int, bool] | None = None) -> tuple[Signals, bool]:
        """Move the handshake on; what it says, and whether the PLC is silent."""
        now_ns = self._clock()
        at_utc = datetime.now(UTC).isoformat(timespec="microseconds")
        with self._lock:
            for place, value in (coils or {}).items():
                self._coils[place] = value
            before, plc_silent = self._handshake.signals(), self._is_silent(now_ns)
            trigger, ack = self._coils
            signals = self._handshake.step(trigger, ack, now_ns, self._standing(now_ns, plc_silent))
            taken, overrun = before.acquisition != signals.acquisition, before.overruns != signals.overruns
            name = f"plc-{signals.acquisition:06d}" if taken else f"plc-overrun-{signals.overruns:06d}"
            if taken:
                self._part_id = name
        if taken or overrun:  # outside the lock, for whoever is called may deliver at once
            try:
                tell = self._on_trigger if taken else self._on_overrun
                tell(Trigger(name, now_ns, at_utc))
            except Exception:
                self._callback_errors += 1  # no verdict will come: the cycle ends as NG in time
        return signals, plc_silent

    def _is_silent(self, now_ns: int) -> bool:
        return self._watchdog_ns is None or now_ns - self._watchdog_ns > self._config.plc_timeout_ms * MS

    def _standing(self, now_ns: int, plc_silent: bool) -> Error:
        if self._beat_ns is None or now_ns - self._beat_ns > self._config.heartbeat_ms * MS:
            return Error.LOOP_SILENT
        return self._fault or (Error.PLC_SILENT if plc_silent else Error.NONE)

    async def _access(
        self, function: int, start: int, address: int, count: int, registers: list[int], values: Any
    ) -> Any:
        """pymodbus asks before each request: writes are taken to heart, reads find the words of this moment."""
        from pymodbus.constants import ExcCodes

        if values and function in (5, 15):
            if address + len(values) > len(COILS):
                return ExcCodes.ILLEGAL_ADDRESS
            self._step({address + place: bool(value) for place, value in enumerate(values)})
        elif values:
            self._heard(values[0])
        if function in (2, 4):
            signals, plc_silent = self._step()
            with self._lock:
                if function == 4:
                    registers[:INPUT_WORDS] = input_words(signals, plc_silent, self._beats, self._tally)
                else:
                    bits = status_bits(signals, plc_silent, self._beats)
                    registers[0] = sum(bit << place for place, bit in enumerate(bits))
        return None

    def _heard(self, value: int) -> None:
        with self._lock:
            if value != self._watchdog:
                self._watchdog, self._watchdog_ns = value, self._clock()

    def _run(self, started: Future[tuple[str, int]]) -> None:
        try:
            asyncio.run(self._serve(started))
            self._stopped = "closed"
        except Exception as error:
            self._stopped = f"{type(error).__name__}: {error}"
            if not started.done():
                where = f"{self._config.host}:{self._config.port}"
                started.set_exception(
                    OutputError(f"cannot serve Modbus on {where}; expected a free port (below 1024: root); change it")
                )

    async def _serve(self, started: Future[tuple[str, int]]) -> None:
        from pymodbus.server import ModbusTcpServer

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server: Any = ModbusTcpServer(self._device(), address=(self._config.host, self._config.port))
        self._server = server
        accept = server.callback_new_connection
        server.callback_new_connection = lambda: self._admit(accept())
        try:
            await server.serve_forever(background=True)
            started.set_result(server.transport.sockets[0].getsockname()[:2])
            while not self._stop.is_set():
                self._step()
                try:
                    await asyncio.wait_for(self._stop.wait(), self._config.tick_ms / 1000)
                except TimeoutError:
                    continue
        finally:
            await server.shutdown()

    def _device(self) -> Any:
        from pymodbus.simulator import DataType, SimData, SimDevice

        bits, words = DataType.BITS, DataType.REGISTERS
        blocks = (
            [SimData(0, values=[False] * len(COILS), datatype=bits)],
            [SimData(0, values=[False] * len(DISCRETE), datatype=bits)],
            [SimData(0, count=len(HOLDING), datatype=words)],
            [SimData(0, count=INPUT_WORDS, datatype=words)],
        )
        return SimDevice(0, simdata=blocks, action=self._access)

    def _admit(self, client: Any) -> Any:
        """Let a client in, in place of one that fell silent where there is no room, or turn it away."""
        clients = list(self._server.active_connections.values())
        if len(clients) >= self._config.connections:
            oldest = min(clients, key=lambda other: other.heard_ns)
            if self._clock() - oldest.heard_ns <= self._config.plc_timeout_ms * MS:
                self._turned_away += 1
                client.callback_connected = client.close
            else:
                oldest.close()
        client.heard_ns = self._clock()
        client.trace_packet = lambda sending, data: self._trace(client, sending, data)
        return client

    def _trace(self, client: Any, sending: bool, data: bytes) -> bytes:
        if not sending:
            client.heard_ns = self._clock()
        elif client.transport is not None and client.transport.get_write_buffer_size() > UNREAD_BYTES:
            client.transport.abort()  # it asks and never reads
        return data
