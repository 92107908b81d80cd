"""The source as a runner drives it: bundles, checkpoints, watermarks, and the bounded read."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import botocore.exceptions
import pytest
from apache_beam.internal import cloudpickle_pickler
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import Timestamp
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from adtally.io import kinesis as source_module
from adtally.io import kinesis_reader
from adtally.io.kinesis import (
    PROCESS_SECONDS,
    TRIM_HORIZON,
    KinesisBatch,
    KinesisConfig,
    KinesisSourceError,
    ReadFromKinesis,
    _ReadGroups,
    _ReadUpTo,
    _Source,
)
from adtally.io.kinesis_client import Kinesis, connect
from adtally.io.kinesis_shards import Group
from tests.io.fake_kinesis import HASHES, URL, Clock, FakeKinesis, client_error, throttled
from tests.io.test_kpl import aggregate

LAG_MS = 30_000
HOUR = 3600
S0, S1, S2, S3 = (f"shardId-{n:012d}" for n in range(4))


@dataclasses.dataclass
class Work:
    """What a runner keeps for one group between bundles: bytes, and the watermark's state."""

    group: bytes
    watermark: Timestamp | None = None
    wait: float = 0.0


class Runner:
    """One worker and its bundles, as the SDK harness does it, on a fake stream and clock."""

    def __init__(self, fake: FakeKinesis, start_ms: int = TRIM_HORIZON, **given: Any) -> None:
        self.fake = fake
        self.source = _Source(
            **{
                "config": KinesisConfig("events"),
                "start_ms": start_ms,
                "readers": 1,
                "on_data_loss": "fail",
                "poll_seconds": 1.0,
                "make_client": lambda config: fake,
                **given,
            }
        )
        self.done: list[KinesisBatch] = []
        self.late: list[KinesisBatch] = []
        self.restart()
        whole = self.dofn.initial_restriction("events")
        self.work = [Work(self.coded(part)) for part in self.dofn.split("events", whole)]

    def coded(self, group: Group) -> bytes:
        return self.dofn.restriction_coder().encode(group)

    def group(self, index: int = 0) -> Group:
        return self.dofn.restriction_coder().decode(self.work[index].group)

    def restart(self) -> None:
        """Another process: nothing is left of the old one."""
        self.dofn = _ReadGroups(self.source, LAG_MS)
        self.dofn.setup()

    def bundle(
        self, index: int = 0, checkpoint_after: int | None = None, crash: bool = False
    ) -> list[KinesisBatch]:
        """One call of ``process``; a runner that checkpoints takes its time between outputs."""
        work = self.work[index]
        tracker = ThreadsafeRestrictionTracker(self.dofn.create_tracker(self.group(index)))
        estimator = ThreadsafeWatermarkEstimator(ManualWatermarkEstimator(work.watermark))
        found, rest, wait = [], None, 0.0
        if checkpoint_after == 0:
            _, rest = tracker.try_split(0) or (None, None)
        for output in self.dofn.process("events", RestrictionTrackerView(tracker), estimator):
            found.append(output.value)
            if work.watermark is not None and output.timestamp < work.watermark:
                self.late.append(output.value)
            if len(found) == checkpoint_after:
                _, rest = tracker.try_split(0) or (None, None)
        if crash:
            return []
        tracker.check_done()
        deferred = tracker.deferred_status()
        if deferred:
            assert rest is None
            rest, wait = deferred[0], 1.0
        watermark = estimator.get_estimator_state()
        if work.watermark is not None:
            assert watermark >= work.watermark, "the watermark went back"
        self.work[index] = Work(self.coded(rest or Group()), watermark, wait)
        self.done += found
        return found

    def run(self, bundles: int = 20) -> list[bytes]:
        """Bundles of every group in turn; gives the data read."""
        before = len(self.done)
        for _ in range(bundles):
            for index in range(len(self.work)):
                if not self.group(index).done:
                    self.bundle(index)
                    self.fake.clock.sleep(1)
        return data_of(self.done[before:])

    def watermark_ms(self, index: int = 0) -> int | None:
        held = self.work[index].watermark
        return None if held is None else held.micros // 1000


