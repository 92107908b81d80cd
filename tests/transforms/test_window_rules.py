"""Rules within windows: under, at and over the threshold; what is judged, and what is unknown."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from adtally.transforms.rules.addresses import Networks, network
from adtally.transforms.rules.base import EVIDENCE_EVENTS, Limits, RuleError, WindowRule
from adtally.transforms.rules.click_rate_ip import ClickRateIp
from adtally.transforms.rules.duplicate_click import DuplicateClick
from adtally.transforms.rules.regular_interval import RegularInterval
from adtally.transforms.rules.ruleset import WINDOW_RULES, AdvertiserRules, Ruleset

MINUTE = 60_000
T0 = 1_709_208_000_000  # a full minute
Click = dict[str, Any]


def click(at: float, **fields: Any) -> Click:
    """A click some seconds after T0."""
    base = {"advertiser_id": "a", "ip": "1.1.1.1", "user_id": None, "creative_hash": 1}
    return {"occurred_at": T0 + round(at * 1000), **base, **fields}


def table(clicks: list[Click]) -> pl.DataFrame:
    types = {
        "occurred_at": pl.Int64,
        "advertiser_id": pl.String,
        "ip": pl.String,
        "user_id": pl.String,
        "creative_hash": pl.Int64,
        "event_id": pl.String,
        "counted": pl.Boolean,
    }
    rows = [{"event_id": f"e{n:03d}", "counted": True} | one for n, one in enumerate(clicks)]
    window = pl.col("occurred_at") // MINUTE * MINUTE
    return pl.DataFrame(rows, types).with_columns(
        window.alias("window"), pl.int_range(pl.len(), dtype=pl.UInt32).alias("row")
    ).with_columns(content_hash=pl.col("row").cast(pl.Int64))  # fmt: skip


def flags(rule: WindowRule, clicks: list[Click], **overrides: int) -> list[tuple[Any, ...]]:
    """(advertiser, subject, count, threshold) of each flag."""
    found = rule.judge(table(clicks), Limits(rule.threshold, overrides))
    assert found.flags["count"].sum() == found.rows.len() == found.rows.n_unique()
    columns = ("advertiser_id", "subject", "count", "threshold")
    return sorted(found.flags.select(columns).rows())


@pytest.mark.parametrize("rule", [rule() for rule in WINDOW_RULES])
def test_nothing_and_unknown_clicks_are_not_judged(rule: WindowRule) -> None:
    limits = Limits(rule.threshold)
    assert rule.judge(table([]), limits).rows.len() == 0
    assert rule.suspects(table([]), limits).height == 0
    unknown = [click(n, ip=None) for n in range(50)]
    assert flags(rule, unknown) == []


# givt_click_rate_ip


@pytest.mark.parametrize(("count", "is_flagged"), [(29, False), (30, False), (31, True)])
def test_only_more_clicks_than_the_threshold_are_flagged(count: int, is_flagged: bool) -> None:
    found = flags(ClickRateIp(), [click(n) for n in range(count)])
    assert found == [("a", "1.1.1.1", 31, 30)] * is_flagged


def test_addresses_advertisers_and_windows_are_judged_apart() -> None:
    apart = [click(n % 2 * 60 + n, ip=f"1.1.1.{n % 3}") for n in range(36)]
    apart += [click(n, advertiser_id="b") for n in range(6)]
    assert flags(ClickRateIp(threshold=6), apart) == []
    assert len(flags(ClickRateIp(threshold=5), apart)) == 7


def test_thresholds_of_advertisers_are_stricter_or_more_generous() -> None:
    clicks = [click(n, advertiser_id=name) for name in ("less", "more", "other") for n in range(5)]
    rule = ClickRateIp(threshold=5)
    assert flags(rule, clicks, less=4, more=9) == [("less", "1.1.1.1", 5, 4)]
    assert flags(ClickRateIp(threshold=4), clicks, less=4, more=5) == [
        ("less", "1.1.1.1", 5, 4),
        ("other", "1.1.1.1", 5, 4),
    ]


def test_evidence_is_the_least_ids_sorted() -> None:
    found = ClickRateIp(threshold=3).judge(table([click(n) for n in range(9)][::-1]), Limits(3))
    assert found.flags["evidence"].to_list() == [[f"e{n:03d}" for n in range(EVIDENCE_EVENTS)]]


# givt_duplicate_click


def test_the_second_click_within_a_minute_is_invalid_and_the_first_is_not() -> None:
    first, second = click(1, user_id="u"), click(59.999, user_id="u")
    assert flags(DuplicateClick(), [first, second]) == [("a", "u", 1, 1)]
    found = DuplicateClick().judge(table([second, first]), Limits(1))
    assert found.rows.to_list() == [0], "the later one, wherever it stands"
    assert flags(DuplicateClick(), [first, click(60, user_id="u")]) == []
    assert flags(DuplicateClick(threshold=2), [first, second]) == []
    assert flags(DuplicateClick(), [first, second], a=2) == []


def test_what_is_no_duplicate_click() -> None:
    one = click(1, user_id="u")
    for other in (
        click(2, user_id="v"),
        click(2, user_id="u", creative_hash=2),
        click(2, user_id="u", advertiser_id="b"),
        click(2),  # the same address, but nobody is named: another subject
        click(2, user_id="u", creative_hash=None),
    ):
        assert flags(DuplicateClick(), [one, other]) == []
    assert flags(DuplicateClick(), [click(1), click(2)]) == [("a", "1.1.1.1", 1, 1)]
    text_alike = [click(1, user_id="1.1.1.1"), click(2)]
    assert flags(DuplicateClick(), text_alike) == [], "a user is no address"


# givt_regular_interval


def test_equal_intervals_are_invalid_from_the_fifth_click_on() -> None:
    steady = [click(0.137 + n * 7) for n in range(8)]
    assert flags(RegularInterval(), steady[:4]) == []
    assert flags(RegularInterval(), steady[:5]) == [("a", "1.1.1.1", 5, 5)]
    assert flags(RegularInterval(), steady, a=9) == []


@pytest.mark.parametrize(("jitter", "is_flagged"), [(0.86, True), (0.87, False)])
def test_intervals_may_vary_by_a_tenth_and_no_more(jitter: float, is_flagged: bool) -> None:
    # The deviation of four intervals of 10 s, plus and minus j, is j * sqrt(4 / 3).
    times, at = [0.001], 0.001
    for n in range(4):
        at += 10 + (jitter if n % 2 else -jitter)
        times.append(at)
    found = flags(RegularInterval(), [click(at) for at in times])
    assert bool(found) == is_flagged


def test_a_clock_that_is_too_coarse_is_not_enough_data() -> None:
    seconds = [click(n * 9) for n in range(6)]
    assert flags(RegularInterval(), seconds) == [], "nine steps of a clock of seconds"
    assert flags(RegularInterval(), [click(n * 10) for n in range(6)]) != []
    minutes = [click(0) for n in range(6)]
    assert flags(RegularInterval(), minutes) == [], "all in one minute, which is all that is known"
    assert flags(RegularInterval(), [click(0.005 + n * 0.009) for n in range(6)]) == []


def test_a_rhythm_that_more_clicks_break_stays_suspicious() -> None:
    broken = [click(n * 10) for n in range(6)] + [click(3.3), click(4)]
    rule = RegularInterval()
    assert flags(rule, broken) == []
    assert rule.suspects(table(broken), Limits(5)).rows() == [("a", T0)]
    assert rule.suspects(table(broken[:4]), Limits(5)).rows() == []


# Suspects: what a copy that is not counted may have been.


@pytest.mark.parametrize("rule", [ClickRateIp(threshold=2), DuplicateClick()])
def test_a_window_is_suspicious_only_where_a_click_came_twice(rule: WindowRule) -> None:
    clicks = [click(1, user_id="u"), click(2, user_id="u"), click(3, user_id="u")]
    limits = Limits(rule.threshold)
    assert rule.suspects(table(clicks), limits).height == 0
    copied = [*clicks, click(4, user_id="w", ip="9.9.9.9", event_id="e000", counted=False)]
    assert rule.suspects(table(copied), limits).rows() == [("a", T0)]


# Rulesets.


def test_a_rule_is_switched_off_for_an_advertiser_or_for_all() -> None:
    clicks = [click(n, advertiser_id=name) for name in ("a", "b") for n in range(40)]
    rules = (ClickRateIp(),)
    off = {"a": AdvertiserRules(off=frozenset({"givt_click_rate_ip"}))}
    found, rows = Ruleset(window_rules=rules, advertisers=off).judge_clicks(table(clicks))
    assert found["advertiser_id"].to_list() == ["b"]
    assert rows.len() == 40
    found, rows = Ruleset(window_rules=()).judge_clicks(table(clicks))
    assert (found.height, rows.len()) == (0, 0)


def test_allowed_users_and_addresses_are_judged_by_no_rule() -> None:
    clicks = table([click(0, ip="10.0.0.0"), click(1, ip="10.0.0.1", user_id="t"), click(2)])
    office = AdvertiserRules(allow_ips=Networks(frozenset({network("10.0.0.0/31")})))
    assert Ruleset(advertisers={"b": office}).allowed(clicks).to_list() == [False] * 3
    assert Ruleset(advertisers={"a": office}).allowed(clicks).to_list() == [True, True, False]
    one = AdvertiserRules(allow_ips=Networks(frozenset({network("10.0.0.0")})))
    assert Ruleset(advertisers={"a": one}).allowed(clicks).to_list() == [True, False, False]
    tester = AdvertiserRules(allow_users=frozenset({"t"}))
    assert Ruleset(advertisers={"a": tester}).allowed(clicks).to_list() == [False, True, False]


@pytest.mark.parametrize(
    ("rule", "value"), [(ClickRateIp, 0), (DuplicateClick, -1), (RegularInterval, 2)]
)
def test_a_threshold_that_would_flag_everything_is_refused(rule: Any, value: int) -> None:
    with pytest.raises(RuleError, match=f"threshold {value} would flag every event"):
        rule(threshold=value)
