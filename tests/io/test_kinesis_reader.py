"""Reading a group of shards: what is waited for, what ends a job, what is counted."""

from __future__ import annotations

import botocore.exceptions
import pytest

from adtally.io.kinesis import KinesisBatch, KinesisConfig
from adtally.io.kinesis_chunks import to_chunk
from adtally.io.kinesis_client import Kinesis, Record
from adtally.io.kinesis_errors import DataLoss, KinesisSourceError, StreamMissing, StreamRecreated
from adtally.io.kinesis_reader import CONTINUE, FAIL, GroupReader
from adtally.io.kinesis_shards import (
    TRIM_HORIZON,
    Claim,
    GroupCoder,
    GroupTracker,
    whole_stream,
)
from tests.io.fake_kinesis import Clock, FakeKinesis, client_error, throttled

SHARD = "shardId-000000000000"
SKEWED = "Signature expired: 20261126T010000Z is now earlier than 20261126T015500Z"
"""The clock of the worker is an hour back."""


class Reading:
    """A group that is read as the DoFn reads it, with everything that it gave."""

    def __init__(self, fake: FakeKinesis, start_ms: int = TRIM_HORIZON, policy: str = FAIL) -> None:
        self.fake = fake
        self.policy = policy
        self.counts: dict[str, int] = {}
        self.got: list[bytes] = []
        self.settled: list[int] = []
        kinesis = self._kinesis()
        self.group = whole_stream(
            list(kinesis.list_shards().values()), start_ms, kinesis.created_ms()
        )
        self.restart()

    def _kinesis(self) -> Kinesis:
        return Kinesis(KinesisConfig("s", "eu"), self.fake, clock=self.fake.clock)

    def restart(self) -> None:
        """Another worker: only the encoded restriction is left."""
        self.group = GroupCoder().decode(GroupCoder().encode(self.group))
        self.reader = GroupReader(
            self._kinesis(), self.policy, 1.0, self._count, monotonic=self.fake.clock
        )

    def _count(self, name: str, amount: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + amount

    def look(self) -> float:
        """One look at every shard; returns the shortest wait."""
        wait = 1.0
        for shard in sorted(self.group.shards):
            step = self.reader.step(self.group, shard)
            wait = min(wait, step.wait_seconds)
            if step.after is not None:
                tracker = GroupTracker(self.group)
                assert tracker.try_claim(Claim(self.group, step.after))
                self.group = step.after
                self.reader.done(step)
                self.got += [record.data for record in step.records]
                self.settled.append(self.group.settled_ms)
        return wait

    def drain(self, looks: int = 400) -> list[bytes]:
        """Look until nothing comes for a while."""
        quiet = 0
        while quiet < 40 and looks:
            before = len(self.got)
            self.look()
            self.fake.clock.now += 1.0
            quiet = quiet + 1 if len(self.got) == before else 0
            looks -= 1
        return self.got


@pytest.fixture
def fake() -> FakeKinesis:
    return FakeKinesis(Clock())


def numbered(fake: FakeKinesis, count: int, start: int = 0) -> list[bytes]:
    for index in range(count):
        names = fake.open()
        fake.put_in(names[index % len(names)].id, b"%d" % (start + index))
    return [b"%d" % number for number in range(start, start + count)]


@pytest.mark.parametrize("read_before", [0, 2, 4])
def test_an_expired_iterator_is_replaced_after_the_last_claim(
    fake: FakeKinesis, read_before: int
) -> None:
    fake.most = 2
    sent = numbered(fake, 4)
    reading = Reading(fake)
    while len(reading.got) < read_before:
        reading.look()
        fake.clock.now += 1
    reading.look()
    fake.clock.now += 10_000
    assert reading.drain() == sent


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        (throttled(), "kinesis_throttled"),
        (client_error("LimitExceededException"), "kinesis_throttled"),
        (client_error("InternalFailure", status=500), "kinesis_retries"),
        (client_error("ServiceUnavailable", status=503), "kinesis_retries"),
        (client_error("InvalidSignatureException", message=SKEWED), "kinesis_retries"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), "kinesis_retries"),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), "kinesis_retries"),
        (botocore.exceptions.ConnectionClosedError(endpoint_url="x"), "kinesis_retries"),
    ],
)
def test_what_passes_is_waited_for_and_counted(
    fake: FakeKinesis, fault: Exception, counted: str
) -> None:
    sent = numbered(fake, 3)
    fake.fail("get_records", fault, fault)
    reading = Reading(fake)
    assert reading.look() >= 0.5
    asked = len(fake.times("get_records", SHARD))
    reading.look()
    assert len(fake.times("get_records", SHARD)) == asked  # it does wait
    fake.clock.now += 60
    assert reading.drain() == sent
    assert reading.counts[counted] == 2


