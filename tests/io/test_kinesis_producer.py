"""Lines put into a stream: all of them, in few calls, through throttling."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adtally.io import kinesis_producer
from adtally.io.kinesis_client import KinesisConfig
from adtally.io.kinesis_producer import PutError, put_entries, put_lines
from adtally.pipelines.cli import cli
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from tests import streams
from tests.io.fake_kinesis import client_error, throttled

CONFIG = KinesisConfig("events")


@pytest.fixture
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


class Client:
    """Takes every third record of a call only, and fails where told to."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken: list[bytes] = []
        self.calls = 0

    def put_records(self, Records: list[dict[str, Any]], StreamName: str) -> dict[str, Any]:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        self.taken += [record["Data"] for record in Records[::3]]
        refused = {"ErrorCode": "ProvisionedThroughputExceededException"}
        return {"Records": [{} if at % 3 == 0 else refused for at in range(len(Records))]}


@pytest.mark.usefixtures("_no_waits")
def test_what_was_refused_is_put_again_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(throttled(), client_error("InternalFailure", status=500))
    monkeypatch.setattr(kinesis_producer, "connect", lambda config: client)
    lines = [b"%d" % number for number in range(20)]
    assert list(put_lines(CONFIG, lines)) == [20]
    assert sorted(client.taken) == sorted(lines)


@pytest.mark.usefixtures("_no_waits")
def test_records_keep_their_keys_when_they_are_put_again() -> None:
    class Keyed(Client):
        def put_records(self, Records: list[dict[str, Any]], StreamName: str) -> dict[str, Any]:
            assert all(one["PartitionKey"] == f"key {one['Data'].decode()}" for one in Records)
            return super().put_records(Records, StreamName)

    client = Keyed(throttled())
    put_entries(client, CONFIG, ((f"key {number}", b"%d" % number) for number in range(1_200)))
    assert sorted(client.taken) == sorted(b"%d" % number for number in range(1_200))


def test_a_refusal_for_good_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(client_error("AccessDeniedException"))
    monkeypatch.setattr(kinesis_producer, "connect", lambda config: client)
    with pytest.raises(PutError, match="AccessDenied"):
        list(put_lines(CONFIG, [b"1"]))
    assert client.calls == 1


@pytest.mark.usefixtures("_no_waits")
def test_batches_keep_to_the_limits_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    monkeypatch.setattr(kinesis_producer, "connect", lambda config: client)
    assert list(put_lines(CONFIG, [b"x"] * 1_200)) == [500, 1_000, 1_200]
    with pytest.raises(PutError, match="1 MiB"):
        list(put_lines(CONFIG, [b"x" * ((1 << 20) + 1)]))


def test_the_pace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    monkeypatch.setattr(kinesis_producer, "connect", lambda config: client)
    monkeypatch.setattr(kinesis_producer, "_put", lambda *_: None)
    begun = time.monotonic()
    assert list(put_lines(CONFIG, [b"x"] * 100, 200))[-1] == 100
    assert time.monotonic() - begun >= 0.2


def test_feeding_logs_to_a_real_server(
    tmp_path: Path, kinesis_server: KinesisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)
    client = streams.create_stream(kinesis_server.url, "fed", 2)
    lines = [b'{"n": %d}' % number for number in range(1_234)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines[:1_000]) + b"\n\n"))
    (tmp_path / "b.jsonl").write_bytes(b"\n".join(lines[1_000:]))
    there = ("--kinesis-region", REGION, "--kinesis-endpoint", kinesis_server.url)
    done = CliRunner().invoke(
        cli, ["feed", "--input", str(tmp_path), "--to", "kinesis://fed", *there]
    )
    assert done.exit_code == 0, done.output
    assert "1,234 records put into fed" in done.output
    found = []
    for shard in client.list_shards(StreamName="fed")["Shards"]:
        place = client.get_shard_iterator(
            StreamName="fed", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )
        records = client.get_records(ShardIterator=place["ShardIterator"])["Records"]
        assert len(records) > 500
        found += [record["Data"] for record in records]
    assert sorted(found) == sorted(lines)

    wrong = CliRunner().invoke(cli, ["feed", "--input", str(tmp_path), "--to", "kafka://x", *there])
    assert wrong.exit_code == 2
    gone = CliRunner().invoke(
        cli, ["feed", "--input", str(tmp_path), "--to", "kinesis://nobody", *there]
    )
    assert gone.exit_code == 1
    assert "ResourceNotFound" in gone.output
