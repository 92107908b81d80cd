"""TLS in front of real servers that speak none, with certificates of an authority made here."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import trustme

HERE = ("localhost", "127.0.0.1")


class Authority:
    """A certificate authority; ``file`` is its certificate."""

    def __init__(self, folder: Path) -> None:
        self._made = trustme.CA()
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "authority.pem"
        self._made.cert_pem.write_to_path(self.file)

    def server(self, kind: str = "good") -> ssl.SSLContext:
        """What a server shows: a certificate that is ``good``, ``elsewhere`` or ``expired``."""
        names = ("elsewhere.example",) if kind == "elsewhere" else HERE
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        certificate = (
            self._made.issue_cert(*names, not_after=past)
            if kind == "expired"
            else self._made.issue_cert(*names)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        context.set_alpn_protocols(["h2", "http/1.1"])  # gRPC insists
        return context


class TlsProxy:
    """A context manager that ends TLS and passes bytes on to a server that has none.

    Attributes:
        url: where it listens.
        met: connections that clients opened, whatever came of them.
        heard: bytes that clients sent after the handshake.
    """

    def __init__(self, target: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.met = self.heard = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.met += 1
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with plain, contextlib.suppress(OSError):
            client = self._context.wrap_socket(plain, server_side=True)
            with client, socket.create_connection(self._target) as server:
                back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
                back.start()
                self._copy(client, server)
                back.join(30)

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if isinstance(source, ssl.SSLSocket):
                    self.heard += len(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
