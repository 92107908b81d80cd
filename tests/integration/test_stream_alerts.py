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
from adtally.pipelines.stream_cli import stream_request
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from adtally.runners.unbounded import counters
from tests import streams
from tests.alert_schemas import check
from tests.integration.test_stream_live import dropped

pytestmark = pytest.mark.xdist_group("live")  # one stream at a time

RULES = """
[rules.givt_click_rate_ip]
threshold = 5
[quotas]
clicks = 1000
[advertisers.small]
quotas = { clicks = 20 }
"""
QUICK = ("--watermark-lag", "2s", "--pane-every", "1s", "--flush-every", "5s")


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


def click(advertiser: str, ip: str, number: int, at: float) -> bytes:
    event = {
        "event_type": "click",
        "event_id": f"{advertiser}-{number}",
        "occurred_at": datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(),
        "advertiser_id": advertiser,
        "ip": ip,
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
    }
    return json.dumps(event).encode()


def clicks(advertiser: str, ip: str, numbers: range, begun: float) -> list[bytes]:
    """Clicks of an address without a rhythm, up to 39 in the minute that begins then."""
    return [
        click(advertiser, ip, number, begun + number * 1.5 + (0.7 if number % 3 else 0.0))
        for number in numbers
    ]


def shown(seconds: float) -> str:
    at = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@contextlib.contextmanager
