"""A live stream on Prism: windows that close, a kill, a fresh start, a correction meanwhile."""

from __future__ import annotations

import datetime
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adtally.pipelines.cli import cli
from adtally.pipelines.stream import stream
from adtally.pipelines.stream_cli import stream_request
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from adtally.runners.unbounded import counters
from tests import sql_oracle, streams

pytestmark = pytest.mark.xdist_group("live")  # one stream at a time

QUICK = ("--watermark-lag", "2s", "--pane-every", "2s", "--flush-every", "5s")


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_oracle, "LATENESS_MS", streams.LATENESS_SECONDS * 1000)
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


def arguments(server: KinesisServer, name: str, output: Path, *more: str) -> tuple[str, ...]:
    where = ("--source", f"kinesis://{name}", "--kinesis-region", REGION)
    return (*where, "--kinesis-endpoint", server.url, "--output", str(output), *QUICK, *more)


def click_at(seconds: float, advertiser: str, number: int) -> bytes:
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
    event = {"event_type": "click", "event_id": f"{advertiser}-{number}", "occurred_at": at}
    return json.dumps({**event, "advertiser_id": advertiser}).encode()


def test_windows_close_beside_an_idle_shard_and_a_clock_a_day_ahead(
    tmp_path: Path, kinesis_server: KinesisServer
) -> None:
    client = streams.create_stream(kinesis_server.url, "idle", 2)
    given = arguments(kinesis_server, "idle", tmp_path / "out", "--window", "10s")
    context = cli.commands["stream"].make_context("stream", list(given))
    _, result = stream(stream_request(context.params, (), None))
    begun = time.time()
    numbers: Iterator[int] = iter(range(1_000_000))

    def put(*lines: bytes) -> None:
        for line in lines:
            client.put_record(StreamName="idle", Data=line, PartitionKey="k", ExplicitHashKey="0")

    def closed() -> list[Any]:
        put(click_at(time.time(), "now", next(numbers)))
        if not list(tmp_path.glob("out/summaries/**/*.parquet")):
            return []
        query = "SELECT DISTINCT advertiser_id FROM summaries ORDER BY ALL"
        return streams.views(tmp_path / "out").execute(query).fetchall()

    try:
        put(click_at(begun + 23 * 3600, "ahead", 1), click_at(begun - 48 * 3600, "behind", 1))
        streams.until(lambda: closed() == [("now",)], "windows close")
        totals = counters(result)
        assert totals["events_late"] == 1
        assert totals["panes_on_time"] > 0
        assert totals["kinesis_records"] == totals["events"] > 2
        assert dropped(result) == 0
        streams.until(lambda: late(tmp_path / "out") == [("behind",)], "late events are kept")
        assert "ahead" not in str(closed())
    finally:
        result.cancel()


def late(output: Path) -> list[Any]:
    if not list(output.glob("late/**/*.parquet")):
        return []
    query = f"SELECT advertiser_id FROM read_parquet('{output}/late/**/*.parquet')"
    return streams.views(output).execute(query).fetchall()


def dropped(result: Any) -> int:
    """What the runner threw away itself, by any of the names that runners give it."""
    found = result.metrics().query()["counters"]
    names = {"droppedDueToLateness", "dropped_due_to_lateness", "droppedDueToClosedWindow"}
    return sum(one.result for one in found if one.key.metric.name in names)


def test_a_killed_run_starts_again_without_state_and_no_document_goes_back(
    tmp_path: Path, kinesis_server: KinesisServer, elasticsearch_node: ElasticsearchNode
) -> None:
    logs = streams.recent_logs(tmp_path / "made", 4_000)
    lines = streams.lines_of(logs)
    expected = sql_oracle.summaries(streams.oracle(logs), 60)
    client = streams.create_stream(kinesis_server.url, "killed", 2)
    elastic = ("--elasticsearch", elasticsearch_node.url, "--elasticsearch-setup")
    given = arguments(
        *(kinesis_server, "killed", tmp_path / "out", *elastic),
        *("--elasticsearch-index-prefix", "killed"),
        *("--allowed-lateness", f"{streams.LATENESS_SECONDS}s"),
    )
    log = tmp_path / "stream.log"
    highest: dict[Any, int] = {}

    def seen() -> list[Any]:
        keys = ("window_start", "advertiser_id", "currency")
        now = {
            tuple(row[key] for key in keys): row["version"]
            for row in streams.documents(elasticsearch_node.url, "killed")
        }
        assert {key: now.get(key, 0) for key in highest if now.get(key, 0) < highest[key]} == {}
        highest.update(now)
        return streams.searchable(elasticsearch_node.url, "killed")

    def events_in_log() -> int:
        if not list(tmp_path.glob("out/events/**/*.parquet")):
            return 0
        query = "SELECT count(*) FROM event_rows"
        return int(streams.views(tmp_path / "out").execute(query).fetchall()[0][0])

    streams.put(client, "killed", lines[0::2], seed=1)
    with streams.running("stream", *given, log=log) as process:
        streams.until(lambda: bool(seen()) and events_in_log() > 0, "the first run writes")
        streams.end(process, signal.SIGKILL)
    logged = events_in_log()

    streams.put(client, "killed", lines[1::2], seed=2)
    with streams.running("stream", *given, log=log):
        streams.until_equal(seen, expected, "Elasticsearch equals SQL")
        streams.until_equal(
            lambda: streams.stored(tmp_path / "out"), expected, "Parquet equals SQL"
        )
    files = f"read_parquet('{tmp_path}/out/events/**/*.parquet')"
    connection = streams.views(tmp_path / "out")
    rows, whole = connection.execute(
        f"SELECT (SELECT count(*) FROM {files}), (SELECT count(*) FROM event_rows)"
    ).fetchall()[0]
    assert whole == sum(sum(row[3:6]) + row[6] for row in expected) + late_rows(tmp_path / "out")
    assert rows == whole + logged, "what the killed run had written is there twice, and seen once"


