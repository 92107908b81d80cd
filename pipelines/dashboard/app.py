"""The web application: addresses, who may ask, and what goes wrong."""

from __future__ import annotations

import contextlib
import datetime
import importlib.resources
import logging
import threading
import zoneinfo
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adtally.pipelines.dashboard.access import Tokens, Visitor
from adtally.pipelines.dashboard.board import SORTS, Asked, Board, now_ms
from adtally.pipelines.dashboard.pages import Pages
from adtally.pipelines.dashboard.reader import Unreachable
from adtally.pipelines.dashboard.view import RANGES, ViewError
from adtally.pipelines.job import ConfigError

COOKIE: Final = "adtally_token"
MOST_FORM_BYTES: Final = 4_096
_LOG: Final = logging.getLogger("adtally.dashboard")
_STATIC: Final = {
    "style.css": "text/css",
    "live.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def application(
    board: Board, tokens: Tokens | None = None, hosts: Sequence[str] = (), secure: bool = False
) -> Starlette:
    """The dashboard, for an ASGI server.

    Args:
        board: what is shown; whoever made it closes it.
        tokens: of those who may see it; None for everybody who reaches it.
        hosts: names that browsers may call it by, beside those of this machine; ``*`` for any. A
            page of others could otherwise give its own name this machine's address, and read along.
        secure: whether cookies go over TLS alone.
    """
    site = _Site(board, tokens, secure)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        threading.Thread(target=_warmed, args=(board,), daemon=True).start()
        yield

    return Starlette(
        routes=[
            Route("/", site.page(site.overview)),
            Route("/advertiser", site.page(site.advertiser)),
            Route("/verdict", site.page(site.verdict)),
            Route("/health", site.page(site.health)),
            Route("/login", site.login, methods=["GET", "POST"]),
            Route("/logout", site.logout),
            Route("/healthz", _alive),
            Route("/static/{name}", _static),
        ],
        middleware=[
            Middleware(
                TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", *hosts]
            ),
            Middleware(_Headers),
            Middleware(GZipMiddleware),
        ],
        exception_handlers={
            HTTPException: site.refused,
            Unreachable: site.unreachable,
            ConfigError: site.unreachable,
            OSError: site.unreachable,
            ViewError: site.wrong,
            Exception: site.failed,
        },
        lifespan=lifespan,
    )


