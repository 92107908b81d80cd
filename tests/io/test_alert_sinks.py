"""Sinks of alerts: a real stream, a folder, a file that several processes append to."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from adtally.io.alerts import (
    LONGEST_KEY,
    AlertSinkError,
    FileAlerts,
    FolderAlerts,
    KinesisAlerts,
    partition_key,
)
from adtally.io.kinesis_client import KinesisConfig
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from tests import streams

LINES = [("acme", b'{"n":1}'), ("é", b'{"n":2}'), ("acme", b'{"n":3}')]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


def records_of(client: Any, name: str) -> list[list[dict[str, Any]]]:
    """The records of each shard, in its order."""
    found = []
    for shard in client.list_shards(StreamName=name)["Shards"]:
        iterator = client.get_shard_iterator(
            StreamName=name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        found.append(client.get_records(ShardIterator=iterator)["Records"])
    return found


def test_a_stream_gets_each_record_under_its_advertiser(kinesis_server: KinesisServer) -> None:
    client = streams.create_stream(kinesis_server.url, "sink", 3)
    sink = KinesisAlerts(KinesisConfig("sink", REGION, kinesis_server.url))
    sink.check()
    writer = sink.open()
    writer.write([*LINES, ("a" * 300, b"{}"), ("", b"{}")])
    writer.close()
    shards = records_of(client, "sink")
    keys = {record["PartitionKey"] for shard in shards for record in shard}
    assert keys == {"acme", "é", partition_key("a" * 300), partition_key("")}
    acme = [[one["Data"] for one in shard if one["PartitionKey"] == "acme"] for shard in shards]
    assert [data for data in acme if data] == [[b'{"n":1}', b'{"n":3}']]


def test_a_key_fits_into_kinesis() -> None:
    assert partition_key("a" * LONGEST_KEY) == "a" * LONGEST_KEY
    assert 0 < len(partition_key("a" * (LONGEST_KEY + 1))) <= LONGEST_KEY
    assert partition_key("a" * 300) != partition_key("a" * 301)
    assert partition_key("")


def test_a_stream_that_is_not_there_is_refused(kinesis_server: KinesisServer) -> None:
    sink = KinesisAlerts(KinesisConfig("nowhere", REGION, kinesis_server.url))
    with pytest.raises(AlertSinkError, match=r"nowhere at http.*Create it, or correct --alerts"):
        sink.check()


def test_a_folder_has_each_batch_once_however_often_it_is_written(tmp_path: Path) -> None:
    sink = FolderAlerts(str(tmp_path / "new" / "alerts"))
    sink.check()
    for _ in range(2):
        sink.open().write(LINES)
    sink.open().write(LINES[:1])
    texts = [path.read_bytes() for path in (tmp_path / "new" / "alerts").iterdir()]
    assert sorted(texts) == [b'{"n":1}\n', b'{"n":1}\n{"n":2}\n{"n":3}\n']


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for sink in (
        FolderAlerts(str(tmp_path / "file" / "folder")),
        FileAlerts(str(tmp_path / "file" / "alerts.jsonl")),
        FileAlerts(str(tmp_path)),
    ):
        with pytest.raises(AlertSinkError, match="Correct --alerts"):
            sink.check()


def test_a_line_that_a_kill_cut_short_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b'{"n":0}\n{"n":')
    sink = FileAlerts(str(path))
    sink.open().write(LINES)
    assert path.read_bytes() == b'{"n":0}\n{"n":\n{"n":1}\n{"n":2}\n{"n":3}\n'
    path.rename(tmp_path / "rotated")
    sink.open().write(LINES[:1])
    assert path.read_bytes() == b'{"n":1}\n'


def append(path: str, worker: int) -> None:
    writer = FileAlerts(path).open()
    for number in range(200):
        text = json.dumps({"worker": worker, "number": number, "pad": "x" * 20_000})
        writer.write([("acme", text.encode())])


def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=append, args=(str(path), at)) for at in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted((one["worker"], one["number"]) for one in found) == [
        (worker, number) for worker in range(3) for number in range(200)
    ]
