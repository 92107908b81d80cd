"""A profile of the hours of the day, from stored summaries."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow.parquet as pq

from adtally.io.files import atomic_write
from adtally.io.logs import absolute
from adtally.io.manifest import read_manifest
from adtally.io.summaries import StoredSummaries
from adtally.pipelines.job import ConfigError
from adtally.transforms.rules.season import FEWEST_DAYS, HOUR_MS, HOURS, MEASURES, profile_of

DAY_MS: Final = HOURS * HOUR_MS


@dataclass(frozen=True)
class Profiled:
    """What a profile was made of.

    Attributes:
        path: where it lies.
        dates: the days.
        advertisers: those in it.
        left_out: those that had too few events.
    """

    path: str
    dates: list[str]
    advertisers: int
    left_out: int


def profile(output: str, path: str, days: int, watch: Callable[[str], None]) -> Profiled:
    """Write the profile of an output's newest whole days.

    Args:
        output: what a backfill or a stream has written.
        path: where the profile is to lie; it is replaced.
        days: how many at most.
        watch: is told of each date that is read.

    Raises:
        ConfigError: the output has no summaries of hours or less, or too few days of them.
    """
    output, path = absolute(output), absolute(path)
    known = read_manifest(output)
    if known is None:
        raise ConfigError(f"{output} is no output of adtally (no adtally.json); correct --output.")
    window = known["window_seconds"]
    if HOUR_MS // 1000 % window:
        raise ConfigError(
            f"windows of {window} s do not divide an hour, so hours cannot be told apart; give an "
            f"output with windows such as 60s or 1h."
        )
    stored = StoredSummaries(output, window)
    hours = _whole_days(stored, known, days, watch)
    if len(hours) < FEWEST_DAYS:
        raise ConfigError(
            f"{output} has {len(hours)} whole days (UTC) of final summaries, and the season of a "
            f"day is seen in {FEWEST_DAYS} at least; no profile was written. Wait, or backfill "
            f"the days before."
        )
    rows = pl.concat(hours.values())
    found = profile_of(rows)
    if not found.height:
        raise ConfigError(
            f"no advertiser in {output} has enough events on {FEWEST_DAYS} of {len(hours)} days; "
            f"no profile was written."
        )
    with atomic_write(path) as file:
        pq.write_table(found.to_arrow(compat_level=pl.CompatLevel.oldest()), file)
    advertisers = found["advertiser_id"].n_unique()
    return Profiled(
        path, sorted(hours), advertisers, rows["advertiser_id"].n_unique() - advertisers
    )


def _whole_days(
    stored: StoredSummaries, known: dict[str, object], days: int, watch: Callable[[str], None]
) -> dict[str, pl.DataFrame]:
    """Sums of hours, by date.

    The first and the last date are whole when their first, or last, hour has any summary.
    """
    lateness_ms = int(str(known["allowed_lateness_seconds"])) * 1000
    now_ms = time.time() * 1000
    dimensions = [str(name) for name in known["dimensions"]]  # type: ignore[attr-defined]
    dates = [date for date in stored.dates if _start(date) + DAY_MS + lateness_ms <= now_ms]
    found: dict[str, pl.DataFrame] = {}
    for date in reversed(dates):
        if len(found) == days:
            break
        watch(date)
        rows = stored.of_date(date, dimensions, MEASURES)
        at = pl.col("window_start").dt.epoch("ms") // HOUR_MS * HOUR_MS
        hours = rows.group_by("advertiser_id", "currency", at.alias("hour_start")).agg(
            pl.col(*MEASURES).cast(pl.Float64).sum()
        )
        first, last = hours["hour_start"].min(), hours["hour_start"].max()
        begins = date != stored.dates[0] or first == _start(date)
        ends = date != stored.dates[-1] or last == _start(date) + DAY_MS - HOUR_MS
        if begins and ends:
            found[date] = hours
    return found


def _start(date: str) -> int:
    at = datetime.datetime.fromisoformat(date).replace(tzinfo=datetime.UTC)
    return round(at.timestamp() * 1000)
