"""Which pictures of the archive go, and taking them away: oldest first, passes before what was rejected.

Rows stay, so the chain holds; an event says which pictures went and why. Only pictures that the
archive's own bookkeeping names are deleted. Leaves out: the rows themselves, which are never deleted.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from diagline.verdict import State
from edge_runtime.archive.config import ArchiveConfig
from edge_runtime.archive.database import Kept, Trail

ORDER = (State.PASS, State.NO_DECISION, State.REJECT)
"""Whose pictures go first when the disk is short."""
BATCH = 500
"""Pictures deleted in one go, so that verdicts do not wait for a long sweep."""
DAY_S = 86_400.0
RATE_SPAN_S = 60.0


def due(
    trail: Trail, config: ArchiveConfig, now: datetime, free_bytes: int, pending: Collection[Kept] = ()
) -> list[tuple[str, Kept]]:
    """The pictures that must go now, at most `BATCH`, each with why.

    Args:
        now: wall clock, UTC.
        free_bytes: on the archive's disk.
        pending: already deleted, and not yet noted in the trail.
    """
    found: list[tuple[str, Kept]] = []
    short_bytes = config.min_free_bytes - free_bytes
    left = {kept.seq for kept in pending}
    for state in ORDER:
        quota_bytes, days = config.quota(state)
        oldest_utc = (now - timedelta(days=days)).isoformat(timespec="microseconds")
        used_bytes = trail.used_bytes(state) - sum(kept.bytes for kept in pending if kept.state is state)
        for kept in trail.kept(state):
            if kept.seq in left:
                continue
            if len(found) == BATCH:
                return found
            if short_bytes > 0:
                why = f"less than {config.min_free_bytes} bytes free"
            elif used_bytes > quota_bytes:
                why = f"{state.value} takes more than {quota_bytes} bytes"
            elif kept.taken_utc < oldest_utc:
                why = f"older than {days:g} days"
            else:
                break
            found.append((why, kept))
            used_bytes -= kept.bytes
            short_bytes -= kept.bytes
    return found


def delete(folder: Path, kept: Kept) -> None:
    """Take one picture away, and the folders that it leaves empty.

    Raises:
        OSError: it cannot be deleted.
    """
    path = folder / kept.path
    path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        path.parent.rmdir()
        path.parent.parent.rmdir()


def unfinished(folder: Path, trail: Trail) -> tuple[list[tuple[str, Kept]], list[int]]:
    """What a stop left half done: pictures that are not there, each with why, and rows whose picture is after all."""
    gone: dict[int, tuple[str, Kept]] = {}
    there = []
    for kept in trail.unwritten():
        path = folder / kept.path
        for aside in path.parent.glob(f".{glob.escape(path.name)}.*"):
            aside.unlink(missing_ok=True)
        if path.exists():
            there.append(kept.seq)
        else:
            gone[kept.seq] = ("not written before the box stopped", kept)
    for state in State:
        for kept in trail.kept(state):  # deleted oldest first, so the missing ones stand in front
            if (folder / kept.path).exists():
                break
            gone.setdefault(kept.seq, ("found missing at start", kept))
    return list(gone.values()), there


def days_left(samples: Sequence[tuple[float, int]], room_bytes: int) -> float | None:
    """How long the disk lasts at the present rate; None while it does not fill, or too little was seen.

    Args:
        samples: (monotonic seconds, bytes the archive takes), oldest first, one at least.
        room_bytes: what the archive may still take.
    """
    (start_s, start_bytes), (end_s, end_bytes) = samples[0], samples[-1]
    grown, span_s = end_bytes - start_bytes, end_s - start_s
    if span_s < RATE_SPAN_S or grown <= 0:
        return None
    return max(0.0, room_bytes / (grown / span_s) / DAY_S)
