"""``WriteToElasticsearch``: summaries and flags as documents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import msgspec
import polars as pl
import pyarrow as pa
import xxhash
from apache_beam.metrics import Metrics

from adtally.io import schema
from adtally.io.dead_letters import DeadLetter
from adtally.io.elasticsearch import KINDS, ElasticsearchConfig, check_templates, connect
from adtally.io.elasticsearch_bulk import BulkCounts, BulkWriter, Document, Refused
from adtally.io.sources import NAMESPACE

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S%.3fZ"
ROWS_AT_A_TIME: Final = 10_000
"""Rows made into documents at a time: some 5 MB of JSON, whatever the table's size."""


@dataclass
class WriteToElasticsearch(beam.PTransform):
    """Write tables of summaries or flags as documents; gives a collection of dead letters.

    Guarantee: effectively once. ``_id`` follows from the row's identity and its version is
    external, so retries are no-ops and an older state never undoes a newer one. Nothing counts as
    done before it is written; documents that the index refuses for good are dead letters.

    Attributes:
        config: how to reach the cluster; holds no secret.
        kind: ``summaries`` (``schema.summary_schema``) or ``flags`` (``schema.FLAG_SCHEMA``).
    """

    config: ElasticsearchConfig
    kind: str

    def __post_init__(self) -> None:
        super().__init__()
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {KINDS}; nothing would be mapped.")

    def expand(self, tables: Any) -> Any:
        return tables | "Write documents" >> beam.ParDo(
            _WriteDocuments(self.config, self.kind)
        ).with_output_types(DeadLetter)


class _WriteDocuments(beam.DoFn):
    def __init__(self, config: ElasticsearchConfig, kind: str) -> None:
        self._config = config
        self._kind = kind
        self._checked = False

    def setup(self) -> None:
        self._client = connect(self._config)
        self._writer = BulkWriter(self._client, self._config)
        names = ("written", "superseded", "dead")
        self._count = {name: Metrics.counter(NAMESPACE, f"documents_{name}") for name in names}
        self._requests = Metrics.counter(NAMESPACE, "bulk_requests")
        self._retries = Metrics.counter(NAMESPACE, "bulk_retries")
        self._milliseconds = Metrics.distribution(NAMESPACE, "bulk_milliseconds")

    def process(self, table: pa.Table) -> Iterator[DeadLetter]:
        if not self._checked:
            self._writer.when_up(lambda: check_templates(self._client, self._config))
            self._checked = True
        for start in range(0, table.num_rows, ROWS_AT_A_TIME):
            rows = table.slice(start, ROWS_AT_A_TIME)
            now_ms = round(time.time() * 1000)
            refused = self._writer.write(documents(rows, self._kind, self._config, now_ms))
            yield from (dead_letter(item, now_ms) for item in refused)
            self._report(len(refused))

    def _report(self, dead: int) -> None:
        counts, self._writer.counts = self._writer.counts, BulkCounts()
        self._count["written"].inc(counts.written)
        self._count["superseded"].inc(counts.superseded)
        self._count["dead"].inc(dead)
        self._requests.inc(counts.requests)
        self._retries.inc(counts.retries)
        for milliseconds in counts.milliseconds:
            self._milliseconds.update(milliseconds)

    def teardown(self) -> None:
        self._client.close()


def documents(
    table: pa.Table, kind: str, config: ElasticsearchConfig, now_ms: int
) -> list[Document]:
    """Rows as documents, with ``updated_at`` added; times are RFC 3339 in UTC, to the ms."""
    frame = pl.DataFrame(pl.from_arrow(table.replace_schema_metadata(None)))
    starts = frame["window_start"]
    months = starts.dt.strftime("%Y.%m").to_list()
    start_ms = starts.dt.epoch("ms").to_list()
    times = pl.selectors.datetime()
    updated_at = pl.select(pl.from_epoch(pl.lit(now_ms), "ms").dt.strftime(TIME_FORMAT)).item()
    dimensions: list[str] = [name for name in schema.DIMENSIONS if name in frame.columns]
    shown = frame.with_columns(times.dt.strftime(TIME_FORMAT))
    encode = msgspec.json.Encoder().encode
    made = []
    for row, month, start in zip(shown.iter_rows(named=True), months, start_ms, strict=True):
        row["updated_at"] = updated_at
        index = f"{config.index_prefix}-{kind}-{month}"
        identity = document_id(kind, row, dimensions, start)
        action = {
            "index": {
                "_index": index,
                "_id": identity,
                "routing": row["advertiser_id"],
                "version": row["version"],
                "version_type": "external_gte",
            }
        }
        made.append(
            Document(
                index, identity, row["advertiser_id"], row["version"], encode(action), encode(row)
            )
        )
    return made


def document_id(kind: str, row: dict[str, Any], dimensions: list[str], start_ms: int) -> str:
    """128-bit hash of what a row is about: the same row has the same ``_id`` in every run."""
    identity: list[Any] = [row["advertiser_id"], row["window_seconds"], start_ms]
    if kind == "summaries":
        identity += [row["currency"], {name: row[name] for name in dimensions}]
    return xxhash.xxh3_128_hexdigest(msgspec.json.encode(identity))


def dead_letter(refused: Refused, now_ms: int) -> DeadLetter:
    """A refused document with the server's reason."""
    document = refused.document
    return DeadLetter.of(
        failed_at=now_ms,
        stage="elasticsearch",
        error_type=refused.error_type,
        message=f"{refused.reason}; the document is not searchable. Correct the index or its "
        f"template, then tally the window again.",
        source=document.index,
        position=document.id,
        payload=document.body,
    )
