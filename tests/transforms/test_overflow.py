"""Rows beyond the limit are one: held against a fold of single events, in any order and pane."""

import dataclasses
import random
from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adtally.io import schema
from adtally.transforms.rollup import roll_up
from adtally.transforms.tally import TallySpec, tally
from tests.transforms.test_tally import (
    DIMENSIONS,
    EVENTS,
    MINUTE,
    SPEC,
    T0,
    Event,
    event,
    in_slices,
    plain,
    reference,
    table,
)

HOUR = 60 * MINUTE
MOST = st.integers(1, 3)


def key(e: Event, *names: str) -> tuple[Any, ...]:
    return tuple((e[name] is not None, e[name]) for name in (*names, "currency"))


def folded(events: list[Event], most: int, window_ms: int = MINUTE) -> list[Event]:
    """Events whose dimensions are those of their row, one event at a time."""
    seen: dict[tuple, Counter] = defaultdict(Counter)
    for e in events:
        place = (e["advertiser_id"], e["occurred_at"] // window_ms)
        if {e[name] for name in DIMENSIONS} != {"__other__"}:
            seen[place][key(e, *DIMENSIONS)] += 1
    kept = {
        place: sorted(counts, key=lambda one: (-counts[one], one))[:most]
        for place, counts in seen.items()
    }
    others = dict.fromkeys(DIMENSIONS, "__other__")
    return [
        e
        if key(e, *DIMENSIONS) in kept.get((e["advertiser_id"], e["occurred_at"] // window_ms), ())
        else e | others
        for e in events
    ]


@settings(max_examples=120)
@given(EVENTS, st.integers(0, 1000), MOST)
def test_the_fold_equals_that_of_single_events(events: list[Event], seed: int, most: int) -> None:
    spec = dataclasses.replace(SPEC, max_rows=most, generation=seed % 2)
    result = tally(in_slices(events, seed), spec)
    assert plain(result) == reference(folded(events, most), SPEC_OF[seed % 2])
    own: dict[tuple, set] = defaultdict(set)
    for e in events:
        own[e["advertiser_id"], e["occurred_at"] // MINUTE].add(key(e, *DIMENSIONS))
    assert result.folded.height == sum(max(0, len(rows) - most) for rows in own.values())
    assert result.folded["seen"].sum() == sum(
        e["campaign_id"] == "__other__" for e in folded(events, most)
    )


SPEC_OF = (SPEC, dataclasses.replace(SPEC, generation=1))


@settings(max_examples=60)
@given(EVENTS, MOST)
def test_sums_flags_and_versions_of_an_advertiser_are_as_without_a_limit(
    events: list[Event], most: int
) -> None:
    names = [name for name in schema.MEASURES if name != "unique_users"]

    def sums(rows: list[Event]) -> dict[tuple, Any]:
        found: dict[tuple, Counter] = defaultdict(Counter)
        for row in rows:
            place = (row["advertiser_id"], row["window_start"], row["currency"], row["version"])
            found[place].update({name: row[name] for name in names})
        return found

    limited = plain(tally([table(events)], dataclasses.replace(SPEC, max_rows=most)))
    free = plain(tally([table(events)], SPEC))
    assert limited[1] == free[1]
    assert sums(limited[0]) == sums(free[0])


def test_what_is_kept_has_seen_most_then_comes_first() -> None:
    events = [event(event_id=f"{name}{n}", campaign_id=name) for name in "cb" for n in range(2)]
    events += [event(event_id=f"x{name}", campaign_id=name) for name in ("z", "", "é", "aa", "a")]
    events.append(event(event_id="none"))  # of no campaign: null comes first
    spec = TallySpec(MINUTE, 0, ("campaign_id",), max_rows=5)
    rows, _ = plain(tally([table(events, ("campaign_id",))], spec))
    kept = {row["campaign_id"]: row["clicks"] for row in rows}
    assert kept == {None: 1, "": 1, "a": 1, "b": 2, "c": 2, "__other__": 3}
    assert spec.max_rows + 1 == len(rows)


def test_money_is_folded_by_currency_and_users_count_once() -> None:
    events = [
        event(event_id=str(n), campaign_id=f"c{n}", currency=("EUR", "USD")[n % 2], user_hash=7)
        for n in range(9)
    ]
    events += [event(event_id=f"k{n}", campaign_id="known") for n in range(3)]
    spec = TallySpec(MINUTE, 0, ("campaign_id",), max_rows=1)
    rows, _ = plain(tally([table(events, ("campaign_id",))], spec))
    found = [(r["campaign_id"], r["currency"], r["clicks"], r["unique_users"]) for r in rows]
    assert found == [("__other__", "EUR", 5, 1), ("__other__", "USD", 4, 1), ("known", "EUR", 3, 0)]


def test_events_that_say_the_reserved_value_meet_the_folded_row_and_take_no_place() -> None:
    events = [event(event_id=f"o{n}", campaign_id="__other__") for n in range(4)]
    events += [event(event_id=str(n), campaign_id=f"c{n}") for n in range(3)]
    spec = TallySpec(MINUTE, 0, ("campaign_id",), max_rows=2)
    rows, _ = plain(tally([table(events, ("campaign_id",))], spec))
    assert {r["campaign_id"]: r["clicks"] for r in rows} == {"__other__": 5, "c0": 1, "c1": 1}


def test_without_dimensions_or_limit_nothing_is_folded() -> None:
    events = [event(event_id=str(n), campaign_id=f"c{n}") for n in range(5)]
    (row,), _ = plain(tally([table(events, ())], TallySpec(MINUTE, 0, max_rows=1)))
    assert row["clicks"] == 5
    free = TallySpec(MINUTE, 0, ("campaign_id",))
    rows, _ = plain(tally([table(events, ("campaign_id",))], free))
    assert len(rows) == 5


def rolled(tables: list[pa.Table], most: int) -> list[Event]:
    lateness_ms, k = SPEC.allowed_lateness_ms, SPEC.uniques_k
    return roll_up(tables, HOUR, lateness_ms, DIMENSIONS, k, most).to_pylist()


@settings(max_examples=80)
@given(EVENTS, st.integers(0, 1000), MOST)
def test_a_roll_up_folds_to_the_limit_again_whatever_panes_came_before(
    events: list[Event], seed: int, most: int
) -> None:
    spec = dataclasses.replace(SPEC, max_rows=most)
    events = [e | {"event_id": f"{e['event_id']}@{e['occurred_at'] // MINUTE}"} for e in events]
    cuts = random.Random(seed).sample(range(1, len(events) + 1), min(3, len(events)))
    last = tally([table(events)], spec).summaries
    panes = [tally([table(events[:cut])], spec).summaries for cut in cuts]
    dice = random.Random(seed)
    shuffled = dice.sample([*panes, last, last], len(panes) + 2)
    found = rolled(shuffled, most)
    # The hour's rows are those of events folded twice; givt is what the minutes say.
    twice = folded(folded(events, most), most, HOUR)
    names = ("impressions", "clicks", "conversions", "duplicates", "cost_micros", "unique_users")
    expected, _ = reference(twice, dataclasses.replace(SPEC, window_ms=HOUR))
    same = [*DIMENSIONS, "advertiser_id", "currency", "window_start", "version", *names]
    assert [[row[n] for n in same] for row in found] == [[row[n] for n in same] for row in expected]
    assert found == rolled([last], most)


@pytest.mark.parametrize("most", [1, 5, 0])
def test_an_hour_of_minutes_at_the_limit_has_no_more_rows_than_a_minute(most: int) -> None:
    events = [
        event(event_id=str(n), campaign_id=str(n), occurred_at=T0 + n // 10 * MINUTE)
        for n in range(100)
    ]
    spec = TallySpec(MINUTE, 0, ("campaign_id",), max_rows=most)
    base = tally([table(events, ("campaign_id",))], spec).summaries
    hour = roll_up([base], HOUR, 0, ("campaign_id",), max_rows=most)
    assert (base.num_rows, hour.num_rows) == ((10 * (most + 1), most + 1) if most else (100, 100))
    assert sum(hour["clicks"].to_pylist()) == 100
