"""The state of an output, for people and monitors."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from adtally.io.elasticsearch_client import ElasticsearchConfig, connect
from adtally.io.event_log import reached_ms
from adtally.io.freshness import Fresh, of_elasticsearch, of_parquet, written_rows
from adtally.io.logs import absolute
from adtally.io.manifest import read_manifest
from adtally.pipelines.job import ConfigError

HOUR_MS: Final = 3_600_000


@dataclass(frozen=True)
class Limits:
    """From where on a state is broken; None for no limit.

    Attributes:
        lag_seconds: of the newest event counted, where readers look first: in Elasticsearch, or
            where there is none, in Parquet.
        output_lag_seconds: of the newest event counted in Parquet.
        dead_letters: in the last hour.
        late: events in the last hour.
    """

    lag_seconds: float | None = None
    output_lag_seconds: float | None = None
    dead_letters: int | None = None
    late: int | None = None


@dataclass(frozen=True)
class Metric:
    """A value with its name, as Prometheus has it; times and durations are in seconds."""

    name: str
    help: str
    values: tuple[tuple[dict[str, str], float | None], ...]


@dataclass(frozen=True)
class Status:
    """What was seen at one moment.

    Attributes:
        now_ms: when, milliseconds since the epoch.
        places: what ``parquet`` and ``elasticsearch`` reach up to.
        reached_ms: the arrival that a stream's log was read up to; None where none writes.
        dead_letters: written in the last hour; None without an output.
        late: events, likewise.
        broken: what is beyond its limit, a sentence each.
    """

    now_ms: int
    places: dict[str, Fresh]
    reached_ms: int | None
    dead_letters: int | None
    late: int | None
    broken: tuple[str, ...] = ()

    def lag_seconds(self, place: str) -> float | None:
        """Age of the newest event that is counted there."""
        return _age(self.now_ms, self.places[place].event_ms)

    def metrics(self) -> Iterator[Metric]:
        """All of it by names."""

        def by_place(name: str) -> tuple[tuple[dict[str, str], float | None], ...]:
            return tuple(
                ({"place": place}, _seconds(getattr(fresh, name)))
                for place, fresh in self.places.items()
            )

        yield Metric(
            "adtally_newest_event_timestamp_seconds",
            "Time of the newest event that a summary counts.",
            by_place("event_ms"),
        )
        yield Metric(
            "adtally_newest_window_timestamp_seconds",
            "End of the newest base window with a summary.",
            by_place("window_ms"),
        )
        yield Metric(
            "adtally_newest_final_window_timestamp_seconds",
            "End of the newest base window whose summaries are final.",
            by_place("final_ms"),
        )
        yield Metric(
            "adtally_lag_seconds",
            "Age of the newest event that a summary counts.",
            tuple(({"place": place}, self.lag_seconds(place)) for place in self.places),
        )
        yield Metric(
            "adtally_oldest_unwritten_event_timestamp_seconds",
            "Arrival that the log of a stream was read up to: what came before is written.",
            (({}, _seconds(self.reached_ms)),),
        )
        yield Metric(
            "adtally_dead_letters_last_hour",
            "Records that did not fit, written in the last hour.",
            (({}, self.dead_letters),),
        )
        yield Metric(
            "adtally_late_events_last_hour",
            "Events that were too late for their summaries, written in the last hour.",
            (({}, self.late),),
        )
        yield Metric("adtally_healthy", "1 if no limit is broken.", (({}, int(not self.broken)),))
        yield Metric(
            "adtally_status_timestamp_seconds", "When this was seen.", (({}, self.now_ms / 1000),)
        )


def status(output: str | None, elasticsearch: ElasticsearchConfig | None, limits: Limits) -> Status:
    """Look at an output, its documents, or both.

    Raises:
        ConfigError: there is nothing of adtally's there.
        OSError: files cannot be listed or read.
        elasticsearch.ApiError, elasticsearch.TransportError: Elasticsearch does not answer.
    """
    now_ms = round(time.time() * 1000)
    places: dict[str, Fresh] = {}
    reached = dead = late = window = None
    if output is not None:
        output = absolute(output)
        known = read_manifest(output)
        if known is None:
            raise ConfigError(
                f"{output} is no output of adtally (no adtally.json); correct --output."
            )
        window, lateness = known["window_seconds"], known["allowed_lateness_seconds"]
        places["parquet"] = of_parquet(output, window, lateness, now_ms)
        reached = reached_ms(output)
        dead = written_rows(output, "dead-letters", now_ms - HOUR_MS)
        late = written_rows(output, "late", now_ms - HOUR_MS)
    if elasticsearch is not None:
        with contextlib.closing(connect(elasticsearch)) as client:
            places["elasticsearch"] = of_elasticsearch(client, elasticsearch, window, now_ms)
    seen = Status(now_ms, places, reached, dead, late)
    broken = tuple(_broken(seen, limits))
    return Status(now_ms, places, reached, dead, late, broken)


def _broken(seen: Status, limits: Limits) -> Iterator[str]:
    first = "elasticsearch" if "elasticsearch" in seen.places else "parquet"
    lags = [("--max-lag", first, limits.lag_seconds)]
    if "parquet" in seen.places:
        lags.append(("--max-output-lag", "parquet", limits.output_lag_seconds))
    for option, place, limit in lags:
        if limit is None:
            continue
        lag = seen.lag_seconds(place)
        if lag is None:
            yield (
                f"there is no summary in {place}, and {option} is {limit:g} s: see whether the "
                f"stream was started, and into this place."
            )
        elif lag > limit:
            yield (
                f"the newest event counted in {place} is {lag:.0f} s old, more than {option} "
                f"{limit:g} s: see whether the stream runs, keeps up and gets records; "
                f"'adtally probe' tells a standing stream from an idle source."
            )
    if limits.dead_letters is not None and (seen.dead_letters or 0) > limits.dead_letters:
        yield (
            f"{seen.dead_letters:,} dead letters were written in the last hour, more than "
            f"--max-dead-letters-per-hour {limits.dead_letters:,}: see their error_type in the "
            f"view dead_letters, correct the mapping, and replay them."
        )
    if limits.late is not None and (seen.late or 0) > limits.late:
        yield (
            f"{seen.late:,} late events were written in the last hour, more than "
            f"--max-late-per-hour {limits.late:,}: no summary counts them until their range is "
            f"tallied again ('adtally backfill --from --to')."
        )


def as_json(seen: Status) -> dict[str, Any]:
    """As plain data: metrics by name without prefix, places as keys, and what is broken."""
    found: dict[str, Any] = {"healthy": not seen.broken, "broken": list(seen.broken)}
    for metric in seen.metrics():
        name = metric.name.removeprefix("adtally_")
        for labels, value in metric.values:
            if labels:
                found.setdefault(name, {})[labels["place"]] = value
            elif name != "healthy":
                found[name] = value
    return found


def as_prometheus(metrics: Iterator[Metric]) -> str:
    """In Prometheus' text format, all gauges; what is not known is left out."""
    lines = []
    for metric in metrics:
        known = [(labels, value) for labels, value in metric.values if value is not None]
        if not known:
            continue
        lines.append(f"# HELP {metric.name} {metric.help}")
        lines.append(f"# TYPE {metric.name} gauge")
        for labels, value in known:
            named = ",".join(f'{key}="{text}"' for key, text in labels.items())
            lines.append(f"{metric.name}{f'{{{named}}}' if named else ''} {value!r}")
    return "\n".join(lines) + "\n"


def as_rows(seen: Status) -> Iterator[tuple[str, str]]:
    """What people read: a name and a text each."""
    for place, fresh in seen.places.items():
        yield f"newest event counted, {place}", _told(seen.now_ms, fresh.event_ms)
        yield f"newest window, {place}", _told(seen.now_ms, fresh.window_ms)
        yield f"newest final window, {place}", _told(seen.now_ms, fresh.final_ms)
    if "parquet" in seen.places:
        yield "log read up to arrivals of", _told(seen.now_ms, seen.reached_ms)
        yield "dead letters in the last hour", f"{seen.dead_letters:,}"
        yield "late events in the last hour", f"{seen.late:,}"


def _told(now_ms: int, ms: int | None) -> str:
    if ms is None:
        return "none"
    at = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return f"{at:%Y-%m-%dT%H:%M:%SZ}, {(now_ms - ms) / 1000:,.0f} s ago"


def _age(now_ms: int, ms: int | None) -> float | None:
    return None if ms is None else (now_ms - ms) / 1000


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
