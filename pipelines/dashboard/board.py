"""What pages show, put together from the places that have it."""

from __future__ import annotations

import datetime
import math
import time
import zoneinfo
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from adtally.io.elasticsearch_client import ElasticsearchConfig
from adtally.io.schema import NO_CURRENCY
from adtally.pipelines.dashboard.cached import Cached
from adtally.pipelines.dashboard.charts import chart, spark
from adtally.pipelines.dashboard.elastic import ElasticReader
from adtally.pipelines.dashboard.log import Log
from adtally.pipelines.dashboard.reader import (
    CHARTED,
    EVENTS,
    MOST_ADVERTISERS,
    SUMS,
    Reader,
    Row,
)
from adtally.pipelines.dashboard.stored import StoredReader
from adtally.pipelines.dashboard.view import (
    DAY_MS,
    DEFAULT_RANGE,
    HOUR_MS,
    RANGES,
    View,
    ViewError,
    view_of,
)
from adtally.pipelines.status import Limits, Status, status

AT_ONCE: Final = 16
FRESH_TIMEOUT_SECONDS: Final = 5.0
MOST_OF_WINDOW: Final = 10_000
PAGE_ROWS: Final = 50
OVERVIEW_STEPS: Final = 36
SPARK_STEPS: Final = 24
_CLASSES: Final = ("givt", "sivt")
SORTS: Final = ("impressions", "clicks", "conversions", "invalid", "spend", "name")


@dataclass(frozen=True)
class Asked:
    """What an address asks for, checked.

    Attributes:
        range: a name of ``RANGES``.
        until_ms: end of the range; None for now.
        source: a name of a reader.
        advertisers: that the visitor may see; None for all.
        now_ms: when.
    """

    range: str
    until_ms: int | None
    source: str
    advertisers: tuple[str, ...] | None
    now_ms: int


@dataclass(frozen=True)
class Shown:
    """A view with what pages say about it.

    Attributes:
        view: the range.
        live: whether it is to end now.
        stale: whether it ends with the newest window instead, as nothing newer is counted.
    """

    view: View
    live: bool
    stale: bool


