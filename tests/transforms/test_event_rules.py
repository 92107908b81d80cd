"""Rules for single events: just flagged and just not, exceptions, and what the tally counts."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from adtally.io.read_logs import LogChunk, Segment
from adtally.transforms.decode import decode
from adtally.transforms.mapping import identity_mapping
from adtally.transforms.rules.addresses import Networks, network
from adtally.transforms.rules.base import EventRule
from adtally.transforms.rules.event_rules import (
    DatacenterIp,
    InvalidUserAgent,
    KnownBotUserAgent,
)
from adtally.transforms.rules.lists import Lists
from adtally.transforms.rules.ruleset import EVENT_RULES, AdvertiserRules, Ruleset
from adtally.transforms.rules.user_agents import parse_iab
from adtally.transforms.slices import SliceSpec, slice_events
from adtally.transforms.tally import TallySpec, tally

BOT, INVALID, CENTRE = (rule.NAME for rule in EVENT_RULES)
MINUTE, HOUR = 60_000, 3_600_000
NOW = 1_709_208_000_000  # 2024-02-29T12:00:00Z
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/138.0.0.0 Safari/537.36"
)
GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
Event = dict[str, Any]


def networks(*texts: str) -> Networks:
    return Networks(frozenset(map(network, texts)))


CENTRES = Lists(datacenters=networks("203.0.113.0/24", "2001:db8::/32"))
RULES = Ruleset(lists=CENTRES)


def events(*rows: Event) -> pl.DataFrame:
    """Events that no rule has anything against, but for what is given."""
    base = {"advertiser_id": "a", "user_agent": CHROME, "user_id": None, "ip": "198.51.100.1"}
    types = dict.fromkeys(base, pl.String)
    return pl.DataFrame([base | row for row in rows], types)


def reasons(ruleset: Ruleset, *rows: Event) -> list[list[str] | None]:
    found = ruleset.judge_events(events(*rows))
    assert found.name == "ivt_reasons"
    assert found.dtype == pl.List(pl.String)
    return found.to_list()


def judged(rule: EventRule, column: str, texts: list[Any], lists: Lists) -> list[bool]:
    return rule.judge(events(*({column: text} for text in texts)), lists).to_list()


def agents(rule: EventRule, *texts: str | None, lists: Lists = CENTRES) -> list[bool]:
    return judged(rule, "user_agent", list(texts), lists)


def addresses(*texts: str | None, lists: Lists = CENTRES) -> list[bool]:
    return judged(DatacenterIp(), "ip", list(texts), lists)


# givt_known_bot_ua


def test_robots_are_flagged_and_people_are_not() -> None:
    rule = KnownBotUserAgent()
    assert agents(rule, GOOGLEBOT, "curl/8.5.0", "python-requests/2.32.3") == [True] * 3
    assert agents(rule, CHROME, GOOGLEBOT.replace("Googlebot", "Google")) == [False, False]


def test_events_without_a_user_agent_are_no_robots() -> None:
    assert agents(KnownBotUserAgent(), None, "", "-", " ") == [False] * 4


def test_robots_of_lists_come_on_top_of_the_package() -> None:
    ours = parse_iab(["AcmeSpider|1|AcmeSpiderman|0|2|0"], "robots.txt", "exclude")
    texts = ("acmespider/1", "AcmeSpiderman", GOOGLEBOT, CHROME, None)
    rule = KnownBotUserAgent()
    assert agents(rule, *texts, lists=Lists(robots=ours)) == [True, False, True, False, False]
    only = Lists(crawlers=False, robots=ours)
    assert agents(rule, *texts, lists=only) == [True, False, False, False, False]
    assert agents(rule, *texts, lists=Lists(crawlers=False)) == [False] * 5


# givt_invalid_ua


@pytest.mark.parametrize("text", ["", "-", " ", "\t", "null", "NULL", "None", "n/a", " unknown "])
def test_what_stands_for_no_user_agent_is_invalid(text: str) -> None:
    assert agents(InvalidUserAgent(), text) == [True]
    anything = parse_iab(["n|1|0", "-|1|0", "u|1|0"], "browsers.txt", "include")
    assert agents(InvalidUserAgent(), text, lists=Lists(browsers=anything)) == [True]


def test_a_missing_user_agent_is_not_judged_unless_that_is_wished() -> None:
    assert agents(InvalidUserAgent(), None, CHROME) == [False, False]
    assert agents(InvalidUserAgent(missing=True), None, CHROME) == [True, False]
    apps = parse_iab(["app|1|0"], "browsers.txt", "include")
    assert agents(InvalidUserAgent(), None, lists=Lists(browsers=apps)) == [False]
    assert agents(InvalidUserAgent(missing=True), None, lists=Lists(browsers=apps)) == [True]


@pytest.mark.parametrize(
    "text",
    [
        CHROME,
        "Opera/9.80 (Windows NT 6.1; U; en) Presto/2.7.62 Version/11.01",
        "Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/UQ1A.240205.004)",
        "MyApp/3 CFNetwork/1494.0.7 Darwin/23.4.0",
        "CFNetwork/1494.0.7",
    ],
)
def test_browsers_and_apps_are_valid(text: str) -> None:
    assert agents(InvalidUserAgent(), text) == [False]


@pytest.mark.parametrize(
    "text", ["x", "Mozilla", "a Mozilla/5.0", "Dalvik", "MyCFNetwork/1", "okhttp/4.12.0", "0"]
)
def test_what_is_neither_browser_nor_app_is_invalid(text: str) -> None:
    assert agents(InvalidUserAgent(), text) == [True]


def test_a_list_of_browsers_replaces_the_own_judgement() -> None:
    ours = parse_iab(["AcmeApp/|1|1", "webview|1|0"], "browsers.txt", "include")
    texts = ("acmeapp/2", "an AcmeApp/2", "a WebView", CHROME, "Dalvik/2.1.0")
    assert agents(InvalidUserAgent(), *texts, lists=Lists(browsers=ours)) == [
        *(False, True, False),
        *(True, True),
    ]


# givt_datacenter_ip


def test_addresses_of_data_centres_are_flagged_and_their_neighbours_are_not() -> None:
    assert addresses("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0") == [
        *(False, True, True, False)
    ]
    assert addresses("2001:db7:ffff::", "2001:db8::", "2001:db8:ffff::", "2001:db9::") == [
        *(False, True, True, False)
    ]
    assert addresses("::ffff:203.0.113.9", "2001:DB8::1") == [True, True]


def test_tokens_and_missing_addresses_are_not_judged() -> None:
    assert addresses(None, "", "token", "203.0.113", "9f86d081884c7d65") == [False] * 5
    assert addresses(None, None) == [False, False]


def test_without_a_list_of_data_centres_nothing_is_flagged() -> None:
    assert addresses("203.0.113.1", "10.0.0.1", None, lists=Lists()) == [False] * 3


# Rulesets.


def test_each_rule_by_itself() -> None:
    assert reasons(
        RULES,
        {"user_agent": GOOGLEBOT},
        {"user_agent": "x"},
        {"ip": "203.0.113.1"},
        {},
    ) == [[BOT], [INVALID], [CENTRE], None]


def test_several_reasons_stand_in_the_order_of_the_rules() -> None:
    assert reasons(
        RULES,
        {"user_agent": "curl/8.5.0", "ip": "203.0.113.1"},
        {"user_agent": GOOGLEBOT, "ip": "2001:db8::1"},
        {"user_agent": "-", "ip": "203.0.113.1"},
        {"user_agent": "curl/8.5.0"},
    ) == [[BOT, INVALID, CENTRE], [BOT, CENTRE], [INVALID, CENTRE], [BOT, INVALID]]
    turned = Ruleset(event_rules=(DatacenterIp(), KnownBotUserAgent()), lists=CENTRES)
    assert reasons(turned, {"user_agent": "curl/8", "ip": "203.0.113.1"}) == [[CENTRE, BOT]]


def test_clean_events_and_those_of_which_nothing_is_known_have_no_reasons() -> None:
    nothing = {"user_agent": None, "ip": None}
    assert reasons(RULES, {}, nothing, {"ip": "token"}) == [None, None, None]
    assert reasons(Ruleset(), {}, nothing, {"ip": "203.0.113.1"}) == [None, None, None]


def test_no_events_have_no_reasons() -> None:
    assert reasons(RULES) == []
    assert reasons(Ruleset(event_rules=())) == []
    office = AdvertiserRules(
        off=frozenset({BOT}), allow_ips=networks("10.0.0.0/8"), allow_users=frozenset({"t"})
    )
    assert reasons(Ruleset(lists=CENTRES, advertisers={"a": office})) == []


def test_many_events_keep_their_places() -> None:
    kinds = [{"user_agent": GOOGLEBOT}, {}, {"ip": "203.0.113.1"}, {"user_agent": None}]
    rows = [kinds[n * n % 7 % 4] for n in range(500)]
    expected = [[[BOT], None, [CENTRE], None][n * n % 7 % 4] for n in range(500)]
    assert reasons(RULES, *rows) == expected


def test_a_rule_that_is_switched_off_flags_nothing() -> None:
    all_of_them = {"user_agent": "curl/8.5.0", "ip": "203.0.113.1"}
    for number, off in enumerate((BOT, INVALID, CENTRE)):
        kept = tuple(rule for rule in RULES.event_rules if off != rule.NAME)
        left = [name for name in (BOT, INVALID, CENTRE) if name != off]
        assert reasons(Ruleset(event_rules=kept, lists=CENTRES), all_of_them) == [left], number
    assert reasons(Ruleset(event_rules=(), lists=CENTRES), all_of_them, {}) == [None, None]


def test_a_rule_is_off_for_one_advertiser_only() -> None:
    both = {"user_agent": GOOGLEBOT, "ip": "203.0.113.1"}
    off = {"a": AdvertiserRules(off=frozenset({BOT}))}
    ruleset = Ruleset(lists=CENTRES, advertisers=off)
    rows = [both | {"advertiser_id": name} for name in ("a", "b", "a ")]
    assert reasons(ruleset, *rows) == [[CENTRE], [BOT, CENTRE], [BOT, CENTRE]]
    off = {
        "a": AdvertiserRules(off=frozenset({BOT, CENTRE})),
        "b": AdvertiserRules(off=frozenset({CENTRE})),
    }
    assert reasons(Ruleset(lists=CENTRES, advertisers=off), *rows[:2]) == [None, [BOT]]


def test_addresses_of_an_office_are_judged_by_no_rule_for_its_advertiser() -> None:
    office = AdvertiserRules(allow_ips=networks("203.0.113.0/30", "2001:db8::1"))
    ruleset = Ruleset(lists=CENTRES, advertisers={"a": office})
    rows = [
        {"ip": ip, "user_agent": GOOGLEBOT}
        for ip in ("203.0.113.3", "203.0.113.4", "2001:db8::1", "2001:db8::2", "token", None)
    ]
    expected = [None, [BOT, CENTRE], None, [BOT, CENTRE], [BOT], [BOT]]
    assert reasons(ruleset, *rows) == expected
    others = [row | {"advertiser_id": "b"} for row in rows]
    assert reasons(ruleset, *others) == reasons(RULES, *rows)


def test_testers_are_judged_by_no_rule_for_their_advertiser() -> None:
    testers = AdvertiserRules(allow_users=frozenset({"t1", "t2"}))
    ruleset = Ruleset(advertisers={"a": testers, "b": AdvertiserRules()})
    rows = [
        {"user_agent": GOOGLEBOT, "user_id": user, "advertiser_id": advertiser}
        for advertiser in ("a", "b")
        for user in ("t1", "t2", "T1", "", None)
    ]
    assert reasons(ruleset, *rows) == [None, None, [BOT], [BOT], [BOT], *[[BOT]] * 5]


def test_users_and_addresses_are_allowed_either_way() -> None:
    either = AdvertiserRules(
        allow_users=frozenset({"t"}), allow_ips=networks("10.0.0.0/8"), off=frozenset({INVALID})
    )
    ruleset = Ruleset(lists=CENTRES, advertisers={"a": either})
    bad = {"user_agent": "curl/8.5.0"}
    assert reasons(
        ruleset,
        bad | {"user_id": "t"},
        bad | {"ip": "10.1.1.1"},
        bad | {"user_id": "t", "ip": None},
        bad | {"user_id": "u", "ip": "11.1.1.1"},
    ) == [None, None, None, [BOT]]


# From records to the tally.


def decoded(ruleset: Ruleset | None, *records: Event) -> pa.Table:
    base = {
        "event_type": "click",
        "occurred_at": "2024-02-29T11:00:00Z",
        "advertiser_id": "acme",
        "user_agent": CHROME,
        "ip": "198.51.100.1",
    }
    full = [
        {k: v for k, v in {"event_id": f"e{n}", **base, **record}.items() if v is not None}
        for n, record in enumerate(records)
    ]
    data = b"".join(json.dumps(record).encode() + b"\n" for record in full)
    chunk = LogChunk("b", 0, data, [Segment(0, "a.jsonl", 0)])
    found = decode(chunk, identity_mapping(), now_ms=NOW, ruleset=ruleset)
    assert found.dead_letters == []
    return found.events


def slices(table: pa.Table) -> list[pa.Table]:
    return [part.table for part in slice_events(table, SliceSpec(MINUTE, HOUR, None)).slices]


ALL_THREE = {"user_agent": "curl/8.5.0", "ip": "203.0.113.1"}


def test_decoding_puts_reasons_into_events() -> None:
    table = decoded(
        RULES,
        {},
        ALL_THREE,
        {"user_agent": GOOGLEBOT},
        {"user_agent": "-"},
        {"user_agent": None, "ip": "2001:db8::1"},
        {"user_agent": None, "ip": None},
    )
    assert table["ivt_reasons"].to_pylist() == [
        *(None, [BOT, INVALID, CENTRE], [BOT]),
        *([INVALID], [CENTRE], None),
    ]


def test_decoding_judges_by_the_default_rules_and_by_those_given() -> None:
    rows = [{"user_agent": GOOGLEBOT}, {"ip": "203.0.113.1"}, {"user_agent": None}]
    assert decoded(None, *rows)["ivt_reasons"].to_pylist() == [[BOT], None, None]
    strict = Ruleset(event_rules=(InvalidUserAgent(missing=True),))
    assert decoded(strict, *rows)["ivt_reasons"].to_pylist() == [None, None, [INVALID]]
    none = Ruleset(event_rules=())
    assert decoded(none, *rows)["ivt_reasons"].to_pylist() == [None, None, None]
    assert decoded(RULES)["ivt_reasons"].to_pylist() == []


def test_exceptions_of_advertisers_hold_where_events_are_decoded() -> None:
    acme = AdvertiserRules(allow_users=frozenset({"t"}), off=frozenset({CENTRE}))
    ruleset = Ruleset(lists=CENTRES, advertisers={"acme": acme})
    rows = [ALL_THREE, ALL_THREE | {"user_id": "t"}, ALL_THREE | {"advertiser_id": "b"}]
    found = decoded(ruleset, *rows)["ivt_reasons"].to_pylist()
    assert found == [[BOT, INVALID], None, [BOT, INVALID, CENTRE]]


def test_slices_carry_reasons_as_a_sum_of_bits() -> None:
    table = decoded(
        RULES,
        {},
        {"user_agent": GOOGLEBOT},
        {"user_agent": "-"},
        {"ip": "203.0.113.1"},
        {"user_agent": GOOGLEBOT, "ip": "203.0.113.1"},
        ALL_THREE,
    )
    (part,) = slices(table)
    assert part["ivt"].to_pylist() == [None, 1, 2, 4, 5, 7]
    assert part.schema.field("ivt").type == pa.int8()


def test_bits_do_not_depend_on_which_rules_run() -> None:
    only = Ruleset(event_rules=(DatacenterIp(),), lists=CENTRES)
    (part,) = slices(decoded(only, {}, ALL_THREE))
    assert part["ivt"].to_pylist() == [None, 4]


def test_reasons_of_a_rule_that_is_not_known_are_not_counted() -> None:
    table = decoded(RULES, {}, {}, {})
    at = table.schema.get_field_index("ivt_reasons")
    given = pa.array(
        [["givt_of_tomorrow"], ["givt_of_tomorrow", INVALID], []], table.field(at).type
    )
    (part,) = slices(table.set_column(at, table.field(at), given))
    assert part["ivt"].to_pylist() == [None, 2, None]


def test_the_tally_counts_what_is_invalid_of_every_type_and_its_cost() -> None:
    money = {"currency": "EUR", "cost_micros": 10, "revenue_micros": 1000}
    records = [
        money | {"event_type": event_type} | extra
        for event_type, number in (("impression", 1), ("click", 2), ("conversion", 3))
        for extra in [{}, {"user_agent": None}, *[ALL_THREE | {"cost_micros": 7}] * number]
    ]
    found = tally(slices(decoded(RULES, *records)), TallySpec(MINUTE, HOUR, ruleset=RULES))
    (row,) = found.summaries.to_pylist()
    for name, gross, givt in (
        ("impressions", 3, 1),
        ("clicks", 4, 2),
        ("conversions", 5, 3),
        ("cost_micros", 6 * 10 + 6 * 7, 6 * 7),
    ):
        counted = (row[name], row[f"givt_{name}"], row[f"net_{name}"])
        assert counted == (gross, givt, gross - givt), name
    assert (row["revenue_micros"], row["duplicates"]) == (12_000, 0)


def test_the_tally_raises_one_flag_per_rule() -> None:
    records = [
        {"event_type": "impression", "user_agent": GOOGLEBOT},
        {"event_type": "conversion", "user_agent": GOOGLEBOT, "ip": "203.0.113.1"},
        ALL_THREE,
        {},
        ALL_THREE | {"advertiser_id": "b"},
        {"advertiser_id": "clean"},
    ]
    found = tally(slices(decoded(RULES, *records)), TallySpec(MINUTE, HOUR, ruleset=RULES))
    rows = {row["advertiser_id"]: row for row in found.flags.to_pylist()}
    assert {row["ruleset_version"] for row in rows.values()} == {RULES.version}

    def shown(advertiser: str) -> list[tuple[Any, ...]]:
        flags = rows[advertiser]["flags"]
        whole = {(f["ivt_class"], f["subject_type"], f["subject"], f["threshold"]) for f in flags}
        assert whole == {("GIVT", "advertiser", advertiser, 0)}
        return [(flag["rule"], flag["count"], flag["evidence"]) for flag in flags]

    assert set(rows) == {"acme", "b"}
    assert shown("acme") == [
        (CENTRE, 2, ["e1", "e2"]),
        (INVALID, 1, ["e2"]),
        (BOT, 3, ["e0", "e1", "e2"]),
    ]
    assert shown("b") == [(CENTRE, 1, ["e4"]), (INVALID, 1, ["e4"]), (BOT, 1, ["e4"])]


def test_windows_are_flagged_apart() -> None:
    later = ALL_THREE | {"occurred_at": "2024-02-29T11:01:00Z"}
    table = decoded(RULES, ALL_THREE, later, {"occurred_at": "2024-02-29T11:02:00Z"})
    found = tally(slices(table), TallySpec(MINUTE, HOUR, ruleset=RULES))
    assert found.summaries["givt_clicks"].to_pylist() == [1, 1, 0]
    flags = found.flags["flags"].to_pylist()
    assert [[(flag["rule"], flag["count"]) for flag in some] for some in flags] == [
        [(CENTRE, 1), (INVALID, 1), (BOT, 1)]
    ] * 2


def test_of_duplicates_only_the_counted_one_is_invalid() -> None:
    first = {"event_id": "same", "occurred_at": "2024-02-29T11:00:01Z"}
    second = ALL_THREE | {"event_id": "same", "occurred_at": "2024-02-29T11:00:02Z"}
    spec = TallySpec(MINUTE, HOUR, ruleset=RULES)
    (row,) = tally(slices(decoded(RULES, first, second)), spec).summaries.to_pylist()
    assert (row["clicks"], row["givt_clicks"], row["duplicates"]) == (1, 0, 1)
    turned = [first | ALL_THREE, second | {"user_agent": CHROME, "ip": "198.51.100.1"}]
    result = tally(slices(decoded(RULES, *turned)), spec)
    (row,) = result.summaries.to_pylist()
    assert (row["clicks"], row["givt_clicks"], row["duplicates"]) == (1, 1, 1)
    assert [flag["count"] for flag in result.flags["flags"].to_pylist()[0]] == [1, 1, 1]


def test_an_event_that_rules_of_both_kinds_find_is_invalid_once() -> None:
    twice = ALL_THREE | {"user_id": "u", "creative_id": "c", "currency": "EUR", "cost_micros": 5}
    result = tally(slices(decoded(RULES, twice, twice)), TallySpec(MINUTE, HOUR, ruleset=RULES))
    (row,) = result.summaries.to_pylist()
    assert (row["clicks"], row["givt_clicks"], row["givt_cost_micros"]) == (2, 2, 10)
    (flags,) = result.flags["flags"].to_pylist()
    assert [(flag["rule"], flag["count"]) for flag in flags] == [
        *((CENTRE, 2), ("givt_duplicate_click", 1)),
        *((INVALID, 2), (BOT, 2)),
    ]
