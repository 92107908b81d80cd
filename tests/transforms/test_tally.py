"""The tally equals a naive reference, whatever the order, the cut and the duplication."""

import dataclasses
import itertools
import random
import statistics
from collections import defaultdict
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pytest
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from adtally.io import schema
from adtally.io.arrow import tag, with_tag
from adtally.transforms.rollup import roll_up
from adtally.transforms.rollup_windows import RollUpWindows
from adtally.transforms.rules.click_rate_ip import ClickRateIp
from adtally.transforms.rules.duplicate_click import DuplicateClick
from adtally.transforms.rules.regular_interval import RegularInterval
from adtally.transforms.rules.ruleset import EVENT_RULES, AdvertiserRules, Ruleset
from adtally.transforms.slices import SliceSpec, narrow_schema
from adtally.transforms.tally import Tally, TallySpec, tally
from adtally.transforms.tally_windows import (
    FLAGS,
    LATE,
    SLICES,
    SUMMARIES,
    SliceByWindow,
    TallyWindows,
    Windowing,
)
from adtally.transforms.windows import GENERATION_BITS, MOST_MICROS

MINUTE = 60_000
T0 = 1_709_208_000_000
DIMENSIONS = ("campaign_id", "country")
REGULAR = RegularInterval(threshold=3, variation=0.2)
RULES = Ruleset(
    window_rules=(DuplicateClick(), ClickRateIp(threshold=2), REGULAR),
    advertisers={
        "b": AdvertiserRules(thresholds={"givt_click_rate_ip": 1, "givt_duplicate_click": 2}),
        "é": AdvertiserRules(off=frozenset({"givt_regular_interval"})),
    },
)
SPEC = TallySpec(MINUTE, 3_600_000, DIMENSIONS, ruleset=RULES, uniques_k=8)

COUNTS = ("impressions", "clicks", "conversions")
Event = dict[str, Any]

EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "advertiser_id": st.sampled_from(["a", "b", "é"]),
            "event_type": st.sampled_from([0, 1, 1, 2]),
            "event_id": st.sampled_from([f"e{n}" for n in range(8)]),
            "occurred_at": st.one_of(
                st.integers(0, 3 * MINUTE - 1), st.integers(0, 17).map(lambda n: n * 10_000 + 1)
            ).map(lambda ms: T0 + ms),
            "content_hash": st.just(0),
            "currency": st.sampled_from(["EUR", "USD", "XXX"]),
            "cost_micros": st.sampled_from([0, 1, -5, 10**16]),
            "revenue_micros": st.integers(-(10**16), 10**16),
            "user_hash": st.sampled_from([None, -(1 << 63), -1, 0, 1, (1 << 63) - 1]),
            "ip": st.sampled_from([None, "1.1.1.1", "2.2.2.2"]),
            "user_id": st.sampled_from([None, None, "u1", "u2"]),
            "creative_hash": st.sampled_from([None, 7, 8]),
            "ivt": st.sampled_from([None, None, None, 1, 5]),
            "campaign_id": st.sampled_from([None, "", "c1", "c2"]),
            "country": st.sampled_from([None, "DE"]),
        }
    ),
    min_size=1,
    max_size=40,
).map(lambda events: [event | {"content_hash": n - 3} for n, event in enumerate(events)])
"""Events of three windows; few ids, so many are conflicting duplicates of each other."""


def table(
    events: list[Event], dimensions: tuple[str, ...] = DIMENSIONS, **options: Any
) -> pa.Table:
    target = narrow_schema(dimensions, **options)
    blank = dict.fromkeys(target.names)
    if not events:
        return target.empty_table()
    # Clicks alone carry what they are judged by, see adtally.transforms.slices.
    hidden = dict.fromkeys(("ip", "user_id", "creative_hash"))
    rows = [blank | e | ({} if e["event_type"] == 1 else hidden) for e in events]
    return pa.Table.from_pylist(
        [{name: row[name] for name in target.names} for row in rows], target
    )


