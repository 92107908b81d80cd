"""Anomalies of series, from logs and in re-tallies, row by row against SQL."""

from pathlib import Path
from typing import Any

from tests import sql_oracle
from tests.pipelines.test_oracle import made_up, oracle, run, views

BIG = {"events": 120_000, "advertisers": 3, "hours": 5}


def stored(output: Path) -> list[Any]:
    query = f"SELECT {sql_oracle.ANOMALIES} FROM anomalies ORDER BY ALL"
    return views(output).execute(query).fetchall()


def test_a_backfill_and_a_retally(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 51, **BIG)
    output = tmp_path / "out"
    run("backfill", "--input", str(logs), "--output", str(output), "--dimensions", "country")
    sql = oracle(logs)
    sql_oracle.summaries(sql, 60)
    before = sql_oracle.anomalies(sql)
    assert stored(output) == before
    assert {row[3] for row in before} >= {"sivt_volume_anomaly", "sivt_ctr_anomaly"}
    # From the log, late events count, in the windows before the range as well.
    start, end = "2026-03-01T02:00:00Z", "2026-03-01T04:00:00Z"
    run(
        *("backfill", "--input", str(output / "events"), "--output", str(output)),
        *("--from", start, "--to", end, "--dimensions", "country"),
    )
    sql_oracle.summaries(sql, 60, late_too=True)
    after = sql_oracle.anomalies(sql)
    low, high = 1_772_330_400_000, 1_772_337_600_000
    expected = [row for row in before if not low <= int(str(row[0])) < high]
    expected += [row for row in after if low <= int(str(row[0])) < high]
    assert stored(output) == sorted(expected)
    # Nothing else of the windows before the range was written again.
    query = "SELECT min(window_start) FROM read_parquet('{}/**/*.parquet') WHERE generation = 1"
    for kind in ("summaries", "flags"):
        (first,) = views(output).execute(query.format(output / kind)).fetchall()[0]
        assert first.isoformat() == "2026-03-01T02:00:00+00:00"


def test_hours_over_midnight_are_compared_with_the_day_before(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 52, **(BIG | {"start_ms": 1_772_323_200_000 + 22 * 3_600_000}))
    output = tmp_path / "out"
    run("backfill", "--input", str(logs), "--output", str(output))
    sql = oracle(logs)
    sql_oracle.summaries(sql, 60)
    assert stored(output) == sql_oracle.anomalies(sql)
