"""Backfill, Elasticsearch, the views over the log, re-tally and replay, row by row against SQL."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from tests import sql_oracle

NOW_MS = round(datetime.datetime.now(datetime.UTC).timestamp() * 1000)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def made_up(tmp_path: Path, seed: int, **settings: Any) -> tuple[Path, dict[str, Any]]:
    settings = {"events": 15_000, "advertisers": 60, "hours": 5, "late_ratio": 0.01, **settings}
    folder = tmp_path / f"made-{seed}"
    truth = generate(
        GenerateConfig(
            seed=seed, output=str(folder), duplicate_ratio=0.05, malformed_ratio=0.02, **settings
        )
    )
    return folder / "logs", truth


def oracle(logs: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    sql_oracle.load(connection, logs, NOW_MS)
    return connection


def views(output: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute((output / "views.sql").read_text())
    return connection


def stored(output: Path, seconds: int, dimensions: tuple[str, ...] = ()) -> list[Any]:
    keys = ", ".join(["epoch_ms(window_start)", "advertiser_id", *dimensions, "currency"])
    query = f"SELECT {keys}, {sql_oracle.MEASURES} FROM summaries WHERE window_seconds = {seconds}"
    return views(output).execute(f"{query} ORDER BY ALL").fetchall()


@pytest.mark.parametrize(
    ("seed", "window", "rollup", "dimensions"),
    [(1, 60, 3600, ()), (2, 10, 86_400, ("campaign_id",)), (3, 300, 600, ("country",))],
)
def test_summaries_flags_and_dead_letters(
    tmp_path: Path, seed: int, window: int, rollup: int, dimensions: tuple[str, ...]
) -> None:
    logs, _ = made_up(tmp_path, seed)
    output = tmp_path / "out"
    arguments = ["--dimensions", ",".join(dimensions)] if dimensions else []
    run(
        *("backfill", "--input", str(logs), "--output", str(output)),
        *("--window", f"{window}s", "--rollup", f"{rollup}s", *arguments),
    )
    sql = oracle(logs)
    expected = sql_oracle.summaries(sql, window, dimensions=dimensions)
    assert stored(output, window, dimensions) == expected
    assert len(expected) > 1_000
    found_flags = views(output).execute(f"SELECT {sql_oracle.FLAGS} FROM flags").fetchall()
    assert sorted(found_flags) == sql_oracle.flags(sql)
    larger = sql_oracle.summaries(sql, window, rollup_seconds=rollup, dimensions=dimensions)
    assert stored(output, rollup, dimensions) == larger
    letters = views(output).execute("SELECT source, position::BIGINT FROM dead_letters").fetchall()
    assert sorted(letters) == sorted(sql.execute("FROM dead").fetchall())
    assert letters


def test_the_views_over_the_log_give_the_same_again(tmp_path: Path) -> None:
    logs, truth = made_up(tmp_path, 4)
    output = tmp_path / "out"
    run("backfill", "--input", str(logs), "--output", str(output))
    sql = views(output)
    from_log = sql.execute(
        """SELECT window_ms, advertiser_id, coalesce(currency, 'XXX') AS money,
            count(*) FILTER (event_type = 'impression'), count(*) FILTER (event_type = 'click'),
            count(*) FILTER (event_type = 'conversion'), sum(coalesce(cost_micros, 0))::BIGINT,
            sum(coalesce(revenue_micros, 0))::BIGINT
        FROM events_on_time GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    from_summaries = sql.execute(
        """SELECT epoch_ms(window_start), advertiser_id, currency, impressions, clicks, conversions,
            cost_micros, revenue_micros
        FROM summaries WHERE impressions + clicks + conversions > 0 ORDER BY ALL"""
    ).fetchall()
    assert from_log == from_summaries
    assert sql.execute("SELECT count(*) FROM events_on_time").fetchall() == [(truth["counted"],)]
    assert sql.execute("SELECT count(*) FROM event_rows").fetchall() == [(truth["events"],)]


