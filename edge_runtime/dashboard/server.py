"""The page on a thread beside the box: opened, and closed with bounded waits.

A connection carries one request and has to send it in time, so that a slow or broken peer cannot
take the page from the operator. Leaves out: TLS; beyond loopback a proxy before it brings that.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagline.config_checks import within
from diagline.console import console
from diagline.errors import ConfigError, OutputError, require
from edge_runtime.dashboard.app import HEADERS, make_app
from edge_runtime.dashboard.auth import Sessions, read_token
from edge_runtime.dashboard.view import View

if TYPE_CHECKING:
    from uvicorn import Server

LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
CONNECTIONS = 128
REQUEST_BYTES = 16_384  # request line and headers


@dataclass(frozen=True, slots=True)
class PageConfig:
    """The `[page]` section of a box.

    Attributes:
        host: address to listen on; any but a loopback one lets others see the page.
        port: 0 takes a free one.
        token_file: with the token that opens a session; made where it is missing.
        request_s: a connection that has not sent its request by then is closed.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token_file: Path = Path("page.token")
    request_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("page.host = ''; expected an address such as 127.0.0.1, or 0.0.0.0 for every one")
        within("page.port", self.port, 0, 65_535)
        within("page.request_s", self.request_s, 0.01, 60.0)

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class PageServer:
    """Serves a view's page."""

    def __init__(self, view: View, config: PageConfig) -> None:
        """Open nothing yet, but read or make the token.

        Raises:
            ConfigError: a token file that cannot be used.
            OutputError: one that cannot be made.
            MissingExtraError: Starlette or uvicorn is not installed.
        """
        self._config = config
        self._started = threading.Event()
        hosts = (config.host, *LOOPBACK) if config.is_private else ("*",)
        app = make_app(view, Sessions(read_token(config.token_file)), hosts)
        self._server = _server(app, config.request_s, self._started)
        self._thread: threading.Thread | None = None
        self.url = ""

    def start(self, wait_s: float = 10.0) -> str:
        """Serve from now on; returns the page's address.

        Raises:
            OutputError: the port is taken, or the address is not this machine's.
        """
        host, port = self._config.host, self._config.port
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
        except OSError as error:
            raise OutputError(
                f"page: cannot listen on {host}:{port}: {error.strerror}; expected a free port of this machine; "
                f"set page.host or page.port"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="page", daemon=True)
        self._thread.start()
        if not self._started.wait(wait_s):
            raise OutputError(f"page: {self.url} does not start within {wait_s:g} s; restart the box")
        if not self._config.is_private:
            console.print(
                f"page: {self.url} can be reached by others; they see the page, pictures and metrics without a login "
                f"and unencrypted; put a proxy with TLS before it, or set page.host to 127.0.0.1",
                soft_wrap=True,
            )
        return self.url

    def close(self, wait_s: float = 3.0) -> None:
        """Serve no more; what is under way has a second, and what hangs is left to its thread."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(wait_s)


def _server(app: Any, request_s: float, started: threading.Event) -> Server:
    uvicorn = require("uvicorn", "edge")
    from uvicorn import Config, Server
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Prompt(H11Protocol):
        """A connection whose request has to come in time."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.loop.call_later(request_s, lambda: None if self.cycle else transport.abort())

    class Telling(Server):
        """Says when it serves."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

    assert uvicorn is not None
    config = Config(
        app,
        http=Prompt,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,  # or an address could be made up
        server_header=False,
        headers=[*HEADERS.items(), ("Connection", "close")],
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=REQUEST_BYTES,
    )
    return Telling(config)
