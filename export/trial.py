"""A network's files on trial: every form on the test split, every engine on the golden pictures.

Leaves out: making the files, what the trial is held to (`ladder.py`), and writing the bundle (`pack.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from diagline import files
from diagline.bundle import Format
from diagline.config import Config
from diagline.console import console
from diagline.errors import BundleError, ExportError
from diagline.preprocess import InputContract
from diagline.samples import SampleSet
from edge_runtime import selftest
from edge_runtime.engines.choice import engines_of, missing, open_engine
from edge_runtime.engines.engine import Engine
from export import golden, ladder, parity
from export.golden import GoldenSet
from export.ladder import Ladder
from export.parity import Parity


@dataclass(frozen=True, slots=True)
class ExportData:
    """The pictures an export needs.

    Attributes:
        calibration: training pictures, for the int8 ranges.
        val: validation pictures; golden vectors come from them, and from training ones where
            they are too few.
        test: what every format is measured on; it chooses nothing.
    """

    calibration: tuple[SampleSet, ...]
    val: tuple[SampleSet, ...]
    test: SampleSet


@dataclass(frozen=True, slots=True)
class Exported:
    """A network and its files, not measured yet.

    Attributes:
        kind: "student" or "teacher".
        network: the torch form, on the CPU in eval mode.
        spec: the student's as plain data; None for a teacher.
        checkpoint: where the network came from.
        formats: by name, with thresholds, without metrics and engines.
        models: file contents by the same names.
        quantisation: how the int8 ONNX file came about, as plain data.
    """

    kind: str
    network: nn.Module
    spec: dict[str, Any] | None
    checkpoint: Path
    formats: dict[str, Format]
    models: dict[str, bytes]
    quantisation: dict[str, Any]

    def without(self, name: str) -> Exported:
        """The same without a format."""
        formats = {key: fmt for key, fmt in self.formats.items() if key != name}
        return replace(self, formats=formats, models={key: self.models[key] for key in formats})


@dataclass(frozen=True, slots=True)
class Trial:
    """What the exported files did.

    Attributes:
        tested: every form on the test split, the formats through their engines.
        vectors: the golden pictures, with plain outputs.
        engines: per format the engines that are verified, in the order of `engines_of`.
        proven: per format that has any, the first one's golden outputs.
        climbed: the parity ladder on the test split and the golden pictures.
    """

    tested: Parity
    vectors: GoldenSet
    engines: dict[str, tuple[str, ...]]
    proven: dict[str, NDArray[np.float64]]
    climbed: Ladder


def attempt(config: Config, exported: Exported, threshold: float, data: ExportData) -> Trial:
    """Run every form on the test split, choose golden pictures, and let each engine prove itself on them.

    Raises:
        ExportError: no engine gives the golden verdicts of any format.
        DatasetError: a picture cannot be read.
    """
    formats, network, contract, who = exported.formats, exported.network, config.input, exported.kind
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / fmt.file for name, fmt in formats.items()}
        for name, path in paths.items():
            files.write_bytes(path, exported.models[name])
        engines = {
            name: _open_all(paths[name], name, fmt, contract, config.run.threads) for name, fmt in formats.items()
        }
        fast = {name: next(iter(some.values())).infer for name, some in engines.items()}
        rungs = ladder.forms(network, contract, formats, exported.models, fast)
        plain = {name: parity.run_plainly(paths[name], name, fmt) for name, fmt in formats.items()}
        shown = [(data.test, sample) for sample in data.test]
        tested = parity.compare(network, rungs.runners, shown, contract, f"{who}: test split in every form")
        pool = golden.candidates(data.val, data.calibration, config.export.golden_images, config.seed)
        known = parity.compare(network, plain, pool, contract, f"{who}: choosing golden pictures")
        vectors = golden.choose(pool, known, formats, threshold, config.export.golden_images, contract)
        proof = parity.compare(network, rungs.runners, vectors.shown, contract, f"{who}: golden pictures in every form")
        climbed = ladder.build(rungs, tested, proof)
        said = {name: _verified(vectors, name, formats[name], some) for name, some in engines.items()}
    proven = {name: next(iter(outputs.values())) for name, outputs in said.items() if outputs}
    if not proven:
        raise ExportError(
            f"{exported.checkpoint}: no engine gives its golden verdicts here (tried {', '.join(formats)}); "
            f"expected at least one; install the versions in constraints.txt, or export on another machine"
        )
    return Trial(tested, vectors, {name: tuple(outputs) for name, outputs in said.items()}, proven, climbed)


def _open_all(path: Path, name: str, fmt: Format, contract: InputContract, threads: int) -> dict[str, Engine]:
    """The format's own engine, and the others that are installed and take the file."""
    own, *others = engines_of(name)
    opened = {own: open_engine(path, name, fmt, contract, own, threads)}
    for other in others:
        if missing(other) is None:
            try:
                opened[other] = open_engine(path, name, fmt, contract, other, threads)
            except BundleError as error:
                console.print(f"{name}: not verified on {other}: {error}", soft_wrap=True)
    return opened


def _verified(
    vectors: GoldenSet, name: str, fmt: Format, engines: Mapping[str, Engine]
) -> dict[str, NDArray[np.float64]]:
    """Golden outputs of the engines that give the golden verdicts and that a box's self-test takes.

    The first of them is the one whose outputs the bundle holds.
    """
    proven: dict[str, NDArray[np.float64]] = {}
    for engine_name, engine in engines.items():
        outputs = vectors.verify(name, fmt, engine)
        if outputs is None:
            continue
        held = next(iter(proven.values()), outputs)
        pairs = zip(held.tolist(), outputs.tolist(), strict=True)
        if all(selftest.difference(name, fmt, engine_name, *pair) is None for pair in pairs):
            proven[engine_name] = outputs
    return proven
