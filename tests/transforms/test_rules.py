"""Click rate per address: under, at and over the threshold; what is judged and shown."""

import pickle
from typing import Any

import polars as pl
import pytest

from adtally.transforms.rules import EVIDENCE_EVENTS, ClickRateIp, Ruleset, click_rate_ip


def clicks(*groups: tuple[str, int, str | None, int]) -> pl.DataFrame:
    rows = [
        (advertiser, window, ip, f"{advertiser}{window}{ip}-{n:03d}")
        for advertiser, window, ip, count in groups
        for n in reversed(range(count))
    ]
    names = {"advertiser_id": pl.String, "window": pl.Int64, "ip": pl.String, "event_id": pl.String}
    return pl.DataFrame(rows, names, orient="row")


def flagged(rule: ClickRateIp, *groups: tuple[str, int, str | None, int]) -> list[dict[str, Any]]:
    return click_rate_ip(clicks(*groups), rule).to_dicts()


@pytest.mark.parametrize(
    ("count", "is_flagged"), [(1, False), (29, False), (30, False), (31, True)]
)
def test_only_more_than_the_threshold_is_flagged(count: int, is_flagged: bool) -> None:
    found = flagged(ClickRateIp(), ("a", 0, "1.1.1.1", count))
    assert [(row["count"], row["threshold"]) for row in found] == [(31, 30)] * is_flagged


def test_addresses_advertisers_and_windows_are_judged_apart() -> None:
    rule = ClickRateIp(threshold=3)
    assert (
        flagged(rule, ("a", 0, "x", 3), ("a", 0, "y", 3), ("a", 1, "x", 3), ("b", 0, "x", 3)) == []
    )
    found = flagged(rule, ("b", 0, "x", 4), ("a", 1, "x", 5), ("a", 0, "y", 4), ("a", 0, "x", 3))
    keys = [(row["advertiser_id"], row["window"], row["ip"], row["count"]) for row in found]
    assert keys == [("a", 0, "y", 4), ("a", 1, "x", 5), ("b", 0, "x", 4)]


def test_overrides_are_stricter_or_more_generous() -> None:
    rule = ClickRateIp(threshold=3, overrides={"strict": 1, "generous": 5})
    groups = [(name, 0, "x", count) for name in ("strict", "generous", "other") for count in (2,)]
    assert [row["advertiser_id"] for row in flagged(rule, *groups)] == ["strict"]
    groups = [(name, 0, "x", 5) for name in ("strict", "generous", "other")]
    found = {row["advertiser_id"]: row["threshold"] for row in flagged(rule, *groups)}
    assert found == {"strict": 1, "other": 3}
    assert [r["threshold"] for r in flagged(rule, ("generous", 0, "x", 6))] == [5]


def test_clicks_without_an_address_are_not_judged() -> None:
    assert flagged(ClickRateIp(threshold=1), ("a", 0, None, 50)) == []
    assert flagged(ClickRateIp()) == []


def test_evidence_is_the_least_ids_sorted() -> None:
    (row,) = flagged(ClickRateIp(threshold=1), ("a", 0, "x", 9), ("a", 0, None, 9))
    assert row["evidence"] == [f"a0x-{n:03d}" for n in range(EVIDENCE_EVENTS)]
    (row,) = flagged(ClickRateIp(threshold=1), ("a", 0, "x", 2))
    assert row["evidence"] == ["a0x-000", "a0x-001"]


def test_the_version_changes_with_any_threshold_and_with_nothing_else() -> None:
    rules = [
        ClickRateIp(),
        ClickRateIp(31),
        ClickRateIp(30, {"a": 5}),
        ClickRateIp(30, {"a": 6}),
        ClickRateIp(30, {"b": 5}),
        ClickRateIp(30, {"a": 5, "b": 5}),
    ]
    assert len({Ruleset(rule).version for rule in rules}) == len(rules)
    one = Ruleset(ClickRateIp(30, {"a": 5, "b": 6})).version
    assert Ruleset(ClickRateIp(30, {"b": 6, "a": 5})).version == one
    assert Ruleset(pickle.loads(pickle.dumps(ClickRateIp(30, {"a": 5, "b": 6})))).version == one


@pytest.mark.parametrize("options", [{"threshold": 0}, {"overrides": {"acme": -1}}])
def test_a_threshold_below_one_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"threshold (0|-1) \((default|acme)\).*at least 1"):
        ClickRateIp(**options)
