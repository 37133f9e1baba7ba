"""Who may act: a token from a file opens a session, a session does what changes the box.

Looking needs neither. Tries are paced by address, so that a token cannot be guessed and one
guesser does not lock out others. Leaves out: who may see the page (the host it listens on) and
encryption (a proxy before it).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diagline import files
from diagline.errors import ConfigError

SHORTEST = 16
SESSION_S = 8 * 3600.0
SESSIONS = 32
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
ADDRESSES = 256


def read_token(path: Path) -> str:
    """The token in a file; a missing file is made, with a new token, for its owner alone.

    Raises:
        ConfigError: it cannot be read, others can read it, or it is too short.
        OutputError: it cannot be made.
    """
    try:
        with path.open(encoding="ascii") as stream:
            mode, token = os.fstat(stream.fileno()).st_mode, stream.read(4096).strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(24)
        files.write_secret(path, f"{token}\n".encode())
        return token
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a token; remove it for a new one") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: others can read it; expected a file of its owner alone; next: chmod 600 {path}")
    if len(token) < SHORTEST:
        raise ConfigError(f"{path}: {len(token)} characters; expected {SHORTEST} or more; remove it for a new token")
    return token


@dataclass(slots=True)
class _Tries:
    failures: int = 0
    next_s: float = 0.0


class Sessions:
    """Opens sessions and knows them; for one thread."""

    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token, self._clock = _digest(token), clock
        self._ends_s: OrderedDict[bytes, float] = OrderedDict()
        self._tries: OrderedDict[str, _Tries] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Seconds until an address may try again; 0 when it may."""
        tries = self._tries.get(address)
        return 0.0 if tries is None else max(0.0, tries.next_s - self._clock())

    def enter(self, address: str, token: str) -> str | None:
        """A new session for the right token, None for a wrong one; ask `wait_s` before."""
        if not hmac.compare_digest(_digest(token), self._token):
            tries = self._tries.pop(address, _Tries())
            pause_s = min(FIRST_WAIT_S * 2.0 ** min(tries.failures, 16), LONGEST_WAIT_S)
            self._tries[address] = _Tries(tries.failures + 1, self._clock() + pause_s)
            _bound(self._tries, ADDRESSES)
            return None
        self._tries.pop(address, None)
        session = secrets.token_urlsafe(32)
        self._ends_s[_digest(session)] = self._clock() + SESSION_S
        _bound(self._ends_s, SESSIONS)
        return session

    def knows(self, session: str | None) -> bool:
        """Whether a session is open."""
        ends_s = self._ends_s.get(_digest(session or ""))
        return ends_s is not None and self._clock() < ends_s

    def leave(self, session: str | None) -> None:
        """Close a session."""
        self._ends_s.pop(_digest(session or ""), None)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _bound(table: OrderedDict[bytes, float] | OrderedDict[str, _Tries], most: int) -> None:
    while len(table) > most:
        table.popitem(last=False)
