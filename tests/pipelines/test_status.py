"""``adtally status`` and ``adtally probe``: what they say is what is there, on real servers."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.io.views import seed_views
from adtally.pipelines.cli import cli
from adtally.pipelines.probe import Measured, Probe, marker
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from tests import streams
from tests.pipelines.test_oracle import run

NOW = 0
"""When these tests begin: events are at the middle of minutes, so that no window ends meanwhile."""


@pytest.fixture(scope="module", autouse=True)
def _now() -> None:
    global NOW
    NOW = int(time.time()) // 60 * 60


def adtally(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def event(number: int, seconds_ago: int, received_after: int = 1) -> str:
    at = NOW - seconds_ago + 30
    times = {
        "occurred_at": _text(at),
        "received_at": _text(at + received_after),
    }
    names = {"event_id": str(number), "event_type": "click", "advertiser_id": "a"}
    return json.dumps({**names, **times})


def _text(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, elasticsearch_node: ElasticsearchNode
) -> tuple[str, str]:
    """An output and a node with events of three hours, thirty minutes and minus one hour ago."""
    folder = tmp_path_factory.mktemp("status")
    (folder / "logs").mkdir()
    lines = [event(1, 3 * 3600), event(2, 1800), event(3, -3600)]
    lines += [event(4, 4 * 3600, received_after=2 * 3600), "no JSON", "{}"]
    (folder / "logs" / "a.jsonl").write_text("\n".join(lines))
    out = str(folder / "out")
    elastic = ("--elasticsearch", elasticsearch_node.url, "--elasticsearch-index-prefix", "status")
    setup = ("elasticsearch", "setup", *elastic)
    run(*setup)
    given = ("--input", str(folder / "logs"), "--output", out, "--rollup", "1h")
    run("backfill", *given, *elastic)
    with contextlib.closing(connect(ElasticsearchConfig((elasticsearch_node.url,)))) as client:
        client.indices.refresh(index="status-*")
    return out, elasticsearch_node.url


def places(stored: tuple[str, str], place: str) -> tuple[str, ...]:
    output = ("--output", stored[0])
    elastic = ("--elasticsearch", stored[1], "--elasticsearch-index-prefix", "status")
    return {"parquet": output, "elasticsearch": elastic, "both": (*output, *elastic)}[place]


@pytest.mark.parametrize("place", ["parquet", "elasticsearch", "both"])
def test_it_says_what_is_there_and_nothing_of_the_future(
    stored: tuple[str, str], place: str
) -> None:
    seen = adtally("status", *places(stored, place), "--format", "json")
    assert seen.exit_code == 0, seen.output
    found = json.loads(seen.stdout)
    names = ["parquet", "elasticsearch"] if place == "both" else [place]
    assert found["newest_event_timestamp_seconds"] == dict.fromkeys(names, NOW - 1800 + 30)
    assert found["newest_window_timestamp_seconds"] == dict.fromkeys(names, NOW - 1800 + 60)
    final = dict.fromkeys(names, NOW - 3 * 3600 + 60)
    assert found["newest_final_window_timestamp_seconds"] == final
    assert all(1700 < found["lag_seconds"][name] < 1800 + 600 for name in names)
    counts = (found["dead_letters_last_hour"], found["late_events_last_hour"])
    assert counts == ((None, None) if place == "elasticsearch" else (2, 1))


@pytest.mark.parametrize("place", ["parquet", "elasticsearch", "both"])
def test_prometheus_reads_it(stored: tuple[str, str], place: str) -> None:
    seen = adtally("status", *places(stored, place), "--format", "prometheus", "--max-lag", "1s")
    assert seen.exit_code == 1
    families = {family.name: family for family in text_string_to_metric_families(seen.stdout)}
    assert all(family.type == "gauge" and family.documentation for family in families.values())
    samples = families["adtally_newest_final_window_timestamp_seconds"].samples
    names = ["parquet", "elasticsearch"] if place == "both" else [place]
    assert [sample.labels["place"] for sample in samples] == names
    assert {sample.value for sample in samples} == {NOW - 3 * 3600 + 60}
    assert families["adtally_healthy"].samples[0].value == 0


@pytest.mark.parametrize(
    ("place", "limits", "code", "said"),
    [
        ("both", ("--max-lag", "2h", "--max-output-lag", "2h"), 0, "newest final window"),
        ("both", ("--max-dead-letters-per-hour", "2", "--max-late-per-hour", "1"), 0, "late"),
        ("elasticsearch", ("--max-lag", "10m"), 1, "counted in elasticsearch is"),
        ("parquet", ("--max-lag", "10m"), 1, "more than --max-lag 600 s"),
        ("both", ("--max-output-lag", "10m"), 1, "counted in parquet is"),
        ("parquet", ("--max-dead-letters-per-hour", "1"), 1, "2 dead letters were written"),
        ("parquet", ("--max-late-per-hour", "0"), 1, "1 late events were written"),
        ("elasticsearch", ("--max-late-per-hour", "0"), 2, "give --output"),
        ("parquet", ("--max-lag", "soon"), 2, "is no duration"),
        ("parquet", ("--output", "/nowhere"), 2, "is no output of adtally"),
        ("elasticsearch", ("--elasticsearch", "http://127.0.0.1:9"), 1, "failed: ConnectionError"),
        (
            "elasticsearch",
            ("--elasticsearch-index-prefix", "no", "--max-lag", "1h"),
            1,
            "no summary",
        ),
    ],
)
def test_exit_codes_say_what_a_monitor_needs(
    stored: tuple[str, str], place: str, limits: tuple[str, ...], code: int, said: str
) -> None:
    seen = adtally("status", *places(stored, place), *limits)
    assert seen.exit_code == code, seen.output
    assert said in seen.output


def test_an_output_that_a_stream_has_just_begun_has_nothing(tmp_path: Path) -> None:
    seed_views(str(tmp_path), ())
    settings = {"window_seconds": 60, "dimensions": [], "allowed_lateness_seconds": 3_600}
    (tmp_path / "adtally.json").write_text(json.dumps(settings))
    seen = adtally("status", "--output", str(tmp_path), "--format", "json")
    assert seen.exit_code == 0
    found: dict[str, Any] = json.loads(seen.stdout)
    assert found["lag_seconds"] == {"parquet": None}
    assert found["dead_letters_last_hour"] == 0
    assert adtally("status", "--output", str(tmp_path), "--max-lag", "1h").exit_code == 1


def test_there_has_to_be_something_to_look_at() -> None:
    assert "give --output, --elasticsearch" in adtally("status").output


def test_probes_go_on_after_an_outage(
    tmp_path: Path, elasticsearch_node: ElasticsearchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error ends the first probe, and loses a later one."""
    answers: list[float | Exception] = [2.0, ConnectionError("away\x1b[2J"), 3.0]

    def measure(self: Probe) -> float:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Probe, "measure", measure)
    given = ("probe", "--to", "kinesis://x", "--kinesis-region", REGION, "--every", "1s")
    given += ("--elasticsearch", elasticsearch_node.url, "--count", "3")
    metrics = tmp_path / "probe.prom"
    ended = adtally(*given, "--metrics-file", str(metrics))
    assert ended.exit_code == 1 and not answers
    assert "lost: ConnectionError: away\\x1b[2J" in ended.output
    assert "adtally_probes_lost_total 1" in metrics.read_text()
    assert "adtally_probe_seconds_count 2" in metrics.read_text()
    answers[:] = [ConnectionError("away"), 3.0]
    assert adtally(*given).exit_code == 1 and answers == [3.0]


