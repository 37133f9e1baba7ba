"""What an expert has chosen, drawn, painted and decided, on disk before anyone is told so.

    streams.json      the format, and how many random streams were handed out
    session.json      the form, from its first change on
    drawings/         the mask being drawn on each normal
    candidates/       NNNNN.png, .mask.png and .json, the last written last
    decisions.jsonl   every decision ever taken: who, when, what; the last of a number counts
    accepted/         a sample set of what is accepted now, derived from the above

Every file is replaced in one step, and each operation has one write that makes it true: a session
that is killed anywhere is the one before the operation or the one after it. What is derived is
mended when the session opens. One process at a time, any number of threads. Leaves out: painting,
judging and the page.
"""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from diagline import files, samples
from diagline.errors import ConfigError, DatasetError
from diagline.samples import Sample, SampleSet
from generation.painting import Image, Job, Painted, Painter
from generation.repaint import provenance
from generation.studio import records
from generation.studio import session_files as disk
from generation.studio.accepted import AcceptedSet
from generation.studio.records import ACCEPTED, REJECTED, Candidate, Form

__all__ = ["ACCEPTED", "REJECTED", "Candidate", "Form", "Session"]

FORMAT = "diagline-studio-1"
STREAMS, FORM, DECISIONS = "streams.json", "session.json", "decisions.jsonl"
CANDIDATES, DRAWINGS, ACCEPTED_SET = "candidates", "drawings", "accepted"
STUDIO = 2**30  # second place of the page's random streams; in a planned run's it is a split, 0 to 2


