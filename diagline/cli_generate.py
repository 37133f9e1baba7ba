"""The commands that paint defects: from a config, again from a record, and on the expert's page.

Leaves out: what they do (`verbs.py`, `generation/`), and the other commands (`cli.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from diagline import config as configs
from diagline.cli_options import ConfigFile, Json, Set, SkipBad, Tiny, load, say_next
from diagline.config import Config
from diagline.console import SPEAKS, console
from diagline.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Make every command of this file one of `app`."""
    commands: tuple[Callable[..., None], ...] = (generate, repaint, tune, studio)
    for command in commands:
        app.command(rich_help_panel="Defects")(command)


def generate(
    config_file: ConfigFile,
    method: Annotated[str | None, typer.Option(help="memseg, in_and_out or diag; as generate.method")] = None,
    count: Annotated[int | None, typer.Option(help="Pictures to paint; as generate.count")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder (or cached hub id) of the method's diffusion model")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="corrected, or paper: the authors' settings")] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away an unfinished run with other settings")
    ] = False,
    with_sheet: Annotated[
        bool, typer.Option("--sheet", help="Lay normals, real defects and every method's pictures side by side")
    ] = False,
    overrides: Set = None,
    tiny: Tiny = False,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Paint synthetic defects on the good training pictures; goes on where a stopped run left off."""
    from diagline import verbs

    config = _asked(config_file, overrides, tiny, profile, method, count, model)
    painted = verbs.generate(config, skip_bad, restart)
    if not SPEAKS:
        return
    result = verbs.generated_result(config)
    if as_json:
        print(json.dumps({**result, "folder": str(painted.root)}))
    console.print(f"{len(painted)} defect pictures in {painted.root}", soft_wrap=True)
    _say_rejected(result, config.generate.quality.budget)
    if with_sheet:
        console.print(f"sheet: {verbs.sheet(config, skip_bad)}", soft_wrap=True)
    say_next(f"train {config_file}")


def _asked(
    path: Path,
    overrides: list[str] | None,
    tiny: bool,
    profile: str | None,
    method: str | None,
    count: int | None,
    model: str | None,
) -> Config:
    """The config with the options that stand for keys of [generate]."""
    asked = list(overrides or ())
    asked += [f"generate.{key}={value}" for key, value in (("method", method), ("count", count)) if value is not None]
    config = configs.load(path, tuple(asked), tiny, profile)
    if model is None:
        return config
    if config.generate.method == "memseg":
        raise ConfigError(f"--model {model}: memseg uses no model; expected --method diag or in_and_out with it")
    return configs.load(path, (*asked, f"generate.{config.generate.method}.model={json.dumps(model)}"), tiny, profile)


def _say_rejected(result: dict[str, Any], budget: float) -> None:
    if result["rejected"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in result["rejected"].items())
        console.print(
            f"the quality gate kept {result['kept']} of {result['painted']} painted: {reasons}", soft_wrap=True
        )
    if result["kept"] < result["asked"]:
        console.print(
            f"{result['asked'] - result['kept']} of {result['asked']} are missing: the budget of {budget:g} times "
            f"as many ended; look at rejected/, then change prompts or masks, or raise generate.quality.budget",
            style="yellow",
            soft_wrap=True,
        )


def repaint(
    config_file: ConfigFile,
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="Its number, or its path in the generated set")],
    output: Annotated[Path | None, typer.Option(help="Write what was painted anew to this PNG")] = None,
    method: Annotated[str | None, typer.Option(help="Of which method's set; as generate.method")] = None,
    overrides: Set = None,
    tiny: Tiny = False,
) -> None:
    """Paint one generated picture again from its record, and compare it bit for bit."""
    from diagline import samples, verbs

    asked = [*(overrides or ()), *([] if method is None else [f"generate.method={method}"])]
    path, image = verbs.repaint(load(config_file, asked, tiny), picture)
    console.print(f"{path}: painted again, the same bit for bit", soft_wrap=True)
    if output is not None:
        samples.write_image(output, image)


def tune(
    config_file: ConfigFile,
    model: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder (or cached hub id) of Stable Diffusion 1.5")
    ] = None,
    overrides: Set = None,
    tiny: Tiny = False,
    skip_bad: SkipBad = False,
) -> None:
    """Fine-tune In&Out's Stable Diffusion on the real training defects (DreamBooth-LoRA); resumable."""
    from diagline import verbs

    config = _asked(config_file, overrides, tiny, None, "in_and_out", None, model)
    console.print(f"adapters in {verbs.tune(config, skip_bad)}", soft_wrap=True)
    words = json.dumps([config.generate.tune.prompt])
    tuned = "--set generate.in_and_out.lora=tuned"
    say_next(f"generate {config_file} --method in_and_out {tuned} --set 'generate.prompts={words}'")


def studio(
    config_file: ConfigFile,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anyone who reaches it may paint and judge")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on")] = 7860,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in this machine's browser")
    ] = True,
    method: Annotated[str | None, typer.Option(help="Method the page begins with; as generate.method")] = None,
    model: Annotated[str | None, typer.Option(metavar="PATH", help="Folder of that method's diffusion model")] = None,
    overrides: Set = None,
    tiny: Tiny = False,
    skip_bad: SkipBad = False,
) -> None:
    """The expert's page: mark a place, say what goes wrong there, judge what is painted."""
    from diagline import verbs

    verbs.studio(_asked(config_file, overrides, tiny, None, method, None, model), skip_bad, host, port, open_browser)
