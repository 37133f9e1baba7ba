"""The commands that prove something: how good, how sure, and what it rests on.

Leaves out: what they do (`verbs_proof.py`), and the other commands (`cli.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from diagline.cli_options import (
    AllowUnsigned,
    ConfigFile,
    Json,
    Keys,
    Set,
    Sign,
    SkipBad,
    Tiny,
    load,
    open_bundle,
    say_run,
)
from diagline.console import SPEAKS, console
from diagline.errors import ConfigError, GenerationError, ParityError


def add_to(app: typer.Typer) -> None:
    """Make every command of this file one of `app`."""
    commands: tuple[Callable[..., None], ...] = (parity, certify, reproduce, value)
    for command in commands:
        app.command(rich_help_panel="Proof")(command)


def parity(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder")],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data folder; its test split is shown, if it has one")],
    layout: Annotated[str, typer.Option(help="How the folder is laid out; auto looks")] = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option(help="The torch network; by default where the export found it, if it is still there")
    ] = None,
    flips: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of verdicts that may differ; as at the export")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where the report is written (runs/parity-NAME)")] = None,
    keys: Keys = None,
    allow_unsigned: AllowUnsigned = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Show pictures to every form, torch to TFLite Micro, and say where verdicts flip; exit code 3 if too many do."""
    from diagline import verbs_proof

    found = verbs_proof.parity(
        open_bundle(bundle, keys, allow_unsigned), data, layout, checkpoint, flips, output, skip_bad
    )
    if as_json:
        print(json.dumps(found.ladder.details(found.allowed)))
    from export import ladder_page

    console.print(ladder_page.terminal(f"{found.model}, {found.ladder.pictures} pictures of {data}", found.ladder))
    for line in (ladder_page.exact_text(found.ladder), f"page: {found.page}"):
        console.print(line, soft_wrap=True)
    if refusals := found.ladder.refusals(found.allowed):
        raise ParityError(f"{bundle}: its forms disagree: {'; '.join(refusals)}; the report: {found.page}")


def certify(
    config_file: ConfigFile,
    escape: Annotated[float | None, typer.Option(help="Most defects that may pass, 0 to 1; as certify.escape")] = None,
    overkill: Annotated[
        float | None, typer.Option(help="Most good parts that may be rejected, 0 to 1; as certify.overkill")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Of each of the two bounds, 0 to 1; as certify.confidence")
    ] = None,
    sign: Sign = None,
    overrides: Set = None,
    tiny: Tiny = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Bound escape and overkill from real test parts, and write thresholds and certificate into the bundle."""
    from diagline import certificate, verbs_proof

    options = (("escape", escape), ("overkill", overkill), ("confidence", confidence))
    asked = [f"certify.{key}={number}" for key, number in options if number is not None]
    config = load(config_file, [*(overrides or ()), *asked], tiny, sign)
    bundle = verbs_proof.certify(config, skip_bad)
    issued = bundle.manifest.certificate or {}
    if as_json:
        print(json.dumps(issued))
    for name in issued["formats"]:
        console.print(certificate.line(bundle.manifest, name), soft_wrap=True)
    if issued["caution"]:
        console.print(issued["caution"], style="yellow", soft_wrap=True)
    left_out = set(bundle.manifest.formats) - set(issued["formats"])
    if left_out:
        console.print(f"not certified, as no engine runs it here: {', '.join(sorted(left_out))}", soft_wrap=True)
    console.print(f"page: {config.output / 'certificate' / 'certificate.html'}", soft_wrap=True)
    say_run(bundle)


def reproduce(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Data folder; the paper's is KSDD2")],
    profile: Annotated[str, typer.Option(help="paper: the authors' settings, quirks included; or corrected")] = "paper",
    methods: Annotated[
        str, typer.Option(help="Which rows; none is real defects alone")
    ] = "none,memseg,in_and_out,diag",
    counts: Annotated[str | None, typer.Option(help="N, pictures painted a set (80,100,120)")] = None,
    shots: Annotated[str, typer.Option(help="zero: Table 1; full: Table 2")] = "zero,full",
    seeds: Annotated[int | None, typer.Option(min=1, help="Trials a row (5)")] = None,
    model_diag: Annotated[str | None, typer.Option(metavar="PATH", help="DIAG's model; as generate.diag.model")] = None,
    model_in_and_out: Annotated[
        str | None, typer.Option(metavar="PATH", help="In&Out's model; as generate.in_and_out.model")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", metavar="TOML", help="A line's config instead of the built-in one")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where it is written (runs/reproduce-NAME)")] = None,
    overrides: Set = None,
    tiny: Tiny = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """The paper's tables on a folder: method x N x zero- and full-shot x seeds; goes on where it stopped."""
    from diagline import verbs_proof

    models = [
        f"generate.{section}.model={json.dumps(model)}"
        for section, model in (("diag", model_diag), ("in_and_out", model_in_and_out))
        if model is not None
    ]
    asked = verbs_proof.Reproduction(folder, profile, config_file, output, tiny, (*models, *(overrides or ())))
    numbers = _counts(counts or ("4,6,8" if tiny else "80,100,120"))
    found = verbs_proof.reproduce(asked, _words(methods), numbers, _words(shots), seeds or (2 if tiny else 5), skip_bad)
    if not SPEAKS:
        return
    if as_json:
        print(json.dumps(found.plain()))
    from training import paper_tables

    for table in paper_tables.terminal(found):
        console.print(table)
    for line in (found.rules, *found.footnotes()):
        console.print(line, soft_wrap=True)
    console.print(f"page: {Path(found.facts['output']) / 'tables.html'}", soft_wrap=True)
    if found.missing:
        rows = sum(not row.ran for row in found.rows)
        raise GenerationError(f"{rows} of {len(found.rows)} rows were not run: {'; '.join(found.missing)}")


def value(
    config_file: ConfigFile,
    by: Annotated[str, typer.Option(help="What is judged: each method, prompt or kind")] = "method",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each network; fewer than 3 decide nothing")] = 5,
    overkill: Annotated[float, typer.Option(help="Share of good parts every network may reject, 0 to 1")] = 0.05,
    overrides: Set = None,
    tiny: Tiny = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Does synthetic data help? Escape of held-out real defects with and without each group; a verdict each."""
    from diagline import verbs_proof

    config = load(config_file, overrides, tiny)
    found = verbs_proof.value(config, by, seeds, overkill, skip_bad)
    if not SPEAKS:
        return
    if as_json:
        print(json.dumps(found.plain()))
    from training import value_page

    console.print(value_page.terminal(found))
    for line in (value_page.RULE, *found.notes):
        console.print(line, soft_wrap=True)
    console.print(f"page: {config.output / 'value' / by / 'value.html'}", soft_wrap=True)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError:
        raise ConfigError(f"--counts {text!r}; expected numbers such as 80,100,120") from None
