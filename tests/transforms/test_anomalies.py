"""Anomalies of series: just under and over thresholds; what is not enough data; order and parts."""

from __future__ import annotations

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
from adtally.transforms.rules.base import RuleError
from adtally.transforms.rules.series import (
    ANOMALY,
    ENOUGH_WINDOWS,
    NORMAL,
    NOT_ENOUGH,
    Scores,
    Series,
    SeriesRule,
)

MINUTE, HOUR = 60_000, 3_600_000
T0 = 1_709_208_000_000  # a full hour
ALL = (VolumeAnomaly(), ClickThroughAnomaly(), ConversionRateAnomaly(), SpendAnomaly())
Row = dict[str, Any]
TYPES = {
    "advertiser_id": pl.String,
    "currency": pl.String,
    "window": pl.Int64,
    "impressions": pl.Int64,
    "clicks": pl.Int64,
    "conversions": pl.Int64,
    "cost_micros": pl.Int64,
}


def window(minute: int, **fields: Any) -> Row:
    base = {"advertiser_id": "a", "currency": "EUR", "impressions": 0, "clicks": 0}
    base |= {"conversions": 0, "cost_micros": 0}
    return {"window": T0 + minute * MINUTE, **base, **fields}


def verdicts(rule: SeriesRule, rows: list[Row], **overrides: float) -> pl.DataFrame:
    """What a rule says; only windows from T0 on are judged."""
    at = pl.col("window")
    frame = pl.DataFrame(rows, TYPES).with_columns(
        (at // HOUR * HOUR).alias("history"), (at >= T0).alias("judged")
    )
    found = rule.judge(Series(frame, MINUTE), Scores(rule.threshold, overrides))
    return found.sort("advertiser_id", "window", "subject")


def last(rule: SeriesRule, rows: list[Row], **overrides: float) -> list[tuple[Any, ...]]:
    """(subject, value, threshold, state) of the last window."""
    found = verdicts(rule, rows, **overrides)
    found = found.filter(pl.col("window") == found["window"].max())
    return found.select("subject", "count", "threshold", "state").rows()


def steady(*fields: str, value: int = 100, minutes: int = 60) -> list[Row]:
    return [window(n - minutes, **dict.fromkeys(fields, value)) for n in range(minutes)]


@pytest.mark.parametrize("rule", ALL)
def test_nothing_gives_nothing_and_context_alone_neither(rule: SeriesRule) -> None:
    assert verdicts(rule, []).height == 0
    assert verdicts(rule, steady("impressions", "clicks")).height == 0


@pytest.mark.parametrize(
    ("value", "state"), [(135, NORMAL), (136, ANOMALY), (65, NORMAL), (64, ANOMALY), (0, ANOMALY)]
)
def test_a_volume_beyond_what_chance_makes(value: int, state: str) -> None:
    # 100 a minute without scatter: the scale is chance, 10; 3.5 of it are 35.
    rows = [*steady("impressions"), window(0, impressions=value, conversions=9)]
    (_, found) = last(VolumeAnomaly(), rows)
    assert found == ("impressions", value, 136 if value > 100 else 64, state)


def test_series_that_scatter_have_a_wider_scale() -> None:
    # Half of the windows 20 above, half 20 below: the median deviation is 20.
    rows = [window(n - 60, clicks=100 + 20 * (-1) ** n) for n in range(60)]
    scale = 1.4826 * 20
    over = int(100 + 3.5 * scale) + 1
    assert last(VolumeAnomaly(), [*rows, window(0, clicks=over)])[0] == (
        ("clicks", over, over, ANOMALY)
    )
    assert last(VolumeAnomaly(), [*rows, window(0, clicks=over - 1)])[0][3] == NORMAL


def test_one_outlier_in_the_past_changes_nothing() -> None:
    rows = steady("clicks")
    rows[30]["clicks"] = 1_000_000
    assert last(VolumeAnomaly(), [*rows, window(0, clicks=136)])[0][3] == ANOMALY
    assert last(VolumeAnomaly(), [*rows, window(0, clicks=135)])[0][3] == NORMAL


@pytest.mark.parametrize(("known", "state"), [(ENOUGH_WINDOWS - 1, NOT_ENOUGH), (20, ANOMALY)])
def test_too_few_windows_are_not_enough_data(known: int, state: str) -> None:
    rows = [*steady("clicks", minutes=known), window(0, clicks=1_000)]
    assert last(VolumeAnomaly(), rows)[0][3] == state


def test_windows_before_the_sixty_do_not_count() -> None:
    rows = [*(row | {"window": row["window"] - HOUR} for row in steady("clicks", value=1_000))]
    rows += [*steady("clicks"), window(0, clicks=200)]
    assert last(VolumeAnomaly(), rows)[0] == ("clicks", 200, 136, ANOMALY)


@pytest.mark.parametrize(("value", "state"), [(49, NOT_ENOUGH), (50, ANOMALY)])
def test_too_little_volume_is_not_enough_data(value: int, state: str) -> None:
    rows = [*steady("clicks", value=10), window(0, clicks=value)]
    rows += [window(-61, clicks=60)]  # or the series would not be looked at
    assert last(VolumeAnomaly(), rows)[0][3] == state


def test_an_advertiser_that_is_silent_for_a_while_is_seen_when_it_is_back() -> None:
    rows = [*steady("clicks"), window(0, clicks=100), window(3, clicks=100)]
    found = verdicts(VolumeAnomaly(), rows).filter(pl.col("subject") == "clicks")
    assert found["state"].to_list() == [NORMAL, ANOMALY, ANOMALY, NORMAL]
    assert found["count"].to_list() == [100, 0, 0, 100]
    assert verdicts(VolumeAnomaly(), rows[:-1])["window"].max() == T0


def test_silence_at_the_beginning_of_an_hour_is_seen_too() -> None:
    found = verdicts(VolumeAnomaly(), [*steady("clicks"), window(2, clicks=100)])
    found = found.filter(pl.col("subject") == "clicks")
    assert found["state"].to_list() == [ANOMALY, ANOMALY, NORMAL]


# sivt_ctr_anomaly, sivt_conversion_rate_anomaly


@pytest.mark.parametrize(
    ("rule", "hits", "trials"),
    [
        (ClickThroughAnomaly(), "clicks", "impressions"),
        (ConversionRateAnomaly(), "conversions", "clicks"),
    ],
)
def test_a_rate_beyond_what_chance_makes(rule: SeriesRule, hits: str, trials: str) -> None:
    past = [window(n - 60, **{trials: 1_000, hits: 100}) for n in range(60)]
    over = int(200 + 3.5 * np.sqrt(2_000 * 0.1 * 0.9)) + 1
    for value, state in ((over, ANOMALY), (over - 1, NORMAL)):
        (found,) = last(rule, [*past, window(0, **{trials: 2_000, hits: value})])
        assert found == (f"{hits} per {trials[:-1]}", value, over, state)
    # With the volume that rises alike there is no anomaly of the rate.
    assert last(rule, [*past, window(0, **{trials: 9_000, hits: 900})])[0][3] == NORMAL
    few = window(0, **{trials: 99, hits: 99})
    assert last(rule, [*past, few])[0][3] == NOT_ENOUGH


def test_rates_that_scatter_beyond_chance_have_a_wider_scale() -> None:
    past = [window(n - 60, impressions=1_000, clicks=100 + 60 * (-1) ** n) for n in range(60)]
    rows = [*past, window(0, impressions=1_000, clicks=170)]
    assert last(ClickThroughAnomaly(), rows)[0][3] == NORMAL
    assert last(ClickThroughAnomaly(), [*past, window(0, impressions=1_000, clicks=900)])[0][3] == (
        ANOMALY
    )


def test_clicks_where_there_never_was_one() -> None:
    past = steady("impressions", value=1_000)
    assert last(ClickThroughAnomaly(), [*past, window(0, impressions=1_000)])[0][3] == NORMAL
    robots = window(0, impressions=1_000, clicks=50)
    assert last(ClickThroughAnomaly(), [*past, robots])[0][3] == ANOMALY


@pytest.mark.parametrize("usual", [600, 900])
def test_rates_above_half_that_fall_to_a_tenth(usual: int) -> None:
    past = [window(n - 60, clicks=1_000, conversions=usual) for n in range(60)]
    rule = ConversionRateAnomaly()
    assert last(rule, [*past, window(0, clicks=1_000, conversions=usual)])[0][3] == NORMAL
    assert last(rule, [*past, window(0, clicks=200_000, conversions=usual * 200)])[0][3] == NORMAL
    assert last(rule, [*past, window(0, clicks=1_000, conversions=100)])[0][3] == ANOMALY


# sivt_spend_anomaly


def test_refunds_lie_below_nothing() -> None:
    past = [window(n - 60, impressions=100, cost_micros=1_000) for n in range(60)]
    (found,) = last(SpendAnomaly(), [*past, window(0, impressions=100, cost_micros=-50_000)])
    assert found == ("EUR", -50_000, 649, ANOMALY)


def test_spend_is_judged_by_currency() -> None:
    rows = [
        window(n - 60, impressions=100, cost_micros=cost, currency=currency)
        for n in range(60)
        for currency, cost in (("EUR", 1_000_000), ("JPY", 500))
    ]
    rows += [window(0, impressions=100, cost_micros=1_350_000)]
    rows += [window(0, impressions=100, cost_micros=676, currency="JPY")]
    assert last(SpendAnomaly(), rows) == [
        ("EUR", 1_350_000, 1_350_001, NORMAL),
        ("JPY", 676, 676, ANOMALY),
    ]


def test_money_beyond_what_floats_hold_is_not_changed() -> None:
    rows = [*steady("impressions"), window(0, impressions=100, cost_micros=2**62 + 1)]
    rows = [row | {"cost_micros": row["cost_micros"] or 2**61} for row in rows]
    (found,) = last(SpendAnomaly(), rows)
    assert found[1] == 2**62 + 1


# All


def test_advertisers_have_their_own_thresholds() -> None:
    rows = [
        row | {"advertiser_id": name}
        for name in "ab"
        for row in [*steady("clicks"), window(0, clicks=150)]
    ]
    found = verdicts(VolumeAnomaly(), rows, a=6.0).filter(pl.col("subject") == "clicks")
    assert dict(found.select("advertiser_id", "state").rows()) == {"a": NORMAL, "b": ANOMALY}


def test_order_and_currencies_change_nothing_about_volume() -> None:
    rng = np.random.default_rng(1)
    rows = [
        window(n - 60, advertiser_id=name, currency=currency, clicks=int(rng.poisson(80)))
        for n in range(90)
        for name in "abc"
        for currency in ("EUR", "USD")
    ]
    expected = verdicts(VolumeAnomaly(), rows)
    rng.shuffle(rows)  # type: ignore[arg-type]
    assert verdicts(VolumeAnomaly(), rows).equals(expected)
    summed = [row | {"currency": "EUR"} for row in rows]
    assert verdicts(VolumeAnomaly(), summed).equals(expected)


def test_against_medians_written_out() -> None:
    rng = np.random.default_rng(2)
    values = rng.negative_binomial(5, 0.05, 120)
    rows = [window(n - 60, clicks=int(value)) for n, value in enumerate(values)]
    found = verdicts(VolumeAnomaly(), rows).filter(pl.col("subject") == "clicks")
    for n, (score, expected) in enumerate(found.select("score", "expected").rows()):
        past = sorted(int(value) for value in values[n : n + 60])
        middle = (past[29] + past[30]) / 2
        away = sorted(abs(value - middle) for value in past)
        scale = max(1.4826 * (away[29] + away[30]) / 2, middle**0.5, 1)
        assert expected == middle
        assert score == pytest.approx((values[n + 60] - middle) / scale)


@pytest.mark.parametrize("rule", [type(rule) for rule in ALL])
def test_settings_that_cannot_work_are_refused(rule: Any) -> None:
    with pytest.raises(RuleError, match="threshold 0 would flag every window"):
        rule(threshold=0)
    with pytest.raises(RuleError, match="minimum 4 is too little"):
        rule(minimum=4)


@pytest.mark.parametrize("rule", [type(rule) for rule in ALL])
@pytest.mark.parametrize("threshold", [float("inf"), 1e19])
def test_thresholds_that_nothing_reaches_are_refused(rule: Any, threshold: float) -> None:
    with pytest.raises(RuleError, match="would flag no window"):
        rule(threshold=threshold)
