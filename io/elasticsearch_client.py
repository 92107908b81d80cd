"""Elasticsearch: how to reach it. Secrets are named by where they come from, never held.

A config travels in the pickled graph, so it holds names of files and of a user only; what is
secret is read by :func:`connect`, on the machine that connects.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch

from adtally.io.endpoints import is_plain, refusal, warn_once
from adtally.io.secrets import SecretError, read_secret

API_KEY_ENV: Final = "ADTALLY_ELASTICSEARCH_API_KEY"
USERNAME_ENV: Final = "ADTALLY_ELASTICSEARCH_USERNAME"
PASSWORD_ENV: Final = "ADTALLY_ELASTICSEARCH_PASSWORD"

_LOG = logging.getLogger("adtally.elasticsearch")
_ERROR_TYPE = re.compile(r"[a-z_]{1,60}")
_INDEX_PREFIX = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
"""Narrower than what Elasticsearch takes: a ``*`` would make deletes reach other indices."""


class ElasticsearchConfigError(ValueError):
    """A setting that cannot work; never holds a secret."""


class AccessDenied(RuntimeError):
    """The cluster refuses these credentials; no secret is in the message."""


class RequestRefused(RuntimeError):
    """The server refuses the request itself, whatever is in it: not a cluster, or not as told."""


@dataclass(frozen=True)
class ElasticsearchConfig:
    """How to reach a cluster, and how to write to it.

    Attributes:
        urls: of one or more nodes, without user and password.
        index_prefix: indices are ``PREFIX-summaries-YYYY.MM`` and ``PREFIX-flags-YYYY.MM``.
        username: for basic authentication, otherwise ADTALLY_ELASTICSEARCH_USERNAME; the password
            comes from ``password_file`` or from ADTALLY_ELASTICSEARCH_PASSWORD.
        api_key_file: an API key, otherwise ADTALLY_ELASTICSEARCH_API_KEY; wins over a password.
            Encoded as Elasticsearch gives it, or ``ID:KEY``.
        password_file: see ``username``.
        ca_file: PEM of the authority that signed the nodes' certificates.
        verify_tls: False only for tests; then credentials may go over ``http://`` as well.
        request_timeout_seconds: of one request; a bulk of 5 MB takes well under one.
        batch_bytes: of one bulk request; 5 to 15 MB is what Elastic recommends to begin with.
        retry_seconds: how long writes are tried again before the bundle fails; ten minutes
            outlast the restart of a node.

    Raises:
        ElasticsearchConfigError: a setting that cannot work, with what to write instead.
    """

    urls: tuple[str, ...]
    index_prefix: str = "adtally"
    username: str | None = None
    api_key_file: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    verify_tls: bool = True
    request_timeout_seconds: float = 60.0
    batch_bytes: int = 5 << 20
    retry_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not self.urls:
            raise ElasticsearchConfigError("no Elasticsearch URL is given.")
        for url in self.urls:
            _check_url(url)
        if not _INDEX_PREFIX.fullmatch(self.index_prefix):
            raise ElasticsearchConfigError(
                f"index prefix {self.index_prefix!r} is empty, or has capitals or signs that "
                f"index names must not have; use one such as 'adtally'."
            )
        for name in ("request_timeout_seconds", "batch_bytes"):
            if getattr(self, name) <= 0:
                raise ElasticsearchConfigError(
                    f"{name} is {getattr(self, name)}, so nothing could be written; give more "
                    f"than 0."
                )
        if self.retry_seconds < 0:
            raise ElasticsearchConfigError(
                f"retry_seconds is {self.retry_seconds}; give 0 to fail at the first error."
            )

    def index_pattern(self, kind: str) -> str:
        """All indices of ``summaries`` or ``flags``."""
        return f"{self.index_prefix}-{kind}-*"


def tenants_template(config: ElasticsearchConfig, kind: str) -> str:
    """Name of the component template with the tenants' aliases; there need not be one."""
    return f"{config.index_prefix}-tenants-{kind}"