def event(**fields: Any) -> Event:
    base = {
        "advertiser_id": "a",
        "event_type": 1,
        "event_id": "e",
        "occurred_at": T0,
        "content_hash": 0,
        "currency": "EUR",
        "cost_micros": 0,
        "revenue_micros": 0,
    }
    return base | fields


def plain(result: Tally) -> tuple[list[Event], list[Event]]:
    return result.summaries.to_pylist(), result.flags.to_pylist()


def subject_of(click: Event) -> tuple[str, str] | None:
    if click.get("user_id") is not None:
        return ("user", click["user_id"])
    return ("ip", click["ip"]) if click.get("ip") is not None else None


def grouped(clicks: list[Event], key: Any) -> dict[Any, list[Event]]:
    groups: dict[Any, list[Event]] = defaultdict(list)
    for click in sorted(clicks, key=lambda e: (e["occurred_at"], e["content_hash"])):
        groups[key(click)].append(click)
    return {key: found for key, found in groups.items() if key is not None}


def found_by(rule: str, clicks: list[Event], threshold: int) -> dict[tuple[str, str], list[Event]]:
    """Invalid clicks by subject, of the clicks of one advertiser in one window."""
    found: dict[tuple[str, str], list[Event]] = defaultdict(list)
    if rule == "givt_click_rate_ip":
        for ip, some in grouped(clicks, lambda e: e.get("ip")).items():
            found["ip", ip] += some if len(some) > threshold else []
    elif rule == "givt_duplicate_click":

        def place(e: Event) -> Any:
            known = subject_of(e) is not None and e.get("creative_hash") is not None
            minute = e["occurred_at"] // 60_000
            return (subject_of(e), e["creative_hash"], minute) if known else None

        for (subject, _, _), some in grouped(clicks, place).items():
            found[subject] += some[threshold:]
    else:
        for subject, some in grouped(clicks, subject_of).items():
            gaps = [b["occurred_at"] - a["occurred_at"] for a, b in itertools.pairwise(some)]
            if len(some) < threshold or statistics.mean(gaps) < 10:
                continue
            steps = [
                step for step in (1_000, 60_000) if not any(e["occurred_at"] % step for e in some)
            ]
            mean = statistics.mean(gaps)
            if mean >= 10 * max(steps, default=1):
                found[subject] += some if statistics.stdev(gaps) <= REGULAR.variation * mean else []
    return {subject: some for subject, some in found.items() if some}


def thresholds(advertiser: str) -> dict[str, int]:
    """Thresholds of the rules that judge an advertiser."""
    own = {"b": {"givt_click_rate_ip": 1, "givt_duplicate_click": 2}}.get(advertiser, {})
    rules = {"givt_click_rate_ip": 2, "givt_duplicate_click": 1, "givt_regular_interval": 3} | own
    return {k: v for k, v in rules.items() if (advertiser, k) != ("é", "givt_regular_interval")}


def suspicious(clicks: list[Event], copied: bool, advertiser: str) -> bool:
    """Whether some of these clicks, copies too, may have been flagged by themselves."""
    limit = thresholds(advertiser)
    per_subject = [len(some) for some in grouped(clicks, subject_of).values()]
    if any(count >= limit.get("givt_regular_interval", 1_000) for count in per_subject):
        return True
    if not copied:
        return False
    for some in grouped(clicks, lambda e: e.get("ip")).values():
        if len({e["event_id"] for e in some}) > limit["givt_click_rate_ip"]:
            return True
    return bool(found_by("givt_duplicate_click", distinct(clicks), limit["givt_duplicate_click"]))


def distinct(clicks: list[Event]) -> list[Event]:
    names = ("event_id", "occurred_at", "ip", "user_id", "creative_hash")
    return list({tuple(e.get(name) for name in names): e for e in clicks}.values())


