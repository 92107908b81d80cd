"""The season of the day: how the traffic of an advertiser is spread over the hours, from the past.

A profile is made once, from stored summaries, and fixed for a run like a list is: a season that was
learnt while events come would depend on when they came.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl
from apache_beam.io.filesystem import BeamIOError

from adtally.io.files import read_bytes
from adtally.transforms.rules.user_agents import ListError

HOURS: Final = 24
HOUR_MS: Final = 3_600_000
_STEPS: Final = 1000

FEWEST_DAYS: Final = 3
"""The median of fewer follows a single odd day."""

FEWEST_EVENTS: Final = 1_200
"""Of a measure, on a day that counts: 50 an hour, below which windows are not judged either. Over
three days chance alone moves an hour's factor by 8%."""

RARE: Final = 0.05
"""Hours with less of the mean than this tell nothing about others: divided by it, chance is all
that there is."""

MEASURES: Final = ("impressions", "clicks", "conversions", "cost_micros")

PROFILE: Final = pl.Schema(
    {
        "advertiser_id": pl.String,
        "measure": pl.String,
        "currency": pl.String,
        "hour": pl.Int32,
        "factor": pl.Float64,
        "days": pl.Int32,
    }
)
"""A profile: the volume of each hour of the day (UTC) over that of the mean hour, by advertiser and
measure, that of ``cost_micros`` by currency too; ``days`` it was seen on."""

_FOLLOWS: Final = {"conversions": "clicks", "clicks": "impressions"}
"""What a measure too small for a profile of its own goes with; else rates would have a season."""

_SERIES: Final = ("advertiser_id", "measure", "currency")


def profile_of(hours: pl.DataFrame) -> pl.DataFrame:
    """The season of each advertiser: the median over days of each hour's share in its day.

    Args:
        hours: sums of whole days: ``advertiser_id``, ``currency``, ``hour_start`` (ms), and
            ``MEASURES``. Hours without a row had no events.

    Returns:
        ``PROFILE``, sorted; of series with at least ``FEWEST_EVENTS`` on ``FEWEST_DAYS`` days. The
        factors of a series have the mean 1. A measure of counts that has fewer takes the factors
        of what it follows: conversions those of clicks, clicks those of impressions.
    """
    counts = _long(hours, MEASURES[:3], pl.lit(None, pl.String))
    events = (pl.col("impressions") + pl.col("clicks")).alias("events")
    costs = _long(hours.with_columns(events), MEASURES[3:], pl.col("currency"), "events")
    own = pl.concat([_factors(counts), _factors(costs)])
    for name, of in reversed(_FOLLOWS.items()):
        without = (pl.col("measure") == of) & ~pl.col("advertiser_id").is_in(
            own.filter(pl.col("measure") == name)["advertiser_id"].unique().implode()
        )
        own = pl.concat([own, own.filter(without).with_columns(measure=pl.lit(name))])
    return own.select(PROFILE.names()).cast(PROFILE).sort(*_SERIES, "hour")


