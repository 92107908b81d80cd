"""The whole command on 100,000 real clicks, held against SQL over the same files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode

MAPPING = Path(__file__).parents[2] / "pipelines" / "mappings" / "talkingdata.toml"


def run(*arguments: str) -> str:
    """Run the command line; it has to succeed."""
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def views(output: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute((output / "views.sql").read_text())
    return connection


def with_source(connection: duckdb.DuckDBPyConnection, logs: Path) -> None:
    """The same files as SQL sees them."""
    connection.execute(
        f"""CREATE VIEW source AS
        SELECT ip, app::VARCHAR AS app, channel::VARCHAR AS channel, is_attributed,
               click_time::TIMESTAMP AS happened
        FROM read_json('{logs}/*/*.jsonl.gz', format = 'newline_delimited', columns = {{
            ip: 'VARCHAR', app: 'INT', channel: 'INT', click_time: 'VARCHAR',
            is_attributed: 'INT'}})"""
    )


ONE_RULE = """
[rules]
givt_click_rate_ip.threshold = {}
givt_regular_interval.enabled = false
"""


@pytest.mark.parametrize("threshold", [1, 2])
def test_per_app_and_window_as_sql_says(real_clicks: Path, tmp_path: Path, threshold: int) -> None:
    output = tmp_path / "out"
    rules = tmp_path / "rules.toml"
    rules.write_text(ONE_RULE.format(threshold))
    run(
        *("backfill", "--input", str(real_clicks), "--output", str(output)),
        *("--mapping", str(MAPPING), "--window", "10m", "--rollup", "1h,1d"),
        *("--dimensions", "publisher_id", "--rules", str(rules)),
    )
    sql = views(output)
    with_source(sql, real_clicks)
    for seconds in (600, 3600, 86_400):
        expected = sql.sql(
            f"""SELECT time_bucket(INTERVAL {seconds} SECOND, happened) AS w, app,
                channel, count(*) AS clicks, sum(is_attributed)::BIGINT AS conversions
            FROM source GROUP BY ALL ORDER BY ALL"""
        ).fetchall()
        found = sql.sql(
            f"""SELECT window_start::TIMESTAMP, advertiser_id, publisher_id, clicks, conversions
            FROM summaries WHERE window_seconds = {seconds} ORDER BY ALL"""
        ).fetchall()
        assert found == expected
    totals = sql.sql(
        "SELECT sum(clicks), sum(conversions), sum(duplicates), sum(cost_micros), "
        "any_value(currency) FROM summaries WHERE window_seconds = 600"
    ).fetchall()
    assert totals == [(100_000, 227, 0, 0, "XXX")]
    expected_flags = sql.sql(
        f"""SELECT time_bucket(INTERVAL 600 SECOND, happened) AS w, app, ip, count(*) AS clicks
        FROM source GROUP BY ALL HAVING clicks > {threshold} ORDER BY ALL"""
    ).fetchall()
    found_flags = sql.sql(
        "SELECT window_start::TIMESTAMP, advertiser_id, subject, count FROM flags ORDER BY ALL"
    ).fetchall()
    assert found_flags == expected_flags
    assert found_flags
    givt = sql.sql("SELECT sum(givt_clicks) FROM summaries WHERE window_seconds = 600").fetchall()
    assert givt == [(sum(count for *_, count in expected_flags),)]
    assert sql.sql("SELECT count(*) FROM dead_letters").fetchall() == [(0,)]
    assert sql.sql("SELECT extra FROM events LIMIT 1").fetchall() != [(None,)]


@pytest.mark.elasticsearch
def test_documents_are_the_rows(
    real_clicks: Path, tmp_path: Path, elasticsearch_node: ElasticsearchNode
) -> None:
    output = tmp_path / "out"
    rules = tmp_path / "rules.toml"
    rules.write_text(ONE_RULE.format(2))
    run(
        *("backfill", "--input", str(real_clicks / "2017-11-07"), "--output", str(output)),
        *("--mapping", str(MAPPING), "--window", "1h", "--rules", str(rules)),
        *("--elasticsearch", elasticsearch_node.url, "--elasticsearch-setup"),
        *("--elasticsearch-index-prefix", "real"),
    )
    config = ElasticsearchConfig((elasticsearch_node.url,), "real")
    with contextlib.closing(connect(config)) as client:
        client.indices.refresh(index="real-*")
        client.indices.put_settings(index="real-*", settings={"max_result_window": 100_000})
        hits = client.search(index="real-summaries-*", size=100_000)["hits"]["hits"]
        flags = client.search(index="real-flags-*", size=100_000)["hits"]["hits"]
    names = "advertiser_id, clicks, conversions, givt_clicks, net_clicks, version, window_start"
    found = sorted(tuple(hit["_source"][name] for name in names.split(", ")) for hit in hits)
    sql = views(output)
    rows = sql.sql(
        f"SELECT {names.replace('window_start', '')} "
        "strftime(window_start, '%Y-%m-%dT%H:%M:%S.000Z') FROM summaries ORDER BY ALL"
    ).fetchall()
    assert found == sorted(rows)
    assert len(found) > 900
    verdicts = sorted(
        (hit["_source"]["advertiser_id"], flag["subject"], flag["count"])
        for hit in flags
        for flag in hit["_source"]["flags"]
    )
    expected = sql.sql("SELECT advertiser_id, subject, count FROM flags ORDER BY ALL").fetchall()
    assert verdicts == sorted(expected)
    assert verdicts
