"""The model package: `NAME.bundle/`, written and read here only.

    manifest.json       what follows, and the SHA-256 of every other file
    manifest.sha256     the manifest's own, as sha256sum writes it
    manifest.sig        in a signed bundle: who signed the manifest (`signing.py`)
    model.fp32.onnx     one file a format; a teacher's bundle holds the two ONNX ones
    model.int8.onnx
    model.int8.tflite
    golden/             golden.json and raw pictures: what every machine must answer at start

A reader refuses on any mismatch and says which file and why. It needs neither torch nor
TensorFlow. The manifest's schema is `manifest.schema.json`. Leaves out: whether who signed is
trusted (`signing.check_trusted`, for those who run a bundle) and running the networks
(`edge_runtime/engines/`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagline import bundle_files, certificate, files, samples, signing
from diagline.errors import BundleError, ConfigError
from diagline.heat import Grid
from diagline.preprocess import InputContract

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, SCHEMA_VERSION)
INT8_MIN, INT8_MAX = -128, 127
MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
SIGNATURE = "manifest.sig"
GOLDEN = "golden/golden.json"
FORMATS = {"onnx_fp32": "model.fp32.onnx", "onnx_int8": "model.int8.onnx", "tflite_int8": "model.int8.tflite"}


@dataclass(frozen=True, slots=True)
class HeatOutput:
    """A file's second output: the coarse map of what speaks for a defect, from the same inference.

    Attributes:
        grid: where its cells lie in the network's input. The file's own shape is
            `(1, 1, rows, columns)` in ONNX and `(1, rows, columns, 1)` in TFLite.
        dtype: "float32", "int8" or "uint8".
        scale, zero_point: heat in logits = scale * (output - zero_point); 1 and 0 for float32.
    """

    grid: Grid
    dtype: str
    scale: float
    zero_point: int

    def to_logits(self, output: NDArray[Any]) -> NDArray[np.float32]:
        """The file's output as `(rows, columns)` float32 of logits, a copy."""
        cells = output.reshape(self.grid.size).astype(np.float32)
        return np.float32(self.scale) * (cells - np.float32(self.zero_point))


