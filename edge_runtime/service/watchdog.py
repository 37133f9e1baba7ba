"""What systemd hears of the box: that it is ready, that it is alive, that it is stopping.

The protocol of sd_notify(3): one datagram a message to the socket that NOTIFY_SOCKET names. Leaves
out: who calls `Watchdog.beat`. It must be the loop that owes verdicts; a thread that beats by itself
would keep a hung box alive.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"


def notify(message: str) -> bool:
    """Tell systemd; True where it took the message, False without NOTIFY_SOCKET or where nobody listens to it.

    Never raises: a box does not fall because its supervisor is deaf.

    Args:
        message: `KEY=VALUE`, or several of them, a line each.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)  # a full queue must not hold the loop
            sender.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        return False
    return True


class Watchdog:
    """Tells systemd that the box is alive, as often as WATCHDOG_USEC asks for.

    Attributes:
        period_s: `beat` is to be called at least this often, a quarter of what systemd bears; None: nobody watches.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Read WATCHDOG_USEC, and WATCHDOG_PID where it says that another process is meant."""
        limit_us = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.period_s = int(limit_us) / 4e6 if ours and limit_us.isdecimal() and int(limit_us) > 0 else None
        self._clock = clock
        self._next_ns = 0

    def beat(self) -> None:
        """Say so where a period has passed since it was said last; costs nothing in between."""
        if self.period_s is not None and (now_ns := self._clock()) >= self._next_ns and notify(ALIVE):
            self._next_ns = now_ns + round(self.period_s * 1e9)