def data_of(batches: list[KinesisBatch]) -> list[bytes]:
    return [record.data for batch in batches for record in batch.records]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    use(clock, monkeypatch)
    return clock


def use(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the source see this clock alone."""
    monkeypatch.setattr(source_module, "time", clock)
    monkeypatch.setattr(source_module, "Kinesis", functools.partial(Kinesis, clock=clock))
    reader = functools.partial(kinesis_reader.GroupReader, monotonic=clock)
    monkeypatch.setattr(source_module, "GroupReader", reader)


@pytest.fixture
def fake(clock: Clock) -> FakeKinesis:
    return FakeKinesis(clock)


# Every record exactly once.

ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 99)),
    st.tuples(st.just("put"), st.integers(0, 99)),
    st.tuples(st.just("bundle"), st.integers(0, 9)),
    st.tuples(st.just("checkpoint"), st.integers(0, 3)),
    st.tuples(st.just("crash"), st.integers(0, 9)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("split"), st.integers(0, 9)),
    st.tuples(st.just("merge"), st.integers(0, 9)),
    st.tuples(st.just("turned merge"), st.integers(0, 9)),
    st.tuples(st.just("fault"), st.integers(0, 19)),
    st.tuples(st.just("sleep"), st.sampled_from([1, 269, 301, HOUR])),
)
OPERATIONS = ("get_records", "get_shard_iterator", "list_shards", "describe_stream_summary")
FAULTS = (
    throttled(),
    client_error("ExpiredIteratorException"),
    client_error("InternalFailure", status=500),
    botocore.exceptions.EndpointConnectionError(endpoint_url=URL),
    botocore.exceptions.ReadTimeoutError(endpoint_url=URL),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actions=st.lists(ACTIONS, max_size=60),
    shards=st.integers(1, 4),
    readers=st.integers(1, 4),
    most=st.integers(1, 4),
    page=st.integers(1, 5),
    children_first=st.booleans(),
)
def test_every_record_is_read_exactly_once_whatever_happens(
    monkeypatch: pytest.MonkeyPatch,
    actions: list[tuple[str, int]],
    shards: int,
    readers: int,
    most: int,
    page: int,
    children_first: bool,
) -> None:
    clock = Clock()
    use(clock, monkeypatch)
    fake = FakeKinesis(clock, shards, most)
    fake.page, fake.children_first = page, children_first
    runner = Runner(fake, readers=readers)
    written: list[bytes] = []
    for action, number in actions:
        act(action, number, fake, runner, written)
        clock.sleep(0.01)
    fake.faults.clear()
    clock.sleep(60)
    for _ in range(len(written) + 40):
        runner.run(1)
        if everything_is_read(fake, runner):
            break
    event(f"{len(fake.shards)} shards")
    found = data_of(runner.done)
    assert Counter(found) == Counter(written)
    assert not runner.late
    assert_in_order(runner, found)


def act(action: str, number: int, fake: FakeKinesis, runner: Runner, written: list[bytes]) -> None:
    opened = fake.open()
    index = number % len(runner.work)
    if action == "put":
        written.append(f"{len(written)}".encode())
        fake.put(written[-1], key=f"key-{number}")
    elif action == "split":
        fake.split(opened[number % len(opened)].id)
    elif action.endswith("merge") and len(opened) > 1:
        at = number % (len(opened) - 1)
        pair = [opened[at].id, opened[at + 1].id]
        fake.merge(*(reversed(pair) if action.startswith("turned") else pair))
    elif action == "sleep":
        fake.clock.sleep(number)
    elif action == "restart":
        runner.restart()
    elif action == "fault":
        operation = OPERATIONS[number % 4]
        error = FAULTS[number % 5]
        if operation == "get_records" or error is not FAULTS[1]:
            fake.fail(operation, error)
    elif action in ("bundle", "crash"):
        runner.bundle(index, crash=action == "crash")
    elif action == "checkpoint":
        runner.bundle(number % len(runner.work), checkpoint_after=number)


def everything_is_read(fake: FakeKinesis, runner: Runner) -> bool:
    at = [name for n in range(len(runner.work)) for name in runner.group(n).shards]
    if sorted(at) != sorted(shard.id for shard in fake.open()):
        return False
    return sum(len(batch.records) for batch in runner.done) >= sum(
        len(shard.records) for shard in fake.shards.values()
    )


def assert_in_order(runner: Runner, found: list[bytes]) -> None:
    """Within a shard always; with a single group also across reshards, for every key."""
    place = {data: n for n, data in enumerate(found)}
    for shard in runner.fake.shards.values():
        places = [place[record[3]] for record in shard.records]
        assert places == sorted(places)
    if len(runner.work) > 1:
        return
    by_key: dict[str, list[tuple[int, int]]] = {}
    for shard in runner.fake.shards.values():
        for sequence, _, key, data in shard.records:
            by_key.setdefault(key, []).append((sequence, place[data]))
    for records in by_key.values():
        places = [at for _, at in sorted(records)]
        assert places == sorted(places)


# Bundles and checkpoints.


def test_a_checkpoint_before_the_first_claim_hands_everything_back(fake: FakeKinesis) -> None:
    fake.put(b"1")
    runner = Runner(fake)
    before = runner.group()
    assert runner.bundle(checkpoint_after=0) == []
    assert runner.group() == before
    fake.clock.sleep(1)
    assert runner.run(2) == [b"1"]


def test_a_checkpoint_between_batches_cuts_there(fake: FakeKinesis) -> None:
    fake.most = 1
    for n in range(4):
        fake.put(str(n).encode())
    runner = Runner(fake)
    assert len(runner.bundle(checkpoint_after=1)) == 1
    assert len(runner.bundle(checkpoint_after=2)) == 2
    fake.clock.sleep(1)
    runner.run(3)
    assert data_of(runner.done) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_reshard_during_a_checkpoint_loses_nothing(fake: FakeKinesis, restart: bool) -> None:
    fake.put(b"1")
    runner = Runner(fake)
    runner.bundle(checkpoint_after=1)
    fake.put(b"2")
    a, b = fake.split(S0)
    c = fake.merge(b, a)
    fake.put_in(c, b"3")
    if restart:
        runner.restart()
    fake.clock.sleep(1)
    assert runner.run(6) == [b"2", b"3"]
    assert set(runner.group().shards) == {c}


def test_a_checkpoint_at_the_end_of_a_parent_keeps_the_children(fake: FakeKinesis) -> None:
    fake.put(b"1")
    a, b = fake.split(S0)
    fake.put_in(a, b"2")
    fake.put_in(b, b"3")
    runner = Runner(fake)
    assert data_of(runner.bundle(checkpoint_after=1)) == [b"1"]
    assert set(runner.group().shards) == {a, b}
    runner.restart()
    assert sorted(runner.run(2)) == [b"2", b"3"]


def test_the_size_of_a_checkpoint_does_not_grow_with_polls_and_reshards(fake: FakeKinesis) -> None:
    runner = Runner(fake)
    shard = S0
    sizes = []
    for n in range(30):
        fake.put(str(n).encode())
        runner.run(3)
        shard = fake.merge(*fake.split(shard))
        runner.run(6)
        sizes.append(len(runner.work[0].group))
    assert len(data_of(runner.done)) == 30
    assert max(sizes) - min(sizes) < 25


def test_the_merge_of_two_groups_is_read_by_one_and_the_other_ends(fake: FakeKinesis) -> None:
    fake.create(2)
    runner = Runner(fake, readers=2)
    assert len(runner.work) == 2
    fake.put_in(S0, b"1")
    fake.put_in(S1, b"2")
    child = fake.merge(S1, S0)
    fake.put_in(child, b"3")
    assert sorted(runner.run(5)) == [b"1", b"2", b"3"]
    assert [list(runner.group(n).shards) for n in range(2)] == [[], [child]]


# The time that a call takes.


def test_a_call_hands_back_after_its_time_with_records_left(fake: FakeKinesis) -> None:
    fake.most = 1
    for n in range(50):
        fake.put(str(n).encode())
    runner = Runner(fake)
    began = fake.clock.now
    assert 3 <= len(runner.bundle()) <= 6
    assert fake.clock.now - began <= PROCESS_SECONDS
    assert not runner.group().done


def test_an_idle_call_hands_back_after_its_time(fake: FakeKinesis) -> None:
    runner = Runner(fake)
    began = fake.clock.now
    assert runner.bundle() == []
    assert fake.clock.now - began <= PROCESS_SECONDS
    assert runner.work[0].wait >= 1


def test_many_slow_shards_do_not_stretch_a_call_and_none_starves(fake: FakeKinesis) -> None:
    fake.create(20)
    fake.seconds = {"get_records": 0.3}
    runner = Runner(fake)
    for shard in list(fake.shards):
        fake.put_in(shard, shard.encode())
    for _ in range(12):
        began = fake.clock.now
        runner.bundle()
        assert fake.clock.now - began <= PROCESS_SECONDS + 0.4
    assert {batch.shard for batch in runner.done} == set(fake.shards)


def test_an_outage_does_not_stretch_a_call_by_all_shards(fake: FakeKinesis) -> None:
    fake.create(20)
    runner = Runner(fake)
    fake.seconds = {"get_shard_iterator": 5.0}
    fake.fail("get_shard_iterator", *[FAULTS[3]] * 40)
    began = fake.clock.now
    runner.bundle()
    assert fake.clock.now - began <= PROCESS_SECONDS + 5
    fake.seconds = {}
    fake.faults.clear()
    fake.clock.sleep(30)
    fake.put(b"1")
    assert runner.run(3) == [b"1"]


def test_expired_iterators_do_not_make_a_call_spin(fake: FakeKinesis) -> None:
    fake.fail("get_records", *[FAULTS[1]] * 100)
    Runner(fake).bundle()
    assert len(fake.times("get_records", S0)) <= 6


# Where a job begins.


def test_reading_begins_when_kinesis_answers(fake: FakeKinesis) -> None:
    fake.put(b"1")
    fake.fail("describe_stream_summary", throttled(), FAULTS[3])
    fake.fail("list_shards", client_error("ResourceInUseException"), FAULTS[4])
    assert Runner(fake).run(2) == [b"1"]


def test_reading_begins_not_without_kinesis(fake: FakeKinesis) -> None:
    fake.fail("list_shards", *[FAULTS[3]] * 1000)
    with pytest.raises(KinesisSourceError, match="told no shards for 600 s"):
        Runner(fake)


def test_a_stream_without_shards_yet_is_not_at_its_end(fake: FakeKinesis) -> None:
    fake.hidden = set(fake.shards)
    with pytest.raises(KinesisSourceError, match="the list is empty"):
        Runner(fake)


def test_a_missing_stream_ends_a_job_at_once(fake: FakeKinesis) -> None:
    fake.deleted = True
    began = fake.clock.now
    with pytest.raises(KinesisSourceError, match="there is no stream events"):
        Runner(fake)
    assert fake.clock.now == began


@pytest.mark.parametrize(
    ("start", "expected"),
    [("trim", [b"1", b"2", b"3"]), ("time", [b"2", b"3"]), ("latest", [b"3"])],
)
def test_the_three_start_positions(fake: FakeKinesis, start: str, expected: list[bytes]) -> None:
    fake.put(b"1")
    fake.clock.sleep(100)
    middle_ms = fake.clock.ms
    fake.put(b"2")
    fake.clock.sleep(100)
    starts = {"trim": TRIM_HORIZON, "time": middle_ms, "latest": fake.clock.ms}
    runner = Runner(fake, starts[start])
    fake.put(b"3")
    fake.clock.sleep(100)
    assert runner.run(3) == expected


# The watermark.


def throttle(fake: FakeKinesis, shard: str) -> None:
    """Refuse all calls for the records of one shard."""

    def get_records(ShardIterator: str, Limit: int) -> Any:
        if shard in ShardIterator:
            raise throttled()
        return FakeKinesis.get_records(fake, ShardIterator, Limit)

    fake.get_records = get_records  # type: ignore[method-assign]


def test_the_watermark_of_an_empty_stream_follows_its_clock(fake: FakeKinesis) -> None:
    runner = Runner(fake)
    for _ in range(5):
        runner.bundle()
        held = runner.watermark_ms()
        assert held is not None
        assert 0 <= fake.clock.ms - LAG_MS - held <= 1_000
        fake.clock.sleep(100)


def test_the_watermark_waits_for_the_shard_that_is_behind(fake: FakeKinesis) -> None:
    fake.create(2)
    fake.most = 1
    behind_ms = fake.clock.ms
    for n in range(30):
        fake.put_in(S0, str(n).encode())
        fake.clock.sleep(10)
    runner = Runner(fake)
    runner.bundle()
    held = runner.watermark_ms()
    assert held is not None
    assert held <= behind_ms + 10_000 * len(runner.done) - LAG_MS


def test_the_watermark_stands_while_one_shard_is_throttled(fake: FakeKinesis) -> None:
    fake.create(2)
    runner = Runner(fake)
    runner.bundle()
    held = runner.watermark_ms()
    throttle(fake, S1)
    for _ in range(10):
        fake.clock.sleep(5)
        runner.bundle()
        assert (runner.watermark_ms() or 0) - (held or 0) <= 1_000


def test_a_shard_that_was_never_reached_holds_the_watermark(fake: FakeKinesis) -> None:
    fake.create(2)
    runner = Runner(fake)
    throttle(fake, S1)
    fake.put_in(S0, b"1")
    assert runner.run(10) == [b"1"]
    assert not runner.watermark_ms()


def test_the_watermark_never_goes_back_when_records_come_late(fake: FakeKinesis) -> None:
    runner = Runner(fake)
    runner.bundle()
    held = runner.watermark_ms()
    late_ms = fake.clock.ms - HOUR * 1000
    fake.put(b"late")
    sequence, _, key, data = fake.shards[S0].records[-1]
    fake.shards[S0].records[-1] = (sequence, late_ms, key, data)
    fake.clock.sleep(2)
    runner.bundle()
    assert data_of(runner.late) == [b"late"]
    assert (runner.watermark_ms() or 0) >= (held or 0)


def test_a_fast_clock_of_the_worker_makes_nothing_late(
    fake: FakeKinesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = functools.partial(Kinesis, clock=lambda: fake.clock.now + HOUR)
    monkeypatch.setattr(source_module, "Kinesis", fast)
    runner = Runner(fake)
    for n in range(10):
        runner.bundle()
        fake.put(str(n).encode())
        fake.clock.sleep(1)
    assert len(runner.done) == 9
    assert not runner.late


def test_a_clock_days_ahead_takes_no_idle_shard_for_lost(
    fake: FakeKinesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts anew asks whether retention has passed: by the server's clock."""
    runner = Runner(fake)
    runner.run(3)
    fast = functools.partial(Kinesis, clock=lambda: fake.clock.now + 72 * HOUR)
    monkeypatch.setattr(source_module, "Kinesis", fast)
    runner.restart()
    runner.run(1)
    fake.put(b"1")
    assert runner.run(3) == [b"1"]


def test_no_record_is_late_through_a_reshard_of_two_groups(fake: FakeKinesis) -> None:
    fake.create(2)
    fake.most = 3
    runner = Runner(fake, readers=2)
    for n in range(60):
        fake.put(str(n).encode(), key=str(n))
        if n == 30:
            fake.merge(S0, S1)
        runner.run(1)
    runner.run(20)
    assert len(data_of(runner.done)) == 60
    assert not runner.late


def test_a_batch_has_the_arrival_of_its_first_record_as_time(fake: FakeKinesis) -> None:
    fake.clock.now += 0.123
    arrived_ms = fake.clock.ms
    fake.put(b"1")
    fake.clock.sleep(5)
    fake.put(b"2")
    runner = Runner(fake)
    tracker = ThreadsafeRestrictionTracker(runner.dofn.create_tracker(runner.group()))
    view = RestrictionTrackerView(tracker)
    output = next(runner.dofn.process("events", view, ManualWatermarkEstimator(None)))
    assert output.timestamp == Timestamp(micros=arrived_ms * 1000)
    assert [record.arrived_ms for record in output.value.records] == [arrived_ms, arrived_ms + 5000]
    assert output.value.stream == "events"


# KPL through the source.


def test_an_aggregate_is_never_cut_and_counts_its_records(fake: FakeKinesis) -> None:
    fake.put(aggregate(("a", b"1"), ("b", b"2")))
    fake.put(b"plain")
    fake.most = 1
    runner = Runner(fake)
    runner.bundle(checkpoint_after=1)
    runner.restart()
    fake.clock.sleep(1)
    runner.run(3)
    users = [record.users for batch in runner.done for record in batch.records]
    assert [[one.data for one in each] if each else each for each in users] == [
        [b"1", b"2"],
        None,
    ]


def test_records_of_an_aggregate_sent_to_both_halves_of_a_split_come_once(
    fake: FakeKinesis,
) -> None:
    runner = Runner(fake)
    a, b = fake.split(S0)
    keys = [f"user-{n}" for n in range(20)]
    data = aggregate(*[(key, key.encode()) for key in keys])
    fake.put_in(a, data)
    fake.put_in(b, data)
    runner.run(4)
    users = [one for batch in runner.done for record in batch.records for one in record.users or []]
    assert sorted(one.partition_key for one in users) == sorted(keys)


# What a job is made of.


def test_a_job_is_built_and_pickled_without_a_client() -> None:
    def never(config: KinesisConfig) -> Any:
        raise AssertionError("no client where a job is built")

    for stop_ms in (None, 5):
        read = ReadFromKinesis(KinesisConfig("events"), stop_ms=stop_ms, make_client=never)
        pipeline = beam.Pipeline(options=PipelineOptions([]))
        _ = pipeline | read
        pipeline.to_runner_api()
        assert cloudpickle_pickler.loads(cloudpickle_pickler.dumps(read)).config == read.config


@pytest.mark.parametrize("made", [_ReadGroups, _ReadUpTo])
def test_the_function_is_pickled_before_setup(made: Callable[..., Any]) -> None:
    source = _Source(KinesisConfig("events"), TRIM_HORIZON, 32, "fail", 1.0, connect)
    again = cloudpickle_pickler.loads(cloudpickle_pickler.dumps(made(source, 5)))
    assert again._source == source
    assert not hasattr(again, "_kinesis")


def test_clients_are_closed(fake: FakeKinesis) -> None:
    runner = Runner(fake)
    assert fake.closed
    fake.closed = False
    runner.dofn.teardown()
    assert fake.closed


def test_wrong_settings_are_refused_with_what_to_give() -> None:
    with pytest.raises(ValueError, match="on_data_loss is 'ignore'"):
        ReadFromKinesis(KinesisConfig("events"), on_data_loss="ignore")
    with pytest.raises(ValueError, match="give 1 or more"):
        ReadFromKinesis(KinesisConfig("events"), watermark_lag_seconds=0.5)


def test_an_arn_is_given_as_an_arn_and_named_shortly() -> None:
    config = KinesisConfig("arn:aws:kinesis:eu-central-1:123456789012:stream/events")
    assert config.name == "events"
    assert set(config.target) == {"StreamARN"}
    assert KinesisConfig("events").target == {"StreamName": "events"}


# Up to a time.


def bounded(fake: FakeKinesis, stop_ms: int) -> list[bytes]:
    dofn = _ReadUpTo(Runner(fake).source, stop_ms)
    dofn.setup()
    return data_of([output.value for output in dofn.process("events")])


def test_a_bounded_read_ends_with_the_last_record_by_then(fake: FakeKinesis) -> None:
    fake.most = 2
    for n in range(5):
        fake.put(str(n).encode())
        fake.clock.sleep(10)
    stop_ms = fake.clock.ms - 20_000
    assert bounded(fake, stop_ms) == [b"0", b"1", b"2", b"3"]


def test_a_bounded_read_waits_for_its_end(fake: FakeKinesis) -> None:
    stop_ms = fake.clock.ms + 20_000
    fake.put(b"1")
    assert bounded(fake, stop_ms) == [b"1"]
    assert fake.clock.ms >= stop_ms


def test_a_bounded_read_waits_for_records_that_are_shown_after_their_arrival(
    fake: FakeKinesis,
) -> None:
    stop_ms = fake.clock.ms
    sequence = fake._sequence()

    def shown_late(ShardIterator: str, Limit: int) -> Any:
        if fake.clock.ms >= stop_ms + 900 and not fake.shards[S0].records:
            fake.shards[S0].records.append((sequence, stop_ms, "key", b"1"))
        return FakeKinesis.get_records(fake, ShardIterator, Limit)

    fake.get_records = shown_late  # type: ignore[method-assign]
    assert bounded(fake, stop_ms) == [b"1"]


def test_a_bounded_read_follows_reshards_and_empty_shards(fake: FakeKinesis) -> None:
    fake.create(3)
    fake.put_in(S0, b"1")
    a, b = fake.split(S0)
    fake.put_in(a, b"2")
    fake.clock.sleep(10)
    c = fake.merge(b, S1)
    fake.put_in(c, b"3")
    fake.clock.sleep(10)
    stop_ms = fake.clock.ms
    fake.clock.sleep(10)
    d, _ = fake.split(c)
    fake.put_in(d, b"after")
    fake.put_in(a, b"after")
    assert sorted(bounded(fake, stop_ms)) == [b"1", b"2", b"3"]


def test_a_bounded_read_of_a_shard_that_ends_after_the_time(fake: FakeKinesis) -> None:
    fake.put(b"1")
    stop_ms = fake.clock.ms
    fake.clock.sleep(10)
    fake.put(b"after")
    a, _ = fake.split(S0)
    fake.put_in(a, b"after")
    assert bounded(fake, stop_ms) == [b"1"]


def test_a_bounded_read_of_nothing_ends(fake: FakeKinesis) -> None:
    fake.create(4)
    assert bounded(fake, fake.clock.ms) == []


def test_a_bounded_read_waits_for_kinesis_but_not_for_ever(fake: FakeKinesis) -> None:
    fake.put(b"1")
    for operation in OPERATIONS:
        fake.fail(operation, throttled(), FAULTS[3], FAULTS[4])
    assert bounded(fake, fake.clock.ms) == [b"1"]
    runner = Runner(fake)
    fake.fail("get_records", *[FAULTS[3]] * 1000)
    dofn = _ReadUpTo(runner.source, fake.clock.ms)
    dofn.setup()
    with pytest.raises(KinesisSourceError, match="no answer from Kinesis for 600 s"):
        list(dofn.process("events"))


def test_a_bounded_read_never_calls_too_often(fake: FakeKinesis) -> None:
    fake.most = 1
    for n in range(20):
        fake.put(str(n).encode())
    assert len(bounded(fake, fake.clock.ms)) == 20
    times = fake.times("get_records", S0)
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.199


def test_records_by_hash_keys_at_the_ends_are_read(fake: FakeKinesis) -> None:
    fake.create(3)
    for place in (0, HASHES // 3 - 1, HASHES // 3, HASHES - 1):
        fake.put(str(place).encode(), hash_key=place)
    assert len(bounded(fake, fake.clock.ms)) == 4


@pytest.mark.usefixtures("clock")
def test_a_bounded_read_on_a_runner() -> None:
    shared = FakeKinesis(Clock(), shards=2)
    for n in range(10):
        shared.put(str(n).encode(), key=str(n))
    STREAMS["bounded"] = shared
    shared.clock.sleep(10)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        read = ReadFromKinesis(
            KinesisConfig("events"), stop_ms=shared.clock.ms - 10_000, make_client=shared_client
        )
        found = pipeline | read | beam.FlatMap(lambda batch: [one.data for one in batch.records])
        assert_that(found, equal_to([str(n).encode() for n in range(10)]))


STREAMS: dict[str, FakeKinesis] = {}


def shared_client(config: KinesisConfig) -> FakeKinesis:
    return STREAMS["bounded"]
