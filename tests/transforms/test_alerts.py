"""What receivers are told, pane by pane: the comparison, without Beam."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtally.transforms.alert_records import (
    Alert,
    RateLimit,
    Record,
    Row,
    Source,
    Suppressed,
    Verdict,
    count_kinds,
)
from adtally.transforms.alerts import AlertSpec, Memory, compare
from tests.alert_schemas import check

START = 1_772_366_400_000  # 2026-03-01T12:00:00Z
MINUTE = 60_000
SPEC = AlertSpec()


def flag(
    subject: str = "203.0.113.7", rule: str = "givt_click_rate_ip", count: int = 31
) -> Verdict:
    kind = "advertiser" if rule == "givt_invalid_ua" else "ip"
    return Verdict(START, START + MINUTE, rule, "GIVT", kind, subject, count, 30, ["a", "b"])


def row(version: int, *verdicts: Verdict, advertiser: str = "acme", **more: Any) -> Row:
    return Row(advertiser, START, START + MINUTE, version, list(verdicts), "2-abc", **more)


def told(memory: Memory, pane: Row, spec: AlertSpec = SPEC) -> list[Record]:
    """What a pane says, after the memory went through its own serialisation."""
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=Memory)
    records = compare(stored, pane, spec)
    for name in memory.__struct_fields__:
        setattr(memory, name, getattr(stored, name))
    for record in records:
        check(json.loads(record.to_json()))
    return records


def shown(records: list[Record]) -> list[tuple[Any, ...]]:
    return [
        (type(one).__name__, one.count)
        if isinstance(one, Suppressed)
        else (type(one).__name__, one.state, one.subject)
        for one in records
    ]


def test_a_flag_is_raised_once_over_many_panes() -> None:
    memory = Memory()
    first = told(memory, row(40, flag()))
    assert shown(first) == [
        ("Alert", "raised", "203.0.113.7"),
        ("RateLimit", "limited", "203.0.113.7"),
    ]
    for version in range(41, 60):
        assert told(memory, row(version, flag(count=version))) == []


def test_a_record_says_what_it_is_about() -> None:
    alert, limit = (json.loads(one.to_json()) for one in told(Memory(), row(40, flag())))
    assert (
        alert.items()
        >= {
            "kind": "alert",
            "state": "raised",
            "advertiser_id": "acme",
            "window_start": "2026-03-01T12:00:00.000Z",
            "window_end": "2026-03-01T12:01:00.000Z",
            "rule": "givt_click_rate_ip",
            "count": 31,
            "threshold": 30,
            "version": 40,
            "ruleset_version": "2-abc",
        }.items()
    )
    assert (
        limit.items()
        >= {
            "kind": "rate_limit",
            "state": "limited",
            "subject_type": "ip",
            "subject": "203.0.113.7",
            "event_type": "click",
            "until": "2026-03-01T12:11:00.000Z",
            "reasons": [{"rule": "givt_click_rate_ip", "count": 31, "threshold": 30}],
        }.items()
    )


def test_a_flag_that_falls_is_withdrawn_and_may_be_raised_again() -> None:
    memory = Memory()
    raised = told(memory, row(1, flag()))
    withdrawn = told(memory, row(2))
    assert shown(withdrawn) == [
        ("Alert", "withdrawn", "203.0.113.7"),
        ("RateLimit", "withdrawn", "203.0.113.7"),
    ]
    limit = withdrawn[1]
    assert isinstance(limit, RateLimit)
    assert (limit.until, limit.reasons) == ("2026-03-01T12:00:00.000Z", [])
    assert told(memory, row(3)) == []
    again = told(memory, row(4, flag()))
    assert [one.key for one in raised] == [one.key for one in withdrawn]
    assert [one.key for one in raised] == [one.key for one in again]
    assert len({one.id for one in (*raised, *withdrawn, *again)}) == 6


def test_a_pane_that_saw_no_more_events_changes_nothing() -> None:
    memory = Memory()
    assert len(told(memory, row(9))) == 0
    assert told(memory, row(8, flag())) == []
    assert told(memory, row(9, flag())) == []
    assert len(told(memory, row(10, flag()))) == 2
    assert told(memory, row(9)) == []


def test_a_bundle_that_is_run_again_gives_the_same_bytes() -> None:
    first, again = (
        [one.to_json() for one in told(Memory(), row(40, flag(), flag("b")))] for _ in range(2)
    )
    assert first == again


def test_ids_tell_advertisers_windows_rules_and_subjects_apart() -> None:
    one = row(1, flag(), flag("b"), flag(rule="givt_duplicate_click"))
    next_minute = {"start_ms": START + MINUTE, "end_ms": START + 2 * MINUTE}
    verdicts = [msgspec.structs.replace(verdict, **next_minute) for verdict in one.verdicts]
    later = msgspec.structs.replace(one, **next_minute, verdicts=verdicts)
    other = msgspec.structs.replace(one, advertiser_id="other")
    records = [record for pane in (one, later, other) for record in told(Memory(), pane)]
    assert len({record.id for record in records}) == len(records) == 15


def test_a_subject_with_two_flags_is_limited_until_both_have_fallen() -> None:
    memory = Memory()
    both = told(memory, row(1, flag(), flag(rule="givt_regular_interval")))
    (limit,) = (one for one in both if isinstance(one, RateLimit))
    assert sorted(reason["rule"] for reason in limit.reasons) == [
        "givt_click_rate_ip",
        "givt_regular_interval",
    ]
    assert shown(told(memory, row(2, flag()))) == [("Alert", "withdrawn", "203.0.113.7")]
    assert [type(one) for one in told(memory, row(3))] == [Alert, RateLimit]


@pytest.mark.parametrize("rule", ["givt_invalid_ua", "givt_duplicate_click"])
def test_single_events_and_second_clicks_limit_nobody(rule: str) -> None:
    (alert,) = told(Memory(), row(1, flag(rule=rule)))
    assert isinstance(alert, Alert)
    assert alert.rule == rule


def test_what_was_not_read_from_its_first_event_is_not_raised_but_withdrawn() -> None:
    hour = START + 60 * MINUTE
    spec = AlertSpec(from_ms=START, look_back_from_ms=hour)
    assert len(told(Memory(), row(1, flag()), spec)) == 2
    assert told(Memory(), row(1, flag()), AlertSpec(from_ms=START + 1)) == []
    assert told(Memory(), hourly(1, of_user(59)), spec) == []
    assert told(Memory(), of_series(1, anomaly(over=False)), spec) == []
    assert len(told(Memory(), hourly(1, of_user(59), of_user(60)), spec)) == 2
    # After a savepoint: what was told before is known, and may fall.
    memory = Memory()
    told(memory, hourly(1, of_user(3)))
    assert told(memory, hourly(2, of_user(3)), spec) == []
    assert len(told(memory, hourly(3), spec)) == 2


# What rules that look back find, and anomalies.


def hourly(version: int, *verdicts: Verdict, source: Source = Source.VERDICTS) -> Row:
    """A pane of the hour that the minute lies in."""
    return Row("acme", START, START + 60 * MINUTE, version, list(verdicts), "2-abc", source)


def of_user(minute: int, count: int = 11) -> Verdict:
    window = (START + minute * MINUTE, START + (minute + 1) * MINUTE)
    return Verdict(*window, "givt_click_rate_user", "GIVT", "user", "u", count, 10, ["a"])


def test_flags_of_an_hour_are_told_of_the_base_windows_that_they_are_about() -> None:
    memory = Memory()
    first = told(memory, hourly(40, of_user(3)))
    assert [(type(one), one.window_start) for one in first] == [
        (Alert, "2026-03-01T12:03:00.000Z"),
        (RateLimit, "2026-03-01T12:03:00.000Z"),
    ]
    second = told(memory, hourly(60, of_user(3), of_user(40)))
    assert [(type(one), one.window_end) for one in second] == [
        (Alert, "2026-03-01T12:41:00.000Z"),
        (RateLimit, "2026-03-01T12:41:00.000Z"),
    ]
    assert isinstance(second[1], RateLimit)
    assert second[1].until == "2026-03-01T12:51:00.000Z"
    assert len({one.key for one in (*first, *second)}) == 4
    assert shown(told(memory, hourly(70, of_user(40)))) == [
        ("Alert", "withdrawn", "u"),
        ("RateLimit", "withdrawn", "u"),
    ]


def test_limits_of_different_sources_do_not_lift_each_other() -> None:
    """Their versions count other events, so the highest of both would say nothing."""
    of_base = told(Memory(), row(1, of_user(0)))
    of_hour = told(Memory(), hourly(1_000, of_user(0)))
    limits = [one.key for one in (*of_base, *of_hour) if isinstance(one, RateLimit)]
    assert len(set(limits)) == 2


def anomaly(*, over: bool, minutes: int = 1) -> Verdict:
    window = (START, START + minutes * MINUTE)
    about = ("sivt_volume_anomaly", "SIVT", "series", "clicks")
    return Verdict(*window, *about, 600, 85, [], over)


def of_series(version: int, *verdicts: Verdict) -> Row:
    return hourly(version, *verdicts, source=Source.ANOMALIES)


def test_an_anomaly_starts_and_ends_and_may_go_on() -> None:
    memory = Memory()
    assert shown(told(memory, of_series(1, anomaly(over=False)))) == [("Alert", "raised", "clicks")]
    assert told(memory, of_series(2, anomaly(over=False, minutes=4))) == []
    (ended,) = told(memory, of_series(3, anomaly(over=True, minutes=4)))
    assert isinstance(ended, Alert)
    assert (ended.state, ended.window_end) == ("ended", "2026-03-01T12:04:00.000Z")
    assert told(memory, of_series(4, anomaly(over=True, minutes=4))) == []
    (moved,) = told(memory, of_series(5, anomaly(over=True, minutes=3)))
    assert isinstance(moved, Alert)
    assert (moved.key, moved.window_end) == (ended.key, "2026-03-01T12:03:00.000Z")
    again = told(memory, of_series(7, anomaly(over=False, minutes=9)))
    assert shown(again) == [("Alert", "raised", "clicks")]
    assert again[0].key == ended.key
    assert shown(told(memory, of_series(8))) == [("Alert", "withdrawn", "clicks")]


def test_an_anomaly_that_is_over_when_it_is_seen_is_told_once() -> None:
    memory = Memory()
    assert shown(told(memory, of_series(1, anomaly(over=True)))) == [("Alert", "ended", "clicks")]
    assert told(memory, of_series(2, anomaly(over=True))) == []
    assert shown(told(memory, of_series(3))) == [("Alert", "withdrawn", "clicks")]


# The limit.


def test_above_the_limit_the_worst_are_raised_and_the_others_counted() -> None:
    memory, spec = Memory(), AlertSpec(most=2)
    attack = [flag(str(number), count=100 + number) for number in range(10)]
    first = told(memory, row(1, *attack), spec)
    assert shown(first)[:3] == [
        ("Alert", "raised", "9"),
        ("Alert", "raised", "8"),
        ("Suppressed", 8),
    ]
    assert sorted(shown(first)[3:]) == [
        ("RateLimit", "limited", "8"),
        ("RateLimit", "limited", "9"),
    ]
    assert told(memory, row(2, *attack, flag("10")), spec) == []
    many = [*attack, *(flag(f"more {number}") for number in range(8))]
    assert shown(told(memory, row(3, *many), spec)) == [("Suppressed", 16)]
    assert sorted(shown(told(memory, row(4), spec))) == [
        ("Alert", "withdrawn", "8"),
        ("Alert", "withdrawn", "9"),
        ("RateLimit", "withdrawn", "8"),
        ("RateLimit", "withdrawn", "9"),
        ("Suppressed", 0),
    ]
    assert shown(told(memory, row(5, flag("9")), spec)) == [("Suppressed", 1)]
    assert memory.suppressed_most == 16


def test_what_can_be_throttled_comes_first_and_each_minute_has_room() -> None:
    spec = AlertSpec(most=2)
    loud = [
        msgspec.structs.replace(
            of_user(minute, count=10_000), rule="sivt_click_flooding", subject=at
        )
        for minute in range(3)
        for at in "abc"
    ]
    found = told(Memory(), hourly(1, *loud, of_user(1), of_user(2, count=12)), spec)
    alerts = [(one.window_start[14:16], one.subject) for one in found if isinstance(one, Alert)]
    assert [minute for minute, _ in sorted(alerts)] == ["00", "00", "01", "01", "02", "02"]
    assert {("01", "u"), ("02", "u")} <= set(alerts)
    # A user with twice the threshold comes before one with a higher count and threshold.
    slow = msgspec.structs.replace(of_user(0, count=300), threshold=290, subject="slow")
    (first, *_) = told(Memory(), hourly(1, slow, of_user(0, count=20)), AlertSpec(most=1))
    assert isinstance(first, Alert)
    assert first.subject == "u"


def test_what_is_suppressed_is_told_in_steps_of_two() -> None:
    memory, spec = Memory(), AlertSpec(most=1)
    said = []
    for version in range(1, 1_001):
        records = told(memory, row(version, *(flag(str(n)) for n in range(version))), spec)
        said += [one.count for one in records if isinstance(one, Suppressed)]
    assert said == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_an_attack_costs_a_receiver_a_bounded_number_of_records() -> None:
    rng = random.Random(1)
    memory, spec = Memory(), AlertSpec(most=5)
    records: list[Record] = []
    for version in range(300):
        subjects = rng.sample(range(1_000), rng.randrange(40))
        records += told(memory, row(version, *(flag(str(one)) for one in subjects)), spec)
    counts = count_kinds(records)
    assert counts["alerts_sent"] == 5
    assert counts["alerts_withdrawn"] <= 5
    assert counts["rate_limits_sent"] <= 10
    assert len(memory.flags) <= 5
    assert len({one.id for one in records}) == len(records)


# Quotas.


def quota(count: int, measure: str = "clicks", advertiser: str = "acme") -> Verdict:
    about = (f"quota_{measure}", "", "advertiser", advertiser)
    return Verdict(START, START + MINUTE, *about, count, 20)


def test_a_quota_limits_the_advertiser_once_and_raises_no_alert() -> None:
    memory = Memory()
    (limit,) = told(memory, row(21, quota(21), source=Source.QUOTAS))
    assert isinstance(limit, RateLimit)
    assert (limit.subject_type, limit.subject, limit.event_type) == ("advertiser", "acme", "click")
    assert limit.reasons == [{"rule": "quota_clicks", "count": 21, "threshold": 20}]
    assert told(memory, row(30, quota(30), source=Source.QUOTAS)) == []
    (other,) = told(memory, row(31, quota(30), quota(21, "impressions"), source=Source.QUOTAS))
    assert isinstance(other, RateLimit)
    assert other.event_type == "impression"


def test_all_quotas_are_told_whatever_the_limit_of_alerts_is() -> None:
    both = row(30, quota(30), quota(21, "impressions"), source=Source.QUOTAS)
    assert len(told(Memory(), both, AlertSpec(most=1))) == 2


# Any order.

PANES = st.lists(
    st.lists(st.sampled_from("abcdef"), unique=True, max_size=6), min_size=1, max_size=12
)


@given(panes=PANES, order=st.randoms(use_true_random=False), most=st.integers(1, 20))
def test_receivers_that_keep_the_highest_version_of_a_key_know_what_holds(
    panes: list[list[str]], order: random.Random, most: int
) -> None:
    """Panes come out of order and twice; the newest of those that came is what stands."""
    rows = [row(at, *map(flag, subjects)) for at, subjects in enumerate(panes)]
    rows += order.choices(rows, k=3)
    order.shuffle(rows)
    memory, records = Memory(), []
    for pane in rows:
        records += told(memory, pane, AlertSpec(most=most))
    order.shuffle(records)
    newest: dict[str, Any] = {}
    for record in records:
        if record.key not in newest or newest[record.key].version < record.version:
            newest[record.key] = record
    raised = {
        one.subject for one in newest.values() if isinstance(one, Alert) and one.state == "raised"
    }
    limited = {
        one.subject
        for one in newest.values()
        if isinstance(one, RateLimit) and one.state == "limited"
    }
    assert raised == limited
    assert raised <= set(panes[-1])
    left = len(panes[-1]) - len(raised)
    counts = [one.count for one in newest.values() if isinstance(one, Suppressed)]
    assert left / 2 <= sum(counts) <= left * 2


@pytest.mark.parametrize("bad", [{"most": 0}, {"hold_ms": -1}])
def test_settings_that_tell_nothing_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give"):
        AlertSpec(**bad)
