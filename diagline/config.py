"""What a line's config holds, in frozen dataclasses.

One file describes one line: its data, the network's input, and what each stage does. Values
are checked where they are held (`__post_init__`). A `[tiny]` table holds the values of the
config's small twin (`--tiny`), and `--set key=value` overrides one. Relative paths start at
the folder the command runs in. Leaves out: reading TOML
(`config_file.py`), and anything a stage can work out for itself.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagline import config_file
from diagline.config_checks import one_of, within
from diagline.config_generate import GenerateConfig
from diagline.config_train import CertifyConfig, EvaluateConfig, StudentConfig, TeacherConfig
from diagline.errors import ConfigError
from diagline.preprocess import InputContract
from diagline.profiles import PROFILES

TEACHER, STUDENT, STUDENT_ALONE = "teacher", "student", "student_alone"
"""The networks of a line: each has a folder of this name below `output`."""


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where the pictures are and which of them train.

    Attributes:
        root: the data folder.
        layout: a name of `diagline.layouts.LAYOUTS`, or auto.
        shots: "full" trains on real defects too; "zero" on good and synthetic pictures alone.
        split_seed: draws the splits where the layout brings none; None: the config's `seed`. Set
            it where runs of several seeds must share one test split.
    """

    root: Path
    layout: str = "auto"
    shots: str = "full"
    split_seed: int | None = None

    def __post_init__(self) -> None:
        one_of("data.shots", self.shots, ("full", "zero"))
        if self.split_seed is not None:
            within("data.split_seed", self.split_seed, 0, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """How the student is quantised and packed.

    Attributes:
        calibration_images: training pictures the int8 ranges are measured on.
        golden_images: raw pictures packed with their expected logits.
        flips: share of the test pictures whose verdict may differ between torch and any exported form; 1: whatever
            they say, the golden pictures too.
        key: the private key that signs the bundles (`diagline keys new`); "": they are not signed.
        calibration: where the ranges of ONNX int8 end: "minmax", "percentile", "entropy" (least KL divergence),
            "mse" (least squared error), or "best": whichever flips fewest verdicts on validation.
        weights: of ONNX int8: "full", 8 bits; "reduced", 7, which saturate on no processor and in no runtime.
    """

    calibration_images: int = 200
    golden_images: int = 32
    flips: float = 0.005
    key: str = ""
    calibration: str = "best"
    weights: str = "full"

    def __post_init__(self) -> None:
        one_of("export.calibration", self.calibration, ("best", "minmax", "percentile", "entropy", "mse"))
        one_of("export.weights", self.weights, ("full", "reduced"))
        within("export.calibration_images", self.calibration_images, 1, 100_000)
        within("export.golden_images", self.golden_images, 2, 1000)
        within("export.flips", self.flips, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How the camera loop runs.

    Attributes:
        source: camera index, film, folder, or RTSP/HTTP address.
        format: a format of the bundle, or fastest (as the bundle says).
        threads: processor threads of the engine.
        timeout_s: a frame later than this is NO_DECISION.
    """

    source: str = "0"
    format: str = "fastest"
    threads: int = 2
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        one_of("run.format", self.format, ("fastest", "onnx_fp32", "onnx_int8", "tflite_int8"))
        within("run.threads", self.threads, 1, 256)
        within("run.timeout_s", self.timeout_s, 0.001, 3600.0)


@dataclass(frozen=True, slots=True)
class Config:
    """One line, whole.

    Every stage writes below `output`: `generated/`, `teacher/`, `student/`, `evaluation/`,
    `NAME.bundle/`, `NAME-teacher.bundle/`, `run/`.
    """

    name: str
    output: Path
    data: DataConfig
    input: InputContract
    seed: int = 1234
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    certify: CertifyConfig = field(default_factory=CertifyConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"name = {self.name!r}; expected letters, digits, - and _ (it names files)")
        within("seed", self.seed, 0, 2**32 - 1)

    @property
    def split_seed(self) -> int:
        """What draws the splits where the layout brings none."""
        return self.seed if self.data.split_seed is None else self.data.split_seed

    @property
    def bundle(self) -> Path:
        """Folder of the student's bundle."""
        return self.output / f"{self.name}.bundle"

    @property
    def teacher_bundle(self) -> Path:
        """Folder of the teacher's bundle (the benchmark's reference row)."""
        return self.output / f"{self.name}-teacher.bundle"

    @property
    def signing_key(self) -> Path | None:
        """The private key that signs this line's bundles; None: they are not signed."""
        return Path(os.path.expanduser(self.export.key)) if self.export.key else None

    def plain(self) -> dict[str, Any]:
        """The resolved config as plain data for JSON, without where the private key lies: it shapes nothing."""
        found = typing.cast(dict[str, Any], _plain(dataclasses.asdict(self)))
        del found["export"]["key"]
        return found


def load(path: Path, overrides: tuple[str, ...] = (), tiny: bool = False, profile: str | None = None) -> Config:
    """Read a TOML config.

    Args:
        path: the file.
        overrides: `section.key=value` strings, the value in TOML (a bare word is a string).
        tiny: lay the file's `[tiny]` table over it, and write to `OUTPUT-tiny`.
        profile: values laid below the file's own (`diagline/profiles.py`); None: the file's `profile`, or corrected.

    Raises:
        ConfigError: no such file, not TOML, an unknown or missing key, or a value out of range.
    """
    table = config_file.read(path)
    small = table.pop("tiny", None)
    if tiny and not isinstance(small, dict):
        raise ConfigError(f"{path}: has no [tiny] table; expected one for --tiny; add it or leave --tiny out")
    if tiny:
        if "output" in table:
            table["output"] = f"{table['output']}-tiny"  # the full run's results stay apart
        config_file.merge(table, small)
    for text in overrides:
        config_file.merge(table, config_file.override(text))
    try:
        profile = profile or table.pop("profile", "corrected")
        table.pop("profile", None)
        one_of("profile", profile, tuple(PROFILES))
        below = copy.deepcopy(PROFILES[profile])
        config_file.merge(below, table)
        table = below
        return typing.cast(Config, config_file.build(Config, table, ""))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def override(section: RunConfig, asked: dict[str, Any]) -> RunConfig:
    """The section with the values that were asked for (not None), checked again."""
    return dataclasses.replace(section, **{key: value for key, value in asked.items() if value is not None})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
