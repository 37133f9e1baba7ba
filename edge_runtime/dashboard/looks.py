"""Snapshots for everybody who looks: taken once for all open pages, on a thread, with bounded patience.

A box that does not answer costs one thread, and whoever looks hears of it. Leaves out: what is
done with them (`app.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from diagline.verdict import Verdict
from edge_runtime.dashboard import lights
from edge_runtime.dashboard.view import Snapshot, View

TICK_S = 0.25
PATIENCE_S = 2.0
"""Longest wait for a snapshot or a picture."""
Value = TypeVar("Value")


class Looks:
    """Looks at a view for any number of requests; for one event loop.

    Attributes:
        pages: streams of events that are open.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._under_way: dict[str, asyncio.Task[Any]] = {}
        self._picture: tuple[int, bytes | None] = (-1, None)
        self._decided = 0
        self._boot, self._numbers = secrets.token_hex(8), itertools.count(1)
        self.pages = 0

    async def snapshot(self) -> Snapshot:
        """The box now. Raises TimeoutError when it does not answer, and whatever the view raises."""
        snapshot: Snapshot = await asyncio.wait_for(
            self._share("snapshot", lambda: on_thread(self._view.snapshot)), PATIENCE_S
        )
        self._decided = sum(snapshot.tally.states.values())
        return snapshot

    async def picture(self) -> bytes | None:
        """The last judged picture, made once a verdict; raises as `snapshot`."""
        await self.snapshot()
        wanted = self._decided
        while self._picture[0] < wanted:  # one that was begun before may show an earlier part
            await asyncio.wait_for(self._share("picture", self._take_picture), PATIENCE_S)
        return self._picture[1]

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events, four a second, the same for every page; end when the box does not answer."""
        self.pages += 1
        try:
            while True:
                try:
                    event = await self._share("pulse", self._pulse)
                except Exception:  # the page hears nothing more, and says so
                    return
                yield event
        finally:
            self.pages -= 1

    async def _pulse(self) -> bytes:
        await asyncio.sleep(TICK_S)
        snapshot, number = await self.snapshot(), next(self._numbers)
        text = json.dumps(plain({"boot": self._boot, "number": number, **told(snapshot)}))
        return f"id: {number}\ndata: {text}\n\n".encode()

    async def _take_picture(self) -> None:
        decided = self._decided
        self._picture = (decided, await on_thread(self._view.picture))

    async def _share(self, name: str, start: Callable[[], Any]) -> Any:
        """Join what is under way, or start it."""
        task = self._under_way.get(name)
        if task is None or task.done():
            task = self._under_way[name] = asyncio.ensure_future(start())
        return await asyncio.shield(task)


def told(snapshot: Snapshot) -> dict[str, Any]:
    """What the page is told of a snapshot; `plain` makes it JSON."""
    return {
        "at_s": snapshot.at_ns / 1e9,
        "line": snapshot.line,
        "model": snapshot.model,
        "certificate": snapshot.certificate,
        "uptime": lights.span(snapshot.uptime_s),
        "headline": lights.headline(snapshot),
        "lights": lights.lights(snapshot),
        "triggers": snapshot.tally.triggers,
        "open": snapshot.tally.open,
        "late": snapshot.tally.late,
        "states": {state.value: count for state, count in snapshot.tally.states.items()},
        "reject_share": lights.reject_share(snapshot),
        "causes": snapshot.causes,
        "recent": [_row(verdict, snapshot) for verdict in snapshot.recent],
        "rejects": [_row(verdict, snapshot) for verdict in snapshot.rejects],
        "stages": {name: (stage.p50_ms, stage.p99_ms) for name, stage in snapshot.stages.items()},
    }


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses as objects, what is no finite number as null, numpy's numbers as numbers."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if fields := getattr(value, "__dataclass_fields__", None):
        return {name: plain(getattr(value, name)) for name in fields}
    if value is None or isinstance(value, str | bool | int):
        return value
    return float(value) if math.isfinite(value) else None


def _row(verdict: Verdict, snapshot: Snapshot) -> dict[str, str]:
    ago = lights.span(lights.verdict_age_s(verdict, snapshot))
    state, part = verdict.state.value, verdict.part_id
    return {"part": part, "state": state, "why": lights.reason(verdict), "ago": ago, "at": verdict.taken_utc}


async def on_thread(call: Callable[[], Value]) -> Value:
    """What a call that may wait returns."""
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(call)
