"""systemd hears what the box says, on a socket with a path or an abstract one, and the loop never waits for it."""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.service import watchdog as service
from edge_runtime.service.watchdog import Watchdog, notify


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A listening socket as systemd makes one, and its name in NOTIFY_SOCKET."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        path = f"{folder}/notify"  # a tmp_path of pytest's may be longer than 107 bytes
        listener.bind(f"\0{path}" if request.param == "abstract" else path)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if request.param == "abstract" else path)
        listener.setblocking(False)
        yield listener


@pytest.fixture(autouse=True)
def not_under_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


def heard(listener: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(listener.recv(1000).decode())
        except BlockingIOError:
            return messages


def test_each_message_arrives_as_it_was_said(systemd: socket.socket) -> None:
    for message in (service.READY, "STATUS=1 part\nREADY=1", service.STOPPING):
        assert notify(message)
    assert heard(systemd) == ["READY=1", "STATUS=1 part\nREADY=1", "STOPPING=1"]


def test_without_systemd_nothing_is_said_and_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not notify(service.READY)
    Watchdog().beat()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify(service.READY)
    monkeypatch.setenv("NOTIFY_SOCKET", "x" * 200)  # longer than a socket's name can be
    assert not notify(service.READY)


def test_a_systemd_that_does_not_read_does_not_hold_the_loop(systemd: socket.socket) -> None:
    assert not all(notify(service.ALIVE) for _ in range(100_000))  # returns, though the queue is full


def test_the_watchdog_is_fed_well_within_its_limit_and_no_oftener(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    now_ms = 0
    dog = Watchdog(lambda: now_ms * 1_000_000)
    assert dog.period_s == 2.0
    said_ms = []
    for now_ms in range(0, 20_001, 1999):  # a caller who is early by a hair skips one beat
        dog.beat()
        said_ms += [now_ms] * len(heard(systemd))
    assert said_ms == [0, 3998, 7996, 11994, 15992, 19990]
    assert max(late - early for early, late in itertools.pairwise(said_ms)) <= 4000


def test_a_beat_that_did_not_arrive_is_said_again_with_the_next_call(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "8000000")
    address = os.environ["NOTIFY_SOCKET"]
    dog = Watchdog(lambda: 1)
    monkeypatch.setenv("NOTIFY_SOCKET", address + "-gone")
    dog.beat()
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    dog.beat()
    assert heard(systemd) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    ("limit", "process"), [("", ""), ("0", ""), ("many", ""), ("-5", ""), ("8000000", "1")], ids=str
)
def test_nobody_is_fed_who_does_not_watch_this_process(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, limit: str, process: str
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", limit)
    if process:
        monkeypatch.setenv("WATCHDOG_PID", process)
    dog = Watchdog()
    assert dog.period_s is None
    dog.beat()
    assert heard(systemd) == []
