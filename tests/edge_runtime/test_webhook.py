"""A webhook's record arrives, is refused by name, or is tried again; no server hangs it or leads it away."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diagline.errors import ConfigError, OutputError
from edge_runtime.outputs.spool import RefusedError, Spool
from edge_runtime.outputs.webhook import WebhookConfig, open_output

WAIT_S = 30.0
RECORD = {"part_id": "naïve \udcff", "state": "REJECT", "logit": 3.0}
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server(http.server.ThreadingHTTPServer):
    """Keeps what it is sent and answers as the test says."""

    daemon_threads = True

    def __init__(self) -> None:
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Answer = code(200)
        self.released = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/in?key=urlsecret"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what some tests want."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.got.append((self.command, self.path, dict(self.headers), body))
        self.server.answer(self)

    do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


def code(number: int, **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(number)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def start() -> Server:
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


def stop(server: Server) -> None:
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = start()
    yield server
    stop(server)


def test_a_record_is_posted_as_json(server: Server) -> None:
    open_output(WebhookConfig(server.url)).send(RECORD)
    ((method, path, headers, body),) = server.got
    assert (method, path, headers["Content-Type"]) == ("POST", "/in?key=urlsecret", "application/json")
    assert json.loads(body) == RECORD and "Authorization" not in headers


@pytest.mark.parametrize("number", [200, 201, 202, 204])
def test_2xx_is_delivered(server: Server, number: int) -> None:
    server.answer = code(number)
    open_output(WebhookConfig(server.url)).send(RECORD)


@pytest.mark.parametrize("number", [400, 413, 422])
def test_an_answer_about_the_record_refuses_it(server: Server, number: int) -> None:
    server.answer = code(number)
    with pytest.raises(RefusedError, match=rf"webhook: http://127\.0\.0\.1:\d+: answered {number}") as refused:
        open_output(WebhookConfig(server.url)).send(RECORD)
    assert "urlsecret" not in str(refused.value)


@pytest.mark.parametrize("number", [401, 403, 404, 408, 429, 500, 502, 503])
def test_what_blames_the_moment_is_tried_again(server: Server, number: int) -> None:
    server.answer = code(number)
    with pytest.raises(OutputError, match=f"answered {number}") as failed:
        open_output(WebhookConfig(server.url)).send(RECORD)
    assert not isinstance(failed.value, RefusedError)


@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server: Server, number: int) -> None:
    other = start()
    try:
        for target in (other.url, server.url):
            server.answer = code(number, Location=target)
            with pytest.raises(OutputError, match=f"answered {number}, a redirect") as failed:
                open_output(WebhookConfig(server.url)).send(RECORD)
            assert "urlsecret" not in str(failed.value)
        assert len(server.got) == 2 and not other.got
    finally:
        stop(other)


def test_a_server_that_does_not_answer_is_given_up(server: Server) -> None:
    server.answer = lambda handler: server.released.wait(WAIT_S) and None
    with pytest.raises(OutputError, match=r"TimeoutError; expected an answer within 0\.05 s"):
        open_output(WebhookConfig(server.url, timeout_s=0.05)).send(RECORD)


def hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def talk_nonsense(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\xff" * 100 + b"\r\n\r\n")
    handler.close_connection = True


def talk_without_end(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000)
    handler.close_connection = True


@pytest.mark.parametrize("answer", [hang_up, talk_nonsense, talk_without_end])
def test_a_server_that_misbehaves_is_tried_again(server: Server, answer: Answer) -> None:
    server.answer = answer
    with pytest.raises(OutputError) as failed:
        open_output(WebhookConfig(server.url)).send(RECORD)
    assert not isinstance(failed.value, RefusedError) and "urlsecret" not in str(failed.value)


def test_nobody_listening_is_tried_again() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening
        with pytest.raises(OutputError, match="Connection refused"):
            open_output(WebhookConfig(f"http://127.0.0.1:{held.getsockname()[1]}/")).send(RECORD)


@pytest.mark.parametrize("number", [200, 500])
def test_a_huge_answer_is_not_read(server: Server, number: int) -> None:
    cut_off = threading.Event()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(number)
        handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        try:
            while not server.released.is_set():
                handler.wfile.write(b"x" * 65536)
        except OSError:
            cut_off.set()

    server.answer = answer
    try:
        open_output(WebhookConfig(server.url)).send(RECORD)
    except OutputError:
        assert number == 500
    assert cut_off.wait(WAIT_S)


def test_the_token_is_sent_and_stands_nowhere_else(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("tokensecret\n")
    monkeypatch.setenv("HOOK_TOKEN", "tokensecret")
    server.answer = code(500)
    for config in (
        WebhookConfig(server.url, token_file=tmp_path / "token"),
        WebhookConfig(server.url, token_variable="HOOK_TOKEN"),
    ):
        with pytest.raises(OutputError) as failed:
            open_output(config).send(RECORD)
        assert server.got[-1][2]["Authorization"] == "Bearer tokensecret"
        for text in (repr(config), str(failed.value), repr(failed.value)):
            assert "tokensecret" not in text and "urlsecret" not in text


@pytest.mark.parametrize("content", ["", " \n", "two\nlines", "naïve", "nul\0", "tokensecret\r\nX-Evil: 1"])
def test_a_token_that_is_none_is_refused_without_being_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigError, match=r"webhook\.token_file = .*one line of printable ASCII") as refused:
        open_output(WebhookConfig("http://host/", token_file=tmp_path / "token"))
    assert "tokensecret" not in str(refused.value)


def test_a_token_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"token_variable = 'HOOK_TOKEN': not set"):
        open_output(WebhookConfig("http://host/", token_variable="HOOK_TOKEN"))
    with pytest.raises(ConfigError, match="No such file"):
        open_output(WebhookConfig("http://host/", token_file=tmp_path / "token"))
    with pytest.raises(ConfigError, match="both are set"):
        WebhookConfig("http://host/", token_variable="HOOK_TOKEN", token_file=tmp_path / "token")
    with pytest.raises(ConfigError, match=r"webhook\.ca = .*expected PEM"):
        open_output(WebhookConfig("https://host/", ca=tmp_path / "ca.pem"))


@pytest.mark.parametrize(
    "url",
    [
        "", "host/path", "ftp://host/secret", "file:///etc/passwd", "http://", "http://user:secret@host/", "http://host:no/",
        "http://host:0/", "http://[::1/", "http://host/a b", "http://host/\nsecret", "http://höst/",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(ConfigError, match=r"webhook\.url: ") as refused:
        WebhookConfig(url)
    assert "secret" not in str(refused.value)


def test_one_refused_record_does_not_block_the_others_and_one_that_failed_arrives(
    server: Server, tmp_path: Path
) -> None:
    answers = iter([code(500), code(400), code(503), code(200), code(200)])
    server.answer = lambda handler: next(answers)(handler)
    spool = Spool(open_output(WebhookConfig(server.url)), tmp_path, 10**6, retry_s=0.01)
    for number in range(3):
        spool.put({"n": number})
    spool.close(WAIT_S)
    assert [json.loads(body)["n"] for *_, body in server.got] == [0, 0, 1, 1, 2]
    assert spool.health().dropped == {("verdict", "refused"): 1} and spool.health().sent == 2