class _Headers:
    """Adds headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                added = [
                    (name.lower().encode(), value.encode())
                    for name, value in _HEADERS.items()
                    if name.lower().encode() not in known
                ]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class _Site:
    def __init__(self, board: Board, tokens: Tokens | None, secure: bool) -> None:
        self._board = board
        self._tokens = tokens
        self._secure = secure
        self._pages = Pages(board)

    def page(
        self, make: Callable[[Request, Asked], str]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An address that shows a page to those who may see it."""

        async def answer(request: Request) -> Response:
            token = request.query_params.get("token")
            if token is not None:
                return await run_in_threadpool(self._taken, request, token)
            visitor = await run_in_threadpool(self._visitor, request)
            if visitor is None:
                return RedirectResponse(f"/login?{urlencode({'next': _here(request)})}", 303)
            request.state.visitor = visitor

            def made() -> str:
                return make(request, self._asked(request, visitor))

            return _html(await run_in_threadpool(made))

        return answer

    def _visitor(self, request: Request) -> Visitor | None:
        if self._tokens is None:
            return Visitor()
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if kind.lower() == "bearer" else request.cookies.get(COOKIE)
        return self._tokens.visitor(given) if given else None

    def _taken(self, request: Request, token: str) -> Response:
        """The token of a link, as a cookie, and the address without it."""
        rest = [pair for pair in request.query_params.multi_items() if pair[0] != "token"]
        there = request.url.path + (f"?{urlencode(rest)}" if rest else "")
        return self._entered(token, there)

    def _entered(self, token: str, there: str) -> Response:
        if self._tokens is None:
            return RedirectResponse(there, 303)
        if self._tokens.visitor(token) is None:
            return _html(self._pages.login(there, wrong=True), 403)
        answer = RedirectResponse(there, 303)
        answer.set_cookie(
            COOKIE, token, httponly=True, samesite="lax", secure=self._secure, max_age=30 * 86_400
        )
        return answer

    def _asked(self, request: Request, visitor: Visitor) -> Asked:
        given = request.query_params
        now = now_ms()
        source = given.get("source") or next(iter(self._board.readers))
        if source not in self._board.readers:
            raise ViewError(
                f"there is no source {source!r}; there is {', '.join(self._board.readers)}."
            )
        name = given.get("range") or self._board.default_range(source, now)
        if name not in RANGES:
            raise ViewError(f"there is no range {name!r}; there are {', '.join(RANGES)}.")
        until = given.get("until")
        return Asked(
            name,
            _instant(until, self._board.zone) if until else None,
            source,
            visitor.advertisers,
            now,
        )

    def overview(self, request: Request, asked: Asked) -> str:
        given = request.query_params
        sort = given.get("sort") or "clicks"
        if sort not in SORTS:
            raise ViewError(f"there is no order {sort!r}; there are {', '.join(SORTS)}.")
        search = given.get("q", "")
        page = _number(given.get("page", "1"), "page")
        content = self._board.overview(asked, search, sort, page)
        return self._pages.show("overview", request, asked, q=search, sort=sort, **content)

    def advertiser(self, request: Request, asked: Asked) -> str:
        advertiser = _own(request, asked)
        return self._pages.show(
            "advertiser", request, asked, **self._board.advertiser(asked, advertiser)
        )

    def verdict(self, request: Request, asked: Asked) -> str:
        advertiser = _own(request, asked)
        given = request.query_params
        about: dict[str, Any] = {
            name: given.get(name, "") for name in ("rule", "subject_type", "subject")
        }
        about["start"] = _number(given.get("start", ""), "start")
        content = self._board.verdict(asked, advertiser, about)
        if content is None:
            raise HTTPException(
                404, "No verdict like this is stored; a correction may have removed it."
            )
        return self._pages.show("verdict", request, asked, **content)

    def health(self, request: Request, asked: Asked) -> str:
        return self._pages.show("health", request, asked, **self._board.health(asked))

    async def login(self, request: Request) -> Response:
        there = request.query_params.get("next", "/")
        if not there.startswith("/") or there.startswith(("//", "/\\")):
            there = "/"
        if request.method == "GET":
            return _html(self._pages.login(there))
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_FORM_BYTES:
                raise HTTPException(413, "That is too long for a token.")
        token = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        return await run_in_threadpool(self._entered, token, there)

    async def logout(self, request: Request) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        title = {404: "Not here", 405: "Only to be read"}.get(error.status_code, "Not possible")
        told = error.detail if error.detail != "Not Found" else "There is no such page."
        return _html(self._pages.error(title, told), error.status_code)

    async def wrong(self, request: Request, error: Exception) -> Response:
        return _html(self._pages.error("This cannot be shown", _sentence(error)), 400)

    async def unreachable(self, request: Request, error: Exception) -> Response:
        _LOG.warning("%s: %s", request.url.path, error)
        visitor = getattr(request.state, "visitor", None)
        # What an error says of the machine is for those who run it.
        operator = visitor is not None and visitor.advertisers is None
        told = _sentence(error) if operator else ""
        files = ""
        if isinstance(error, Unreachable) and request.query_params.get("source") != "parquet":
            files = str(
                request.url.include_query_params(source="parquet").replace(scheme="", netloc="")
            )
            files = files if len(self._board.readers) > 1 else ""
        title = "Nothing to read from just now"
        return _html(self._pages.error(title, told, again=True, files=files), 503)

    async def failed(self, request: Request, error: Exception) -> Response:
        told = f"{type(error).__name__}; the log of 'adtally dashboard' has more."
        return _html(self._pages.error("Something went wrong here", told, again=True), 500)


def _warmed(board: Board) -> None:
    try:
        board.warm()
    except (OSError, ConfigError, Unreachable) as error:  # visitors are told, each
        _LOG.warning("%s", error)


async def _alive(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        raise HTTPException(404)
    file = (
        importlib.resources.files("adtally.pipelines.dashboard").joinpath("static").joinpath(name)
    )
    headers = {"Cache-Control": "max-age=300"}
    return Response(file.read_bytes(), media_type=_STATIC[name], headers=headers)


def _html(text: str, status_code: int = 200) -> Response:
    return Response(
        text.encode("utf-8", "backslashreplace"), status_code, media_type="text/html; charset=utf-8"
    )


def _here(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _own(request: Request, asked: Asked) -> str:
    """The advertiser that is asked for, if the visitor may see it; others are as if not there."""
    advertiser = request.query_params.get("id", "")
    if not advertiser or (asked.advertisers is not None and advertiser not in asked.advertisers):
        raise HTTPException(404, "There is no such advertiser, or it is not yours to see.")
    return advertiser


def _number(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ViewError(f"{name} is {text!r}, which is no whole number.") from None


def _instant(text: str, zone: zoneinfo.ZoneInfo) -> int:
    try:
        at = datetime.datetime.fromisoformat(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=zone)
        return round(at.timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise ViewError(f"{text!r} is no time; write it as 2026-03-01T12:00.") from None


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]
