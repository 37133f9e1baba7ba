"""A gate that hangs on a coil of a Modbus TCP coupler: 1 opens it, 0 and no power reject.

Slower than a line of the box's own (`gpio.py`), and a dead network cannot close it: set the coupler's own
watchdog, so that its outputs fall when nobody writes for `refresh_ms` and a little more. Leaves out:
couplers that are written to by register.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagline.config_checks import within
from diagline.errors import ConfigError, OutputError, require

MS = 1_000_000


@dataclass(frozen=True, slots=True)
class CoilConfig:
    """Which coil is the gate.

    Attributes:
        host, port: the coupler.
        device_id: its Modbus unit.
        address: the coil, from 0.
        timeout_ms: longest wait for the coupler; the gate's thread waits with it, so less than `gate.gap_ms`.
        refresh_ms: the coil is written again, unchanged, after this.
    """

    host: str
    port: int = 502
    device_id: int = 1
    address: int = 0
    timeout_ms: float = 40.0
    refresh_ms: float = 20.0

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("coil.host = ''; expected the address of a Modbus TCP coupler; set it")
        within("coil.port", self.port, 1, 65535)
        within("coil.device_id", self.device_id, 0, 255)
        within("coil.address", self.address, 0, 65535)
        within("coil.timeout_ms", self.timeout_ms, 1.0, 10_000.0)
        within("coil.refresh_ms", self.refresh_ms, 1.0, 10_000.0)


class CoilActuator:
    """An `Actuator` over the network; connects on first use and again after each failure."""

    def __init__(self, config: CoilConfig, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Connect to nothing yet.

        Raises:
            MissingExtraError: pymodbus is not installed.
        """
        self._config, self._clock = config, clock
        client = require("pymodbus.client", "edge").ModbusTcpClient
        self._client: Any = client(config.host, port=config.port, timeout=config.timeout_ms / 1000, retries=0)
        self._written: bool | None = None
        self._written_ns = 0

    def accept(self) -> None:
        """Write 1; raises OutputError where the coupler does not confirm it."""
        self._write(True)

    def reject(self) -> None:
        """Write 0; raises OutputError where the coupler does not confirm it."""
        self._write(False)

    def close(self) -> None:
        """Write 0 and disconnect; never raises."""
        self._written = None
        with contextlib.suppress(Exception):
            self._write(False)
        self._client.close()

    def _write(self, value: bool) -> None:
        now_ns = self._clock()
        if value is self._written and now_ns - self._written_ns < self._config.refresh_ms * MS:
            return
        self._written = None
        config, cause = self._config, "it does not answer"
        try:
            answer = self._client.write_coil(config.address, value, device_id=config.device_id)
            if answer.bits[:1] == [value]:
                self._written, self._written_ns = value, now_ns
                return
            cause = f"it answered {answer}"
        except Exception as error:  # pymodbus's own, or the socket's
            cause = str(error)
        self._client.close()  # a connection that fell silent stays so; the next write opens another
        where = f"{config.host}:{config.port} coil {config.address}"
        raise OutputError(f"{where}: not written ({' '.join(cause.split())}); expected a Modbus TCP coupler; check it")