def late_rows(output: Path) -> int:
    query = "SELECT count(*) FROM event_rows WHERE late"
    return int(streams.views(output).execute(query).fetchall()[0][0])


def test_a_correction_wins_while_the_stream_runs_on(
    tmp_path: Path, kinesis_server: KinesisServer, elasticsearch_node: ElasticsearchNode
) -> None:
    output = tmp_path / "out"
    old = time.time() - 5 * 3600
    logs = tmp_path / "logs"
    logs.mkdir()
    too_late = [click_at(old - 7200, "a", 100 + n) for n in range(3)]
    on_time = [click_at(old, "a", n) for n in range(5)]
    received = datetime.datetime.fromtimestamp(old, datetime.UTC).isoformat()
    lines = [{**json.loads(line), "received_at": received} for line in (*too_late, *on_time)]
    (logs / "old.jsonl").write_text("\n".join(map(json.dumps, lines)))
    elastic = ("--elasticsearch", elasticsearch_node.url, "--elasticsearch-setup")
    prefix = ("--elasticsearch-index-prefix", "corrected")

    def run(*given: str) -> Any:
        return CliRunner().invoke(cli, list(given))

    first = run("backfill", "--input", str(logs), "--output", str(output), *elastic, *prefix)
    assert first.exit_code == 0, first.output
    client = streams.create_stream(kinesis_server.url, "corrected", 1)
    begun = time.time()
    new = [click_at(begun, "b", n) for n in range(7)]
    client.put_records(
        StreamName="corrected", Records=[{"Data": line, "PartitionKey": "k"} for line in new]
    )

    def counted() -> dict[str, int]:
        rows = streams.searchable(elasticsearch_node.url, "corrected")
        return {name: sum(row[4] for row in rows if row[1] == name) for name in "ab"}

    def in_views() -> dict[str, int]:
        query = """SELECT advertiser_id, sum(clicks)::INT FROM summaries
            WHERE window_seconds = 60 GROUP BY ALL"""
        return dict(streams.views(output).execute(query).fetchall())

    log = tmp_path / "stream.log"
    given = arguments(kinesis_server, "corrected", output, *elastic, *prefix)
    with streams.running("stream", *given, log=log) as process:
        streams.until(lambda: counted() == {"a": 5, "b": 7}, "the stream is counted")
        streams.until(lambda: len(list(output.glob("events/**/stream-*"))) > 0, "it is logged")
        hour = (int(old) - 3 * 3600) // 3600 * 3600
        bounds = [
            datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()
            for at in (hour, hour + 4 * 3600)
        ]
        again = ("backfill", "--input", str(output / "events"), "--output", str(output))
        refused = run(*again, "--from", bounds[0], *elastic[:2], *prefix)
        assert refused.exit_code == 2
        assert "windows that are not final" in refused.output
        done = run(*again, "--from", bounds[0], "--to", bounds[1], *elastic[:2], *prefix)
        assert done.exit_code == 0, done.output
        assert counted() == {"a": 8, "b": 7}
        assert in_views()["a"] == 8
        of_past = ("--output", str(output), "--from", bounds[0], "--to", bounds[1], "--quiet")
        compared = run("reconcile", *of_past, *elastic[:2], *prefix, "--format", "json")
        told = json.loads(compared.stdout)
        assert told["equal"] and told["windows"]["elasticsearch"]["summaries"] == {"equal": 2}
        unfinished = run("reconcile", "--output", str(output), "--from", bounds[0], "--quiet")
        assert unfinished.exit_code == 0 and "held against the event log" in unfinished.stdout

        client.put_records(
            StreamName="corrected",
            Records=[{"Data": click_at(begun, "b", 99), "PartitionKey": "k"}],
        )
        streams.until(lambda: counted() == {"a": 8, "b": 8}, "the stream runs on")
        streams.until(lambda: in_views() == {"a": 8, "b": 8}, "so it does in Parquet")
        assert process.poll() is None

        reach = ("--kinesis-region", REGION, "--kinesis-endpoint", kinesis_server.url)
        metrics = tmp_path / "adtally.prom"
        probed = run(
            *("probe", "--to", "kinesis://corrected", *reach, *elastic[:2], *prefix),
            *("--every", "1s", "--count", "2", "--metrics-file", str(metrics)),
        )
        assert probed.exit_code == 0, probed.output
        assert probed.output.count("s from the stream to a search") == 2
        assert "adtally_probe_seconds_count 2" in metrics.read_text()
        healthy = run("status", *elastic[:2], *prefix, "--max-lag", "60s", "--format", "json")
        assert healthy.exit_code == 0, healthy.output
        assert json.loads(healthy.output)["lag_seconds"]["elasticsearch"] < 60
        closed = run(
            *("probe", "--to", "kinesis://corrected", *reach, *elastic[:2], *prefix),
            *("--closed", "--timeout", "150s"),
        )
        assert closed.exit_code == 0, closed.output
