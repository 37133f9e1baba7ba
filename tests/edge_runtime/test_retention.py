"""Pictures stay within their quotas, go oldest first and passes first, and the trail says which went and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagline.verdict import State, Verdict
from edge_runtime.archive import retention
from edge_runtime.archive import writer as archive_writer
from edge_runtime.archive.config import ArchiveConfig
from edge_runtime.archive.database import FILE, LOCK, Kept, Kind
from edge_runtime.archive.reader import Reader
from edge_runtime.archive.store import Archive

WAIT_S = 30.0
START = datetime.fromisoformat("2026-03-04T05:06:07.000008+00:00")
FRAME = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
LOGITS = {State.PASS: -3.5, State.REJECT: 2.5, State.NO_DECISION: None}


class Box:
    """An archive whose clock and disk the test holds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.now, self.full_bytes = folder, START, 10**9
        self._open: list[Archive | Reader] = []
        monkeypatch.setattr(archive_writer, "free_bytes", lambda _: self.full_bytes - self.picture_bytes())

    def start(self, **config: Any) -> Archive:
        fast = {"commit_s": 0.0, "retry_s": 0.001, "pass_share": 1.0, "min_free_bytes": 0, **config}
        self._open.append(Archive(self.folder, ArchiveConfig(**fast), now=lambda: self.now))
        return self._open[-1]

    def put(self, archive: Archive, *parts: str, wait_s: float = WAIT_S) -> None:
        """Put a part a name: P, R or N and whatever follows; each a second later than the one before."""
        for part in parts:
            state = next(state for state in State if state.value[0] == part[0])
            cause = "late" if state is State.NO_DECISION else None
            utc = self.now.isoformat(timespec="microseconds")
            archive.put(Verdict(part, state, LOGITS[state], 0.0, "tiny@0", utc, cause), FRAME)
            self.now += timedelta(seconds=1)
        for _ in range(2):  # the second sweeps once more, over the pictures of this one
            assert archive.flush(wait_s) or wait_s < WAIT_S

    def pictures(self) -> list[Path]:
        return sorted(path for path in (self.folder / "images").rglob("*") if path.is_file())

    def picture_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.pictures())

    def kept(self) -> str:
        """Names of the parts whose picture is there, in the order they came."""
        return " ".join(sorted((path.stem.partition("_")[2] for path in self.pictures()), key=lambda name: name[1:]))

    def reader(self) -> Reader:
        self._open.append(Reader(self.folder))
        return self._open[-1]

    def close(self) -> None:
        for opened in self._open:
            opened.close()


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    box = Box(tmp_path, monkeypatch)
    yield box
    box.close()


@pytest.fixture(scope="module")
def size() -> int:
    """Bytes of one picture: all are the same."""
    from edge_runtime.archive.images import encode

    return len(encode(FRAME, ArchiveConfig()).data)


def whys(reader: Reader) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for event in reversed(reader.events(Kind.IMAGE_GONE)):
        found.setdefault(event.content["payload"]["why"], []).extend(event.content["payload"]["rows"])
    return found


def test_each_verdict_keeps_to_its_own_quota_oldest_first_and_every_row_stays(box: Box, size: int) -> None:
    archive = box.start(pass_quota_bytes=2 * size, reject_quota_bytes=3 * size, no_decision_quota_bytes=size)
    box.put(archive, *(f"{letter}{number}" for number in range(1, 6) for letter in "PRN"))
    assert sorted(box.kept().split()) == ["N5", "P4", "P5", "R3", "R4", "R5"]
    reader = box.reader()
    assert len(reader.verdicts(99)) == 15 and reader.verify().fault is None
    for row in reader.verdicts(99):
        gone = reader.image_gone(row.seq)
        assert (gone is None) == (row.content["part_id"] in box.kept().split())
        assert gone is None or row.seq in gone.content["payload"]["rows"]
    assert archive.health().used_bytes.items() >= {"PASS": 2 * size, "REJECT": 3 * size, "NO_DECISION": size}.items()


def test_pictures_go_when_their_days_are_over(box: Box) -> None:
    archive = box.start(pass_days=1.0, reject_days=3.0, no_decision_days=2.0)
    box.put(archive, "P1", "R2", "N3")
    for days, kept in ((1, "P1 R2 N3"), (1, "R2 N3"), (1, "R2"), (1, "")):
        assert box.kept() == kept
        box.now += timedelta(days=days)
        box.put(archive)
    assert set(whys(box.reader())) == {"older than 1 days", "older than 2 days", "older than 3 days"}


def test_a_short_disk_costs_passes_first_then_what_was_not_decided_then_rejects(box: Box, size: int) -> None:
    archive = box.start(min_free_bytes=1000, sweep_s=3600.0)
    parts = ("R1", "N2", "P3", "P4", "R5", "N6")
    box.put(archive, *parts)
    seen = [box.kept()]
    for room in (5, 4, 3, 2, 1, 0):
        box.full_bytes = 1000 + room * size
        box.put(archive)
        seen.append(box.kept())
    assert seen == [
        "R1 N2 P3 P4 R5 N6", "R1 N2 P4 R5 N6", "R1 N2 R5 N6", "R1 R5 N6", "R1 R5", "R5", "",
    ]  # fmt: skip
    box.full_bytes = 999
    box.put(archive, "R7")  # no room for a picture: the row says so
    (row,) = box.reader().part("R7")
    assert row.content["no_image"] == archive_writer.SHORT
    assert archive.health().lost == {f"image: {archive_writer.SHORT}": 1} and box.reader().verify().fault is None


