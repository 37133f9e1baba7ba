"""The `diagline` command: the only place that prints errors and chooses exit codes.

Exit code 2: bad input, one line that names it. 130: stopped by Ctrl-C; finished outputs are
whole. Stages are imported on demand, so `run` and `bench` need the edge extra alone. Leaves
out: what the commands do (`verbs.py`, `demo.py`, `edge_runtime/`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from diagline import cli_box, cli_device, cli_generate, cli_image, cli_keys, cli_proof, config_file, signing
from diagline import config as configs
from diagline.cli_options import (
    INTERRUPTED,
    AllowUnsigned,
    ConfigFile,
    Json,
    Keys,
    Set,
    Sign,
    SkipBad,
    Target,
    Tiny,
    load,
    open_bundle,
    say_next,
    say_run,
)
from diagline.console import console
from diagline.errors import ConfigError, DiaglineError, require

HELP = "Defect-free pictures in, live int8 verdicts out: inspect, generate, train, distill, export, run, bench, flash."
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)
data_app = typer.Typer(no_args_is_help=True, help="Look at the pictures of a line.")
app.add_typer(data_app, name="data")

cli_generate.add_to(app)


@data_app.command("inspect")
def data_inspect(
    target: Annotated[Path, typer.Argument(metavar="FOLDER|CONFIG", help="A data folder, or a TOML file")],
    layout: Annotated[str, typer.Option(help="How the folder is laid out; auto finds out")] = "auto",
    overrides: Set = None,
    tiny: Tiny = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Read every picture and mask of a line and say what is there."""
    require("cv2", "edge")
    from diagline import verbs

    seed = 1234
    if target.suffix == ".toml":
        config = load(target, overrides, tiny)
        target, layout, seed = config.data.root, config.data.layout, config.split_seed
    found = verbs.inspect(target, layout, seed, skip_bad)
    if as_json:
        print(json.dumps(found))
        return
    table = Table(title=f"{target} ({found['layout']})", title_justify="left")
    for name in ("split", "kind", "pictures"):
        table.add_column(name, justify="right" if name == "pictures" else "left")
    for split, kinds in found.pop("counts").items():
        for kind, pictures in kinds.items():
            table.add_row(split, kind, str(pictures))
    console.print(table)
    for name, value in found.items():
        console.print(f"{name}: {value}", soft_wrap=True)


@app.command(rich_help_panel="Networks")
def train(config_file: ConfigFile, overrides: Set = None, tiny: Tiny = False, skip_bad: SkipBad = False) -> None:
    """Train the ResNet-50 teacher; goes on where a stopped run left off."""
    from diagline import verbs

    config = load(config_file, overrides, tiny)
    console.print(f"teacher in {verbs.train(config, skip_bad)}", soft_wrap=True)
    say_next(f"distill {config_file}")


@app.command(rich_help_panel="Networks")
def distill(config_file: ConfigFile, overrides: Set = None, tiny: Tiny = False, skip_bad: SkipBad = False) -> None:
    """Distil the compact student from the teacher."""
    from diagline import verbs

    config = load(config_file, overrides, tiny)
    console.print(f"student in {verbs.distill(config, skip_bad)}", soft_wrap=True)
    say_next(f"export {config_file}")


