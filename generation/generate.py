"""`diagline generate`: plan, paint, judge, keep.

    NAME.part/plan.json      everything that decides the set, written before the first picture
    NAME.part/calibration.json   the quality gate's thresholds
    NAME.part/candidates/    SLOT-ATTEMPT.png, .mask.png and .json, the last written last
    NAME/                    when all is painted: a sample set, `rejected/` (a sample set too, each
                             with its reason), the plan, and `result.json`

A run that stops at any moment goes on from its candidates and ends with the same set, whatever
the number of processes: a batch is painted whole by one of them, and what is kept follows from
the candidates alone. Leaves out: the methods, the plan's draws (`plan.py`), the gate's rules
(`quality/`), painting again (`repaint.py`).
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diagline import console, files, samples
from diagline.errors import DatasetError, OutputError
from diagline.samples import DEFECT, Sample, SampleSet
from generation import quality
from generation.painting import Job, Painted, Painter
from generation.plan import Draws, Entry
from generation.quality import Calibration, Features
from generation.quality.duplicates import Signature
from generation.repaint import provenance
from generation.worker import Worker

FORMAT = "diagline-plan-1"
PLAN, CALIBRATION, RESULT, CANDIDATES, REJECTED = (
    "plan.json", "calibration.json", "result.json", "candidates", "rejected",
)  # fmt: skip


def generate(draws: Draws, painter: Painter, features: Features, target: Path, restart: bool = False) -> SampleSet:
    """Paint the pictures of a plan; each new sample keeps its normal's split and group.

    Args:
        draws: what is painted, on what.
        painter: the method.
        features: what the quality gate measures pictures by.
        target: the set's folder; a set that is there stays until the new one is whole.
        restart: throw away what an unfinished run with other settings left.

    Returns:
        The set at `target`: label 1; fewer samples than asked when the budget ended first.

    Raises:
        DatasetError: a picture that cannot be read or painted on.
        GenerationError: the model cannot paint it.
        OutputError: the folder cannot be written to, or holds an unfinished run with other settings.
    """
    worker = Worker.here()
    for prompt in draws.settings.prompts:
        painter.check_words(prompt, draws.settings.negative_prompt)
    plan = _plan(draws, painter)
    if _same_plan(target / PLAN, plan) and (target / samples.RECORDS).is_file():
        return samples.load(target)
    work = target.with_name(target.name + ".part")
    if worker.is_main:
        _open(work, plan, restart)
        if not (work / CALIBRATION).is_file():
            files.write_json(work / CALIBRATION, _calibrate(draws, features).plain())
    worker.wait()
    run = _Run(
        draws, painter, features, Calibration.from_plain(json.loads((work / CALIBRATION).read_bytes())), work, worker
    )
    kept, rejected = run.rounds(plan["entries"])
    if worker.is_main:
        _finish(target, run, plan, kept, rejected)
    worker.wait()
    return samples.load(target)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A painted picture on disk, and what its record says."""

    stem: Path
    record: dict[str, Any]

    @property
    def entry(self) -> Entry:
        return dict(self.record["entry"])


@dataclass(frozen=True, slots=True)
class _Run:
    """One run: its parts, and the flow from candidates to a decision."""

    draws: Draws
    painter: Painter
    features: Features
    calibration: Calibration
    work: Path
    worker: Worker

    def rounds(self, first: Sequence[Entry]) -> tuple[list[_Candidate], list[tuple[_Candidate, str]]]:
        """Paint every slot, then those that were rejected again, until all pass or the budget ends.

        Returns:
            The kept candidates in slot order, and the rejected with their reasons.
        """
        gate = self.draws.settings.quality
        left = math.ceil(gate.budget * len(first))
        seen = self.calibration.duplicates()
        if not self.painter.keeps_outside:  # it may paint whole pictures, and copy one that it was tuned on
            for path in self.draws.originals():
                seen.add(path.name, self.calibration.signature(samples.read_image(path)))
        kept: dict[int, _Candidate] = {}
        rejected: list[tuple[_Candidate, str]] = []
        attempt, entries = 0, list(first)
        while entries:
            self._paint(entries, "Painting defects" if attempt == 0 else f"Painting again ({attempt})")
            self.worker.wait()
            for entry in entries:
                candidate = self._read(entry)
                reason = _judge(candidate, seen) if gate.gate else None
                if reason is None:
                    kept[entry["slot"]] = candidate
                else:
                    rejected.append((candidate, reason))
            left -= len(entries)
            attempt += 1
            pending = [entry["slot"] for entry in entries if entry["slot"] not in kept]
            entries = [self.draws.entry(slot, attempt) for slot in pending[: max(left, 0)]]
        return [kept[slot] for slot in sorted(kept)], rejected

    def _paint(self, entries: Sequence[Entry], what: str) -> None:
        """Paint this process's batches of which a candidate is missing."""
        size = self.painter.batch_size
        batches = [entries[start : start + size] for start in range(0, len(entries), size)]
        mine = [batch for batch in self.worker.share(batches) if not all(map(self._is_painted, batch))]
        for batch in console.track(mine, what):
            jobs = [self.draws.load(entry) for entry in batch]
            try:
                painted = self.painter.paint(jobs)
            except DatasetError as error:
                names = ", ".join(str(self.draws.normals.root / entry["normal"]) for entry in batch)
                raise DatasetError(f"{names}: {error}") from error
            for entry, job, one in zip(batch, jobs, painted, strict=True):
                self._write(entry, job, one)

    def _write(self, entry: Entry, job: Job, painted: Painted) -> None:
        root = self.draws.normals.root
        normal = {"image": entry["normal"], "sha256": files.sha256_file(root / entry["normal"])}
        texture = None
        if entry["texture"] is not None:
            texture = {"image": entry["texture"], "sha256": files.sha256_file(Path(entry["texture"]))}
        facts = {**provenance(self.painter, job, painted, normal, texture), "index": entry["index"], "entry": entry}
        scores = quality.score(job, painted, self.calibration, self.features, self.painter.keeps_outside)
        stem = self._stem(entry)
        samples.write_image(stem.with_suffix(".png"), painted.image_bgr)
        if painted.mask is not None:
            samples.write_image(stem.with_suffix(".mask.png"), painted.mask)
        body = {
            "entry": entry,
            "has_mask": painted.mask is not None,
            "provenance": {**facts, "scores": scores.record()},
            "signature": scores.signature.plain(),
            "reason": quality.judge(scores, self.calibration, self.draws.settings.quality, self.painter.keeps_outside),
        }
        files.write_json(stem.with_suffix(".json"), body)

    def _stem(self, entry: Entry) -> Path:
        return self.work / CANDIDATES / f"{entry['slot']:05d}-{entry['attempt']}"

    def _is_painted(self, entry: Entry) -> bool:
        return self._stem(entry).with_suffix(".json").is_file()

    def _read(self, entry: Entry) -> _Candidate:
        stem = self._stem(entry)
        return _Candidate(stem, json.loads(stem.with_suffix(".json").read_bytes()))


