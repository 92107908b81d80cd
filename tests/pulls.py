"""Documents for pulls, and a comparison of databases with Elasticsearch that shares no code with
them."""

from __future__ import annotations

import datetime
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from elasticsearch import Elasticsearch

from adtally.io import elasticsearch as es
from adtally.io import schema
from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_sink import documents
from adtally.io.pull_databases import Databases
from adtally.io.pull_shards import Selection
from adtally.io.pull_source import Source
from adtally.pipelines.pull import Puller
from adtally.pipelines.pull_roster import Plan, Totals

START_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z
MINUTE_MS = 60_000
PARENTS = {
    "summaries": ("summaries", {}),
    "flags": ("flag_windows", {"flags": "flags"}),
    "verdicts": ("verdict_hours", {"flags": "look_back_flags", "adjustments": "adjustments"}),
    "anomalies": ("anomaly_hours", {"flags": "anomalies"}),
}


class Written:
    """Writes documents as the sink does, below an index prefix of its own."""

    def __init__(self, url: str) -> None:
        self.config = es.ElasticsearchConfig((url,), f"p{uuid.uuid4().hex[:10]}", retry_seconds=20)
        self.client: Elasticsearch = es.connect(self.config)
        es.install_templates(self.client, self.config)
        self._writer = BulkWriter(self.client, self.config)

    def write(self, kind: str, table: pa.Table) -> None:
        now_ms = round(time.time() * 1000)
        assert not self._writer.write(documents(table, kind, self.config, now_ms))

    def delete(self, **matching: Any) -> int:
        """Delete documents of all kinds, by exact values; gives how many."""
        self.client.indices.refresh(index=f"{self.config.index_prefix}-*")
        query = {"bool": {"filter": [{"term": {name: x}} for name, x in matching.items()]}}
        hits = self.client.search(
            index=f"{self.config.index_prefix}-*", query=query, size=10_000, source=False
        )["hits"]["hits"]
        for hit in hits:
            self.client.delete(index=hit["_index"], id=hit["_id"], routing=hit["_routing"])
        return len(hits)

    def close(self) -> None:
        found = self.client.indices.get(index=f"{self.config.index_prefix}-*")
        if found:
            self.client.indices.delete(index=list(found))
        self.client.close()

    def pull(
        self,
        databases: Databases,
        advertisers: Sequence[str] | None = None,
        selection: Selection | None = None,
        **plan: Any,
    ) -> Totals:
        source = Source(self.config, selection or Selection())
        named = None if advertisers is None else tuple(advertisers)
        puller = Puller(source, Plan(databases, named, **plan))
        try:
            return puller.once()
        finally:
            puller.close()
            source.close()

    def documents(self, kind: str, advertiser: str) -> dict[str, dict[str, Any]]:
        """What Elasticsearch has, by ``_id``."""
        index = f"{self.config.index_prefix}-{kind}-*"
        self.client.indices.refresh(index=index)
        hits = self.client.search(
            index=index, query={"term": {"advertiser_id": advertiser}}, size=10_000
        )["hits"]["hits"]
        return {hit["_id"]: hit["_source"] for hit in hits}


def summaries(
    advertiser: str,
    minutes: Sequence[int],
    *,
    seen: int = 1,
    generation: int = 0,
    campaigns: Sequence[str | None] = ("a", None),
    currency: str = "EUR",
) -> pa.Table:
    """A row a minute and campaign; ``seen`` events each, which all measures follow from."""
    made = []
    for minute in minutes:
        start = START_MS + minute * MINUTE_MS
        for place, campaign in enumerate(campaigns):
            row: dict[str, Any] = {m: seen * (k + 1) + place for k, m in enumerate(schema.MEASURES)}
            row |= dict.fromkeys(schema.DIMENSIONS) | {"campaign_id": campaign}
            row |= {"window_start": start, "window_end": start + MINUTE_MS, "window_seconds": 60}
            row |= {"advertiser_id": advertiser, "currency": currency, "unique_users": seen}
            row |= {"unique_user_hashes": [seen, minute], "first_event_at": start + 1}
            row |= {"last_event_at": start + seen, "final_after": start + 3_660_000}
            row |= {"generation": generation, "version": (generation << 40) + seen}
            made.append(row)
    return pa.Table.from_pylist(made, schema=schema.summary_schema(schema.DIMENSIONS))


