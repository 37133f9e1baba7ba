"""Every verdict is in the archive, in order and unchanged, or counted as lost; the loop never waits for the disk."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from diagline import files
from diagline.errors import ConfigError, OutputError
from diagline.verdict import State, Verdict
from edge_runtime.archive import images as archive_images
from edge_runtime.archive import writer as archive_writer
from edge_runtime.archive.config import ArchiveConfig
from edge_runtime.archive.database import FILE, Head, Kind, Trail
from edge_runtime.archive.reader import Reader, Row
from edge_runtime.archive.store import Archive, Origin

WAIT_S = 30.0
UTC = "2026-03-04T05:06:07.000008+00:00"
ORIGIN = Origin("ab" * 32, "onnx_int8", "onnxruntime", 2)
FAST = {"commit_s": 0.0, "retry_s": 0.001, "min_free_bytes": 0}
LOGITS = {State.PASS: -3.5, State.REJECT: 0.1 + 0.2, State.NO_DECISION: None}


def verdict(part_id: str, state: State = State.PASS) -> Verdict:
    cause = "late" if state is State.NO_DECISION else None
    return Verdict(part_id, state, LOGITS[state], 0.0, "tiny@0123456789ab", UTC, cause, {"taken": 5, "decided": 9})


def noise(seed: int = 0, shape: tuple[int, ...] = (16, 16, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def make_archive(tmp_path: Path) -> Iterator[Callable[..., Archive]]:
    """`make_archive(**config)`: an archive in `tmp_path`, closed at the end."""
    made = []

    def make(**config: Any) -> Archive:
        made.append(Archive(tmp_path, ArchiveConfig(**{**FAST, **config}), {"version": "1"}))
        return made[-1]

    yield make
    for archive in made:
        archive.close()


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Callable[[], Reader]]:
    readers = []

    def make() -> Reader:
        readers.append(Reader(tmp_path))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


class Gate:
    """Holds the writer's thread at each commit until it is opened, as a slow disk would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        commit = archive_writer.Writer.commit

        def slow(*arguments: Any) -> None:
            self.reached.set()
            assert self.open.wait(WAIT_S)
            commit(*arguments)

        monkeypatch.setattr(archive_writer.Writer, "commit", slow)


def only(rows: list[Row]) -> dict[str, Any]:
    (row,) = rows
    return row.content


@pytest.mark.parametrize("state", State)
def test_a_verdict_is_kept_with_its_evidence_origin_and_picture(
    state: State, make_archive: Callable[..., Archive], read: Callable[[], Reader], tmp_path: Path
) -> None:
    archive, frame = make_archive(pass_share=1.0), noise()
    assert archive.put(verdict("../p 1", state), frame, ORIGIN) and archive.flush(WAIT_S)
    content = only(read().part("../p 1"))
    image = f"images/2026-03-04/{state.value}/000000002_.._p_1.png"
    assert {key: value for key, value in content.items() if key not in ("at_utc", "image_sha256")} == {
        "kind": "verdict", "run_id": archive.run_id, "part_id": "../p 1", "state": state.value, "logit": LOGITS[state],
        "threshold": 0.0, "model": "tiny@0123456789ab", "cause": "late" if state is State.NO_DECISION else None,
        "taken_utc": UTC, "stamps_ns": {"taken": 5, "decided": 9}, "bundle_sha256": "ab" * 32, "format": "onnx_int8",
        "engine": "onnxruntime", "threads": 2, "image": image, "image_exact": True, "no_image": None,
    }  # fmt: skip
    assert content["image_sha256"] == hashlib.sha256((tmp_path / image).read_bytes()).hexdigest()
    assert np.array_equal(archive_images.read(tmp_path / image, content["image_sha256"]), frame)


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (9, 7, 3), (5, 5, 4)])
def test_a_picture_comes_back_bit_for_bit(shape: tuple[int, ...]) -> None:
    picture = archive_images.encode(noise(shape=shape), ArchiveConfig())
    decoded = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decoded, noise(shape=shape).reshape(decoded.shape))


@pytest.mark.parametrize(
    ("state", "frame", "why"),
    [
        (State.REJECT, None, "no frame"),
        (State.PASS, noise(), "a pass that was not drawn"),
        (State.REJECT, noise().astype(np.float32), "the frame is float32 (16, 16, 3), not a picture"),
        (State.REJECT, noise(shape=(4, 4, 2)), "the frame is uint8 (4, 4, 2), not a picture"),
    ],
)
def test_a_row_without_a_picture_says_why(
    state: State, frame: NDArray[np.uint8] | None, why: str, make_archive: Callable[..., Archive],
    read: Callable[[], Reader], tmp_path: Path,
) -> None:  # fmt: skip
    archive = make_archive(pass_share=0.0)
    assert archive.put(verdict("p", state), frame) and archive.flush(WAIT_S)
    content = only(read().part("p"))
    assert (content["image"], content["no_image"]) == (None, why)
    assert not (tmp_path / "images").exists() and not archive.health().lost


