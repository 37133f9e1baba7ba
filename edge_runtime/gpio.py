"""GPIO lines of the box: a light barrier as the trigger, the gate, and lamps for busy and fault.

Every output is low where the box is dead, starting or closed, and low is the safe side: reject, not busy,
fault. Needs Linux's GPIO character device (gpiod 2). Leaves out: what a killed process leaves on a line, which
the chip's driver decides (`docs/gate.md`), and encoders: counting edges in Python loses some.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from diagline.config_checks import one_of, within
from diagline.errors import ConfigError, OutputError, require
from edge_runtime.trigger import Trigger

CLOSE_WAIT_S = 1.0
POLL_S = 0.2
RETRY_S = 1.0
STALE_NS = 1_000_000_000
CONSUMER = "diagline"


@dataclass(frozen=True, slots=True)
class GpioConfig:
    """Which lines of which chip; a line of -1 is not wired.

    Attributes:
        chip: the character device.
        trigger: input of the light barrier.
        edge: "rising" or "falling": which edge of the trigger is a part.
        debounce_us: edges closer together are one.
        accept, reject, busy, fault: outputs.
    """

    chip: str = "/dev/gpiochip0"
    trigger: int = -1
    edge: str = "rising"
    debounce_us: int = 1000
    accept: int = -1
    reject: int = -1
    busy: int = -1
    fault: int = -1

    def __post_init__(self) -> None:
        one_of("gpio.edge", self.edge, ("rising", "falling"))
        within("gpio.debounce_us", self.debounce_us, 0, 1_000_000)
        lines = {name: getattr(self, name) for name in ("trigger", "accept", "reject", "busy", "fault")}
        for name, line in lines.items():
            within(f"gpio.{name}", line, -1, 1023)
            twin = next((other for other in lines if other != name and line >= 0 and lines[other] == line), None)
            if twin is not None:
                raise ConfigError(f"gpio.{name} = {line}; expected a line of its own, and gpio.{twin} is the same")


Request = Callable[..., Any]
"""`gpiod.request_lines`, or a stand-in of its shape."""


class GpioOutputs:
    """The lines that the box drives; the gate's `Actuator`."""

    def __init__(self, config: GpioConfig, request: Request | None = None) -> None:
        """Take the lines, all low.

        Raises:
            OutputError: the chip or a line cannot be had.
            MissingExtraError: gpiod is not installed.
        """
        gpiod = require("gpiod", "edge")
        self._low, self._high = gpiod.line.Value.INACTIVE, gpiod.line.Value.ACTIVE
        names = ("accept", "reject", "busy", "fault")
        self._lines = {name: getattr(config, name) for name in names if getattr(config, name) >= 0}
        if not self._lines:
            raise ConfigError("gpio: no output is wired; expected gpio.accept, reject, busy or fault; set one")
        settings = gpiod.LineSettings(direction=gpiod.line.Direction.OUTPUT, output_value=self._low)
        wanted = dict.fromkeys(self._lines.values(), settings)
        self._lock = threading.Lock()
        self._request: Any = _ask(request or gpiod.request_lines, config.chip, wanted)

    def accept(self) -> None:
        """Open the gate; raises what the chip raises."""
        self._set(accept=True, reject=False)

    def reject(self) -> None:
        """Close the gate; raises what the chip raises."""
        self._set(accept=False, reject=True)

    def busy(self, is_busy: bool) -> None:
        """Show that a part is being judged."""
        self._set(busy=is_busy)

    def fault(self, is_faulty: bool) -> None:
        """Show a fault: the line goes low."""
        self._set(fault=not is_faulty)

    def close(self) -> None:
        """All low, then let the lines go; never raises."""
        with contextlib.suppress(Exception):
            self._set(**dict.fromkeys(self._lines, False))
        with self._lock:
            request, self._request = self._request, None
        if request is not None:
            with contextlib.suppress(Exception):
                request.release()

    def _set(self, **levels: bool) -> None:
        """Drive those lines that are wired, in one call."""
        values = {
            self._lines[name]: self._high if high else self._low for name, high in levels.items() if name in self._lines
        }
        with self._lock:
            if self._request is None:
                raise OutputError("gpio: the lines are closed; expected an open box; start it again")
            if values:
                self._request.set_values(values)


