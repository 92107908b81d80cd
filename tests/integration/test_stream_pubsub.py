"""A live Pub/Sub subscription through Prism and Flink: killed, delivered again, equal to SQL."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from google.api_core import exceptions

from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from adtally.runners.local.pubsub_server import PubSubServer
from tests import sql_oracle, streams, topics

pytestmark = pytest.mark.xdist_group("live")  # one stream at a time

EVENTS = 6_000
QUICK = ("--watermark-lag", "2s", "--pane-every", "2s", "--look-back-every", "2s")
OFTEN = ("--flush-every", "5s")
SETTINGS = ("--allowed-lateness", f"{streams.LATENESS_SECONDS}s")


@pytest.fixture(autouse=True)
def _lateness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_oracle, "LATENESS_MS", streams.LATENESS_SECONDS * 1000)


def run(*arguments: str) -> None:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output


def deliver_again(place: topics.Place) -> None:
    """Give back what the readers hold. The server's ids of deliveries can be told in advance."""
    ids = [f"m{number}:{delivery}" for number in range(40_000) for delivery in (1, 2)]
    with contextlib.suppress(exceptions.GoogleAPICallError):
        place.open().extend(ids, 0)


def test_prism_killed_with_all_acknowledged_and_nothing_written_loses_nothing(
    tmp_path: Path, pubsub_server: PubSubServer
) -> None:
    logs = streams.recent_logs(tmp_path / "made", EVENTS)
    lines = streams.lines_of(logs)
    sql = streams.oracle(logs)
    expected = sql_oracle.summaries(sql, 60)
    flags = sql_oracle.flags(sql)
    look_back = streams.expected_look_back(sql, logs)
    backfilled, live = tmp_path / "backfilled", tmp_path / "live"
    run("backfill", "--input", str(logs), "--output", str(backfilled), *SETTINGS)

    place = topics.place(pubsub_server, "prism")
    log = tmp_path / "stream.log"
    given = ("stream", *place.source, "--output", str(live), *SETTINGS, *QUICK)
    place.put(lines[0::2])

    def acknowledged() -> int:
        return max(map(int, re.findall(r"pubsub_acks=(\d+)", log.read_text())), default=0)

    with streams.running(*given, log=log) as process:
        streams.until(lambda: acknowledged() == len(lines[0::2]), "all is acknowledged")
        streams.end(process, signal.SIGKILL)
    assert not list(live.glob("events/date=*/**/*.parquet")), "all of it was in memory alone"

    place.put(lines[1::2])
    with streams.running(*given, *OFTEN, log=log):
        streams.until_equal(lambda: streams.stored(live), expected, "Parquet equals SQL")
        streams.until_equal(lambda: streams.stored_flags(live), flags, "flags equal SQL")
        streams.until_equal(
            lambda: streams.stored_look_back(live, logs), look_back, "verdicts equal SQL"
        )
        assert streams.in_log(live) == streams.in_log(backfilled)
        dead = streams.views(live).execute("SELECT count(*) FROM dead_letters").fetchall()
        assert dead == sql.execute("SELECT count(*) FROM dead").fetchall()


def test_kinesis_and_pubsub_into_one_graph(
    tmp_path: Path,
    pubsub_server: PubSubServer,
    kinesis_server: KinesisServer,
    elasticsearch_node: ElasticsearchNode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)
    logs = streams.recent_logs(tmp_path / "made", EVENTS)
    lines = streams.lines_of(logs)
    expected = sql_oracle.summaries(streams.oracle(logs), 60)
    backfilled, live = tmp_path / "backfilled", tmp_path / "live"
    run("backfill", "--input", str(logs), "--output", str(backfilled), *SETTINGS)

    place = topics.place(pubsub_server, "both")
    letters = topics.place(pubsub_server, "both-letters")
    client = streams.create_stream(kinesis_server.url, "both", 2)
    place.put(lines[0::2])
    streams.put(client, "both", lines[1::2])
    there = ("--elasticsearch", elasticsearch_node.url, "--elasticsearch-index-prefix", "both")
    given = (
        *("stream", *place.source, "--source", "kinesis://both", "--kinesis-region", REGION),
        *("--kinesis-endpoint", kinesis_server.url, "--output", str(live), *SETTINGS),
        *(*QUICK, *OFTEN, "--dead-letters-to", f"pubsub://{letters.topic.name}"),
        *(*there, "--elasticsearch-setup"),
    )
    with streams.running(*given, log=tmp_path / "stream.log"):
        streams.until_equal(lambda: streams.stored(live), expected, "Parquet equals SQL")
        assert streams.in_log(live) == streams.in_log(backfilled)
        sources = "SELECT DISTINCT split_part(source, ':', 1) FROM event_rows ORDER BY 1"
        assert streams.views(live).execute(sources).fetchall() == [("kinesis",), ("pubsub",)]
        wanted = "SELECT payload FROM dead_letters ORDER BY 1"
        sent = {msgspec.json.decode(one.data)["payload"] for one in topics.drained(letters.open())}
        assert sorted(sent) == sorted(
            {row[0] for row in streams.views(live).execute(wanted).fetchall()}
        )
        assert sent
        to = ("--to", f"pubsub://{place.topic.name}", *place.source[2:])
        probed = CliRunner().invoke(cli, ["probe", *to, *there])
        assert probed.exit_code == 0, probed.output
        assert "s from the stream to a search" in probed.output


