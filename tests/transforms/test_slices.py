"""Slices: nothing lost, each in exactly one window, late by the event alone, under 100 bytes."""

import random
import uuid
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from adtally.io import schema
from adtally.io.arrow import to_ipc
from adtally.transforms.rules.addresses import Networks, network
from adtally.transforms.rules.ruleset import AdvertiserRules, Ruleset
from adtally.transforms.slices import SliceSpec, narrow_schema, slice_events

MINUTE, HOUR = 60_000, 3_600_000
T0 = 1_709_208_000_000
SPEC = SliceSpec(MINUTE, HOUR, 5 * MINUTE, ("country",))


def events(*rows: dict[str, Any]) -> pa.Table:
    base = {
        "event_type": "click",
        "occurred_at": T0,
        "advertiser_id": "a",
        "source": "s",
        "record_index": 0,
        "content_hash": 1,
    }
    full = [
        dict.fromkeys(schema.EVENT_SCHEMA.names) | base | {"event_id": f"e{n}", "position": n} | row
        for n, row in enumerate(rows)
    ]
    columns = [pa.array([row[f.name] for row in full], f.type) for f in schema.EVENT_SCHEMA]
    return pa.table(columns, schema=schema.EVENT_SCHEMA)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "advertiser_id": st.sampled_from(["a", "b", "c", "é"]),
            "occurred_at": st.integers(-2 * HOUR, 2 * HOUR).map(lambda ms: T0 + ms),
            "received_at": st.one_of(
                st.none(), st.integers(-HOUR, 3 * HOUR).map(lambda ms: T0 + ms)
            ),
            "user_id": st.sampled_from([None, "u"]),
        }
    ),
    max_size=20,
)


