"""How fresh what is stored is: from listings, footers and a few searches, never from all rows."""

from __future__ import annotations

import datetime
import gzip
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from elasticsearch import Elasticsearch

from adtally.io.elasticsearch_client import ElasticsearchConfig
from adtally.io.files import find, join, list_paths, open_file, read_bytes
from adtally.io.schema import TIMESTAMP

_AT_ONCE: Final = 16
_DATE: Final = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/[^/._][^/]*$")


@dataclass(frozen=True)
class Fresh:
    """What the summaries of a place reach up to; milliseconds since the epoch, None for nothing.

    Times after the question are left out: a clock that is ahead says nothing of what is there.

    Attributes:
        event_ms: the newest event that a summary counts.
        window_ms: end of the newest base window that has ended.
        final_ms: end of the newest base window that can be trusted as final.
    """

    event_ms: int | None
    window_ms: int | None
    final_ms: int | None


def of_parquet(output: str, window_seconds: int, lateness_seconds: int, now_ms: int) -> Fresh:
    """From the summaries' footers, the newest dates first.

    Raises:
        OSError: they cannot be listed or read.
    """
    folder = join(output, "summaries", f"window={window_seconds}s")
    by_date: dict[str, list[str]] = {}
    for path in list_paths(join(folder, "**")):
        if match := _DATE.search(path):
            by_date.setdefault(match[1], []).append(path)
    today = _utc(now_ms).date().isoformat()
    dates = [by_date[date] for date in sorted(by_date, reverse=True) if date <= today]
    return Fresh(
        _newest(dates, "last_event_at", now_ms),
        _newest(dates, "window_end", now_ms),
        _newest(dates, "window_end", now_ms - lateness_seconds * 1000),
    )


def _newest(dates: Sequence[Sequence[str]], column: str, most_ms: int) -> int | None:
    for paths in dates:
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = threads.map(lambda path: _newest_of(path, column, most_ms), paths)
            known = [value for value in found if value is not None]
        if known:
            return max(known)
    return None


def _newest_of(path: str, column: str, most_ms: int) -> int | None:
    """The newest time of a column up to some time, from the footer where that tells."""
    newest: list[int] = []
    with open_file(path) as opened:
        file = pq.ParquetFile(opened)
        leaf = next(
            index
            for index in range(file.metadata.num_columns)
            if file.metadata.schema.column(index).path == column
        )
        for group in range(file.metadata.num_row_groups):
            told = file.metadata.row_group(group).column(leaf).statistics
            if told is not None and told.has_min_max:
                if _ms(told.min) > most_ms:
                    continue
                if _ms(told.max) <= most_ms:
                    newest.append(_ms(told.max))
                    continue
            values = file.read_row_group(group, columns=[column]).column(0).cast(TIMESTAMP)
            until = values.filter(pc.less_equal(values, pa.scalar(most_ms, TIMESTAMP)))
            if len(until):
                newest.append(_ms(pc.max(until).as_py()))
    return max(newest, default=None)


def of_elasticsearch(
    client: Elasticsearch, config: ElasticsearchConfig, window_seconds: int | None, now_ms: int
) -> Fresh:
    """From searches that anybody could make, sorted, one document each.

    Args:
        client: see :func:`adtally.io.elasticsearch_client.connect`.
        config: whose indices.
        window_seconds: the base window; None for the shortest that there is.
        now_ms: the time of the question.
    """

    def top(field: str, order: str, *filters: Mapping[str, Any]) -> int | None:
        found = client.search(
            index=config.index_pattern("summaries"),
            size=1,
            query={"bool": {"filter": list(filters)}},
            sort=[{field: {"order": order, "unmapped_type": "date"}}],
            source=False,
            allow_no_indices=True,
            ignore_unavailable=True,
        )
        hits = found["hits"]["hits"]
        return int(hits[0]["sort"][0]) if hits else None

    window = window_seconds or top("window_seconds", "asc")
    base = {"term": {"window_seconds": window or 0}}

    def until(field: str) -> dict[str, Any]:
        return {"range": {field: {"lte": now_ms, "format": "epoch_millis"}}}

    return Fresh(
        top("last_event_at", "desc", base, until("last_event_at")),
        top("window_end", "desc", base, until("window_end")),
        top("window_end", "desc", base, until("final_after")),
    )


def written_rows(output: str, kind: str, since_ms: int) -> int:
    """Rows of ``late`` or ``dead-letters`` in files that were written since then.

    Raises:
        OSError: they cannot be listed or read.
    """
    recent = [
        entry.path
        for entry in find(join(output, kind, "**"))
        if _DATE.search(entry.path) and entry.updated * 1000 >= since_ms
    ]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return sum(threads.map(_rows, recent))


def _rows(path: str) -> int:
    if path.endswith(".jsonl.gz"):
        return gzip.decompress(read_bytes(path)).count(b"\n")
    with open_file(path) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _ms(at: datetime.datetime) -> int:
    aware = at if at.tzinfo else at.replace(tzinfo=datetime.UTC)
    return round(aware.timestamp() * 1000)


def _utc(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