@dataclass(frozen=True, slots=True)
class GpioHealth:
    """How the trigger line fares.

    Attributes:
        fault: why no triggers come at the moment; None while they may.
        triggers: pulled.
        lost: edges that were no trigger: lost in the kernel, or with a stamp that cannot be.
        callback_errors: calls of `on_trigger` or `on_lost` that raised.
    """

    fault: str | None
    triggers: int
    lost: int
    callback_errors: int


class GpioTrigger:
    """Turns edges of a line into triggers, on a thread; takes the line up again when the chip comes back."""

    def __init__(
        self,
        config: GpioConfig,
        on_trigger: Callable[[Trigger], None],
        on_lost: Callable[[str], None],
        request: Request | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        retry_s: float = RETRY_S,
    ) -> None:
        """Take the line and listen.

        Args:
            on_trigger: a part; must return at once.
            on_lost: parts went by that got no trigger, and why; for `Gate.fail`.

        Raises:
            OutputError: the chip or the line cannot be had.
            MissingExtraError: gpiod is not installed.
        """
        gpiod = require("gpiod", "edge")
        if config.trigger < 0:
            raise ConfigError("gpio.trigger = -1; expected the line of the light barrier; set it")
        edge = gpiod.line.Edge.RISING if config.edge == "rising" else gpiod.line.Edge.FALLING
        self._settings = {
            config.trigger: gpiod.LineSettings(
                direction=gpiod.line.Direction.INPUT,
                edge_detection=edge,
                debounce_period=timedelta(microseconds=config.debounce_us),
                event_clock=gpiod.line.Clock.MONOTONIC,  # CLOCK_MONOTONIC, as time.monotonic_ns
            )
        }
        self._ask, self._chip, self._clock = request or gpiod.request_lines, config.chip, clock
        self._on_trigger, self._on_lost, self._retry_s = on_trigger, on_lost, retry_s
        self._triggers = self._lost = self._callback_errors = self._seqno = 0
        self._fault: str | None = None
        self._request: Any = _ask(self._ask, self._chip, self._settings)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpio", daemon=True)
        self._thread.start()

    def health(self) -> GpioHealth:
        """How it fares now."""
        return GpioHealth(self._fault, self._triggers, self._lost, self._callback_errors)

    def close(self) -> None:
        """Stop listening and let the line go."""
        self._closing.set()
        self._thread.join(CLOSE_WAIT_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                if self._request is None:
                    self._request, self._seqno = _ask(self._ask, self._chip, self._settings), 0
                    self._fault = None
                    self._lose(0, f"{self._chip}: back again; parts that went by meanwhile got no trigger")
                if self._request.wait_edge_events(POLL_S):
                    for event in self._request.read_edge_events():
                        self._take(event)
            except Exception as error:  # whatever the chip does, the thread lives
                if self._fault is None:
                    self._lose(0, f"{self._chip}: {type(error).__name__}: {error}")
                self._fault = f"{self._chip}: {type(error).__name__}: {error}"
                self._release()
                self._closing.wait(self._retry_s)
        self._release()

    def _take(self, event: Any) -> None:
        now_ns = self._clock()
        gap, self._seqno = event.line_seqno - self._seqno - 1, event.line_seqno
        if gap > 0:
            self._lose(gap, f"the kernel lost {gap} edges of the trigger line")
        age_ns = now_ns - event.timestamp_ns
        if not 0 <= age_ns <= STALE_NS:
            self._lose(1, f"an edge of the trigger line is {age_ns / 1e9:.3f} s old; expected 0 to 1 s")
            return
        self._triggers += 1
        at_utc = (datetime.now(UTC) - timedelta(microseconds=age_ns / 1000)).isoformat(timespec="microseconds")
        try:
            name = f"gpio-{self._triggers:06d}"
            self._on_trigger(Trigger(name, event.timestamp_ns, at_utc))
        except Exception as error:
            self._callback_errors += 1
            self._lose(1, f"trigger {self._triggers} was not taken: {type(error).__name__}: {error}")

    def _lose(self, edges: int, why: str) -> None:
        self._lost += edges
        try:
            self._on_lost(" ".join(why.split()))
        except Exception:
            self._callback_errors += 1

    def _release(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            with contextlib.suppress(Exception):
                request.release()


def _ask(request: Request, chip: str, settings: dict[int, Any]) -> Any:
    lines = ", ".join(map(str, settings))
    try:
        return request(chip, consumer=CONSUMER, config=settings)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise OutputError(f"{chip} line {lines}: {cause}; expected free lines of a GPIO chip; see gpioinfo") from error
