"""Keeps a native library's own chatter off stderr, where it offers no switch for it.

Leaves out: libraries that do offer one (OpenCV, FFmpeg, ONNX Runtime); theirs is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_stderr_off() -> Iterator[None]:
    """Send file descriptor 2 nowhere for the block; for short calls, since it holds for every thread."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError):  # a service may run without a stderr
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
