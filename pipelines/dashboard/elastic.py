"""Summaries and verdicts as Elasticsearch has them: what is newest, provisional rows too."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch

from adtally.io.elasticsearch_client import (
    ElasticsearchConfig,
    connect,
    denied,
    not_trusted,
)
from adtally.io.schema import FLAG_TYPE
from adtally.pipelines.dashboard.cached import Cached
from adtally.pipelines.dashboard.reader import (
    LISTED,
    MOST_ADVERTISERS,
    MOST_VALUES,
    MOST_VERDICTS,
    SUMMED,
    SUMS,
    Row,
    Unreachable,
    Verdicts,
)
from adtally.pipelines.dashboard.view import (
    DAY_MS,
    HOUR_MS,
    Correction,
    View,
    ruled_by,
    ruling,
    spans,
    without,
)
from adtally.transforms.overflow import OTHER

TIMEOUT_SECONDS: Final = 20.0
MOST_CURRENCIES: Final = 20
MOST_HOURS: Final = 10_000
"""Documents of an answer; more is refused by Elasticsearch, unless it is told otherwise."""

KNOWN_SECONDS: Final = 5.0
"""How long it is taken as known which roll-ups there are: a page asks more than once."""

_KNOWN_AT_MOST: Final = 256
_NONE: Final = "\x00"
"""Stands for a value that is missing; no id has it."""

_FLAG: Final = tuple(FLAG_TYPE.field(at).name for at in range(FLAG_TYPE.num_fields))

Json = dict[str, Any]


class ElasticReader:
    """Reads; see :class:`~adtally.pipelines.dashboard.reader.Reader`.

    Base windows are summed, and for the list and the series of all advertisers, days and hours of
    roll-ups where these say the same.

    Args:
        config: which cluster.
        window_seconds: of the base windows.
        corrections: gives those that there are now.
    """

    name = "elasticsearch"

    def __init__(
        self,
        config: ElasticsearchConfig,
        window_seconds: int,
        corrections: Callable[[], Sequence[Correction]],
    ) -> None:
        self._config = config
        self._client: Elasticsearch = connect(config).options(request_timeout=TIMEOUT_SECONDS)
        self._window_ms = window_seconds * 1000
        self._corrections = corrections
        self._known: dict[tuple[Any, ...], Cached[list[int]]] = {}

    def advertisers(self, view: View) -> list[Row]:
        gross, adjusted = self._both(
            view,
            lambda inner: _terms("advertiser_id", MOST_ADVERTISERS, inner),
            LISTED,
            most="last_event_at",
            rolled=DAY_MS,
        )
        rows = {}
        for bucket in _buckets(gross):
            for money in bucket["money"]["buckets"]:
                row = _sums(money, LISTED)
                row["last_event_at"] = _instant(money["last_event_at"]["value"])
                rows[bucket["key"], money["key"]] = row
        for key, money in _adjustments(adjusted):
            _take_off(rows.get((key, money["key"])), money)
        return [
            {"advertiser_id": advertiser, "currency": currency, **row}
            for (advertiser, currency), row in sorted(rows.items())
        ]

    def sparks(self, view: View) -> dict[str, list[int]]:
        steps = _histogram("window_start", view.step_ms, {"n": {"sum": {"field": "clicks"}}})
        named = view.advertisers or ()
        by = _terms("advertiser_id", len(named) or 1, steps)
        answer = self._ask([self._request("summaries", self._rows(view), by, view)])[0]
        index = {start: at for at, start in enumerate(view.starts())}
        found = {name: [0] * len(index) for name in named}
        for bucket in _buckets(answer):
            for step in _buckets(bucket):
                if step["key"] in index:
                    found[bucket["key"]][index[step["key"]]] = round(step["n"]["value"])
        return found

    def series(self, view: View, names: Sequence[str] = SUMS) -> list[Row]:
        gross, adjusted = self._both(
            view,
            lambda inner, field="window_start": _histogram(field, view.step_ms, inner),
            names,
            most="final_after",
            rolled=view.step_ms,
        )
        rows = {}
        now = view.now_ms
        for bucket in _buckets(gross):
            for money in bucket["money"]["buckets"]:
                row = _sums(money, names)
                row["final"] = (money["final_after"]["value"] or 0) <= now
                rows[bucket["key"], money["key"]] = row
        for key, money in _adjustments(adjusted):
            _take_off(rows.get((key, money["key"])), money)
        return [
            {"start": start, "currency": currency, **row}
            for (start, currency), row in sorted(rows.items())
        ]

    def top(self, view: View, dimension: str) -> list[Row]:
        folded = {"folded": {"filter": {"term": {dimension: OTHER}}}}
        order = {"clicks": "desc"}

        def by(inner: Json, field: str = dimension) -> Json:
            if field != dimension:
                return _terms(field, 10_000, inner, missing=_NONE)
            with_clicks = {**inner, "clicks": {"sum": {"field": "clicks"}}}
            return _terms(field, MOST_VALUES, with_clicks, missing=_NONE, order=order)

        gross, adjusted = self._both(
            view, by, LISTED, adjusted=f"adjustments.{dimension}", more=folded
        )
        rows = {}
        for bucket in _buckets(gross):
            for money in bucket["money"]["buckets"]:
                rows[bucket["key"], money["key"]] = _sums(money, LISTED)
        for key, money in _adjustments(adjusted):
            _take_off(rows.get((key, money["key"])), money)
        known = gross.get("folded", {"doc_count": 0})["doc_count"] == 0
        return [
            {
                "value": None if value == _NONE else value,
                "currency": currency,
                **row,
                **({} if known else {name: None for name in row if name.startswith("net_")}),
            }
            for (value, currency), row in rows.items()
        ]

    def verdicts(self, view: View, most: int = MOST_VERDICTS) -> Verdicts:
        page: Json = {
            "size": most,
            "sort": [{"window_start": "desc"}],
            "_source": ["window_start", "window_end", "advertiser_id", "flags"],
        }
        asked = [
            {
                **self._request(kind, self._overlapping(view), {}, view),
                **page,
                "aggs": {"flags": _nested("flags", self._flagged(kind, view), _rules())},
            }
            for kind in ("flags", "verdicts")
        ]
        rules: dict[tuple[str, str, str], Row] = {}
        newest: list[Row] = []
        for answer in self._ask(asked):
            for key, bucket in _ruled_events(answer):
                row = rules.setdefault(key, {"verdicts": 0, "events": 0})
                row["verdicts"] += bucket["doc_count"]
                row["events"] += round(bucket["events"]["value"])
            newest += _flags(answer["hits"], self._window_ms, view)
        newest.sort(key=lambda row: (row["window_start"], row["count"]), reverse=True)
        names = ("rule", "ivt_class", "subject_type")
        listed = [{**dict(zip(names, key, strict=True)), **row} for key, row in rules.items()]
        ordered = sorted(listed, key=lambda row: (-row["events"], row["rule"]))
        return Verdicts(ordered, newest[:most])

    def anomalies(self, view: View) -> list[Row]:
        answer = self._ask(
            [
                {
                    **self._request("anomalies", self._overlapping(view), {}, view),
                    "size": MOST_HOURS,
                    "sort": [{"window_start": "desc"}],
                    "_source": ["advertiser_id", "window_start", "flags"],
                }
            ]
        )[0]
        names = ("advertiser_id", "rule", "subject", "count", "threshold")
        rows = [
            {"flagged_at": row["window_start"], **{name: row[name] for name in names}}
            for row in _flags(answer["hits"], self._window_ms, view)
        ]
        return sorted(
            rows, key=lambda row: (row["flagged_at"], row["advertiser_id"], row["subject"])
        )

    def close(self) -> None:
        """Forget the connections."""
        self._client.close()

    def _both(
        self,
        view: View,
        by: Callable[..., Json],
        names: Sequence[str],
        *,
        most: str = "",
        rolled: int = 0,
        adjusted: str = "adjustments.adjusted_at",
        more: Json | None = None,
    ) -> tuple[Json, list[Json]]:
        """Sums of rows, and of what rules that look back take off them, by the same."""
        stored = {name: {"sum": {"field": name}} for name in names if not name.startswith("sivt_")}
        if most:
            stored[most] = {"max": {"field": most}}
        rows = by(
            {"money": {"terms": {"field": "currency", "size": MOST_CURRENCIES}, "aggs": stored}}
        )
        taken = {
            f"{kind}{name}": {"sum": {"field": f"adjustments.{kind}{name}"}}
            for name in SUMMED
            for kind in ("givt_", "sivt_")
        }
        money = {
            "money": {
                "terms": {"field": "adjustments.currency", "size": MOST_CURRENCIES},
                "aggs": taken,
            }
        }
        several = view.advertisers is None or len(view.advertisers) > 1
        rows_of = self._rolled(view, rolled) if rolled and several else self._rows(view)
        asked = [self._request("summaries", rows_of, {**rows, **(more or {})}, view)]
        inside = by(money, adjusted) if not _by_parent(rows) else None
        for generation, ranges in self._ruled(view):
            within = {
                "bool": {"should": [_within("adjustments.adjusted_at", *one) for one in ranges]}
            }
            if inside is None:  # by a field of the parent
                aggs = by(_nested("adjustments", within, money, "adjusted"))
            else:
                aggs = _nested("adjustments", within, inside, "adjusted")
            asked.append(
                self._request("verdicts", [*self._overlapping(view), generation], aggs, view)
            )
        first, *others = self._ask(asked)
        return first, others

    def _rolled(self, view: View, step_ms: int) -> list[Json]:
        """Rows of the range: roll-ups where they can be had, the longest first, else base windows.

        Args:
            view: the range.
            step_ms: roll-ups have to divide it.
        """
        parts = self._parts(view)
        left = [(view.from_ms, view.to_ms)]
        choice: list[Json] = []
        for width in (DAY_MS, HOUR_MS):
            if width <= self._window_ms or width % self._window_ms or step_ms % width:
                continue
            starts = [
                start
                for start in (self._whole(view, width, parts) if left else ())
                if any(low <= start and start + width <= high for low, high in left)
            ]
            taken = list(spans(starts, width))
            if taken:
                choice.append(self._windows(view, width, taken))
                left = list(without(left, taken))
        if left:
            choice.append(self._windows(view, self._window_ms, left))
        return [{"bool": {"should": choice}}]

    def _windows(self, view: View, width: int, ranges: Sequence[tuple[int, int]]) -> Json:
        """Rows of one size of window that begin in some ranges."""
        inside = {"bool": {"should": [_within("window_start", *one) for one in ranges]}}
        size = {"term": {"window_seconds": width // 1000}}
        return {"bool": {"filter": [size, inside, *self._own(view)]}}

    def _whole(self, view: View, width: int, parts: Sequence[tuple[int, int, int]]) -> list[int]:
        """Starts of the roll-ups in the range that say what their base windows say, and for good:
        those that are final, and of the generation that rules all of the base windows."""
        from_ms, to_ms = -(-view.from_ms // width) * width, view.to_ms // width * width
        if from_ms >= to_ms:
            return []
        seen = {name: {"max": {"field": name}} for name in ("generation", "final_after")}
        seen["least"] = {"min": {"field": "generation"}}
        filters = [
            {"term": {"window_seconds": width // 1000}},
            _within("window_start", from_ms, to_ms),
            *self._own(view),
        ]

        def found() -> list[int]:
            by_start = _histogram("window_start", width, seen)
            answer = self._ask([self._request("summaries", filters, by_start, view)])[0]
            return [
                bucket["key"]
                for bucket in _buckets(answer)
                if (bucket["final_after"]["value"] or view.now_ms) < view.now_ms
                and bucket["least"]["value"] == bucket["generation"]["value"]
                and bucket["generation"]["value"]
                == ruled_by(parts, bucket["key"], bucket["key"] + width)
            ]

        key = (width, from_ms, to_ms, view.advertisers, tuple(parts))
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _KNOWN_AT_MOST:
                self._known.clear()
            known = self._known[key] = Cached(found, KNOWN_SECONDS)
        return known()

    def _rows(self, view: View) -> list[Json]:
        base = {"term": {"window_seconds": self._window_ms // 1000}}
        return [base, _within("window_start", view.from_ms, view.to_ms), *self._own(view)]

    def _overlapping(self, view: View) -> list[Json]:
        return [
            {"range": {"window_start": {"lt": view.to_ms, "format": "epoch_millis"}}},
            {"range": {"window_end": {"gt": view.from_ms, "format": "epoch_millis"}}},
            *self._own(view),
        ]

    def _own(self, view: View) -> list[Json]:
        return (
            []
            if view.advertisers is None
            else [{"terms": {"advertiser_id": list(view.advertisers)}}]
        )

    def _flagged(self, kind: str, view: View) -> Json:
        if kind == "flags":
            return {"match_all": {}}
        return _within("flags.flagged_at", view.from_ms, view.to_ms)

    def _parts(self, view: View) -> list[tuple[int, int, int]]:
        return ruling(self._corrections(), view.from_ms, view.to_ms, self._window_ms)

    def _ruled(self, view: View) -> Iterator[tuple[Json, list[tuple[int, int]]]]:
        """Filters of verdicts by generation, each with where these rule.

        A generation that is not committed yet is being written, summaries and verdicts, and rules
        the hours whose verdicts it has.
        """
        corrections = self._corrections()
        found: dict[int, list[tuple[int, int]]] = {}
        for number, start, end in self._parts(view):
            found.setdefault(number, []).append((start, end))
        for number, ranges in found.items():
            yield {"term": {"generation": number}}, ranges
        newest = max((one.generation for one in corrections), default=0)
        yield {"range": {"generation": {"gt": newest}}}, [(view.from_ms, view.to_ms)]

    def _request(self, kind: str, filters: list[Json], aggs: Json, view: View) -> Json:
        one = view.advertisers[0] if view.advertisers and len(view.advertisers) == 1 else None
        routing = {"routing": one} if one is not None and one and "," not in one else {}
        return {
            "header": {
                "index": self._config.index_pattern(kind),
                "ignore_unavailable": True,
                **routing,
            },
            "size": 0,
            "track_total_hits": False,
            "query": {"bool": {"filter": filters}},
            "aggs": aggs,
        }

    def _ask(self, requests: list[Json]) -> list[Json]:
        """Answers to several searches at once: of each its aggregations, and its ``hits``.

        Raises:
            Unreachable: there is none, or a part of one.
        """
        lines: list[Json] = []
        for request in requests:
            body = {key: value for key, value in request.items() if key != "header" and value != {}}
            lines += [{"allow_partial_search_results": False, **request["header"]}, body]
        try:
            answers = self._client.msearch(searches=lines)["responses"]
        except ApiError as error:
            if error.meta.status in (401, 403):
                raise Unreachable(
                    str(denied(error, self._config, "nothing can be shown"))
                ) from error
            raise Unreachable(f"Elasticsearch answers {error.meta.status}.") from error
        except TransportError as error:
            refused = not_trusted(error, self._config)
            urls = ", ".join(self._config.urls)
            why = str(refused) if refused else f"Elasticsearch at {urls} does not answer."
            raise Unreachable(why) from error
        found = []
        for answer in answers:
            if "error" in answer:
                kind = answer["error"].get("type", "error")
                if answer.get("status") in (401, 403):
                    raise Unreachable(
                        f"Elasticsearch refuses ({kind}): the credentials may not read."
                    )
                raise Unreachable(f"Elasticsearch answers {answer.get('status')} ({kind}).")
            if answer.get("timed_out"):
                raise Unreachable("Elasticsearch was too slow.")
            found.append({**answer.get("aggregations", {}), "hits": answer["hits"]["hits"]})
        return found


def _by_parent(aggs: Json) -> bool:
    return aggs["by"].get("terms", {}).get("field") == "advertiser_id"


def _terms(field: str, size: int, aggs: Json, **more: Any) -> Json:
    return {"by": {"terms": {"field": field, "size": size, **more}, "aggs": aggs}}


def _histogram(field: str, step_ms: int, aggs: Json) -> Json:
    interval = {"field": field, "fixed_interval": f"{step_ms}ms", "min_doc_count": 1}
    return {"by": {"date_histogram": interval, "aggs": aggs}}


def _nested(path: str, query: Json, aggs: Json, name: str = "") -> Json:
    nested = {"nested": {"path": path}, "aggs": {"in": {"filter": query, "aggs": aggs}}}
    return {name: nested} if name else nested


def _within(field: str, from_ms: int, to_ms: int) -> Json:
    return {"range": {field: {"gte": from_ms, "lt": to_ms, "format": "epoch_millis"}}}


def _buckets(answer: Json) -> list[Json]:
    """Those of ``by``; none where there is no index."""
    found: list[Json] = answer.get("by", {}).get("buckets", [])
    return found


def _sums(bucket: Json, names: Sequence[str]) -> Row:
    return {name: round(bucket[name]["value"]) if name in bucket else 0 for name in names}


def _adjustments(answers: Sequence[Json]) -> Iterator[tuple[Any, Json]]:
    """Every key with its sums by currency."""
    for answer in answers:
        for bucket in _buckets(answer.get("adjusted", {}).get("in", {})):
            yield from ((bucket["key"], money) for money in bucket["money"]["buckets"])
        for bucket in _buckets(answer):
            inner = bucket["adjusted"]["in"]["money"]["buckets"]
            yield from ((bucket["key"], money) for money in inner)


def _take_off(row: Row | None, taken: Json) -> None:
    """What rules that look back call invalid is not net."""
    if row is None:
        return
    for name in SUMMED:
        general, suspected = (round(taken[f"{kind}{name}"]["value"]) for kind in ("givt_", "sivt_"))
        row[f"net_{name}"] -= general + suspected
        for kind, value in (("givt_", general), ("sivt_", suspected)):
            if f"{kind}{name}" in row:
                row[f"{kind}{name}"] += value


def _rules() -> Json:
    """Events by rule, class and kind of subject."""
    events: Json = {"events": {"sum": {"field": "flags.count"}}}
    by_type = _terms("flags.subject_type", 10, events)
    return _terms("flags.rule", 100, _terms("flags.ivt_class", 10, by_type))


def _ruled_events(answer: Json) -> Iterator[tuple[tuple[str, str, str], Json]]:
    for rule in _buckets(answer.get("flags", {}).get("in", {})):
        for ivt_class in _buckets(rule):
            for subject_type in _buckets(ivt_class):
                yield (rule["key"], ivt_class["key"], subject_type["key"]), subject_type


def _flags(hits: Sequence[Json], window_ms: int, view: View) -> list[Row]:
    rows = []
    for hit in hits:
        source = hit["_source"]
        flags = source["flags"] if isinstance(source["flags"], list) else [source["flags"]]
        for flag in flags:
            start = datetime.datetime.fromisoformat(
                flag.get("flagged_at") or source["window_start"]
            )
            start_ms = round(start.timestamp() * 1000)
            if not view.from_ms <= start_ms < view.to_ms:
                continue
            evidence = flag.get("evidence") or []
            rows.append(
                {
                    **{name: flag.get(name) for name in _FLAG},
                    "advertiser_id": source["advertiser_id"],
                    "window_start": start,
                    "window_end": start + datetime.timedelta(milliseconds=window_ms),
                    "evidence": evidence if isinstance(evidence, list) else [evidence],
                }
            )
    return rows


def _instant(ms: float | None) -> datetime.datetime | None:
    return None if ms is None else datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
