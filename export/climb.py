"""The parity ladder of a finished bundle, on any pictures: `diagline parity`.

Leaves out: the ladder at export, whose files are in no bundle yet (`pack.py`).
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from diagline import files
from diagline.bundle import Bundle
from diagline.config import STUDENT, TEACHER
from diagline.errors import ExportError
from diagline.samples import Sample, SampleSet
from edge_runtime.engines.choice import open_engine
from export import ladder, parity
from export.ladder import Ladder
from export.parity import Parity
from training import student, teacher
from training.student_spec import StudentSpec


def climb(bundle: Bundle, network: nn.Module | None, pictures: SampleSet) -> tuple[Parity, Ladder]:
    """Show every picture, and the golden ones, to every form of the bundle.

    Raises:
        BundleError: a file does not open, or is not what the manifest says.
        DatasetError: a picture cannot be read.
    """
    manifest = bundle.manifest
    engines = {
        name: open_engine(bundle.path(name), name, fmt, manifest.input).infer for name, fmt in manifest.formats.items()
    }
    models = {name: bundle.path(name).read_bytes() for name in manifest.formats}
    spec = StudentSpec.from_plain(manifest.spec) if manifest.spec is not None else None
    forms = ladder.forms(network, manifest.input, manifest.formats, models, engines, spec)
    golden = SampleSet(
        bundle.root, tuple(Sample(one.image, None, one.label, "golden", one.image, "test") for one in bundle.golden)
    )
    said, proof = (
        parity.compare(network, forms.runners, [(home, sample) for sample in home], manifest.input, what)
        for home, what in ((pictures, "pictures in every form"), (golden, "golden pictures in every form"))
    )
    return said, ladder.build(forms, said, proof)


def torch_form(bundle: Bundle, checkpoint: Path | None) -> nn.Module | None:
    """The network that a bundle was exported from; None where it is not named and not to be found.

    Raises:
        TrainingError: not a checkpoint of a student or teacher.
        ExportError: another checkpoint than the bundle's.
    """
    made = bundle.manifest.provenance
    network = STUDENT if bundle.manifest.network == "student" else TEACHER
    path = checkpoint or Path(made["config"]["output"]) / network / f"{network}.pt"
    if not path.is_file() and checkpoint is None:
        return None
    load = student.load if network == STUDENT else teacher.load
    if path.is_file() and (found := files.sha256_file(path)) != made["checkpoint_sha256"]:
        if checkpoint is None:
            return None
        raise ExportError(
            f"{path}: SHA-256 {found[:12]}..., but {bundle.root} was made of {made['checkpoint_sha256'][:12]}...; "
            f"expected the same checkpoint; leave --checkpoint out to begin at ONNX fp32"
        )
    loaded = load(path)
    return student.fold(loaded) if isinstance(loaded, student.Student) and not loaded.folded else loaded
