"""A live Kinesis stream through a real Flink cluster that is broken on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adtally.io.kinesis import KinesisConfig, ReadFromKinesis
from adtally.pipelines.cli import cli
from adtally.pipelines.job import Settings
from adtally.pipelines.stream import StreamRequest, stream
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import KinesisServer
from tests import canned_kinesis, flink_metrics, sql_oracle, streams
from tests.nodes import started_flink
from tests.stores import S3Store

pytestmark = pytest.mark.xdist_group("live")  # one stream at a time

EVENTS = 6_000
QUICK = (
    *("--watermark-lag", "2s", "--pane-every", "2s", "--look-back-every", "2s"),
    *("--flush-every", "5s"),
)
SETTINGS = ("--allowed-lateness", f"{streams.LATENESS_SECONDS}s")


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_oracle, "LATENESS_MS", streams.LATENESS_SECONDS * 1000)
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def flink() -> Iterator[FlinkCluster]:
    """A cluster for a test that breaks it, with checkpoints and savepoints on S3."""
    store = S3Store()
    bucket = store.make_bucket()
    cluster = started_flink(
        {
            "s3.endpoint": store.url,
            "s3.path.style.access": "true",
            "state.checkpoints.dir": f"s3://{bucket}/checkpoints",
            "state.savepoints.dir": f"s3://{bucket}/savepoints",
        }
    )
    yield cluster
    cluster.stop()
    store.stop()


@pytest.mark.slow
def test_kills_savepoints_and_cancelling_lose_and_double_nothing(
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
    look_back = streams.expected_look_back(sql, logs)
    rules = tmp_path / "rules.toml"
    rules.write_text(streams.EASY_ANOMALIES)
    settings = (*SETTINGS, "--rules", str(rules))
    backfilled, live = tmp_path / "backfilled", tmp_path / "live"
    _run("backfill", "--input", str(logs), "--output", str(backfilled), *settings)
    anomalies = streams.stored_anomalies(backfilled, logs)
    assert anomalies

    def start(*more: str) -> None:
        _run(
            *("stream", "--source", "kinesis://flink", "--kinesis-region", "us-east-1"),
            *("--kinesis-endpoint", kinesis_server.url, "--output", str(live), *settings, *QUICK),
            *("--elasticsearch", elasticsearch_node.url, "--elasticsearch-setup"),
            *("--elasticsearch-index-prefix", "flink", *flink.arguments(), "--detach"),
            *("--flink-checkpoint-every", "2s", *more),
        )

    def put(part: int) -> None:
        streams.put(client, "flink", lines[part::5], seed=part)

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

    streams.until_checkpoint(flink)  # tasks that are still being restarted make no savepoint
    (job,) = flink.jobs()
    savepoint = flink.stop_with_savepoint(job)
    assert savepoint.startswith("s3://")
    flink.pool.restart()
    start("--flink-savepoint", savepoint, "--flink-parallelism", "3")
    before = rows()
    put(3)
    _soon(lambda: rows() > before, flink, "events flow from the savepoint")

    (job,) = flink.jobs()
    _soon(lambda: bool(flink.checkpoints(job)), flink, "a checkpoint since the savepoint is whole")
    flink.cancel(job)
    flink.pool.restart()
    start("--flink-savepoint", flink.newest_checkpoint(job), "--flink-parallelism", "2")
    put(4)
    _soon(
        lambda: streams.searchable(elasticsearch_node.url, "flink") == expected,
        flink,
        "Elasticsearch equals SQL",
    )
    _soon(lambda: streams.stored(live) == expected, flink, "Parquet equals SQL")
    _soon(lambda: streams.stored_flags(live) == flags, flink, "flags equal SQL")
    _soon(lambda: streams.stored_look_back(live, logs) == look_back, flink, "verdicts equal SQL")
    _soon(
        lambda: streams.stored_anomalies(live, logs) == anomalies,
        *(flink, "anomalies equal the backfill's"),
    )
    (job,) = flink.jobs()
    _runs_as_configured(flink, job)
    assert len(streams.in_log(live)) == sql.execute("SELECT count(*) FROM events").fetchone()[0]


def _runs_as_configured(flink: FlinkCluster, job: str) -> None:
    """What docs/flink.md says of checkpoints and metrics is what the cluster says."""
    assert all(uri.startswith("s3://") for uri in flink.checkpoints(job))
    found = flink.manager.get(f"/jobs/{job}/checkpoints/config")
    wanted = {
        "state_backend": "EmbeddedRocksDBStateBackend",
        "timeout": 600_000,
        "min_pause": 1_000,
        "tolerable_failed_checkpoints": 3,
        "unaligned_checkpoints": False,
        "externalization": {"enabled": True, "delete_on_cancellation": False},
    }
    assert {key: found[key] for key in wanted} == wanted
    settings = flink.manager.get(f"/jobs/{job}/config")["execution-config"]
    assert settings["restart-strategy"] == "Cluster level default restart strategy"
    assert flink_metrics.asked() <= flink_metrics.scraped(flink)


@pytest.fixture(scope="module")
def unbroken() -> Iterator[FlinkCluster]:
    """A cluster for tests that do not break it, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # workers import from tests
        cluster = started_flink()
        yield cluster
        cluster.stop()


