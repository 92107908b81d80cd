"""Profiles of the day from stored summaries, and anomalies judged by them, against SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from adtally.pipelines.cli import cli
from tests import sql_oracle
from tests.pipelines.test_oracle import made_up, oracle, run, views

HOUR_MS = 3_600_000
MARCH = 1_772_323_200_000
DAYS = {"events": 220_000, "advertisers": 1, "hours": 84, "start_ms": MARCH - 6 * HOUR_MS}
"""Three whole days, from the first of March, and parts of two others."""


def profiled(path: Path) -> list[Any]:
    query = (
        f"SELECT advertiser_id, measure, currency, hour, factor, days FROM '{path}' ORDER BY ALL"
    )
    return duckdb.sql(query).fetchall()


def expected(output: Path, first: str = "2026-03-01", after: str = "2026-03-04") -> list[Any]:
    """The profile of an output's days, from its views."""
    return (
        views(output)
        .execute(
            f"""
        WITH hours AS (
            SELECT advertiser_id, currency AS money, window_start::DATE AS day,
                hour(window_start) AS hour, sum(impressions) AS impressions, sum(clicks) AS clicks,
                sum(conversions) AS conversions, sum(cost_micros) AS cost_micros
            FROM summaries WHERE window_start >= '{first}' AND window_start < '{after}' GROUP BY ALL
        ), long AS (
            SELECT advertiser_id, day, hour, 'impressions' AS measure, NULL AS currency,
                impressions AS value, impressions AS volume FROM hours
            UNION ALL SELECT advertiser_id, day, hour, 'clicks', NULL, clicks, clicks FROM hours
            UNION ALL SELECT advertiser_id, day, hour, 'conversions', NULL, conversions, conversions
                FROM hours
            UNION ALL SELECT advertiser_id, day, hour, 'cost_micros', money,
                greatest(cost_micros, 0), impressions + clicks FROM hours
        ), days AS (
            SELECT advertiser_id, measure, currency, day, sum(value) / 24 AS mean FROM long
            GROUP BY advertiser_id, measure, currency, day
            HAVING sum(volume) >= 1200 AND sum(value) > 0
            QUALIFY count(*) OVER (PARTITION BY advertiser_id, measure, currency) >= 3
        ), shares AS (
            SELECT d.advertiser_id, d.measure, d.currency, d.day, h.hour,
                coalesce(sum(l.value), 0) / any_value(mean) AS share
            FROM days d CROSS JOIN range(24) h(hour)
            LEFT JOIN long l ON l.advertiser_id = d.advertiser_id AND l.measure = d.measure
                AND l.currency IS NOT DISTINCT FROM d.currency AND l.day = d.day
                AND l.hour = h.hour
            GROUP BY ALL
        ), medians AS (
            SELECT advertiser_id, measure, currency, hour, median(share) AS value, count(*) AS days
            FROM shares GROUP BY ALL
        ), own AS (
            SELECT * EXCLUDE (value), value / avg(value) OVER (
                PARTITION BY advertiser_id, measure, currency) AS factor FROM medians
        ), filled AS (
            FROM own
            UNION ALL BY NAME SELECT * REPLACE ('conversions' AS measure) FROM own
            WHERE measure = 'clicks' AND advertiser_id NOT IN (
                SELECT advertiser_id FROM own WHERE measure = 'conversions')
        )
        SELECT advertiser_id, measure, currency, hour, round(factor, 3), days FROM filled
        ORDER BY ALL
        """
        )
        .fetchall()
    )


def same(ours: list[Any], theirs: list[Any]) -> bool:
    """Equal but for the last of three digits, where both rounded halves."""
    keys = [[(*row[:4], row[5]) for row in rows] for rows in (ours, theirs)]
    factors = zip([row[4] for row in ours], [row[4] for row in theirs], strict=True)
    return keys[0] == keys[1] and all(abs(one - other) <= 1.01e-3 for one, other in factors)