def flag(subject: str) -> dict[str, Any]:
    return {
        "rule": "click_flood",
        "ivt_class": "GIVT",
        "subject_type": "ip",
        "subject": subject,
        "count": 60,
        "threshold": 50,
        "evidence": ["e-1", 'e"2'],
    }


def _window(advertiser: str, minute: int, seconds: int, seen: int) -> dict[str, Any]:
    start = START_MS + minute * MINUTE_MS
    return {
        "window_start": start,
        "window_end": start + seconds * 1000,
        "window_seconds": seconds,
        "advertiser_id": advertiser,
        "ruleset_version": "r1",
        "final_after": start + 3_660_000,
        "generation": 0,
        "version": seen,
    }


def flags(advertiser: str, minute: int, subjects: Sequence[str], seen: int = 1) -> pa.Table:
    row = _window(advertiser, minute, 60, seen) | {"flags": [flag(name) for name in subjects]}
    return pa.Table.from_pylist([row], schema=schema.FLAG_SCHEMA)


def verdicts(
    advertiser: str,
    hour: int,
    minute: int,
    clicks: int,
    seen: int = 1,
    campaigns: Sequence[str] = ("a",),
) -> pa.Table:
    """One flag, and an adjustment for each campaign, about a minute."""
    at = START_MS + minute * MINUTE_MS
    row = _window(advertiser, hour * 60, 3600, seen)
    row |= {"flags": [{"flagged_at": at, **flag("u")}], "adjustments": []}
    for campaign in campaigns:
        adjustment = dict.fromkeys(schema.DIMENSIONS) | dict.fromkeys(schema.ADJUSTED, 0)
        adjustment |= {"adjusted_at": at, "campaign_id": campaign, "currency": "EUR"}
        row["adjustments"].append(adjustment | {"sivt_clicks": clicks})
    return pa.Table.from_pylist([row], schema=schema.verdict_schema(schema.DIMENSIONS))


def anomalies(advertiser: str, hour: int, minute: int, seen: int = 1) -> pa.Table:
    at = START_MS + minute * MINUTE_MS
    row = _window(advertiser, hour * 60, 3600, seen)
    row |= {"flags": [{"flagged_at": at, **flag("clicks")}]}
    return pa.Table.from_pylist([row], schema=schema.ANOMALY_SCHEMA)


def differences(written: Written, url: str, advertiser: str, pg_schema: str = "") -> Iterator[str]:
    """Where a database and Elasticsearch differ, row by row and value by value."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        if pg_schema:
            connection.exec_driver_sql(f'SET search_path TO "{pg_schema}"')
        for kind, (table, lists) in PARENTS.items():
            there = written.documents(kind, advertiser)
            select = sa.text(f"SELECT * FROM {table} WHERE advertiser_id = :a")
            rows = connection.execute(select, {"a": advertiser}).mappings()
            here = {row["doc_id"]: {k: plain(v) for k, v in row.items()} for row in rows}
            for name, child in lists.items():
                of = f"(SELECT doc_id FROM {table} WHERE advertiser_id = :a)"
                select = sa.text(
                    f"SELECT * FROM {child} WHERE doc_id IN {of} ORDER BY doc_id, position"
                )
                for row in here.values():
                    row[name] = []
                for found in connection.execute(select, {"a": advertiser}).mappings():
                    element = {k: plain(v) for k, v in found.items()}
                    if "evidence" in element:
                        element["evidence"] = json.loads(element["evidence"])
                    here[element["doc_id"]][name].append(element)
            if there.keys() != here.keys():
                yield f"{kind}: {len(there)} documents, {len(here)} rows"
            for doc_id in there.keys() & here.keys():
                yield from _unlike(f"{kind} {doc_id}", there[doc_id], here[doc_id])
    engine.dispose()


def _unlike(where: str, document: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    for name, value in document.items():
        if name == "unique_user_hashes":
            continue
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            if len(value) != len(row[name]):
                yield f"{where}: {len(value)} {name}, {len(row[name])} rows"
            for item, inner in zip(value, row[name], strict=False):
                yield from _unlike(f"{where} {name}", item, inner)
        elif plain(value) != row[name]:
            yield f"{where}: {name} is {value!r}, the row has {row[name]!r}"


def plain(value: Any) -> Any:
    """Times as milliseconds, however they were written."""
    if isinstance(value, str) and len(value) >= 20 and value[4] == "-" and value[10] == "T":
        value = datetime.datetime.fromisoformat(value)
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    return value
