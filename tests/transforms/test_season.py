"""Profiles of the day: what they are made of, how they are read, and what they change."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from adtally.transforms.rules.anomalies import (
    ClickThroughAnomaly,
    ConversionRateAnomaly,
    SpendAnomaly,
    VolumeAnomaly,
)
from adtally.transforms.rules.config import parse_rules
from adtally.transforms.rules.season import (
    MEASURES,
    PROFILE,
    Season,
    at_times,
    profile_of,
    read_season,
)
from adtally.transforms.rules.series import ANOMALY, NORMAL, NOT_ENOUGH, Scores, Series, SeriesRule
from adtally.transforms.rules.user_agents import ListError

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
T0 = 20_000 * DAY
CURVE = np.array([0.5] * 12 + [1.5] * 12)
NONE: dict[str, Any] = {"impressions": 0, "clicks": 0, "conversions": 0, "cost_micros": 0}


def hours(days: int = 3, curve: np.ndarray = CURVE, **mean: float) -> list[dict[str, Any]]:
    """Hours of an advertiser, whose measures have these means."""
    return [
        {"advertiser_id": "a", "currency": "EUR", "hour_start": T0 + day * DAY + hour * HOUR}
        | NONE
        | {name: value * curve[hour] for name, value in mean.items()}
        for day in range(days)
        for hour in range(24)
    ]


def profile(rows: list[dict[str, Any]]) -> dict[tuple[str, str | None], list[float]]:
    found = profile_of(pl.DataFrame(rows, infer_schema_length=None))
    assert found.schema == PROFILE
    return {
        (key[0], key[1]): list(part["factor"])  # type: ignore[misc]
        for key, part in found.group_by("measure", "currency", maintain_order=True)
    }


def test_factors_are_shares_of_the_mean_hour() -> None:
    found = profile(hours(impressions=1000, clicks=100, conversions=60, cost_micros=5e6))
    assert set(found) == {
        ("impressions", None),
        ("clicks", None),
        ("conversions", None),
        ("cost_micros", "EUR"),
    }
    assert all(factors == list(CURVE) for factors in found.values())


@pytest.mark.parametrize(("days", "there"), [(2, False), (3, True)])
def test_three_days_are_needed(days: int, there: bool) -> None:
    assert (("clicks", None) in profile(hours(days, clicks=100))) is there


@pytest.mark.parametrize(("clicks", "there"), [(49.9, False), (50, True)])
def test_a_day_needs_fifty_events_an_hour(clicks: float, there: bool) -> None:
    assert (("clicks", None) in profile(hours(clicks=clicks))) is there


def test_one_odd_day_changes_nothing() -> None:
    rows = hours(5, clicks=100)
    for row in rows[2 * 24 : 2 * 24 + 6]:
        row["clicks"] *= 50
    assert profile(rows)["clicks", None] == list(CURVE)


def test_hours_without_a_row_had_no_events() -> None:
    curve = np.array([0.0] * 6 + [4 / 3] * 18)
    rows = [row for row in hours(curve=curve, clicks=100) if row["clicks"]]
    assert profile(rows)["clicks", None] == [*[0.0] * 6, *[1.333] * 18]


def test_a_measure_too_small_goes_with_what_it_follows() -> None:
    # Or its rate would seem to have a season.
    found = profile(hours(impressions=1000, clicks=10, conversions=1))
    assert found["clicks", None] == found["conversions", None] == found["impressions", None]


def test_money_has_a_season_for_each_currency() -> None:
    rows = hours(clicks=100, cost_micros=1e6)
    rows += [
        row | {"currency": "USD"}
        for row in hours(curve=CURVE[::-1].copy(), clicks=100, cost_micros=1e6)
    ]
    found = profile(rows)
    assert found["cost_micros", "EUR"] == list(CURVE)
    assert found["cost_micros", "USD"] == list(CURVE[::-1])
    assert found["clicks", None] == [1.0] * 24


def test_between_the_middles_of_hours() -> None:
    factors = np.array([np.arange(24.0)])
    middle, quarter, midnight = 2.5 * HOUR, 2.75 * HOUR, 24 * HOUR
    found = at_times(factors, np.array([[T0 + middle, T0 + quarter, T0 + midnight]]))
    assert found.tolist() == [[2.0, 2.25, 11.5]]


def season_of(curve: np.ndarray, measures: tuple[str, ...], folder: Path) -> Season:
    rows = [
        ("a", name, "EUR" if name == "cost_micros" else None, hour, curve[hour], 3)
        for name in measures
        for hour in range(24)
    ]
    path = folder / "season.parquet"
    pl.DataFrame(rows, PROFILE, orient="row").write_parquet(path)
    return read_season(str(path))


def judged(
    rule: SeriesRule, rows: list[dict[str, Any]], season: Season, step: int = MINUTE
) -> list[str]:
    """States of the last of the rows."""
    frame = pl.DataFrame(
        [{"advertiser_id": "a", "currency": "EUR"} | NONE | row for row in rows],
        infer_schema_length=None,
    ).with_columns(
        (pl.col("window") // HOUR * HOUR).alias("history"),
        (pl.col("window") == pl.col("window").max()).alias("judged"),
    )
    found = rule.judge(Series(frame, step, season), Scores(rule.threshold))
    newest = found.filter(pl.col("window") == found["window"].max()).sort("subject")
    return list(newest["state"])


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        (VolumeAnomaly(), {"clicks": 2000}),
        (SpendAnomaly(), {"clicks": 2000, "cost_micros": 10_000_000}),
    ],
)
def test_windows_of_an_hour_are_compared_with_their_own_hour(
    rule: SeriesRule, values: dict[str, int], tmp_path: Path
) -> None:
    def rows(last: float = 1.0) -> list[dict[str, Any]]:
        found = [
            {"window": T0 + hour * HOUR}
            | {name: round(value * CURVE[hour % 24]) for name, value in values.items()}
            for hour in range(61)
        ]
        found[-1] |= {name: round(value * last) for name, value in found[-1].items() if value < T0}
        return found

    season = season_of(CURVE, MEASURES, tmp_path)
    assert ANOMALY in judged(rule, rows(), Season(), HOUR)  # three times the hour before
    assert ANOMALY not in judged(rule, rows(), season, HOUR)
    assert ANOMALY in judged(rule, rows(1.5), season, HOUR)
    assert ANOMALY in judged(rule, rows(0.5), season, HOUR)


def ramp(share: Any, **fields: float) -> list[dict[str, Any]]:
    """An hour of minutes around a full hour, and one more, whose values change with the time."""
    return [
        {"window": T0 + 12 * HOUR + (minute - 30) * MINUTE}
        | {name: round(value * share(minute)) for name, value in fields.items()}
        for minute in range(61)
    ]


def test_a_steep_hour_is_no_anomaly(tmp_path: Path) -> None:
    # From 11:30 to 12:30 the curve climbs from 0.5 to 1.5.
    rows = ramp(lambda minute: 0.5 + (minute + 0.5) / 60, clicks=1000)
    assert judged(VolumeAnomaly(), rows, Season())[0] == NORMAL  # it takes the slope for scatter
    season = season_of(CURVE, MEASURES, tmp_path)
    assert judged(VolumeAnomaly(), rows, season)[0] == NORMAL
    rows[-1]["clicks"] = round(rows[-1]["clicks"] * 1.1)  # 4 of chance's deviations
    assert judged(VolumeAnomaly(), rows, Season())[0] == NORMAL
    assert judged(VolumeAnomaly(), rows, season)[0] == ANOMALY


@pytest.mark.parametrize(
    ("rule", "hits", "trials"),
    [
        (ClickThroughAnomaly(), "clicks", "impressions"),
        (ConversionRateAnomaly(), "conversions", "clicks"),
    ],
)
def test_rates_have_the_season_of_their_measures(
    rule: SeriesRule, hits: str, trials: str, tmp_path: Path
) -> None:
    # The hits have a season and the trials none: the rate has one.
    season = season_of(CURVE, (hits,), tmp_path)
    rows = [
        {"window": T0 + hour * HOUR, trials: 10_000, hits: round(1000 * CURVE[hour % 24])}
        for hour in range(61)
    ]
    assert judged(rule, rows, season, HOUR) == [NORMAL]
    rows[-1][hits] = 500  # as at night
    assert judged(rule, rows, season, HOUR) == [ANOMALY]
    assert judged(rule, rows, Season(), HOUR) == [NORMAL]


def test_hours_without_traffic_say_nothing_of_others(tmp_path: Path) -> None:
    curve = np.array([0.0] * 12 + [2.0] * 12)
    season = season_of(curve, MEASURES, tmp_path)
    rows = [{"window": T0 + 12 * HOUR + minute * MINUTE, "clicks": 5} for minute in range(-80, -20)]
    rows.append({"window": T0 + 12 * HOUR - 20 * MINUTE, "clicks": 1000})
    # From 11:30 on the curve is above 0: less than 20 minutes of the hour before tell anything.
    assert judged(VolumeAnomaly(), rows, season)[0] == NOT_ENOUGH
    assert judged(VolumeAnomaly(), rows, Season())[0] == ANOMALY


def test_others_have_no_season(tmp_path: Path) -> None:
    season = season_of(CURVE, MEASURES, tmp_path)
    series = pl.DataFrame({"advertiser_id": ["b", "a"], "currency": ["EUR", "USD"]})
    assert season.of(series, "clicks").tolist() == [[1.0] * 24, list(CURVE)]
    assert season.of(series, "cost_micros").tolist() == [[1.0] * 24] * 2


def test_it_travels_and_has_a_version(tmp_path: Path) -> None:
    season_of(CURVE, MEASURES, tmp_path)
    text = '[lists]\nseason = "season.parquet"'
    ruleset = parse_rules(text, str(tmp_path / "rules.toml"))
    copy = pickle.loads(pickle.dumps(ruleset))
    assert copy.version == ruleset.version
    assert copy.lists.season.factors.equals(ruleset.lists.season.factors)
    assert parse_rules("").version != ruleset.version
    season_of(CURVE + np.eye(24)[0] / 500, MEASURES, tmp_path)
    assert parse_rules(text, str(tmp_path / "rules.toml")).version != ruleset.version


GOOD = pl.DataFrame(
    [("a", "clicks", None, hour, 1.0, 3) for hour in range(24)], PROFILE, orient="row"
)
AT_3 = pl.col("hour") == 3


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (GOOD.drop("factor"), "has no column factor"),
        (GOOD.with_columns(measure=pl.lit("cliks")), "no factor of a series"),
        (GOOD.with_columns(measure=pl.lit(None, pl.String)), "no factor of a series"),
        (GOOD.with_columns(advertiser_id=pl.lit(None, pl.String)), "no factor of a series"),
        (GOOD.with_columns(currency=pl.lit("EUR")), "no factor of a series"),
        (GOOD.with_columns(measure=pl.lit("cost_micros")), "no factor of a series"),
        (GOOD.with_columns(factor=pl.when(AT_3).then(-0.1).otherwise(1.0)), "no factor"),
        (GOOD.with_columns(factor=pl.when(AT_3).then(24.1).otherwise(1.0)), "no factor"),
        (GOOD.with_columns(factor=pl.when(AT_3).then(float("nan")).otherwise(1.0)), "no factor"),
        (GOOD.with_columns(factor=pl.when(~AT_3).then(1.0)), "no factor"),
        (GOOD.filter(~AT_3), "each hour once"),
        (pl.concat([GOOD, GOOD.filter(AT_3)]), "each hour once"),
        (GOOD.with_columns(hour=pl.col("hour") + 1), "each hour once"),
        (GOOD.with_columns(hour=pl.lit("three")), "another type"),
    ],
)
def test_profiles_that_are_none(frame: pl.DataFrame, message: str, tmp_path: Path) -> None:
    path = tmp_path / "season.parquet"
    frame.write_parquet(path)
    with pytest.raises(ListError, match=message):
        read_season(str(path))


def test_files_that_are_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ListError, match="cannot be read"):
        read_season(str(tmp_path / "nothing.parquet"))
    (tmp_path / "text").write_text("advertiser_id,measure\n")
    with pytest.raises(ListError, match="is no Parquet file"):
        read_season(str(tmp_path / "text"))
    with pytest.raises(ListError, match="cannot be read"):
        parse_rules('[lists]\nseason = "gone.parquet"', str(tmp_path / "rules.toml"))
