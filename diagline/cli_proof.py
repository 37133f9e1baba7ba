"""The commands that prove something: how good, how sure, and what it rests on.

Leaves out: what they do (`verbs_proof.py`), and the other commands (`cli.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import typer


def add_to(app: typer.Typer) -> None:
    """Make every command of this file one of `app`."""
    commands: tuple[Callable[..., None], ...] = ()
    for command in commands:
        app.command()(command)
