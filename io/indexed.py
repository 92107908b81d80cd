"""What Elasticsearch says: documents of a range as tables, to be held against other places."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from adtally.io import schema
from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_client import ElasticsearchConfig
from adtally.io.elasticsearch_pages import pages
from adtally.io.elasticsearch_sink import document_id

HASHES: Final = "unique_user_hashes"

PROVENANCE: Final = (
    pa.field("touched", pa.bool_(), nullable=False),
    pa.field("other_id", pa.bool_(), nullable=False),
)
"""Of a document: its ``_version`` is not the version that adtally wrote it with; its ``_id`` is
not that of its row."""


def indexed(
    writer: BulkWriter,
    config: ElasticsearchConfig,
    kind: str,
    dimensions: Sequence[str],
    from_ms: int,
    to_ms: int,
    advertisers: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """Documents whose windows lie inside a range, page by page, as they are at one moment.

    Args:
        writer: knows the client, and has patience.
        config: names the indices.
        kind: ``summaries``, ``flags`` or ``verdicts``.
        dimensions: of the summaries.
        from_ms: start of the range, milliseconds since the epoch.
        to_ms: its end, exclusive.
        advertisers: of these; all if empty.

    Returns:
        Tables with the schema of the kind, without hashes of users, and ``PROVENANCE``.

    Raises:
        ElasticsearchUnavailable, AccessDenied, RequestRefused: as
            :meth:`~adtally.io.elasticsearch_bulk.BulkWriter.when_up`.
    """
    like = document_schema(kind, dimensions)
    inside: list[dict[str, Any]] = [
        {"range": {"window_start": {"gte": from_ms, "format": "epoch_millis"}}},
        {"range": {"window_end": {"lte": to_ms, "format": "epoch_millis"}}},
    ]
    if advertisers:
        inside.append({"terms": {"advertiser_id": list(advertisers)}})
    query = {"bool": {"filter": inside}}
    for hits in pages(writer, config.index_pattern(kind), query, {"excludes": [HASHES]}):
        yield pa.Table.from_pylist([_row(hit, kind, like) for hit in hits], schema=like)


def document_schema(kind: str, dimensions: Sequence[str]) -> pa.Schema:
    """Schema of what :func:`indexed` gives."""
    known = {
        "summaries": schema.summary_schema(dimensions),
        "flags": schema.FLAG_SCHEMA,
        "verdicts": schema.verdict_schema(dimensions),
    }[kind]
    kept = [field.with_nullable(True) for field in known if field.name != HASHES]
    return pa.schema([*kept, *PROVENANCE])


def _row(hit: dict[str, Any], kind: str, like: pa.Schema) -> dict[str, Any]:
    source = hit["_source"]
    row = {field.name: _value(source.get(field.name), field.type) for field in like}
    dimensions = [name for name in schema.DIMENSIONS if name in like.names]
    start: datetime.datetime | None = row["window_start"]
    start_ms = 0 if start is None else round(start.timestamp() * 1000)
    row["touched"] = hit["_version"] != source.get("version")
    row["other_id"] = hit["_id"] != document_id(kind, row, dimensions, start_ms)
    return row


def _value(value: Any, type_: pa.DataType) -> Any:
    """A value of JSON as one of Arrow's; lists may be one value alone."""
    if value is None:
        return [] if pa.types.is_list(type_) else None
    if pa.types.is_timestamp(type_):
        return datetime.datetime.fromisoformat(value)
    if pa.types.is_list(type_):
        values = value if isinstance(value, list) else [value]
        return [_value(inner, type_.value_type) for inner in values]
    if pa.types.is_struct(type_):
        return {field.name: _value(value.get(field.name), field.type) for field in type_}
    return value