class Session:
    """A session's state. Calls from several threads take turns; pictures are read side by side."""

    def __init__(self, folder: Path, normals: SampleSet, seed: int) -> None:
        """Open a session, or begin one in a folder that is new or empty.

        Args:
            folder: the session's.
            normals: good pictures; each stands in the split that candidates painted on it go to.
            seed: of new random streams.

        Raises:
            DatasetError: a file of the session that is missing or was changed by hand.
            OutputError: the folder is not a session's, is open in another process, or cannot be written to.
        """
        normals.check_groups()
        self.folder, self.normals, self.seed = folder, normals, seed
        self._by_image = {sample.image: sample for sample in normals}
        self._turn = threading.RLock()
        self._held = disk.hold(folder, STREAMS)
        disk.sweep(folder)
        if not (folder / STREAMS).is_file():
            files.write_json(folder / STREAMS, {"format": FORMAT, "handed_out": 0})
        self._form = records.read_form(folder / FORM)
        self._splits = {sample.group: sample.split for sample in normals}  # one split a group, whatever happens
        self._groups: dict[int, str] = {}
        self._has_mask: dict[int, bool] = {}
        self._candidates: dict[int, Candidate] = {}
        for path in sorted((folder / CANDIDATES).glob("*.json"), key=lambda path: (len(path.name), path.name)):
            self._enter(records.read_record(path))
        self._handed_out = self._read_handed_out()
        self._newest = max(self._candidates, default=0)
        self._history = ""
        self._read_decisions()
        self._accepted = AcceptedSet(folder / ACCEPTED_SET, folder / CANDIDATES)
        self._derive()

    @property
    def form(self) -> Form:
        """As last saved, by whichever tab; `normal` is "" when that picture is not in the set any more."""
        with self._turn:
            form = replace(self._form, settings=copy.deepcopy(self._form.settings))
        return form if form.normal in self._by_image else replace(form, normal="")

    def save_form(self, form: Form) -> None:
        """Keep the page's fields.

        Raises:
            DatasetError: `form.normal` is not one of the normals.
            OutputError: it cannot be written.
        """
        if form.normal:
            self._normal(form.normal)
        with self._turn:
            if form != self._form or not (self.folder / FORM).is_file():
                files.write_json(self.folder / FORM, asdict(form))
                self._form = replace(form, settings=copy.deepcopy(form.settings))

    def mask(self, normal: str | None = None) -> Image | None:
        """The mask being drawn, `(h, w)` uint8 0/255.

        Args:
            normal: `Sample.image` of the picture it is drawn on; None: the form's.

        Returns:
            None where nothing is drawn, or the picture has another size than when it was drawn on.
        """
        name = self.form.normal if normal is None else normal
        path = self._drawing(name)
        with self._turn:
            mask = samples.read_mask(path) if name and path.is_file() else None
        if mask is None or mask.shape != self.normals.read_image(self._normal(name)).shape[:2]:
            return None
        return mask

    def save_mask(self, mask: Image | None, normal: str | None = None) -> None:
        """Keep the mask being drawn; each normal has its own.

        Args:
            mask: `(h, w)` uint8 0/255, the normal's size; None or empty: nothing is drawn any more.
            normal: as in `mask`.

        Raises:
            DatasetError: no normal is chosen, or the mask has another size.
            OutputError: it cannot be written.
        """
        name = self.form.normal if normal is None else normal
        chosen = self._normal(name)
        if mask is None or not mask.any():
            with self._turn:
                disk.remove(self._drawing(name))
            return
        expected = self.normals.read_image(chosen).shape[:2]
        if mask.shape != expected:
            found = "x".join(str(side) for side in reversed(mask.shape))
            raise DatasetError(
                f"{name}: mask is {found} px, its picture {expected[1]}x{expected[0]}; "
                f"expected the same size; draw it again on this picture"
            )
        with self._turn:
            samples.write_image(self._drawing(name), np.where(mask > 127, np.uint8(255), np.uint8(0)))

    def next_streams(self, count: int) -> list[tuple[int, ...]]:
        """Random streams `[seed, STUDIO, n]` for `Job.stream`; none is ever handed out twice.

        Raises:
            ValueError: `count` below 1.
            OutputError: they cannot be written down.
        """
        if count < 1:
            raise ValueError(f"{count} streams; expected at least 1")
        with self._turn:
            first, end = self._handed_out, self._handed_out + count
            files.write_json(self.folder / STREAMS, {"format": FORMAT, "handed_out": end})
            self._handed_out = end
        return [(self.seed, STUDIO, number) for number in range(first, end)]

    def add(
        self,
        painter: Painter,
        job: Job,
        painted: Painted,
        normal: Sample,
        kind: str,
        scores: dict[str, Any],
        reason: str | None,
        texture: Path | None = None,
    ) -> Candidate:
        """Keep a painted picture; it is there once its record is.

        Args:
            normal: of the set, `job.normal_bgr` is its picture.
            kind: the defect's kind; "": the method's name stands for it.
            texture: the file of `job.texture_bgr`.

        Raises:
            DatasetError: the normal is missing, or is not the picture that was painted on.
            OutputError: it cannot be written; there is no such candidate then.
            ValueError: a texture without its file.
        """
        if (job.texture_bgr is None) != (texture is None):
            raise ValueError("a job's texture and its file; expected both or none")
        path = self.normals.root / self._normal(normal.image).image
        stands_on = {"image": normal.image, "sha256": disk.fingerprint(path, job.normal_bgr)}
        filled = None
        if texture is not None and job.texture_bgr is not None:
            filled = {"image": str(texture), "sha256": disk.fingerprint(texture, job.texture_bgr)}
        facts = provenance(painter, job, painted, stands_on, filled)
        record: dict[str, Any] = {
            "kind": kind,
            "group": normal.group,
            "split": normal.split,
            "has_mask": painted.mask is not None,
            "scores": scores,
            "reason": reason,
            "facts": facts,
        }
        with self._turn:
            number = self._newest + 1
            stem = self._stem(number)
            samples.write_image(stem.with_suffix(".png"), painted.image_bgr)
            if painted.mask is not None:
                samples.write_image(stem.with_suffix(".mask.png"), painted.mask)
            record["number"] = number
            files.write_json(stem.with_suffix(".json"), record)
            self._newest = number
            return self._enter(json.loads(json.dumps(record)))  # as it will be read back

    def candidates(self) -> list[Candidate]:
        """All of them, oldest first."""
        with self._turn:
            return list(self._candidates.values())

    def undecided(self) -> list[Candidate]:
        """Those that wait for a decision, oldest first."""
        return [one for one in self.candidates() if one.decision is None]

    def image(self, number: int) -> Image:
        """A candidate's picture, `(h, w, 3)` uint8 BGR; DatasetError when there is none."""
        self._get(number)
        return samples.read_image(self._stem(number).with_suffix(".png"))

    def candidate_mask(self, number: int) -> Image | None:
        """A candidate's mask, `(h, w)` uint8 0/255; None for a method that paints whole pictures."""
        self._get(number)
        path = self._stem(number).with_suffix(".mask.png")
        return samples.read_mask(path) if self._has_mask[number] else None

    def normal_image(self, number: int) -> Image:
        """The normal that a candidate was painted on, `(h, w, 3)` uint8 BGR, as it is now."""
        return samples.read_image(self.normals.root / self._get(number).normal)

    def decide(self, number: int, decision: str | None, person: str) -> Candidate:
        """Accept, reject, or take a decision back (None); it may be changed at any time.

        Args:
            person: who decides; kept with the decision.

        Raises:
            ConfigError: `person` is empty.
            DatasetError: no such candidate; or, to accept it, its normal is missing or changed, so that
                it could not be painted again.
            OutputError: it cannot be written.
            ValueError: another decision than these.
        """
        if decision not in (None, ACCEPTED, REJECTED):
            raise ValueError(f"decision {decision!r}; expected {ACCEPTED}, {REJECTED} or None")
        if not person.strip():
            raise ConfigError("person is empty; expected the name of who decides; write it in the form")
        person = person.strip()
        with self._turn:
            one = self._get(number)
            if decision != one.decision or (decision is not None and person != one.person):
                if decision == ACCEPTED:
                    self._check_normal(one)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                fact = {"number": number, "decision": decision, "person": person, "utc": now}
                history = self._history + json.dumps(fact, ensure_ascii=False) + "\n"
                files.write_text(self.folder / DECISIONS, history)
                self._history = history
                self._apply(fact)
            self._derive()
            return self._get(number)

    def accepted(self) -> SampleSet:
        """What is accepted now, as `diagline.samples.load(folder / "accepted")` reads it."""
        with self._turn:
            return self._derive()

    def _derive(self) -> SampleSet:
        """Bring `accepted/` up to the decisions."""
        accepted = [one for one in self._candidates.values() if one.decision == ACCEPTED]
        groups = [self._groups[one.number] for one in accepted]
        return self._accepted.bring_to(
            tuple(
                records.sample(one, self._has_mask[one.number], group, self._splits[group])
                for one, group in zip(accepted, groups, strict=True)
            )
        )

    def _enter(self, record: Mapping[str, Any]) -> Candidate:
        """Take a record that is on disk into the index; the normal's group and split are those of today's set."""
        one = records.candidate(record)
        normal = self._by_image.get(one.normal)
        group: str = record["group"] if normal is None else normal.group
        self._splits.setdefault(group, record["split"])
        self._groups[one.number], self._has_mask[one.number] = group, record["has_mask"]
        self._candidates[one.number] = one
        return one

    def _apply(self, fact: Mapping[str, Any]) -> None:
        one = self._candidates.get(fact["number"])
        if one is not None:
            decided = (fact["person"], fact["utc"]) if fact["decision"] is not None else (None, None)
            changed = replace(one, decision=fact["decision"], person=decided[0], decided_utc=decided[1])
            self._candidates[one.number] = changed

    def _read_decisions(self) -> None:
        path = self.folder / DECISIONS
        self._history = path.read_text(encoding="utf-8") if path.is_file() else ""
        for place, line in enumerate(self._history.split("\n")[:-1], start=1):
            try:
                fact = disk.table(line)
                self._apply(fact)
                self._newest = max(self._newest, int(fact["number"]))  # a number that was judged is not used again
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(f"{path}:{place}: not a decision ({error!r}); restore the file") from error

    def _read_handed_out(self) -> int:
        path = self.folder / STREAMS
        found = disk.read_json(path)
        if found.get("format") != FORMAT or not isinstance(found.get("handed_out"), int):
            raise DatasetError(f"{path}: format {found.get('format')!r}; expected {FORMAT}; use another folder")
        streams = [one.facts["stream"] for one in self._candidates.values()]
        used = [int(stream[2]) + 1 for stream in streams if len(stream) == 3 and stream[1] == STUDIO]
        return max([int(found["handed_out"]), *used])

    def _check_normal(self, one: Candidate) -> None:
        path = self.normals.root / one.normal
        if not path.is_file() or files.sha256_file(path) != one.facts["normal"]["sha256"]:
            what = "changed since the defect was painted on it" if path.is_file() else "not found"
            raise DatasetError(f"{path}: {what}; expected it unchanged, to paint it again; restore it, or paint anew")

    def _get(self, number: int) -> Candidate:
        with self._turn:
            one = self._candidates.get(number)
        if one is None:
            raise DatasetError(f"candidate {number}: not in {self.folder}; expected one of its own; reload the page")
        return one

    def _normal(self, name: str) -> Sample:
        if name not in self._by_image:
            what = f"{name}: not a normal of this session" if name else "no picture is chosen"
            raise DatasetError(f"{what}; expected one of {self.normals.root}; choose one")
        return self._by_image[name]

    def _stem(self, number: int) -> Path:
        return self.folder / CANDIDATES / f"{number:05d}"

    def _drawing(self, normal: str) -> Path:
        return self.folder / DRAWINGS / (hashlib.sha256(normal.encode()).hexdigest()[:20] + ".png")
