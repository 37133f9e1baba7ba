"""One engine's golden vectors in a process of its own, whose death is an answer too.

A library that was built for another processor ends its process with SIGILL, and a driver may hang it;
neither may take along who asks. Leaves out: the vectors themselves (`selftest.py`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from diagline import bundle
from diagline.errors import DiaglineError
from edge_runtime.loop import open_inspector

TIMEOUT_S = 60.0
COMMAND = (sys.executable, "-m", "edge_runtime.engines.golden_apart")


def fault_apart(root: Path, format_name: str, engine: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Why an engine does not give a bundle's golden outputs on this machine, in one line; None where it does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    asked = [*COMMAND, str(root.absolute()), format_name, engine]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout_s:g} s"
    if done.returncode < 0:
        return f"{engine} died ({signal.Signals(-done.returncode).name})"
    if done.returncode > 0:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return done.stdout.strip() or None


def main(root: str, format_name: str, engine: str) -> None:
    """Print the fault, or nothing."""
    try:
        fault = open_inspector(bundle.read(Path(root)), format_name, 1, engine).fault
    except DiaglineError as error:
        fault = " ".join(str(error).split())
    print(fault or "")


if __name__ == "__main__":
    main(*sys.argv[1:])
