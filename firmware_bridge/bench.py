"""What a device does in a second, by MLPerf Tiny's serial protocol: one table for any that speaks it.

ASCII commands that end with `%`, at most 80 characters; replies of lines, the last one `m-ready`.
Latency is what the device's own clock says before and after N inferences, divided by N. Leaves out:
SMP (`link.py`), and accuracy, which is proven in bits when a model is flashed.
"""

from __future__ import annotations

import math
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diagline.errors import FlashError
from firmware_bridge.device import connect
from firmware_bridge.link import BAUD, NoAnswerError, Patience, RefusedError, open_port

PIECE_BYTES = 31  # of `db HEX`, as the reference host sends them
ANSWER_S, LONGEST_RUN_S, ECHOES = 5.0, 600.0, 20
LAP = re.compile(r"m-lap-us-(\d+)")
Progress = Callable[[str, int, int], object]
"""Called with a stage's name, what of it is done, and the whole."""


@dataclass(frozen=True, slots=True)
class Benched:
    """What a device said and did.

    Attributes:
        latency_us: of one inference, by run.
        iterations: inferences of one run.
        round_trip_ms: median of a command and its reply on this wire.
        result: what the device said of the picture.
    """

    name: str
    profile: str
    model: str
    input_bytes: int
    iterations: int
    warm_up: int
    latency_us: tuple[float, ...]
    round_trip_ms: float
    load_s: float
    result: str

    @property
    def median_us(self) -> float:
        """Of an inference."""
        return statistics.median(self.latency_us)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a device is measured.

    Attributes:
        runs, warm_up: of each run the inferences before those that count.
        seconds: least length of a run, by the device's clock.
    """

    runs: int = 5
    warm_up: int = 5
    seconds: float = 10.0


class Speaker:
    """An open port behind which MLPerf Tiny's protocol is spoken."""

    def __init__(self, port: Any, path: str) -> None:
        self._port = port
        self.path = path
        self._bytes = b""

    def say(self, command: str, patience_s: float = ANSWER_S) -> list[str]:
        """A command without its `%`; the lines of its reply, `m-ready` left out.

        Raises:
            FlashError: no `m-ready` in time, an error (`e-[...]`), or the port is gone.
        """
        lines: list[str] = []
        wrong = ""
        until = time.monotonic() + patience_s
        try:
            self._port.write(f"{command}%".encode())
            while time.monotonic() < until:
                line, newline, rest = self._bytes.partition(b"\n")
                if not newline:
                    self._bytes += self._port.read(max(1, self._port.in_waiting))
                    continue
                self._bytes = rest
                text = line.decode("ascii", "replace").strip()
                if text.startswith("e-["):
                    wrong = text
                if text == "m-ready":
                    break
                if text:
                    lines.append(text)
            else:
                raise FlashError(
                    f"{self.path}: no m-ready after {command[:20]!r} within {patience_s:g} s; expected a device that "
                    f"speaks MLPerf Tiny's protocol; check power, cable and --baud"
                )
        except OSError as error:  # pyserial's own error is one
            raise FlashError(
                f"{self.path}: the port is gone at {command[:20]!r} ({error.strerror or error}); plug it in again"
            ) from error
        if wrong:
            raise FlashError(f"{self.path}: {command[:20]!r} answered {wrong}; expected it to be carried out")
        return lines


@contextmanager
def speaker(path: str, baud: int = BAUD) -> Iterator[Speaker]:
    """The device on a port, as long as the block runs.

    Raises:
        FlashError: as `open_port`.
    """
    with open_port(path, baud) as port:
        yield Speaker(port, path)


def bench(device: Speaker, picture: bytes, plan: Plan, progress: Progress = lambda stage, done, whole: None) -> Benched:
    """Load a picture and measure: `name`, `profile`, `db load`, `infer`, `results`.

    Args:
        picture: as the device's network is fed.

    Raises:
        FlashError: as `Speaker.say`, or a reply that is none of the protocol.
    """
    name = _hello(device)
    profile = device.say("profile")
    trips = []
    for _ in range(ECHOES):
        start = time.monotonic()
        device.say("timestamp")
        trips.append(time.monotonic() - start)
    start = time.monotonic()
    device.say(f"db load {len(picture)}")
    for at in range(0, len(picture), PIECE_BYTES):
        device.say(f"db {picture[at : at + PIECE_BYTES].hex()}")
        progress("load", at, len(picture))
    load_s = time.monotonic() - start
    progress("trial", 0, 1)
    once_us = _infer(device, 1, 1, LONGEST_RUN_S)
    iterations = max(1, math.ceil(plan.seconds * 1e6 / max(once_us, 1.0)))
    patience_s = LONGEST_RUN_S + 10 * (iterations + plan.warm_up) * once_us / 1e6
    latencies = []
    for run in range(plan.runs):
        progress("infer", run, plan.runs)
        latencies.append(_infer(device, iterations, plan.warm_up, patience_s))
    progress("infer", plan.runs, plan.runs)
    result = _inside(device.say("results"), "m-results-")
    return Benched(
        name, _inside(profile, "m-profile-"), _inside(profile, "m-model-"), len(picture), iterations, plan.warm_up,
        tuple(latencies), 1000 * statistics.median(trips), load_s, result,
    )  # fmt: skip


def noise(size: int) -> bytes:
    """A picture of so many bytes that no network mistakes for a flat one; the same at every call."""
    return random.Random(0).randbytes(size)


def picture_bytes(path: str, baud: int = BAUD) -> int:
    """How large a picture a line device takes, asked by SMP.

    Raises:
        FlashError: it does not say, or no model runs.
    """
    try:
        with connect(path, baud, Patience(tries=2)) as device:
            model = device.model()
    except (NoAnswerError, RefusedError) as error:
        raise FlashError(f"{path}: does not say how large its picture is; give --bytes N") from error
    return model.width * model.height * model.channels


def _hello(device: Speaker) -> str:
    """The device's name; the first answer may be to what somebody left unfinished."""
    try:
        return _inside(device.say("name"), "m-name-dut-")
    except FlashError:
        return _inside(device.say("name"), "m-name-dut-")


def _infer(device: Speaker, iterations: int, warm_up: int, patience_s: float) -> float:
    """Microseconds of one inference, by the device's own clock."""
    lines = device.say(f"infer {iterations} {warm_up}", patience_s)
    laps = [int(found[1]) for line in lines if (found := LAP.fullmatch(line))]
    if len(laps) != 2 or laps[1] < laps[0] or "m-infer-done" not in lines:
        raise FlashError(f"{device.path}: infer answered {lines}; expected two m-lap-us- and m-infer-done")
    return (laps[1] - laps[0]) / iterations


def _inside(lines: list[str], before: str) -> str:
    """What stands in the brackets after a word; empty where it was not said."""
    return next((line[len(before) :].strip("[]") for line in lines if line.startswith(before)), "")
