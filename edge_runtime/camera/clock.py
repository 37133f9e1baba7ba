"""Time as the watch over a camera sees it, so that a test can move it by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Clock:
    """The monotonic clock and waiting by it."""

    def now_ns(self) -> int:
        """Nanoseconds, as `Frame.taken_ns` and `Trigger.at_ns`."""
        return time.monotonic_ns()

    def wait(self, changed: threading.Condition, ready: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait, holding `changed`, until `ready` or for so long; returns what `ready` says then."""
        return changed.wait_for(ready, timeout_s)
