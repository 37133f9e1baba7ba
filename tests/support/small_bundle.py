"""A bundle of a few bytes, and what someone who forges one would do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline import bundle
from diagline.bundle import Format, Golden, HeatOutput, Manifest
from diagline.heat import Grid
from diagline.preprocess import InputContract

MODELS = {"onnx_fp32": b"fp32 weights", "onnx_int8": b"int8 weights", "tflite_int8": b"flat buffer"}
HEAT = HeatOutput(Grid(3, 2, 8, 7, 6), "uint8", 0.25, 100)
METRICS = {"ap": 0.9, "precision": 0.8, "recall": 0.7, "escape": 0.3, "overkill": 0.1}


def a_manifest() -> Manifest:
    return Manifest(
        name="line",
        network="student",
        spec={"stem": 8},
        input=InputContract(16, 24, 3, "letterbox"),
        formats={
            "onnx_fp32": Format(
                bundle.FORMATS["onnx_fp32"], "uint8", "float32", 1.0, 0, 0.25, METRICS, ("onnxruntime",)
            ),
            "onnx_int8": Format(
                bundle.FORMATS["onnx_int8"], "uint8", "int8", 0.125, 4, 6, METRICS, ("onnxruntime",), HEAT
            ),
            "tflite_int8": Format(bundle.FORMATS["tflite_int8"], "int8", "int8", 0.125, 4, 6, METRICS, ("litert", "x")),
        },
        fastest=("tflite_int8", "litert"),
        metrics_split={"hash": "ab", "split": "test", "good": 3, "defect": 2},
        flips={"onnx_fp32": 0, "onnx_int8": 1, "tflite_int8": 0},
        provenance={"seed": 1},
    )


def vectors() -> list[tuple[Golden, NDArray[np.uint8]]]:
    rng = np.random.default_rng(3)
    outputs = {"onnx_fp32": -1.5, "onnx_int8": -8, "tflite_int8": -8}
    frames = [rng.integers(0, 256, (6, 5, 3), dtype=np.uint8) for _ in range(2)]
    return [(Golden(f"golden/{i}.png", i, outputs), frame) for i, frame in enumerate(frames)]


def every_file(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def reseal(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and seal it again: what a wrong writer would leave."""
    body = json.loads((root / bundle.MANIFEST).read_text())
    change(body)
    put_manifest(root, json.dumps(body).encode())


def put_manifest(root: Path, data: bytes) -> None:
    """These bytes as the manifest, sealed."""
    overwrite(root / bundle.MANIFEST, data)
    overwrite(root / bundle.SEAL, f"{hashlib.sha256(data).hexdigest()}  {bundle.MANIFEST}\n".encode())


def overwrite(path: Path, data: bytes) -> None:
    """Put other bytes into a file. In place: ext4 goes to the disk for one that is cut to nothing first."""
    with path.open("r+b" if path.exists() else "wb") as stream:
        stream.write(data)
        stream.truncate()
