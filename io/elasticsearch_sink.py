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
from apache_beam.utils.windowed_value import WindowedValue
from elasticsearch import Elasticsearch

from adtally.io import schema
from adtally.io.arrow import tag
from adtally.io.dead_letters import DeadLetter
from adtally.io.elasticsearch import KINDS, check_templates
from adtally.io.elasticsearch_bulk import BulkCounts, BulkWriter, Document, Refused
from adtally.io.elasticsearch_client import ElasticsearchConfig, connect, index_name
from adtally.io.elasticsearch_folded import Folded, delete_folded, folded_in
from adtally.io.objects import Storing
from adtally.io.sources import NAMESPACE

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S%.3fZ"
ROWS_AT_A_TIME: Final = 10_000
"""Rows made into documents at a time: some 5 MB of JSON, whatever the table's size."""


@dataclass
class WriteToElasticsearch(beam.PTransform):
    """Write tables of summaries or flags as documents; gives a collection of dead letters.

    Guarantee: effectively once. ``_id`` follows from the row's identity and its version is
    external, so retries are no-ops and an older state never undoes a newer one. No bundle ends
    before all of it is written; documents that the index refuses for good are dead letters, in
    the window and at the time of the table they come from. Documents of rows that a table folds
    into one, of an earlier pane, are deleted in the same bundle.

    Rows of the small tables of a bundle share requests. A cluster that is away is waited for, up
    to ``config.retry_seconds``. Raises what :class:`~adtally.io.elasticsearch_bulk.BulkWriter`
    raises, and ``TemplatesMissing`` before the first document.

    Attributes:
        config: how to reach the cluster; holds no secret.
        kind: ``summaries`` (``schema.summary_schema``), ``flags`` (``schema.FLAG_SCHEMA``),
            ``verdicts`` (``schema.verdict_schema``) or ``anomalies`` (``ANOMALY_SCHEMA``).
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


class _WriteDocuments(Storing):
    def __init__(self, config: ElasticsearchConfig, kind: str) -> None:
        self._config = config
        self._kind = kind
        self._checked = False
        self._client: Elasticsearch | None = None

    def setup(self) -> None:
        self._client = connect(self._config)
        self._writer = BulkWriter(self._client, self._config)
        names = ("written", "superseded", "dead", "folded")
        self._count = {name: Metrics.counter(NAMESPACE, f"documents_{name}") for name in names}
        self._requests = Metrics.counter(NAMESPACE, "bulk_requests")
        self._retries = Metrics.counter(NAMESPACE, "bulk_retries")
        self._milliseconds = Metrics.distribution(NAMESPACE, "bulk_milliseconds")

    def start_bundle(self) -> None:
        self._folded: set[Folded] = set()
        self._clear()

    def _clear(self) -> None:
        self._waiting: list[Document] = []
        self._waiting_bytes = 0
        self._origin: dict[int, tuple[Any, Any]] = {}

    def process(
        self,
        table: pa.Table | pa.RecordBatch,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[Any]:
        if not self._checked:
            self._writer.when_up(lambda: check_templates(self._writer.client, self._config))
            self._checked = True
        if self._kind == "summaries":
            self._folded |= folded_in(table)
        for start in range(0, table.num_rows, ROWS_AT_A_TIME):
            rows = table.slice(start, ROWS_AT_A_TIME)
            now_ms = round(time.time() * 1000)
            for document in documents(rows, self._kind, self._config, now_ms):
                self._waiting.append(document)
                self._waiting_bytes += document.size
                self._origin[id(document)] = (timestamp, window)
            if self._waiting_bytes >= self._config.batch_bytes:
                yield from self._write()

    def finish_bundle(self) -> Iterator[Any]:
        yield from self._write()
        if self._folded:
            deleted = delete_folded(self._writer, self._config, self._folded)
            self._count["folded"].inc(deleted)
            self._report(0)

    def _write(self) -> list[WindowedValue]:
        refused = self._writer.write(self._waiting)
        now_ms = round(time.time() * 1000)
        letters = []
        for item in refused:
            timestamp, window = self._origin[id(item.document)]
            letters.append(WindowedValue(dead_letter(item, now_ms), timestamp, (window,)))
        self._report(len(refused))
        self._clear()
        return letters

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
        if self._client is not None:
            self._client.close()


def documents(
    table: pa.Table | pa.RecordBatch, kind: str, config: ElasticsearchConfig, now_ms: int
) -> list[Document]:
    """Rows as documents, with ``updated_at`` and, if the table has it, its pane added.

    Times are RFC 3339 in UTC, to the ms. ``pane_timing`` is ``early``, ``on_time`` or ``late``.

    Args:
        table: or record batch, with the schema of its kind.
        kind: ``summaries``, ``flags``, ``verdicts`` or ``anomalies``.
        config: names the indices.
        now_ms: ``updated_at``, milliseconds since the epoch.
    """
    frame = pl.DataFrame(pl.from_arrow(table.replace_schema_metadata(None)))
    starts = frame["window_start"]
    months = starts.dt.strftime("%Y.%m").to_list()
    start_ms = starts.dt.epoch("ms").to_list()
    times = pl.selectors.datetime()
    updated_at = pl.select(pl.from_epoch(pl.lit(now_ms), "ms").dt.strftime(TIME_FORMAT)).item()
    dimensions: list[str] = [name for name in schema.DIMENSIONS if name in frame.columns]
    shown = frame.with_columns(times.dt.strftime(TIME_FORMAT))
    encode = msgspec.json.Encoder().encode
    tags = table.schema.metadata or {}
    pane: dict[str, Any] = {}
    if b"adtally.pane_timing" in tags:
        pane = {"pane_timing": tag(table, "pane_timing")}
        pane["pane_index"] = int(tag(table, "pane_index"))
    made = []
    for row, month, start in zip(shown.iter_rows(named=True), months, start_ms, strict=True):
        row["updated_at"] = updated_at
        row |= pane
        identity = document_id(kind, row, dimensions, start)
        place = (index_name(config, kind, month), identity, row["advertiser_id"])
        made.append(Document.made("index", place, row["version"], encode(row)))
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
