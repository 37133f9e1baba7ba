"""A part judged again, from its row and picture in the archive, by the same bundle on the same engine.

It goes through the same `preprocess` and inspector as on the day. Leaves out: judging by another
bundle (that is `evaluate`'s), and whether the bundle's signer is trusted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from diagline.bundle import Bundle
from diagline.errors import DatasetError, DiaglineError
from diagline.verdict import State, Verdict
from edge_runtime.archive import images
from edge_runtime.archive.reader import Reader, Row
from edge_runtime.camera.frames import Frame
from edge_runtime.loop import open_inspector


@dataclass(frozen=True, slots=True)
class Replay:
    """What judging a part again gave.

    Attributes:
        row: the archive's row; None when there is none.
        now: the verdict given again; None when it could not be.
        why: why not, or what differs, in one line; None when it is the same.
    """

    part_id: str
    row: Row | None
    now: Verdict | None
    why: str | None

    @property
    def same(self) -> bool:
        """State and logit are exactly those of the day."""
        return self.now is not None and self.why is None


def replay(archive: Reader, part_id: str, bundle: Bundle, run_id: str | None = None) -> Replay:
    """Judge an archived part again; what picture, bundle or machine lack is told, not raised.

    Args:
        bundle: the one that judged the part; another is refused.
        run_id: which run's part; needed where several runs had one of that name.

    Raises:
        OutputError: the archive is damaged.
    """
    rows = [row for row in archive.part(part_id) if run_id in (None, row.content["run_id"])]
    if len(rows) != 1:
        runs = ", ".join(row.content["run_id"] for row in rows)
        return Replay(part_id, None, None, f"the runs {runs} have such a part; name one" if rows else "no such part")
    (row,) = rows
    try:
        now = _judge(archive, row, bundle)
    except DiaglineError as error:
        return Replay(part_id, row, None, str(error))
    then = (row.content["state"], row.content["logit"])
    exact = row.content["image_exact"]
    if exact and (now.state.value, now.logit) == then:
        return Replay(part_id, row, now, None)
    why = f"then {_say(*then, row.content['cause'])}, now {_say(now.state.value, now.logit, now.cause)}"
    return Replay(part_id, row, now, why if exact else f"kept as JPEG, so a replay is not exact: {why}")


def _judge(archive: Reader, row: Row, bundle: Bundle) -> Verdict:
    content = row.content
    if content["bundle_sha256"] is None:
        raise DatasetError(f"no engine was open: {content['cause']}")
    if content["bundle_sha256"] != bundle.sha256:
        judged = f"{content['model']} (manifest {content['bundle_sha256'][:12]})"
        raise DatasetError(f"judged by {judged}; {bundle.root} is {bundle.model}; name the bundle that judged it")
    if content["image"] is None:
        raise DatasetError(f"no picture was kept: {content['no_image']}")
    if (gone := archive.image_gone(row.seq)) is not None:
        raise DatasetError(f"its picture is gone since {gone.content['at_utc']}: {gone.content['payload']['why']}")
    image = images.read(archive.folder / content["image"], content["image_sha256"])
    inspector = open_inspector(bundle, content["format"], content["threads"], content["engine"])
    return inspector.inspect(Frame(image, 0, content["taken_utc"], time.monotonic_ns(), picture=content["part_id"]))


def _say(state: str, logit: float | None, cause: str | None) -> str:
    return f"{State(state).value} ({cause if logit is None else f'logit {logit!r}'})"
