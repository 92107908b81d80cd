"""``ReadFromPubSub``: an unbounded source for Google Cloud Pub/Sub on every runner.

Beam's own ``ReadFromPubSub`` runs on Dataflow, where the service reads, and on no other runner
that streams: Prism rejects it, and portable Flink cannot translate it. Elsewhere a splittable DoFn
pulls; how it acknowledges is in :mod:`adtally.io.pubsub_leases`.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import apache_beam as beam
import xxhash
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from adtally.io.kinesis_shards import TRIM_HORIZON
from adtally.io.pubsub_client import MESSAGES_A_PULL, Message, PubSubConfig, connect
from adtally.io.pubsub_desk import desk_of
from adtally.io.pubsub_leases import Bundle
from adtally.io.pubsub_readers import Reader, ReaderCoder, ReaderTracker
from adtally.io.sources import NAMESPACE

READERS: Final = 4
"""Readers that pull side by side. Each gives some 1,000 messages a pull."""

PROCESS_SECONDS: Final = 1.0
"""A call of ``process`` hands back after this: Flink takes a checkpoint only between calls."""

POLL_SECONDS: Final = 0.2
WATERMARK_LAG_SECONDS: Final = 30.0

SLACK_MS: Final = 900_000
"""Beam keeps windows this much longer than events of them count, for messages that come again: of a
worker that died after half a minute, of one that hangs after :data:`HOLD_SECONDS`. Events that come
later than that, Beam would drop without a word: they are sorted out before, by the watermark that
their batch carries."""

AFTER_SEEK_SECONDS: Final = 180.0
"""Pulls that give nothing mean nothing for so long after a seek."""

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)
_RESTRICTION: Final = beam.DoFn.RestrictionParam()
_WATERMARK: Final = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())


@dataclass(frozen=True)
class PubSubBatch:
    """Messages of one topic, in no order, as one pull gave them.

    Attributes:
        topic: ``projects/PROJECT/topics/NAME``.
        messages: at least one.
        reader: that pulled them, of one subscription. It gives batches in the order of their
            watermarks.
        watermark_ms: the reader's when they came, in milliseconds; None where it has none.
    """

    topic: str
    messages: list[Message]
    reader: str = "0"
    watermark_ms: int | None = None


@dataclass
class ReadFromPubSub(beam.PTransform):
    """Read a subscription; gives :class:`PubSubBatch` elements.

    Delivery: at least once. A message is acknowledged when the runner has made its bundle durable,
    on Flink in a complete checkpoint; until then its lease is extended. After a kill, or when an
    acknowledgement is lost, it comes again, with the same id: readers know it by that. A runner
    without state (Prism) has what it acknowledged in memory only; a fresh start seeks the
    subscription back (``start_ms``), for which it has to retain acknowledged messages.

    Order: none, so ordering keys gain nothing here; with ordering on, a key's next message waits
    for the acknowledgement of the one before.

    Watermark: the oldest of the messages that came within ten seconds, or the present where pulls
    give nothing, less ``watermark_lag_seconds``. Older messages may still come: the watermark
    cannot know. They count as long as windows are kept (:data:`SLACK_MS`). After a seek, pulls that
    give nothing advance nothing for three minutes.
    The element's timestamp is the time when the oldest of its messages was published.

    On Dataflow (``service``) Beam's own transform reads: the service pulls, acknowledges, and knows
    the oldest message that waits.

    Raises, while reading: :class:`PubSubError` for what time does not mend (no such subscription,
    no permission). Outages and exhausted quotas are waited for.

    Counts (namespace ``adtally``): ``pubsub_messages``, ``pubsub_bytes``, ``pubsub_pulls``,
    ``pubsub_retries``, ``pubsub_acks``, ``pubsub_acks_failed``, ``pubsub_given_back``,
    ``pubsub_held`` (pulls left out because too much was on its way); as distributions
    ``pubsub_watermark_age_ms`` and ``pubsub_outstanding``.

    Attributes:
        config: which subscription; ``topic`` has to be known.
        start_ms: where the launcher seeks to before the job begins (milliseconds since the epoch);
            ``TRIM_HORIZON`` for what waits in the subscription.
        run: identity of the job; another job in the same process shares nothing with it.
        readers: that pull side by side.
        watermark_lag_seconds: how far the watermark stays behind: on-time panes wait for events
            that arrive out of order. At least 1.
        service: Dataflow reads.
        make_client: makes the client on the worker; never called where a job is built.
    """

    config: PubSubConfig
    start_ms: int = TRIM_HORIZON
    run: str = ""
    readers: int = READERS
    watermark_lag_seconds: float = WATERMARK_LAG_SECONDS
    service: bool = False
    make_client: Callable[[PubSubConfig], Any] = field(default=connect)
    stop_ms: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__init__()
        if self.watermark_lag_seconds < 1:
            raise ValueError(
                f"watermark_lag_seconds is {self.watermark_lag_seconds}: messages come in no "
                f"order, so windows would close before them; give 1 or more."
            )

    def expand(self, pbegin: Any) -> Any:
        if self.service:
            from apache_beam.io.gcp.pubsub import ReadFromPubSub as ReadByService

            read = ReadByService(subscription=self.config.subscription, with_attributes=True)
            collect = beam.ParDo(_Collect(self.config.topic))
            return pbegin | "Read" >> read | "Collect" >> collect.with_output_types(PubSubBatch)
        lag_ms = round(self.watermark_lag_seconds * 1000)
        idle_seconds = None if self.start_ms == TRIM_HORIZON else AFTER_SEEK_SECONDS
        source = _Source(
            self.config, self.run, self.readers, lag_ms, self.make_client, idle_seconds
        )
        return (
            pbegin
            | "Subscription" >> beam.Create([self.config.subscription], reshuffle=False)
            | "Pull" >> beam.ParDo(_Pull(source)).with_output_types(PubSubBatch)
        )


@dataclass(frozen=True)
class _Source:
    """What workers need to know."""

    config: PubSubConfig
    run: str
    readers: int
    lag_ms: int
    make_client: Callable[[PubSubConfig], Any]
    first_idle_seconds: float | None = None


class _Pull(beam.DoFn, RestrictionProvider):
    """The splittable DoFn; it gives its restrictions itself, one for each reader."""

    def __init__(self, source: _Source) -> None:
        self._source = source

    def setup(self) -> None:
        source = self._source
        self._desk = desk_of(
            source.config, source.run, source.make_client, source.first_idle_seconds
        )

    def initial_restriction(self, element: str) -> Reader:
        return Reader()

    def split(self, element: str, restriction: Reader) -> Iterator[Reader]:
        if restriction.number >= 0:
            yield restriction
            return
        yield from (Reader(number) for number in range(self._source.readers))

    def create_tracker(self, restriction: Reader) -> ReaderTracker:
        return ReaderTracker(restriction)

    def restriction_coder(self) -> ReaderCoder:
        return ReaderCoder()

    def restriction_size(self, element: str, restriction: Reader) -> int:
        return 1

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: str,
        # As a class, and before the two below, or Beam never calls what is registered.
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = _RESTRICTION,
        watermark: Any = _WATERMARK,
    ) -> Iterator[Any]:
        leases = self._desk.leases
        reader = tracker.current_restriction()
        bundle = leases.begin(reader.number, reader.call)
        finalizer.register(partial(leases.finalized, reader.number, bundle.number))
        try:
            yield from self._turns(bundle, tracker, watermark)
        except BaseException:  # of what follows in the bundle, too
            leases.failed(reader.number, bundle.number)
            raise
        finally:
            leases.ended(reader.number)
        for name, amount in leases.counts().items():
            _count(name, amount)
        Metrics.distribution(NAMESPACE, "pubsub_outstanding").update(leases.outstanding)

    def _turns(self, bundle: Bundle, tracker: Any, watermark: Any) -> Iterator[Any]:
        """Pull for a second, and hand the rest back."""
        started = time.monotonic()
        leases = self._desk.leases
        while time.monotonic() - started < PROCESS_SECONDS:
            messages = self._desk.pulled(_count)
            reader = tracker.current_restriction().next(bundle.call)
            if not tracker.try_claim(reader):
                leases.give_back(messages)  # the runner took a checkpoint meanwhile
                return
            leases.hold(reader.number, bundle, messages)
            if messages:
                yield self._batch(reader.number, messages, watermark.current_watermark())
            self._advance(watermark)
            if not messages:
                time.sleep(POLL_SECONDS)
        tracker.defer_remainder(Duration(seconds=1))  # Flink counts whole seconds

    def _batch(self, reader: int, messages: list[Message], held: Any) -> TimestampedValue:
        watermark_ms = None if held is None else held.micros // 1000
        config = self._source.config
        name = f"{xxhash.xxh3_64_hexdigest(config.subscription.encode())[:8]}-{reader}"
        batch = PubSubBatch(config.topic, messages, name, watermark_ms)
        return TimestampedValue(batch, min(one.published_ms for one in messages) / 1000)

    def _advance(self, watermark: Any) -> None:
        now_ms = round(time.time() * 1000)
        settled_ms = self._desk.leases.recent.settled_ms(now_ms)
        if settled_ms is None:
            settled_ms = 0  # Flink wants a watermark before the first pause
        at = Timestamp(micros=max(0, min(settled_ms, now_ms) - self._source.lag_ms) * 1000)
        held = watermark.current_watermark()
        if held is None or at > held:
            watermark.set_watermark(at)
        if settled_ms:
            age = now_ms - watermark.current_watermark().micros // 1000
            Metrics.distribution(NAMESPACE, "pubsub_watermark_age_ms").update(age)


class _Collect(beam.DoFn):
    """Messages that Dataflow reads, one by one, as batches."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def start_bundle(self) -> None:
        self._messages: list[Message] = []

    def process(self, message: Any) -> Iterator[Any]:
        published_ms = (message.publish_time - _EPOCH) // _MILLISECOND
        self._messages.append(
            Message("", message.message_id, published_ms, message.data, message.attributes or {})
        )
        if len(self._messages) >= MESSAGES_A_PULL:
            yield self._batch()

    def finish_bundle(self) -> Iterator[Any]:
        if self._messages:
            batch = self._batch()
            yield WindowedValue(batch.value, batch.timestamp, (GlobalWindow(),))

    def _batch(self) -> TimestampedValue:
        some, self._messages = self._messages, []
        _count("pubsub_messages", len(some))
        _count("pubsub_bytes", sum(len(one.data) for one in some))
        return TimestampedValue(
            PubSubBatch(self._topic, some), min(one.published_ms for one in some) / 1000
        )


def _count(name: str, amount: int) -> None:
    Metrics.counter(NAMESPACE, name).inc(amount)
