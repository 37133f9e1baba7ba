"""What several commands take, and how a command ends: shared by the files of commands.

Leaves out: the commands.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagline import config as configs
from diagline import signing
from diagline.config import Config
from diagline.console import command, console
from diagline.errors import require

if TYPE_CHECKING:
    from diagline.bundle import Bundle

INTERRUPTED = 130
"""The exit code after Ctrl-C, as typer has it."""

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
Sign = Annotated[
    Path | None, typer.Option("--sign", metavar="NAME.key", help="Private key that signs the bundle; as export.key")
]
Keys = Annotated[
    list[Path] | None, typer.Option("--key", metavar="NAME.pub", help="Trust bundles signed by this key too")
]
AllowUnsigned = Annotated[bool, typer.Option("--allow-unsigned", help="Take a bundle that nobody signed")]


def load(path: Path, overrides: list[str] | None, tiny: bool, sign: Path | None = None) -> Config:
    """The config a command was called with; `sign` stands for export.key."""
    asked = [] if sign is None else [f"export.key={json.dumps(str(sign))}"]
    return configs.load(path, (*(overrides or ()), *asked), tiny)


def open_bundle(root: Path, keys: list[Path] | None, allow_unsigned: bool) -> Bundle:
    """Read a bundle in order to run it: whole, unchanged, and signed by a trusted key.

    Args:
        keys: NAME.pub files that count as trusted beside this user's keys.

    Raises:
        BundleError: as `bundle.read` and `signing.check_trusted`.
    """
    require("cv2", "edge")
    from diagline import bundle as bundles

    found = bundles.read(root)
    signing.check_trusted(found, keys or (), allow_unsigned)
    return found


def say_run(bundle: Bundle, words: str = "--source 0", verb: str = "run") -> None:
    """Name the command that runs a bundle, with what it needs to be trusted on this machine."""
    if bundle.signer is not None and bundle.signer not in signing.trusted():
        say_next(f"keys trust NAME.pub    # of key {bundle.signer}, on each box")
    unsigned = " --allow-unsigned" if bundle.signer is None else ""
    say_next(f"{verb} {bundle.root} {words}{unsigned}")


def say_next(words: str) -> None:
    """Name the command that usually comes next."""
    console.print(f"next: {command()} {words}", style="bold", soft_wrap=True)


@contextmanager
def signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, as long as the block runs."""
    stop = threading.Event()
    with ExitStack() as undo:
        for number in (signal.SIGINT, signal.SIGTERM):
            undo.callback(signal.signal, number, signal.signal(number, lambda *_: stop.set()))
        yield stop