def test_a_marker_that_nobody_reads_is_lost(
    tmp_path: Path,
    kinesis_server: KinesisServer,
    elasticsearch_node: ElasticsearchNode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)
    client = streams.create_stream(kinesis_server.url, "unread", 1)
    metrics = tmp_path / "probe.prom"
    record = tmp_path / "record.json"
    record.write_text('{"kind": "click", "key": "{id}", "when": "{time}"}\n')
    reach = ("--kinesis-region", REGION, "--kinesis-endpoint", kinesis_server.url)
    lost = adtally(
        *("probe", "--to", "kinesis://unread", *reach, "--timeout", "1s"),
        *("--elasticsearch", elasticsearch_node.url, "--metrics-file", str(metrics)),
        *("--record", str(record)),
    )
    assert lost.exit_code == 1
    assert "no search found the marker in 1 s" in lost.output
    families = {one.name: one for one in text_string_to_metric_families(metrics.read_text())}
    assert families["adtally_probes_lost"].samples[0].value == 1
    assert families["adtally_probe_seconds"].type == "summary"
    [shard] = client.list_shards(StreamName="unread")["Shards"]
    start = {"ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
    iterator = client.get_shard_iterator(StreamName="unread", **start)["ShardIterator"]
    [sent] = client.get_records(ShardIterator=iterator)["Records"]
    fields = json.loads(sent["Data"])
    assert fields["kind"] == "click"
    assert fields["key"].startswith("probe-")
    at = datetime.datetime.fromisoformat(fields["when"])
    assert abs(at.timestamp() - time.time()) < 600


def test_quantiles_are_of_the_probes_that_were_found() -> None:
    done = Measured()
    assert done.quantile(0.5) is None
    for seconds in range(101):
        done.add(float(seconds))
    done.add(None)
    assert (done.quantile(0.5), done.quantile(0.99)) == (50.0, 99.0)
    assert (done.count, done.lost, done.total) == (101, 1, 5050.0)
    samples = {
        (sample.name, sample.labels.get("quantile")): sample.value
        for family in text_string_to_metric_families(done.prometheus())
        for sample in family.samples
    }
    assert samples["adtally_probe_seconds", "0.99"] == 99.0
    assert samples["adtally_probe_seconds_count", None] == 101


def test_markers_are_events_that_need_no_mapping() -> None:
    line, at_ms = marker("__probe__")
    found = json.loads(line)
    at = datetime.datetime.fromisoformat(found["occurred_at"])
    assert round(at.timestamp() * 1000) == at_ms
    assert found["advertiser_id"] == "__probe__"
    assert json.loads(marker("__probe__")[0])["event_id"] != found["event_id"]
