"""Alerts of a stream on Flink whose workers are killed: all of them arrive, once or more."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from adtally.pipelines.cli import cli
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from tests import streams
from tests.alert_schemas import check
from tests.integration.test_stream_alerts import RULES, Receiver, clicks
from tests.pipelines.test_privacy import stored_texts

pytestmark = pytest.mark.xdist_group("live")  # one stream at a time

ADDRESS = "198.51.100.7"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the cluster starts: its workers inherit them."""
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_alerts_arrive_through_kills_with_the_ids_that_they_had(
    tmp_path: Path,
    kinesis_server: KinesisServer,
    flink: FlinkCluster,
) -> None:
    client = streams.create_stream(kinesis_server.url, "alerted", 2)
    streams.create_stream(kinesis_server.url, "alerted-alerts", 2)
    receiver = Receiver(client, "alerted-alerts")
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef-a key")
    begun = (time.time() // 60 - 1) * 60
    arguments = (
        *("stream", "--source", "kinesis://alerted", "--kinesis-region", REGION),
        *("--kinesis-endpoint", kinesis_server.url, "--output", str(tmp_path / "out")),
        *("--alerts", "kinesis://alerted-alerts", "--rules", str(rules), "--pane-every", "1s"),
        *("--watermark-lag", "2s", "--flink-checkpoint-every", "2s", "--flush-every", "5s"),
        *("--pii", "hash", "--pii-key-file", str(key)),
        *(*flink.arguments(), "--detach"),
    )
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output

    def burst(advertiser: str, numbers: range) -> None:
        streams.put(client, "alerted", clicks(advertiser, ADDRESS, numbers, begun))

    def arrived(advertiser: str) -> bool:
        return receiver.has(kind="rate_limit", advertiser_id=advertiser, subject_type="ip")

    burst("before", range(8))
    streams.until(lambda: arrived("before"), "alerts before the kills")
    streams.until_checkpoint(flink)
    burst("during", range(8))
    assert flink.pool.kill_workers() > 0
    burst("before", range(8, 12))
    streams.until(lambda: arrived("during"), "alerts through kill -9 of the SDK workers")
    burst("last", range(8))
    flink.task_managers[0].kill()
    flink.task_managers[0].start()
    streams.until(lambda: arrived("last"), "alerts through kill -9 of the TaskManager")
    burst("small", range(25))
    streams.until(lambda: receiver.has(subject_type="advertiser", subject="small"), "the quota")
    records = {record["id"]: record for record in receiver.look()}
    for record in records.values():
        check(record)
    assert len({(one["key"], one["version"], one["state"]) for one in records.values()}) == len(
        records
    ), "what is sent again has the id that it had"
    of_before = [one for one in records.values() if one["advertiser_id"] == "before"]
    assert len(of_before) == 2, "what a checkpoint holds is told once"
    # Of what came with a kill, panes may be cut in another way afterwards: of each key the record
    # with the highest version holds, as docs/alerts.md tells receivers.
    standing = {one["key"]: one for one in sorted(records.values(), key=lambda x: x["version"])}
    said = sorted(
        (one["advertiser_id"], one["kind"], one["subject_type"], one["state"])
        for one in standing.values()
    )
    expected = [
        (advertiser, *what)
        for advertiser in ("before", "during", "last", "small")
        for what in (("alert", "ip", "raised"), ("rate_limit", "ip", "limited"))
    ]
    assert said == sorted([*expected, ("small", "rate_limit", "advertiser", "limited")])

    # Pseudonyms in what is told and in what is stored, and one for the address everywhere.
    (subject,) = {one["subject"] for one in records.values() if one["subject_type"] == "ip"}
    log = tmp_path / "out" / "events"
    streams.until(lambda: subject in stored_texts(log), "the log is written")
    assert ADDRESS not in stored_texts(tmp_path / "out")
    assert not any(ADDRESS in str(one) for one in records.values())
