"""Rows beyond the limit are one: in a backfill, its roll-ups and a re-tally, against SQL."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from adtally.io.manifest import read_manifest, write_manifest
from adtally.pipelines.cli import cli
from tests import sql_oracle
from tests.pipelines.test_look_back import FLOOD, RULES, net
from tests.pipelines.test_oracle import made_up, oracle, run, stored, views

MOST = 3
BY = ("campaign_id", "country")
OTHERS = "campaign_id = '__other__' AND country = '__other__'"


def test_summaries_roll_ups_and_net_against_sql(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 51, events=12_000, advertisers=12)
    output, rules = tmp_path / "out", tmp_path / "rules.toml"
    rules.write_text(RULES)
    said = run(
        *("backfill", "--input", str(logs), "--output", str(output), "--rules", str(rules)),
        *("--dimensions", ",".join(BY), "--rollup", "1h", "--max-rows-per-window", str(MOST)),
    )
    sql = oracle(logs)
    for late_too in (False, True):
        if late_too:  # the whole log again, as a correction: the limit is the output's
            run("backfill", "--input", str(output / "events"), "--output", str(output))
        expected = sql_oracle.summaries(sql, 60, dimensions=BY, most=MOST, late_too=late_too)
        assert stored(output, 60, BY) == expected
        larger = sql_oracle.summaries(
            sql, 60, rollup_seconds=3600, dimensions=BY, most=MOST, late_too=late_too
        )
        assert stored(output, 3600, BY) == larger
        sql_oracle.look_back(sql, 60, FLOOD)
        for seconds in (60, 3600):
            assert net(output, seconds, BY) == sql_oracle.net(sql, seconds, BY, folded=True)
        others = [row for row in expected if row[2:4] == ("__other__", "__other__")]
        assert len(others) > 100
        (report,) = runs(output, retally=late_too)
        assert report["overflow_rows"] == len(others)
        assert report["events_folded"] == sum(sum(map(int, map(str, row[5:9]))) for row in others)
        assert report["rows_folded"] > report["overflow_rows"]
    assert "beyond row limit" in said


def runs(output: Path, retally: bool) -> list[dict[str, int]]:
    records = [json.loads(path.read_text()) for path in (output / "runs").glob("*.json")]
    return [record["counters"] for record in records if record["retally"] == retally]


def test_what_was_folded_is_found_in_the_log(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 52, events=4_000, advertisers=4)
    output = tmp_path / "out"
    run(
        *("backfill", "--input", str(logs), "--output", str(output)),
        *("--dimensions", ",".join(BY), "--max-rows-per-window", str(MOST)),
    )
    query = documented("What was folded")
    found = views(output).execute(query).fetchall()
    folded = "SELECT sum(impressions + clicks + conversions) FROM summaries WHERE "
    assert views(output).execute(folded + OTHERS).fetchall() == [(sum(row[-1] for row in found),)]
    assert len(found) == runs(output, retally=False)[0]["rows_folded"]


def documented(title: str) -> str:
    """The first SQL under a heading of docs/overflow.md."""
    text = (Path(__file__).parents[2] / "docs" / "overflow.md").read_text()
    return text.split(f"## {title}")[1].split("```sql\n")[1].split("```")[0]


def test_the_limit_is_the_output_s(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 53, events=300)
    output = tmp_path / "out"
    call = ("backfill", "--input", str(logs), "--output", str(output), "--dimensions", BY[0])
    run(*call)
    known = read_manifest(str(output)) or {}
    assert known["max_rows_per_window"] == 10_000
    refused = CliRunner().invoke(cli, [*call, "--max-rows-per-window", "5"])
    assert refused.exit_code == 2
    assert "max_rows_per_window 10000, now 5" in refused.output
    # An output that was made before there were limits has none, and keeps none.
    del known["max_rows_per_window"]
    write_manifest(str(output), known)
    refused = CliRunner().invoke(cli, [*call, "--max-rows-per-window", "5"])
    assert "max_rows_per_window 0, now 5" in refused.output
    run(*call)
    assert (read_manifest(str(output)) or {})["max_rows_per_window"] == 0


@pytest.mark.parametrize("value", ["-1", "many"])
def test_what_is_no_limit(tmp_path: Path, value: str) -> None:
    call = ["backfill", "--input", "x", "--output", str(tmp_path), "--max-rows-per-window", value]
    assert CliRunner().invoke(cli, call).exit_code == 2
