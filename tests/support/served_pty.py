"""A serial port with something behind it that answers bytes with bytes, in a thread."""

from __future__ import annotations

import os
import pty
import select
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def served(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """The port's path, as long as the block runs; `answer` gets what arrives, piece by piece."""
    host, port = pty.openpty()
    tty.setraw(port)
    ended, end = os.pipe()

    def serve() -> None:
        while True:
            ready, _, _ = select.select([host, ended], [], [])
            if ended in ready:
                return
            os.write(host, answer(os.read(host, 4096)))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield os.ttyname(port)
    finally:
        os.write(end, b"x")
        thread.join()
        for handle in (host, port, ended, end):
            os.close(handle)