@settings(max_examples=60)
@given(ROWS, st.sampled_from([(), ((T0 - HOUR, T0), (T0 + 1, T0 + HOUR))]), st.booleans())
def test_nothing_is_lost(rows: list[dict[str, Any]], ranges: Any, counts_late: bool) -> None:
    spec = SliceSpec(MINUTE, HOUR, None if counts_late else 5 * MINUTE, (), 4, ranges)
    sliced = slice_events(events(*rows), spec)
    inside, late, outside = set(), set(), 0
    for n, row in enumerate(rows):
        occurred, received = row["occurred_at"], row["received_at"]
        deadline = occurred // MINUTE * MINUTE + 6 * MINUTE
        if ranges and not any(low <= occurred < high for low, high in ranges):
            outside += 1
        elif not counts_late and received is not None and received > deadline:
            late.add(f"e{n}")
        else:
            inside.add(f"e{n}")
    found = [name for part in sliced.slices for name in part.table["event_id"].to_pylist()]
    assert sorted(found) == sorted(inside)
    assert sorted(sliced.late["event_id"].to_pylist()) == sorted(late)
    assert sliced.out_of_range == outside
    keys = [(part.shard, part.window_start_ms) for part in sliced.slices]
    assert len(keys) == len(set(keys))
    for part in sliced.slices:
        assert part.table.schema.equals(narrow_schema(()))
        assert part.window_start_ms % HOUR == 0
        times = part.table["occurred_at"].to_pylist()
        assert {at // HOUR * HOUR for at in times} == {part.window_start_ms}
        shards = {
            xxhash.xxh3_64_intdigest(name.encode()) % 4
            for name in part.table["advertiser_id"].to_pylist()
        }
        assert shards == {part.shard}


def test_columns_of_a_slice() -> None:
    table = events(
        {"event_type": "impression", "ip": "1.1.1.1", "country": "DE", "user_id": "u1"},
        {"ip": "1.1.1.1", "currency": "EUR", "cost_micros": 5, "revenue_micros": -6},
        {"event_type": "conversion", "ip": "1.1.1.1", "content_hash": -7},
    )
    (part,) = slice_events(table, SPEC).slices
    first, second, third = part.table.to_pylist()
    assert [row["event_type"] for row in (first, second, third)] == [0, 1, 2]
    assert [row["ip"] for row in (first, second, third)] == [None, "1.1.1.1", None]
    assert first["user_hash"] % (1 << 64) == xxhash.xxh3_64_intdigest(b"u1")
    assert second["user_hash"] is None
    assert (first["currency"], second["currency"]) == ("XXX", "EUR")
    assert (first["cost_micros"], second["cost_micros"], second["revenue_micros"]) == (0, 5, -6)
    assert (first["country"], second["country"], third["content_hash"]) == ("DE", None, -7)
    assert "position_hash" not in part.table.column_names


def test_shards_are_the_same_in_every_process_and_release() -> None:
    names = ["acme", "globex", "é"]
    sliced = slice_events(events(*({"advertiser_id": name} for name in names)), SPEC)
    found = {part.table["advertiser_id"][0].as_py(): part.shard for part in sliced.slices}
    assert found == {"acme": 1, "globex": 15, "é": 3}


@pytest.mark.parametrize(
    ("received", "late"),
    [
        (None, False),
        (T0 - HOUR, False),
        (T0 + MINUTE + 5 * MINUTE, False),  # just at the deadline
        (T0 + MINUTE + 5 * MINUTE + 1, True),
    ],
)
def test_late_is_beyond_the_end_of_the_window_and_the_allowed_lateness(
    received: int | None, late: bool
) -> None:
    for occurred in (T0, T0 + MINUTE - 1):
        sliced = slice_events(events({"occurred_at": occurred, "received_at": received}), SPEC)
        assert sliced.late.num_rows == int(late)
        assert len(sliced.slices) == int(not late)
        if late:
            (row,) = sliced.late.to_pylist()
            assert row["window_start"] == pa.scalar(T0, schema.TIMESTAMP).as_py()
            assert sliced.late.column_names == [*schema.EVENT_SCHEMA.names, "window_start"]
    always = SliceSpec(MINUTE, HOUR, None)
    assert slice_events(events({"received_at": received}), always).late.num_rows == 0


def test_positions_tell_rows_of_the_log_apart() -> None:
    rows = [
        {"position": 1},
        {"position": 1},
        {"position": 2},
        {"position": 1, "record_index": 1},
        {"position": 1, "source": "t"},
    ]
    spec = SliceSpec(MINUTE, HOUR, None, keep_position=True)
    (part,) = slice_events(events(*rows), spec).slices
    hashes = part.table["position_hash"].to_pylist()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_a_row_costs_less_than_100_bytes_in_the_shuffle() -> None:
    dice = random.Random(1)
    rows = [
        {
            "event_id": str(uuid.UUID(int=dice.getrandbits(128))),
            "advertiser_id": f"advertiser-{dice.randrange(1000):04d}",
            "occurred_at": T0 + dice.randrange(HOUR),
            "content_hash": dice.getrandbits(63),
            "currency": dice.choice(["EUR", "USD", "GBP"]),
            "cost_micros": dice.randrange(10**6),
            "user_id": f"u{dice.getrandbits(40)}",
            "ip": f"10.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}",
            "event_type": dice.choices(schema.EVENT_TYPES, [90, 9, 1])[0],
        }
        for _ in range(20_000)
    ]
    sliced = slice_events(events(*rows), SliceSpec(MINUTE, HOUR, None, shards=4))
    assert sum(len(to_ipc(part.table)) for part in sliced.slices) < 100 * len(rows)


def test_no_events() -> None:
    sliced = slice_events(events(), SPEC)
    assert (sliced.slices, sliced.late.num_rows, sliced.out_of_range) == ([], 0, 0)


def test_users_and_addresses_that_no_rule_judges_are_marked() -> None:
    office = AdvertiserRules(
        allow_ips=Networks(frozenset({network("10.0.0.0/8")})), allow_users=frozenset({"t"})
    )
    table = events(
        {"ip": "10.1.1.1", "ivt_reasons": ["givt_invalid_ua"]},
        {"event_type": "impression", "user_id": "t"},
        {"ip": "1.1.1.1", "user_id": "u", "ivt_reasons": ["givt_known_bot_ua"]},
        {"ip": "1.1.1.1", "ivt_reasons": ["allowed"]},
        {"ip": "1.1.1.1"},
    )
    for allow, marks in ((None, [2, None, 1, 64, None]), (office, [66, 64, 1, 64, None])):
        ruleset = None if allow is None else Ruleset(advertisers={"a": allow})
        (part,) = slice_events(table, replace(SPEC, allow=ruleset)).slices
        assert part.table["ivt"].to_pylist() == marks


def test_events_whose_windows_the_runner_let_go_of_are_late() -> None:
    some = events({"received_at": T0 + 1}, {"occurred_at": T0 + HOUR})
    spec = replace(SPEC, kept_ms=20 * MINUTE)
    kept_until = T0 + MINUTE + 20 * MINUTE
    assert slice_events(some, spec).late.num_rows == 0
    assert slice_events(some, spec, kept_until).late.num_rows == 0
    sliced = slice_events(some, spec, kept_until + 1)
    assert sliced.late["occurred_at"].cast(pa.int64()).to_pylist() == [T0]
    assert sliced.overdue == 1
    assert sum(part.table.num_rows for part in sliced.slices) == 1
    assert slice_events(some, spec, kept_until + HOUR + 1).late.num_rows == 2
    whole = slice_events(some, replace(spec, allowed_lateness_ms=None), kept_until + 1)
    assert whole.late.num_rows == 0, "a re-tally counts them"
