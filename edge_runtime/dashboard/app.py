"""The page's addresses: what anyone may see, and what a signed-in operator may do.

GET needs no login. A change of state needs a session and this page's own origin; its body is
small JSON that has to arrive in time. Whatever goes wrong is an answer in a line, never a trace.
Leaves out: sockets and threads (`server.py`).
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagline.console import console
from diagline.errors import DiaglineError, require
from edge_runtime import metrics
from edge_runtime.dashboard import lights
from edge_runtime.dashboard.auth import SESSION_S, Sessions
from edge_runtime.dashboard.looks import Looks, on_thread
from edge_runtime.dashboard.view import View

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

FILES = {"": "page.html", "page.css": "page.css", "page.js": "page.js", "icon.svg": "icon.svg"}
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
COOKIE = "diagline_session"
BODY_BYTES = 4096
BODY_S = 5.0
PAGES = 32
ACTIONS = ("self_test", "trigger", "acknowledge", "switch_bundle")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer, those of the server itself too."""


def make_app(view: View, sessions: Sessions, hosts: Sequence[str]) -> Starlette:
    """The application.

    Args:
        hosts: names the page may be asked for by, against rebinding of names; "*" takes any.

    Raises:
        MissingExtraError: Starlette is not installed.
    """
    require("starlette", "edge")
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    page = _Page(view, sessions)
    return Starlette(
        routes=[
            *(Route(f"/{path}", functools.partial(page.file, name)) for path, name in FILES.items()),
            Route("/events", page.events),
            Route("/picture", page.picture),
            Route("/healthz", page.healthz),
            Route("/metrics", page.metrics),
            Route("/session", page.session),
            Route("/login", page.login, methods=["POST"]),
            Route("/logout", page.logout, methods=["POST"]),
            Route("/actions/{name}", page.act, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={HTTPException: _refused, TimeoutError: _silent, Exception: _failed},
    )


class _Page:
    def __init__(self, view: View, sessions: Sessions) -> None:
        self._view, self._sessions = view, sessions
        self._looks = Looks(view)
        self._acting = asyncio.Lock()
        folder = Path(__file__).parent
        self._files = {name: (folder / name).read_bytes() for name in FILES.values()}

    async def file(self, name: str, request: Request) -> Response:
        return _answer(self._files[name], kind=KINDS[Path(name).suffix])

    async def events(self, request: Request) -> Response:
        from starlette.responses import StreamingResponse

        if self._looks.pages >= PAGES:
            raise _refusal(503, f"{PAGES} pages are open; close one")
        return StreamingResponse(self._looks.events(), media_type="text/event-stream")

    async def picture(self, request: Request) -> Response:
        jpeg = await self._looks.picture()
        return _answer(b"", 204) if jpeg is None else _answer(jpeg, kind="image/jpeg")

    async def healthz(self, request: Request) -> Response:
        try:
            causes = lights.faults(await self._looks.snapshot())
        except Exception as error:  # a box that cannot say how it is does not judge
            causes = [f"box: does not answer ({type(error).__name__})"]
        return _json({"judging": not causes, "causes": causes}, 503 if causes else 200)

    async def metrics(self, request: Request) -> Response:
        return _answer(metrics.exposition(await self._looks.snapshot()), kind=metrics.CONTENT_TYPE)

    async def session(self, request: Request) -> Response:
        return _json({"signed_in": self._sessions.knows(request.cookies.get(COOKIE))})

    async def login(self, request: Request) -> Response:
        _same_origin(request)
        token = (await _body(request)).get("token")
        if not isinstance(token, str):
            raise _refusal(400, "no token; expected the one in the box's token file")
        address = request.client.host if request.client is not None else ""
        if wait_s := self._sessions.wait_s(address):
            raise _refusal(429, f"wait {wait_s:.1f} s before the next try", **{"Retry-After": str(math.ceil(wait_s))})
        session = self._sessions.enter(address, token)
        if session is None:
            raise _refusal(401, "a wrong token; expected the one in the box's token file")
        answer = _json({"signed_in": True})
        answer.set_cookie(COOKIE, session, max_age=int(SESSION_S), httponly=True, samesite="strict")
        return answer

    async def logout(self, request: Request) -> Response:
        _same_origin(request)
        self._sessions.leave(request.cookies.get(COOKIE))
        return _json({"signed_in": False})

    async def act(self, request: Request) -> Response:
        _same_origin(request)
        if not self._sessions.knows(request.cookies.get(COOKIE)):
            raise _refusal(401, "sign in first")
        name, body = request.path_params["name"], await _body(request)
        if name not in ACTIONS:
            raise _refusal(404, f"no such action; expected one of {', '.join(ACTIONS)}")
        call: Callable[[], str] = getattr(self._view, name)
        if name == "switch_bundle":
            path = body.get("path")
            if not isinstance(path, str) or not path or "\0" in path:
                raise _refusal(400, "no path; expected the folder of a bundle on the box")
            call = functools.partial(self._view.switch_bundle, path)
        if self._acting.locked():
            raise _refusal(409, "another action is under way; wait for its end")
        async with self._acting:
            try:
                said = await on_thread(call)
            except DiaglineError as error:
                raise _refusal(409, str(error)) from error
        console.print(f"page: {name}: {said}", soft_wrap=True)
        return _json({"said": said})


def _same_origin(request: Request) -> None:
    """Refuse what another page sent; a browser names its origin with every POST."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise _refusal(403, "sent by another page; open the box's own")


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        HTTPException: another type, too long, too slow, or no JSON object.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _refusal(415, "expected application/json")
    data = b""
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_BYTES:
                    raise _refusal(413, f"expected {BODY_BYTES} bytes at most")
    except TimeoutError as error:
        raise _refusal(408, f"expected the whole request within {BODY_S:g} s") from error
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refusal(400, "no JSON; expected an object") from error
    if not isinstance(body, dict):
        raise _refusal(400, "expected a JSON object")
    return body


def _answer(data: bytes, status: int = 200, kind: str = "text/plain") -> Response:
    from starlette.responses import Response

    return Response(data, status, media_type=kind)


def _json(value: Any, status: int = 200) -> Response:
    return _answer(json.dumps(value).encode(), status, "application/json")


def _refusal(status: int, line: str, **headers: str) -> Exception:
    """An answer that is not what was asked: its status and one line."""
    from starlette.exceptions import HTTPException

    return HTTPException(status, line, headers)


async def _refused(request: Request, error: Exception) -> Response:
    from starlette.exceptions import HTTPException

    assert isinstance(error, HTTPException)
    answer = _json({"error": error.detail}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _silent(request: Request, error: Exception) -> Response:
    return _json({"error": "the box does not answer"}, 503)


async def _failed(request: Request, error: Exception) -> Response:
    """An error of ours: named in the log, not to whoever asked."""
    console.print(f"page: {request.url.path}: {type(error).__name__}: {' '.join(str(error).split())}", soft_wrap=True)
    return _json({"error": f"the box failed ({type(error).__name__}); its log says more"}, 500)