def _check_url(url: str) -> None:
    """Refuse what is no plain URL; nothing of one that may hold a password is repeated."""
    if "@" in url:
        raise ElasticsearchConfigError(
            f"an Elasticsearch URL holds a user or password (it has an '@'), which would be seen "
            f"in logs; use --elasticsearch-username and {PASSWORD_ENV}."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ElasticsearchConfigError(
            f"{url!r} is no URL of a node ({error}); write it as https://HOST:9200."
        ) from error
    plain = not (parts.query or parts.fragment) and port != 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise ElasticsearchConfigError(
            f"{url.partition('?')[0]!r} is no URL of a node; write it as https://HOST:9200."
        )


def connect(config: ElasticsearchConfig, **options: Any) -> Elasticsearch:
    """A client, with its secrets read now. Retries are left to the callers.

    Args:
        config: names the nodes and where the secrets are.
        options: more of the client's own.

    Raises:
        ElasticsearchConfigError: a secret is missing, it or the CA file cannot be read, or it would
            be sent for all to read.
    """
    # Every failed attempt is a warning there; the callers' own say more, and less often.
    log = logging.getLogger("elastic_transport")
    if log.level == logging.NOTSET:
        log.setLevel(logging.ERROR)
    credentials = _credentials(config)
    _check_private(config, secret=bool(credentials))
    return Elasticsearch(
        [_with_port(url) for url in config.urls],
        request_timeout=config.request_timeout_seconds,
        max_retries=0,
        **_tls(config),
        **credentials,
        **options,
    )


def _check_private(config: ElasticsearchConfig, *, secret: bool) -> None:
    plain = [url for url in config.urls if is_plain(url)]
    if plain and secret and config.verify_tls:
        raise ElasticsearchConfigError(
            f"{', '.join(plain)} is not encrypted and not on this machine, so the credentials "
            f"would be readable on the way; write https://, or leave the credentials out. For "
            f"tests, --elasticsearch-insecure sends them all the same."
        )
    if not config.verify_tls:
        warn_once(
            _LOG,
            f"--elasticsearch-insecure: nobody knows who answers as {', '.join(config.urls)}. "
            f"Whoever stands between can read the credentials, and read and change documents. For "
            f"tests only; else give --elasticsearch-ca-file",
        )
    elif plain:
        warn_once(
            _LOG,
            f"{', '.join(plain)} is not encrypted: documents can be read and changed on the way; "
            f"write https://",
        )


def not_trusted(error: TransportError, config: ElasticsearchConfig) -> RequestRefused | None:
    """What to tell people when TLS cannot be spoken with a node; None where time may mend it."""
    why = refusal(error, "--elasticsearch-ca-file FILE.pem")
    if not why:
        return None
    return RequestRefused(f"{', '.join(config.urls)} is not talked to: {why}. ({error.message})")


def index_name(config: ElasticsearchConfig, kind: str, month: str) -> str:
    """Where documents of a kind lie whose windows begin in a month, ``YYYY.MM``."""
    return f"{config.index_prefix}-{kind}-{month}"


def denied(error: ApiError, config: ElasticsearchConfig, what: str) -> AccessDenied:
    """What to tell people when a whole request was refused with 401 or 403."""
    return AccessDenied(
        f"Elasticsearch answers {error.meta.status}{error_type(error)}: {what}. Check "
        f"{API_KEY_ENV}, or the user and {PASSWORD_ENV}, or their files. Needed are the cluster "
        f"privilege 'monitor' ('manage_index_templates' for setup) and the index privileges "
        f"'read', 'write', 'maintenance' and 'auto_configure' on {config.index_prefix}-*."
    )


def error_type(error: ApiError) -> str:
    """What a server calls its refusal; empty for what may be anything, such as our own request."""
    body = error.body
    cause = body.get("error") if isinstance(body, dict) else None
    name = str(cause.get("type", "")) if isinstance(cause, dict) else str(error.message)
    return f" ({name})" if _ERROR_TYPE.fullmatch(name) else ""


def _tls(config: ElasticsearchConfig) -> dict[str, Any]:
    if not any(url.startswith("https:") for url in config.urls):
        return {}
    options: dict[str, Any] = {"verify_certs": config.verify_tls}
    if config.ca_file:
        try:
            ssl.create_default_context(cafile=config.ca_file)
        except OSError as error:  # ssl.SSLError too
            raise ElasticsearchConfigError(
                f"CA file {config.ca_file} is not there, or holds no certificate ({error}); give "
                f"the PEM file of the authority that signed the nodes' certificates."
            ) from error
        options["ca_certs"] = config.ca_file
    if not config.verify_tls:
        options["ssl_show_warn"] = False
    return options


def _credentials(config: ElasticsearchConfig) -> dict[str, Any]:
    api_key = _secret(config.api_key_file, API_KEY_ENV)
    if api_key:
        if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            raise ElasticsearchConfigError(
                f"the API key ({config.api_key_file or API_KEY_ENV}) has blanks, line ends or "
                f"signs that no key has; copy it again."
            )
        name, colon, key = api_key.partition(":")
        return {"api_key": (name, key) if colon else api_key}
    username = config.username or os.environ.get(USERNAME_ENV)
    if not username:
        if config.password_file:
            raise ElasticsearchConfigError(
                f"there is a password file, {config.password_file}, and no user; give "
                f"--elasticsearch-username."
            )
        return {}
    password = _secret(config.password_file, PASSWORD_ENV)
    if not password:
        raise ElasticsearchConfigError(
            f"user {username!r} has no password; set {PASSWORD_ENV} or give "
            f"--elasticsearch-password-file."
        )
    return {"basic_auth": (username, password)}


def _secret(path: str | None, variable: str) -> str | None:
    if path is None:
        return os.environ.get(variable, "").strip() or None
    try:
        return read_secret(path)
    except SecretError as error:
        raise ElasticsearchConfigError(str(error)) from None


def _with_port(url: str) -> str:
    parts = urlsplit(url)
    if parts.port:
        return url
    port = 443 if parts.scheme == "https" else 9200
    return parts._replace(netloc=f"{parts.netloc}:{port}").geturl()
