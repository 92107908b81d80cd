"""Elasticsearch: how to reach it, its index templates, and the removal of outdated documents.

Works with servers 8.x and 9.x. Secrets are named by where they come from and read on the worker,
so they are in no pickle, repr, log, job description or dead letter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pyarrow as pa
from elastic_transport import ObjectApiResponse
from elasticsearch import Elasticsearch, NotFoundError

from adtally.io import schema
from adtally.transforms.windows import GENERATION_BITS

API_KEY_ENV: Final = "ADTALLY_ELASTICSEARCH_API_KEY"
PASSWORD_ENV: Final = "ADTALLY_ELASTICSEARCH_PASSWORD"
TEMPLATE_VERSION: Final = 1
"""Rises with every change of the mappings; an older template has to be set up again."""

KINDS: Final = ("summaries", "flags")
PAGE_DOCUMENTS: Final = 5_000


class ElasticsearchConfigError(ValueError):
    """A setting that cannot work; never holds a secret."""


class TemplatesMissing(RuntimeError):
    """Documents would go to indices with guessed mappings; nothing was written."""


@dataclass(frozen=True)
class ElasticsearchConfig:
    """How to reach a cluster, and how to write to it.

    Attributes:
        urls: of one or more nodes, without user and password.
        index_prefix: indices are ``PREFIX-summaries-YYYY.MM`` and ``PREFIX-flags-YYYY.MM``.
        username: for basic authentication; the password comes from ``password_file`` or from
            ADTALLY_ELASTICSEARCH_PASSWORD.
        api_key_file: an API key, otherwise ADTALLY_ELASTICSEARCH_API_KEY; wins over a password.
        password_file: see ``username``.
        ca_file: PEM of the authority that signed the nodes' certificates.
        verify_tls: False only for tests.
        request_timeout_seconds: of one request; a bulk of 5 MB takes well under one.
        batch_bytes: of one bulk request; 5 to 15 MB is what Elastic recommends to begin with.
        retry_seconds: how long writes are tried again before the bundle fails; ten minutes
            outlast the restart of a node.
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
        if not self.index_prefix or self.index_prefix != self.index_prefix.lower():
            raise ElasticsearchConfigError(
                f"index prefix {self.index_prefix!r} is empty or has capitals, which "
                f"Elasticsearch refuses; use one such as 'adtally'."
            )

    def index_pattern(self, kind: str) -> str:
        """All indices of ``summaries`` or ``flags``."""
        return f"{self.index_prefix}-{kind}-*"


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    where = parts.hostname or "?"
    if parts.username or parts.password:
        raise ElasticsearchConfigError(
            f"the URL of {where} holds a user or password, which would be seen in logs; use "
            f"--elasticsearch-username and {PASSWORD_ENV}."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ElasticsearchConfigError(
            f"{url!r} is no URL of a node; write it as https://HOST:9200."
        )


def connect(config: ElasticsearchConfig) -> Elasticsearch:
    """A client, with its secrets read now. Retries are left to the callers.

    Raises:
        ElasticsearchConfigError: a secret is missing or its file cannot be read.
    """
    options: dict[str, Any] = {}
    if any(url.startswith("https") for url in config.urls):
        options["verify_certs"] = config.verify_tls
        if config.ca_file:
            options["ca_certs"] = config.ca_file
        if not config.verify_tls:
            options["ssl_show_warn"] = False
    api_key = _secret(config.api_key_file, API_KEY_ENV)
    if api_key:
        options["api_key"] = api_key
    elif config.username:
        password = _secret(config.password_file, PASSWORD_ENV)
        if not password:
            raise ElasticsearchConfigError(
                f"user {config.username!r} has no password; set {PASSWORD_ENV} or give "
                f"--elasticsearch-password-file."
            )
        options["basic_auth"] = (config.username, password)
    return Elasticsearch(
        [_with_port(url) for url in config.urls],
        request_timeout=config.request_timeout_seconds,
        max_retries=0,
        **options,
    )


def _with_port(url: str) -> str:
    parts = urlsplit(url)
    if parts.port:
        return url
    port = 443 if parts.scheme == "https" else 9200
    return parts._replace(netloc=f"{parts.netloc}:{port}").geturl()


def _secret(path: str | None, variable: str) -> str | None:
    if path is None:
        return os.environ.get(variable)
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ElasticsearchConfigError(f"secret file {path} cannot be read: {error}") from error


def template_name(config: ElasticsearchConfig, kind: str) -> str:
    """Name of an index template, such as ``adtally-summaries``."""
    return f"{config.index_prefix}-{kind}"


def index_template(config: ElasticsearchConfig, kind: str) -> dict[str, Any]:
    """A strict index template: a field that it does not know is refused, never guessed."""
    source = schema.FLAG_SCHEMA
    if kind == "summaries":
        source = schema.summary_schema(schema.DIMENSIONS)
    properties = {field.name: _mapped(field) for field in source}
    properties["updated_at"] = {"type": "date"}
    return {
        "index_patterns": [config.index_pattern(kind)],
        "version": TEMPLATE_VERSION,
        "priority": 200,
        "template": {
            "settings": {"index.codec": "best_compression"},
            "mappings": {"dynamic": "strict", "properties": properties},
        },
        "_meta": {"made_by": "adtally", "version": TEMPLATE_VERSION},
    }


def _mapped(field: pa.Field) -> dict[str, Any]:
    if field.name == "unique_user_hashes":  # kept for merging; nobody searches for a hash
        return {"type": "long", "index": False, "doc_values": False}
    if field.name == "flags":
        return {
            "type": "nested",
            "dynamic": "strict",
            "properties": {inner.name: _mapped(inner) for inner in schema.FLAG_TYPE},
        }
    if pa.types.is_timestamp(field.type):
        return {"type": "date"}
    return {"type": "long"} if pa.types.is_integer(field.type) else {"type": "keyword"}


def install_templates(client: Elasticsearch, config: ElasticsearchConfig) -> list[str]:
    """Install or renew the index templates; says what it did. Existing indices stay as they are."""
    done = []
    for kind in KINDS:
        name = template_name(config, kind)
        client.indices.put_index_template(name=name, **_parts(index_template(config, kind)))
        done.append(f"index template {name} for {config.index_pattern(kind)} is installed")
    return done


def _parts(template: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_meta", "meta"): value for key, value in template.items()}


def check_templates(client: Elasticsearch, config: ElasticsearchConfig) -> None:
    """Make sure that what is written finds its mappings.

    Raises:
        TemplatesMissing: saying which command installs them.
    """
    for kind in KINDS:
        name = template_name(config, kind)
        try:
            found = client.indices.get_index_template(name=name)
            version = found["index_templates"][0]["index_template"].get("version", 0)
        except NotFoundError:
            version = 0
        if version < TEMPLATE_VERSION:
            state = "is older than this adtally" if version else "is not installed"
            raise TemplatesMissing(
                f"index template {name} {state}; mappings would be guessed. Run: "
                f"adtally elasticsearch setup --elasticsearch {config.urls[0]}"
            )


def delete_stale(
    client: Elasticsearch,
    config: ElasticsearchConfig,
    *,
    window_from_ms: int,
    window_to_ms: int,
    generation: int,
    window_seconds: Sequence[int],
) -> int:
    """Delete documents of whole windows in a range that a newer generation does not have.

    Each delete carries the lowest version of ``generation``, so a document that the generation
    has written meanwhile stays.

    Args:
        client: see :func:`connect`.
        config: names the indices.
        window_from_ms: start of the range.
        window_to_ms: its end, exclusive.
        generation: documents of earlier ones go.
        window_seconds: sizes of the windows that were tallied again.

    Returns:
        How many were deleted.
    """
    window = {
        "bool": {
            "filter": [
                {"range": {"window_start": {"gte": window_from_ms, "format": "epoch_millis"}}},
                {"range": {"window_end": {"lte": window_to_ms, "format": "epoch_millis"}}},
                {"range": {"generation": {"lt": generation}}},
                {"terms": {"window_seconds": list(window_seconds)}},
            ]
        }
    }
    deleted = 0
    for kind in KINDS:
        pattern = config.index_pattern(kind)
        client.indices.refresh(index=pattern, ignore_unavailable=True, allow_no_indices=True)
        for hits in _pages(client, pattern, window):
            operations = [
                {
                    "delete": {
                        "_index": hit["_index"],
                        "_id": hit["_id"],
                        "routing": hit["_routing"],
                        "version": generation << GENERATION_BITS,
                        "version_type": "external_gte",
                    }
                }
                for hit in hits
            ]
            deleted += _deleted(client.bulk(operations=operations))
    return deleted


def _pages(client: Elasticsearch, pattern: str, query: dict[str, Any]) -> Iterator[list[Any]]:
    """All hits of a query as they were when it began, page by page."""
    opened = client.open_point_in_time(
        index=pattern, keep_alive="5m", ignore_unavailable=True, allow_partial_search_results=False
    )
    after: Any = None
    try:
        while True:
            found = client.search(
                pit={"id": opened["id"], "keep_alive": "5m"},
                query=query,
                size=PAGE_DOCUMENTS,
                sort=[{"_shard_doc": "asc"}],
                search_after=after,
                source=False,
                stored_fields=["_routing"],
                track_total_hits=False,
            )
            hits = found["hits"]["hits"]
            if not hits:
                return
            yield hits
            after = hits[-1]["sort"]
    finally:
        client.close_point_in_time(id=opened["id"])


def _deleted(response: ObjectApiResponse[Any]) -> int:
    results = [item["delete"] for item in response["items"]]
    wrong = [item for item in results if item["status"] not in (200, 404, 409)]
    if wrong:
        raise RuntimeError(
            f"{len(wrong)} outdated documents could not be deleted: {wrong[0]}. They would be "
            f"counted beside their corrections; run the re-tally again."
        )
    return sum(item["status"] == 200 for item in results)
