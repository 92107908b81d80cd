"""What only an output has: its settings, events, late ones, dead letters and corrections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Final, NamedTuple

import polars as pl
import pyarrow.parquet as pq

from adtally.io.files import find, join, list_paths, open_file
from adtally.io.logs import absolute
from adtally.io.manifest import read_manifest
from adtally.io.objects import Entry
from adtally.io.schema import DIMENSIONS
from adtally.io.views import quoted
from adtally.pipelines.dashboard.cached import Cached
from adtally.pipelines.dashboard.reader import Row
from adtally.pipelines.dashboard.stored import opened, read
from adtally.pipelines.dashboard.view import DAY_MS, Correction, View, utc
from adtally.pipelines.job import ConfigError

MOST_EVENTS: Final = 200
MOST_SAMPLES: Final = 3
LATE_ROWS_KEPT: Final = 2_000_000
"""Of files of late events that were read, which do not change: some 50 bytes each."""
_AT_ONCE: Final = 16
_DATE: Final = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/[^/._][^/]*\.parquet$")
_SUBJECTS: Final = {"ip": "ip", "user": "user_id", "publisher": "publisher_id"}
"""Columns of the log that subjects are of; an advertiser and a series are about all events."""

_LATE: Final = ["source", "position", "record_index", "advertiser_id", "event_type", "occurred_at"]
_SHOWN: Final = (
    "occurred_at, received_at, event_type, event_id, campaign_id, publisher_id, ip, user_id, "
    "user_agent, url, country, cost_micros, revenue_micros, currency, ivt_reasons, late"
)


class Evidence(NamedTuple):
    """Events behind a verdict.

    Attributes:
        events: those that the verdict names, and others of its subject in the same window.
        of_subject: how many the subject has in that window.
        missing: named, and not in the log.
    """

    events: list[Row]
    of_subject: int
    missing: list[str]


class Log:
    """An output.

    Args:
        address: of it.

    Raises:
        ConfigError: it is none.
    """

    def __init__(self, address: str) -> None:
        self.address = absolute(address).rstrip("/")
        known = read_manifest(self.address)
        if known is None:
            raise ConfigError(
                f"{self.address} is no output of adtally (no adtally.json); correct --output."
            )
        self.window_seconds: int = known["window_seconds"]
        self.lateness_seconds: int = known["allowed_lateness_seconds"]
        self.dimensions: tuple[str, ...] = tuple(
            name for name in DIMENSIONS if name in known["dimensions"]
        )
        self._lock = Lock()
        self._letters_lock = Lock()
        self._late: dict[tuple[Any, ...], pl.DataFrame] = {}
        self.corrections: Cached[list[Correction]] = Cached(self._corrections)

    def _corrections(self) -> list[Correction]:
        paths = list_paths(join(self.address, "generations", "generation=*.parquet"))
        rows: list[Correction] = []
        for path in paths:
            with open_file(path) as file:
                for row in pq.read_table(file).to_pylist():
                    times = (row["range_from"], row["range_to"], row["committed_at"])
                    rows.append(
                        Correction(
                            row["generation"], *(round(at.timestamp() * 1000) for at in times)
                        )
                    )
        return sorted(rows)

    def corrected(self, view: View) -> list[Row]:
        """What generations made of the range: of each ``rows``, ``clicks``, ``net_clicks`` and
        ``windows``, with the ranges that were tallied again and ``committed_ms``; only of ranges
        that a later generation than the first has."""
        known: dict[int, list[Correction]] = {}
        for one in self.corrections():
            if one.from_ms < view.to_ms and one.to_ms > view.from_ms:
                known.setdefault(one.generation, []).append(one)
        if not known:
            return []
        identity = ", ".join(("window_start", "advertiser_id", *self.dimensions, "currency"))
        with opened(self.address, view) as asked:
            rows = read(
                asked,
                f"SELECT generation, count(DISTINCT window_start) AS windows, "
                f"sum(impressions)::BIGINT AS impressions, sum(clicks)::BIGINT AS clicks, "
                f"sum(conversions)::BIGINT AS conversions FROM ("
                f"FROM stored.summaries WHERE window_seconds = {self.window_seconds} QUALIFY "
                f"row_number() OVER (PARTITION BY {identity}, generation ORDER BY version DESC) = 1"
                f") GROUP BY ALL ORDER BY generation",
            )
        stored = {row["generation"]: row for row in rows}
        nothing = {"windows": 0, "impressions": 0, "clicks": 0, "conversions": 0}
        return [
            {
                "generation": number,
                "ranges": [(one.from_ms, one.to_ms) for one in known.get(number, ())],
                "committed_ms": max(
                    (one.committed_ms for one in known.get(number, ())), default=None
                ),
                **{name: stored.get(number, nothing)[name] for name in nothing},
            }
            for number in sorted(stored.keys() | known.keys())
        ]

    def evidence(
        self, view: View, subject_type: str, subject: str, named: Sequence[str]
    ) -> Evidence:
        """Events of a verdict, those that it names first.

        Args:
            view: of the verdict's window and advertiser alone.
            subject_type: as the verdict says.
            subject: likewise.
            named: ids of events that the verdict gives as its sample.

        Raises:
            Unreachable: the log cannot be read.
        """
        column = _SUBJECTS.get(subject_type)
        of_subject = f"{column} = {quoted(subject)}" if column else "true"
        ids = ", ".join(map(quoted, named))
        is_named = f"event_id IN ({ids})" if ids else "false"
        with opened(self.address, view) as asked:
            events = read(
                asked,
                f"SELECT {_SHOWN}, {is_named} AS named FROM events "
                f"WHERE {is_named} OR {of_subject} "
                f"ORDER BY named DESC, occurred_at, event_id LIMIT {MOST_EVENTS}",
            )
            found = read(asked, f"SELECT count(*) AS n FROM events WHERE {of_subject}")[0]["n"]
        there = {row["event_id"] for row in events}
        return Evidence(events, found, [one for one in named if one not in there])

    def dead_letters(self, view: View) -> list[Row]:
        """By ``stage`` and ``error_type``: ``letters``, ``first_at``, ``last_at``, ``samples``.

        Raises:
            Unreachable: they cannot be read.
        """
        # DuckDB sets aside 2 GiB to read JSON, whatever there is: for one visitor at a time.
        with self._letters_lock, opened(self.address, view, None) as asked:
            return read(
                asked,
                f"SELECT stage, error_type, count(*) AS letters, min(failed_at) AS first_at, "
                f"max(failed_at) AS last_at, list({{message: message, source: source, "
                f"position: position, payload: payload[:2000], encoding: payload_encoding}} "
                f"ORDER BY failed_at DESC, source, position)[:{MOST_SAMPLES}] AS samples "
                f"FROM dead_letters GROUP BY ALL ORDER BY letters DESC, stage, error_type",
            )

    def late(self, view: View) -> list[Row]:
        """Events that were too late for their summaries, by ``start`` (ms) of a step, in order.

        Raises:
            OSError: they cannot be read.
        """
        days = range(view.from_ms // DAY_MS, (view.to_ms - 1) // DAY_MS + 1)
        dates = {f"{utc(day * DAY_MS):%Y-%m-%d}" for day in days}
        entries = [
            entry
            for entry in find(join(self.address, "late", "**"))
            if (match := _DATE.search(entry.path)) and match[1] in dates
        ]
        if not entries:
            return []

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            late = pl.concat(threads.map(self._late_rows, entries)).unique()
        late = late.filter(pl.col("ms").is_between(view.from_ms, view.to_ms - 1))
        if view.advertisers is not None:
            late = late.filter(pl.col("advertiser_id").is_in(view.advertisers))
        start = (pl.col("ms") - view.from_ms) // view.step_ms * view.step_ms + view.from_ms
        counted = late.group_by(start.alias("start")).agg(pl.len().alias("events"))
        return counted.sort("start").to_dicts()

    def _late_rows(self, entry: Entry) -> pl.DataFrame:
        """Of a file: whose events they are, when (``ms``), and what tells copies apart."""
        key = (entry.path, entry.size, entry.updated)
        with self._lock:
            known = self._late.get(key)
        if known is not None:
            return known
        with open_file(entry.path) as file:
            table = pq.read_table(file, columns=_LATE)
        frame = pl.DataFrame(pl.from_arrow(table)).select(
            "advertiser_id",
            ms=pl.col("occurred_at").dt.epoch("ms"),
            copy=pl.struct("source", "position", "record_index", "event_type").hash(),
        )
        with self._lock:
            if sum(one.height for one in self._late.values()) + frame.height > LATE_ROWS_KEPT:
                self._late.clear()
            self._late[key] = frame
        return frame
