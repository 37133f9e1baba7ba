"""Nothing that was put is lost, whatever happens to the output, the disk or the process; what had to go is counted."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from diagline.errors import ConfigError, OutputError
from edge_runtime.outputs import spool as spools
from edge_runtime.outputs.base import FakeOutput, Record
from edge_runtime.outputs.spool import RefusedError, Spool, SpoolConfig, backoff_s, open_spool

WAIT_S = 30.0
LIMIT_BYTES = 10_000_000


class Peer(FakeOutput):
    """A fake that can be waited for, hang, refuse and throw."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.refuses: set[int] = set()
        self.throws: Exception | None = None

    def send(self, record: Record) -> None:
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        try:
            if self.throws:
                raise self.throws
            if record["n"] in self.refuses:
                raise RefusedError("fake: answered 400")
            super().send(record)
        finally:
            with self.changed:
                self.changed.notify_all()

    def wait(self, what: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(what, WAIT_S)

    @property
    def numbers(self) -> list[int]:
        return [record["n"] for record in self.records]


@contextmanager
def spool_on(peer: Peer, folder: Path, limit_bytes: int = LIMIT_BYTES, **options: Any) -> Iterator[Spool]:
    """A spool that retries fast and syncs only when asked."""
    spool = Spool(peer, folder, limit_bytes, **{"retry_s": 0.01, "retry_longest_s": 0.01, "sync_s": 3600.0, **options})
    try:
        yield spool
    finally:
        peer.gate.set()
        spool.close(0.0)


def settled(spool: Spool) -> spools.SpoolHealth:
    """Health once nothing waits any more."""
    with spool._changed:
        assert spool._changed.wait_for(lambda: spool._waiting == 0, WAIT_S)
    return spool.health()


def put(spool: Spool, numbers: range, kind: str = "verdict", size: int = 0) -> None:
    for number in numbers:
        spool.put({"n": number, "pad": "x" * size}, kind)


@contextmanager
def full_disk() -> Iterator[None]:
    """The kernel refuses every write that would make a file longer."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_records_arrive_in_the_order_they_were_put_whatever_their_kind(tmp_path: Path) -> None:
    peer = Peer()
    peer.gate.clear()
    with spool_on(peer, tmp_path) as spool:
        for number in range(60):
            spool.put({"n": number}, "diagnostic" if number % 3 else "verdict")
        peer.gate.set()
        health = settled(spool)
    assert peer.numbers == list(range(60))
    assert (health.sent, health.waiting, health.dropped, health.connected) == (60, 0, {}, True)
    assert peer.closed


def test_a_put_returns_while_the_output_hangs(tmp_path: Path) -> None:
    peer = Peer()
    peer.gate.clear()
    with spool_on(peer, tmp_path, now_s=iter(range(1000)).__next__) as spool:
        put(spool, range(20))
        health = spool.health()
        assert (health.waiting, health.sent, health.connected) == (20, 0, None)
        assert health.oldest_s == 20  # the clock ticks once a put and once for the question


def test_what_does_not_arrive_is_tried_for_ever_and_in_order(tmp_path: Path) -> None:
    peer = Peer()
    peer.broken = "fake: no answer"
    with spool_on(peer, tmp_path) as spool:
        put(spool, range(3))
        peer.wait(lambda: peer.tries >= 8)
        health = spool.health()
        assert (health.waiting, health.sent, health.connected) == (3, 0, False)
        assert health.last_error == "fake: no answer" and health.failures >= 7 and health.errors == 0
        peer.broken = None
        assert settled(spool).failures == 0
    assert peer.numbers == [0, 1, 2]


def test_an_output_that_throws_keeps_the_record_and_its_text_stays_out_of_health(tmp_path: Path) -> None:
    peer = Peer()
    peer.throws = RuntimeError("password=secret")
    with spool_on(peer, tmp_path) as spool:
        put(spool, range(2))
        peer.wait(lambda: spool._errors >= 2)
        assert spool.health().last_error == "fake: RuntimeError"
        peer.throws = None
        settled(spool)
    assert peer.numbers == [0, 1]


def test_waits_double_up_to_the_longest() -> None:
    assert [backoff_s(n, 0.5, 30.0) for n in (1, 2, 3, 6, 7, 8, 10_000)] == [0.5, 1, 2, 16, 30, 30, 30]


def test_a_record_the_output_refuses_does_not_block_the_others(tmp_path: Path) -> None:
    peer = Peer()
    peer.refuses = {1}
    with spool_on(peer, tmp_path) as spool:
        put(spool, range(3))
        health = settled(spool)
    assert peer.numbers == [0, 2]
    assert health.dropped == {("verdict", spools.REFUSED): 1} and health.last_error == "fake: answered 400"
    assert health.sent == 2


def test_a_record_gone_bad_on_the_disk_is_counted_and_does_not_block_the_others(tmp_path: Path) -> None:
    first = Peer()
    first.broken = "away"
    with spool_on(first, tmp_path) as spool:
        put(spool, range(3))
    with sqlite3.connect(tmp_path / "fake.spool") as db:
        db.execute("UPDATE verdict SET line = ? WHERE seq = 2", (b'{"n": \xff',))
    db.close()
    peer = Peer()
    with spool_on(peer, tmp_path) as spool:
        assert settled(spool).dropped == {("verdict", spools.UNREADABLE): 1}
    assert peer.numbers == [0, 2]


def test_what_was_left_is_sent_after_the_next_start(tmp_path: Path) -> None:
    first = Peer()
    first.broken = "away"
    with spool_on(first, tmp_path) as spool:
        put(spool, range(5))
    second = Peer()
    with spool_on(second, tmp_path) as spool:
        put(spool, range(5, 7))
        settled(spool)
    third = Peer()
    with spool_on(third, tmp_path) as spool:
        assert spool.health().waiting == 0
    assert (first.numbers, second.numbers, third.numbers) == ([], list(range(7)), [])


def test_over_the_budget_the_oldest_diagnostics_go_and_no_verdict(tmp_path: Path) -> None:
    peer = Peer()
    peer.gate.clear()
    with spool_on(peer, tmp_path, limit_bytes=200_000) as spool:
        put(spool, range(1))
        assert peer.entered.wait(WAIT_S)
        put(spool, range(100, 200), "verdict", size=500)
        put(spool, range(1000, 1400), "diagnostic", size=500)
        put(spool, range(200, 240), "verdict", size=500)
        dropped = spool.health().dropped
        peer.gate.set()
        health = settled(spool)
    gone = dropped.pop(("diagnostic", spools.NO_ROOM))
    assert gone > 200 and not dropped
    assert peer.numbers == [0, *range(100, 200), *range(1000 + gone, 1400), *range(200, 240)]
    assert health.sent + gone == 541


def test_where_only_verdicts_are_left_the_oldest_go_and_are_counted_and_the_file_keeps_to_its_budget(
    tmp_path: Path,
) -> None:
    peer = Peer()
    peer.gate.clear()
    with spool_on(peer, tmp_path, limit_bytes=200_000) as spool:
        put(spool, range(1))
        assert peer.entered.wait(WAIT_S)
        put(spool, range(1, 1000), size=500)
        put(spool, range(5000, 5001), "diagnostic", size=5000)
        dropped = spool.health().dropped
        spool.sync()
        assert (tmp_path / "fake.spool").stat().st_size <= 220_000
        peer.gate.set()
        settled(spool)
    assert dropped.pop(("diagnostic", spools.NO_ROOM)) == 1
    gone = dropped.pop(("verdict", spools.NO_ROOM))
    assert gone > 500 and not dropped
    assert peer.numbers == [0, *range(1 + gone, 1000)]  # the one being sent stays


def test_a_full_disk_raises_nothing_and_what_fits_in_memory_arrives_in_order(tmp_path: Path) -> None:
    peer = Peer()
    peer.broken = "away"
    with spool_on(peer, tmp_path) as spool:
        put(spool, range(3))
        with full_disk():
            put(spool, range(3, 10))
            health = spool.health()
            assert health.disk_error and (health.waiting, health.in_memory) == (10, 7)
            spool.sync()
            assert spool.health().in_memory == 7
        put(spool, range(10, 12))
        spool.sync()
        health = spool.health()
        assert (health.disk_error, health.in_memory, health.waiting) == (None, 0, 12)
    second = Peer()
    with spool_on(second, tmp_path) as spool:
        settled(spool)
    assert second.numbers == list(range(12))


def test_an_output_is_served_while_the_disk_is_full_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    peer = Peer()
    peer.gate.clear()
    with spool_on(peer, tmp_path) as spool:
        put(spool, range(3))
        with full_disk():
            put(spool, range(3, 10))
            peer.gate.set()
            assert settled(spool).sent == 10
            put(spool, range(10, 12))
            settled(spool)
        put(spool, range(12, 14))
        settled(spool)
    assert peer.numbers == list(range(14))
    with spool_on(Peer(), tmp_path) as spool:
        assert spool.health().waiting == 0


def test_memory_is_bounded_while_the_disk_is_full_and_diagnostics_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "TAIL", 10)
    peer = Peer()
    peer.gate.clear()
    with spool_on(peer, tmp_path) as spool, full_disk():
        put(spool, range(1))
        assert peer.entered.wait(WAIT_S)
        put(spool, range(1, 6))
        put(spool, range(100, 104), "diagnostic")
        put(spool, range(6, 13))
        assert spool.health().in_memory == 10
        assert spool.health().dropped == {
            ("diagnostic", spools.DISK_REFUSES): 4,
            ("verdict", spools.DISK_REFUSES): 3,
        }
        peer.gate.set()
        settled(spool)
    assert peer.numbers == [0, *range(4, 13)]  # the one being sent stays


def test_what_waits_in_memory_is_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "TAIL_BYTES", 5000)
    peer = Peer()
    peer.gate.clear()
    with spool_on(peer, tmp_path) as spool, full_disk():
        put(spool, range(1))
        assert peer.entered.wait(WAIT_S)
        put(spool, range(1, 11), size=1000)
        health = spool.health()
        assert health.in_memory == 5 and health.dropped == {("verdict", spools.DISK_REFUSES): 6}
        peer.gate.set()
        settled(spool)
    assert peer.numbers == [0, *range(7, 11)]  # the one being sent stays


def test_a_journal_that_syncs_never_empty_begins_anew_while_what_is_put_waits_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "JOURNAL_BYTES", 20_000)
    peer, seen = Peer(), []
    peer.gate.clear()
    with spool_on(peer, tmp_path, sync_s=60.0) as spool:
        put(spool, range(50))
        sync, journal = spool._disk.sync, tmp_path / "fake.spool-wal"

        def slow() -> int:
            """The disk has what was there at the beginning; meanwhile another record comes."""
            done = sync()
            before = journal.read_bytes()
            put(spool, range(50 + len(seen), 51 + len(seen)))
            seen.append((spool.health().in_memory, journal.read_bytes() == before))
            return done

        spool._disk.sync = slow  # type: ignore[method-assign]
        spool.sync()
        assert seen == [(0, False), (1, True)]  # the second time nothing was written
        assert spool.health().in_memory == 0 and sync() < 20_000
        peer.gate.set()
        settled(spool)
    assert peer.numbers == list(range(52))


def test_after_a_sync_the_disk_alone_has_every_record_also_while_the_output_hangs(tmp_path: Path) -> None:
    peer = Peer()
    peer.gate.clear()
    copied = tmp_path / "copied"
    copied.mkdir()
    with spool_on(peer, tmp_path / "live", sync_s=0.01) as spool:
        done = threading.Semaphore(0)
        sync = spool._disk.sync
        spool._disk.sync = lambda: (sync(), done.release())[0]  # type: ignore[method-assign, func-returns-value]
        put(spool, range(20))
        for _ in range(2):  # one may have been under way
            assert done.acquire(timeout=WAIT_S)
        shutil.copy(tmp_path / "live" / "fake.spool", copied)  # without its journal: what a power cut surely leaves
    after = Peer()
    with spool_on(after, copied) as spool:
        settled(spool)
    assert after.numbers == list(range(20))


def test_a_damaged_file_is_put_aside_and_said(tmp_path: Path) -> None:
    (tmp_path / "fake.spool").write_bytes(b"not a database" * 100)
    peer = Peer()
    with spool_on(peer, tmp_path) as spool:
        assert "damaged" in str(spool.health().last_error)
        put(spool, range(2))
        settled(spool)
    assert peer.numbers == [0, 1]
    assert len(list(tmp_path.glob("fake.spool.damaged-*"))) == 1


def test_two_boxes_do_not_share_a_spool(tmp_path: Path) -> None:
    with spool_on(Peer(), tmp_path), pytest.raises(OutputError, match="another process"):
        Spool(Peer(), tmp_path, LIMIT_BYTES)
    Spool(Peer(), tmp_path, LIMIT_BYTES).close(0.0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/fake\.spool"):
        Spool(Peer(), tmp_path / "file", LIMIT_BYTES)
    (tmp_path / "fake.spool").mkdir()
    with pytest.raises(OutputError, match="unable to open"):
        Spool(Peer(), tmp_path, LIMIT_BYTES)


def test_closing_returns_when_the_output_hangs_and_the_record_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "CLOSE_WAIT_S", 0.01)
    peer = Peer()
    peer.gate.clear()
    spool = Spool(peer, tmp_path, LIMIT_BYTES, sync_s=3600.0)
    put(spool, range(2))
    assert peer.entered.wait(WAIT_S)
    spool.close(0.0)
    put(spool, range(2, 3))
    assert spool.health().dropped == {("verdict", spools.CLOSED): 1}
    peer.gate.set()
    spool._threads[0].join(WAIT_S)
    second = Peer()
    with spool_on(second, tmp_path) as again:
        settled(again)
    assert second.numbers == [0, 1]


def test_closing_waits_for_what_can_still_be_sent(tmp_path: Path) -> None:
    peer = Peer()
    spool = Spool(peer, tmp_path, LIMIT_BYTES)
    put(spool, range(50))
    spool.close(WAIT_S)
    assert peer.numbers == list(range(50))


@pytest.mark.parametrize("wrong", [{"limit_mb": 0}, {"retry_s": 0.0}, {"retry_longest_s": 0.1}, {"sync_s": 0.0}])
def test_a_config_out_of_range_is_refused_by_its_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"spool.{next(iter(wrong))} = "):
        SpoolConfig(**wrong)


def test_a_config_opens_a_spool(tmp_path: Path) -> None:
    peer = Peer()
    spool = open_spool(peer, SpoolConfig(folder=tmp_path))
    put(spool, range(1))
    spool.close(WAIT_S)
    assert peer.numbers == [0]


CHILD = """
import os, signal, sys
from pathlib import Path
from edge_runtime.outputs import spool_disk
from edge_runtime.outputs.spool import Spool

folder, start, count, kill_at = Path(sys.argv[1]), *(int(word) for word in sys.argv[2:])
steps = 0
def step():
    global steps
    steps += 1
    if steps == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def log(name):
    return os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class Out:
    name = "out"
    def __init__(self):
        self.log = log("sent")
    def send(self, record):
        os.write(self.log, b"%d\\n" % record["n"])
        step()
    def close(self):
        pass

if kill_at:  # after every few steps of SQLite's machine, in the midst of its transactions
    real = spool_disk.sqlite3.connect
    def connect(*args, **named):
        db = real(*args, **named)
        db.set_progress_handler(step, 1)
        return db
    spool_disk.sqlite3.connect = connect
out, puts = Out(), log("put")
spool = Spool(out, folder, 10_000_000, sync_s=0.01)
for number in range(start, start + count):
    spool.put({"n": number})
    os.write(puts, b"%d\\n" % number)
    print(number, flush=True)
spool.close(30.0)
"""


def run_child(folder: Path, start: int, count: int, kill_at: int = 0, killed_after: int | None = None) -> int:
    """Run a box that puts `count` records; kill it at a step of its own, or when it has said so many numbers."""
    command = [sys.executable, "-c", CHILD, *(str(word) for word in (folder, start, count, kill_at))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(spools.__file__).parents[2]) as child:
        assert child.stdout is not None
        for said, _ in enumerate(child.stdout, 1):
            if said == killed_after:
                child.kill()
        return child.wait(WAIT_S)


def numbers(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def check_nothing_lost(folder: Path) -> None:
    """A last run drains; every number that was put was sent, in order, each repeated only while it was the last."""
    assert run_child(folder, 0, 0) == 0
    sent = numbers(folder / "sent")
    assert set(sent) >= set(numbers(folder / "put"))
    assert all(after == before or after > before for before, after in pairwise(sent))


@pytest.mark.parametrize("killed_after", [1, 2, 7, 40, 150])
def test_nothing_is_lost_or_out_of_order_when_the_box_is_killed_from_outside(tmp_path: Path, killed_after: int) -> None:
    for round_ in range(2):
        assert run_child(tmp_path, 1000 * round_, 400, killed_after=killed_after) == -signal.SIGKILL
    check_nothing_lost(tmp_path)


def test_nothing_is_lost_or_out_of_order_when_the_box_is_killed_within_a_transaction(tmp_path: Path) -> None:
    kills = 0
    for round_, kill_at in enumerate(range(1, 900, 37)):
        kills += run_child(tmp_path, 1000 * round_, 12, kill_at) == -signal.SIGKILL
    assert kills > 15
    check_nothing_lost(tmp_path)


def test_the_child_of_these_tests_would_notice_a_loss(tmp_path: Path) -> None:
    assert run_child(tmp_path, 0, 3) == 0
    with os.fdopen(os.open(tmp_path / "put", os.O_WRONLY | os.O_APPEND), "w") as stream:
        stream.write("99\n")
    with pytest.raises(AssertionError):
        check_nothing_lost(tmp_path)