@pytest.mark.slow
def test_a_savepoint_that_is_not_there_is_refused(
    tmp_path: Path, kinesis_server: KinesisServer, unbroken: FlinkCluster
) -> None:
    streams.create_stream(kinesis_server.url, "refused", 1)
    arguments = (
        *("stream", "--source", "kinesis://refused", "--kinesis-region", "us-east-1"),
        *("--kinesis-endpoint", kinesis_server.url, "--output", str(tmp_path / "live")),
        *(*unbroken.arguments(), "--flink-savepoint", "file:///nowhere", "--detach"),
    )
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 1
    assert "the job did not start, and nothing is being read" in result.output
    assert "Cannot find checkpoint or savepoint file/directory 'file:///nowhere'" in result.output


@pytest.mark.slow
def test_a_past_that_is_read_in_a_moment_expires_windows_before_their_timers(
    tmp_path: Path, unbroken: FlinkCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flink then fires panes that hold nothing, which once ended the job over and over."""
    monkeypatch.setattr(sql_oracle, "LATENESS_MS", 3_600_000)
    logs = streams.recent_logs(tmp_path / "made", EVENTS, minutes_ago=1_800)
    lines = canned_kinesis.in_order(streams.lines_of(logs))
    canned_kinesis.write(lines, tmp_path / "shards", 2)
    read = ReadFromKinesis(
        KinesisConfig("past", "us-east-1"),
        make_client=canned_kinesis.CannedKinesis(tmp_path / "shards"),
    )
    request = StreamRequest(
        (read,),
        str(tmp_path / "out"),
        Settings(),
        flush_seconds=5,
        arguments=streams.flink_options(unbroken),
    )
    stream(request)
    expected = sql_oracle.summaries(streams.oracle(logs), 60)
    _soon(lambda: streams.stored(tmp_path / "out") == expected, unbroken, "Parquet equals SQL")
    start = "strftime(date_trunc('hour', min(window_start)), '%Y-%m-%dT%H:%MZ')"
    (since,) = streams.views(tmp_path / "out").execute(f"SELECT {start} FROM summaries").fetchall()
    out = ("--output", str(tmp_path / "out"), "--from", since[0], "--format", "json")

    def told() -> dict[str, Any]:
        result = CliRunner().invoke(cli, ["reconcile", *out, "--quiet"])
        assert result.exit_code in (0, 1), result.output
        return dict(json.loads(result.stdout))

    _soon(lambda: told()["equal"], unbroken, "flags and verdicts equal the log too")
    (job,) = unbroken.jobs()
    unbroken.cancel(job)
    assert unbroken.manager.get(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"] == []
    windows = told()["windows"]["parquet"]["summaries"]
    assert set(windows) <= {"equal", "late", "copies"} and windows["late"] > 0


def _run(*arguments: str) -> None:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output


def _soon(true: Callable[[], bool], cluster: FlinkCluster, what: str) -> None:
    try:
        streams.until(true, what)
    except AssertionError as error:
        ends = [f"{each.name}: {each.end_of_log()}" for each in cluster.services]
        raise AssertionError("\n".join([str(error), *ends])) from error
