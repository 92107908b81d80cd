"""A proxy between a client and a real HTTP server that breaks chosen requests on their way."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """What a client asks: ``path`` with its query, ``size`` of the body, names of headers in lower
    case."""

    method: str
    path: str
    size: int
    headers: dict[str, str]


@dataclass(frozen=True)
class Cut:
    """The connection ends, for both sides, when this share of the body has reached the server."""

    share: float = 0.5


@dataclass(frozen=True)
class Lost:
    """The server does what it is asked, and the connection ends before its answer arrives."""


@dataclass(frozen=True)
class Truncated:
    """The server does what it is asked; of its answer this share of the body arrives."""

    share: float = 0.5


@dataclass(frozen=True)
class Dribbled:
    """The server does what it is asked; its answer takes this long to arrive, bit by bit."""

    seconds: float = 10.0


@dataclass(frozen=True)
class Refused:
    """The proxy answers in place of the server, as a server with too much to do would."""

    status: int = 503
    body: bytes = (
        b"<?xml version='1.0'?><Error><Code>SlowDown</Code>"
        b"<Message>Please reduce your request rate.</Message></Error>"
    )
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/xml"),)


Answer = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers and body."""


@dataclass(frozen=True)
class Changed:
    """What the server is asked, and what it answers, are changed on the way.

    ``exchange`` gets the body and a function that asks the server with another one.
    """

    exchange: Callable[[bytes, Callable[[bytes], Answer]], Answer]


Fault = Cut | Lost | Truncated | Dribbled | Refused | Changed


def none(request: Request) -> Fault | None:
    """All is well."""
    return None


class FaultProxy:
    """A context manager; ``fault`` says of each request what happens to it, and may be replaced.

    Attributes:
        seen: all requests, in order.
        faults: those that were broken.
    """

    def __init__(self, target: str, fault: Callable[[Request], Fault | None] = none) -> None:
        self.fault = fault
        self.seen: list[Request] = []
        self.faults: list[Request] = []
        host = urlsplit(target)
        proxy = self

        class Handler(_Handler):
            target = (str(host.hostname), int(host.port or 80))
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.target = target

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    target: tuple[str, int]
    owner: FaultProxy

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, size, headers)
        self.owner.seen.append(request)
        fault = self.owner.fault(request)
        if fault is not None:
            self.owner.faults.append(request)
        if isinstance(fault, Cut):
            self._cut(self.rfile.read(round(size * fault.share)))
            return
        body = self.rfile.read(size)
        if isinstance(fault, Refused):
            self._answer((fault.status, list(fault.headers), fault.body))
            return
        try:
            asked = fault.exchange(body, self._asked) if isinstance(fault, Changed) else None
            answer = asked or self._asked(body)
        except OSError:  # the server hung up, so the client is told the same
            self._hang_up()
            return
        if isinstance(fault, Lost):
            self._hang_up()
            return
        self._answer(answer, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _handle

    def _asked(self, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(*self.target, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() == "content-length":
                value = str(len(body))  # it may have been changed
            if name.lower() not in ("connection", "expect"):
                connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, response.getheaders(), answer

    def _cut(self, part: bytes) -> None:
        lines = [f"{self.command} {self.path} HTTP/1.1"]
        lines += [f"{k}: {v}" for k, v in self.headers.items() if k.lower() != "expect"]
        with socket.create_connection(self.target) as server:
            server.sendall("\r\n".join([*lines, "", ""]).encode() + part)
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, answer: Answer, fault: Fault | None = None) -> None:
        status, headers, body = answer
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() == "location":  # of an upload in parts: it must come this way too
                value = value.replace(self.owner.target, self.owner.url)
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        if self.command == "HEAD":
            length = {name.lower(): value for name, value in headers}.get("content-length")
            if length is not None:
                self.send_header("Content-Length", length)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(fault, Truncated):
            self.wfile.write(body[: int(len(body) * fault.share)])
            self._hang_up()
        elif isinstance(fault, Dribbled):
            with contextlib.suppress(OSError):  # whoever asked may have had enough
                size = len(body) // 50 + 1
                for at in range(0, len(body), size):
                    time.sleep(fault.seconds * size / len(body))
                    self.wfile.write(body[at : at + size])
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet: what was seen is in the proxy's list."""
