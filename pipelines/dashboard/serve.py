"""The dashboard as a server of this process."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import zoneinfo
from collections.abc import Callable, Sequence
from typing import Any

from adtally.io.elasticsearch_client import ElasticsearchConfig
from adtally.io.endpoints import on_this_machine
from adtally.pipelines.daily_page import missing
from adtally.pipelines.job import ConfigError


def serve(
    output: str,
    elasticsearch: ElasticsearchConfig | None,
    zone: zoneinfo.ZoneInfo,
    *,
    host: str,
    port: int,
    tokens: str | None = None,
    allowed: Sequence[str] = (),
    certificate: str | None = None,
    key: str | None = None,
    told: Callable[[str], None],
) -> None:
    """Serve until a signal ends it.

    Args:
        output: address of an output.
        elasticsearch: where its documents are; None for files alone.
        zone: of the clocks.
        host: to listen on.
        port: likewise; 0 for any.
        tokens: file of those who may see it; None for whoever reaches it.
        allowed: names that browsers may call it by.
        certificate: PEM; None for plain HTTP.
        key: of it.
        told: gets a line with the address when it can be asked.

    Raises:
        ConfigError: others could read along, or see everything; the port is taken; or something is
            not installed.
    """
    check(host, tokens, certificate)
    try:
        import uvicorn

        from adtally.pipelines.dashboard.access import Tokens
        from adtally.pipelines.dashboard.app import application
        from adtally.pipelines.dashboard.board import Board
    except ImportError as error:
        if (error.name or "").startswith("adtally"):
            raise
        raise missing(error, "dashboard") from error

    known = None if tokens is None else Tokens(tokens)
    board = Board(output, elasticsearch, zone)
    hosts = list(allowed) if known is None or allowed or on_this_machine(host) else ["*"]
    secure = certificate is not None
    config = uvicorn.Config(
        application(board, known, hosts, secure),
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        access_log=False,  # addresses may hold tokens
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--tls-certificate {certificate} or its key is no PEM that belongs together ({error})."
        ) from error
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port} cannot be listened on ({error.strerror or error}); give "
            f"another port, or --port 0 for any that is free."
        ) from error
    with opened:
        at = opened.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        told(f"adtally dashboard: http{'s' if secure else ''}://{shown}:{at}/  (Ctrl-C ends it)")
        server: Any = uvicorn.Server(config)
        with contextlib.closing(board):
            server.run(sockets=[opened])


def check(host: str, tokens: str | None, certificate: str | None) -> None:
    """Refuse to show everything to everybody, or to let others read along.

    Raises:
        ConfigError: says what to give.
    """
    if on_this_machine(host):
        return
    if tokens is None:
        raise ConfigError(
            f"--host {host} can be reached from other machines, and anybody would see every "
            f"advertiser. Give --tokens FILE, or listen on 127.0.0.1 behind a reverse proxy that "
            f"knows people (--allow-host is the name that they call it by)."
        )
    if certificate is None:
        raise ConfigError(
            f"--host {host} can be reached from other machines, and tokens and figures could be "
            f"read on the way. Give --tls-certificate, or listen on 127.0.0.1 behind a reverse "
            f"proxy that speaks TLS."
        )
