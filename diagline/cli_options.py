"""What several commands take, and how a command ends: shared by `cli.py` and `cli_proof.py`.

Leaves out: the commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diagline import config as configs
from diagline.config import Config
from diagline.console import command, console

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="TOML file of the line, such as configs/magnetic_tile.toml")
]
Target = Annotated[
    Path, typer.Argument(metavar="BUNDLE|CONFIG", help="A bundle folder, or the TOML file whose bundle was exported")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. teacher.epochs=2")
]
Tiny = Annotated[bool, typer.Option("--tiny", help="Use the config's small twin: seconds on a CPU")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="List unreadable pictures and go on without them")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout")]


def load(path: Path, overrides: list[str] | None, tiny: bool) -> Config:
    """The config a command was called with."""
    return configs.load(path, tuple(overrides or ()), tiny)


def say_next(words: str) -> None:
    """Name the command that usually comes next."""
    console.print(f"next: {command()} {words}", style="bold", soft_wrap=True)
