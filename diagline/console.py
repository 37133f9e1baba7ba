"""What people see while they wait: one console on stderr, one kind of progress bar.

stdout is left to results, so that `--json` can be piped. Leaves out: results themselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")

SPEAKS = os.environ.get("RANK", "0") == "0"
"""Of several processes under a launcher one speaks."""

console = Console(stderr=True, highlight=False, markup=False, quiet=not SPEAKS)  # paths may hold [brackets]


def command() -> str:
    """The diagline command as it was called, for lines that say what to run next."""
    called = sys.argv[0]
    return called if Path(called).name == "diagline" else "diagline"


def progress(refresh_hz: float = 10.0) -> Progress:
    """A progress display with count, elapsed and remaining time, and a free text `note` per task.

    Args:
        refresh_hz: how often it is drawn; seldom where drawing would disturb what is measured.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        refresh_per_second=refresh_hz,
    )


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items under a progress bar named `what`."""
    if total is None:
        items = list(items)
        total = len(items)
    with progress() as display:
        task = display.add_task(what, total=total, note="")
        for item in items:
            yield item
            display.advance(task)
