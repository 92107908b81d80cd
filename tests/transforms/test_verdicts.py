"""Verdicts depend on the set of events alone: not on how it was cut, ordered or seen before."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from adtally.io import schema
from adtally.transforms.rules.click_flooding import ClickFlooding
from adtally.transforms.rules.click_injection import ClickInjection
from adtally.transforms.rules.click_without_impression import ClickWithoutImpression
from adtally.transforms.rules.ruleset import AdvertiserRules, Ruleset
from adtally.transforms.rules.user_rate import ClickRateUser, ImpressionRateUser
from adtally.transforms.slices import HistoryCut, SliceSpec, slice_events
from adtally.transforms.tally import TallySpec
from adtally.transforms.verdicts import VerdictSpec, judge_history

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
T0 = 1_709_164_800_000  # a full day
RULES = Ruleset(
    history_rules=(
        ClickRateUser(2),
        ImpressionRateUser(2),
        ClickWithoutImpression(),
        ClickInjection(60_000),
        ClickFlooding(2),
    ),
    advertisers={"b": AdvertiserRules(allow_users=frozenset({"u1"}))},
)
TALLY = TallySpec(MINUTE, HOUR, ("country",), ruleset=RULES)
Row = dict[str, Any]

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "event_type": st.sampled_from(schema.EVENT_TYPES),
            "advertiser_id": st.sampled_from(["a", "b"]),
            "event_id": st.sampled_from([f"e{n}" for n in range(12)]),
            # Around full hours, where what came before lies in another window.
            "occurred_at": st.builds(
                lambda hour, at: T0 + hour * HOUR + at,
                st.sampled_from([22, 23, 24, 25]),
                st.one_of(
                    st.integers(-200_000, 200_000), st.integers(0, HOUR), st.just(-30 * MINUTE)
                ),
            ),
            "user_id": st.sampled_from([None, "u1", "u2"]),
            "impression_id": st.sampled_from([None, "e1", "e2", "none"]),
            "click_id": st.sampled_from([None, "e1", "e2", "e3"]),
            "publisher_id": st.sampled_from([None, "p"]),
            "country": st.sampled_from([None, "DE"]),
            "currency": st.sampled_from([None, "EUR"]),
            "cost_micros": st.integers(0, 9),
            "content_hash": st.integers(0, 3),
            "ivt_reasons": st.sampled_from([None, None, ["givt_invalid_ua"]]),
        }
    ),
    max_size=60,
)


def events(rows: list[Row]) -> pa.Table:
    base = dict.fromkeys(schema.EVENT_SCHEMA.names) | {"source": "s", "record_index": 0}
    full = [base | row for row in rows]
    columns = [pa.array([row[f.name] for row in full], f.type) for f in schema.EVENT_SCHEMA]
    return pa.table(columns, schema=schema.EVENT_SCHEMA)


def judged(rows: list[Row], beam_window_ms: int, parts: int = 1, **options: Any) -> list[Row]:
    """Verdicts of events that come in some batches, in Beam windows of a length."""
    cut = HistoryCut(HOUR, beam_window_ms)
    spec = SliceSpec(
        MINUTE, DAY if beam_window_ms == DAY else MINUTE, None, ("country",), 2, allow=RULES,
        history=cut, keep_position=True, ranges=options.get("ranges", ()),
    )  # fmt: skip
    groups: dict[tuple[int, int], tuple[list[pa.Table], list[pa.Table]]] = {}
    numbered = [{"position": n} | row for n, row in enumerate(rows)]
    for part in range(parts):
        sliced = slice_events(events(numbered[part::parts]), spec)
        for kind, slices in enumerate((sliced.slices, sliced.context)):
            for one in slices:
                key = (one.shard, one.window_start_ms // beam_window_ms)
                groups.setdefault(key, ([], []))[kind].append(one.table)
    verdicts = VerdictSpec(TALLY, cut, **options)
    found = [judge_history(own, before, verdicts) for own, before in groups.values()]
    return sorted(
        (row for table in found for row in table.to_pylist()),
        key=lambda row: (row["window_start"], row["advertiser_id"]),
    )


@settings(max_examples=80)
@given(ROWS, st.integers(1, 5), st.randoms(use_true_random=False), st.booleans())
def test_hours_give_what_days_give(
    rows: list[Row], parts: int, shuffler: random.Random, keep_empty: bool
) -> None:
    whole = judged(rows, DAY, keep_empty=keep_empty)
    assert judged(rows, HOUR, parts, keep_empty=keep_empty) == whole
    again = [row | {"position": n} for n, row in enumerate(rows)]
    shuffler.shuffle(again)
    assert judged(again, HOUR, keep_empty=keep_empty) == whole


@settings(max_examples=50)
@given(ROWS, st.integers(21, 25), st.integers(1, 4))
def test_a_range_gives_its_part_of_the_whole(rows: list[Row], first: int, hours: int) -> None:
    low, high = T0 + first * HOUR, T0 + (first + hours) * HOUR
    expected = [
        row for row in judged(rows, DAY) if low <= row["window_start"].timestamp() * 1000 < high
    ]
    for beam_window_ms in (DAY, HOUR):
        assert judged(rows, beam_window_ms, ranges=((low, high),)) == expected
    cut = ((low - 30 * MINUTE, high + 30 * MINUTE),)
    assert judged(rows, DAY, ranges=cut) == expected


@settings(max_examples=50)
@given(ROWS, st.integers(0, 60))
def test_more_events_give_a_higher_version_of_the_same_windows(rows: list[Row], some: int) -> None:
    def versions(seen: list[Row]) -> dict[tuple[Any, str], int]:
        found = judged(seen, HOUR, keep_empty=True)
        return {(row["window_start"], row["advertiser_id"]): row["version"] for row in found}

    after = versions(rows)
    for key, version in versions(rows[:some]).items():
        assert after[key] >= version


def test_an_event_that_summaries_call_invalid_is_adjusted_no_more() -> None:
    base = {"advertiser_id": "a", "event_type": "click", "user_id": "u", "cost_micros": 5}
    base |= {"currency": "EUR", "country": "DE", "content_hash": 1}
    rows = [base | {"event_id": f"e{n}", "occurred_at": T0 + 90_000 * n} for n in range(3)]
    rows = [row | {"occurred_at": T0 + 80_000 * n} for n, row in enumerate(rows)]
    (one,) = judged(rows, HOUR)
    (flag,) = one["flags"]
    assert (flag["rule"], flag["count"], flag["evidence"]) == ("givt_click_rate_user", 1, ["e2"])
    (adjustment,) = one["adjustments"]
    assert adjustment["givt_clicks"] == 1
    assert adjustment["givt_cost_micros"] == 5
    assert adjustment["sivt_clicks"] == 0
    assert (adjustment["country"], adjustment["currency"]) == ("DE", "EUR")
    assert adjustment["adjusted_at"].timestamp() * 1000 == T0 + 2 * MINUTE
    rows[2]["ivt_reasons"] = ["givt_invalid_ua"]
    (one,) = judged(rows, HOUR)
    assert len(one["flags"]) == 1
    assert one["adjustments"] == []


def test_a_user_that_no_rule_judges_has_no_verdict() -> None:
    base = {"event_type": "click", "content_hash": 1, "user_id": "u1", "advertiser_id": "b"}
    rows = [base | {"event_id": f"e{n}", "occurred_at": T0 + n} for n in range(5)]
    assert judged(rows, HOUR) == []
    assert len(judged([row | {"user_id": "u2"} for row in rows], HOUR)) == 1
    (empty,) = judged(rows, HOUR, keep_empty=True)
    assert (empty["flags"], empty["adjustments"], empty["version"]) == ([], [], 5)
