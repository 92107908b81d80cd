"""A live Kinesis stream through a real Flink cluster that is broken on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import KinesisServer
from tests import sql_oracle, streams

EVENTS = 6_000
QUICK = ("--watermark-lag", "2s", "--pane-every", "2s", "--flush-every", "5s")
SETTINGS = ("--allowed-lateness", f"{streams.LATENESS_SECONDS}s")


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_oracle, "LATENESS_MS", streams.LATENESS_SECONDS * 1000)
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_kills_a_savepoint_and_another_parallelism_lose_and_double_nothing(
    tmp_path: Path,
    kinesis_server: KinesisServer,
    elasticsearch_node: ElasticsearchNode,
    flink: FlinkCluster,
) -> None:
    logs = streams.recent_logs(tmp_path / "made", EVENTS)
    lines = streams.lines_of(logs)
    client = streams.create_stream(kinesis_server.url, "flink", 3)
    sql = streams.oracle(logs)
    expected = sql_oracle.summaries(sql, 60)
    flags = sql_oracle.flags(sql)
    live = tmp_path / "live"

    def start(*more: str) -> None:
        arguments = (
            *("stream", "--source", "kinesis://flink", "--kinesis-region", "us-east-1"),
            *("--kinesis-endpoint", kinesis_server.url, "--output", str(live), *SETTINGS, *QUICK),
            *("--elasticsearch", elasticsearch_node.url, "--elasticsearch-setup"),
            *("--elasticsearch-index-prefix", "flink", *flink.arguments(), "--detach"),
            *("--flink-checkpoint-every", "2s", *more),
        )
        result = CliRunner().invoke(cli, list(arguments))
        assert result.exit_code == 0, result.output

    def put(part: int) -> None:
        streams.put(client, "flink", lines[part::4], seed=part)

    def rows() -> int:
        query = "SELECT count(*) FROM event_rows"
        return int(streams.views(live).execute(query).fetchall()[0][0])

    put(0)
    start()
    _soon(lambda: rows() > 0, flink, "the first events are in the log")

    put(1)
    assert flink.pool.kill_workers() > 0
    before = rows()
    _soon(lambda: rows() > before, flink, "events flow after kill -9 of the SDK workers")

    put(2)
    before = rows()
    flink.task_managers[0].kill()
    flink.task_managers[0].start()
    _soon(lambda: rows() > before, flink, "events flow after kill -9 of the TaskManager")

    (job,) = flink.jobs()
    savepoint = flink.stop_with_savepoint(job)
    flink.pool.restart()
    start("--flink-savepoint", savepoint, "--flink-parallelism", "3")
    put(3)
    _soon(
        lambda: streams.searchable(elasticsearch_node.url, "flink") == expected,
        flink,
        "Elasticsearch equals SQL",
    )
    _soon(lambda: streams.stored(live) == expected, flink, "Parquet equals SQL")
    assert streams.stored_flags(live) == flags
    assert len(streams.in_log(live)) == sql.execute("SELECT count(*) FROM events").fetchone()[0]


def _soon(true: Callable[[], bool], cluster: FlinkCluster, what: str) -> None:
    try:
        streams.until(true, 400 if "Elastic" in what else 120, what)
    except AssertionError as error:
        ends = [f"{each.name}: {each.end_of_log()}" for each in cluster.services]
        raise AssertionError("\n".join([str(error), *ends])) from error
