"""Alerts and dead letters to topics of Pub/Sub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from adtally.io.alerts import AlertSinkError, AlertWriter, Line
from adtally.io.dead_letters import LetterBatch, encode_line
from adtally.io.pubsub_client import PubSubError, connect_publisher
from adtally.io.pubsub_publisher import LONGEST_MESSAGE, Topic, publish
from adtally.io.sources import NAMESPACE

ADVERTISER: str = "advertiser_id"
"""Attribute of alerts, for filters of subscriptions."""


@dataclass(frozen=True)
class PubSubAlerts:
    """A topic; each record is a message, with its advertiser as an attribute.

    Messages come in no order, and versions tell which is newer. An absence of up to 300 s is waited
    for; after that the bundle fails, and is run again by runners that do so.
    """

    topic: Topic

    def check(self) -> None:
        """See :class:`adtally.io.alerts.AlertSink`; needs pubsub.topics.get."""
        try:
            self.topic.check()
        except PubSubError as error:
            raise AlertSinkError(f"--alerts: {error}") from error

    def open(self) -> AlertWriter:
        return _AlertWriter(self.topic)


class _AlertWriter:
    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._client = connect_publisher(topic.endpoint)

    def write(self, lines: Sequence[Line]) -> None:
        publish(self._client, self._topic, ((data, {ADVERTISER: who}) for who, data in lines))

    def close(self) -> None:
        self._client.transport.close()


@dataclass
class PublishDeadLetters(beam.PTransform):
    """Send dead letters to a topic, each as a message: what its line in a file is.

    Guarantee: at least once; (``source``, ``position``) tells them apart. ``stage`` and
    ``error_type`` are attributes, for filters of subscriptions. A letter that is too long for a
    message is in the files alone, and counted as ``dead_letters_too_long``.
    """

    topic: Topic

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, batches: Any) -> Any:
        return batches | "Publish" >> beam.ParDo(_Publish(self.topic)).with_output_types(int)


class _Publish(beam.DoFn):
    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._client: Any = None

    def setup(self) -> None:
        self._client = connect_publisher(self._topic.endpoint)
        self._count = Metrics.counter(NAMESPACE, "dead_letters_published")
        self._unsent = Metrics.counter(NAMESPACE, "dead_letters_too_long")

    def process(self, batch: LetterBatch) -> None:
        messages = [
            (encode_line(one), {"stage": one.stage, "error_type": one.error_type})
            for one in batch.letters
        ]
        sent = [one for one in messages if len(one[0]) <= LONGEST_MESSAGE]
        publish(self._client, self._topic, sent)
        self._count.inc(len(sent))
        self._unsent.inc(len(messages) - len(sent))

    def teardown(self) -> None:
        if self._client is not None:
            self._client.transport.close()
