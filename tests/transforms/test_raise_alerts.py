"""Panes to records through Beam: from the tally on, with state per window, on Prism."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms.window import TimestampedValue

from adtally.io.alerts import FolderAlerts, SendAlerts
from adtally.io.arrow import to_ipc
from adtally.io.spill import Spill
from adtally.runners.local.service import MissingSystemPart
from adtally.runners.prism import prism_arguments
from adtally.runners.unbounded import counters
from adtally.transforms.alerts import AlertSpec, Row, Verdict
from adtally.transforms.raise_alerts import (
    MOST_CHARACTERS,
    RaiseAlerts,
    flag_rows,
    quota_rows,
    short,
)
from adtally.transforms.rules.click_rate_ip import ClickRateIp
from adtally.transforms.rules.quotas import Quotas
from adtally.transforms.rules.regular_interval import RegularInterval
from adtally.transforms.rules.ruleset import Ruleset
from adtally.transforms.tally import TallySpec, tally
from adtally.transforms.tally_windows import FLAGS, SUMMARIES, TallyWindows, Windowing
from tests.alert_schemas import check
from tests.transforms.test_tally import event, table

MINUTE = 60_000
RULES = Ruleset(window_rules=(ClickRateIp(5), RegularInterval()))
SPEC = TallySpec(MINUTE, 3_600_000, ruleset=RULES)
QUOTAS = Quotas({"clicks": 20}, {"big": {"clicks": 30}})


def clicks(
    advertiser: str, times: range | list[int], ip: str = "1.1.1.1", **more: Any
) -> list[dict[str, Any]]:
    return [
        event(
            advertiser_id=advertiser,
            event_id=f"{advertiser} {ip} {at}",
            occurred_at=at,
            ip=ip,
            **more,
        )
        for at in times
    ]


def uneven(count: int, start: int = 0) -> list[int]:
    """Times without a rhythm, in the first minute."""
    return [at * 100 + (37 if at % 3 else 0) for at in range(start, start + count)]


# Rows.


def test_rows_of_flags_say_what_the_table_says() -> None:
    found = tally([table(clicks("acme", uneven(6)), ())], SPEC)
    (row,) = flag_rows(found.flags)
    assert (row.advertiser_id, row.start_ms, row.end_ms, row.version) == ("acme", 0, MINUTE, 6)
    assert (row.ruleset_version, row.quota) == (RULES.version, False)
    (verdict,) = row.verdicts
    assert (verdict.rule, verdict.subject_type, verdict.subject) == (
        *("givt_click_rate_ip", "ip"),
        "1.1.1.1",
    )
    assert (verdict.count, verdict.threshold, len(verdict.evidence)) == (6, 5, 5)


def test_an_empty_row_says_that_nothing_holds() -> None:
    times = [1, 5_001, 10_001, 15_001, 20_001]
    assert flag_rows(tally([table(clicks("acme", times), ())], SPEC).flags)[0].verdicts
    (row,) = flag_rows(tally([table(clicks("acme", [*times, 20_002]), ())], SPEC).flags)
    assert (row.advertiser_id, row.version) == ("acme", 6)
    assert [one.rule for one in row.verdicts] == ["givt_click_rate_ip"]


def test_names_without_end_are_cut_and_stay_apart() -> None:
    one, other = "a" * 2_000_000, "a" * 2_000_000 + "b"
    assert short("a" * MOST_CHARACTERS) == "a" * MOST_CHARACTERS
    assert short(one) != short(other)
    assert len(short(one)) < MOST_CHARACTERS + 50
    found = tally([table(clicks(one, uneven(6), ip=other), ())], SPEC)
    (row,) = flag_rows(found.flags)
    assert (row.advertiser_id, row.verdicts[0].subject) == (short(one), short(other))
    assert all(len(name) < MOST_CHARACTERS + 50 for name in row.verdicts[0].evidence)


# Quotas.


def test_quotas_count_what_is_counted_once_of_each_advertiser() -> None:
    spec = TallySpec(MINUTE, 3_600_000, ("campaign_id",), ruleset=RULES)
    events = [
        *clicks("acme", uneven(11), campaign_id="a"),
        *clicks("acme", uneven(10, 20), campaign_id="b", currency="USD"),
        *clicks("acme", uneven(20, 10_000)),
        *clicks("big", uneven(25)),
        *clicks("small", uneven(20)),
        *clicks("acme", uneven(11), campaign_id="a", content_hash=5),
    ]
    summaries = tally([table(events, ("campaign_id",))], spec).summaries
    assert quota_rows(summaries, QUOTAS) == [
        Row(
            *("acme", 0, MINUTE, 32),
            [Verdict("quota_clicks", "", "advertiser", "acme", 21, 20)],
            quota=True,
        )
    ]
    assert quota_rows(summaries, Quotas({}, {"big": {"clicks": 25, "impressions": 1}})) == []
    (row,) = quota_rows(summaries, Quotas({}, {"big": {"clicks": 24, "impressions": 1}}))
    assert [one.rule for one in row.verdicts] == ["quota_clicks"]
    assert not Quotas()
    assert not Quotas({}, {"big": {}})


def test_each_measure_has_a_quota_of_its_own() -> None:
    events = [
        event(event_id=f"{kind} {number}", event_type=kind, occurred_at=number)
        for kind in range(3)
        for number in range(kind + 2)
    ]
    summaries = tally([table(events, ())], SPEC).summaries
    (row,) = quota_rows(summaries, Quotas({"impressions": 1, "clicks": 1, "conversions": 4}))
    assert [(one.rule, one.count) for one in row.verdicts] == [
        ("quota_clicks", 3),
        ("quota_impressions", 2),
    ]


# Through Beam.


def told(tmp_path: Path, steps: list[Any], spec: AlertSpec) -> tuple[list[Any], dict[str, int]]:
    """Records of a stream of slices, and the counters."""
    try:
        arguments = prism_arguments()
    except MissingSystemPart as error:
        pytest.skip(str(error))
    given = test_stream.TestStream()
    for step in steps:
        if isinstance(step, list):
            element = (0, Spill("").put(to_ipc(table(step, ()))))
            at = step[0]["occurred_at"] / 1000
            given = given.add_elements([TimestampedValue(element, at)])
            given = given.advance_processing_time(30)
        else:
            given = given.advance_watermark_to(step)
    pipeline = beam.Pipeline(options=PipelineOptions([*arguments, "--streaming"]))
    slices = pipeline | given | beam.Map(lambda one: one).with_output_types(tuple[int, bytes])
    tallied = slices | TallyWindows(SPEC, Windowing.streaming(MINUTE, 1, 3_600_000))
    batches = {name: tallied[name] for name in (FLAGS, SUMMARIES)} | RaiseAlerts(spec)
    batches | SendAlerts(FolderAlerts(str(tmp_path)))
    result = pipeline.run()
    result.wait_until_finish()
    records = [
        json.loads(line)
        for path in tmp_path.glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    for record in records:
        check(record)
    return sorted(records, key=lambda one: (one["version"], one["kind"])), counters(result)


def test_panes_of_a_window_in_any_order_leave_what_holds(tmp_path: Path) -> None:
    """Prism hands panes that fire in quick succession over in any order."""
    rhythm = clicks("acme", [1, 5_001, 10_001, 15_001, 20_001])
    records, counts = told(
        tmp_path,
        [
            rhythm[:3],
            rhythm[3:],
            clicks("acme", [30_000]),  # six clicks, and no rhythm any more
            61,
            clicks("acme", [40_000]),  # late, and nothing is new
            clicks("acme", [70_001]),  # another window, with nothing to say
            200,
        ],
        AlertSpec(),
    )
    newest = {one["key"]: one for one in records}  # in the order of versions
    alerts = [one for one in newest.values() if one["kind"] == "alert"]
    raised = [one["rule"] for one in alerts if one["state"] == "raised"]
    assert raised == ["givt_click_rate_ip"]
    (limit,) = (one for one in newest.values() if one["kind"] == "rate_limit")
    assert limit["state"] == "limited"
    assert len({one["id"] for one in records}) == len(records)
    assert counts["panes_early"] + counts["panes_on_time"] + counts["panes_late"] > 4
    raises = [one for one in records if one.get("state") == "raised"]
    assert counts["alerts_sent"] == len(raises)
    assert counts["alerts_withdrawn"] == len(raises) - 1


def test_each_window_begins_afresh_and_advertisers_are_apart(tmp_path: Path) -> None:
    records, _ = told(
        tmp_path,
        [
            clicks("acme", uneven(6)),
            clicks("acme", [MINUTE + at for at in uneven(6)]),
            clicks("other", uneven(6)),
        ],
        AlertSpec(),
    )
    alerts = [one for one in records if one["kind"] == "alert"]
    assert sorted((one["advertiser_id"], one["window_start"]) for one in alerts) == [
        ("acme", "1970-01-01T00:00:00.000Z"),
        ("acme", "1970-01-01T00:01:00.000Z"),
        ("other", "1970-01-01T00:00:00.000Z"),
    ]
    assert len({one["id"] for one in records}) == len(records) == 6


def test_an_attack_is_cut_short_and_counted(tmp_path: Path) -> None:
    attack = [one for n in range(30) for one in clicks("acme", uneven(6), ip=f"1.1.1.{n}")]
    records, counts = told(tmp_path, [attack], AlertSpec(most=10))
    kinds = [one["kind"] for one in records]
    assert (kinds.count("alert"), kinds.count("rate_limit")) == (10, 10)
    assert [one["count"] for one in records if one["kind"] == "suppressed"] == [20]
    assert (counts["alerts_sent"], counts["alerts_suppressed"]) == (10, 20)


def test_a_quota_limits_a_tenant_while_flags_go_on(tmp_path: Path) -> None:
    first, second = uneven(15), uneven(15, 15)
    records, counts = told(
        tmp_path, [clicks("acme", first), clicks("acme", second)], AlertSpec(quotas=QUOTAS)
    )
    limits = [one for one in records if one["kind"] == "rate_limit"]
    assert sorted((one["subject_type"], one["reasons"][0]["rule"]) for one in limits) == [
        ("advertiser", "quota_clicks"),
        ("ip", "givt_click_rate_ip"),
    ]
    assert (counts["alerts_sent"], counts["rate_limits_sent"]) == (1, 2)