@dataclass(frozen=True, slots=True)
class Format:
    """One exported file of the network.

    Every file takes one picture, `(1, height_px, width_px, channels)`, and returns one logit, a
    student's a heat map too.

    Attributes:
        file: path in the bundle.
        input_dtype: "uint8" (RGB as it is) or "int8" (RGB - 128).
        output_dtype: "float32" or "int8".
        scale, zero_point: logit = scale * (output - zero_point); 1 and 0 for float32.
        threshold: REJECT at or above, in the output's own domain (an int for int8).
        metrics: ap, precision, recall, escape, overkill on `Manifest.metrics_split`, measured
            through this file.
        engines: the engines that gave this file's verdicts at export; the golden outputs are the first one's.
        heat: the second output; None in a teacher's file, and in bundles made before there was one.
    """

    file: str
    input_dtype: str
    output_dtype: str
    scale: float
    zero_point: int
    threshold: float
    metrics: dict[str, float] = field(default_factory=dict)
    engines: tuple[str, ...] = ()
    heat: HeatOutput | None = None

    def to_logit(self, output: float) -> float:
        """The real-valued logit of a raw output."""
        return self.scale * (output - self.zero_point)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        name: the line's name.
        network: "student" or "teacher".
        spec: the StudentSpec as plain data; None for a teacher.
        input: what `preprocess` must make of a frame.
        formats: by name (`FORMATS`).
        fastest: (format, engine) that was fastest of the verified where `diagline bench --record`
            timed them; None until then.
        metrics_split: which samples the metrics rest on: dataset hash, split, counts.
        flips: per format the verdicts that differ from the torch network on that split; in a certified
            bundle from the first certified format, each at its certified threshold.
        certificate: None until one is issued (`export/issue.py`; its keys: docs/certificate.md).
        provenance: resolved config, seed, versions, git revision.
        parity: what the parity ladder found at export (docs/parity.md); None in bundles of schema version 1.
    """

    name: str
    network: str
    spec: dict[str, Any] | None
    input: InputContract
    formats: dict[str, Format]
    fastest: tuple[str, str] | None
    metrics_split: dict[str, Any]
    flips: dict[str, int]
    provenance: dict[str, Any]
    certificate: dict[str, Any] | None = None
    parity: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Golden:
    """One golden vector: a raw picture and the outputs every machine must reproduce.

    Attributes:
        image: path of the raw picture in the bundle.
        label: 0 good, 1 defect.
        outputs: raw output per format.
    """

    image: str
    label: int
    outputs: dict[str, float]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read and whose files matched their hashes.

    Attributes:
        sha256: of the manifest.
        public_key: whose signature fits it, 32 raw bytes; None: it is not signed.
    """

    root: Path
    manifest: Manifest
    golden: tuple[Golden, ...]
    sha256: str
    public_key: bytes | None = None

    @property
    def model(self) -> str:
        """`name@first 12 hex digits`: what a verdict names."""
        return f"{self.manifest.name}@{self.sha256[:12]}"

    @property
    def signer(self) -> str | None:
        """Id of the key that signed it; None: nobody did."""
        return None if self.public_key is None else signing.key_id(self.public_key)

    def path(self, name: str) -> Path:
        """Path of a format's file.

        Raises:
            BundleError: the bundle does not hold that format.
        """
        if name not in self.manifest.formats:
            raise BundleError(f"{self.root}: holds no {name}; expected one of {', '.join(self.manifest.formats)}")
        return self.root / self.manifest.formats[name].file

    def golden_frame(self, golden: Golden) -> NDArray[np.uint8]:
        """A golden vector's raw picture, `(h, w, 3)` uint8 BGR."""
        return samples.read_image(self.root / golden.image)


def write(
    target: Path,
    manifest: Manifest,
    models: dict[str, bytes],
    golden: Sequence[tuple[Golden, NDArray[np.uint8]]],
    key: Path | None = None,
) -> Bundle:
    """Write a bundle beside `target`, read it back, and put it in place in one step.

    Args:
        target: `NAME.bundle`; one that exists is replaced only by a whole one.
        models: file contents per format name.
        golden: each golden vector with its raw BGR picture.
        key: the private key that signs it; None leaves it unsigned.

    Raises:
        OutputError: the folder cannot be written to.
        BundleError: what was written does not read back, or the key cannot be used.
    """
    with files.folder_aside(target) as root:
        for name, data in models.items():
            files.write_bytes(root / manifest.formats[name].file, data)
        for vector, frame in golden:
            samples.write_image(root / vector.image, frame)
        files.write_json(root / GOLDEN, [asdict(vector) for vector, _ in golden])
        body = {
            "schema_version": SCHEMA_VERSION,
            **asdict(manifest),
            "files": {name: files.sha256_file(root / name) for name in _listing(root)},
        }
        files.write_json(root / MANIFEST, body)
        data = (root / MANIFEST).read_bytes()
        files.write_text(root / SEAL, _seal(data))
        if key is not None:
            files.write_bytes(root / SIGNATURE, signing.sign(data, key))
        read(root)
    return read(target)


def rewrite(bundle: Bundle, manifest: Manifest, golden: Sequence[Golden], key: Path | None) -> Bundle:
    """Write a bundle anew in its place, with another manifest and of its golden vectors those given.

    Raises:
        OutputError, BundleError: as `write`.
    """
    models = {name: bundle.path(name).read_bytes() for name in bundle.manifest.formats}
    return write(bundle.root, manifest, models, [(vector, bundle.golden_frame(vector)) for vector in golden], key)


