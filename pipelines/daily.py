"""One advertiser's day, from the views of an output: what a report of it shows."""

from __future__ import annotations

import datetime
import time
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from adtally.io.logs import absolute
from adtally.io.manifest import read_manifest
from adtally.io.stored import Restriction
from adtally.io.views import quoted
from adtally.pipelines.backfill import LOG_LAG_MS
from adtally.pipelines.query import Query

EVENTS: Final = ("impressions", "clicks", "conversions")
TOP: Final = 10
"""Rows of the table by dimension."""

NAMED: Final = 20
"""Advertisers that an error names."""

_SUMS: Final = (
    *(f"{kind}{name}" for name in EVENTS for kind in ("", "givt_", "sivt_", "net_")),
    *(f"{kind}cost_micros" for kind in ("", "givt_", "sivt_", "net_")),
    "revenue_micros",
    "duplicates",
)
_FLAGS: Final = """
SELECT rule, ivt_class, subject_type, count(*) AS verdicts, count(DISTINCT subject) AS subjects,
    sum(count)::BIGINT AS events, min(threshold) AS threshold, min(seen) AS first_at, max(seen) AS last_at,
    list_sort(flatten(list(evidence)))[:3] AS evidence
FROM (
    SELECT rule, ivt_class, subject_type, subject, count, threshold, evidence, window_start AS seen
    FROM flags
    UNION ALL
    SELECT rule, ivt_class, subject_type, subject, count, threshold, evidence, flagged_at
    FROM look_back_flags
) GROUP BY ALL ORDER BY events DESC, rule
"""  # noqa: E501


class ReportError(ValueError):
    """There is nothing to report; the message says what there is."""


@dataclass(frozen=True)
class Day:
    """What happened to an advertiser on a day.

    Attributes:
        advertiser: whose.
        date: on the clocks of ``zone``.
        zone: IANA name.
        final_at: from when on nothing changes but by corrections.
        made_at: when this was read.
        hours: sums by (``start`` on the zone's clock, ``currency``), every measure.
        totals: sums by ``currency``.
        dimension: that ``top`` is by; empty where summaries have none.
        top: sums of its values with most clicks, by ``value`` and ``currency``.
        flags: verdicts by rule, without whom they are about.
        anomalies: of the day, by time.
        generations: corrections that rule some of it; 0 stands for first summaries.
    """

    advertiser: str
    date: datetime.date
    zone: str
    final_at: datetime.datetime
    made_at: datetime.datetime
    hours: list[dict[str, Any]]
    totals: list[dict[str, Any]]
    dimension: str
    top: list[dict[str, Any]]
    flags: list[dict[str, Any]]
    anomalies: list[dict[str, Any]]
    generations: list[int]

    @property
    def final(self) -> bool:
        """Whether all of it is."""
        return self.made_at >= self.final_at


def day(output: str, advertiser: str, date: datetime.date, zone: str = "UTC") -> Day:
    """Read a day.

    Args:
        output: address of an output.
        advertiser: exact id.
        date: of the zone's clock.
        zone: IANA name.

    Raises:
        ReportError: the advertiser has no summaries on that day.
        QueryError: there is no such output, or its windows do not fit into the zone's days.
        QueryFailed, OSError: it cannot be read.
    """
    start, end = bounds(date, zone)
    known = read_manifest(absolute(output).rstrip("/")) or {}
    seen = Restriction(start, end, (advertiser,))
    sums = ", ".join(f"sum({name})::BIGINT AS {name}" for name in _SUMS)
    with Query(output, seen) as asked:

        def rows(sql: str) -> list[dict[str, Any]]:
            return list(asked.ask(sql).read_all().to_pylist())

        by_hour = f"net_summaries_by('hour', zone := {quoted(zone)})"
        hours = rows(
            f"SELECT window_start AS start, currency, {sums} FROM {by_hour} "
            f"GROUP BY ALL ORDER BY ALL"
        )
        if not hours:
            raise ReportError(_nothing(output, advertiser, date, zone, start, end))
        base = f"net_summaries WHERE window_seconds = {known['window_seconds']}"
        totals = rows(f"SELECT currency, {sums} FROM {base} GROUP BY ALL ORDER BY clicks DESC, 1")
        dimension = next(iter(known["dimensions"]), "")
        top = rows(
            f"SELECT {dimension} AS value, currency, {sums} FROM {base} "
            f"GROUP BY ALL ORDER BY clicks DESC, impressions DESC, 1, 2 LIMIT {TOP}"
        ) if dimension else []  # fmt: skip
        flags = rows(_FLAGS)
        anomalies = rows("SELECT * EXCLUDE (evidence) FROM anomalies ORDER BY flagged_at, rule")
        generations = rows(f"SELECT DISTINCT generation FROM {base} ORDER BY 1")
    final_ms = end + known["allowed_lateness_seconds"] * 1000 + LOG_LAG_MS
    return Day(
        advertiser,
        date,
        zone,
        datetime.datetime.fromtimestamp(final_ms / 1000, datetime.UTC),
        datetime.datetime.fromtimestamp(round(time.time()), datetime.UTC),
        hours,
        totals,
        dimension,
        top,
        flags,
        anomalies,
        [row["generation"] for row in generations],
    )


def bounds(date: datetime.date, zone: str) -> tuple[int, int]:
    """The day's begin and end, milliseconds since the epoch; it may have 23 or 25 hours."""
    at = [
        datetime.datetime.combine(one, datetime.time(), zoneinfo.ZoneInfo(zone))
        for one in (date, date + datetime.timedelta(days=1))
    ]
    return round(at[0].timestamp() * 1000), round(at[1].timestamp() * 1000)


def _nothing(
    output: str, advertiser: str, date: datetime.date, zone: str, start: int, end: int
) -> str:
    with Query(output, Restriction(start, end)) as asked:
        names = asked.ask("SELECT DISTINCT advertiser_id FROM summaries ORDER BY 1").read_all()
    known: Sequence[str] = names["advertiser_id"].to_pylist()
    there = ", ".join(known[:NAMED]) + (f" and {len(known) - NAMED:,} more" * (len(known) > NAMED))
    told = f"advertisers on that day: {there}" if known else "nobody has, on that day"
    return f"{advertiser!r} has no summaries on {date} ({zone}); {told}."
