"""A live Kinesis stream through Prism, row by row against SQL and against the backfill."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.kinesis_server import KinesisServer
from tests import sql_oracle, streams

pytestmark = pytest.mark.xdist_group("live")  # one stream at a time

EVENTS = 6_000
FLUSH_SECONDS = 5
WRITERS = 2
QUICK = (
    *("--watermark-lag", "2s", "--pane-every", "2s", "--look-back-every", "2s"),
    *("--flush-every", f"{FLUSH_SECONDS}s"),
)
SETTINGS = ("--allowed-lateness", f"{streams.LATENESS_SECONDS}s", "--rollup", "1h")


@pytest.fixture(autouse=True)
def _lateness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_oracle, "LATENESS_MS", streams.LATENESS_SECONDS * 1000)
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


def source(server: KinesisServer, name: str) -> tuple[str, ...]:
    region = ("--kinesis-region", "us-east-1", "--kinesis-endpoint", server.url)
    return ("--source", f"kinesis://{name}", *region)


def run(*arguments: str) -> None:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output


def test_stream_equals_backfill_and_sql(
    tmp_path: Path, kinesis_server: KinesisServer, elasticsearch_node: ElasticsearchNode
) -> None:
    logs = streams.recent_logs(tmp_path / "made", EVENTS)
    client = streams.create_stream(kinesis_server.url, "equal", 3)
    streams.put(client, "equal", streams.lines_of(logs))
    sql = streams.oracle(logs)
    expected = sql_oracle.summaries(sql, 60)
    flags = sql_oracle.flags(sql)
    look_back = streams.expected_look_back(sql, logs)
    assert look_back

    rules = tmp_path / "rules.toml"
    rules.write_text(streams.EASY_ANOMALIES)
    settings = (*SETTINGS, "--rules", str(rules))

    backfilled = tmp_path / "backfilled"
    run("backfill", "--input", str(logs), "--output", str(backfilled), *settings)
    assert streams.stored(backfilled) == expected
    anomalies = streams.stored_anomalies(backfilled, logs)
    assert anomalies

    bounded = tmp_path / "bounded"
    where = source(kinesis_server, "equal")
    run("stream", *where, "--output", str(bounded), *settings, "--stop-at", "LATEST")
    assert streams.stored(bounded) == expected
    assert streams.stored_flags(bounded) == flags
    assert streams.stored_look_back(bounded, logs) == look_back
    assert streams.stored_anomalies(bounded, logs) == anomalies
    assert streams.in_log(bounded) == streams.in_log(backfilled)

    live = tmp_path / "live"
    log = tmp_path / "stream.log"
    elastic = ("--elasticsearch", elasticsearch_node.url, "--elasticsearch-setup")
    prefix = ("--elasticsearch-index-prefix", "prism")
    arguments = (*where, "--output", str(live), *settings, *QUICK, *elastic, *prefix)
    begun = time.monotonic()
    url = elasticsearch_node.url
    with streams.running("stream", *arguments, log=log):
        streams.until_equal(
            lambda: streams.stored(live), expected, "the summaries in Parquet equal SQL"
        )
        assert streams.searchable(url, "prism") == expected
        streams.until_equal(lambda: streams.stored_flags(live), flags, "flags equal SQL")
        streams.until_equal(
            lambda: streams.stored_look_back(live, logs), look_back, "verdicts equal SQL"
        )
        streams.until_equal(
            lambda: streams.searchable_anomalies(url, "prism", logs),
            *(anomalies, "anomalies in Elasticsearch equal the backfill's"),
        )
        assert streams.in_log(live) == streams.in_log(backfilled)
        advertisers = "SELECT count(DISTINCT advertiser_id) FROM event_rows"
        assert streams.views(live).execute(advertisers).fetchall()[0][0] > 1_000
        flushes = (time.monotonic() - begun) / FLUSH_SECONDS + 2
        for hour in live.glob("events/date=*/hour=*"):
            assert len(list(hour.iterdir())) <= WRITERS * flushes, "files follow from time alone"
        dead = streams.views(live).execute("SELECT count(*) FROM dead_letters").fetchall()
        assert dead == sql.execute("SELECT count(*) FROM dead").fetchall()
