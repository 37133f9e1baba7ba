"""TOML to frozen dataclasses; an unknown key is an error that names the nearest key.

One file describes one line: its data, the network's input, and what each stage does. Values
are checked where they are held (`__post_init__`). A `[tiny]` table holds the values of the
config's small twin (`--tiny`), and `--set key=value` overrides one. Relative paths start at
the folder the command runs in. Leaves out: anything a stage can work out for itself.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagline.errors import ConfigError
from diagline.preprocess import InputContract
from diagline.profiles import PROFILES

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
MEMORY = ("full", "low", "offload")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where the pictures are and which of them train.

    Attributes:
        root: the data folder.
        layout: a name of `diagline.layouts.LAYOUTS`, or auto.
        shots: "full" trains on real defects too; "zero" on good and synthetic pictures alone.
    """

    root: Path
    layout: str = "auto"
    shots: str = "full"

    def __post_init__(self) -> None:
        _one_of("data.shots", self.shots, ("full", "zero"))


SHAPE_KINDS = ("scratch", "crack", "spot", "pit", "stain", "edge_chip")


@dataclass(frozen=True, slots=True)
class ShapesConfig:
    """Procedural masks, placed in the expert's allowed region (everywhere where there is none).

    Attributes:
        kinds: which of `SHAPE_KINDS` take turns.
        size_min, size_max: extent of a defect as a share of the picture's shorter side.
        angle_min_deg, angle_max_deg: heading of scratches and cracks; 0 runs along x, 90 along y.
    """

    kinds: tuple[str, ...] = SHAPE_KINDS
    size_min: float = 0.05
    size_max: float = 0.4
    angle_min_deg: float = 0.0
    angle_max_deg: float = 180.0

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ConfigError(f"generate.shapes.kinds is empty; expected some of {', '.join(SHAPE_KINDS)}")
        for kind in self.kinds:
            _one_of("generate.shapes.kinds", kind, SHAPE_KINDS)
        _within("generate.shapes.size_min", self.size_min, 0.001, 1.0)
        _within("generate.shapes.size_max", self.size_max, self.size_min, 10.0)  # a scratch may run along a long part
        _within("generate.shapes.angle_min_deg", self.angle_min_deg, -360.0, 360.0)
        _within("generate.shapes.angle_max_deg", self.angle_max_deg, self.angle_min_deg, 360.0)


@dataclass(frozen=True, slots=True)
class DiagConfig:
    """DIAG: how an inpainting pipeline fills the mask.

    Attributes:
        model: a local folder in diffusers' format, or a hub id that is in the local cache.
        steps, guidance, strength: of the denoising, as diffusers names them.
        size_px: side of the square the pipeline works on.
        padding_px: margin around the mask's box that the pipeline sees.
        paste: "masked" crops around the mask with the aspect kept and puts back only masked pixels;
            "pipeline" squashes the whole picture to the square, lets the pipeline crop and paste,
            and resizes it back, as the paper's code did.
        feather_px: "masked" blends over this width, inside the mask only; 0 is a hard edge.
        resize_width_px, resize_height_px: resize picture and mask to this first; 0 keeps their size.
        batch_size: pictures a pipeline call.
        precision: auto (bf16 or fp16 on a GPU that has it, else fp32), fp32, fp16, bf16.
        memory: "full"; "low" slices attention and VAE; "offload" also keeps idle parts off the GPU.
        device: auto, cpu or cuda.
    """

    model: str = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
    steps: int = 30
    guidance: float = 20.0
    strength: float = 0.99
    size_px: int = 1024
    padding_px: int = 32
    paste: str = "masked"
    feather_px: float = 2.0
    resize_width_px: int = 0
    resize_height_px: int = 0
    batch_size: int = 4
    precision: str = "auto"
    memory: str = "full"
    device: str = "auto"

    def __post_init__(self) -> None:
        _check_diffusion("generate.diag", self)
        _one_of("generate.diag.paste", self.paste, ("masked", "pipeline"))
        _within("generate.diag.strength", self.strength, 0.01, 1.0)
        _within("generate.diag.padding_px", self.padding_px, 0, 4096)
        _within("generate.diag.feather_px", self.feather_px, 0.0, 256.0)
        for name in ("resize_width_px", "resize_height_px"):
            _within(f"generate.diag.{name}", getattr(self, name), 0, 8192)
        if bool(self.resize_width_px) != bool(self.resize_height_px):
            raise ConfigError(
                f"generate.diag.resize_width_px = {self.resize_width_px}, resize_height_px = "
                f"{self.resize_height_px}; expected both, or 0 for both"
            )


