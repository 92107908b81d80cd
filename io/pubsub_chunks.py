"""Pub/Sub messages as chunks of lines, each with its address: what decoding reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import msgspec
import xxhash

from adtally.io.pubsub import PubSubBatch
from adtally.io.pubsub_client import Message, PubSubConfig
from adtally.io.read_logs import LogChunk, Segment


def to_chunk(batch: PubSubBatch, id_attribute: str = "", attributes_field: str = "") -> LogChunk:
    """The messages of a batch as one chunk.

    A message holds one event, or several on lines of their own. Its address is
    ``pubsub://TOPIC/ID``, the same however often it is delivered, and by whichever subscription;
    with an id attribute ``pubsub://TOPIC/ATTRIBUTE=VALUE/HASH``, the same however often it is
    published. ``HASH`` (128 bits of its data) keeps those apart that say other things under one
    value: two records at one address could be taken one for the other.
    Positions are byte offsets in the message as it was published.

    Args:
        batch: of one pull.
        id_attribute: messages that lack it are known by their own id.
        attributes_field: see :class:`PubSubConfig`. A field of that name which a record has itself
            wins.
    """
    pieces: list[bytes] = []
    segments: list[Segment] = []
    size = 0
    for message in batch.messages:
        name = message.id
        if id_attribute and message.attributes.get(id_attribute):
            content = xxhash.xxh3_128_hexdigest(message.data)
            name = f"{id_attribute}={message.attributes[id_attribute]}/{content}"
        source = f"pubsub://{batch.topic}/{name}"
        for offset, line in _lines(message, attributes_field):
            segments.append(Segment(size, source, offset, message.published_ms))
            pieces.append(line)
            size += len(line)
    return LogChunk(
        block=f"{batch.topic.rsplit('/', 1)[-1]}-{batch.reader}",
        sequence=xxhash.xxh3_64_intdigest(batch.messages[0].id.encode()),
        data=b"".join(pieces),
        segments=segments,
        watermark_ms=batch.watermark_ms,
    )


def _lines(message: Message, attributes_field: str) -> Iterator[tuple[int, bytes]]:
    """A message's bytes from an offset on; with attributes put in, each line by itself."""
    data = message.data if message.data.endswith(b"\n") else message.data + b"\n"
    if not attributes_field:
        yield 0, data
        return
    given = msgspec.json.encode({attributes_field: message.attributes}, order="deterministic")[:-1]
    offset = 0
    for line in data.removesuffix(b"\n").split(b"\n"):  # and not at CR, as splitlines does
        line += b"\n"
        start, brace, rest = line.partition(b"{")
        if not brace or start.strip():
            yield offset, line  # no object, so a dead letter as it came
        else:
            yield offset, given + (b"" if rest.lstrip().startswith(b"}") else b",") + rest
        offset += len(line)


class ToChunks(beam.PTransform):
    """:class:`PubSubBatch` elements to :class:`LogChunk` elements.

    Args:
        config: says what of a message's attributes is used.
    """

    def __init__(self, config: PubSubConfig) -> None:
        super().__init__()
        self._config = config

    def expand(self, batches: Any) -> Any:
        return batches | "To chunk" >> beam.ParDo(_ToChunk(self._config)).with_output_types(
            LogChunk
        )


class _ToChunk(beam.DoFn):
    def __init__(self, config: PubSubConfig) -> None:
        self._config = config

    def process(self, batch: PubSubBatch) -> Iterator[LogChunk]:
        yield to_chunk(batch, self._config.id_attribute, self._config.attributes_field)
