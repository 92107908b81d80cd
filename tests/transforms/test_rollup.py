"""Roll-ups equal a tally of the larger window, and panes that come again change nothing."""

import dataclasses
import random
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from adtally.io import schema
from adtally.transforms.rollup import roll_up
from adtally.transforms.rules.ruleset import Ruleset
from adtally.transforms.slices import narrow_schema
from adtally.transforms.tally import TallySpec, tally

MINUTE, HOUR = 60_000, 3_600_000
T0 = 1_709_208_000_000
BASE = TallySpec(MINUTE, HOUR, ("country",), ruleset=Ruleset(window_rules=()), uniques_k=4)
LARGE = dataclasses.replace(BASE, window_ms=HOUR)

Event = dict[str, Any]
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "advertiser_id": st.sampled_from(["a", "b"]),
            "event_type": st.integers(0, 2),
            "event_id": st.sampled_from(["x", "y", "z"]),
            "occurred_at": st.integers(-2 * MINUTE, 5 * MINUTE).map(lambda ms: T0 + ms),
            "currency": st.sampled_from(["EUR", "XXX"]),
            "cost_micros": st.integers(-5, 10**15),
            "revenue_micros": st.integers(0, 5),
            "user_hash": st.one_of(st.none(), st.integers(-6, 6)),
            "country": st.sampled_from([None, "DE"]),
        }
    ),
    min_size=1,
    max_size=30,
).map(lambda rows: [row | {"content_hash": n} for n, row in enumerate(rows)])


def base_rows(events: list[Event], **changes: Any) -> pa.Table:
    """Summaries of base windows; ids are unique to a window, so no duplicate spans two."""
    target = narrow_schema(("country",))
    rows = [
        dict.fromkeys(target.names)
        | e
        | {"event_id": f"{e['event_id']}@{e['occurred_at'] // MINUTE}"}
        for e in events
    ]
    spec = dataclasses.replace(BASE, **changes)
    return tally([pa.Table.from_pylist(rows, target)], spec).summaries


def rolled(*tables: pa.Table, window_ms: int = HOUR) -> pa.Table:
    return roll_up(tables, window_ms, HOUR, ("country",), BASE.uniques_k)


@settings(max_examples=80)
@given(EVENTS)
def test_a_roll_up_equals_the_tally_of_the_larger_window(events: list[Event]) -> None:
    direct = base_rows(events, window_ms=HOUR)
    found = rolled(base_rows(events))
    assert found.schema.equals(schema.summary_schema(("country",)))
    assert found.equals(direct)
    in_two_steps = rolled(rolled(base_rows(events), window_ms=5 * MINUTE))
    assert in_two_steps.equals(found)


@settings(max_examples=60)
@given(EVENTS, st.integers(0, 1000))
def test_panes_that_come_again_change_nothing(events: list[Event], seed: int) -> None:
    dice = random.Random(seed)
    panes = [base_rows(events[:n]) for n in range(1, len(events), 7)]
    last = base_rows(events)
    rows = [*panes, last, last]
    dice.shuffle(rows)
    assert rolled(*rows).equals(rolled(last))


@settings(max_examples=40)
@given(EVENTS)
def test_the_version_rises_with_every_event(events: list[Event]) -> None:
    keys = ("window_start", "advertiser_id", "country", "currency")
    before: dict[tuple, Event] = {}
    for n in range(1, len(events) + 1):
        now = {tuple(r[k] for k in keys): r for r in rolled(base_rows(events[:n])).to_pylist()}
        for key, row in before.items():
            same = {k: v for k, v in row.items() if k != "version"} == {
                k: v for k, v in now[key].items() if k != "version"
            }
            assert now[key]["version"] >= row["version"]
            assert same or now[key]["version"] > row["version"]
        before = now


def test_a_later_generation_wins() -> None:
    event = {"advertiser_id": "a", "event_type": 1, "event_id": "x", "occurred_at": T0}
    event |= {"currency": "EUR", "cost_micros": 1, "revenue_micros": 0, "content_hash": 0}
    old = base_rows([event, event | {"event_id": "y"}])
    new = base_rows([event], generation=2)
    for tables in ((old, new), (new, old)):
        (row,) = rolled(*tables).to_pylist()
        assert (row["clicks"], row["generation"], row["version"]) == (1, 2, (2 << 40) + 1)


def test_users_of_rows_without_any_are_none() -> None:
    event = {"advertiser_id": "a", "event_type": 1, "event_id": "x", "occurred_at": T0}
    event |= {"currency": "EUR", "cost_micros": 1, "revenue_micros": 0, "content_hash": 0}
    with_user = event | {"occurred_at": T0 + MINUTE, "user_hash": 7}
    (row,) = rolled(base_rows([event, with_user])).to_pylist()
    assert (row["unique_users"], row["unique_user_hashes"]) == (1, [7])
    (row,) = rolled(base_rows([event])).to_pylist()
    assert (row["unique_users"], row["unique_user_hashes"]) == (0, [])