def test_the_passes_that_are_kept_are_the_same_ones_every_time() -> None:
    drawn = [archive_images.drawn(f"{number:06d}", 0.25) for number in range(4000)]
    assert 0.2 < np.mean(drawn) < 0.3
    assert drawn == [archive_images.drawn(f"{number:06d}", 0.25) for number in range(4000)]
    assert not any(archive_images.drawn(f"{number}", 0.0) for number in range(100))
    assert all(archive_images.drawn(f"{number}", 1.0) for number in range(100))


def test_start_stop_and_events_are_rows_of_the_chain(
    make_archive: Callable[..., Archive], read: Callable[[], Reader]
) -> None:
    archive = make_archive()
    archive.event(Kind.SELF_TEST, {"checked": 4, "failures": []})
    archive.put(verdict("p"))
    assert archive.close() == 0
    reader = read()
    assert only(reader.events(Kind.START))["payload"] == {"version": "1"}
    assert only(reader.events(Kind.SELF_TEST))["payload"] == {"checked": 4, "failures": []}
    assert [row.seq for row in reader.events(Kind.STOP)] == [4]
    found = reader.verify()
    assert (found.fault, found.head) == (None, archive.head()) and archive.head().count == 4


# What was changed from outside


def filled(archive: Archive) -> Head:
    for number in range(4):
        archive.put(verdict(f"{number}"))
    assert archive.close() == 0 and archive.head().count == 6
    return archive.head()


def tamper(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / FILE) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.mark.parametrize("row", range(1, 7))
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trail SET content = replace(content, 'run_id', 'run-id')",
        "UPDATE trail SET hash = zeroblob(32)",
        "DELETE FROM trail",
        "UPDATE trail SET seq = seq + 100",
    ],
)
def test_a_row_that_is_changed_or_removed_is_named(
    row: int, statement: str, make_archive: Callable[..., Archive], read: Callable[[], Reader], tmp_path: Path
) -> None:
    filled(make_archive())
    assert read().verify().fault is None
    tamper(tmp_path, f"{statement} WHERE seq = {row}")
    found = read().verify()
    assert found.row == row and f"row {row} " in str(found.fault)


def test_a_row_removed_with_the_later_ones_moved_up_is_named(
    make_archive: Callable[..., Archive], read: Callable[[], Reader], tmp_path: Path
) -> None:
    filled(make_archive())
    tamper(
        tmp_path,
        "DELETE FROM trail WHERE seq = 3",
        *(f"UPDATE trail SET seq = {n - 1} WHERE seq = {n}" for n in (4, 5, 6)),
    )
    assert read().verify().row == 3


@pytest.mark.parametrize("row", [1, 4, 7])
def test_a_row_that_is_inserted_is_named(
    row: int, make_archive: Callable[..., Archive], read: Callable[[], Reader], tmp_path: Path
) -> None:
    filled(make_archive())
    moved = [f"UPDATE trail SET seq = {n + 1} WHERE seq = {n}" for n in range(6, row - 1, -1)]
    tamper(tmp_path, *moved, f"INSERT INTO trail (seq, content, hash) VALUES ({row}, '{{}}', zeroblob(32))")
    assert read().verify().row == row


def rewrite(folder: Path, last: int) -> None:
    """Cut the chain after `last` and make its head fit again, as someone with all rights could."""
    tamper(
        folder,
        f"DELETE FROM trail WHERE seq > {last}",
        f"UPDATE head SET count = {last}, hash = (SELECT hash FROM trail WHERE seq = {last})",
    )


def test_a_chain_written_anew_shows_only_against_a_head_noted_elsewhere(
    make_archive: Callable[..., Archive], read: Callable[[], Reader], tmp_path: Path
) -> None:
    head = filled(make_archive())
    assert read().verify(anchor=head).fault is None
    rewrite(tmp_path, 4)
    assert read().verify().fault is None
    found = read().verify(anchor=head)
    assert found.row == 5 and "6 rows were noted" in str(found.fault)
    make_archive().close()  # grows on, past the noted count
    make_archive().close()
    assert read().verify().fault is None
    assert read().verify(anchor=head).row == 6