def _long(
    hours: pl.DataFrame, measures: tuple[str, ...], currency: pl.Expr, volume: str | None = None
) -> pl.DataFrame:
    """A row per series, day and hour with ``value``, and the ``volume`` that it comes from."""
    at = pl.col("hour_start")
    parts = [
        hours.select(
            "advertiser_id",
            pl.lit(name).alias("measure"),
            currency.alias("currency"),
            (at // (HOURS * HOUR_MS)).alias("day"),
            (at // HOUR_MS % HOURS).alias("hour"),
            pl.col(name).clip(0).cast(pl.Float64).alias("value"),
            pl.col(volume or name).cast(pl.Float64).alias("volume"),
        )
        for name in measures
    ]
    return pl.concat(parts).group_by(*_SERIES, "day", "hour").agg(pl.col("value", "volume").sum())


def _factors(rows: pl.DataFrame) -> pl.DataFrame:
    of_day = [*_SERIES, "day"]
    days = (
        rows.group_by(of_day)
        .agg(pl.col("value", "volume").sum())
        .filter(pl.col("volume") >= FEWEST_EVENTS, pl.col("value") > 0)
        .filter(pl.len().over(_SERIES) >= FEWEST_DAYS)
        .with_columns(pl.len().over(_SERIES).alias("days"), mean=pl.col("value") / HOURS)
        .drop("value", "volume")
    )
    every = pl.DataFrame({"hour": range(HOURS)}, {"hour": rows.schema["hour"]})
    shares = (
        days.join(every, how="cross")
        .join(rows, on=[*of_day, "hour"], how="left", nulls_equal=True)
        .with_columns(pl.col("value").fill_null(0) / pl.col("mean"))
    )
    medians = (
        shares.group_by(*_SERIES, "hour", "days")
        .agg(pl.col("value").median())
        .sort(*_SERIES, "hour")  # sums of floats depend on the order
    )
    mean = pl.col("value").mean().over(_SERIES)
    # Where most of the day has no volume on most days, medians may all be 0: no season is seen.
    seen = medians.filter(mean > 0)
    return seen.with_columns((pl.col("value") / mean).round(3).alias("factor")).drop("value")


_FACTORS: Final = pl.Schema(
    {
        "advertiser_id": pl.String(),
        "measure": pl.String(),
        "currency": pl.String(),
        "factors": pl.Array(pl.Int16, HOURS),  # thousandths: it travels with the job
    }
)


@dataclass(frozen=True)
class Season:
    """A profile that a run goes by.

    Attributes:
        fingerprint: of what it says; empty for none.
        factors: a row per series, with ``factors``, those of the hours. Advertisers without one
            have no season.
    """

    fingerprint: str = ""
    factors: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema=_FACTORS), compare=False, repr=False
    )

    def of(self, series: pl.DataFrame, measure: str) -> np.ndarray:
        """Factors of a measure, (series, hours), for advertisers and, of cost, their currency."""
        mine = self.factors.filter(pl.col("measure") == measure).drop("measure")
        keys = ["advertiser_id", "currency"] if measure == "cost_micros" else ["advertiser_id"]
        found = series.join(mine, on=keys, how="left", maintain_order="left")["factors"]
        flat = np.ones((series.height, HOURS))
        has = found.is_not_null().to_numpy()
        flat[has] = found.drop_nulls().to_numpy() / _STEPS
        return flat


def at_times(factors: np.ndarray, centre_ms: np.ndarray) -> np.ndarray:
    """Factors at times, between the middles of two hours in proportion.

    Args:
        factors: (n, hours).
        centre_ms: (n, times), in milliseconds since the epoch.

    Returns:
        (n, times).
    """
    position = centre_ms / HOUR_MS - 0.5
    before = np.floor(position)
    share = position - before
    row = np.arange(len(factors))[:, None]
    hour = before.astype(np.int64) % HOURS
    return factors[row, hour] * (1 - share) + factors[row, (hour + 1) % HOURS] * share


def read_season(path: str) -> Season:
    """Read what ``adtally profile`` wrote.

    Raises:
        ListError: it cannot be read, or is no whole profile.
    """
    try:
        frame = pl.read_parquet(read_bytes(path))
    except (OSError, BeamIOError, ValueError) as error:  # ValueError: a scheme Beam does not know
        raise _wrong(path, f"cannot be read ({error})") from error
    except pl.exceptions.PolarsError as error:
        raise _wrong(path, f"is no Parquet file ({error})") from error
    missing = [name for name in PROFILE if name not in frame.columns]
    if missing:
        raise _wrong(path, f"has no column {', '.join(missing)}")
    try:
        rows = frame.select(PROFILE.names()).cast(PROFILE).sort(*_SERIES, "hour")
    except pl.exceptions.PolarsError as error:
        raise _wrong(path, f"has a column of another type ({error})") from error
    _check(rows, path)
    factors = rows.group_by(_SERIES, maintain_order=True).agg(
        (pl.col("factor") * _STEPS).round().alias("factors")
    )
    text = rows.select(*_SERIES, "hour", "factor").write_csv()
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Season(digest, factors.cast(_FACTORS))


def _check(rows: pl.DataFrame, path: str) -> None:
    measure, factor = pl.col("measure"), pl.col("factor")
    wrong = rows.filter(
        ~measure.is_in(MEASURES).fill_null(False)
        | pl.col("advertiser_id").is_null()
        | (pl.col("currency").is_null() == (measure == "cost_micros"))
        | ~factor.is_between(0, HOURS).fill_null(False)
        | factor.is_nan()
    )
    if wrong.height:
        raise _wrong(path, f"says {wrong.row(0, named=True)}, which is no factor of a series")
    hour = pl.col("hour")
    odd = rows.group_by(_SERIES, maintain_order=True).agg(hour.unique(), hour.len().alias("rows"))
    every = (hour.list.len() == HOURS) & (hour.list.min() == 0) & (hour.list.max() == HOURS - 1)
    odd = odd.filter(~every | (pl.col("rows") != HOURS))
    if odd.height:
        raise _wrong(path, f"has not each hour once for {odd.row(0)[:3]}")


def _wrong(path: str, why: str) -> ListError:
    return ListError(
        f"season {path!r} {why}; windows would be compared as if all hours were alike. Make it "
        f"with 'adtally profile'."
    )