@pytest.mark.slow
def test_flink_through_kills_a_savepoint_and_deliveries_that_come_again(
    tmp_path: Path,
    pubsub_server: PubSubServer,
    elasticsearch_node: ElasticsearchNode,
    flink: FlinkCluster,
) -> None:
    logs = streams.recent_logs(tmp_path / "made", EVENTS)
    lines = streams.lines_of(logs)
    sql = streams.oracle(logs)
    expected = sql_oracle.summaries(sql, 60)
    flags = sql_oracle.flags(sql)
    look_back = streams.expected_look_back(sql, logs)
    live = tmp_path / "live"
    url = elasticsearch_node.url
    place = topics.place(pubsub_server, "flink")

    def start(*more: str) -> None:
        run(
            *("stream", *place.source, "--output", str(live), *SETTINGS, *QUICK, *OFTEN),
            *("--elasticsearch", url, "--elasticsearch-setup"),
            *("--elasticsearch-index-prefix", "pubsub", *flink.arguments(), "--detach"),
            *("--flink-checkpoint-every", "2s", *more),
        )

    def rows() -> int:
        query = "SELECT count(*) FROM event_rows"
        return int(streams.views(live).execute(query).fetchall()[0][0])

    def copies() -> int:
        files = f"read_parquet('{live}/events/**/*.parquet')"
        query = f"SELECT (SELECT count(*) FROM {files}) - (SELECT count(*) FROM event_rows)"
        return int(streams.views(live).execute(query).fetchall()[0][0])

    place.put(lines[0::4])
    start()
    streams.until(lambda: rows() > 0, "the first events are in the log")

    place.put(lines[1::4])
    deliver_again(place)
    assert flink.pool.kill_workers() > 0
    before = rows()
    streams.until(lambda: rows() > before, "events flow after kill -9 of the SDK workers")

    place.put(lines[2::4])
    before = rows()
    flink.task_managers[0].kill()
    flink.task_managers[0].start()
    streams.until(lambda: rows() > before, "events flow after kill -9 of the TaskManager")

    streams.until_checkpoint(flink)  # tasks that are still being restarted make no savepoint
    (job,) = flink.jobs()
    savepoint = flink.stop_with_savepoint(job)
    flink.pool.restart()
    start("--flink-savepoint", savepoint, "--flink-parallelism", "3")
    place.put(lines[3::4])
    deliver_again(place)

    streams.until_equal(lambda: streams.searchable(url, "pubsub"), expected, "documents equal SQL")
    streams.until_equal(lambda: streams.stored(live), expected, "Parquet equals SQL")
    streams.until_equal(lambda: streams.stored_flags(live), flags, "flags equal SQL")
    streams.until_equal(
        lambda: streams.stored_look_back(live, logs), look_back, "verdicts equal SQL"
    )
    assert len(streams.in_log(live)) == sql.execute("SELECT count(*) FROM events").fetchone()[0]
    assert copies() > 0, "some were delivered again, or this shows nothing"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_that_was_asked_for_is_told_and_no_failure(
    tmp_path: Path, pubsub_server: PubSubServer, number: signal.Signals
) -> None:
    place = topics.place(pubsub_server, f"ended-{number.name.lower()}")
    log = tmp_path / "stream.log"
    given = ("stream", *place.source, "--output", str(tmp_path / "out"), *QUICK)
    with streams.running(*given, log=log) as process:
        streams.until(lambda: "pubsub_messages=" in log.read_text(), "it reads")
        process.send_signal(number)
        assert process.wait(60) == 0, log.read_text()[-2_000:]
    assert "ended; the next start reads again" in log.read_text()