def test_nothing_is_deleted_that_the_archive_did_not_write(box: Box) -> None:
    archive = box.start(reject_quota_bytes=0)
    day = box.folder / "images" / "2026-03-04" / "REJECT"
    day.mkdir(parents=True)
    (day / "000000002_other.png").write_bytes(b"not ours")
    (day / ".000000002_R1.png.notes").write_bytes(b"not ours")
    (box.folder / "notes.txt").write_bytes(b"not ours")
    box.put(archive, "R1", "R2")
    archive.close()
    box.start(reject_quota_bytes=0).close()
    files = sorted(path.name for path in box.folder.rglob("*") if path.is_file())
    assert files == [".000000002_R1.png.notes", "000000002_other.png", FILE, LOCK, "notes.txt"]


def test_folders_that_deleting_leaves_empty_go_too(box: Box) -> None:
    archive = box.start(pass_quota_bytes=0)
    box.put(archive, "P1", "R2")
    assert sorted(path.name for path in (box.folder / "images" / "2026-03-04").iterdir()) == ["REJECT"]


def test_a_picture_that_cannot_be_deleted_is_reported_and_others_go(
    box: Box, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = box.start(reject_quota_bytes=3 * size)
    box.put(archive, "R1", "R2", "R3")
    delete = retention.delete

    def refuse(folder: Path, kept: Any) -> None:
        if kept.path.endswith("R1.png"):
            raise PermissionError(13, "Permission denied")
        delete(folder, kept)

    monkeypatch.setattr(retention, "delete", refuse)
    box.put(archive, "R4", "R5", wait_s=0.2)  # not done while one cannot go
    assert "Permission denied" in str(archive.health().last_error)
    assert "R1" in box.kept() and "R2" not in box.kept()


def test_what_a_stop_left_half_deleted_is_noted_at_the_next_start(box: Box) -> None:
    archive = box.start()
    box.put(archive, "R1", "R2", "R3")
    archive.close()
    for path in box.pictures()[:2]:
        path.unlink()  # deleted, and killed before it was noted
    again = box.start()
    assert again.flush(WAIT_S)
    assert whys(box.reader()) == {"found missing at start": [2, 3]}


@pytest.fixture
def make_writer(box: Box) -> Iterator[Callable[..., archive_writer.Writer]]:
    """`make_writer(count, **config)`: a writer with the rows of so many rejects' pictures, 10 bytes each."""
    made = []

    def make(count: int, **config: Any) -> archive_writer.Writer:
        kept = ArchiveConfig(**{"min_free_bytes": 0, **config})
        writer = archive_writer.Writer(box.folder, kept, lambda: box.now, lambda _, content: content, lambda _: None)
        with writer.trail.writing():
            for number in range(count):
                seq = writer.trail.append("{}")
                writer.trail.add_image(Kept(seq, State.REJECT, START.isoformat(), f"images/{number}.png", 10))
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer.trail.close()


def test_a_short_disk_is_heeded_with_every_commit_and_quotas_every_sweep_s(
    box: Box, make_writer: Callable[..., archive_writer.Writer]
) -> None:
    writer = make_writer(0, min_free_bytes=1000, sweep_s=3600.0, reject_quota_bytes=0)
    writer.sweep(at_once=False)  # the first; the next is due in an hour
    with writer.trail.writing():
        writer.trail.add_image(Kept(writer.trail.append("{}"), State.REJECT, START.isoformat(), "images/a.png", 10))
    writer.sweep(at_once=False)
    assert not writer.owes
    box.full_bytes = 999
    writer.sweep(at_once=False)
    assert writer.owes


def test_a_long_sweep_goes_on_in_parts(
    make_writer: Callable[..., archive_writer.Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    writer = make_writer(5, reject_quota_bytes=0, sweep_s=3600.0)
    left = []
    for _ in range(3):
        writer.sweep(at_once=False)
        writer.commit([], Counter())
        left.append(len(list(writer.trail.kept(State.REJECT))))
    assert left == [3, 1, 0]


def test_what_went_and_is_not_noted_yet_counts_as_gone(make_writer: Callable[..., archive_writer.Writer]) -> None:
    writer = make_writer(5, reject_quota_bytes=30)
    rejects = list(writer.trail.kept(State.REJECT))

    def seqs(config: ArchiveConfig, free_bytes: int, pending: list[Kept]) -> list[int]:
        return [kept.seq for _, kept in retention.due(writer.trail, config, START, free_bytes, pending)]

    quota, short = ArchiveConfig(min_free_bytes=0, reject_quota_bytes=30), ArchiveConfig(min_free_bytes=100)
    assert seqs(quota, 0, []) == [1, 2] and seqs(quota, 0, rejects[:2]) == []
    assert seqs(short, 85, []) == [1, 2] and seqs(short, 85, rejects[:2]) == [3, 4]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([(0.0, 0)], None),
        ([(0.0, 0), (59.0, 10**6)], None),  # too short
        ([(0.0, 10), (3600.0, 10)], None),  # does not grow
        ([(0.0, 0), (1800.0, 3), (3600.0, 10**6)], 10.0),
        ([(0.0, 0), (3600.0, 240 * 10**6 * 2)], 1 / 48),
    ],
)
def test_the_days_that_are_left_follow_the_present_rate(
    samples: list[tuple[float, int]], expected: float | None
) -> None:
    left = retention.days_left(samples, 240 * 10**6)
    assert left == (None if expected is None else pytest.approx(expected))
    assert retention.days_left([(0.0, 0), (3600.0, 1)], -5) == 0.0
