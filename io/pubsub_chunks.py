"""Pub/Sub messages as chunks of lines, each with its address: what decoding reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import xxhash

from adtally.io.pubsub import PubSubBatch
from adtally.io.read_logs import LogChunk, Segment


def to_chunk(batch: PubSubBatch, id_attribute: str = "") -> LogChunk:
    """The messages of a batch as one chunk.

    A message holds one event, or several on lines of their own. Its address is
    ``pubsub://TOPIC/ID``, the same however often it is delivered, and by whichever subscription;
    with an id attribute ``pubsub://TOPIC/ATTRIBUTE=VALUE``, the same however often it is published.
    Positions are byte offsets in the message.

    Args:
        batch: of one pull.
        id_attribute: messages that lack it are known by their own id.
    """
    pieces: list[bytes] = []
    segments: list[Segment] = []
    size = 0
    for message in batch.messages:
        name = message.id
        if id_attribute and message.attributes.get(id_attribute):
            name = f"{id_attribute}={message.attributes[id_attribute]}"
        source = f"pubsub://{batch.topic}/{name}"
        segments.append(Segment(size, source, 0, message.published_ms))
        line = message.data if message.data.endswith(b"\n") else message.data + b"\n"
        pieces.append(line)
        size += len(line)
    return LogChunk(
        block=batch.topic.rsplit("/", 1)[-1],
        sequence=xxhash.xxh3_64_intdigest(batch.messages[0].id.encode()),
        data=b"".join(pieces),
        segments=segments,
        overdue=batch.overdue,
    )


class ToChunks(beam.PTransform):
    """:class:`PubSubBatch` elements to :class:`LogChunk` elements.

    Args:
        id_attribute: see :func:`to_chunk`.
    """

    def __init__(self, id_attribute: str = "") -> None:
        super().__init__()
        self._id_attribute = id_attribute

    def expand(self, batches: Any) -> Any:
        return batches | "To chunk" >> beam.ParDo(_ToChunk(self._id_attribute)).with_output_types(
            LogChunk
        )


class _ToChunk(beam.DoFn):
    def __init__(self, id_attribute: str) -> None:
        self._id_attribute = id_attribute

    def process(self, batch: PubSubBatch) -> Iterator[LogChunk]:
        yield to_chunk(batch, self._id_attribute)
