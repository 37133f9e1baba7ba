"""What a config says of learning and of proof: `[teacher]`, `[student]`, `[evaluate]`, `[certify]`.

Leaves out: the other sections and the reading of TOML (`config.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from diagline.config_checks import one_of, within
from diagline.errors import ConfigError

FLIPS = ("none", "horizontal", "vertical", "both")


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """How the ResNet-50 is trained.

    Attributes:
        weights: "none", "imagenet" (torchvision downloads them), or a .pth, .safetensors or
            .npz file, which may be partial.
        stride_in_1x1: put a block's stride into its first 1x1 (ResNet v1 weights) instead of
            its 3x3 (torchvision).
        freeze: number of leading stages that are not trained, 0 to 4 (1 = stem, 2 = stem and layer1, ...).
        head: "pool", layer4 and one logit from its pooled map, as in the paper; or "patches", for lines with good
            parts alone: it tells good places of layer2 and layer3 from noised ones and learns from good
            pictures only (`training/patches.py`); takes `freeze = 4`.
        noise: with "patches", the spread of the noise, in units of each feature's own.
        worst: with "patches", the share of the worst places whose mean judges the picture; 0: all places' summed odds.
        batch_norm: "train" updates statistics all along; "frozen" never; "frozen_after_first_epoch"
            is what the paper's code did.
        labels: "record" takes a picture's own label; "mask" takes it again from the mask after
            resizing and truncation to integers, as the paper's code did, which loses thin defects.
        keep: the epoch whose weights are kept: "best" AP on validation, or the "last".
        average: share that a moving average of the weights keeps at each step, 0.98 say; the average is validated
            and kept, which smooths what the last steps happened to learn. 0: none.
        synthetic: whether synthetic defects train the teacher where real ones do too (`data.shots = "full"`).
        weight_decay: Adam's decoupled one (AdamW); 0 is plain Adam, as in the paper.
        schedule: "constant" as in the paper, or "cosine": a short rise, then down to 0; better from random weights.
        balance: draw good and defective pictures equally often.
        flips: random mirroring, "none", "horizontal", "vertical" or "both".
        views: ways each picture is shown (turned, scaled, moved, relit); 0: flips alone. A student that is shown
            such views needs a teacher that knows them: one that does not takes a turned good part for a defect.
        precision: fp32, bf16 (autocast), or auto: bf16 where the device computes in it.
    """

    weights: str = "none"
    stride_in_1x1: bool = False
    freeze: int = 0
    head: str = "pool"
    noise: float = 0.5
    worst: float = 0.0
    batch_norm: str = "train"
    labels: str = "record"
    keep: str = "best"
    average: float = 0.0
    synthetic: bool = True
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    schedule: str = "constant"
    balance: bool = True
    flips: str = "both"
    views: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        one_of("teacher.head", self.head, ("pool", "patches"))
        one_of("teacher.batch_norm", self.batch_norm, ("train", "frozen", "frozen_after_first_epoch"))
        one_of("teacher.labels", self.labels, ("record", "mask"))
        one_of("teacher.keep", self.keep, ("best", "last"))
        within("teacher.average", self.average, 0.0, 0.99999)
        one_of("teacher.schedule", self.schedule, ("constant", "cosine"))
        one_of("teacher.flips", self.flips, FLIPS)
        one_of("teacher.precision", self.precision, ("auto", "fp32", "bf16"))
        within("teacher.freeze", self.freeze, 0, 4)
        within("teacher.views", self.views, 0, 10_000)
        within("teacher.epochs", self.epochs, 1, 10_000)
        within("teacher.batch_size", self.batch_size, 1, 4096)
        within("teacher.learning_rate", self.learning_rate, 1e-9, 10.0)
        within("teacher.weight_decay", self.weight_decay, 0.0, 10.0)
        within("teacher.noise", self.noise, 1e-3, 100.0)
        within("teacher.worst", self.worst, 0.0, 1.0)
        if self.head == "patches" and self.freeze != 4:
            raise ConfigError(
                f'teacher.head = "patches" with teacher.freeze = {self.freeze}; expected 4: it judges the maps of '
                f"layer2 and layer3 as the weights give them; set teacher.freeze = 4"
            )


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """How the compact network is distilled from the teacher.

    Attributes:
        size: S10, S30 or S100, after their MMAC at 224x632.
        temperature: softens both logits in the distillation term.
        soft_share: weight of the teacher's term; 0 trains without a teacher.
        hints: weight of the feature hints: the student's inner map is to foretell the teacher's; 0 is none.
        places: weight of the teacher's verdict on each place: the student's heat map is to agree with it, or, where
            the teacher's head is "patches", an inner map is to foretell it; 0 is none.
        views: ways each picture is shown, the teacher asked about each; 0: flips alone.
        shown: "moved", the ways turn, scale, move and relight it; or "altered", they alter it at a place, too, as
            strangers to every painter would look: the teacher's word is then the only one (`soft_share` 1).
        jitter: each picture's contrast and brightness change by up to this share after the teacher was asked.
        synthetic: whether the student is shown synthetic defects where there are real ones too (`data.shots = "full"`).
        average: as `teacher.average`.
        weight_decay: Adam's decoupled one (AdamW); 0 is plain Adam.
        quantised_epochs: epochs of quantisation-aware fine-tuning after the others; 0 is none.
        quantised_learning_rate: their rate, falling to 0.
    """

    size: str = "S30"
    epochs: int = 120
    batch_size: int = 16
    learning_rate: float = 1e-2
    temperature: float = 2.0
    soft_share: float = 0.9
    hints: float = 0.0
    places: float = 0.0
    views: int = 0
    shown: str = "moved"
    jitter: float = 0.1
    synthetic: bool = True
    average: float = 0.0
    weight_decay: float = 0.0
    balance: bool = True
    flips: str = "both"
    quantised_epochs: int = 0
    quantised_learning_rate: float = 3e-5

    def __post_init__(self) -> None:
        one_of("student.size", self.size, ("S10", "S30", "S100"))
        one_of("student.flips", self.flips, FLIPS)
        within("student.epochs", self.epochs, 1, 100_000)
        within("student.batch_size", self.batch_size, 1, 4096)
        within("student.learning_rate", self.learning_rate, 1e-9, 10.0)
        within("student.temperature", self.temperature, 0.1, 100.0)
        within("student.soft_share", self.soft_share, 0.0, 1.0)
        within("student.hints", self.hints, 0.0, 1000.0)
        within("student.places", self.places, 0.0, 1000.0)
        within("student.views", self.views, 0, 10_000)
        one_of("student.shown", self.shown, ("moved", "altered"))
        within("student.jitter", self.jitter, 0.0, 1.0)
        if self.shown == "altered" and (self.soft_share < 1 or not self.views):
            raise ConfigError(
                f'student.shown = "altered" with soft_share = {self.soft_share:g} and views = {self.views}; expected '
                f'soft_share = 1 and views above 0: no label goes with an altered picture; set both, or shown = "moved"'
            )
        within("student.average", self.average, 0.0, 0.99999)
        within("student.weight_decay", self.weight_decay, 0.0, 10.0)
        within("student.quantised_epochs", self.quantised_epochs, 0, 10_000)
        within("student.quantised_learning_rate", self.quantised_learning_rate, 1e-9, 1.0)


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """How a network is measured.

    Attributes:
        ap: which average precision heads a table: "step" (scikit-learn, the paper's) or
            "trapezoid" (KSDD2's authors'); both are always in the figures.
        threshold: where precision, recall, escape and overkill are taken: "validation" chooses it
            there, "best_f1" on the test split itself, as the paper does.
        bootstrap: resamples of the test pictures behind each interval.
    """

    ap: str = "step"
    threshold: str = "validation"
    bootstrap: int = 2000

    def __post_init__(self) -> None:
        one_of("evaluate.ap", self.ap, ("step", "trapezoid"))
        one_of("evaluate.threshold", self.threshold, ("validation", "best_f1"))
        within("evaluate.bootstrap", self.bootstrap, 100, 1_000_000)


@dataclass(frozen=True, slots=True)
class CertifyConfig:
    """What the line's owner wants to be shown; shares are 0 to 1.

    Attributes:
        escape: most defects that may pass.
        overkill: most good parts that may be rejected.
        confidence: of each of the two bounds.
    """

    escape: float = 0.05
    overkill: float = 0.05
    confidence: float = 0.95

    def __post_init__(self) -> None:
        within("certify.escape", self.escape, 1e-6, 0.999999)
        within("certify.overkill", self.overkill, 1e-6, 0.999999)
        within("certify.confidence", self.confidence, 0.5, 0.999999)
