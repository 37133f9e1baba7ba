"""The parity ladder: torch, ONNX fp32, ONNX int8, TFLite int8, its reference kernels, TFLite Micro's, the C engine.

Each form is held against the top one (do its verdicts still stand?) and against the one above
it (where did they change?). The gate refuses a ladder whose verdicts flip. Leaves out: running
the forms (`parity.py`, `kernels.py`), their layers (`layers.py`) and the page (`ladder_page.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from diagline.bundle import Format
from diagline.preprocess import InputContract, preprocess
from diagline.samples import DEFECT, GOOD
from export import kernels, layers, parity
from export.kernels import Kernels
from export.layers import Reader
from export.parity import Parity, Picture, Runner
from training import evaluate
from training.student import Student
from training.student_spec import StudentSpec

TORCH, REFERENCE, MICRO, ENGINE = "torch", "tflite_reference", "tflite_micro", "c_engine"
ORACLES: dict[str, Callable[[bytes], Kernels]] = {
    REFERENCE: kernels.reference,
    MICRO: kernels.micro,
    ENGINE: kernels.c_engine,
}
LOOKED_AT = 8  # pictures whose maps are compared, those nearest to the threshold


@dataclass(frozen=True, slots=True)
class Flip:
    """A picture that a form judges otherwise than the top one.

    Attributes:
        label: 0 good, 1 defect.
        top, found: how far the two logits lie above the threshold; negative is PASS.
    """

    picture: str
    label: int
    top: float
    found: float


@dataclass(frozen=True, slots=True)
class Step:
    """A form, and what became of the verdicts on the way down to it.

    Attributes:
        ap: average precision; None where the pictures are of one class.
        flips: against the top form.
        flips_above: how many verdicts differ from those of the form above.
        difference, difference_above: largest distance of two logits of one picture.
        errors: relative error of each layer against the form above (`layers.errors`); empty where unknown.
        born: the layer at which that error rises most; None where nothing differs, or unknown.
    """

    form: str
    ap: float | None
    flips: tuple[Flip, ...]
    flips_above: int
    difference: float
    difference_above: float
    errors: dict[str, float]
    born: str | None


@dataclass(frozen=True, slots=True)
class Ladder:
    """What every form said of the same pictures.

    Attributes:
        pictures: how many.
        steps: from the top form on; the top's own step differs from nothing.
        exact: pictures on which TFLite Micro's kernels gave the reference ones' bits; None without TFLite.
        engine_exact: those on which the C engine gave TFLite Micro's; None without TFLite.
        escaped: golden defects that a form passes and the top one rejects, as "form: picture".
        golden: how many golden pictures were shown.
    """

    pictures: int
    steps: tuple[Step, ...]
    exact: int | None
    engine_exact: int | None
    escaped: tuple[str, ...]
    golden: int

    def refusals(self, allowed: float) -> list[str]:
        """Why the gate stays shut, a phrase each; empty when it opens.

        Args:
            allowed: share of the pictures whose verdict may flip in a form.
        """
        found = [
            f"{step.form} flips {len(step.flips)} of {self.pictures} verdicts of {self.steps[0].form} "
            f"({len(step.flips) / self.pictures:.2%}; at most {allowed:.2%} are allowed)"
            for step in self.steps
            if len(step.flips) > allowed * self.pictures
        ]
        if allowed < 1:  # 1 is the word of someone who only wants to see the chain run
            found += [f"golden defect passed by {one}" for one in self.escaped]
        for below, above, exact in ((MICRO, REFERENCE, self.exact), (ENGINE, MICRO, self.engine_exact)):
            if exact is not None and exact < self.pictures:
                found.append(f"{below} differs from {above} on {self.pictures - exact} of {self.pictures} pictures")
        return found

    def without(self, form: str) -> Ladder:
        """The same without a form."""
        steps = tuple(step for step in self.steps if step.form != form)
        return replace(self, steps=steps, escaped=tuple(one for one in self.escaped if not one.startswith(f"{form}: ")))

    def plain(self, allowed: float) -> dict[str, Any]:
        """For JSON: what the manifest keeps of it, the flipped pictures and layers left out."""
        forms = {}
        for step in self.steps:
            kept = asdict(step)
            del kept["form"], kept["errors"]
            forms[step.form] = {**kept, "flips": len(step.flips)}
        return {
            "pictures": self.pictures,
            "allowed_flips": allowed,
            "forms": forms,
            "micro_equals_reference": self.exact,
            "engine_equals_micro": self.engine_exact,
            "golden": self.golden,
            "golden_escaped": list(self.escaped),
            "refusals": self.refusals(allowed),
        }

    def details(self, allowed: float) -> dict[str, Any]:
        """For JSON: everything."""
        steps = {step.form: asdict(step) for step in self.steps}
        return {**self.plain(allowed), "forms": steps}


@dataclass(frozen=True, slots=True)
class Forms:
    """The forms of one network below torch, in the ladder's order.

    Attributes:
        network: the torch form; None where only the bundle is at hand.
        spec: a student's; None for a teacher, whose layers have no common names.
        formats: by form; the oracles' is that of the TFLite file.
        models: file contents by format name.
        runners: by form.
    """

    network: nn.Module | None
    spec: StudentSpec | None
    contract: InputContract
    formats: dict[str, Format]
    models: Mapping[str, bytes]
    runners: dict[str, Runner]

    @property
    def names(self) -> list[str]:
        """From the top on."""
        return [*([TORCH] if self.network is not None else []), *self.formats]


def forms(
    network: nn.Module | None, contract: InputContract, formats: Mapping[str, Format],
    models: Mapping[str, bytes], engines: Mapping[str, Runner], spec: StudentSpec | None = None,
) -> Forms:  # fmt: skip
    """The formats on the engines a box would run, and the TFLite file on its oracles below them.

    Args:
        spec: of the files, where there is no torch student to ask.
    """
    shown, runners = dict(formats), dict(engines)
    if "tflite_int8" in formats:
        for name, open_file in ORACLES.items():
            shown[name] = formats["tflite_int8"]
            runners[name] = parity.on_kernels(open_file(models["tflite_int8"]), shown[name])
    return Forms(network, network.spec if isinstance(network, Student) else spec, contract, shown, models, runners)


def build(forms: Forms, said: Parity, golden: Parity) -> Ladder:
    """The ladder of what the forms said of the pictures and of the golden ones.

    Args:
        said, golden: from `parity.compare` with the forms' network and runners.
    """
    names = forms.names
    margins = _margins(forms, said)
    rejected = {name: margins[name] >= 0 for name in names}
    errors = _errors(forms, said, margins[names[0]])
    steps = []
    for above, name in zip([names[0], *names], names, strict=False):
        flipped = np.flatnonzero(rejected[name] != rejected[names[0]])
        steps.append(
            Step(
                form=name,
                ap=_ap(said, _logits(forms, said, name)),
                flips=tuple(_flip(said, margins, names[0], name, int(index)) for index in flipped),
                flips_above=int(np.sum(rejected[name] != rejected[above])),
                difference=_apart(forms, said, names[0], name),
                difference_above=_apart(forms, said, above, name),
                errors=errors.get(name, {}),
                born=layers.born(errors.get(name, {})),
            )
        )
    exact, engine_exact = (_same_bits(said, above, below) for above, below in ((REFERENCE, MICRO), (MICRO, ENGINE)))
    escaped = tuple(_escaped(forms, golden))
    return Ladder(len(said.pictures), tuple(steps), exact, engine_exact, escaped, len(golden.pictures))


def _same_bits(said: Parity, above: str, below: str) -> int | None:
    if above not in said.outputs:
        return None
    return int(np.sum(said.outputs[above] == said.outputs[below]))


def _logits(forms: Forms, said: Parity, name: str) -> NDArray[np.float64]:
    return said.logits if name == TORCH else said.logits_of(name, forms.formats[name])


def _margins(forms: Forms, said: Parity) -> dict[str, NDArray[np.float64]]:
    """By form, (N,) logits above its threshold; the torch form stands at that of the first file."""
    first = next(iter(forms.formats.values()))
    found = {TORCH: said.logits - first.to_logit(first.threshold)}
    for name, fmt in forms.formats.items():
        found[name] = fmt.scale * (said.outputs[name] - fmt.threshold)
    return found


def _flip(said: Parity, margins: Mapping[str, NDArray[np.float64]], top: str, name: str, index: int) -> Flip:
    label = int(said.labels[index])
    return Flip(said.pictures[index], label, float(margins[top][index]), float(margins[name][index]))


def _apart(forms: Forms, said: Parity, above: str, name: str) -> float:
    return float(np.max(np.abs(_logits(forms, said, name) - _logits(forms, said, above))))


def _ap(said: Parity, logits: NDArray[np.float64]) -> float | None:
    if len({GOOD, DEFECT} & set(said.labels.tolist())) < 2:
        return None
    return float(evaluate.measure(said.labels, logits, 0.0).ap)


def _escaped(forms: Forms, golden: Parity) -> list[str]:
    margins = _margins(forms, golden)
    top = margins[forms.names[0]]
    return [
        f"{name}: {picture}"
        for name in forms.formats
        for picture, label, before, after in zip(golden.pictures, golden.labels, top, margins[name], strict=True)
        if label == DEFECT and before >= 0 > after
    ]


def _errors(forms: Forms, said: Parity, margins: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """By form, the errors of its layers against the form above, on the pictures nearest to the threshold."""
    if forms.spec is None:
        return {}
    nearest = np.argsort(np.abs(margins), kind="stable")[:LOOKED_AT]
    images = [preprocess(home.read_image(sample), forms.contract) for home, sample in (said.shown[i] for i in nearest)]
    # the C engine keeps no maps to look at: its bits are TFLite Micro's, or the gate is shut
    readers = {name: _reader(forms, forms.spec, name) for name in forms.names if name != ENGINE}
    pairs = itertools.pairwise(readers)
    return {name: layers.errors(readers[above], readers[name], images) for above, name in pairs}


def _reader(forms: Forms, spec: StudentSpec, name: str) -> Reader:
    if isinstance(forms.network, Student) and name == TORCH:
        return layers.of_torch(forms.network)
    if name.startswith("onnx"):
        return layers.of_onnx(forms.models[name], spec)
    open_file = ORACLES.get(name, kernels.xnnpack)
    return layers.of_tflite(forms.models["tflite_int8"], spec, open_file)


def flipped(pictures: Sequence[Picture], ladder: Ladder) -> list[tuple[Picture, dict[str, Flip]]]:
    """The pictures that some form judges otherwise, each with its flips by form."""
    by_name: dict[str, dict[str, Flip]] = {}
    for step in ladder.steps:
        for flip in step.flips:
            by_name.setdefault(flip.picture, {})[step.form] = flip
    return [(picture, by_name[picture[1].image]) for picture in pictures if picture[1].image in by_name]