def test_a_file_whose_end_was_cut_is_not_written_on(make_archive: Callable[..., Archive], tmp_path: Path) -> None:
    filled(make_archive())
    tamper(tmp_path, "DELETE FROM trail WHERE seq = 6")
    with pytest.raises(OutputError, match="the last row is not the one its head names"):
        make_archive()


def test_a_damaged_file_a_second_writer_and_another_version_are_refused(
    make_archive: Callable[..., Archive], read: Callable[[], Reader], tmp_path: Path
) -> None:
    archive = make_archive()
    with pytest.raises(OutputError, match="another process writes this archive"):
        make_archive()
    archive.close()
    tamper(tmp_path, "PRAGMA user_version = 7")
    for opened in (make_archive, read):
        with pytest.raises(OutputError, match="archive version 7"):
            opened()
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    for opened in (make_archive, read):
        with pytest.raises(OutputError, match="not a database"):
            opened()
    with pytest.raises(OutputError, match="unable to open"):
        Reader(tmp_path / "nowhere")


def test_a_commit_waits_for_the_disk_to_have_it(make_archive: Callable[..., Archive]) -> None:
    db = make_archive()._writer.trail._db
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_is_damaged_inside_is_reported(
    make_archive: Callable[..., Archive], read: Callable[[], Reader], tmp_path: Path
) -> None:
    archive = make_archive()
    for number in range(200):
        archive.put(verdict(f"{number}"))
    archive.close()
    data = bytearray((tmp_path / FILE).read_bytes())
    data[4096 * 4 :] = b"\xff" * (len(data) - 4096 * 4)
    (tmp_path / FILE).write_bytes(data)
    reader = read()
    assert "malformed" in str(reader.verify().fault)
    with pytest.raises(OutputError, match="malformed"):
        reader.verdicts(999)


def test_readers_see_whole_commits_while_the_box_writes(
    make_archive: Callable[..., Archive], read: Callable[[], Reader]
) -> None:
    archive = make_archive()
    reader = read()
    for number in range(30):
        archive.put(verdict(f"{number}", State.REJECT), noise())
        assert reader.verify().fault is None
    assert archive.flush(WAIT_S)
    assert [row.content["part_id"] for row in reader.verdicts(2, State.REJECT)] == ["29", "28"]
    assert reader.verdicts(9, State.PASS) == [] and reader.head() == archive.head()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._db.execute("DELETE FROM trail")


# A disk that is slow, full or dead


