"""The config's `[generate]` table: methods, masks, prompts, the quality gate, fine-tuning.

Leaves out: reading the file and the other sections (`config.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from diagline.config_checks import one_of, within
from diagline.errors import ConfigError

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
MEMORY = ("full", "low", "offload")


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
            one_of("generate.shapes.kinds", kind, SHAPE_KINDS)
        within("generate.shapes.size_min", self.size_min, 0.001, 1.0)
        within("generate.shapes.size_max", self.size_max, self.size_min, 10.0)  # a scratch may run along a long part
        within("generate.shapes.angle_min_deg", self.angle_min_deg, -360.0, 360.0)
        within("generate.shapes.angle_max_deg", self.angle_max_deg, self.angle_min_deg, 360.0)


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
        one_of("generate.diag.paste", self.paste, ("masked", "pipeline"))
        within("generate.diag.strength", self.strength, 0.01, 1.0)
        within("generate.diag.padding_px", self.padding_px, 0, 4096)
        within("generate.diag.feather_px", self.feather_px, 0.0, 256.0)
        for name in ("resize_width_px", "resize_height_px"):
            within(f"generate.diag.{name}", getattr(self, name), 0, 8192)
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
        within("generate.in_and_out.in_share", self.in_share, 0.0, 1.0)


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
            within(f"generate.tune.{name}", getattr(self, name), 0 if name == "class_images" else 1, high)
        within("generate.tune.alpha", self.alpha, 1, 1024)
        within("generate.tune.conv_alpha", self.conv_alpha, 1, 1024)
        within("generate.tune.size_px", self.size_px, 16, 2048)
        within("generate.tune.learning_rate", self.learning_rate, 1e-9, 1.0)
        within("generate.tune.prior_weight", self.prior_weight, 0.0, 100.0)
        within("generate.tune.min_snr_gamma", self.min_snr_gamma, 0.0, 1000.0)
        one_of("generate.tune.precision", self.precision, PRECISIONS)


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
        one_of("generate.quality.features", self.features, ("pyramid", "resnet50"))
        within("generate.quality.visible_quantile", self.visible_quantile, 0.5, 0.9999)
        within("generate.quality.distance_margin", self.distance_margin, 0.1, 1e6)
        within("generate.quality.duplicate", self.duplicate, 0.1, 1.0)
        within("generate.quality.calibration_images", self.calibration_images, 2, 100_000)
        within("generate.quality.budget", self.budget, 1.0, 1000.0)


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
        one_of("generate.method", self.method, METHODS)
        one_of("generate.masks", self.masks, ("auto", *MASK_SOURCES))
        one_of("generate.spread", self.spread, ("even", "uniform"))
        one_of("generate.foreground", self.foreground, ("full", "otsu"))
        within("generate.count", self.count, 0, 1_000_000)
        for prompt in self.prompts:
            if not prompt.strip():
                raise ConfigError("generate.prompts holds an empty prompt; expected the expert's words; remove it")

    @property
    def mask_source(self) -> str:
        """`masks`, with auto resolved."""
        if self.masks != "auto":
            return self.masks
        return "shapes" if self.method == "diag" else "perlin"


def _check_diffusion(prefix: str, section: DiagConfig | InAndOutConfig) -> None:
    """The keys that both diffusion methods have."""
    if not section.model:
        raise ConfigError(f"{prefix}.model is empty; expected a folder or a hub id")
    within(f"{prefix}.steps", section.steps, 1, 1000)
    within(f"{prefix}.guidance", section.guidance, 0.0, 100.0)
    within(f"{prefix}.size_px", section.size_px, 16, 4096)
    within(f"{prefix}.batch_size", section.batch_size, 1, 256)
    one_of(f"{prefix}.precision", section.precision, PRECISIONS)
    one_of(f"{prefix}.memory", section.memory, MEMORY)
    one_of(f"{prefix}.device", section.device, ("auto", "cpu", "cuda"))