def running(server: KinesisServer, name: str, output: Path, *more: str) -> Iterator[Any]:
    """A stream that runs inside this process; gives Beam's result."""
    where = ("--source", f"kinesis://{name}", "--kinesis-region", REGION)
    given = (*where, "--kinesis-endpoint", server.url, "--output", str(output), *QUICK, *more)
    context = cli.commands["stream"].make_context("stream", list(given))
    _, result = stream(stream_request(context.params, (), None))
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
    rules.write_text(RULES)
    begun = (time.time() // 60 - 1) * 60
    target = ("--alerts", "kinesis://burst-alerts", "--rules", str(rules))
    with running(kinesis_server, "burst", tmp_path / "out", *target) as result:
        for batch in range(12):
            some = range(batch * 3, batch * 3 + 3)
            lines = clicks("acme", "198.51.100.7", some, begun)
            lines += clicks("small", "198.51.100.7", some, begun)
            lines += clicks("calm", f"198.51.100.{batch}", some, begun)
            before = panes(result)
            streams.put(client, "burst", lines)
            streams.until(lambda before=before: panes(result) > before, "a pane")
        streams.until(lambda: receiver.has(subject="small"), "the quota is exceeded")
        after = panes(result)
        streams.put(client, "burst", clicks("acme", "198.51.100.7", range(36, 38), begun))
        streams.until(lambda: panes(result) > after, "one more pane")
        totals = counters(result)
        assert dropped(result) == 0
    records = receiver.look()
    for record in records:
        check(record)
    assert len({record["id"] for record in records}) == len(records), "none came twice"
    assert all(
        key == record["advertiser_id"] for key, record in zip(receiver.keys, records, strict=True)
    )
    said = sorted(
        (record["advertiser_id"], record["kind"], record["subject_type"], record["subject"])
        for record in records
    )
    address = ("ip", "198.51.100.7")
    assert said == [
        ("acme", "alert", *address),
        ("acme", "rate_limit", *address),
        ("small", "alert", *address),
        ("small", "rate_limit", "advertiser", "small"),
        ("small", "rate_limit", *address),
    ]
    assert {record["window_start"] for record in records} == {shown(begun)}
    limits = [record for record in records if record["kind"] == "rate_limit"]
    assert {record["until"] for record in limits} == {shown(begun + 60 + 600)}
    (quota,) = (record for record in limits if record["subject_type"] == "advertiser")
    (reason,) = quota["reasons"]
    assert (reason["rule"], reason["threshold"]) == ("quota_clicks", 20)
    assert 20 < reason["count"] <= 36
    assert (totals["alerts_sent"], totals["rate_limits_sent"]) == (2, 3)
    assert (totals["alerts_withdrawn"], totals["alerts_suppressed"]) == (0, 0)


def test_a_flag_that_falls_is_withdrawn_in_a_file(
    tmp_path: Path, kinesis_server: KinesisServer
) -> None:
    client = streams.create_stream(kinesis_server.url, "falls", 1)
    path = tmp_path / "told" / "alerts.jsonl"
    key = tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef")
    begun = (time.time() // 60 - 1) * 60 + 0.137  # whole seconds are too coarse for a rhythm
    options = ("--alerts", str(path), "--pii", "hash", "--pii-key-file", str(key))

    def states(kind: str) -> list[str]:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [record["state"] for record in records if record["kind"] == kind]

    with running(kinesis_server, "falls", tmp_path / "out", *options):
        for number in range(5):  # every five seconds: a rhythm
            streams.put(client, "falls", [click("acme", "192.0.2.9", number, begun + number * 5)])
        streams.until(lambda: states("rate_limit") == ["limited"], "a rhythm is flagged")
        streams.put(client, "falls", [click("acme", "192.0.2.9", 5, begun + 51)])
        streams.until(lambda: states("rate_limit") == ["limited", "withdrawn"], "it is withdrawn")
        assert states("alert") == ["raised", "withdrawn"]
    text = path.read_text(encoding="utf-8")
    assert "192.0.2.9" not in text, "subjects are pseudonyms"
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        check(record)
    assert len({record["subject"] for record in records}) == 1
    assert {len(record["subject"]) for record in records} == {24}


def test_what_looks_back_is_told_and_an_anomaly_begins_and_ends(
    tmp_path: Path, kinesis_server: KinesisServer
) -> None:
    client = streams.create_stream(kinesis_server.url, "back", 1)
    path = tmp_path / "alerts.jsonl"
    rules = tmp_path / "rules.toml"
    rules.write_text("[rules.sivt_volume_anomaly]\nminimum = 5\n")
    hour = (time.time() // 3600 - 1) * 3600
    spike = hour + 25 * 60

    def of(minutes: range, count: int) -> list[bytes]:
        """Clicks that many people make, so many a minute."""
        begins = (hour + minute * 60 for minute in minutes)
        times = [begin + number * 0.7 for begin in begins for number in range(count)]
        tenths = ((at, round(at * 10)) for at in times)
        return [click("acme", f"2001:db8::{one % 65_536:x}", one, at) for at, one in tenths]

    def by_user(number: int) -> bytes:
        at = hour + 600 + number * 13 + number**2 % 7
        event = json.loads(click("acme", "192.0.2.9", number, at))
        return json.dumps({**event, "event_id": f"u-{number}", "user_id": "u"}).encode()

    def found(**wanted: Any) -> list[dict[str, Any]]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        records = [json.loads(line) for line in lines]
        for record in records:
            check(record)
        return [record for record in records if wanted.items() <= record.items()]

    more = ("--alerts", str(path), "--rules", str(rules), "--look-back-every", "1s")
    with running(kinesis_server, "back", tmp_path / "out", *more, "--allowed-lateness", "3h"):
        streams.put(client, "back", [*of(range(25), 6), *map(by_user, range(11))])
        streams.put(client, "back", of(range(25, 26), 60))
        volume = {"rule": "sivt_volume_anomaly", "subject": "clicks"}
        streams.until(lambda: bool(found(**volume, state="raised")), "an anomaly begins")
        streams.until(lambda: bool(found(kind="rate_limit", subject="u")), "a user is limited")
        streams.put(client, "back", of(range(26, 31), 6))
        streams.until(lambda: bool(found(**volume, state="ended")), "it ends")
    window = {"window_start": shown(spike), "window_end": shown(spike + 60)}
    told = found(**volume)
    assert [one["state"] for one in told] == ["raised", "ended"]
    assert told[1]["count"] == 60, "the first may have been told of a part of the window"
    assert all(window.items() <= one.items() for one in told)
    assert told[0]["version"] < told[1]["version"]
    (rate,) = found(kind="alert", rule="givt_click_rate_user")
    (limit,) = found(kind="rate_limit", subject="u")
    assert (rate["subject_type"], rate["subject"], rate["count"]) == ("user", "u", 1)
    assert limit["until"] == shown(hour + 12 * 60 + 60 + 600)
    assert rate["window_start"] == limit["window_start"] == shown(hour + 12 * 60)
