"""Kinesis records as chunks of lines, each with its address: what decoding reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from adtally.io.kinesis import KinesisBatch
from adtally.io.read_logs import LogChunk, Segment


def to_chunk(batch: KinesisBatch) -> LogChunk:
    """The records of a batch as one chunk.

    A record holds one event, or several on lines of their own. Its address is
    ``kinesis://STREAM/SHARD/SEQUENCE``, inside of a KPL aggregate with ``/SUBSEQUENCE``; positions
    are byte offsets in the record. An address is the same however records are batched.
    """
    pieces: list[bytes] = []
    segments: list[Segment] = []
    size = 0
    shard = f"kinesis://{batch.stream}/{batch.shard}"
    for record in batch.records:
        address = f"{shard}/{record.sequence}"
        if record.users is None:
            parts = [(address, record.data)]
        else:
            parts = [(f"{address}/{user.subsequence}", user.data) for user in record.users]
        for source, data in parts:
            segments.append(Segment(size, source, 0, record.arrived_ms))
            line = data if data.endswith(b"\n") else data + b"\n"
            pieces.append(line)
            size += len(line)
    return LogChunk(
        block=f"{batch.stream}-{batch.shard}",
        sequence=int(batch.records[0].sequence),
        data=b"".join(pieces),
        segments=segments,
    )


class ToChunks(beam.PTransform):
    """:class:`KinesisBatch` elements to :class:`LogChunk` elements."""

    def expand(self, batches: Any) -> Any:
        return batches | "To chunk" >> beam.ParDo(_ToChunk()).with_output_types(LogChunk)


class _ToChunk(beam.DoFn):
    def process(self, batch: KinesisBatch) -> Iterator[LogChunk]:
        yield to_chunk(batch)
