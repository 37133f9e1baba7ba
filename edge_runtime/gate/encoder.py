"""The line's encoder: how far the belt has gone, now and at a moment that has just been.

Linux shows every counter it has a driver for as a file (`/sys/bus/counter/devices/counter0/count0/count`:
quadrature units of processors, counter cards, `interrupt-cnt` on a GPIO line). Counting is the kernel's
and the hardware's; here it is read. Leaves out: counting edges in Python, which loses some, and
setting a counter up (its other files; docs/gate.md).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diagline.errors import ConfigError

MOMENTS = 4096
"""Counts that are remembered: 8 s at a gate's usual step of 2 ms."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Which counter is the belt's: the `[encoder]` section of a box's config.

    Attributes:
        count: the counter's file, one whole number; the file `ceiling` beside it says where it starts again from 0.
        reverse: the counter counts down while the belt goes forwards.
    """

    count: Path
    reverse: bool = False


class Encoder:
    """A counter that never starts again from 0, with a memory. Safe from any thread."""

    def __init__(self, config: EncoderConfig, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Read it once.

        Raises:
            ConfigError: there is no counter, or what it shows is no whole number.
        """
        self._config, self._clock = config, clock
        self._lock = threading.Lock()
        self._raw, self._position = 0, 0
        self._moments: deque[tuple[int, int]] = deque(maxlen=MOMENTS)
        ceiling = config.count.with_name("ceiling")
        try:
            self._modulus = int(ceiling.read_text()) + 1 if ceiling.is_file() else None
            self._raw = int(config.count.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"encoder.count = {str(config.count)!r}: {error}; expected a counter's file "
                f"(/sys/bus/counter/devices/counter0/count0/count); look which of them moves with the belt"
            ) from error
        self._moments.append((clock(), 0))

    def read(self) -> int:
        """Counts since it was opened.

        Raises:
            OSError, ValueError: the counter does not answer; one that is there again goes on from where it is.
        """
        with self._lock:
            raw = int(self._config.count.read_text())
            moved, self._raw = raw - self._raw, raw
            if self._modulus is not None:  # the shorter way round
                half = self._modulus // 2
                moved = (moved + half) % self._modulus - half
            self._position += -moved if self._config.reverse else moved
            self._moments.append((self._clock(), self._position))
            return self._position

    def at(self, at_ns: int) -> int | None:
        """Counts at a moment of the monotonic clock, on the straight line between two readings.

        None before what is remembered, in the future, or when the counter does not answer.
        """
        try:
            if at_ns > self._moments[-1][0]:
                self.read()
        except (OSError, ValueError):
            return None
        with self._lock:
            moments = list(self._moments)
        place = bisect_left(moments, at_ns, key=lambda moment: moment[0])
        if place == len(moments) or (place == 0 and moments[0][0] != at_ns):
            return None
        after_ns, after = moments[place]
        if after_ns == at_ns:
            return after
        before_ns, before = moments[place - 1]
        return before + round((after - before) * (at_ns - before_ns) / (after_ns - before_ns))