def test_frames_give_way_first_then_events_and_verdicts_last_and_the_trail_tells(
    make_archive: Callable[..., Archive], read: Callable[[], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Gate(monkeypatch)
    archive = make_archive(queue_rows=6, queue_frame_bytes=2 * noise().nbytes)
    assert disk.reached.wait(WAIT_S)  # the start waits in the queue
    assert all(archive.put(verdict(f"{number}", State.REJECT), noise()) for number in range(3))
    assert archive.health().lost == {"image: the queue of frames is full": 1}
    assert not archive.event(Kind.GATE, {})
    assert archive.put(verdict("3")) and archive.put(verdict("4")) and not archive.put(verdict("5"))
    lost = {"event: the queue is full": 1, "verdict: the queue is full": 1}
    assert archive.health().lost == {"image: the queue of frames is full": 1, **lost}
    assert archive.health().queue == 6 and archive.health().rows == 0
    disk.open.set()
    assert archive.flush(WAIT_S) and archive.put(verdict("6")) and archive.flush(WAIT_S)
    reader = read()
    assert [row.content["part_id"] for row in reader.verdicts(99)] == ["6", "4", "3", "2", "1", "0"]
    assert [row.content["no_image"] for row in reader.verdicts(99, State.REJECT)] == [
        "the queue of frames is full", None, None,
    ]  # fmt: skip
    assert only(reader.events(Kind.LOST))["payload"] == lost
    assert reader.verify().fault is None and archive.health().queue == 0


def test_text_that_waits_is_bounded_in_bytes_too(
    make_archive: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Gate(monkeypatch)
    archive = make_archive(queue_row_bytes=2**15)
    assert disk.reached.wait(WAIT_S)
    long = replace(verdict("long", State.NO_DECISION), cause="x" * 2**14)
    assert archive.put(long) and not archive.put(long)
    assert not archive.event(Kind.GATE, {"why": "x" * 2**10})
    assert archive.health().lost == {"verdict: the queue is full": 1, "event: the queue is full": 1}
    disk.open.set()
    assert archive.flush(WAIT_S) and archive.put(long) and archive.flush(WAIT_S)


def test_a_part_of_a_picture_waits_without_the_rest_of_it(
    make_archive: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Gate(monkeypatch)
    archive = make_archive()
    assert disk.reached.wait(WAIT_S)
    whole = noise(shape=(64, 64, 3))
    gone = weakref.ref(whole)
    assert archive.put(verdict("0", State.REJECT), whole[8:24, 8:24])
    kept = archive._queue[-1].frame_bgr
    assert kept is not None and np.array_equal(kept, whole[8:24, 8:24])
    del whole
    assert gone() is None
    disk.open.set()


def test_frames_that_were_written_make_room_for_others(
    make_archive: Callable[..., Archive], read: Callable[[], Reader]
) -> None:
    archive = make_archive(queue_frame_bytes=noise().nbytes)
    for number in range(3):
        archive.put(verdict(f"{number}", State.REJECT), noise())
        assert archive.flush(WAIT_S)
    assert all(row.content["image"] for row in read().verdicts(9)) and not archive.health().lost


def test_a_disk_that_hangs_holds_neither_the_loop_nor_the_end(
    make_archive: Callable[..., Archive], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Gate(monkeypatch)
    archive = make_archive()
    assert disk.reached.wait(WAIT_S)
    for number in range(100):
        assert archive.put(verdict(f"{number}"), noise())
    assert not archive.flush(0.0)
    assert archive.close(wait_s=0.0) == 102
    assert not archive.put(verdict("late")) and archive.health().lost == {"verdict: the archive is closed": 1}
    disk.open.set()
    assert archive.close() == 0


def limit_pages(archive: Archive, pages: int) -> None:
    archive._writer.trail._db.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_loses_no_verdict_that_fits_in_memory_and_the_chain_goes_on_when_there_is_room(
    make_archive: Callable[..., Archive], read: Callable[[], Reader]
) -> None:
    archive = make_archive(queue_rows=300)
    assert archive.flush(WAIT_S)
    limit_pages(archive, 1)  # SQLite takes what the file has now as the least
    accepted = [f"{number}" for number in range(1000) if archive.put(verdict(f"{number}"))]
    assert not archive.flush(0.2)
    health = archive.health()
    assert "full" in str(health.error) and health.queue == 300
    refused = sum(count for cause, count in health.lost.items() if cause.startswith("verdict: the queue is full"))
    assert refused == 1000 - len(accepted) > 0
    limit_pages(archive, 1_000_000)
    assert archive.flush(WAIT_S)
    health, reader = archive.health(), read()
    assert (health.error, health.queue) == (None, 0) and "full" in str(health.last_error)
    assert [row.content["part_id"] for row in reversed(reader.verdicts(2000))] == accepted
    assert sum(sum(row.content["payload"].values()) for row in reader.events(Kind.LOST)) == refused
    assert reader.verify().fault is None


def test_a_picture_that_the_disk_refuses_is_told_and_its_verdict_stays(
    make_archive: Callable[..., Archive], read: Callable[[], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OutputError(f"cannot write {path}: No space left on device")

    archive = make_archive()
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", refuse)
        archive.put(verdict("p", State.REJECT), noise())
        assert archive.flush(WAIT_S)
    reader = read()
    (row,) = reader.part("p")
    gone = reader.image_gone(row.seq)
    assert gone is not None and gone.content["payload"]["rows"] == [row.seq]
    assert "No space left" in gone.content["payload"]["why"]
    assert archive.health().lost == {"image: the disk refused it": 1} and reader.verify().fault is None


def test_an_error_nobody_thought_of_does_not_end_the_archive(
    make_archive: Callable[..., Archive], read: Callable[[], Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_archive()
    with monkeypatch.context() as patch:
        patch.setattr(archive_images, "encode", lambda *_: {}["bug"])
        archive.put(verdict("p", State.REJECT), noise())
        assert not archive.flush(0.1)
        assert "bug" in str(archive.health().error)
    assert archive.flush(WAIT_S) and len(read().part("p")) == 1


def test_what_is_no_plain_data_is_lost_alone_and_counted(
    make_archive: Callable[..., Archive], read: Callable[[], Reader]
) -> None:
    archive = make_archive()
    assert not archive.event(Kind.GATE, {"path": Path("x")}) and not archive.event(Kind.GATE, {"x": float("nan")})
    assert archive.event(Kind.GATE, {"x": 1}) and archive.flush(WAIT_S)
    assert len(read().events(Kind.GATE)) == 1
    assert sum(archive.health().lost.values()) == 2


def test_a_verdict_changed_after_it_was_put_is_kept_as_it_was(
    make_archive: Callable[..., Archive], read: Callable[[], Reader]
) -> None:
    archive, given = make_archive(), verdict("p")
    archive.put(given)
    given.stamps_ns["gate"] = 99
    assert archive.flush(WAIT_S)
    assert only(read().part("p"))["stamps_ns"] == {"taken": 5, "decided": 9}


@pytest.mark.parametrize(
    "wrong", [{"image_format": "pgn"}, {"pass_share": 1.5}, {"reject_days": -1.0}, {"queue_rows": 0}, {"png_level": 10}]
)
def test_a_config_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"archive.{next(iter(wrong))}"):
        ArchiveConfig(**wrong)


# SIGKILL

CRASH = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from edge_runtime.archive import writer as archive_writer
from edge_runtime.archive.store import Archive
from edge_runtime.archive.config import ArchiveConfig
from diagline import files
from diagline.verdict import State
from test_archive import FAST, noise, verdict

root, count = Path(sys.argv[1]), int(sys.argv[2])

def life(folder, at):
    '''Put verdicts, note what was acknowledged, and die before the operation of number `at`.'''
    done = 0
    def step(*_):
        nonlocal done
        done += 1
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)
    for module, names in ((os, ("fsync", "replace", "chmod", "unlink")), (archive_writer.retention, ("delete",))):
        for name in names:
            def hooked(*given, real=getattr(module, name), **named):
                step()
                return real(*given, **named)
            setattr(module, name, hooked)
    archive = Archive(folder, ArchiveConfig(**FAST, reject_quota_bytes=900))
    archive._writer.trail._db.set_trace_callback(step)
    with open(folder / "acknowledged", "w") as note:
        for number in range(count):
            archive.put(verdict(f"{number}", State.REJECT), noise(number))
            if archive.flush(30):
                note.write(f"{number}\\n")
                note.flush()
    assert archive.close() == 0
    os._exit(0)

at = 0
while True:
    at += 1
    child = os.fork()
    if child == 0:
        (root / str(at)).mkdir()
        life(root / str(at), at)
    if os.waitpid(child, 0)[1] == 0:
        break
print(at)
"""


def run_crashes(root: Path, count: int) -> int:
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])])
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(root), str(count)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_sigkill_before_any_operation_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Dies before each SQL statement, fsync, rename and deletion of a run with pictures and retention, in turn."""
    lives = run_crashes(tmp_path, 3)
    assert lives > 60
    for at in range(1, lives + 1):
        folder = tmp_path / str(at)
        acknowledged = (folder / "acknowledged").read_text().split() if (folder / "acknowledged").exists() else []
        again = Archive(folder, ArchiveConfig(**FAST))
        assert again.flush(WAIT_S) and again.close() == 0
        trail = Trail(folder)
        assert trail.unwritten() == []
        trail.close()
        reader = Reader(folder)
        assert reader.verify().fault is None, at
        rows = list(reversed(reader.verdicts(99)))
        found = [row.content["part_id"] for row in rows]
        assert found == [str(number) for number in range(len(found))] and found[: len(acknowledged)] == acknowledged
        expected = {row.content["image"] for row in rows if reader.image_gone(row.seq) is None}
        on_disk = {str(path.relative_to(folder)) for path in (folder / "images").rglob("*") if path.is_file()}
        assert on_disk == expected, at
        for row in rows:
            if row.content["image"] in expected:
                archive_images.read(folder / row.content["image"], row.content["image_sha256"])
        reader.close()


FLOOD = """
import sys
from dataclasses import replace
from pathlib import Path
from edge_runtime.archive.store import Archive
from edge_runtime.archive.config import ArchiveConfig
from test_archive import FAST, verdict
archive = Archive(Path(sys.argv[1]), ArchiveConfig(**FAST))
number = 0
while True:
    for number in range(number, number + 7):
        archive.put(verdict(str(number)))
    if archive.flush(30):
        print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("lines", [1, 2, 5, 11, 30])
def test_sigkill_from_outside_at_any_moment_loses_nothing_acknowledged(lines: int, tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])])
    box = subprocess.Popen(
        [sys.executable, "-c", FLOOD, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert box.stdout is not None
    for _ in range(lines):
        last = int(box.stdout.readline())
    box.send_signal(signal.SIGKILL)
    last = int(([str(last), *box.stdout.read().split("\n")[:-1]])[-1])
    box.wait()
    reader = Reader(tmp_path)
    found = [json.loads(row.content["part_id"]) for row in reversed(reader.verdicts(10**6))]
    assert found == list(range(len(found))) and len(found) > last
    assert reader.verify().fault is None
    reader.close()
