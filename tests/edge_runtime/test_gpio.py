"""GPIO: outputs start and end on the safe side; every edge is a trigger with the kernel's stamp, or a counted loss.

Lines are a stand-in of the shape of gpiod's request; no hardware is needed, and none was seen.
"""

from __future__ import annotations

import inspect
import queue
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from diagline.errors import ConfigError, OutputError
from edge_runtime.gpio import STALE_NS, GpioConfig, GpioOutputs, GpioTrigger
from edge_runtime.trigger import Trigger

gpiod = pytest.importorskip("gpiod", reason="gpiod is not installed")
WAIT_S = 20.0
NOW_NS = 10**12
OUTPUTS = GpioConfig(accept=1, reject=2, busy=3, fault=4)
TRIGGER = GpioConfig(trigger=7, edge="falling", debounce_us=500)


@dataclass
class Edge:
    """The part of `gpiod.EdgeEvent` that is looked at."""

    line_seqno: int
    timestamp_ns: int = NOW_NS


class FakeLines:
    """`gpiod.request_lines` and the request it returns."""

    def __init__(self) -> None:
        self.broken: Exception | None = None
        self.levels: dict[int, bool] = {}
        self.asked: list[dict[str, Any]] = []
        self.edges: queue.Queue[list[Edge] | Exception] = queue.Queue()
        self.released = 0
        self._ready: list[Edge] | Exception = []

    def __call__(self, path: str, config: dict[int, Any], consumer: str) -> FakeLines:
        if self.broken is not None:
            raise self.broken
        self.asked.append({"path": path, "config": config, "consumer": consumer})
        for line, settings in config.items():
            if settings.direction is gpiod.line.Direction.OUTPUT:
                self.levels[line] = bool(settings.output_value)
        return self

    def set_values(self, values: dict[int, Any]) -> None:
        if self.broken is not None:
            raise self.broken
        self.levels.update({line: bool(value) for line, value in values.items()})

    def wait_edge_events(self, timeout: float) -> bool:
        try:
            self._ready = self.edges.get(timeout=timeout)
        except queue.Empty:
            return False
        return True

    def read_edge_events(self) -> list[Edge]:
        if isinstance(self._ready, Exception):
            raise self._ready
        return self._ready

    def release(self) -> None:
        self.released += 1


class Heard:
    """A trigger on fake lines, and what it told."""

    def __init__(self, **more: Any) -> None:
        self.lines = FakeLines()
        self.told: queue.Queue[Trigger | str] = queue.Queue()
        self.trigger = GpioTrigger(
            TRIGGER,
            more.pop("on_trigger", self.told.put),
            self.told.put,
            request=self.lines,
            clock=lambda: NOW_NS,
            retry_s=0.001,
            **more,
        )

    def next(self) -> Any:
        return self.told.get(timeout=WAIT_S)


def test_the_stand_in_has_the_shape_of_gpiod():
    assert set(inspect.signature(FakeLines.__call__).parameters) - {"self"} <= set(
        inspect.signature(gpiod.request_lines).parameters
    )
    for name in ("set_values", "wait_edge_events", "read_edge_events", "release"):
        real, fake = getattr(gpiod.LineRequest, name), getattr(FakeLines, name)
        assert set(inspect.signature(fake).parameters) <= set(inspect.signature(real).parameters)
    assert {"line_seqno", "timestamp_ns"} <= set(gpiod.EdgeEvent.__annotations__)


def test_all_outputs_are_low_from_the_moment_they_are_taken_and_when_closed():
    lines = FakeLines()
    outputs = GpioOutputs(OUTPUTS, lines)
    assert lines.levels == {1: False, 2: False, 3: False, 4: False}
    outputs.accept(), outputs.busy(True), outputs.fault(False)
    assert lines.levels == {1: True, 2: False, 3: True, 4: True}
    outputs.close()
    assert lines.levels == {1: False, 2: False, 3: False, 4: False} and lines.released == 1
    outputs.close()
    with pytest.raises(OutputError):
        outputs.accept()


def test_accept_and_reject_are_contrary_and_a_fault_is_low():
    lines = FakeLines()
    outputs = GpioOutputs(OUTPUTS, lines)
    outputs.accept()
    assert (lines.levels[1], lines.levels[2]) == (True, False)
    outputs.reject()
    assert (lines.levels[1], lines.levels[2]) == (False, True)
    outputs.accept()
    assert (lines.levels[1], lines.levels[2]) == (True, False)
    outputs.fault(False)
    assert lines.levels[4]
    outputs.fault(True)
    assert not lines.levels[4]


def test_lines_that_are_not_wired_are_not_taken_nor_driven():
    lines = FakeLines()
    outputs = GpioOutputs(GpioConfig(accept=5), lines)
    outputs.reject(), outputs.busy(True), outputs.fault(True), outputs.accept()
    assert lines.levels == {5: True}


