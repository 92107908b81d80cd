"""Made-up events: seeded, realistic, dirty, with the truth beside them.

The same configuration gives the same bytes on any machine.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from adtally.io.synthetic_robots import BROWSERS, HOUR_MS, MINUTE_MS, crowds_of, robots_of

TIME_FORMATS: Final = ("rfc3339", "epoch_ms", "epoch_s")
COMPRESSIONS: Final = {"gzip": ".gz", "zstd": ".zst", "none": ""}

# Hits per hour of the day, UTC: a trough at night, a peak in the evening.
_DIURNAL: Final = np.array(
    [4, 3, 2, 2, 2, 3, 4, 5, 6, 7, 7, 7, 8, 8, 8, 8, 8, 9, 10, 11, 11, 10, 8, 6], dtype=float
)
CURRENCIES: Final = ("USD", "EUR", "GBP", "JPY")
_COUNTRIES: Final = np.array(["US", "DE", "GB", "FR", "JP", "BR", "IN", "PL"])


class GenerateError(ValueError):
    """A setting that cannot work."""


@dataclass(frozen=True)
class GenerateConfig:
    """What to make up.

    Attributes:
        events: impressions, clicks and conversions of people, before bots and duplicates.
        seed: the same seed gives the same bytes.
        output: local folder: ``logs/`` and ``truth/`` go below it.
        advertisers: tenants; their sizes follow Zipf's law.
        start_ms: first moment, at a full hour.
        hours: how long.
        duplicate_ratio: of events that come again.
        malformed_ratio: of further records that cannot be decoded.
        late_ratio: of events received over an hour after their minute.
        compression: ``gzip``, ``zstd`` or ``none``.
        files_per_hour: many small files, or one.
        time_format: ``rfc3339``, ``epoch_ms`` or ``epoch_s``; the epochs come with a mapping.
        crowds: offices behind one address, and launches that bring thousands at once: so many of
            each. People, in numbers that rules may take for robots.
    """

    events: int
    seed: int
    output: str
    advertisers: int = 2_000
    start_ms: int = 1_772_323_200_000
    hours: int = 24
    duplicate_ratio: float = 0.01
    malformed_ratio: float = 0.005
    late_ratio: float = 0.002
    compression: str = "gzip"
    files_per_hour: int = 1
    time_format: str = "rfc3339"
    crowds: int = 0

    def __post_init__(self) -> None:
        for name in ("events", "advertisers", "hours", "files_per_hour"):
            if getattr(self, name) < 1:
                raise GenerateError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.crowds < 0:
            raise GenerateError(f"crowds is {self.crowds}; give 0 or more.")
        for name in ("duplicate_ratio", "malformed_ratio", "late_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise GenerateError(f"{name} is {getattr(self, name)}; give 0 or more, below 1.")
        if self.compression not in COMPRESSIONS:
            raise GenerateError(f"compression {self.compression!r} is none of {[*COMPRESSIONS]}.")
        if self.time_format not in TIME_FORMATS:
            raise GenerateError(f"time format {self.time_format!r} is none of {TIME_FORMATS}.")
        if self.start_ms % HOUR_MS:
            at = datetime.datetime.fromtimestamp(self.start_ms / 1000, datetime.UTC).isoformat()
            raise GenerateError(f"start {at} is no full hour; give one, such as {at[:13]}:00Z.")


def make_events(config: GenerateConfig) -> pl.DataFrame:
    """All decodable records, in order of arrival.

    Columns: the fields of an event; ``kind`` (``person``, ``office`` and ``launch`` for those in
    crowds, ``bot`` for bursts, ``rhythm``, ``crawler``, ``again`` for a person's second click,
    ``eager`` and ``viewer`` for many clicks or impressions of one user, ``bare`` for clicks that
    name an impression that never was, ``injected`` for conversions right after a click, and of all
    of these ``copy``, ``conflict``, ``lookalike``); times in milliseconds.
    """
    rng = np.random.default_rng(config.seed)
    people = _people(config, rng)
    events = pl.concat([people, *robots_of(config, rng, people), *crowds_of(config, rng, people)])
    events = events.with_columns(pl.Series("event_id", _hex_ids(rng, events.height)))
    events = _linked(events)
    never = pl.Series(_hex_ids(rng, events.height))
    events = events.with_columns(
        impression_id=pl.when(pl.col("kind") == "bare").then(never).otherwise("impression_id")
    )
    events = _received(config, rng, events)
    events = pl.concat([events, _repeated(config, rng, events)])
    return events.sort("received_at", "event_id", "kind", maintain_order=True)


def _people(config: GenerateConfig, rng: np.random.Generator) -> pl.DataFrame:
    """Impressions, the clicks that some lead to, and the conversions that some of those do."""
    clicks, conversions = round(config.events * 0.14), round(config.events * 0.01)
    impressions = max(1, config.events - clicks - conversions)
    weights = 1.0 / np.arange(1, config.advertisers + 1)
    hours = np.resize(_DIURNAL, config.hours)
    hour = rng.choice(config.hours, impressions, p=hours / hours.sum())
    users = max(10, config.events // 8)
    frame = pl.DataFrame(
        {
            "type": np.zeros(impressions, np.int8),
            "occurred_at": config.start_ms + hour * HOUR_MS + rng.integers(0, HOUR_MS, impressions),
            "advertiser": rng.choice(config.advertisers, impressions, p=weights / weights.sum()),
            "place": rng.integers(0, 60, impressions),
            "user": (users * rng.random(impressions) ** 2).astype(np.int64),
            "parent": np.full(impressions, -1),
        }
    )
    clicked = _following(rng, frame, clicks, 1, 20_000)
    converted = _following(rng, clicked, conversions, 2, 300_000, offset=impressions)
    everyone = pl.concat([frame, clicked, converted])
    return _described(config, rng, everyone)


def _following(
    rng: np.random.Generator,
    parents: pl.DataFrame,
    count: int,
    type_: int,
    mean_ms: float,
    offset: int = 0,
) -> pl.DataFrame:
    """Events that some of ``parents`` lead to, after an exponential delay."""
    rows = rng.integers(0, max(1, parents.height), count if parents.height else 0)
    delay = rng.exponential(mean_ms, len(rows)).astype(np.int64) + 1
    return parents[rows].with_columns(
        pl.lit(type_, pl.Int8).alias("type"),
        pl.col("occurred_at") + pl.Series(delay),
        pl.Series("parent", rows + offset),
    )


def _described(
    config: GenerateConfig, rng: np.random.Generator, frame: pl.DataFrame
) -> pl.DataFrame:
    """Add address, browser, country and money."""
    rows = frame.height
    user = frame["user"].to_numpy()
    # Every tenth user sits behind one of a few shared addresses.
    address = np.where(user % 10 == 0, user % 400, 1_000 + user * 7919 % 14_000_000)
    price = rng.integers(100, 20_000, rows)
    type_ = frame["type"].to_numpy()
    cost = np.where(type_ == 0, price, np.where(type_ == 1, price * 40, 0))
    revenue = np.where(type_ == 2, price * 900, 0)
    free = rng.random(rows) < 0.05
    return frame.with_columns(
        pl.Series("address", address),
        pl.Series("user_agent", BROWSERS[user % len(BROWSERS)]),
        pl.Series("country", _COUNTRIES[user % len(_COUNTRIES)]),
        pl.Series("cost", np.where(free, 0, cost)),
        pl.Series("revenue", revenue),
        pl.lit("person").alias("kind"),
    )


def _hex_ids(rng: np.random.Generator, count: int) -> list[str]:
    text = rng.bytes(16 * count).hex()
    return [text[at : at + 32] for at in range(0, len(text), 32)]


def _linked(events: pl.DataFrame) -> pl.DataFrame:
    """A click carries its impression's id; a conversion its click's, and through it the other."""
    ids = events["event_id"]
    parent = events["parent"].to_numpy()
    type_ = events["type"].to_numpy()
    grandparent = np.where((parent >= 0) & (type_ == 2), parent[parent], -1)
    impression = np.where(type_ == 1, parent, grandparent)
    click = np.where(type_ == 2, parent, -1)
    links = {"impression_id": impression, "click_id": click}
    return events.with_columns(
        ids.gather(pl.Series(rows).replace(-1, None)).alias(name) for name, rows in links.items()
    ).drop("parent")


def _received(
    config: GenerateConfig, rng: np.random.Generator, events: pl.DataFrame
) -> pl.DataFrame:
    """Seconds after the event mostly, sometimes minutes, rarely over an hour."""
    rows = events.height
    delay = rng.exponential(2_000, rows)
    delay += (rng.random(rows) < 0.01) * rng.uniform(MINUTE_MS, 30 * MINUTE_MS, rows)
    late = rng.random(rows) < config.late_ratio
    delay += late * rng.uniform(HOUR_MS + 2 * MINUTE_MS, 3 * HOUR_MS, rows)
    return events.with_columns(
        (pl.col("occurred_at") + pl.Series(delay.astype(np.int64))).alias("received_at")
    )


def _repeated(
    config: GenerateConfig, rng: np.random.Generator, events: pl.DataFrame
) -> pl.DataFrame:
    """Records that come again: copies, copies that differ, and look-alikes that are no copies."""
    count = round(events.height * config.duplicate_ratio)
    again = events[rng.integers(0, events.height, count)]
    draw = rng.random(count)
    copies = again.filter(pl.Series(draw < 0.8)).with_columns(kind=pl.lit("copy"))
    differing = again.filter(pl.Series((draw >= 0.8) & (draw < 0.9)))
    minute = pl.col("occurred_at") // MINUTE_MS * MINUTE_MS
    even = pl.int_range(pl.len()) % 2 == 0
    differing = differing.with_columns(
        kind=pl.lit("conflict"),
        cost=pl.when(even & (pl.col("cost") > 0)).then(pl.col("cost") + 7).otherwise("cost"),
        occurred_at=pl.when(even).then("occurred_at").otherwise(minute + 30_000),
    )
    alike = again.filter(pl.Series(draw >= 0.9))
    third = pl.int_range(pl.len()) % 3
    alike = alike.with_columns(
        kind=pl.lit("lookalike"),
        occurred_at=pl.when(third == 0)
        .then(pl.col("occurred_at") - 2 * MINUTE_MS)
        .otherwise("occurred_at"),
        advertiser=pl.when(third == 1)
        .then((pl.col("advertiser") + 1) % max(2, config.advertisers))
        .otherwise("advertiser"),
        type=pl.when(third == 2).then((pl.col("type") + 1) % 3).otherwise("type").cast(pl.Int8),
    )
    return pl.concat([copies, differing, alike])
