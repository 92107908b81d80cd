"""The event log as a place: which of its files hold which hours."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from adtally.io.arrow import has_tag, tag
from adtally.io.files import join, list_paths, open_file
from adtally.io.logs import LogFile, NoInput, list_files

HOUR_MS: Final = 3_600_000
STREAM_PREFIX: Final = "stream-"
"""Files of the log that a stream wrote begin so."""

LAG_MS: Final = 2 * 24 * HOUR_MS
"""A shard may be this far behind another one and is still found; Kinesis keeps a day by default."""

_ARRIVALS: Final = "adtally.arrivals"
_SHARD: Final = r"^(kinesis://.*/shardId-[0-9]+)/"

_FOOTERS_AT_ONCE: Final = 16
_PARTITION = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/hour=(\d{2})/[^/]*$")


def hour_of(path: str) -> int:
    """Start of the hour that a file of the log holds, in milliseconds.

    Raises:
        ValueError: the path is in no partition of a log.
    """
    match = _PARTITION.search(path)
    if match is None:
        raise ValueError(f"{path} lies in an event log but in no date=/hour= folder; move it.")
    at = datetime.datetime.fromisoformat(f"{match[1]}T{match[2]}:00:00+00:00")
    return round(at.timestamp() * 1000)


def files_in(output: str, ranges: Sequence[tuple[int, int]]) -> list[LogFile]:
    """Files of an output's event log whose hour touches one of the ranges (milliseconds).

    Raises:
        NoInput: there are none.
    """
    files, _ = list_files([join(output, "events") + "/"])
    inside = [
        file
        for file in files
        if any(
            start < hour_of(file.path) + HOUR_MS and hour_of(file.path) < end
            for start, end in ranges
        )
    ]
    if not inside:
        raise NoInput(f"the event log of {output} has nothing in the range to be tallied.")
    return inside


def reached_by_readers(tables: Sequence[pa.Table]) -> dict[str, int]:
    """How far sources without order had come, by what they tagged their tables with.

    Args:
        tables: that were collected for a file, of one reader in the order of its watermarks.

    Returns:
        The newest watermark (milliseconds) of each reader.
    """
    reached: dict[str, int] = {}
    for table in tables:
        if has_tag(table, "watermark"):
            reader = tag(table, "block")
            reached[reader] = max(reached.get(reader, 0), int(tag(table, "watermark")))
    return {reader: at for reader, at in reached.items() if at}


def arrival_notes(events: pa.Table, reached: Mapping[str, int] | None = None) -> dict[str, str]:
    """How far a stream was read, for the footer of its file.

    That is the newest arrival of each shard, which is read in order of arrival.

    Args:
        events: that the file holds.
        reached: likewise of other readers, see :func:`reached_by_readers`.
    """
    found = (
        pl.DataFrame(pl.from_arrow(events.select(["source", "arrived_at"])))
        .drop_nulls("arrived_at")
        .group_by(pl.col("source").str.extract(_SHARD).alias("shard"))
        .agg(pl.col("arrived_at").dt.epoch("ms").max())
        .drop_nulls("shard")
        .sort("shard")
    )
    return {_ARRIVALS: json.dumps({**dict(found.iter_rows()), **(reached or {})})}


def is_streamed(output: str) -> bool:
    """Whether a stream has written into an output's event log."""
    return any(_streamed(output))


def reached_ms(output: str) -> int | None:
    """The arrival that every shard was read up to when the log was last written.

    That is the oldest of the newest arrivals of the shards. An idle shard is taken for one that
    lags, as the log does not tell them apart: reading again costs time, leaving out costs events.
    Shards that arrived nothing for ``LAG_MS`` before the newest are taken for gone.

    Returns:
        Milliseconds since the epoch, or None where no stream has written.
    """
    by_date: dict[str, list[str]] = {}
    for path in _streamed(output):
        match = _PARTITION.search(path)
        if match:
            by_date.setdefault(match[1], []).append(path)
    newest: dict[str, int] = {}
    for date in sorted(by_date, reverse=True):
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as threads:
            for arrivals in threads.map(_arrivals, by_date[date]):
                for shard, at in arrivals.items():
                    newest[shard] = max(at, newest.get(shard, at))
        if newest and date < _date(max(newest.values()) - LAG_MS):
            break  # files of earlier dates hold events that arrived before
    if not newest:
        return None
    return min(at for at in newest.values() if at >= max(newest.values()) - LAG_MS)


def _streamed(output: str) -> list[str]:
    return list_paths(join(output, "events", "date=*", "hour=*", f"{STREAM_PREFIX}*.parquet"))


def _arrivals(path: str) -> dict[str, int]:
    with open_file(path) as file:
        noted = pq.ParquetFile(file).metadata.metadata or {}
    return dict(json.loads(noted.get(_ARRIVALS.encode(), b"{}")))


def _date(ms: int) -> str:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).date().isoformat()