def test_two_processes_give_the_same(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 5, files_per_hour=3)
    one, two = tmp_path / "one", tmp_path / "two"
    run("backfill", "--input", str(logs), "--output", str(one), "--block-size", "1")
    run(
        *("backfill", "--input", str(logs), "--output", str(two), "--block-size", "1"),
        *("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
    )
    assert stored(one, 60) == stored(two, 60)
    assert files(one / "events") == files(two / "events")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_twice_leaves_the_same_files(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 6)
    output = tmp_path / "out"
    kinds = ("events", "summaries", "flags", "late")
    run("backfill", "--input", str(logs), "--output", str(output))
    first = {kind: files(output / kind) for kind in kinds}
    letters = set(files(output / "dead-letters"))
    run("backfill", "--input", str(logs), "--output", str(output))
    assert {kind: files(output / kind) for kind in kinds} == first
    assert set(files(output / "dead-letters")) == letters


@pytest.mark.elasticsearch
def test_documents_and_a_retally_that_counts_late_events(
    tmp_path: Path, elasticsearch_node: ElasticsearchNode
) -> None:
    logs, _ = made_up(tmp_path, 7)
    rules = tmp_path / "rules.toml"
    rules.write_text("rules.givt_click_rate_ip.threshold = 5")
    output = tmp_path / "out"
    target = ("--elasticsearch", elasticsearch_node.url, "--elasticsearch-index-prefix", "oracle")
    run(
        *("backfill", "--input", str(logs), "--output", str(output), "--rollup", "1h"),
        *(*target, "--elasticsearch-setup", "--rules", str(rules)),
    )
    sql = oracle(logs)
    for seconds in (60, 3600):
        size = None if seconds == 60 else seconds
        expected = sql_oracle.summaries(sql, 60, rollup_seconds=size, threshold=5)
        assert documents(elasticsearch_node, seconds) == expected

    # A correction of two hours: late events count there, elsewhere nothing changes.
    middle = ("2026-03-01T01:00:00Z", "2026-03-01T03:00:00Z")
    run(
        *("backfill", "--input", str(output / "events"), "--output", str(output), *target),
        *("--from", middle[0], "--to", middle[1]),
    )
    start, end = (
        round(datetime.datetime.fromisoformat(text).timestamp() * 1000) for text in middle
    )
    for seconds in (60, 3600):
        size = None if seconds == 60 else seconds
        without = sql_oracle.summaries(sql, 60, rollup_seconds=size, threshold=5)
        complete = sql_oracle.summaries(sql, 60, rollup_seconds=size, threshold=5, late_too=True)
        expected = sorted(
            [row for row in complete if start <= int(str(row[0])) < end]
            + [row for row in without if not start <= int(str(row[0])) < end],
            key=lambda row: tuple(map(str, row[1:3])),
        )
        found = stored(output, seconds)
        assert sorted(found) == sorted(expected)
        assert sorted(documents(elasticsearch_node, seconds)) == sorted(expected)
        assert complete != without


def documents(node: ElasticsearchNode, seconds: int) -> list[tuple[Any, ...]]:
    """Rows as Elasticsearch has them, in the oracle's shape."""
    config = ElasticsearchConfig((node.url,), "oracle")
    pattern = "oracle-summaries-*"
    with contextlib.closing(connect(config)) as client:
        client.indices.refresh(index=pattern)
        client.indices.put_settings(index=pattern, settings={"max_result_window": 200_000})
        hits = client.search(
            index=pattern, size=200_000, query={"term": {"window_seconds": seconds}}
        )["hits"]["hits"]
    rows = []
    for hit in hits:
        row = hit["_source"]
        measures = sql_oracle.MEASURES.replace("epoch_ms(", "").replace(")", "").split(", ")
        values = [_ms(row[n]) if n.endswith("_at") else row[n] for n in measures]
        rows.append((_ms(row["window_start"]), row["advertiser_id"], row["currency"], *values))
    return sorted(rows)


def _ms(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)


def test_replay_after_the_mapping_was_corrected(tmp_path: Path) -> None:
    logs, truth = made_up(tmp_path, 8)
    output = tmp_path / "out"
    wrong = tmp_path / "wrong.toml"
    names = ["event_id", "event_type", "received_at", "advertiser_id", "currency", "user_id", "ip"]
    rules = "\n".join(f'{name} = "{name}"' for name in names)
    # The times are no epoch milliseconds, so every record is refused.
    wrong.write_text(
        f'[fields]\n{rules}\noccurred_at = {{from="occurred_at", time_format="epoch_ms"}}\n'
    )
    run(
        *("backfill", "--input", str(logs), "--output", str(output)),
        *("--mapping", str(wrong), "--rollup", "1h"),
    )
    assert stored(output, 60) == []
    run("replay", "--output", str(output))
    sql = oracle(logs)
    assert stored(output, 60) == sql_oracle.summaries(sql, 60, late_too=True)
    assert stored(output, 3600) == sql_oracle.summaries(sql, 60, rollup_seconds=3600, late_too=True)
    # What is still no event is still a dead letter, with the address that it had.
    letters = views(output).execute("SELECT source, position::BIGINT FROM dead_letters").fetchall()
    assert sorted(letters) == sorted(sql.execute("FROM dead").fetchall())
    assert len(letters) == truth["malformed"]
    again = CliRunner().invoke(cli, ["replay", "--output", str(output)])
    assert again.exit_code == 0, again.output
    assert stored(output, 60) == sql_oracle.summaries(sql, 60, late_too=True)
