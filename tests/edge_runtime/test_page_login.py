"""A token nobody else can read opens sessions; guessing it gets slower and slower."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from diagline.errors import ConfigError, OutputError
from edge_runtime.dashboard import auth
from edge_runtime.dashboard.auth import Sessions, read_token

TOKEN = "a-token-for-tests-only"


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(TOKEN, clock)


def test_a_missing_token_is_made_for_its_owner_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "page.token"
    before = os.umask(0)
    try:
        token = read_token(path)
    finally:
        os.umask(before)
    assert len(token) >= 32 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_token(path) == token != read_token(tmp_path / "another")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_token_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=r"others can read it.*chmod 600"):
        read_token(path)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"short\n", "schlüssel-schlüssel".encode()])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="expected"):
        read_token(path)


def test_a_folder_in_the_tokens_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises((ConfigError, OutputError)):
        read_token(tmp_path / "file" / "token")


def test_the_wait_doubles_with_each_wrong_token_up_to_its_longest(sessions: Sessions, clock: Clock) -> None:
    waits = []
    for _ in range(40):
        assert sessions.enter("there", "wrong") is None
        waits.append(sessions.wait_s("there"))
        clock.now_s += waits[-1]
        assert sessions.wait_s("there") == 0
    assert waits[:3] == [auth.FIRST_WAIT_S, 2 * auth.FIRST_WAIT_S, 4 * auth.FIRST_WAIT_S]
    assert waits == sorted(waits) and waits[-1] == auth.LONGEST_WAIT_S


def test_who_guesses_locks_out_himself_alone(sessions: Sessions) -> None:
    sessions.enter("guesser", "wrong")
    assert sessions.wait_s("guesser") > 0 and sessions.wait_s("operator") == 0
    session = sessions.enter("operator", TOKEN)
    assert session is not None and sessions.knows(session)


def test_the_right_token_ends_the_waiting(sessions: Sessions, clock: Clock) -> None:
    sessions.enter("there", "wrong")
    clock.now_s += auth.FIRST_WAIT_S
    assert sessions.enter("there", TOKEN) is not None
    sessions.enter("there", "wrong")
    assert sessions.wait_s("there") == auth.FIRST_WAIT_S


def test_a_session_ends_by_itself(sessions: Sessions, clock: Clock) -> None:
    session = sessions.enter("there", TOKEN)
    clock.now_s += auth.SESSION_S - 1
    assert sessions.knows(session)
    clock.now_s += 1
    assert not sessions.knows(session)


@pytest.mark.parametrize("session", [None, "", "guessed", "\ud800"])
def test_what_is_no_session_is_not_known(sessions: Sessions, session: str | None) -> None:
    sessions.enter("there", TOKEN)
    assert not sessions.knows(session)


def test_sessions_and_addresses_take_no_memory_without_end(sessions: Sessions) -> None:
    opened = [sessions.enter("there", TOKEN) for _ in range(auth.SESSIONS + 5)]
    assert sum(map(sessions.knows, opened)) == auth.SESSIONS and sessions.knows(opened[-1])
    for number in range(auth.ADDRESSES + 5):
        sessions.enter(str(number), "wrong")
    assert len(sessions._tries) == auth.ADDRESSES and sessions.wait_s(str(auth.ADDRESSES + 4)) > 0