def test_a_chip_that_raises_is_heard_by_the_gate_and_does_not_keep_close_from_letting_go():
    lines = FakeLines()
    outputs = GpioOutputs(OUTPUTS, lines)
    lines.broken = OSError(5, "Input/output error")
    with pytest.raises(OSError):
        outputs.accept()
    outputs.close()
    assert lines.released == 1


@pytest.mark.parametrize("kind", [GpioOutputs, lambda config, lines: GpioTrigger(config, print, print, request=lines)])
def test_a_chip_that_cannot_be_had_is_one_line_that_says_what_to_do(kind):
    lines = FakeLines()
    lines.broken = OSError(16, "Device or resource busy")
    with pytest.raises(OutputError, match=r"^/dev/gpiochip0 line \d+: Device or resource busy; expected .*gpioinfo$"):
        kind(GpioConfig(trigger=7, accept=7 - 6), lines)


def test_the_real_library_refuses_a_chip_that_is_not_there():
    with pytest.raises(OutputError, match="/dev/no-such-chip line 1: No such file"):
        GpioOutputs(GpioConfig(chip="/dev/no-such-chip", accept=1))


def test_an_edge_is_a_trigger_at_the_moment_the_kernel_saw_it():
    heard = Heard()
    heard.lines.edges.put([Edge(1, NOW_NS - 3_000_000), Edge(2, NOW_NS)])
    first, second = heard.next(), heard.next()
    assert (first.at_ns, second.at_ns) == (NOW_NS - 3_000_000, NOW_NS)
    assert first.part_id != second.part_id and first.at_utc < second.at_utc
    heard.trigger.close()
    (settings,) = heard.lines.asked[0]["config"].values()
    assert settings.event_clock is gpiod.line.Clock.MONOTONIC and settings.edge_detection is gpiod.line.Edge.FALLING
    assert settings.debounce_period.microseconds == 500 and settings.direction is gpiod.line.Direction.INPUT


def test_edges_that_the_kernel_lost_are_counted_and_told():
    heard = Heard()
    heard.lines.edges.put([Edge(1), Edge(4)])
    assert isinstance(heard.next(), Trigger)
    assert "lost 2 edges" in heard.next() and isinstance(heard.next(), Trigger)
    heard.trigger.close()
    health = heard.trigger.health()
    assert (health.triggers, health.lost) == (2, 2)


@pytest.mark.parametrize("stamp_ns", [NOW_NS + 1, NOW_NS - STALE_NS - 1, 0])
def test_a_stamp_that_cannot_be_is_a_lost_trigger(stamp_ns):
    heard = Heard()
    heard.lines.edges.put([Edge(1, stamp_ns)])
    assert "expected 0 to 1 s" in heard.next()
    heard.trigger.close()
    assert (heard.trigger.health().triggers, heard.trigger.health().lost) == (0, 1)


def test_a_trigger_that_nobody_takes_is_told_as_lost_and_the_next_one_comes():
    took: list[Trigger] = []

    def on_trigger(trigger: Trigger) -> None:
        took.append(trigger)
        if len(took) == 1:
            raise RuntimeError("queue full")
        heard.told.put(trigger)

    heard = Heard(on_trigger=on_trigger)
    heard.lines.edges.put([Edge(1), Edge(2)])
    assert "queue full" in heard.next() and isinstance(heard.next(), Trigger)
    heard.trigger.close()
    assert heard.trigger.health().callback_errors == 1


def test_a_chip_that_goes_away_is_told_and_taken_up_again():
    heard = Heard()
    heard.lines.edges.put([Edge(8)])
    assert "lost 7" in heard.next() and isinstance(heard.next(), Trigger)
    heard.lines.edges.put(OSError(19, "No such device"))
    assert "No such device" in heard.next()
    assert "got no trigger" in heard.next()
    heard.lines.edges.put([Edge(3)])  # a new request counts from 1
    assert "lost 2" in heard.next() and isinstance(heard.next(), Trigger)
    heard.trigger.close()
    assert heard.trigger.health().fault is None and len(heard.lines.asked) == 2 and heard.lines.released == 2


def test_closed_its_thread_is_gone_and_the_line_let_go():
    heard = Heard()
    heard.trigger.close()
    assert heard.lines.released == 1 and not any(thread.name == "gpio" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"edge": "both"}, "gpio.edge"),
        ({"accept": 3, "reject": 3}, "gpio.accept"),
        ({"trigger": -2}, "gpio.trigger"),
        ({"debounce_us": -1}, "gpio.debounce_us"),
    ],
)
def test_a_config_that_cannot_work_is_refused(wrong, named):
    with pytest.raises(ConfigError, match=named):
        GpioConfig(**wrong)


def test_nothing_wired_is_refused():
    with pytest.raises(ConfigError, match="no output"):
        GpioOutputs(GpioConfig(), FakeLines())
    with pytest.raises(ConfigError, match=r"gpio\.trigger"):
        GpioTrigger(GpioConfig(), print, print, request=FakeLines())
