"""A Kinesis in memory, with a clock of its own, that can be told to fail and to be slow."""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import botocore.exceptions

URL = "https://kinesis.example"
HASHES = 1 << 128
ITERATOR_SECONDS = 300
Row = tuple[int, int, str, bytes]
"""``(sequence, arrived_ms, partition key, data)``."""


class Clock:
    """Seconds since the epoch, moved by hand; stands in for the module ``time`` as well."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    monotonic = time = __call__

    @property
    def ms(self) -> int:
        return round(self.now * 1000)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def client_error(
    code: str, operation: str = "GetRecords", status: int = 400, message: str = ""
) -> Exception:
    """What boto3 raises for an error answer."""
    body: Any = {
        "Error": {"Code": code, "Message": message or code},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return botocore.exceptions.ClientError(body, operation)


def throttled() -> Exception:
    return client_error("ProvisionedThroughputExceededException")


@dataclass
class FakeShard:
    id: str
    first: int
    last: int
    parents: tuple[str, ...] = ()
    closed_ms: int | None = None
    records: list[Row] = field(default_factory=list)


class FakeKinesis:
    """The five calls that the source makes, and what a producer and an operator do.

    Attributes:
        most: records that one GetRecords gives.
        page: shards that one ListShards gives.
        children_first: the order of the list is not promised.
        hidden: shards that are not listed yet.
        deleted: whether the stream is gone.
        seconds: how long a call of each operation takes.
        faults: errors that the next calls of each operation raise.
        closed: whether the client was closed.
    """

    def __init__(self, clock: Clock, shards: int = 1, most: int = 10_000) -> None:
        self.clock = clock
        self.most = most
        self.page = 100
        self.children_first = False
        self.hidden: set[str] = set()
        self.deleted = False
        self.seconds: dict[str, float] = {}
        self.faults: dict[str, list[Exception]] = {}
        self.closed = False
        self.retention_hours = 24
        self._last_sequence = 0
        self.create(shards)

    def create(self, shards: int) -> None:
        """The stream anew."""
        self.created_ms = self.clock.ms
        self.shards: dict[str, FakeShard] = {}
        self._calls: list[tuple[str, str, float]] = []
        self._iterators: dict[str, tuple[str, int, float]] = {}
        self._made = 0
        edges = [HASHES * index // shards for index in range(shards + 1)]
        for first, end in itertools.pairwise(edges):
            self._add(first, end - 1, ())

    def _add(self, first: int, last: int, parents: tuple[str, ...]) -> FakeShard:
        shard = FakeShard(f"shardId-{self._made:012d}", first, last, parents)
        self._made += 1
        self.shards[shard.id] = shard
        return shard

    # What producers and operators do.

    def put(self, data: bytes, key: str = "key", hash_key: int | None = None) -> None:
        """A record, to the open shard that has its hash key."""
        place = hash_key
        if place is None:
            place = int(hashlib.md5(key.encode()).hexdigest(), 16)
        (shard,) = (shard for shard in self.open() if shard.first <= place <= shard.last)
        self.put_in(shard.id, data, key)

    def put_in(self, shard: str, data: bytes, key: str = "key") -> None:
        """A record, to this shard."""
        self.shards[shard].records.append((self._sequence(), self.clock.ms, key, data))

    def _sequence(self) -> int:
        self._last_sequence += 1
        return self._last_sequence

    def open(self) -> list[FakeShard]:
        """Open shards by hash key."""
        found = [shard for shard in self.shards.values() if shard.closed_ms is None]
        return sorted(found, key=lambda shard: shard.first)

    def split(self, name: str) -> tuple[str, str]:
        shard = self.shards[name]
        shard.closed_ms = self.clock.ms
        middle = (shard.first + shard.last + 1) // 2
        low = self._add(shard.first, middle - 1, (name,))
        return low.id, self._add(middle, shard.last, (name,)).id

    def merge(self, parent: str, adjacent: str) -> str:
        a, b = self.shards[parent], self.shards[adjacent]
        a.closed_ms = b.closed_ms = self.clock.ms
        return self._add(min(a.first, b.first), max(a.last, b.last), (parent, adjacent)).id

    def fail(self, operation: str, *errors: Exception) -> None:
        """Let the next calls of an operation raise."""
        self.faults.setdefault(operation, []).extend(errors)

    def times(self, operation: str, shard: str) -> list[float]:
        """When an operation was called for a shard."""
        return [at for called, name, at in self._calls if (called, name) == (operation, shard)]

    # What the source calls.

    def close(self) -> None:
        self.closed = True

    def describe_stream_summary(self, StreamName: str) -> dict[str, Any]:
        self._begin("describe_stream_summary")
        return self._answer(
            StreamDescriptionSummary={
                "StreamCreationTimestamp": _at(self.created_ms),
                "RetentionPeriodHours": self.retention_hours,
            }
        )

    def list_shards(self, StreamName: str = "", NextToken: str = "0") -> dict[str, Any]:
        self._begin("list_shards")
        assert bool(StreamName) == (NextToken == "0"), "Kinesis refuses both, and neither"
        order: Iterable[FakeShard] = self.shards.values()
        if self.children_first:
            order = reversed(self.shards.values())
        shown = [shard for shard in order if shard.id not in self.hidden and not self._old(shard)]
        start, end = int(NextToken), int(NextToken) + self.page
        more = {"NextToken": str(end)} if end < len(shown) else {}
        return self._answer(Shards=[_described(shard) for shard in shown[start:end]], **more)

    def get_shard_iterator(
        self,
        StreamName: str,
        ShardId: str,
        ShardIteratorType: str,
        StartingSequenceNumber: str = "",
        Timestamp: datetime.datetime | None = None,
    ) -> dict[str, Any]:
        self._begin("get_shard_iterator", ShardId)
        if ShardId not in self.shards or self._old(self.shards[ShardId]):
            raise client_error("ResourceNotFoundException", "GetShardIterator")
        records = self._kept(self.shards[ShardId])
        first = 0
        if ShardIteratorType == "AFTER_SEQUENCE_NUMBER":
            first = int(StartingSequenceNumber) + 1
        elif ShardIteratorType == "AT_SEQUENCE_NUMBER":
            first = int(StartingSequenceNumber)
        elif ShardIteratorType == "AT_TIMESTAMP":
            assert Timestamp is not None
            if Timestamp.timestamp() > self.clock.now:
                raise client_error("InvalidArgumentException", "GetShardIterator")
            at_ms = Timestamp.timestamp() * 1000
            after = [record[0] for record in records if record[1] >= at_ms]
            first = after[0] if after else self._last_sequence + 1
        else:
            assert ShardIteratorType == "TRIM_HORIZON"
        return self._answer(ShardIterator=self._iterator(ShardId, first))

    def get_records(self, ShardIterator: str, Limit: int) -> dict[str, Any]:
        name, first, issued = self._iterators[ShardIterator]
        self._begin("get_records", name)
        if self.clock.now - issued > ITERATOR_SECONDS:
            raise client_error("ExpiredIteratorException")
        if name not in self.shards:
            raise client_error("ResourceNotFoundException")
        shard = self.shards[name]
        left = [record for record in self._kept(shard) if record[0] >= first]
        given = left[: min(self.most, Limit)]
        rest = left[len(given) :]
        behind_ms = max(1, self.clock.ms - rest[0][1]) if rest else 0
        following = {}
        if rest or shard.closed_ms is None:
            after = given[-1][0] + 1 if given else first
            following["NextShardIterator"] = self._iterator(name, after)
        records = [
            {
                "SequenceNumber": str(sequence),
                "ApproximateArrivalTimestamp": _at(arrived_ms),
                "PartitionKey": key,
                "Data": data,
            }
            for sequence, arrived_ms, key, data in given
        ]
        return self._answer(Records=records, MillisBehindLatest=behind_ms, **following)

    def _begin(self, operation: str, shard: str = "") -> None:
        self._calls.append((operation, shard, self.clock.now))
        self.clock.sleep(self.seconds.get(operation, 0.0))
        if self.deleted:
            raise client_error("ResourceNotFoundException", operation)
        if self.faults.get(operation):
            raise self.faults[operation].pop(0)

    def _answer(self, **content: Any) -> dict[str, Any]:
        headers = {"date": email.utils.formatdate(self.clock.now, usegmt=True)}
        return {**content, "ResponseMetadata": {"HTTPHeaders": headers}}

    def _iterator(self, shard: str, first: int) -> str:
        name = f"{shard}/{len(self._iterators)}"
        self._iterators[name] = (shard, first, self.clock.now)
        return name

    def _horizon_ms(self) -> float:
        return self.clock.ms - self.retention_hours * 3_600_000

    def _old(self, shard: FakeShard) -> bool:
        return shard.closed_ms is not None and shard.closed_ms < self._horizon_ms()

    def _kept(self, shard: FakeShard) -> list[Row]:
        return [record for record in shard.records if record[1] >= self._horizon_ms()]


def _described(shard: FakeShard) -> dict[str, Any]:
    item: dict[str, Any] = {
        "ShardId": shard.id,
        "HashKeyRange": {"StartingHashKey": str(shard.first), "EndingHashKey": str(shard.last)},
        "SequenceNumberRange": {"StartingSequenceNumber": "0"},
    }
    if shard.closed_ms is not None:
        item["SequenceNumberRange"]["EndingSequenceNumber"] = "9"
    item.update(zip(("ParentShardId", "AdjacentParentShardId"), shard.parents, strict=False))
    return item


def _at(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
