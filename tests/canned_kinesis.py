"""A Kinesis that answers from files as fast as it is asked: a source that is not the bottleneck."""

from __future__ import annotations

import datetime
import pickle
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 5_000
"""Records of one answer; about 2 MB, as a real GetRecords gives in one call per second."""


def in_order(lines: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """Lines by the time that their text says they were received at; those without come first."""
    return sorted((_received_ms(line), line) for line in lines)


def _received_ms(line: bytes) -> int:
    found = re.search(rb'"received_at":"([^"]+Z)"', line)
    if found is None:
        return 0
    received = datetime.datetime.fromisoformat(found[1].decode())
    return round(received.timestamp() * 1000)


def write(lines: list[tuple[int, bytes]], folder: Path, shards: int) -> None:
    """Deal lines ``(arrived_ms, data)``, in order of arrival, to shards."""
    for shard in range(shards):
        target = folder / f"shardId-{shard:012d}"
        target.mkdir(parents=True)
        own = lines[shard::shards]
        for number, start in enumerate(range(0, len(own), BATCH)):
            chunk = pickle.dumps(own[start : start + BATCH])
            (target / f"{number:06d}.pickle").write_bytes(chunk)


@dataclass(frozen=True)
class CannedKinesis:
    """Client, and maker of clients (``make_client`` of the source), for a folder of :func:`write`.

    An iterator is ``SHARD/NUMBER`` of the next file.
    """

    folder: Path

    def __call__(self, config: Any) -> CannedKinesis:
        return self

    def close(self) -> None:
        """Nothing is open."""

    def describe_stream_summary(self, **_: Any) -> dict[str, Any]:
        created = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        summary = {"StreamCreationTimestamp": created, "RetentionPeriodHours": 8760}
        return _answer(StreamDescriptionSummary=summary)

    def list_shards(self, **_: Any) -> dict[str, Any]:
        names = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
        width = (1 << 128) // len(names)
        shards = [
            {
                "ShardId": name,
                "HashKeyRange": {
                    "StartingHashKey": str(width * index),
                    "EndingHashKey": str(width * (index + 1) - 1),
                },
                "SequenceNumberRange": {"StartingSequenceNumber": "0"},
            }
            for index, name in enumerate(names)
        ]
        return _answer(Shards=shards)

    def get_shard_iterator(
        self, ShardId: str, ShardIteratorType: str, StartingSequenceNumber: str = "0", **_: Any
    ) -> dict[str, Any]:
        after = ShardIteratorType == "AFTER_SEQUENCE_NUMBER"
        number = (int(StartingSequenceNumber) + 1) // BATCH if after else 0
        return _answer(ShardIterator=f"{ShardId}/{number}")

    def get_records(self, ShardIterator: str, **_: Any) -> dict[str, Any]:
        shard, number = ShardIterator.split("/")
        path = self.folder / shard / f"{int(number):06d}.pickle"
        if not path.exists():
            return _answer(Records=[], MillisBehindLatest=0, NextShardIterator=ShardIterator)
        first = int(number) * BATCH
        records = [
            {
                "SequenceNumber": str(first + index),
                "ApproximateArrivalTimestamp": arrived,
                "PartitionKey": "key",
                "Data": data,
            }
            for index, (arrived, data) in enumerate(
                (datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC), data)
                for ms, data in pickle.loads(path.read_bytes())
            )
        ]
        following = f"{shard}/{int(number) + 1}"
        return _answer(Records=records, MillisBehindLatest=1, NextShardIterator=following)


def _answer(**fields: Any) -> dict[str, Any]:
    date = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    headers = {"date": date.strftime("%a, %d %b %Y %H:%M:%S GMT")}
    return {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": headers}, **fields}
