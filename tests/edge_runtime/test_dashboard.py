"""The operator's page over its socket: seen by all, moved by who signed in, and never brought down."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diagline.errors import ConfigError, OutputError
from diagline.verdict import State
from edge_runtime.dashboard import looks
from edge_runtime.dashboard.app import ACTIONS, BODY_BYTES
from edge_runtime.dashboard.server import REQUEST_BYTES, PageConfig, PageServer
from edge_runtime.dashboard.view import CameraState, FakeView, judged
from edge_runtime.ledger import Tally
from edge_runtime.recent import StageLatency

TOKEN = "a-token-for-tests-only"
HOSTILE = "<script>alert(1)</script>\n\ndata: {}\r\n\u2028'\""
Answer = tuple[int, dict[str, str], bytes]


class Page:
    """A page that is served, and the requests a test makes of it."""

    def __init__(self, view: FakeView, folder: Path, **settings: Any) -> None:
        self.view, token_file = view, folder / "page.token"
        if not token_file.exists():
            token_file.touch(0o600)
            token_file.write_text(TOKEN)
        self.server = PageServer(view, PageConfig(port=0, token_file=token_file, **settings))
        self.port = int(self.server.start().rpartition(":")[2])

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; a body that is no bytes goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            sent = {"Content-Type": "application/json"} if body is not None else {}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent | named)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def sign_in(self) -> str:
        """A session, as the Cookie header."""
        status, headers, _ = self.ask("POST", "/login", {"token": TOKEN})
        assert status == 200
        return headers["set-cookie"].partition(";")[0]

    def raw(self, data: bytes) -> bytes:
        """Whatever comes back for bytes that may be no request."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as peer:
            try:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: peer.recv(65_536), b""))
            except (ConnectionResetError, BrokenPipeError):
                return b""

    def events(self) -> Iterator[dict[str, Any]]:
        """What an open page hears."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/events")
            answer = connection.getresponse()
            assert answer.status == 200 and answer.getheader("content-type", "").startswith("text/event-stream")
            while line := answer.readline():
                kind, _, value = line.decode("ascii").rstrip("\n").partition(": ")
                assert kind in ("id", "data", "")
                if kind == "data":
                    yield json.loads(value, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        finally:
            connection.close()


@pytest.fixture
def view() -> FakeView:
    return FakeView(jpeg=b"a picture")


@pytest.fixture
def page(view: FakeView, tmp_path: Path) -> Iterator[Page]:
    made = Page(view, tmp_path)
    yield made
    made.server.close()


@pytest.fixture
def hang(view: FakeView) -> Iterator[Callable[[str], threading.Event]]:
    """Calls of a name hang from now on, until the test ends; set when one does."""
    release = threading.Event()

    def begin(name: str) -> threading.Event:
        hanging = threading.Event()

        def before(called: str) -> None:
            if called == name:
                hanging.set()
                release.wait(60)

        view.before = before
        return hanging

    yield begin
    release.set()


def line_of(answer: Answer) -> str:
    return str(json.loads(answer[2])["error"])


@pytest.mark.parametrize(
    "path", ["/", "/page.css", "/page.js", "/icon.svg", "/picture", "/healthz", "/metrics", "/session"]
)
def test_anyone_may_look_and_every_answer_is_guarded(page: Page, path: str) -> None:
    status, headers, body = page.get(path)
    assert status == 200 and body
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'") and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert "server" not in headers and "access-control-allow-origin" not in headers


def test_answers_of_errors_are_guarded_too(page: Page) -> None:
    for answer in (page.get("/no-such"), page.ask("POST", "/", {}), page.ask("POST", "/login", b"{")):
        assert answer[0] in (404, 405, 400)
        assert "content-security-policy" in answer[1]


def test_the_page_brings_all_it_needs_and_no_markup_from_outside(page: Page) -> None:
    text = b"".join(page.get(path)[2] for path in ("/", "/page.css", "/page.js")).decode()
    assert "://" not in text.replace('"http://www.w3.org', "")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style="):
        assert way not in text


@pytest.mark.parametrize("name", ACTIONS)
def test_nothing_is_done_for_who_did_not_sign_in(page: Page, name: str) -> None:
    for cookie in ("", "diagline_session=", "diagline_session=guessed"):
        answer = page.ask("POST", f"/actions/{name}", {"path": "b"}, Cookie=cookie)
        assert answer[0] == 401 and line_of(answer) == "sign in first"
        assert page.get(f"/actions/{name}", Cookie=cookie)[0] == 405
    assert page.view.asked == []


def test_who_signs_in_acts_until_he_signs_out(page: Page) -> None:
    _, headers, _ = page.ask("POST", "/login", {"token": TOKEN})
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(headers["set-cookie"].split("; "))
    cookie = headers["set-cookie"].partition(";")[0]
    assert json.loads(page.get("/session", Cookie=cookie)[2]) == {"signed_in": True}
    for name in ACTIONS:
        status, _, body = page.ask("POST", f"/actions/{name}", {"path": "new.bundle"}, Cookie=cookie)
        assert status == 200 and json.loads(body)["said"]
    assert page.view.asked == ["self_test", "trigger", "acknowledge", "switch_bundle new.bundle"]
    assert page.ask("POST", "/actions/snapshot", {}, Cookie=cookie)[0] == 404
    page.ask("POST", "/logout", {}, Cookie=cookie)
    assert page.ask("POST", "/actions/trigger", {}, Cookie=cookie)[0] == 401
    assert json.loads(page.get("/session", Cookie=cookie)[2]) == {"signed_in": False}


def test_what_the_box_refuses_is_its_own_line(page: Page) -> None:
    page.view.refusal = "new.bundle: not signed by a trusted key"
    answer = page.ask("POST", "/actions/switch_bundle", {"path": "new.bundle"}, Cookie=page.sign_in())
    assert answer[0] == 409 and line_of(answer) == page.view.refusal


@pytest.mark.parametrize("body", [{}, {"path": ""}, {"path": 7}, {"path": "a\0b"}])
def test_a_bundle_without_a_path_is_not_switched_to(page: Page, body: dict[str, Any]) -> None:
    assert page.ask("POST", "/actions/switch_bundle", body, Cookie=page.sign_in())[0] == 400
    assert page.view.asked == []


def test_another_page_in_the_operators_browser_can_do_nothing(page: Page) -> None:
    cookie, own = page.sign_in(), f"http://127.0.0.1:{page.port}"
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{page.port + 1}", "http://localhost", "http://["):
        for path in ("/actions/trigger", "/login", "/logout"):
            assert page.ask("POST", path, {"token": TOKEN}, Cookie=cookie, Origin=origin)[0] in (400, 403), origin
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert page.ask("POST", "/actions/trigger", b"{}", Cookie=cookie, Content_Type=kind)[0] == 415
    assert page.view.asked == []
    assert page.ask("POST", "/actions/trigger", {}, Cookie=cookie, Origin=own)[0] == 200


def test_a_name_that_was_bent_to_this_machine_sees_nothing(page: Page) -> None:
    for host in ("evil.example", f"evil.example:{page.port}", "", "[", "127.0.0.1.evil.example"):
        assert page.get("/healthz", Host=host)[0] == 400
    for host in ("localhost", f"127.0.0.1:{page.port}", f"[::1]:{page.port}"):
        assert page.get("/healthz", Host=host)[0] == 200


def test_a_wrong_token_has_to_wait_and_so_has_the_right_one_after_it(page: Page) -> None:
    assert page.ask("POST", "/login", {"token": "wrong"})[0] == 401
    status, headers, body = page.ask("POST", "/login", {"token": TOKEN})
    assert status == 429 and int(headers["retry-after"]) >= 1 and b"wait" in body
    assert page.ask("POST", "/login", {})[0] == 400


def test_actions_come_one_at_a_time(page: Page, hang: Callable[[str], threading.Event]) -> None:
    cookie, hanging = page.sign_in(), hang("self_test")
    first = threading.Thread(
        target=page.ask, args=("POST", "/actions/self_test", {}), kwargs={"Cookie": cookie}, daemon=True
    )
    first.start()
    assert hanging.wait(20)
    answer = page.ask("POST", "/actions/trigger", {}, Cookie=cookie)
    assert answer[0] == 409 and "under way" in line_of(answer) and page.view.asked == []
    assert page.get("/healthz")[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"[]", 400), (b"null", 400), (b"\xff\xfe", 400), (b"[" * BODY_BYTES, 400),
        (b'{"token": "\\ud800"}', 401),
        (b" " * (BODY_BYTES + 1), 413), (b"{" + b" " * 1_000_000, 413),
    ],
)  # fmt: skip
def test_a_body_that_is_no_small_json_object_is_refused(page: Page, body: bytes, status: int) -> None:
    assert page.ask("POST", "/login", body)[0] == status


JSON = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MALFORMED = [
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\0" * 100_000,
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /%00%ff%fe/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /page.token HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nCookie: \xff\xfe=;;;==\r\n\r\n",
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    JSON + b"Content-Length: 100\r\n\r\n{",
    JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_request_ends_itself_and_not_the_server(
    page: Page, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    if b"/events" in data:  # an answer that goes on
        with socket.create_connection(("127.0.0.1", page.port), timeout=20) as peer:
            peer.sendall(data)
            said = peer.recv(4096)
    else:
        said = page.raw(data)
    assert b"Traceback" not in said and b"root:" not in said and TOKEN.encode() not in said
    assert page.get("/healthz")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("start", [b"GET /", JSON + b"X: "], ids=["path", "header"])
def test_a_request_that_does_not_end_is_kept_up_to_a_limit(page: Page, start: bytes) -> None:
    assert page.raw(start + b"a" * REQUEST_BYTES).startswith(b"HTTP/1.1 400 ")
    assert page.raw(start + b"a" * (REQUEST_BYTES // 2)) == b""


def test_a_connection_that_sends_no_whole_request_in_time_is_closed(view: FakeView, tmp_path: Path) -> None:
    page = Page(view, tmp_path, request_s=0.05)
    try:
        for data in (b"", b"GET / HTTP/1.1\r\nHost: local"):
            with socket.create_connection(("127.0.0.1", page.port), timeout=20) as peer:
                peer.sendall(data)
                with contextlib.suppress(ConnectionResetError):
                    assert peer.recv(1) == b""
        stream = page.events()
        assert [next(stream)["number"] for _ in range(2)]  # a stream outlives it
    finally:
        page.server.close()


def test_a_failing_view_is_a_line_without_a_trace(page: Page, capfd: pytest.CaptureFixture[str]) -> None:
    cookie = page.sign_in()

    def before(name: str) -> None:
        raise KeyError("a secret\nof the box")

    page.view.before = before
    for answer in (page.get("/metrics"), page.get("/picture"), page.ask("POST", "/actions/trigger", {}, Cookie=cookie)):
        assert answer[0] == 500 and line_of(answer) == "the box failed (KeyError); its log says more"
        assert "content-security-policy" in answer[1]
    assert page.get("/healthz")[0] == 503
    assert list(page.events()) == []
    said = capfd.readouterr().err
    assert "Traceback" not in said and "page: /metrics: KeyError" in said
    page.view.before = lambda name: None
    assert page.get("/healthz")[0] == 200


NOT_JUDGING: list[tuple[dict[str, Any], str]] = [
    ({"fault": "self-test failed on 1 of 4 golden pictures"}, "self-test: self-test failed on 1 of 4"),
    ({"camera": CameraState("lost", 9.0, cause="no picture within 5 s")}, "camera: lost: no picture within 5 s"),
    ({"camera": CameraState("starting")}, "camera: starting"),
    ({"oldest_open_s": 30.0}, "ledger: a part has waited 30.0 s for a verdict due in 0.06 s"),
]


@pytest.mark.parametrize(("fields", "cause"), NOT_JUDGING, ids=[cause for _, cause in NOT_JUDGING])
def test_the_box_is_healthy_only_while_it_judges(page: Page, fields: dict[str, Any], cause: str) -> None:
    status, _, body = page.get("/healthz")
    assert status == 200 and json.loads(body) == {"judging": True, "causes": []}
    page.view.change(**fields)
    status, _, body = page.get("/healthz")
    assert status == 503
    health = json.loads(body)
    assert health["judging"] is False and len(health["causes"]) == 1 and health["causes"][0].startswith(cause)


def test_a_box_that_does_not_answer_is_not_healthy_and_its_stream_ends(
    page: Page, hang: Callable[[str], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = page.events()
    first = next(stream)
    assert first["headline"]["kind"] == "pass"
    hanging = hang("snapshot")
    monkeypatch.setattr(looks, "PATIENCE_S", 0.05)
    assert all(event["number"] > first["number"] for event in stream)
    assert hanging.is_set()
    threads = threading.active_count()
    for _ in range(5):
        status, _, body = page.get("/healthz")
        assert status == 503 and json.loads(body)["causes"] == ["box: does not answer (TimeoutError)"]
    assert page.get("/metrics")[0] == 503
    assert threading.active_count() == threads, "whoever asks joins the one that hangs"


def test_events_are_numbered_and_the_same_for_all_who_look(page: Page) -> None:
    streams = [page.events() for _ in range(3)]
    heard = [[next(stream)["number"] for _ in range(3)] for stream in streams]
    assert all(numbers == sorted(set(numbers)) for numbers in heard)
    for stream in streams:
        stream.close()
    assert page.view.looks <= max(map(max, heard)) + 1


def test_whatever_a_part_is_called_its_event_stays_one_line_of_ascii_json(page: Page) -> None:
    part = judged(HOSTILE, None, f"camera: {HOSTILE}")
    page.view.change(recent=(part,), rejects=(part,), line=HOSTILE, model=HOSTILE)
    event = next(page.events())
    assert event["rejects"][0]["part"] == HOSTILE and event["line"] == HOSTILE
    assert event["headline"]["detail"] == f"{HOSTILE}: camera: {HOSTILE}"


def test_a_figure_that_is_no_number_does_not_silence_the_page(page: Page) -> None:
    page.view.change(stages={"whole": StageLatency(float("nan"), float("inf"), 0, 0.0, ())})
    assert next(page.events())["stages"] == {"whole": [None, None]}


def test_a_picture_is_made_once_a_verdict_and_never_shows_an_earlier_part(page: Page) -> None:
    made: list[str] = []
    page.view.before = lambda name: made.append(name) if name == "picture" else None
    assert page.get("/picture")[2] == page.get("/picture")[2] == b"a picture"
    assert len(made) == 1
    page.view.jpeg = b"the next"
    page.view.change(tally=Tally(4833, 0, {State.PASS: 4714, State.REJECT: 112, State.NO_DECISION: 7}, 2, 2))
    status, headers, body = page.get("/picture")
    assert (status, headers["content-type"], body) == (200, "image/jpeg", b"the next")
    assert len(made) == 2


def test_before_the_first_picture_there_is_none(page: Page) -> None:
    page.view.jpeg = None
    assert page.get("/picture")[::2] == (204, b"")


def test_a_taken_port_is_one_line_that_names_it(page: Page, view: FakeView, tmp_path: Path) -> None:
    config = PageConfig(port=page.port, token_file=tmp_path / "page.token")
    with pytest.raises(OutputError, match=rf"page: cannot listen on 127\.0\.0\.1:{page.port}: .*; set page.host or"):
        PageServer(view, config).start()


def test_an_address_of_no_machine_is_one_line_that_names_it(view: FakeView, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot listen on 192\.0\.2\.1:1"):
        PageServer(view, PageConfig("192.0.2.1", 1, tmp_path / "token")).start()


def test_closing_ends_open_streams_and_frees_the_port(view: FakeView, tmp_path: Path) -> None:
    page = Page(view, tmp_path)
    stream = page.events()
    next(stream)
    page.server.close(20)
    assert not any(thread.name == "page" for thread in threading.enumerate())
    list(stream)
    again = PageServer(view, PageConfig(port=page.port, token_file=tmp_path / "page.token"))
    again.start()
    again.close()


def test_closing_does_not_wait_for_a_box_that_hangs(
    view: FakeView, tmp_path: Path, hang: Callable[[str], threading.Event]
) -> None:
    before = set(threading.enumerate())  # other tests' libraries may have left some
    page = Page(view, tmp_path)
    hanging = hang("snapshot")
    threading.Thread(target=lambda: list(page.events()), daemon=True).start()
    assert hanging.wait(20)
    page.server.close(20)
    assert not any(thread.name == "page" for thread in threading.enumerate())
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)


def test_a_page_others_can_reach_says_so(view: FakeView, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for host, told in (("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)):
        server = PageServer(view, PageConfig(host, 0, tmp_path / "token"))
        server.start()
        server.close()
        assert ("can be reached by others" in capfd.readouterr().err) is told


@pytest.mark.parametrize(
    "values", [{"host": ""}, {"port": -1}, {"port": 65_536}, {"request_s": 0.0}], ids=lambda values: str(values)
)
def test_a_config_that_cannot_be_served_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"page\.{next(iter(values))}"):
        PageConfig(**values)
