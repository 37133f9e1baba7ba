"""What a run can be repeated from: `run.json` beside every output.

Holds the resolved config, seed, library versions, dataset hash, git revision and the
machine. Leaves out: results, which stand in files of their own.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from diagline import files
from diagline.config import Config

LIBRARIES = (
    "diagline", "torch", "torchvision", "diffusers", "transformers", "peft", "onnx", "onnxruntime",
    "tensorflow", "ai-edge-litert", "openvino", "opencv-python-headless", "opencv-python", "numpy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Version of each library that shapes a result, where installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_flags() -> frozenset[str]:
    """Instruction sets of this processor as Linux names them; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def machine() -> dict[str, Any]:
    """The facts a latency or a training time rests on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "int8": [flag for flag in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if flag in cpu_flags()],
        "governor": governor.read_text().strip() if governor.exists() else "unknown",
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def git_revision() -> str:
    """Revision of the source tree, `+changes` when it is not clean; "unknown" outside a checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return "unknown"
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if dirty else "")


def provenance(config: Config, data_hash: str) -> dict[str, Any]:
    """What shaped a result, without anything that differs between two equal runs."""
    return {
        "config": config.plain(),
        "seed": config.seed,
        "data_hash": data_hash,
        "versions": versions(),
        "git_revision": git_revision(),
    }


def write(folder: Path, config: Config, data_hash: str, **facts: Any) -> None:
    """Write `folder/run.json`: provenance, the machine, and the caller's facts (seconds, counts)."""
    files.write_json(folder / "run.json", {**provenance(config, data_hash), "machine": machine(), **facts})
