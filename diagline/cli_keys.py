"""The commands of keys and signatures: who may say what a box runs.

Leaves out: what they do (`signing.py`, `bundle.py`), and the other commands (`cli.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from diagline import signing
from diagline.cli_options import Json, say_next, say_run
from diagline.console import console
from diagline.errors import require

keys_app = typer.Typer(no_args_is_help=True, help="Keys that sign bundles, and whose bundles this user runs.")


def add_to(app: typer.Typer) -> None:
    """Make every command of this file one of `app`."""
    app.add_typer(keys_app, name="keys")
    app.command()(sign)


@keys_app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the two files, NAME.key and NAME.pub")],
    folder: Annotated[Path, typer.Option(help="Where they are written")] = Path("."),
) -> None:
    """Make a key pair: NAME.key signs and stays secret, NAME.pub goes to every box."""
    private, public = signing.make_pair(name, folder)
    console.print(f"key {signing.key_id(signing.public_key(public))}: {private} (secret), {public}", soft_wrap=True)
    say_next(f"export CONFIG --sign {private}")
    say_next(f"keys trust {public}    # on each box")


@keys_app.command("trust")
def trust(
    file: Annotated[Path, typer.Argument(metavar="NAME.pub", help="Public key of who exports the bundles")],
) -> None:
    """Run bundles that this key signed."""
    console.print(f"key {signing.trust(file)}: trusted; in {signing.trusted_folder()}", soft_wrap=True)


@keys_app.command("list")
def show(as_json: Json = False) -> None:
    """The keys this user trusts."""
    folder, known = signing.trusted_folder(), signing.trusted()
    if as_json:
        print(json.dumps([{"id": name, "file": str(folder / f"{name}.pub")} for name in known]))
        return
    for name in known:
        console.print(f"{name}  {folder / f'{name}.pub'}", soft_wrap=True)
    if not known:
        console.print(f"no trusted keys in {folder}", soft_wrap=True)
        say_next("keys trust NAME.pub")


@keys_app.command("forget")
def forget(key: Annotated[str, typer.Argument(metavar="ID", help="As keys list shows it")]) -> None:
    """Run this key's bundles no longer."""
    signing.forget(key)
    console.print(f"key {key}: no longer trusted", soft_wrap=True)


def sign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder")],
    key: Annotated[Path, typer.Argument(metavar="NAME.key", help="Private key that signs it")],
) -> None:
    """Sign a bundle that was exported without a key, or by another; nothing else in it changes."""
    require("cv2", "edge")
    from diagline import bundle as bundles

    signed = bundles.sign(bundle, key)
    console.print(f"{signed.root}: signed by {signed.signer}", soft_wrap=True)
    say_run(signed)