def _judge(candidate: _Candidate, seen: quality.Duplicates) -> str | None:
    """Why a candidate is not kept; the order of the calls decides which of two equals is."""
    reason: str | None = candidate.record["reason"]
    if reason is not None:
        return reason
    signature = Signature.from_plain(candidate.record["signature"])
    twin = seen.find(signature)
    if twin is not None:
        return f"near-duplicate: correlation {twin[1]:.3f} with {twin[0]}"
    seen.add(f"slot {candidate.entry['slot']}", signature)
    return None


def _plan(draws: Draws, painter: Painter) -> dict[str, Any]:
    """Everything that decides the set, as JSON reads it back."""
    used = draws.normals.where(lambda sample: draws.counts.get(sample.split, 0) > 0)
    plan = {
        "format": FORMAT,
        "painter": painter.facts(),
        "batch_size": painter.batch_size,
        "seed": draws.seed,
        "counts": draws.counts,
        "normals_sha256": used.hash(),
        "quality": asdict(draws.settings.quality),
        "entries": draws.first(),
    }
    return dict(json.loads(json.dumps(plan)))


def _same_plan(path: Path, plan: Mapping[str, Any]) -> bool:
    """Whether a finished set is of this plan, whatever device painted it."""
    return path.is_file() and _anywhere(json.loads(path.read_bytes())) == _anywhere(plan)


def _anywhere(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {**plan, "painter": {key: value for key, value in plan["painter"].items() if key != "device"}}


def _open(work: Path, plan: Mapping[str, Any], restart: bool) -> None:
    path = work / PLAN
    if restart:
        shutil.rmtree(work, ignore_errors=True)
    if path.is_file():
        before = json.loads(path.read_bytes())
        other = sorted(key for key in plan.keys() | before.keys() if plan.get(key) != before.get(key))
        if other:
            raise OutputError(
                f"{work}: holds an unfinished run that differs in {', '.join(other)}; expected the same settings; "
                f"finish it with its own, or throw it away with generate --restart"
            )
    files.write_json(path, plan)


def _calibrate(draws: Draws, features: Features) -> Calibration:
    """Thresholds from good pictures of the splits that are painted on."""
    shown = console.track(draws.calibrating(), "Measuring good pictures")
    normals = [draws.normals.read_image(sample) for sample in shown]
    return quality.calibrate(normals, features, draws.settings.quality, draws.seed)


def _finish(
    target: Path,
    run: _Run,
    plan: Mapping[str, Any],
    kept: Sequence[_Candidate],
    rejected: Sequence[tuple[_Candidate, str]],
) -> None:
    with files.folder_aside(target) as root:
        _gather(root, run, [(one, f"{one.entry['slot']:05d}", None) for one in kept])
        _gather(
            root / REJECTED,
            run,
            [(one, f"{one.entry['slot']:05d}-{one.entry['attempt']}", reason) for one, reason in rejected],
        )
        reasons = Counter(reason.partition(":")[0] for _, reason in rejected)
        result = {
            "asked": len(plan["entries"]),
            "kept": len(kept),
            "painted": len(kept) + len(rejected),
            "rejected": dict(sorted(reasons.items())),
        }
        files.write_json(root / RESULT, result)
        shutil.copy(run.work / CALIBRATION, root / CALIBRATION)
        shutil.copy(run.work / PLAN, root / PLAN)
    shutil.rmtree(run.work, ignore_errors=True)


def _gather(root: Path, run: _Run, candidates: Sequence[tuple[_Candidate, str, str | None]]) -> None:
    """A sample set of candidates: their files linked, their records gathered."""
    records = []
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for candidate, name, reason in candidates:
        normal = run.draws.normal(candidate.entry)
        image, mask = f"images/{name}.png", f"masks/{name}.png" if candidate.record["has_mask"] else None
        files.place(candidate.stem.with_suffix(".png"), root / image)
        if mask is not None:
            files.place(candidate.stem.with_suffix(".mask.png"), root / mask)
        facts = dict(candidate.record["provenance"])
        if reason is not None:
            facts["rejected"] = reason
        kind = candidate.entry["mask"].get("kind", run.painter.name)
        records.append(Sample(image, mask, DEFECT, kind, normal.group, normal.split, run.painter.name, facts))
    SampleSet(root, tuple(records)).save()
