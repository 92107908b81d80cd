"""Elasticsearch: all documents of a query, page by page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from elastic_transport import TransportError
from elasticsearch import ApiError

from adtally.io.elasticsearch_bulk import BulkWriter

PAGE_DOCUMENTS: Final = 5_000
PAGE_SOURCES: Final = 500
"""With all of their contents: a summary has up to 1,024 hashes, 20 kB."""


def pages(
    writer: BulkWriter,
    pattern: str,
    query: dict[str, Any],
    source: bool | Mapping[str, Any] = False,
    fields: Sequence[dict[str, str]] = (),
) -> Iterator[list[dict[str, Any]]]:
    """All hits of a query as they were when it began; none of a shard is missing.

    Args:
        writer: knows the client, and has patience.
        pattern: of indices; none is fine.
        query: which documents.
        source: with their contents, or those fields of them, and their ``_version``.
        fields: what else hits carry, ``{"field": name}`` each.

    Raises:
        RuntimeError: a shard did not refresh.
    """
    client = writer.client
    refreshed = writer.when_up(
        lambda: client.indices.refresh(index=pattern, ignore_unavailable=True)
    )
    if refreshed["_shards"]["failed"]:
        raise RuntimeError(
            f"{refreshed['_shards']['failed']} shards of {pattern} did not refresh, so documents "
            f"that were just written could be passed over; nothing was done. Do it again."
        )
    opened = writer.when_up(
        lambda: client.open_point_in_time(index=pattern, keep_alive="5m", ignore_unavailable=True)
    )
    point: str = opened["id"]
    after: Any = None

    def page() -> Any:
        return client.search(
            pit={"id": point, "keep_alive": "5m"},
            query=query,
            size=PAGE_SOURCES if source is True else PAGE_DOCUMENTS,
            sort=[{"_shard_doc": "asc"}],
            search_after=after,
            source=source,
            version=bool(source),
            docvalue_fields=list(fields),
            stored_fields=["_routing"],
            track_total_hits=False,
            allow_partial_search_results=False,
        )

    try:
        while True:
            found = writer.when_up(page)
            hits: list[dict[str, Any]] = found["hits"]["hits"]
            if not hits:
                return
            yield hits
            point, after = found["pit_id"], hits[-1]["sort"]
    finally:
        with contextlib.suppress(TransportError, ApiError):  # it ends by itself in 5 minutes
            client.close_point_in_time(id=point)
