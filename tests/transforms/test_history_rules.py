"""Rules that look back: just under and over their thresholds; what is not enough data."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from adtally.transforms.rules.base import Limits, RuleError
from adtally.transforms.rules.click_flooding import ClickFlooding
from adtally.transforms.rules.click_injection import ClickInjection
from adtally.transforms.rules.click_without_impression import ClickWithoutImpression
from adtally.transforms.rules.history import History, HistoryRule
from adtally.transforms.rules.ruleset import HISTORY_RULES
from adtally.transforms.rules.user_rate import ClickRateUser, ImpressionRateUser

MINUTE, HOUR = 60_000, 3_600_000
T0 = 1_709_208_000_000  # a full hour
IMPRESSION, CLICK, CONVERSION = 0, 1, 2
Event = dict[str, Any]
TYPES = {
    "event_type": pl.Int8,
    "occurred_at": pl.Int64,
    "advertiser_id": pl.String,
    "event_id": pl.String,
    "content_hash": pl.Int64,
    "user_id": pl.String,
    "impression_id": pl.String,
    "click_id": pl.String,
    "publisher_id": pl.String,
    "counted": pl.Boolean,
}


def event(kind: int, at: float, **fields: Any) -> Event:
    """An event some seconds after T0."""
    base = {"advertiser_id": "a", "publisher_id": "p"}
    return {"event_type": kind, "occurred_at": T0 + round(at * 1000), **base, **fields}


def click(at: float, **fields: Any) -> Event:
    return event(CLICK, at, **fields)


def history(events: list[Event], since: int = T0) -> History:
    """Events as a rule sees them; those before ``since`` are only known."""
    rows = [{"event_id": f"e{n:04d}", "counted": True} | one for n, one in enumerate(events)]
    at = pl.col("occurred_at")
    seen = (
        pl.DataFrame(rows, TYPES)
        .with_row_index("row")
        .with_columns(
            pl.col("content_hash").fill_null(pl.col("row").cast(pl.Int64)),
            pl.col("user_id").hash().reinterpret(signed=True).alias("user_hash"),
            (at // MINUTE * MINUTE).alias("window"),
            (at // HOUR * HOUR).alias("history"),
            (at >= since).alias("judged"),
        )
    )
    return History(seen.filter("counted"), seen, HOUR)


def flags(rule: HistoryRule, events: list[Event], **overrides: int) -> list[tuple[Any, ...]]:
    """(minute, subject type, subject, count, threshold) of each flag."""
    found = rule.judge(history(events), Limits(rule.threshold, overrides))
    assert found.flags["count"].sum() == found.rows.len() == found.rows.n_unique()
    minute = (pl.col("window") - T0) // MINUTE
    columns = ("subject_type", "subject", "count", "threshold")
    return sorted(found.flags.select(minute, *columns).rows())


@pytest.mark.parametrize("rule", [rule() for rule in HISTORY_RULES])
def test_nothing_gives_nothing(rule: HistoryRule) -> None:
    assert flags(rule, []) == []


# givt_click_rate_user, givt_impression_rate_user


@pytest.mark.parametrize(
    ("rule", "kind"), [(ClickRateUser(), CLICK), (ImpressionRateUser(), IMPRESSION)]
)
def test_events_after_the_threshold_within_three_minutes_are_flagged(
    rule: HistoryRule, kind: int
) -> None:
    most = rule.threshold
    step = 179.9 / most  # the first and the last of most + 1 events are just under 180 s apart
    over = [event(kind, n * step, user_id="u") for n in range(most + 1)]
    assert flags(rule, over) == [(2, "user", "u", 1, most)]
    assert flags(rule, over[:-1]) == []
    under = [event(kind, n * 180 / most, user_id="u") for n in range(most + 1)]
    assert flags(rule, under) == []
    assert flags(rule, [one | {"event_type": 1 - kind} for one in over]) == []


def test_users_and_advertisers_are_apart_and_unknown_users_are_not_judged() -> None:
    clicks = [click(n, user_id=f"u{n % 2}") for n in range(20)]
    clicks += [click(n, advertiser_id="b", user_id="u0") for n in range(10)]
    assert flags(ClickRateUser(), clicks) == []
    assert flags(ClickRateUser(), [click(n) for n in range(40)]) == []
    assert flags(ClickRateUser(), [click(n / 10, user_id="u") for n in range(40)]) == [
        (0, "user", "u", 30, 10)
    ]


def test_a_rate_goes_on_over_the_hour_and_only_judged_events_are_flagged() -> None:
    clicks = [click(n * 10 - 90, user_id="u") for n in range(12)]
    assert flags(ClickRateUser(), clicks) == [(0, "user", "u", 2, 10)]
    assert flags(ClickRateUser(), [one | {"counted": n > 1} for n, one in enumerate(clicks)]) == []


def test_thresholds_of_advertisers() -> None:
    clicks = [click(n, user_id="u", advertiser_id=name) for name in "ab" for n in range(6)]
    assert flags(ClickRateUser(), clicks, a=5) == [(0, "user", "u", 1, 5)]
    assert flags(ClickRateUser(threshold=3), clicks, a=100) == [(0, "user", "u", 3, 3)]


# sivt_click_without_impression


def shown(at: float, name: str, **fields: Any) -> Event:
    return event(IMPRESSION, at, event_id=name, **fields)


OLD = shown(-3600, "old")  # makes impressions known for long enough


@pytest.mark.parametrize(
    ("before", "is_flagged"),
    [(0, False), (3600, False), (3600.001, True), (-10, False), (-11, True)],
)
def test_the_impression_was_seen_in_the_hour_before(before: float, is_flagged: bool) -> None:
    at = 1800
    events = [OLD, shown(at - before, "i"), click(at, impression_id="i")]
    assert flags(ClickWithoutImpression(), events) == [(30, "publisher", "p", 1, 0)] * is_flagged


@pytest.mark.parametrize(("known", "is_flagged"), [(1800, True), (1799.999, False)])
def test_impressions_have_to_be_known_for_half_an_hour(known: float, is_flagged: bool) -> None:
    events = [shown(60 - known, "i"), click(60, impression_id="none")]
    assert bool(flags(ClickWithoutImpression(), events)) is is_flagged


def test_what_is_not_enough_data_for_a_missing_impression() -> None:
    rule = ClickWithoutImpression()
    assert flags(rule, [OLD, click(60)]) == []
    assert flags(rule, [click(60, impression_id="none")]) == []
    other = shown(-3600, "old", advertiser_id="b")
    assert flags(rule, [other, click(60, impression_id="none")]) == []
    longer_ago = shown(-3601, "old")
    assert flags(rule, [longer_ago, click(60, impression_id="none")]) == []


def test_the_impression_of_another_advertiser_or_the_next_hour_does_not_count() -> None:
    rule = ClickWithoutImpression()
    others = shown(50, "i", advertiser_id="b")
    assert len(flags(rule, [OLD, others, click(60, impression_id="i")])) == 1
    late = [OLD, click(3599, impression_id="i"), shown(3601, "i")]
    assert len(flags(rule, late)) == 1


def test_a_copy_of_an_impression_is_seen_and_a_click_is_no_impression() -> None:
    rule = ClickWithoutImpression()
    copy = shown(50, "i", counted=False)
    assert flags(rule, [OLD, copy, click(60, impression_id="i")]) == []
    self_made = click(60, impression_id="c", event_id="c")
    assert len(flags(rule, [OLD, self_made])) == 1


def test_some_clicks_without_impression_can_be_let_pass() -> None:
    events = [OLD, *(click(60 + n, impression_id="none") for n in range(3))]
    events += [click(70, impression_id="none", publisher_id=None)]
    rule = ClickWithoutImpression()
    assert flags(rule, events) == [(1, "advertiser", "a", 1, 0), (1, "publisher", "p", 3, 0)]
    assert flags(ClickWithoutImpression(threshold=2), events) == [(1, "publisher", "p", 3, 2)]
    assert flags(rule, events, a=3) == []


# sivt_click_injection


@pytest.mark.parametrize(
    ("delay", "is_flagged"), [(0, True), (1.999, True), (2, False), (-0.001, False)]
)
def test_a_conversion_right_after_its_click(delay: float, is_flagged: bool) -> None:
    at = 60.5
    events = [click(at, event_id="c"), event(CONVERSION, at + delay, click_id="c")]
    assert flags(ClickInjection(), events) == [(1, "publisher", "p", 1, 2000)] * is_flagged
    assert bool(flags(ClickInjection(), events, a=1)) is (delay == 0)


def test_what_is_not_enough_data_for_an_injected_click() -> None:
    rule = ClickInjection()
    conversion = event(CONVERSION, 61, click_id="c")
    assert flags(rule, [conversion]) == []
    assert flags(rule, [click(60, event_id="c"), event(CONVERSION, 61)]) == []
    one_record = {"content_hash": 7}
    events = [click(61, event_id="c") | one_record, conversion | one_record]
    assert flags(rule, events) == []
    whole_minutes = [click(60, event_id="c"), event(CONVERSION, 60, click_id="c")]
    assert flags(rule, whole_minutes) == []
    others = click(60, event_id="c", advertiser_id="b")
    assert flags(rule, [others, conversion]) == []


def test_the_click_may_be_in_the_hour_before_or_a_copy() -> None:
    events = [click(-0.5, event_id="c"), event(CONVERSION, 0.5, click_id="c")]
    assert len(flags(ClickInjection(), events)) == 1
    assert len(flags(ClickInjection(), [events[0] | {"counted": False}, events[1]])) == 1
    assert flags(ClickInjection(), [events[0], events[1] | {"counted": False}]) == []


# sivt_click_flooding


@pytest.mark.parametrize(
    ("clicks", "conversions", "is_flagged"),
    [(10, 1, False), (11, 1, True), (20, 2, False), (21, 2, True), (10, 0, False), (11, 0, True)],
)
def test_very_many_clicks_per_conversion(clicks: int, conversions: int, is_flagged: bool) -> None:
    events = [click(n) for n in range(clicks)]
    events += [event(CONVERSION, n) for n in range(conversions)]
    events += [event(CONVERSION, 5, publisher_id="other")]
    found = flags(ClickFlooding(threshold=10), events)
    assert found == [(0, "publisher", "p", clicks, 10)] * is_flagged


def test_what_is_not_enough_data_for_a_flood() -> None:
    rule = ClickFlooding(threshold=10)
    clicks = [click(n) for n in range(50)]
    assert flags(rule, clicks) == []  # conversions are not tracked
    nowhere = event(CONVERSION, 5, publisher_id=None)
    assert flags(rule, [*clicks, nowhere]) == []
    unknown = [one | {"publisher_id": None} for one in clicks]
    tracked = event(CONVERSION, 5, publisher_id="q")
    assert flags(rule, [*unknown, tracked]) == []
    assert flags(rule, [*clicks, tracked | {"advertiser_id": "b"}]) == []


def test_a_flood_is_one_of_an_hour_and_of_one_publisher() -> None:
    tracked = [event(CONVERSION, at, publisher_id="q") for at in (5, 3700)]
    apart = [click(3590 + n, publisher_id="p") for n in range(20)]
    assert flags(ClickFlooding(threshold=10), [*apart, *tracked]) == []
    two = [click(n, publisher_id=f"p{n % 2}") for n in range(20)]
    assert flags(ClickFlooding(threshold=10), [*two, *tracked]) == []


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (ClickRateUser, 0),
        (ImpressionRateUser, -1),
        (ClickWithoutImpression, -1),
        (ClickInjection, 0),
        (ClickInjection, 180_001),
        (ClickFlooding, 0),
    ],
)
def test_thresholds_that_cannot_work_are_refused(rule: Any, value: int) -> None:
    with pytest.raises(RuleError, match=f"threshold {value}"):
        rule(threshold=value)
