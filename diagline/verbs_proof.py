"""What the proving commands do: open the data, call the room, leave a record.

As `verbs.py`, whose helpers it uses: imports stages inside functions alone. Leaves out:
printing and exit codes (`cli_proof.py`).
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diagline import bundle as bundles
from diagline import config as configs
from diagline import files, layouts, pages, record, samples, signing, verbs
from diagline.bundle import Bundle
from diagline.config import Config, ExportConfig
from diagline.config_generate import METHODS
from diagline.console import SPEAKS, console
from diagline.errors import CertificateError, require
from diagline.samples import GOOD

if TYPE_CHECKING:
    from export.ladder import Ladder
    from training.paper_tables import Tables
    from training.value import Value

REPRODUCED = """\
# Written by diagline reproduce; the profile's values lie below these.
name = {name}
output = {output}
[data]
root = {root}
layout = "auto"
{size}
[generate]
prompts = ["white marks on the wall", "copper metal scratches"]
negative_prompt = "smooth, plain, black, dark, shadow"
[teacher]
weights = "imagenet"
[tiny.input]
width_px = 48
height_px = 64
[tiny.generate.diag]
size_px = 64
steps = 2
resize_width_px = 0
resize_height_px = 0
[tiny.generate.in_and_out]
size_px = 32
steps = 2
[tiny.generate.tune]
size_px = 32
epochs = 1
repeats = 1
class_images = 2
batch_size = 2
[tiny.teacher]
weights = "none"
epochs = 1
batch_size = 8
"""
"""The line that `reproduce` assumes: KSDD2 as the paper has it."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What `reproduce` is asked beside a config's keys.

    Attributes:
        folder: the data.
        profile: of `diagline/profiles.py`.
        config_file: a line's own config instead of the built-in one.
        output: None: runs/reproduce-NAME.
        tiny: the small twin.
        overrides: `section.key=value` strings, the last word.
    """

    folder: Path
    profile: str
    config_file: Path | None
    output: Path | None
    tiny: bool
    overrides: tuple[str, ...]

    def config(self) -> Config:
        """The grid's config.

        Raises:
            ConfigError, DatasetError: as `config.load`; no such folder.
        """
        layouts.detect(self.folder)  # no folder, no config
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", self.folder.resolve().name) or "data"
        output = self.output or Path("runs") / f"reproduce-{name}{'-tiny' if self.tiny else ''}"
        path = self.config_file
        if path is None:
            path = output / "reproduce.toml"
            size = "" if self.profile == "paper" else "[input]\nwidth_px = 224\nheight_px = 632"
            text = {"name": name, "output": str(output), "root": str(self.folder)}
            quoted = {key: json.dumps(value) for key, value in text.items()}
            files.write_text(path, REPRODUCED.format(size=size, **quoted))
        here = (f"data.root={json.dumps(str(self.folder))}", f"output={json.dumps(str(output))}")
        return configs.load(path, (*here, *self.overrides), self.tiny, self.profile)


def reproduce(
    asked: Reproduction,
    methods: tuple[str, ...],
    counts: tuple[int, ...],
    shots: tuple[str, ...],
    seeds: int,
    skip_bad: bool = False,
) -> Tables:
    """Run the paper's grid on a folder; writes tables.json, tables.html and run.json to the config's output.

    Raises:
        DiaglineError: as `training.reproduce.run`; a method that cannot run is in the tables instead.
    """
    require("torch", "workstation")
    from training import paper_tables
    from training import reproduce as room

    started = time.monotonic()
    grid = room.Grid(methods, counts, shots, seeds)
    config = asked.config()
    real = verbs.real_data(config, skip_bad)
    layout = layouts.detect(config.data.root) if config.data.layout == "auto" else config.data.layout
    found = room.run(config, real, layout == "ksdd2", grid, verbs.picture_features(config))
    where = {"data": str(config.data.root), "layout": layout, "output": str(config.output)}
    found = replace(found, facts={"profile": asked.profile, **where})
    if SPEAKS:
        files.write_json(config.output / "tables.json", found.plain())
        paper_tables.write(config.output / "tables.html", found, config.name)
        record.write(config.output, config, real.hash(), seconds=round(time.monotonic() - started, 1))
    return found


@dataclass(frozen=True, slots=True)
class Climbed:
    """A bundle's parity ladder on some pictures.

    Attributes:
        model: `Bundle.model`.
        allowed: share of verdicts that may flip in a form.
        page: the report.
    """

    model: str
    ladder: Ladder
    allowed: float
    page: Path


def parity(
    bundle: Bundle, data: Path, layout: str, checkpoint: Path | None, flips: float | None, output: Path | None,
    skip_bad: bool,
) -> Climbed:  # fmt: skip
    """Show a folder's pictures to every form of a bundle; writes parity.html and parity.json.

    Without `checkpoint` the torch network is taken from where the export found it, if that is still
    the same file; otherwise ONNX fp32 is the top of the ladder.

    Raises:
        BundleError, DatasetError: a file of the bundle or the folder cannot be used.
        TrainingError, ExportError: not the checkpoint that the bundle was made of.
    """
    require("torch", "workstation")
    from export import climb, ladder_page

    layout = layouts.detect(data) if layout == "auto" else layout
    pictures = layouts.open_data(data, layout, 0, skip_bad)
    pictures = pictures.split("test") if len(pictures.split("test")) else pictures
    network = climb.torch_form(bundle, checkpoint)
    if network is None:
        console.print("no torch network at hand: ONNX fp32 is the top; name one with --checkpoint", soft_wrap=True)
    said, found = climb.climb(bundle, network, pictures)
    told = bundle.manifest.parity or {}
    allowed = flips if flips is not None else float(told.get("allowed_flips", ExportConfig().flips))
    page = (output or Path("runs") / f"parity-{bundle.manifest.name}") / "parity.html"
    ladder_page.write(page, bundle.model, found, said.shown, allowed)
    return Climbed(bundle.model, found, allowed, page)


def certify(config: Config, skip_bad: bool = False) -> Bundle:
    """Certify the bundle for the targets of `[certify]`: it is rewritten with its certificate.

    Writes certificate.json, certificate.html and run.json to output/certificate; where a target
    is missed, missed.html alone, and everything else stays as it was.

    Raises:
        BundleError: not exported yet, a bundle that is not whole, or a signed one and no key to sign it again.
        DatasetError: as `issue.measure`.
        CertificateError: a target is missed; says by how much, and names the page.
        ParityError: the formats' verdicts differ too often at the threshold to be certified.
    """
    require("torch", "workstation")
    from export import certificate_page, issue

    started = time.monotonic()
    bundle = bundles.read(config.bundle)
    signing.check_rewritable(bundle, config.signing_key)
    real = verbs.real_data(config, skip_bad)
    full = config.data.shots == "full"
    val = real.split("val").where(lambda one: one.source == "real" and (full or one.label == GOOD))
    test = real.split("test")
    outcomes = issue.measure(bundle, val, test, config.certify, config.run.threads)
    folder = config.output / "certificate"
    try:
        issue.check_reached(bundle, outcomes)
    except CertificateError as error:
        page = folder / "missed.html"
        certificate_page.write(page, bundle, outcomes, test, pages.captioned)
        raise CertificateError(f"{error}; the missed defects: {page}") from None
    issue.check_flips(bundle, outcomes, config.export.flips)
    issued = issue.certificate(bundle, outcomes, val, test, config.certify)
    certified = issue.write(bundle, outcomes, issued, config.signing_key)
    with files.folder_aside(folder) as aside:
        certificate_page.write(aside / "certificate.html", certified, outcomes, test, pages.captioned)
        files.write_json(aside / "certificate.json", {"bundle": certified.model, **issued})
        hashes = json.dumps({"val": val.hash(), "test": test.hash()})
        record.write(aside, config, hashes, seconds=round(time.monotonic() - started, 1))
    return certified


def value(config: Config, by: str, seeds: int, overkill: float, skip_bad: bool = False) -> Value:
    """Judge the synthetic pictures of a line; writes value.json, value.html and run.json to output/value/BY.

    `by` "method" judges the sets of all methods that were painted, otherwise that of the config's
    method; what was accepted on the expert's page is among them.

    Raises:
        DiaglineError: as `training.value.judge`.
    """
    require("torch", "workstation")
    from training import value as room
    from training import value_page

    started = time.monotonic()
    real = verbs.real_data(config, skip_bad)
    folders = [verbs.generated_folder(config, method) for method in METHODS]
    if by != "method":
        folders = [verbs.generated_folder(config)]
    folders.append(verbs.studio_folder(config) / "accepted")
    synthetic = [samples.load(folder) for folder in folders if (folder / samples.RECORDS).is_file()]
    found = room.judge(config, real, synthetic, by, seeds, overkill)
    if SPEAKS:
        folder = config.output / "value" / by
        files.write_json(folder / "value.json", found.plain())
        value_page.write(folder / "value.html", found, config.name)
        hashes = json.dumps([real.hash(), *(one.hash() for one in synthetic)])
        record.write(folder, config, hashes, seconds=round(time.monotonic() - started, 1))
    return found
