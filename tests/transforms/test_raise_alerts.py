"""Panes to records through Beam: from the tally on, with state per window, on Prism."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms.window import TimestampedValue

from adtally.io import schema
from adtally.io.alerts import FolderAlerts, SendAlerts
from adtally.io.arrow import to_ipc, with_tag
from adtally.io.spill import Spill
from adtally.runners.local.service import MissingSystemPart
from adtally.runners.prism import prism_arguments
from adtally.runners.unbounded import counters
from adtally.transforms.alert_records import Row, Source, Verdict
from adtally.transforms.alert_rows import (
    MOST_CHARACTERS,
    anomaly_rows,
    flag_rows,
    quota_rows,
    short,
    verdict_rows,
)
from adtally.transforms.alerts import AlertSpec
from adtally.transforms.raise_alerts import RaiseAlerts
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
    assert (row.ruleset_version, row.source) == (RULES.version, Source.FLAGS)
    (verdict,) = row.verdicts
    assert (verdict.start_ms, verdict.end_ms, verdict.over) == (0, MINUTE, False)
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


HOUR = 60 * MINUTE


def hour_of(flags: list[dict[str, Any]], target: pa.Schema, **tags: str) -> pa.Table:
    """A pane of an hour with these flags of one advertiser."""
    row = {
        "window_start": 0,
        "window_end": HOUR,
        "window_seconds": 3_600,
        "advertiser_id": "acme",
        "flags": flags,
        "adjustments": [],
        "ruleset_version": "2-abc",
        "final_after": 2 * HOUR,
        "generation": 0,
        "version": 70,
    }
    chosen = [{name: row[name] for name in target.names}]
    return with_tag(pa.Table.from_pylist(chosen, schema=target), part="0-0003", **tags)


def flagged(minute: int, rule: str, subject: str, count: int = 11) -> dict[str, Any]:
    return {
        "flagged_at": minute * MINUTE,
        "rule": rule,
        "ivt_class": "SIVT",
        "subject_type": "series",
        "subject": subject,
        "count": count,
        "threshold": 10,
        "evidence": ["a"],
    }


def test_flags_of_an_hour_are_of_the_base_windows_that_they_name() -> None:
    table = hour_of(
        [flagged(3, "r", "u"), flagged(40, "r", "u")], schema.verdict_schema(), pane_timing="early"
    )
    (row,) = verdict_rows(table, MINUTE)
    assert (row.source, row.start_ms, row.end_ms, row.version) == (Source.VERDICTS, 0, HOUR, 70)
    assert [(one.start_ms, one.end_ms, one.subject) for one in row.verdicts] == [
        (3 * MINUTE, 4 * MINUTE, "u"),
        (40 * MINUTE, 41 * MINUTE, "u"),
    ]


def lasting(minutes: list[int], newest: int, timing: str = "early") -> list[tuple[int, int, bool]]:
    """From when to when anomalies are told, and whether they are over; in minutes."""
    flags = [flagged(minute, "sivt_volume_anomaly", "clicks") for minute in minutes]
    tags = {"pane_timing": timing, "newest": str(newest * MINUTE)}
    (row,) = anomaly_rows(hour_of(flags, schema.ANOMALY_SCHEMA, **tags), MINUTE)
    return [(one.start_ms // MINUTE, one.end_ms // MINUTE, one.over) for one in row.verdicts]


def test_an_anomaly_lasts_until_five_windows_have_none() -> None:
    assert lasting([10], 11) == [(10, 11, False)]
    assert lasting([10], 15) == [(10, 11, False)]
    assert lasting([10], 16) == [(10, 11, True)]
    assert lasting([10, 11, 12], 16) == [(10, 13, False)]
    assert lasting([10, 15], 16) == [(10, 16, False)]
    assert lasting([10, 16], 17) == [(10, 11, True), (16, 17, False)]
    assert lasting([55, 59], 60) == [(55, 60, False)]
    assert lasting([55, 59], 60, "on_time") == [(55, 60, True)], "the hour is over"


def test_each_series_has_anomalies_of_its_own() -> None:
    flags = [
        flagged(minute, rule, subject)
        for minute in (10, 11)
        for rule in ("sivt_spend_anomaly", "sivt_volume_anomaly")
        for subject in ("EUR", "USD")
    ]
    tags = {"pane_timing": "early", "newest": str(12 * MINUTE)}
    (row,) = anomaly_rows(hour_of(flags, schema.ANOMALY_SCHEMA, **tags), MINUTE)
    assert len({(one.rule, one.subject) for one in row.verdicts}) == len(row.verdicts) == 4


def test_windows_that_pass_without_events_make_a_pane_newer() -> None:
    versions = []
    for newest, timing in ((11, "early"), (16, "early"), (16, "on_time")):
        tags = {"pane_timing": timing, "newest": str(newest * MINUTE)}
        (row,) = anomaly_rows(hour_of([], schema.ANOMALY_SCHEMA, **tags), MINUTE)
        versions.append(row.version)
    assert versions == sorted(set(versions))


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
            [Verdict(0, MINUTE, "quota_clicks", "", "advertiser", "acme", 21, 20)],
            source=Source.QUOTAS,
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
    batches = {name: tallied[name] for name in (FLAGS, SUMMARIES)} | RaiseAlerts(spec, MINUTE)
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
