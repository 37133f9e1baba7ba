"""Which engine is the fastest on this box: timed once at install, kept beside BOX.toml as BOX.engine.json.

Not in the bundle, which is signed and may run on boxes of several kinds. Leaves out: timing (`measure.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diagline import files, record
from diagline.bundle import Bundle
from diagline.console import console
from edge_runtime.bench import measure

PACKAGES = {"onnxruntime": "onnxruntime", "litert": "ai-edge-litert", "openvino": "openvino"}
"""The distribution of each engine that a box runs, as `record.versions` names it."""
FITS = ("cpu", "cores", "int8")
"""What of `record.machine` must be as it was; a governor or a kernel may change."""


@dataclass(frozen=True, slots=True)
class RecordedEngine:
    """What was fastest of the engines that passed the golden vectors.

    Attributes:
        threads: processor threads of one inference.
        p50_ms: of inference, at that many threads.
        bundle: SHA-256 of the manifest of the bundle that was timed.
        machine: of `record.machine`.
        versions: of `record.versions`.
    """

    format: str
    engine: str
    threads: int
    p50_ms: float
    bundle: str
    machine: dict[str, Any]
    versions: dict[str, str]


def engine_file(box: Path) -> Path:
    """Where the record of BOX.toml lies: BOX.engine.json beside it."""
    return box.with_suffix(".engine.json")


def record_engine(box: Path, bundle: Bundle, threads: int, seconds: float = 3.0) -> RecordedEngine:
    """Time every engine that passes the golden vectors here, and keep the fastest.

    Args:
        box: BOX.toml.
        seconds: how long each is timed.

    Raises:
        BundleError: none passes, or none that the bundle's certificate covers.
        OutputError: the record cannot be written.
    """
    result = measure.bench(bundle, threads=(threads,), seconds=seconds)
    row = measure.fastest(bundle, result, threads)
    found = RecordedEngine(
        row.format, row.engine, threads, row.inference.p50, bundle.sha256, result.machine, result.versions
    )
    files.write_json(engine_file(box), asdict(found))
    return found


def recorded_engine(box: Path, bundle: Bundle, threads: int | None = None) -> RecordedEngine | None:
    """The engine recorded for a box, where bundle and machine still are what was timed; None where none is.

    A record that does not fit any more is said, with the reason.

    Args:
        box: BOX.toml.
        threads: those of the box; None: any.
    """
    path = engine_file(box)
    try:
        found = RecordedEngine(**json.loads(path.read_bytes()))
        why = _misfit(found, bundle, threads)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        why = f"it cannot be read ({' '.join(str(error).split())})"
    if why is None:
        return found
    console.print(f"{path}: not taken, as {why}; next: diagline install {box}", style="yellow", soft_wrap=True)
    return None


def _misfit(found: RecordedEngine, bundle: Bundle, threads: int | None) -> str | None:
    if found.bundle != bundle.sha256:
        return f"another bundle was timed ({found.bundle[:12]}; this one is {bundle.sha256[:12]})"
    if threads not in (None, found.threads):
        return f"{found.threads} threads were timed; the box has {threads}"
    here, versions = record.machine(), record.versions()
    for name in FITS:
        if found.machine.get(name) != here[name]:
            return f"another machine was timed ({name} {found.machine.get(name)}; here {here[name]})"
    package = PACKAGES.get(found.engine, "")
    if package not in versions or found.versions.get(package) != versions[package]:
        was, now = found.versions.get(package), versions.get(package, "not installed")
        return f"{found.engine} {was} was timed; here it is {now}"
    return None