def test_anomalies_by_the_profile_of_a_first_run(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 61, **DAYS)
    output, path = tmp_path / "out", tmp_path / "season.parquet"
    run("backfill", "--input", str(logs), "--output", str(output), "--dimensions", "country")
    said = run("profile", "--output", str(output), str(path))
    assert "3, from 2026-03-01 to 2026-03-03" in said
    assert len(profiled(path)) >= 4 * 24
    assert same(profiled(path), expected(output))
    # Late events count in a re-tally, whose generation the profile goes by at once.
    run(
        *("backfill", "--input", str(output / "events"), "--output", str(output)),
        *("--from", "2026-03-02T00:00:00Z", "--to", "2026-03-02T18:00:00Z"),
    )
    before = path.read_bytes()
    run("profile", "--output", str(output), str(path))
    assert path.read_bytes() != before
    assert same(profiled(path), expected(output))
    # Made again of the same, it is the same.
    before = path.read_bytes()
    run("profile", "--output", str(output), str(path))
    assert path.read_bytes() == before

    rules = tmp_path / "rules.toml"
    rules.write_text('[lists]\nseason = "season.parquet"\n')
    second = tmp_path / "second"
    backfill = ("backfill", "--input", str(logs), "--output", str(second))
    run(*backfill, "--rules", str(rules))
    sql = oracle(logs)
    sql_oracle.summaries(sql, 60)
    judged = sql_oracle.anomalies(sql, str(path))
    stored = views(second).execute(f"SELECT {sql_oracle.ANOMALIES} FROM anomalies ORDER BY ALL")
    assert stored.fetchall() == judged
    assert judged != sql_oracle.anomalies(sql)

    # Another profile is another ruleset, which is not used unasked.
    run("profile", "--output", str(second), str(path))
    assert path.read_bytes() != before
    refused = CliRunner().invoke(cli, list(backfill))
    assert refused.exit_code == 2
    assert "have changed since they were last used" in refused.output


def test_days_that_are_not_whole_are_no_days(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 62, **{**DAYS, "events": 30_000, "hours": 60})
    output, path = tmp_path / "out", tmp_path / "season.parquet"
    run("backfill", "--input", str(logs), "--output", str(output))
    result = CliRunner().invoke(cli, ["profile", "--output", str(output), str(path)])
    assert result.exit_code == 2
    assert "has 2 whole days" in result.output
    assert not path.exists()


def test_a_profile_that_cannot_be_written(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 65, **{**DAYS, "events": 30_000})
    output = tmp_path / "out"
    run("backfill", "--input", str(logs), "--output", str(output))
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "season.parquet"
    result = CliRunner().invoke(cli, ["profile", "--output", str(output), str(path)])
    assert result.exit_code == 1
    assert "Error: failed: " in result.output


@pytest.mark.parametrize(
    ("window", "message"), [("2h", "do not divide an hour"), ("45m", "do not divide an hour")]
)
def test_windows_that_hide_hours(tmp_path: Path, window: str, message: str) -> None:
    logs, _ = made_up(tmp_path, 63, events=200)
    output = tmp_path / "out"
    run("backfill", "--input", str(logs), "--output", str(output), "--window", window)
    result = CliRunner().invoke(cli, ["profile", "--output", str(output), str(tmp_path / "p")])
    assert result.exit_code == 2
    assert message in result.output


def test_advertisers_too_small_and_outputs_that_are_none(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 64, **{**DAYS, "events": 3_000})
    output = tmp_path / "out"
    run("backfill", "--input", str(logs), "--output", str(output))
    result = CliRunner().invoke(cli, ["profile", "--output", str(output), str(tmp_path / "p")])
    assert result.exit_code == 2
    assert "no advertiser" in result.output
    empty = tmp_path / "empty"
    empty.mkdir()
    result = CliRunner().invoke(cli, ["profile", "--output", str(empty), str(tmp_path / "p")])
    assert result.exit_code == 2
    assert "is no output of adtally" in result.output
