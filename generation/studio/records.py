"""Form and Candidate, and how they stand on disk.

Leaves out: what may be done with them (`session.py`).
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from diagline.errors import DatasetError
from diagline.samples import DEFECT, Sample
from generation.studio import session_files as disk

ACCEPTED, REJECTED = "accepted", "rejected"
_RECORD = {
    "number": int, "kind": str, "group": str, "split": str, "has_mask": bool, "scores": dict, "facts": dict
}  # fmt: skip


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name; the page then asks
        return ""


@dataclass(frozen=True, slots=True)
class Form:
    """What the page's fields hold; plain JSON.

    Attributes:
        normal: `Sample.image` of the chosen normal; "" where none is.
        kind: the defect's kind, in the expert's word.
        person: who accepts and rejects; at first the system's user.
        settings: the method's own, such as steps, guidance and strength.

    Raises:
        ValueError: a field of another type; what is saved can be read again.
    """

    normal: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    kind: str = ""
    method: str = "memseg"
    model: str = ""
    count: int = 4
    person: str = field(default_factory=_user)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if type(value) is not {"count": int, "settings": dict}.get(one.name, str):
                raise ValueError(f"{one.name} = {value!r} is a {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One painted picture, and what was decided.

    Attributes:
        decision: None, "accepted" or "rejected"; `person` and `decided_utc` (ISO 8601) are None with it.
        scores, reason: the quality gate's advice; `reason` None: nothing against it.
        facts: everything needed to paint it again (`generate.provenance`).
    """

    number: int
    normal: str
    prompt: str
    negative_prompt: str
    kind: str
    method: str
    decision: str | None
    person: str | None
    decided_utc: str | None
    scores: dict[str, Any]
    reason: str | None
    facts: dict[str, Any]


def candidate(record: Mapping[str, Any]) -> Candidate:
    """The candidate of a record, undecided."""
    facts = record["facts"]
    return Candidate(
        record["number"],
        facts["normal"]["image"],
        facts["prompt"],
        facts["negative_prompt"],
        record["kind"],
        facts["method"],
        None,
        None,
        None,
        record["scores"],
        record["reason"],
        facts,
    )


def sample(one: Candidate, has_mask: bool, group: str, split: str) -> Sample:
    """An accepted candidate as a sample of the accepted set."""
    name = f"{one.number:05d}.png"
    provenance = {**one.facts, "accepted_by": one.person, "accepted_utc": one.decided_utc, "scores": one.scores}
    mask = f"masks/{name}" if has_mask else None
    return Sample(f"images/{name}", mask, DEFECT, one.kind or one.method, group, split, one.method, provenance)


def read_record(path: Path) -> dict[str, Any]:
    """A candidate's record, whose pictures must be there.

    Raises:
        DatasetError: not such a record, or a picture of it is missing.
    """
    record = disk.read_json(path)
    for key, kind in _RECORD.items():
        if type(record.get(key)) is not kind:
            raise DatasetError(f"{path}: {key} = {record.get(key)!r}; expected a candidate's record; restore the file")
    for suffix in (".png", ".mask.png") if record["has_mask"] else (".png",):
        if not path.with_suffix(suffix).is_file():
            raise DatasetError(
                f"{path.with_suffix(suffix)}: not found; {path.name} needs it; restore it, or move that away too"
            )
    return record


def read_form(path: Path) -> Form:
    """The form on disk; fields that it does not name are as on a new page.

    Raises:
        DatasetError: not a form.
    """
    if not path.is_file():
        return Form()
    found, known = disk.read_json(path), {one.name for one in fields(Form)}
    try:
        return Form(**{name: value for name, value in found.items() if name in known})
    except ValueError as error:
        raise DatasetError(f"{path}: {error}; expected what the page wrote; correct it") from error
