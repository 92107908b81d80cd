"""The event log as a place: which of its files hold which hours."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from adtally.io.files import join, list_paths
from adtally.io.logs import LogFile, NoInput, list_files

HOUR_MS: Final = 3_600_000
STREAM_PREFIX: Final = "stream-"
"""Files of the log that a stream wrote begin so."""
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


def newest_arrival_ms(output: str) -> int | None:
    """The latest ``arrived_at`` in an output's event log, from the footers of its newest files."""
    paths = list_paths(join(output, "events", "date=*", "hour=*", f"{STREAM_PREFIX}*.parquet"))
    by_date: dict[str, list[str]] = {}
    for path in paths:
        match = re.search(r"date=(\d{4}-\d{2}-\d{2})/", path)
        if match:
            by_date.setdefault(match[1], []).append(path)
    tomorrow = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).date().isoformat()
    newest: int | None = None
    for date in sorted(by_date, reverse=True):
        for at in _arrivals(by_date[date]):
            newest = at if newest is None else max(newest, at)
        if newest is not None and date < tomorrow and date < _date(newest):
            break  # files of earlier dates hold events that arrived before
    return newest


def _arrivals(paths: list[str]) -> Iterator[int]:
    for path in paths:
        with FileSystems.open(path) as file:
            footer = pq.ParquetFile(file).metadata
        names = footer.schema.names
        if "arrived_at" not in names:
            continue
        column = names.index("arrived_at")
        for group in range(footer.num_row_groups):
            statistics = footer.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max:
                yield round(pa.scalar(statistics.max).as_py().timestamp() * 1000)


def _date(ms: int) -> str:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).date().isoformat()