def test_a_refusal_for_good_ends_with_what_to_do(fake: FakeKinesis) -> None:
    for code in ("AccessDeniedException", "InvalidSignatureException"):
        fake.fail("get_records", client_error(code))
        with pytest.raises(KinesisSourceError, match="GetRecords"):
            Reading(fake).look()


def test_a_missing_stream_is_no_finished_shard(fake: FakeKinesis) -> None:
    reading = Reading(fake)
    fake.deleted = True
    with pytest.raises(StreamMissing, match="create the stream"):
        reading.look()


def test_a_stream_made_anew_is_told_apart(fake: FakeKinesis) -> None:
    numbered(fake, 3)
    reading = Reading(fake)
    reading.look()
    fake.clock.sleep(400)
    fake.create(1)
    with pytest.raises(StreamRecreated, match="made anew"):
        reading.drain()


def test_an_end_without_children_is_asked_again(fake: FakeKinesis) -> None:
    sent = numbered(fake, 3)
    children = fake.split(fake.open()[0].id)
    fake.hidden = set(children)
    reading = Reading(fake)
    reading.drain()
    assert list(reading.group.shards) == [SHARD]
    assert reading.counts["kinesis_ends_without_children"] > 1
    fake.hidden = set()
    sent += numbered(fake, 4, 3)
    assert sorted(reading.drain()) == sorted(sent)
    assert sorted(reading.group.shards) == sorted(children)


def test_trimmed_away_fails_unless_told_otherwise(fake: FakeKinesis) -> None:
    numbered(fake, 3)
    for policy in (FAIL, CONTINUE):
        reading = Reading(fake, policy=policy)
        reading.drain()
        fake.clock.now += 3 * 86_400
        fake.shards[fake.open()[0].id].records.clear()
        numbered(fake, 2, 100)
        if policy == FAIL:
            with pytest.raises(DataLoss, match="trim_horizon"):
                reading.drain()
            fake.shards[fake.open()[0].id].records.clear()
            numbered(fake, 3)
        else:
            assert reading.drain()[-2:] == [b"100", b"101"]
            assert reading.counts["kinesis_data_loss"] == 1


def test_a_shard_that_left_the_stream_gives_way_to_what_has_its_keys(fake: FakeKinesis) -> None:
    parent = fake.open()[0].id
    reading = Reading(fake, policy=CONTINUE)
    low, _high = fake.split(parent)
    grandchildren = fake.split(low)
    del fake.shards[parent], fake.shards[low]
    sent = numbered(fake, 9)
    assert sorted(reading.drain()) == sorted(sent)
    assert set(grandchildren) <= set(reading.group.shards)


def test_addresses_do_not_depend_on_batches() -> None:
    records = [Record(str(n), n, "k", b'{"n": %d}' % n) for n in range(4)]
    whole = to_chunk(KinesisBatch("s", "shard", records))
    parts = [to_chunk(KinesisBatch("s", "shard", records[i : i + 2])) for i in (0, 2)]
    assert whole.data == b"".join(part.data for part in parts)
    sources = [segment.source for part in parts for segment in part.segments]
    assert [segment.source for segment in whole.segments] == sources
    assert [segment.arrived_ms for segment in whole.segments] == [0, 1, 2, 3]