@app.command(rich_help_panel="Networks")
def evaluate(
    config_file: ConfigFile,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Run the whole line with so many seeds, and report mean and deviation")
    ] = None,
    overrides: Set = None,
    tiny: Tiny = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Score teacher, students and every exported format on the test split; writes a page."""
    from diagline import pages, pages_seeds, verbs, verbs_seeds

    config = load(config_file, overrides, tiny)
    folder = config.output / "evaluation"
    if seeds is None:
        found, shown, page = verbs.evaluate(config, skip_bad), "metrics.json", "report.html"
        tables = [pages.side_by_side(found), pages.kinds_table(found)]
    else:
        many, shown, page = verbs_seeds.evaluate_seeds(config, seeds, skip_bad), "seeds.json", "seeds.html"
        tables = [pages_seeds.table(many)]
    if as_json:
        print((folder / shown).read_text(), end="")
    else:
        for table in tables:
            console.print(table)
    console.print(f"page: {folder / page}", soft_wrap=True)


@app.command(rich_help_panel="Networks")
def export(
    config_file: ConfigFile,
    sign: Sign = None,
    overrides: Set = None,
    tiny: Tiny = False,
    skip_bad: SkipBad = False,
) -> None:
    """Export ONNX fp32, ONNX int8 and TFLite int8 into a bundle, measured through real engines."""
    from diagline import pages, verbs

    config = load(config_file, overrides, tiny, sign)
    bundle = verbs.export(config, skip_bad)
    console.print(pages.bundle_table(bundle))
    console.print(pages.bundle_parts(bundle), soft_wrap=True)
    signed = f"signed by {bundle.signer}" if bundle.signer else "not signed"
    console.print(f"bundle: {bundle.root}, {signed}", soft_wrap=True)
    say_next(f"evaluate {config_file}")
    say_run(bundle)


@app.command(rich_help_panel="Edge box")
def run(
    target: Target,
    source: Annotated[str | None, typer.Option(help="Camera index, film, folder, rtsp:// or http:// address")] = None,
    model_format: Annotated[
        str | None, typer.Option("--format", help="onnx_fp32, onnx_int8, tflite_int8 or fastest")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads of the engine")] = None,
    timeout_s: Annotated[float | None, typer.Option(min=0.001, help="A frame later than this is NO_DECISION")] = None,
    realtime: Annotated[bool, typer.Option(help="Play a film at its own rate and keep the newest frame")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames")] = None,
    log: Annotated[Path | None, typer.Option(help="Append every verdict to this file as JSON lines")] = None,
    keys: Keys = None,
    allow_unsigned: AllowUnsigned = False,
    overrides: Set = None,
    tiny: Tiny = False,
    as_json: Json = False,
) -> None:
    """Run the camera loop: one verdict a frame, printed and logged."""
    require("cv2", "edge")
    from diagline import certificate
    from edge_runtime import loop
    from edge_runtime.camera import open_camera

    root, settings, log_default = target, configs.RunConfig(), Path("runs/run/verdicts.jsonl")
    if target.suffix == ".toml":
        config = load(target, overrides, tiny)
        root, settings, log_default = config.bundle, config.run, config.output / "run" / "verdicts.jsonl"
    asked = {"source": source, "format": model_format, "threads": threads, "timeout_s": timeout_s}
    settings = configs.override(settings, asked)
    inspector = loop.open_inspector(open_bundle(root, keys, allow_unsigned), settings.format, settings.threads)
    console.print(certificate.line(inspector.bundle.manifest, inspector.format_name), soft_wrap=True)
    with open_camera(settings.source, settings.timeout_s, realtime) as camera:
        counts = loop.run(inspector, camera, loop.sinks(log or log_default, as_json), limit)
    console.print(f"{counts}; log: {log or log_default}", soft_wrap=True)


@app.command(rich_help_panel="Edge box")
def bench(
    target: Target,
    reference: Annotated[
        Path | None, typer.Option(help="The ResNet-50's bundle; NAME-teacher.bundle beside the bundle if there")
    ] = None,
    threads: Annotated[str, typer.Option(help="Thread counts, e.g. 1,2")] = "1,2",
    seconds: Annotated[float, typer.Option(min=0.1, help="Time a row is measured")] = 3.0,
    keys: Keys = None,
    allow_unsigned: AllowUnsigned = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Pictures to measure accuracy on; of a config its test split"),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write what was fastest into the bundle, for run --format fastest")
    ] = False,
    sign: Sign = None,
    overrides: Set = None,
    tiny: Tiny = False,
    as_json: Json = False,
) -> None:
    """Measure size, accuracy and latency of every format and engine, beside ResNet-50 on its fastest.

    A whole box under load: diagline bench-line BOX.toml.
    """
    require("cv2", "edge")
    from diagline import layouts
    from edge_runtime.bench import accuracy as bench_accuracy
    from edge_runtime.bench import measure as room
    from edge_runtime.bench import table as bench_table

    if target.suffix == ".toml" and "folder" in config_file.read(target):
        raise ConfigError(
            f"{target}: a box; expected a bundle or the TOML it was made with; diagline bench-line BOX.toml"
        )
    config = load(target, overrides, tiny, sign) if target.suffix == ".toml" else None
    key = config.signing_key if config is not None else sign
    root, line = (config.bundle, config.run) if config is not None else (target, configs.RunConfig())
    beside = root.with_name(f"{root.name.removesuffix('.bundle')}-teacher.bundle")
    if reference is None and beside.is_dir():
        reference = beside
    counts = _threads(threads)
    if record and line.threads not in counts:
        counts = (*counts, line.threads)
    bundle, pictures = open_bundle(root, keys, allow_unsigned), None
    if record:
        signing.check_rewritable(bundle, key)
    teacher = open_bundle(reference, keys, allow_unsigned) if reference else None
    if data is not None:
        pictures = bench_accuracy.pictures_of(data, bundle)
    elif config is not None:
        whole = layouts.open_data(config.data.root, config.data.layout, config.split_seed)
        pictures = bench_accuracy.check(whole.split("test"))
    result = room.bench(bundle, teacher, counts, seconds, pictures)
    if not as_json:
        console.print(bench_table.to_table(result))
    for skipped in result.skipped:
        console.print(skipped, soft_wrap=True)
    if reference is None:
        console.print("no reference row: give the ResNet-50's bundle with --reference", soft_wrap=True)
    recorded = None
    if record:
        best = room.fastest(bundle, result, line.threads)
        bundle = room.record_fastest(bundle, best, key)
        recorded = {"format": best.format, "engine": best.engine, "threads": best.threads, "bundle": bundle.model}
        console.print(
            f"recorded in {bundle.root}: {best.format} on {best.engine} is the fastest at {best.threads} threads",
            soft_wrap=True,
        )
    if as_json:
        print(json.dumps({**room.to_json(result), "recorded": recorded}))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where everything is written")] = Path("runs/demo"),
    overrides: Set = None,
    tiny: Tiny = False,
) -> None:
    """The whole line on painted parts: surfaces, defects, teacher, student, bundle, film, page."""
    from diagline import demo as room

    room.demo(output, tuple(overrides or ()), tiny)


def _threads(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise ConfigError(f"--threads {text!r}; expected counts such as 1,2")
    return counts


cli_proof.add_to(app)
cli_keys.add_to(app)
cli_box.add_to(app)
cli_image.add_to(app)
cli_device.add_to(app)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; a DiaglineError becomes one line on stderr and its exit code."""
    try:
        return app(arguments)
    except DiaglineError as error:
        console.quiet = False
        console.print(f"error: {' '.join(str(error).split())}", style="red", soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            console.print("stopped; what is finished is whole; where it can the same command goes on")
        raise


if __name__ == "__main__":
    main()