class Board:
    """Everything that pages show.

    Args:
        output: address of an output.
        elasticsearch: where its documents are; None for files alone.
        zone: of the clocks.

    Raises:
        ConfigError: there is no such output.
        ElasticsearchConfigError: the cluster cannot be asked like this.
    """

    def __init__(
        self,
        output: str,
        elasticsearch: ElasticsearchConfig | None,
        zone: zoneinfo.ZoneInfo,
    ) -> None:
        self.log = Log(output)
        self.zone = zone
        self._threads = ThreadPoolExecutor(AT_ONCE, "dashboard")
        self._patient = elasticsearch and replace(
            elasticsearch, request_timeout_seconds=FRESH_TIMEOUT_SECONDS
        )
        self.readers: dict[str, Reader] = {}
        if elasticsearch is not None:
            self.readers["elasticsearch"] = ElasticReader(
                elasticsearch, self.log.window_seconds, self.log.corrections
            )
        self.readers["parquet"] = StoredReader(self.log.address, self.log.window_seconds)
        self.fresh: Cached[tuple[Status | None, str]] = Cached(self._fresh)

    def _fresh(self) -> tuple[Status | None, str]:
        """How fresh everything is, or why nobody knows."""
        from elastic_transport import TransportError
        from elasticsearch import ApiError

        try:
            return status(self.log.address, self._patient, Limits()), ""
        except (ApiError, TransportError) as error:
            why = f"Elasticsearch cannot be asked how fresh it is ({type(error).__name__})."
            return status(self.log.address, None, Limits()), why
        except OSError as error:
            return None, f"{self.log.address} cannot be read: {error}"

    def shown(self, asked: Asked, most_steps: int) -> Shown:
        """The range that is asked for; where none is and nothing is so new, the newest day."""
        seconds = self.log.window_seconds
        length = RANGES[asked.range]
        view = view_of(seconds, asked.now_ms, length, asked.until_ms, most_steps)
        live, stale = asked.until_ms is None, False
        if live:
            newest = self._newest_ms(asked.source)
            if newest is not None and newest <= view.from_ms:
                view, stale = view_of(seconds, asked.now_ms, length, newest, most_steps), True
        if asked.advertisers is not None:
            view = view.of(*asked.advertisers)
        return Shown(view, live, stale)

    def default_range(self, source: str, now_ms: int) -> str:
        """Where nothing is new, a day; else hours."""
        newest = self._newest_ms(source)
        return "24h" if newest is not None and newest < now_ms - DAY_MS else DEFAULT_RANGE

    def _newest_ms(self, source: str) -> int | None:
        seen, _ = self.fresh()
        if seen is None:
            return None
        known = seen.places.get(source)
        return None if known is None else known.window_ms

    def overview(self, asked: Asked, search: str, sort: str, page: int) -> dict[str, Any]:
        """The page of all advertisers."""
        shown = self.shown(asked, OVERVIEW_STEPS)
        reader, view = self.readers[asked.source], shown.view
        listed, series, unusual = self._at_once(
            lambda: reader.advertisers(view),
            lambda: reader.series(view, CHARTED),
            lambda: reader.anomalies(view),
        )
        rows = _by_advertiser(listed, unusual)
        found = [row for row in rows if search.casefold() in row["advertiser_id"].casefold()]
        found.sort(key=lambda row: _order(row, sort))
        pages = max(1, math.ceil(len(found) / PAGE_ROWS))
        page = min(max(1, page), pages)
        some = found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
        if some:
            small = view_of(
                self.log.window_seconds,
                view.now_ms,
                view.to_ms - view.from_ms,
                view.to_ms,
                SPARK_STEPS,
            )
            lines = reader.sparks(small.of(*(row["advertiser_id"] for row in some)))
            for row in some:
                row["spark"] = spark(lines[row["advertiser_id"]])
        return {
            "shown": shown,
            "rows": some,
            "all": len(rows),
            "found": len(found),
            "capped": len(rows) >= MOST_ADVERTISERS,
            "page": page,
            "pages": pages,
            "totals": _totals(series),
            "charts": self._charts(series, view, ()),
            "anomalies": len(unusual),
        }

    def advertiser(self, asked: Asked, advertiser: str) -> dict[str, Any]:
        """The page of one advertiser."""
        shown = self.shown(asked, 96)
        reader, view = self.readers[asked.source], shown.view.of(advertiser)
        dimension = next(iter(self.log.dimensions), "")
        series, anomalies, verdicts, top, late, corrected = self._at_once(
            lambda: reader.series(view),
            lambda: reader.anomalies(view),
            lambda: reader.verdicts(view),
            lambda: reader.top(view, dimension) if dimension else [],
            lambda: self.log.late(view),
            lambda: self.log.corrected(view),
        )
        return {
            "shown": shown,
            "advertiser": advertiser,
            "totals": _totals(series),
            "invalid": {
                name: {kind: sum(row[f"{kind}_{name}"] for row in series) for kind in _CLASSES}
                for name in EVENTS
            },
            "charts": self._charts(series, view, anomalies),
            "provisional": any(not row["final"] for row in series),
            "dimension": dimension,
            "top": top,
            "verdicts": verdicts,
            "anomalies": anomalies,
            "late": late,
            "corrected": corrected,
        }

    def verdict(
        self, asked: Asked, advertiser: str, about: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The page of one verdict; None where there is none like it.

        Args:
            asked: by whom, of where.
            advertiser: whose.
            about: ``rule``, ``subject_type``, ``subject`` and ``start`` (ms) of its window.
        """
        start, window_ms = about["start"], self.log.window_seconds * 1000
        if start % window_ms or not 0 <= start < 4_102_444_800_000:
            raise ViewError("there is no such window.")
        view = View(start, start + window_ms, window_ms, asked.now_ms, (advertiser,))
        found = [
            row
            for row in self.readers[asked.source].verdicts(view, MOST_OF_WINDOW).newest
            if all(row[name] == about[name] for name in ("rule", "subject_type", "subject"))
        ]
        if not found:
            return None
        one = found[0]
        evidence = self.log.evidence(view, one["subject_type"], one["subject"], one["evidence"])
        return {"advertiser": advertiser, "verdict": one, "evidence": evidence}

    def health(self, asked: Asked) -> dict[str, Any]:
        """The page of what is stored: how fresh, and what did not get in."""
        seen, why = self.fresh()
        now = asked.now_ms
        length = max(RANGES[asked.range], HOUR_MS)
        seconds = self.log.window_seconds
        until = asked.until_ms if asked.until_ms is not None else now
        view = view_of(seconds, now, length, until)
        operator = asked.advertisers is None
        seen_by = view if operator else view.of(*asked.advertisers or ())
        return {
            "shown": Shown(view, asked.until_ms is None, stale=False),
            "status": seen,
            "why": why,
            "letters": self.log.dead_letters(view) if operator else None,
            "late": self.log.late(seen_by),
            "corrections": sorted(self.log.corrections(), reverse=True)[:100],
        }

    def warm(self) -> None:
        """Do once what is slow for the first time, so that no visitor waits for it."""
        empty = view_of(self.log.window_seconds, now_ms(), HOUR_MS)
        row = dict.fromkeys(SUMS, 1) | {"start": empty.from_ms, "currency": "", "final": True}
        chart([row], empty, "clicks", "", self.zone)
        self.fresh()

    def _at_once(self, *asked: Callable[[], Any]) -> list[Any]:
        """Answers to questions that do not wait for one another, in order."""
        return [one.result() for one in [self._threads.submit(ask) for ask in asked]]

    def _charts(self, series: Sequence[Row], view: View, anomalies: Sequence[Row]) -> list[Row]:
        drawn = []
        for measure, currency in _charted(series):
            name = "spend" if measure == "cost_micros" else measure
            marks = [
                one for one in anomalies if one["subject"].split(" per ")[0] in (measure, name)
            ]
            drawn.append(
                {
                    "name": name,
                    "currency": "" if currency == NO_CURRENCY else currency,
                    "money": measure == "cost_micros",
                    "svg": chart(series, view, measure, currency, self.zone, marks),
                    "rows": _numbers(series, measure, currency),
                    "marks": len(marks),
                }
            )
        return drawn

    def close(self) -> None:
        """Forget all connections."""
        self._threads.shutdown()
        for reader in self.readers.values():
            reader.close()  # type: ignore[attr-defined]


def now_ms() -> int:
    """The moment."""
    return round(time.time() * 1000)


def _by_advertiser(listed: Sequence[Row], unusual: Sequence[Row]) -> list[Row]:
    """One row an advertiser: events over all currencies, money by currency."""
    found: dict[str, Row] = {}
    names = tuple(f"{kind}{name}" for name in EVENTS for kind in ("", "net_"))
    for row in listed:
        one = found.setdefault(
            row["advertiser_id"],
            {"advertiser_id": row["advertiser_id"], **dict.fromkeys(names, 0), "spend": [],
             "anomalies": 0, "last_event_at": None},
        )  # fmt: skip
        for name in names:
            one[name] += row[name]
        if row["cost_micros"]:
            one["spend"].append((row["currency"], row["net_cost_micros"]))
        at: datetime.datetime | None = row["last_event_at"]
        if at is not None and (one["last_event_at"] is None or at > one["last_event_at"]):
            one["last_event_at"] = at
    for row in unusual:
        if row["advertiser_id"] in found:
            found[row["advertiser_id"]]["anomalies"] += 1
    for one in found.values():
        gross = sum(one[name] for name in EVENTS)
        one["invalid"] = 1 - sum(one[f"net_{name}"] for name in EVENTS) / gross if gross else 0.0
    return list(found.values())


def _order(row: Row, sort: str) -> tuple[Any, ...]:
    if sort == "name":
        return (row["advertiser_id"].casefold(), row["advertiser_id"])
    value = sum(micros for _, micros in row["spend"]) if sort == "spend" else row[sort]
    return (-value, row["advertiser_id"])


def _totals(series: Sequence[Row]) -> dict[str, Any]:
    """Events over all currencies, money by currency."""
    events = [
        {
            "name": name,
            "gross": sum(row[name] for row in series),
            "net": sum(row[f"net_{name}"] for row in series),
        }
        for name in EVENTS
    ]
    money: dict[str, dict[str, int]] = {}
    for row in series:
        if row["cost_micros"] or row["revenue_micros"]:
            sums = money.setdefault(row["currency"], {"gross": 0, "net": 0, "revenue": 0})
            sums["gross"] += row["cost_micros"]
            sums["net"] += row["net_cost_micros"]
            sums["revenue"] += row["revenue_micros"]
    return {"events": events, "money": sorted(money.items()), "any": bool(series)}


def _charted(series: Sequence[Row]) -> list[tuple[str, str]]:
    """What has a chart: events that there are, and spend by currency."""
    found = [(name, "") for name in EVENTS if any(row[name] for row in series)]
    spent: dict[str, int] = {}
    for row in series:
        spent[row["currency"]] = spent.get(row["currency"], 0) + row["cost_micros"]
    most = sorted((currency for currency in spent if spent[currency]), key=lambda x: -spent[x])
    return found + [("cost_micros", currency) for currency in most[:3]]


def _numbers(series: Sequence[Row], measure: str, currency: str) -> list[Row]:
    """The same as a table: by step ``gross``, ``net``, ``final``."""
    found: dict[int, Row] = {}
    for row in series:
        if currency and row["currency"] != currency:
            continue
        one = found.setdefault(
            row["start"], {"start": row["start"], "gross": 0, "net": 0, "final": True}
        )
        one["gross"] += row[measure]
        one["net"] += row[f"net_{measure}"]
        one["final"] = one["final"] and row["final"]
    return [one for one in found.values() if one["gross"]]
