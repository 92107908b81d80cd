"""The streams that can be read, as the graph sees them: all alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adtally.io import kinesis_chunks, pubsub_chunks
from adtally.io.kinesis import ReadFromKinesis
from adtally.io.pubsub import SLACK_MS, ReadFromPubSub

Read = ReadFromKinesis | ReadFromPubSub
"""A source of a stream. ``start_ms`` says where reading begins, ``stop_ms`` where it ends."""


def kind(read: Read) -> str:
    """For labels of steps, which have to stay as they are: a running job is updated by them."""
    return "Kinesis" if isinstance(read, ReadFromKinesis) else "PubSub"


def address(read: Read) -> str:
    """The stream, for people and for the identity of a run."""
    if isinstance(read, ReadFromKinesis):
        return read.config.stream
    return read.config.subscription


def to_chunks(read: Read) -> Any:
    """What turns batches of a source into chunks of lines."""
    if isinstance(read, ReadFromKinesis):
        return kinesis_chunks.ToChunks()
    return pubsub_chunks.ToChunks(read.config)


def of_run(read: Read, run: str) -> Read:
    """A read for one start of a stream."""
    return replace(read, run=run) if isinstance(read, ReadFromPubSub) else read


def disorder_ms(read: Read) -> int:
    """How much later than the watermark says a record may come and still count."""
    return SLACK_MS if isinstance(read, ReadFromPubSub) else 0
