"""Elasticsearch: its index templates, and the removal of outdated documents.

Works with servers 8.x and 9.x. How to reach one is in :mod:`adtally.io.elasticsearch_client`, whose
names can be imported from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch, NotFoundError

from adtally.io import schema
from adtally.io.elasticsearch_bulk import BulkWriter, Document, address
from adtally.io.elasticsearch_client import (
    API_KEY_ENV,
    PASSWORD_ENV,
    USERNAME_ENV,
    AccessDenied,
    ElasticsearchConfig,
    ElasticsearchConfigError,
    connect,
    denied,
    not_trusted,
    tenants_template,
)
from adtally.io.elasticsearch_pages import pages
from adtally.transforms.windows import GENERATION_BITS

__all__ = [
    "API_KEY_ENV",
    "KINDS",
    "PASSWORD_ENV",
    "TEMPLATE_VERSION",
    "USERNAME_ENV",
    "AccessDenied",
    "ElasticsearchConfig",
    "ElasticsearchConfigError",
    "TemplatesMissing",
    "check_templates",
    "connect",
    "delete_stale",
    "index_template",
    "install_templates",
    "template_name",
    "templates_installed",
]

TEMPLATE_VERSION: Final = 5
"""Rises with every change of the mappings; an older template has to be set up again."""

KINDS: Final = ("summaries", "flags", "verdicts", "anomalies")


class TemplatesMissing(RuntimeError):
    """Documents would go to indices with guessed mappings; nothing was written."""


def template_name(config: ElasticsearchConfig, kind: str) -> str:
    """Name of an index template, such as ``adtally-summaries``."""
    return f"{config.index_prefix}-{kind}"


def index_template(config: ElasticsearchConfig, kind: str) -> dict[str, Any]:
    """A strict index template: a field that it does not know is refused, never guessed."""
    source = {
        "summaries": schema.summary_schema(schema.DIMENSIONS),
        "flags": schema.FLAG_SCHEMA,
        "verdicts": schema.verdict_schema(schema.DIMENSIONS),
        "anomalies": schema.ANOMALY_SCHEMA,
    }[kind]
    properties = {field.name: _mapped(field) for field in source}
    properties["updated_at"] = {"type": "date"}
    properties["pane_timing"] = {"type": "keyword"}
    properties["pane_index"] = {"type": "long"}
    return {
        "index_patterns": [config.index_pattern(kind)],
        "version": TEMPLATE_VERSION,
        "priority": 200,
        "composed_of": [tenants_template(config, kind)],
        "ignore_missing_component_templates": [tenants_template(config, kind)],
        "template": {
            "settings": {"index.codec": "best_compression"},
            "mappings": {"dynamic": "strict", "properties": properties},
        },
        "_meta": {"made_by": "adtally", "version": TEMPLATE_VERSION},
    }


def _mapped(field: pa.Field) -> dict[str, Any]:
    if field.name == "unique_user_hashes":  # kept for merging; nobody searches for a hash
        return {"type": "long", "index": False, "doc_values": False}
    if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
        return {
            "type": "nested",
            "dynamic": "strict",
            "properties": {inner.name: _mapped(inner) for inner in field.type.value_type},
        }
    if pa.types.is_timestamp(field.type):
        return {"type": "date"}
    return {"type": "long"} if pa.types.is_integer(field.type) else {"type": "keyword"}


def install_templates(client: Elasticsearch, config: ElasticsearchConfig) -> list[str]:
    """Install or renew the index templates; says what it did. Existing indices learn new fields.

    Raises:
        AccessDenied: these credentials may not.
        RequestRefused: the node's certificate is not trusted.
    """
    done = []
    for kind in KINDS:
        name, pattern = template_name(config, kind), config.index_pattern(kind)
        template = index_template(config, kind)
        try:
            client.indices.put_index_template(name=name, **_parts(template))
            if client.indices.get(index=pattern):  # their mappings are strict: documents would fail
                client.indices.put_mapping(index=pattern, **template["template"]["mappings"])
        except ApiError as error:
            if error.meta.status in (401, 403):
                raise denied(error, config, "index templates cannot be installed") from None
            raise
        except TransportError as error:
            raise not_trusted(error, config) or error from None
        done.append(f"index template {name} for {pattern} is installed")
    return done


def _parts(template: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_meta", "meta"): value for key, value in template.items()}


def templates_installed(client: Elasticsearch, config: ElasticsearchConfig) -> bool:
    """Whether every index template is there, in this version or a newer one."""
    return all(_version(client, config, kind) >= TEMPLATE_VERSION for kind in KINDS)


def check_templates(client: Elasticsearch, config: ElasticsearchConfig) -> None:
    """Make sure that what is written finds its mappings.

    Raises:
        TemplatesMissing: saying which command installs them.
    """
    for kind in KINDS:
        version = _version(client, config, kind)
        if version < TEMPLATE_VERSION:
            state = "is older than this adtally" if version else "is not installed"
            command = f"adtally elasticsearch setup --elasticsearch {','.join(config.urls)}"
            if config.index_prefix != "adtally":
                command += f" --elasticsearch-index-prefix {config.index_prefix}"
            raise TemplatesMissing(
                f"index template {template_name(config, kind)} {state}; mappings would be guessed, "
                f"so nothing is written. Run: {command}"
            )


def _version(client: Elasticsearch, config: ElasticsearchConfig, kind: str) -> int:
    try:
        found = client.indices.get_index_template(name=template_name(config, kind))
    except NotFoundError:
        return 0
    return int(found["index_templates"][0]["index_template"].get("version", 0))


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
    has written meanwhile stays. Deletes are written as documents are: every item is checked, and
    what the cluster is too busy for is tried again. Safe to repeat.

    Args:
        client: see :func:`connect`.
        config: names the indices.
        window_from_ms: start of the range.
        window_to_ms: its end, exclusive.
        generation: documents of earlier ones go.
        window_seconds: sizes of the windows that were tallied again.

    Returns:
        How many were deleted.

    Raises:
        ElasticsearchUnavailable: the cluster did not answer within ``config.retry_seconds``.
        AccessDenied: these credentials may not.
        RuntimeError: the cluster refuses a delete for good.
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
    writer = BulkWriter(client, config)
    for kind in KINDS:
        for hits in pages(writer, config.index_pattern(kind), window):
            refused = writer.write([_delete(hit, generation) for hit in hits])
            if refused:
                raise RuntimeError(
                    f"{len(refused)} outdated documents could not be deleted: "
                    f"{refused[0].reason}. They would be counted beside their corrections; run "
                    f"the re-tally again."
                )
    return writer.counts.written


def _delete(hit: dict[str, Any], generation: int) -> Document:
    return Document.made("delete", address(hit), generation << GENERATION_BITS)
