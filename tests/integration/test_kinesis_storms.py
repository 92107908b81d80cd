"""The source before a real Kinesis and a proxy that gives the answers of one under stress."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator

import pytest

from adtally.io import kinesis_client
from adtally.io.kinesis_client import Kinesis, KinesisConfig, connect
from adtally.io.kinesis_reader import FAIL, GroupReader
from adtally.io.kinesis_shards import TRIM_HORIZON, whole_stream
from adtally.runners.local.kinesis_server import REGION, KinesisServer
from tests import streams
from tests.fault_proxy import Cut, Dribbled, Fault, FaultProxy, Lost, Truncated
from tests.faults import storms

RECORDS = 300
FAULTS: list[Fault] = [
    *storms.THROTTLED,
    storms.INTERNAL,
    storms.UNAVAILABLE,
    storms.BAD_GATEWAY,
    storms.FROM_PROXY,
    storms.EXPIRED,
    Cut(),
    Lost(),
    Truncated(),
    Truncated(0.0),
    Dribbled(0.3),
]


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def proxy(kinesis_server: KinesisServer) -> Iterator[FaultProxy]:
    with FaultProxy(kinesis_server.url) as proxy:
        yield proxy


class _Time:
    """A monotonic clock that moves only when it is told: no pause is waited for."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_every_record_is_read_once_and_in_order_through_every_kind_of_answer(
    kinesis_server: KinesisServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinesis_client, "RECORDS_A_CALL", 20)  # many answers, broken in turn
    name = f"storm-{uuid.uuid4().hex[:8]}"
    client = streams.create_stream(kinesis_server.url, name, 1)
    sent = [str(number).encode() for number in range(RECORDS)]
    for start in range(0, RECORDS, 100):
        some = [{"Data": data, "PartitionKey": "k"} for data in sent[start : start + 100]]
        client.put_records(StreamName=name, Records=some)
    config = KinesisConfig(name, REGION, proxy.url)
    kinesis = Kinesis(config, connect(config))
    group = whole_stream(list(kinesis.list_shards().values()), TRIM_HORIZON, kinesis.created_ms())
    (shard,) = group.shards
    counts: dict[str, int] = {}
    clock = _Time()

    def count(what: str, amount: int) -> None:
        counts[what] = counts.get(what, 0) + amount

    reader = GroupReader(kinesis, FAIL, 1.0, count, monotonic=clock)
    broken = itertools.chain.from_iterable((fault, fault, None) for fault in FAULTS)
    got: list[bytes] = []
    with storms.storm(proxy, lambda request: next(broken, None)):
        while len(got) < RECORDS or len(proxy.faults) < 2 * len(FAULTS):
            step = reader.step(group, shard)
            if step.after is not None:
                got += [record.data for record in step.records]
                group = step.after
                reader.done(step)
            clock.now += step.wait_seconds + 0.01
    kinesis.client.close()
    assert got == sent
    assert counts["kinesis_throttled"] >= len(storms.THROTTLED)
    assert counts["kinesis_retries"] >= 5
    assert counts["kinesis_iterators_expired"] >= 1