@dataclass(frozen=True, slots=True)
class InAndOutConfig:
    """In&Out: whole pictures from Stable Diffusion, mixed with superimposed defects.

    Attributes:
        model: a local folder in diffusers' format, or a hub id that is in the local cache.
        lora: "none" (plain text-to-image), "tuned" (what `diagline tune` made), or a folder.
        in_share: share of in-distribution (diffusion) pictures; the others are MemSeg's. The
            paper does not publish its mixture.
        steps, guidance, size_px: of the sampling (DDIM).
        batch_size, precision, memory, device: as for DIAG.
    """

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    lora: str = "none"
    in_share: float = 0.5
    steps: int = 50
    guidance: float = 7.5
    size_px: int = 512
    batch_size: int = 4
    precision: str = "auto"
    memory: str = "full"
    device: str = "auto"

    def __post_init__(self) -> None:
        _check_diffusion("generate.in_and_out", self)
        _within("generate.in_and_out.in_share", self.in_share, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """DreamBooth-LoRA on real defects (`diagline tune`), with In&Out's published settings.

    Attributes:
        prompt: says what the defective pictures show; the rare word names this line's defect.
        class_prompt, class_images: prior preservation: pictures of the class the model paints first.
        prior_weight: weight of their loss.
        rank, alpha: of the attention adapters; conv_rank, conv_alpha: of the convolutions'.
        size_px: pictures are scaled into buckets of about this area, their aspect kept.
        epochs, repeats: every picture is shown `epochs * repeats` times.
        cycles: restarts of the cosine schedule.
        min_snr_gamma: clips the loss weight of easy timesteps; 0 weighs all alike.
    """

    prompt: str = "a photo of sks surface with a defect"
    class_prompt: str = "a photo of a surface with a defect"
    class_images: int = 200
    prior_weight: float = 1.0
    rank: int = 32
    alpha: int = 16
    conv_rank: int = 4
    conv_alpha: int = 1
    size_px: int = 512
    epochs: int = 50
    repeats: int = 10
    batch_size: int = 12
    learning_rate: float = 1e-5
    cycles: int = 3
    min_snr_gamma: float = 5.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, high in (
            ("class_images", 100_000), ("rank", 1024), ("conv_rank", 1024), ("epochs", 10_000), ("repeats", 10_000),
            ("batch_size", 1024), ("cycles", 1000),
        ):  # fmt: skip
            _within(f"generate.tune.{name}", getattr(self, name), 0 if name == "class_images" else 1, high)
        _within("generate.tune.alpha", self.alpha, 1, 1024)
        _within("generate.tune.conv_alpha", self.conv_alpha, 1, 1024)
        _within("generate.tune.size_px", self.size_px, 16, 2048)
        _within("generate.tune.learning_rate", self.learning_rate, 1e-9, 1.0)
        _within("generate.tune.prior_weight", self.prior_weight, 0.0, 100.0)
        _within("generate.tune.min_snr_gamma", self.min_snr_gamma, 0.0, 1000.0)
        _one_of("generate.tune.precision", self.precision, PRECISIONS)


@dataclass(frozen=True, slots=True)
class QualityConfig:
    """The gate every generated picture passes or is kept back at, with its reason.

    Attributes:
        gate: False keeps every picture (its scores are recorded all the same).
        features: "pyramid" (texture and colour statistics, no weights), or "resnet50" (with the
            weights of `teacher.weights`).
        visible_quantile: a change must stand out more than this share of redrawn good surface does.
        distance_margin: farthest allowed feature distance, in multiples of the normals' own.
        duplicate: correlation of two defects from which on the later one is a duplicate.
        calibration_images: good pictures the thresholds are measured on.
        budget: candidates painted at most, in multiples of `generate.count`.
    """

    gate: bool = True
    features: str = "pyramid"
    visible_quantile: float = 0.95
    distance_margin: float = 3.0
    duplicate: float = 0.95
    calibration_images: int = 64
    budget: float = 3.0

    def __post_init__(self) -> None:
        _one_of("generate.quality.features", self.features, ("pyramid", "resnet50"))
        _within("generate.quality.visible_quantile", self.visible_quantile, 0.5, 0.9999)
        _within("generate.quality.distance_margin", self.distance_margin, 0.1, 1e6)
        _within("generate.quality.duplicate", self.duplicate, 0.1, 1.0)
        _within("generate.quality.calibration_images", self.calibration_images, 2, 100_000)
        _within("generate.quality.budget", self.budget, 1.0, 1000.0)


METHODS = ("memseg", "in_and_out", "diag")
MASK_SOURCES = ("perlin", "real", "shapes", "regions")


@dataclass(frozen=True, slots=True)
class GenerateConfig:
    """How synthetic defects are painted; `count` 0 means none.

    Attributes:
        method: memseg, in_and_out or diag.
        count: defect pictures to paint.
        masks: where a defect goes: "perlin" (MemSeg's own), "real" (masks of the split's real
            defects), "shapes" (procedural), "regions" (exactly what the expert drew), or "auto":
            shapes for DIAG, else perlin.
        regions: the expert's drawing (JSON): allowed regions for perlin and shapes, masks for regions.
        prompts: what the expert says of the defects, one a list entry; in_and_out and diag need at least one.
        negative_prompt: what must not appear.
        spread: "even" takes prompts, masks and normals in turns, in seeded order; "uniform" draws masks and
            normals independently, with repeats, and takes the prompts one after the other, as the paper did.
        textures: folder of texture pictures (MemSeg's texture source); none: structure only.
        foreground: "full" where the surface fills the picture, "otsu" where a part stands on a background.
    """

    method: str = "memseg"
    count: int = 100
    masks: str = "auto"
    regions: Path | None = None
    prompts: tuple[str, ...] = ()
    negative_prompt: str = ""
    spread: str = "even"
    textures: Path | None = None
    foreground: str = "full"
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    diag: DiagConfig = field(default_factory=DiagConfig)
    in_and_out: InAndOutConfig = field(default_factory=InAndOutConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)

    def __post_init__(self) -> None:
        _one_of("generate.method", self.method, METHODS)
        _one_of("generate.masks", self.masks, ("auto", *MASK_SOURCES))
        _one_of("generate.spread", self.spread, ("even", "uniform"))
        _one_of("generate.foreground", self.foreground, ("full", "otsu"))
        _within("generate.count", self.count, 0, 1_000_000)
        for prompt in self.prompts:
            if not prompt.strip():
                raise ConfigError("generate.prompts holds an empty prompt; expected the expert's words; remove it")

    @property
    def mask_source(self) -> str:
        """`masks`, with auto resolved."""
        if self.masks != "auto":
            return self.masks
        return "shapes" if self.method == "diag" else "perlin"


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """How the ResNet-50 is trained.

    Attributes:
        weights: "none", "imagenet" (torchvision downloads them), or a .pth, .safetensors or
            .npz file, which may be partial.
        stride_in_1x1: put a block's stride into its first 1x1 (ResNet v1 weights) instead of
            its 3x3 (torchvision).
        freeze: number of leading stages that are not trained, 0 to 4 (1 = stem, 2 = stem and layer1, ...).
        batch_norm: "train" updates statistics all along; "frozen" never; "frozen_after_first_epoch"
            is what the paper's code did.
        schedule: "constant" as in the paper, or "cosine": a short rise, then down to 0; better from random weights.
        balance: draw good and defective pictures equally often.
        flips: random mirroring, "none", "horizontal", "vertical" or "both".
        precision: fp32, bf16 (autocast), or auto: bf16 where the device computes in it.
    """

    weights: str = "none"
    stride_in_1x1: bool = False
    freeze: int = 0
    batch_norm: str = "train"
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-4
    schedule: str = "constant"
    balance: bool = True
    flips: str = "both"
    precision: str = "auto"

    def __post_init__(self) -> None:
        _one_of("teacher.batch_norm", self.batch_norm, ("train", "frozen", "frozen_after_first_epoch"))
        _one_of("teacher.schedule", self.schedule, ("constant", "cosine"))
        _one_of("teacher.flips", self.flips, ("none", "horizontal", "vertical", "both"))
        _one_of("teacher.precision", self.precision, ("auto", "fp32", "bf16"))
        _within("teacher.freeze", self.freeze, 0, 4)
        _within("teacher.epochs", self.epochs, 1, 10_000)
        _within("teacher.batch_size", self.batch_size, 1, 4096)
        _within("teacher.learning_rate", self.learning_rate, 1e-9, 10.0)


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """How the compact network is distilled from the teacher.

    Attributes:
        size: S10, S30 or S100, after their MMAC at 224x632.
        temperature: softens both logits in the distillation term.
        soft_share: weight of the teacher's term; 0 trains without a teacher.
    """

    size: str = "S30"
    epochs: int = 120
    batch_size: int = 16
    learning_rate: float = 1e-2
    temperature: float = 2.0
    soft_share: float = 0.9
    balance: bool = True
    flips: str = "both"

    def __post_init__(self) -> None:
        _one_of("student.size", self.size, ("S10", "S30", "S100"))
        _one_of("student.flips", self.flips, ("none", "horizontal", "vertical", "both"))
        _within("student.epochs", self.epochs, 1, 100_000)
        _within("student.batch_size", self.batch_size, 1, 4096)
        _within("student.learning_rate", self.learning_rate, 1e-9, 10.0)
        _within("student.temperature", self.temperature, 0.1, 100.0)
        _within("student.soft_share", self.soft_share, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """How the student is quantised and packed.

    Attributes:
        calibration_images: training pictures the int8 ranges are measured on.
        golden_images: raw pictures packed with their expected logits.
    """

    calibration_images: int = 200
    golden_images: int = 32

    def __post_init__(self) -> None:
        _within("export.calibration_images", self.calibration_images, 1, 100_000)
        _within("export.golden_images", self.golden_images, 2, 1000)


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
        _one_of("run.format", self.format, ("fastest", "onnx_fp32", "onnx_int8", "tflite_int8"))
        _within("run.threads", self.threads, 1, 256)
        _within("run.timeout_s", self.timeout_s, 0.001, 3600.0)


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
    export: ExportConfig = field(default_factory=ExportConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"name = {self.name!r}; expected letters, digits, - and _ (it names files)")
        _within("seed", self.seed, 0, 2**32 - 1)

    @property
    def bundle(self) -> Path:
        """Folder of the student's bundle."""
        return self.output / f"{self.name}.bundle"

    @property
    def teacher_bundle(self) -> Path:
        """Folder of the teacher's bundle (the benchmark's reference row)."""
        return self.output / f"{self.name}-teacher.bundle"

    def plain(self) -> dict[str, Any]:
        """The resolved config as plain data for JSON."""
        return typing.cast(dict[str, Any], _plain(dataclasses.asdict(self)))


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
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: not found; expected a TOML config such as configs/demo.toml") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error}); correct the file") from error
    small = table.pop("tiny", None)
    if tiny and not isinstance(small, dict):
        raise ConfigError(f"{path}: has no [tiny] table; expected one for --tiny; add it or leave --tiny out")
    if tiny:
        if "output" in table:
            table["output"] = f"{table['output']}-tiny"  # the full run's results stay apart
        _merge(table, small)
    for override in overrides:
        _merge(table, _override(override))
    try:
        profile = profile or table.pop("profile", "corrected")
        table.pop("profile", None)
        _one_of("profile", profile, tuple(PROFILES))
        below = copy.deepcopy(PROFILES[profile])
        _merge(below, table)
        table = below
        return typing.cast(Config, _build(Config, table, ""))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def override(section: RunConfig, asked: dict[str, Any]) -> RunConfig:
    """The section with the values that were asked for (not None), checked again."""
    return dataclasses.replace(section, **{key: value for key, value in asked.items() if value is not None})


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}; expected section.key=value")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return typing.cast(dict[str, Any], parsed)