def sign(root: Path, key: Path) -> Bundle:
    """Sign a bundle that is there, in place of the signature it may carry; every other file stays as it is.

    Raises:
        BundleError: it is not whole, or the key cannot be used.
        OutputError: its folder cannot be replaced.
    """
    read(root)
    with files.folder_aside(root) as aside:  # a file half written inside would be refused as an added one
        shutil.copytree(root, aside, dirs_exist_ok=True)
        files.write_bytes(aside / SIGNATURE, signing.sign((aside / MANIFEST).read_bytes(), key))
        read(aside)
    return read(root)


def read(root: Path) -> Bundle:
    """Read a bundle and check every file in it.

    Raises:
        BundleError: no bundle there; a file changed, missing, added or not a plain file; a path
            that leaves the folder; an unknown schema version; a manifest that cannot be
            understood; a signature that is not the manifest's; a certificate of another file,
            threshold or test split. Names the file.
        MissingExtraError: it is signed and `cryptography` is not installed.
    """
    try:
        return _read(root)
    except OSError as error:
        raise BundleError(
            f"{error.filename or root}: {error.strerror}; expected a bundle folder that can be read; "
            f"make one with: diagline export CONFIG"
        ) from error


def _read(root: Path) -> Bundle:
    path, present = root / MANIFEST, _listing(root)  # refuses links before any is followed
    data = path.read_bytes()
    try:
        body = bundle_files.read_json(data)
        version = body.pop("schema_version")
        hashes = dict(body.pop("files"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path}: not a manifest ({error}); export the bundle again") from error
    if type(version) is not int or version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise BundleError(f"{path}: schema version {version!r}; this diagline reads {readable}; export it again")
    if not (root / SEAL).is_file() or (root / SEAL).read_bytes() != _seal(data).encode():
        raise BundleError(f"{path}: does not match {SEAL} beside it; one of them is changed; copy the bundle again")
    public_key = signing.verify(root / SIGNATURE, data) if (root / SIGNATURE).exists() else None
    for name in hashes:
        bundle_files.check_path(path, name)
    bundle_files.check_files(root, present, hashes)
    try:
        manifest = _manifest(body, version)
        golden = tuple(Golden(**entry) for entry in bundle_files.read_json((root / GOLDEN).read_bytes()))
        named = [entry.file for entry in manifest.formats.values()] + [vector.image for vector in golden]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise BundleError(f"{path}: cannot be understood ({error}); export the bundle again") from error
    for name in named:
        bundle_files.check_path(path, name)
        if name not in hashes:
            raise BundleError(f"{path}: names {name}, which has no hash; export the bundle again")
    certificate.verify(path, manifest, hashes)
    return Bundle(root, manifest, golden, hashlib.sha256(data).hexdigest(), public_key)


def _listing(root: Path) -> list[str]:
    """Paths of the files that need a hash."""
    return [name for name in bundle_files.listing(root) if name not in (MANIFEST, SEAL, SIGNATURE)]


def _seal(manifest: bytes) -> str:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n"


def _manifest(body: dict[str, Any], version: int) -> Manifest:
    fields = dict(body)
    if version == 1:  # without parity; the oldest also without certificate and heat
        formats = {name: {"heat": None, **entry} for name, entry in fields.pop("formats").items()}
        fields = {"certificate": None, **dict(**fields, formats=formats, parity=None)}
    if missing := {one.name for one in dataclasses.fields(Manifest)} - set(fields):
        raise KeyError(f"{min(missing)} is missing")
    fields["input"] = InputContract(**fields["input"])
    fields["formats"] = {name: _format(entry) for name, entry in fields["formats"].items()}
    if fields["fastest"] is not None:
        name, engine = fields["fastest"]
        fields["fastest"] = (name, engine)
    return Manifest(**fields)


def _format(entry: dict[str, Any]) -> Format:
    heat = entry["heat"]
    read = HeatOutput(**{**heat, "grid": Grid(**heat["grid"])}) if heat is not None else None
    return Format(**{**entry, "engines": tuple(entry["engines"]), "heat": read})