def reference(events: list[Event], spec: TallySpec) -> tuple[list[Event], list[Event]]:
    """The tally with dicts, one event at a time, for fewer than k users."""
    window_of = {id(e): e["occurred_at"] // spec.window_ms * spec.window_ms for e in events}
    groups: dict[tuple, list[Event]] = defaultdict(list)
    seen: dict[tuple, int] = defaultdict(int)
    for e in events:
        window = window_of[id(e)]
        groups[e["advertiser_id"], e["event_type"], e["event_id"], window].append(e)
        seen[e["advertiser_id"], window] += 1
    rows: dict[tuple, Event] = {}
    row_of: dict[int, Event] = {}
    all_clicks: dict[tuple, list[Event]] = defaultdict(list)
    clicks: dict[tuple, list[Event]] = defaultdict(list)
    broken: dict[tuple, list[Event]] = defaultdict(list)
    copied: set[tuple] = set()
    flags: dict[tuple, list[Event]] = defaultdict(list)
    for (advertiser, event_type, _, window), group in groups.items():
        place = (window, advertiser)
        ordered = sorted(group, key=lambda e: (e["occurred_at"], e["content_hash"]))
        for index, e in enumerate(ordered):
            key = (window, advertiser, *(e[d] for d in spec.dimensions), e["currency"])
            row = rows.setdefault(
                key, {"users": set(), "times": []} | dict.fromkeys(schema.MEASURES, 0)
            )
            row_of[id(e)] = row
            row["times"].append(e["occurred_at"])
            if event_type == 1:
                all_clicks[place].append(e)
            if index:
                row["duplicates"] += 1
                copied |= {place} if event_type == 1 else set()
                if e.get("ivt") is not None:  # an earlier pane may have counted this one
                    flags[place] += []
                continue
            row[COUNTS[event_type]] += 1
            row["cost_micros"] += e["cost_micros"]
            row["revenue_micros"] += e["revenue_micros"]
            if e["user_hash"] is not None:
                row["users"].add(e["user_hash"])
            if event_type == 1:
                clicks[place].append(e)
            if e.get("ivt") is not None:
                broken[place].append(e)
    for place, some in all_clicks.items():
        if suspicious(some, place in copied, place[1]):
            flags[place] += []
    invalid: dict[int, Event] = {}

    def flag(place: tuple, name: str, subject: tuple[str, str], count: int, ids: list[str]) -> None:
        flags[place].append(
            {
                "rule": name,
                "ivt_class": "GIVT",
                "subject_type": subject[0],
                "subject": subject[1],
                "count": count,
                "threshold": thresholds(place[1]).get(name, 0),
                "evidence": sorted(ids)[:5],
            }
        )

    for place, some in clicks.items():
        for name, threshold in thresholds(place[1]).items():
            for subject, hit in found_by(name, some, threshold).items():
                invalid |= {id(e): e for e in hit}
                flag(place, name, subject, len(hit), [e["event_id"] for e in hit])
    for place, some in broken.items():
        invalid |= {id(e): e for e in some}
        for number, rule in enumerate(EVENT_RULES):
            hit = [e for e in some if e["ivt"] >> number & 1]
            if hit:
                ids = [e["event_id"] for e in hit]
                flag(place, rule.NAME, ("advertiser", place[1]), len(hit), ids)
    for e in invalid.values():
        row_of[id(e)][f"givt_{COUNTS[e['event_type']]}"] += 1
        row_of[id(e)]["givt_cost_micros"] += e["cost_micros"]
    for found in flags.values():
        found.sort(key=lambda one: (one["rule"], one["subject_type"], one["subject"]))

    def stamped(window: int, advertiser: str) -> Event:
        return {
            "window_start": at(window),
            "window_end": at(window + spec.window_ms),
            "window_seconds": spec.window_ms // 1000,
            "advertiser_id": advertiser,
            "final_after": at(window + spec.window_ms + spec.allowed_lateness_ms),
            "generation": spec.generation,
            "version": (spec.generation << 40) + seen[advertiser, window],
        }

    summaries = []
    for key in sorted(rows, key=lambda key: [(part is not None, part) for part in key]):
        row = rows[key]
        users, times = sorted(row.pop("users")), row.pop("times")
        for name in (*COUNTS, "cost_micros"):
            row[f"net_{name}"] = row[name] - row[f"givt_{name}"]
        row |= stamped(key[0], key[1]) | dict(zip(spec.dimensions, key[2:-1], strict=True))
        row |= {"currency": key[-1], "unique_users": len(users), "unique_user_hashes": users}
        row |= {"first_event_at": at(min(times)), "last_event_at": at(max(times))}
        summaries.append(row)
    return summaries, [
        stamped(*key) | {"flags": found, "ruleset_version": spec.ruleset.version}
        for key, found in sorted(flags.items())
    ]


def at(ms: int) -> Any:
    return pa.scalar(ms, schema.TIMESTAMP).as_py()


def in_slices(events: list[Event], seed: int) -> list[pa.Table]:
    """The events in another order, cut anywhere, with an empty slice among them."""
    shuffled = random.Random(seed).sample(events, len(events))
    cut = random.Random(seed).randint(0, len(events))
    return [table(shuffled[:cut]), table(shuffled[cut:]), table([])]


@settings(max_examples=120)
@given(EVENTS, st.integers(0, 1000))
def test_the_tally_equals_the_reference_in_any_order_and_cut(
    events: list[Event], seed: int
) -> None:
    spec = dataclasses.replace(SPEC, generation=seed % 3)
    result = tally(in_slices(events, seed), spec)
    assert result.summaries.schema.equals(schema.summary_schema(DIMENSIONS))
    assert result.flags.schema.equals(schema.FLAG_SCHEMA)
    assert plain(result) == reference(events, spec)
    assert result.copies == 0
    without = dataclasses.replace(spec, dimensions=())
    assert plain(tally([table(events, ())], without)) == reference(events, without)


@settings(max_examples=40)
@given(EVENTS, st.data())
def test_copies_of_events_raise_duplicates_and_version_only(events: list[Event], data: Any) -> None:
    again = data.draw(st.lists(st.sampled_from(events), max_size=10))
    once, _ = plain(tally([table(events)], SPEC))
    twice, _ = plain(tally([table(again + events[::-1])], SPEC))
    raised = ("duplicates", "version")
    assert [{k: v for k, v in row.items() if k not in raised} for row in once] == [
        {k: v for k, v in row.items() if k not in raised} for row in twice
    ]
    assert sum(r["duplicates"] for r in twice) == sum(r["duplicates"] for r in once) + len(again)
    assert all(new["version"] >= old["version"] for old, new in zip(once, twice, strict=True))


@settings(max_examples=40)
@given(EVENTS)
def test_shards_and_windows_can_be_tallied_apart(events: list[Event]) -> None:
    together = plain(tally([table(events)], SPEC))
    parts: dict[tuple, list[Event]] = defaultdict(list)
    for e in events:
        parts[e["advertiser_id"] == "a", e["occurred_at"] // MINUTE].append(e)
    apart = [plain(tally([table(part)], SPEC)) for part in parts.values()]
    for kind in (0, 1):
        rows = [row for result in apart for row in result[kind]]
        assert sorted(map(repr, rows)) == sorted(map(repr, together[kind]))


def test_what_is_no_duplicate() -> None:
    events = [
        event(),
        event(advertiser_id="b"),
        event(event_type=0),
        event(event_id="E"),
        event(occurred_at=T0 + MINUTE),
        event(occurred_at=T0 - 1),
    ]
    rows, _ = plain(tally([table(events, ())], TallySpec(MINUTE, 0)))
    assert sum(row["duplicates"] for row in rows) == 0
    assert sum(row["clicks"] + row["impressions"] for row in rows) == len(events)
    assert len(rows) == 4


def test_of_conflicting_duplicates_the_earliest_then_the_least_hash_counts() -> None:
    later = event(occurred_at=T0 + 1, content_hash=-9, cost_micros=100)
    first = event(content_hash=5, cost_micros=1)
    winner = event(content_hash=-5, cost_micros=2, currency="USD")
    for events in ([later, first, winner], [winner, later, first], [first, winner, later]):
        rows, _ = plain(tally([table(events, ())], TallySpec(MINUTE, 0)))
        found = [(r["currency"], r["clicks"], r["cost_micros"], r["duplicates"]) for r in rows]
        assert found == [("EUR", 0, 0, 2), ("USD", 1, 2, 0)]
        assert [row["version"] for row in rows] == [3, 3]


def test_the_same_row_of_the_log_twice_is_a_copy_and_no_duplicate() -> None:
    rows = [event(position_hash=1), event(position_hash=1), event(position_hash=2)]
    rows.append(event(event_type=2, position_hash=1))
    result = tally([table(rows, (), keep_position=True)], TallySpec(MINUTE, 0))
    (row,) = result.summaries.to_pylist()
    assert result.copies == 1
    assert (row["clicks"], row["conversions"], row["duplicates"], row["version"]) == (1, 1, 1, 3)


def test_all_dimensions_null_and_no_rows_at_all() -> None:
    (row,), _ = plain(tally([table([event()])], SPEC))
    assert (row["campaign_id"], row["country"], row["unique_users"]) == (None, None, 0)
    empty = tally([table([])], SPEC)
    assert (empty.summaries.num_rows, empty.flags.num_rows) == (0, 0)


def test_a_sum_beyond_64_bits_stays_at_its_limit_and_does_not_wrap(
    caplog: pytest.LogCaptureFixture,
) -> None:
    half = 1 << 62
    fits = [event(cost_micros=half), event(event_id="f", cost_micros=half - 1)]
    (row,), _ = plain(tally([table(fits, ())], TallySpec(MINUTE, 0)))
    assert row["cost_micros"] == MOST_MICROS
    assert not caplog.records
    too_much = [*fits, event(event_id="g", cost_micros=1), event(advertiser_id="b", cost_micros=5)]
    (row, other), _ = plain(tally([table(too_much, ())], TallySpec(MINUTE, 0)))
    assert (row["cost_micros"], row["net_cost_micros"], row["clicks"]) == (*[MOST_MICROS] * 2, 3)
    assert other["cost_micros"] == 5
    (logged,) = caplog.messages
    assert "cost_micros of advertiser 'a' in EUR is 9223372036854775808" in logged
    duplicates = [*fits, event(cost_micros=half, content_hash=7)]
    assert tally([table(duplicates, ())], TallySpec(MINUTE, 0)).summaries.num_rows == 1
    base = tally(
        [table([*fits, event(event_id="g", occurred_at=T0 + MINUTE, cost_micros=1)], ())],
        TallySpec(MINUTE, 0),
    )
    rolled = roll_up([base.summaries], 60 * MINUTE, 0, ())
    assert rolled["cost_micros"].to_pylist() == [MOST_MICROS]


def test_a_later_generation_has_a_higher_version_whatever_it_saw() -> None:
    many = [event(event_id=str(n)) for n in range(50)]
    (old,), _ = plain(tally([table(many, ())], TallySpec(MINUTE, 0)))
    (new,), _ = plain(tally([table(many[:1], ())], TallySpec(MINUTE, 0, generation=1)))
    assert new["version"] > old["version"]
    assert (new["generation"], new["version"]) == (1, (1 << GENERATION_BITS) + 1)


DAY = 86_400_000
START = T0 // DAY * DAY


def log_events() -> pa.Table:
    """Ten minutes of two advertisers, one late event, and a duplicate."""
    rows = []
    for n in range(60):
        occurred = START + n * 10_000
        rows.append((f"a{n % 2}", f"e{n}", occurred, occurred, n))
    rows.append(("a0", "e0", START, START, 60))
    rows.append(("a0", "late", START, START + MINUTE + 3_600_001, 61))
    frame = pl.DataFrame(
        rows, ["advertiser_id", "event_id", "occurred_at", "received_at", "position"], orient="row"
    )
    full = {field.name: [None] * len(rows) for field in schema.EVENT_SCHEMA}
    full |= frame.to_dict(as_series=False)
    full |= {
        "event_type": ["click"] * len(rows),
        "source": ["s"] * len(rows),
        "record_index": [0] * len(rows),
        "content_hash": frame["position"].to_list(),
        "ip": ["1.1.1.1"] * len(rows),
    }
    events = pa.table(
        [pa.array(full[f.name], f.type) for f in schema.EVENT_SCHEMA], schema=schema.EVENT_SCHEMA
    )
    return with_tag(events, block="b", sequence="3")


def wire(pipeline: beam.Pipeline) -> dict[str, Any]:
    slice_spec = SliceSpec(MINUTE, DAY, 3_600_000)
    spec = TallySpec(MINUTE, 3_600_000, ruleset=Ruleset(window_rules=(ClickRateIp(threshold=2),)))
    windowing = Windowing.batch(DAY)
    sliced = pipeline | beam.Create([log_events()]) | SliceByWindow(slice_spec)
    tallied = sliced[SLICES] | TallyWindows(spec, windowing)
    ranges = ((START + 2 * MINUTE, START + DAY),)
    return {
        "late": sliced[LATE] | "Late" >> beam.Reshuffle(),
        "summaries": tallied[SUMMARIES] | "Summaries" >> beam.Reshuffle(),
        "flags": tallied[FLAGS] | "Flags" >> beam.Reshuffle(),
        "rolled": tallied[SUMMARIES] | "RollUp" >> RollUpWindows(spec, 5 * MINUTE, windowing),
        "whole": tallied[SUMMARIES] | "Whole" >> RollUpWindows(spec, 5 * MINUTE, windowing, ranges),
    }


def test_slice_tally_and_roll_up_in_a_pipeline() -> None:
    def rows(tables: list[pa.Table]) -> list[Event]:
        return [row for part in tables for row in part.to_pylist()]

    def check_late(tables: list[pa.Table]) -> None:
        (row,) = rows(tables)
        assert (row["event_id"], row["window_start"]) == ("late", at(START))
        assert tag(tables[0], "part") == "b-00003"

    def check_summaries(tables: list[pa.Table]) -> None:
        found = rows(tables)
        assert len(found) == 20
        assert sum(row["clicks"] for row in found) == 60
        assert sum(row["duplicates"] for row in found) == 1
        names = {tag(part, "part") for part in tables}
        assert all(name.startswith(f"{START // 1000}-00") for name in names)

    def check_flags(tables: list[pa.Table]) -> None:
        found = rows(tables)
        assert {len(row["flags"]) for row in found} == {1}
        assert len(found) == 20
        assert {flag["count"] for row in found for flag in row["flags"]} == {3}

    def check_rolled(tables: list[pa.Table]) -> None:
        found = [(row["window_start"], row["advertiser_id"], row["clicks"]) for row in rows(tables)]
        assert sorted(found) == [
            (at(START + part * 5 * MINUTE), name, 15) for part in (0, 1) for name in ("a0", "a1")
        ]

    def check_whole(tables: list[pa.Table]) -> None:  # the first window is cut by the range
        found = [(row["window_start"], row["clicks"]) for row in rows(tables)]
        assert found == [(at(START + 5 * MINUTE), 15)] * 2

    checks = {
        "late": check_late,
        "summaries": check_summaries,
        "flags": check_flags,
        "rolled": check_rolled,
        "whole": check_whole,
    }
    pipeline = test_pipeline.TestPipeline(runner="FnApiRunner")
    for name, collection in wire(pipeline).items():
        assert_that(collection, checks[name], label=f"check {name}")
    result = pipeline.run()
    result.wait_until_finish()
    counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    assert counters["events_late"] == 1
    assert counters["events_counted"] == 60
    assert counters["duplicates"] == 1
    assert counters["givt_clicks"] == 60
    assert counters["flags"] == 20


def test_labels_are_stable() -> None:
    def labels() -> set[str]:
        pipeline = beam.Pipeline()
        wire(pipeline)
        return set(pipeline.applied_labels)

    first = labels()
    assert labels() == first
    assert {
        "SliceByWindow/Slice",
        "TallyWindows/Window",
        "TallyWindows/Group by shard",
        "TallyWindows/Tally",
        "RollUp/Key by shard",
        "RollUp/Roll up",
    } <= {label.replace("SliceByWindow(SliceByWindow)", "SliceByWindow") for label in first}