def _merge(table: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


def _build(kind: type[Any], table: dict[str, Any], prefix: str) -> Any:
    known = {item.name: item for item in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {prefix}{key}; {hint}")
    for name, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise ConfigError(f"missing key {prefix}{name}; expected it in the file; add it")
    return kind(**{key: _value(hints[key], value, prefix + key) for key, value in table.items()})


def _value(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} = {value!r}; expected a table [{key}]")
        return _build(typing.cast(type[Any], hint), value, key + ".")
    if typing.get_origin(hint) is tuple:  # tuple[kind, ...]
        if not isinstance(value, list):
            raise ConfigError(f"{key} = {value!r}; expected a list")
        return tuple(_value(typing.get_args(hint)[0], item, key) for item in value)
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if hint is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{key} = {value!r}; expected {'a path' if hint is Path else hint.__name__}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _check_diffusion(prefix: str, section: DiagConfig | InAndOutConfig) -> None:
    """The keys that both diffusion methods have."""
    if not section.model:
        raise ConfigError(f"{prefix}.model is empty; expected a folder or a hub id")
    _within(f"{prefix}.steps", section.steps, 1, 1000)
    _within(f"{prefix}.guidance", section.guidance, 0.0, 100.0)
    _within(f"{prefix}.size_px", section.size_px, 16, 4096)
    _within(f"{prefix}.batch_size", section.batch_size, 1, 256)
    _one_of(f"{prefix}.precision", section.precision, PRECISIONS)
    _one_of(f"{prefix}.memory", section.memory, MEMORY)
    _one_of(f"{prefix}.device", section.device, ("auto", "cpu", "cuda"))


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(value, allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{key} = {value!r}; expected one of {', '.join(allowed)}. {hint}".rstrip(". "))


def _within(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} = {value}; expected {low} to {high}")
