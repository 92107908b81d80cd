"""Alerts of a live stream on Prism, read back from a real Kinesis stream and from a file."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adtally.pipelines.cli import cli
from adtally.pipelines.stream import stream
from adtally.pipelines.stream_cli import request_of
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from adtally.runners.unbounded import counters
from tests import streams

QUICK = ("--watermark-lag", "2s", "--pane-every", "1s", "--flush-every", "5s")


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


def clicks(advertiser: str, ip: str, numbers: range, at: float) -> list[bytes]:
    """Clicks of an address, a second and a half apart in no rhythm, in one minute."""
    lines = []
    for number in numbers:
        moment = at + number * 1.5 + (0.7 if number % 3 else 0.0)
        event = {
            "event_type": "click",
            "event_id": f"{advertiser}-{ip}-{number}",
            "occurred_at": datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat(),
            "advertiser_id": advertiser,
            "ip": ip,
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
        }
        lines.append(json.dumps(event).encode())
    return lines


@contextlib.contextmanager
def running(server: KinesisServer, name: str, output: Path, *more: str) -> Iterator[Any]:
    """A stream that runs inside this process; gives Beam's result."""
    where = ("--source", f"kinesis://{name}", "--kinesis-region", REGION)
    given = (*where, "--kinesis-endpoint", server.url, "--output", str(output), *QUICK, *more)
    context = cli.commands["stream"].make_context("stream", list(given))
    _, result = stream(request_of(context.params, (), None))
    try:
        yield result
    finally:
        result.cancel()


class Receiver:
    """All that was put into a stream so far, shard by shard."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        shards = client.list_shards(StreamName=name)["Shards"]
        self._iterators = [
            client.get_shard_iterator(
                StreamName=name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            for shard in shards
        ]
        self.records: list[dict[str, Any]] = []
        self.keys: list[str] = []

    def look(self) -> list[dict[str, Any]]:
        for at, iterator in enumerate(self._iterators):
            answer = self._client.get_records(ShardIterator=iterator)
            self._iterators[at] = answer["NextShardIterator"]
            self.records += [json.loads(record["Data"]) for record in answer["Records"]]
            self.keys += [record["PartitionKey"] for record in answer["Records"]]
        return self.records

    def has(self, **wanted: Any) -> bool:
        return any(wanted.items() <= record.items() for record in self.look())


def panes(result: Any) -> int:
    """How many panes were tallied so far."""
    found = counters(result)
    return sum(found.get(f"panes_{timing}", 0) for timing in ("early", "on_time", "late"))


def test_a_burst_gives_one_alert_per_flag_and_a_rate_limit_over_many_panes(
    tmp_path: Path, kinesis_server: KinesisServer
) -> None:
    client = streams.create_stream(kinesis_server.url, "burst", 2)
    streams.create_stream(kinesis_server.url, "burst-alerts", 2)
    receiver = Receiver(client, "burst-alerts")
    rules = tmp_path / "rules.toml"
    rules.write_text(
        "[rules.givt_click_rate_ip]\nthreshold = 5\n[quotas]\nclicks = 1000\n"
        "[advertisers.small]\nquotas = { clicks = 20 }\n"
    )
    minute = (time.time() // 60 - 1) * 60
    target = ("--alerts", "kinesis://burst-alerts", "--rules", str(rules))
    with running(kinesis_server, "burst", tmp_path / "out", *target) as result:
        for number in range(12):
            batch = range(number * 3, number * 3 + 3)
            lines = clicks("acme", "198.51.100.7", batch, minute)
            lines += clicks("small", "198.51.100.7", batch, minute)
            lines += clicks("calm", f"198.51.100.{number}", batch, minute)
            before = panes(result)
            streams.put(client, "burst", lines)
            streams.until(lambda before=before: panes(result) > before, 30, "a pane")
        streams.until(
            lambda: receiver.has(kind="rate_limit", event_type="click", subject_type="advertiser"),
            30,
            "the quota is exceeded",
        )
        totals = counters(result)
    print(json.dumps(receiver.look(), indent=1))
    print(totals)
