"""``ReadFromKinesis``: a native, unbounded source for Amazon Kinesis Data Streams.

Plain Python on boto3: no Java at construction, no expansion service, no containers. How it reads
is in :mod:`adtally.io.kinesis_reader`, what it remembers in :mod:`adtally.io.kinesis_shards`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import apache_beam as beam
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from adtally.io.kinesis_client import Kinesis, KinesisConfig, Record, connect
from adtally.io.kinesis_errors import KinesisSourceError, backoff_seconds, is_passing
from adtally.io.kinesis_reader import FAIL, ON_DATA_LOSS, GroupReader, Step
from adtally.io.kinesis_shards import (
    TRIM_HORIZON,
    Claim,
    Group,
    GroupCoder,
    GroupTracker,
    cut,
    whole_stream,
)

__all__ = ["TRIM_HORIZON", "KinesisBatch", "KinesisConfig", "KinesisSourceError", "ReadFromKinesis"]

READERS: Final = 32
"""Groups of shards when nothing is said: more than most streams have shards."""

POLL_SECONDS: Final = 1.0
"""Pause at the tip of a shard. Flink counts resumption in whole seconds, so less gains nothing."""

PROCESS_SECONDS: Final = 1.0
"""A call of ``process`` hands back after this: Flink takes a checkpoint only between calls."""

WATERMARK_LAG_SECONDS: Final = 30.0
GIVE_UP_SECONDS: Final = 600.0
"""A bounded read ends with an error when Kinesis cannot be reached for this long."""

VISIBLE_MS: Final = 1_000
"""Kinesis shows a record at most this long after its arrival time."""

NAMESPACE: Final = "adtally"
_RESTRICTION: Final = beam.DoFn.RestrictionParam()
_WATERMARK: Final = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())


@dataclass(frozen=True)
class KinesisBatch:
    """Records of one shard, in order, as one GetRecords gave them."""

    stream: str
    shard: str
    records: list[Record]


@dataclass
class ReadFromKinesis(beam.PTransform):
    """Read a stream; gives :class:`KinesisBatch` elements.

    Delivery: at least once from Kinesis, and exactly once into the state of a runner that
    checkpoints (positions are part of the checkpoint). A runner without checkpoints (Prism) starts
    anew after a kill, wherever ``start_ms`` says. Producers may write a record twice, so readers
    deduplicate by identity. Order is kept within a shard, and within a group across reshards:
    parents first. When shards of two groups merge, the child may begin before the other parent is
    read; the watermark waits for both.

    Watermark: of each shard the arrival time of the last record, or the server's clock at its tip,
    less ``watermark_lag_seconds``; the least of all shards. So an idle shard does not hold back
    windows, an unread or throttled one does, and no clock of a producer moves it. The element's
    timestamp is the arrival of its first record.

    Records leave a KPL aggregate only together, so a position never lies inside one.

    Raises, while reading: :class:`KinesisSourceError` for what time does not mend (no such stream,
    made anew, no permission, data loss). Throttling, outages and expired iterators are waited for.

    Counts (namespace ``adtally``): ``kinesis_records``, ``kinesis_user_records``,
    ``kinesis_bytes``, ``kinesis_polls``, ``kinesis_throttled``, ``kinesis_retries``,
    ``kinesis_iterators_expired``, ``kinesis_ends_without_children``, ``kinesis_shards_finished``,
    ``kinesis_data_loss``; distributions ``kinesis_millis_behind_latest`` and
    ``kinesis_watermark_age_ms``, and both as gauges per shard under NAME.SHARD.

    Attributes:
        config: which stream.
        start_ms: begin with records that arrived from then on (milliseconds since the epoch), or
            ``TRIM_HORIZON``. For "latest" give the present time: it is pinned here, so nothing
            falls between the start of a job and its first call.
        stop_ms: read only what had arrived by then, and end: a bounded source. None goes on.
        readers: groups of shards, each read by one worker at a time; at most one per shard.
        on_data_loss: one of :data:`adtally.io.kinesis_reader.ON_DATA_LOSS`.
        watermark_lag_seconds: how far the watermark stays behind arrival: on-time panes wait for
            events that arrive out of order. At least 1.
        poll_seconds: pause at the tip of a shard.
        make_client: makes the boto3 client on the worker; never called where a job is built.
    """

    config: KinesisConfig
    start_ms: int = TRIM_HORIZON
    stop_ms: int | None = None
    readers: int = READERS
    on_data_loss: str = FAIL
    watermark_lag_seconds: float = WATERMARK_LAG_SECONDS
    poll_seconds: float = POLL_SECONDS
    make_client: Callable[[KinesisConfig], Any] = field(default=connect)

    def __post_init__(self) -> None:
        super().__init__()
        if self.on_data_loss not in ON_DATA_LOSS:
            raise ValueError(f"on_data_loss is {self.on_data_loss!r}, none of {ON_DATA_LOSS}.")
        if self.watermark_lag_seconds < 1:
            raise ValueError(
                f"watermark_lag_seconds is {self.watermark_lag_seconds}: Kinesis shows a record "
                f"up to a second after its arrival time, so windows would close before it; give "
                f"1 or more."
            )

    def expand(self, pbegin: Any) -> Any:
        source = _Source(
            self.config,
            self.start_ms,
            self.readers,
            self.on_data_loss,
            self.poll_seconds,
            self.make_client,
        )
        if self.stop_ms is None:
            lag_ms = round(self.watermark_lag_seconds * 1000)
            read = beam.ParDo(_ReadGroups(source, lag_ms))
        else:
            read = beam.ParDo(_ReadUpTo(source, self.stop_ms))
        return (
            pbegin
            | "Stream" >> beam.Create([self.config.stream], reshuffle=False)
            | "Read shards" >> read.with_output_types(KinesisBatch)
        )


@dataclass(frozen=True)
class _Source:
    """What workers need to know."""

    config: KinesisConfig
    start_ms: int
    readers: int
    on_data_loss: str
    poll_seconds: float
    make_client: Callable[[KinesisConfig], Any]

    def kinesis(self) -> Kinesis:
        return Kinesis(self.config, self.make_client(self.config))

    def whole(self, kinesis: Kinesis) -> Group:
        """All shards, as soon as Kinesis tells them.

        Raises:
            KinesisSourceError: it does not for too long.
        """
        began, failures = time.monotonic(), 0
        while True:
            problem: Exception | None = None
            try:
                created_ms = kinesis.created_ms()
                shards = list(kinesis.list_shards().values())
                if shards:
                    return whole_stream(shards, self.start_ms, created_ms)
            except Exception as error:
                if not is_passing(error):
                    raise
                problem = error
            failures += 1
            if time.monotonic() - began > GIVE_UP_SECONDS:
                raise KinesisSourceError(
                    f"{self.config.stream} told no shards for {GIVE_UP_SECONDS:.0f} s "
                    f"({problem or 'the list is empty'}); nothing was read. Run it again."
                ) from problem
            time.sleep(backoff_seconds(failures))


class _Reading(beam.DoFn):
    """What the unbounded and the bounded read share: a client per worker, and the counting."""

    def __init__(self, source: _Source) -> None:
        self._source = source

    def setup(self) -> None:
        self._counters: dict[str, Any] = {}
        self._kinesis = self._source.kinesis()
        self._reader = self._new_reader()

    def teardown(self) -> None:
        self._kinesis.client.close()

    def _new_reader(self) -> GroupReader:
        source = self._source
        return GroupReader(self._kinesis, source.on_data_loss, source.poll_seconds, self._count)

    def _count(self, name: str, amount: int) -> None:
        if name not in self._counters:
            self._counters[name] = Metrics.counter(NAMESPACE, name)
        self._counters[name].inc(amount)

    def _batch(self, shard: str, records: list[Record]) -> TimestampedValue:
        self._count("kinesis_records", len(records))
        users = sum(1 if record.users is None else len(record.users) for record in records)
        self._count("kinesis_user_records", users)
        self._count("kinesis_bytes", sum(len(record.data) for record in records))
        batch = KinesisBatch(self._source.config.name, shard, records)
        return TimestampedValue(batch, records[0].arrived_ms / 1000)

    def _gauge(self, step: Step, watermark_ms: int) -> None:
        if step.behind_ms is None:
            return
        values = {"kinesis_millis_behind_latest": step.behind_ms}
        if watermark_ms > 0:  # else nothing is settled yet, or the group is done
            values["kinesis_watermark_age_ms"] = max(0, step.asked_ms - watermark_ms)
        for name, value in values.items():
            Metrics.distribution(NAMESPACE, name).update(value)
            Metrics.gauge(NAMESPACE, f"{name}.{step.shard}").set(value)


class _ReadGroups(_Reading, RestrictionProvider):
    """The splittable DoFn; it gives its restrictions itself, one for each group of shards."""

    def __init__(self, source: _Source, lag_ms: int) -> None:
        super().__init__(source)
        self._lag_ms = lag_ms

    def initial_restriction(self, element: str) -> Group:
        kinesis = self._source.kinesis()
        with contextlib.closing(kinesis.client):
            return self._source.whole(kinesis)

    def split(self, element: str, restriction: Group) -> Iterator[Group]:
        yield from cut(restriction, self._source.readers)

    def create_tracker(self, restriction: Group) -> GroupTracker:
        return GroupTracker(restriction)

    def restriction_coder(self) -> GroupCoder:
        return GroupCoder()

    def restriction_size(self, element: str, restriction: Group) -> int:
        return max(1, len(restriction.shards))

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: str,
        tracker: Any = _RESTRICTION,
        watermark: Any = _WATERMARK,
    ) -> Iterator[Any]:
        started = time.monotonic()
        while True:
            wait = self._source.poll_seconds
            for shard in self._reader.due(tracker.current_restriction()):
                if time.monotonic() - started > PROCESS_SECONDS:
                    break
                group = tracker.current_restriction()
                if group.done:  # the runner took a checkpoint after the last batch
                    return
                step = self._reader.step(group, shard)
                wait = min(wait, step.wait_seconds)
                if step.after is None:
                    continue
                if not tracker.try_claim(Claim(group, step.after)):
                    return
                self._reader.done(step)
                if step.records:
                    yield self._batch(shard, step.records)
                self._advance(watermark, step.after)
                self._gauge(step, step.after.settled_ms - self._lag_ms)
            if tracker.current_restriction().done:
                return
            if time.monotonic() - started + wait > PROCESS_SECONDS:
                break
            time.sleep(wait)
        tracker.defer_remainder(Duration(seconds=max(1, wait)))

    def _advance(self, watermark: Any, group: Group) -> None:
        now = Timestamp(micros=max(0, group.settled_ms - self._lag_ms) * 1000)
        held = watermark.current_watermark()
        if held is None or now > held:
            watermark.set_watermark(now)


class _ReadUpTo(_Reading):
    """Reads until nothing that arrived by ``stop_ms`` is left."""

    def __init__(self, source: _Source, stop_ms: int) -> None:
        super().__init__(source)
        self._stop_ms = stop_ms

    def process(self, element: str) -> Iterator[Any]:
        reader = self._new_reader()
        group = self._source.whole(self._kinesis)
        answered = time.monotonic()
        while not group.done:
            wait = self._source.poll_seconds
            for shard in sorted(group.shards):
                step = reader.step(group, shard)
                wait = min(wait, step.wait_seconds)
                if step.after is None:
                    continue
                answered = time.monotonic()
                reader.done(step)
                group = step.after
                wanted = [record for record in step.records if record.arrived_ms <= self._stop_ms]
                if wanted:
                    yield self._batch(shard, wanted)
                if len(wanted) < len(step.records) or self._at_tip(step):
                    group = group.without(shard)
            if time.monotonic() - answered > GIVE_UP_SECONDS:
                raise KinesisSourceError(
                    f"no answer from Kinesis for {GIVE_UP_SECONDS:.0f} s while reading "
                    f"{self._source.config.stream}; what was read is not complete. Run it again."
                )
            if not group.done:
                time.sleep(wait)

    def _at_tip(self, step: Step) -> bool:
        all_shown = step.asked_ms >= self._stop_ms + VISIBLE_MS
        return step.behind_ms == 0 and step.iterator is not None and all_shown
