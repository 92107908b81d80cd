"""Elasticsearch: the removal of documents whose rows were folded into one since."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import polars as pl
import pyarrow as pa

from adtally.io import schema
from adtally.io.elasticsearch_bulk import BulkWriter, Document, address
from adtally.io.elasticsearch_client import ElasticsearchConfig, index_name
from adtally.io.elasticsearch_pages import pages
from adtally.transforms.overflow import is_folded
from adtally.transforms.windows import SEEN_MASK

_WINDOWS_AT_A_TIME: Final = 100
"""Five clauses each: a query of a small node may have 1,024."""


_FIELDS: Final = (
    {"field": "advertiser_id"},
    {"field": "window_start", "format": "epoch_millis"},
    {"field": "window_seconds"},
)


class Folded(NamedTuple):
    """A window of an advertiser some rows of which are folded, and the version of all its rows."""

    advertiser_id: str
    window_start_ms: int
    window_seconds: int
    version: int


def folded_in(table: pa.Table | pa.RecordBatch) -> set[Folded]:
    """Windows in which a pane's summaries have a row that others are folded into."""
    dimensions = [name for name in schema.DIMENSIONS if name in table.schema.names]
    if not dimensions:
        return set()
    names = ["advertiser_id", "window_start", "window_seconds", "version"]
    frame = pl.DataFrame(pl.from_arrow(table.select([*dimensions, *names])))
    rows = frame.filter(is_folded(dimensions)).select(names)
    return {
        Folded(*row) for row in rows.with_columns(pl.col("window_start").dt.epoch("ms")).iter_rows()
    }


def delete_folded(writer: BulkWriter, config: ElasticsearchConfig, folded: Iterable[Folded]) -> int:
    """Delete documents that an earlier pane wrote for rows that are folded now.

    All rows of a pane have its version, so what is lower, in the same generation, is of an earlier
    pane. Each delete carries the pane's version and is refused where the document has that or a
    higher one: what this pane or a later one wrote stays. Elasticsearch remembers the version of a
    deleted document for a minute (``index.gc_deletes``), so a write of an earlier pane that is
    tried again meanwhile is refused too; after that it is deleted by the window's next pane, as
    every pane with a folded row deletes. Indices are refreshed first. Safe to repeat.

    Args:
        writer: what the pane was written with; how many were deleted is not added to what it wrote.
        config: names the indices.
        folded: windows whose rows are written.

    Returns:
        How many were deleted.

    Raises:
        ElasticsearchUnavailable: the cluster did not answer within ``config.retry_seconds``.
        AccessDenied: these credentials may not.
        RuntimeError: the cluster refuses a delete for good.
    """
    versions = {one[:3]: one.version for one in sorted(folded)}
    newest = [Folded(*key, version) for key, version in versions.items()]
    before, superseded = writer.counts.written, writer.counts.superseded
    for start in range(0, len(newest), _WINDOWS_AT_A_TIME):
        some = newest[start : start + _WINDOWS_AT_A_TIME]
        pattern = ",".join(sorted({_index(config, one) for one in some}))
        query = {"bool": {"should": [_earlier(one) for one in some], "minimum_should_match": 1}}
        for hits in pages(writer, pattern, query, fields=_FIELDS):
            refused = writer.write([_delete(hit, versions) for hit in hits])
            if refused:
                raise RuntimeError(
                    f"{len(refused)} documents of rows that are folded could not be deleted: "
                    f"{refused[0].reason}. They would be counted twice; the bundle is tried again."
                )
    deleted = writer.counts.written - before
    writer.counts.written, writer.counts.superseded = before, superseded
    return deleted


def _index(config: ElasticsearchConfig, one: Folded) -> str:
    start = datetime.datetime.fromtimestamp(one.window_start_ms / 1000, datetime.UTC)
    return index_name(config, "summaries", f"{start:%Y.%m}")


def _earlier(one: Folded) -> dict[str, Any]:
    lowest = one.version & ~SEEN_MASK
    return {
        "bool": {
            "filter": [
                {"term": {"advertiser_id": one.advertiser_id}},
                {"term": {"window_start": one.window_start_ms}},
                {"term": {"window_seconds": one.window_seconds}},
                {"range": {"version": {"gte": lowest, "lt": one.version}}},
            ]
        }
    }


def _delete(hit: dict[str, Any], versions: dict[tuple[Any, ...], int]) -> Document:
    advertiser, start_ms, seconds = (hit["fields"][one["field"]][0] for one in _FIELDS)
    version = versions[advertiser, int(start_ms), seconds]
    return Document.made("delete", address(hit), version, version_type="external")
