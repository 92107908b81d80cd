"""What only an output has: its settings, events, late ones, dead letters and corrections."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Final, Generic, NamedTuple, TypeVar

import polars as pl
import pyarrow.parquet as pq

from adtally.io.files import find, join, list_paths, open_file
from adtally.io.logs import absolute
from adtally.io.manifest import read_manifest
from adtally.io.schema import DIMENSIONS
from adtally.io.views import quoted
from adtally.pipelines.dashboard.reader import Row
from adtally.pipelines.dashboard.stored import opened, read
from adtally.pipelines.dashboard.view import DAY_MS, HOUR_MS, Correction, View, utc
from adtally.pipelines.job import ConfigError

MOST_EVENTS: Final = 200
MOST_SAMPLES: Final = 3
FRESH_SECONDS: Final = 10.0
"""How long what is costly to find out is shown again: listings of many files."""

_AT_ONCE: Final = 16
_DATE: Final = re.compile(r"/date=(\d{4}-\d{2}-\d{2})/[^/._][^/]*\.parquet$")
_SUBJECTS: Final = {"ip": "ip", "user": "user_id", "publisher": "publisher_id"}
"""Columns of the log that subjects are of; an advertiser and a series are about all events."""

_LATE: Final = ["source", "position", "record_index", "advertiser_id", "event_type", "occurred_at"]
_SHOWN: Final = (
    "occurred_at, received_at, event_type, event_id, campaign_id, publisher_id, ip, user_id, "
    "user_agent, url, country, cost_micros, revenue_micros, currency, ivt_reasons, late"
)

Value = TypeVar("Value")


class Cached(Generic[Value]):
    """A value that is found out again when it is asked for and old; of one caller at a time."""

    def __init__(self, find_out: Callable[[], Value], seconds: float = FRESH_SECONDS) -> None:
        self._find_out = find_out
        self._seconds = seconds
        self._lock = Lock()
        self._known: tuple[float, Value] | None = None

    def __call__(self) -> Value:
        with self._lock:
            if self._known is None or time.monotonic() - self._known[0] > self._seconds:
                value = self._find_out()
                self._known = (time.monotonic(), value)
            return self._known[1]


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
        with opened(self.address, view) as asked:
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
        listed = (
            match
            for entry in find(join(self.address, "late", "**"))
            if (match := _DATE.search(entry.path))
        )
        paths = [match.string for match in listed if match[1] in dates]
        if not paths:
            return []

        def rows(path: str) -> pl.DataFrame:
            with open_file(path) as file:
                table = pq.read_table(file, columns=_LATE)
            frame = pl.DataFrame(pl.from_arrow(table)).filter(
                pl.col("occurred_at").dt.epoch("ms").is_between(view.from_ms, view.to_ms - 1)
            )
            return (
                frame
                if view.advertisers is None
                else frame.filter(pl.col("advertiser_id").is_in(view.advertisers))
            )

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            late = pl.concat(threads.map(rows, paths)).unique()
        ms = pl.col("occurred_at").dt.epoch("ms") - view.from_ms
        start = (ms // view.step_ms * view.step_ms + view.from_ms).alias("start")
        return late.group_by(start).agg(pl.len().alias("events")).sort("start").to_dicts()


def at_work(view: View, start_ms: int, end_ms: int) -> View:
    """The same of another range, as one step."""
    return View(start_ms, end_ms, end_ms - start_ms, view.now_ms, view.advertisers)


def letters_view(now_ms: int, window_seconds: int, length_ms: int) -> View:
    """The last hours, whole base windows, the one that now is in too."""
    step = max(window_seconds * 1000, HOUR_MS)
    to_ms = -(-now_ms // step) * step
    return View(to_ms - -(-length_ms // step) * step, to_ms, step, now_ms)


def details(row: Row) -> dict[str, Any]:
    """What an event has, without what it has not."""
    return {name: value for name, value in row.items() if value not in (None, [], "")}
