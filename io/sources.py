"""Sources of the graph: historical logs, and our own event log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics

from adtally.io import schema
from adtally.io.arrow import with_tag
from adtally.io.files import open_file
from adtally.io.limits import Limits
from adtally.io.logs import Block
from adtally.io.objects import Storing
from adtally.io.progress import Progress, ProgressWriter
from adtally.io.read_logs import LogChunk, prefetched, read_chunks

NAMESPACE = "adtally"
"""Of all Beam metrics of this project."""


@dataclass
class ReadLogs(beam.PTransform):
    """Read blocks of JSON logs as chunks of whole lines with their addresses.

    Attributes:
        blocks: what to read, see :func:`adtally.io.logs.pack`.
        progress_folder: where workers on this machine leave their progress; empty for none.
        limits: of what is read.
    """

    blocks: tuple[Block, ...]
    progress_folder: str = ""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pbegin: Any) -> Any:
        return (
            pbegin
            | "List blocks" >> beam.Create(self.blocks, reshuffle=len(self.blocks) > 1)
            | "Read chunks"
            >> beam.ParDo(_ReadChunks(self.progress_folder, self.limits)).with_output_types(
                LogChunk
            )
        )


class _ReadChunks(Storing):
    def __init__(self, progress_folder: str, limits: Limits) -> None:
        self._progress_folder = progress_folder
        self._limits = limits

    def setup(self) -> None:
        self._progress = ProgressWriter(self._progress_folder)
        self._files = Metrics.counter(NAMESPACE, "files_read")
        self._bytes = Metrics.counter(NAMESPACE, "bytes_read")

    def process(self, block: Block) -> Iterator[LogChunk]:
        for chunk in prefetched(read_chunks(block, limits=self._limits)):
            self._files.inc(chunk.files)
            self._bytes.inc(len(chunk.data))
            yield chunk
            self._progress.add(Progress(files=chunk.files, stored_bytes=chunk.stored_bytes))


@dataclass
class ReadEventLog(beam.PTransform):
    """Read blocks of our own Parquet event log as batches of events (``EVENT_SCHEMA``).

    Old files lack fields that were added since: they are null. The log is ours, so a file that
    cannot be read fails the run: a tally of an incomplete log must not replace a complete one.
    """

    blocks: tuple[Block, ...]
    progress_folder: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pbegin: Any) -> Any:
        return (
            pbegin
            | "List log files" >> beam.Create(self.blocks, reshuffle=len(self.blocks) > 1)
            | "Read batches"
            >> beam.ParDo(_ReadBatches(self.progress_folder)).with_output_types(pa.Table)
        )


class _ReadBatches(Storing):
    def __init__(self, progress_folder: str) -> None:
        self._progress_folder = progress_folder

    def setup(self) -> None:
        self._progress = ProgressWriter(self._progress_folder)
        self._files = Metrics.counter(NAMESPACE, "files_read")
        self._records = Metrics.counter(NAMESPACE, "records_read")
        self._events = Metrics.counter(NAMESPACE, "events")

    def process(self, block: Block) -> Iterator[pa.Table]:
        sequence = 0
        for span in block.spans:
            for table in read_event_file(span.file.path):
                yield with_tag(table, block=block.name, sequence=str(sequence))
                sequence += 1
                self._records.inc(table.num_rows)
                self._events.inc(table.num_rows)
                self._progress.add(Progress(records=table.num_rows, events=table.num_rows))
            self._files.inc()
            self._progress.add(Progress(files=1, stored_bytes=span.stored_bytes))


def read_event_file(path: str) -> Iterator[pa.Table]:
    """Row groups of one file of the event log, in the present ``EVENT_SCHEMA``.

    Raises:
        ValueError: the file is not of our event log.
    """
    with open_file(path) as file:
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not a whole Parquet file: {error}") from error
        names = set(parquet.schema_arrow.names)
        required = {field.name for field in schema.EVENT_SCHEMA if not field.nullable}
        if not required <= names:
            raise ValueError(
                f"{path} is not a file of an adtally event log: it lacks "
                f"{', '.join(sorted(required - names))}. Foreign Parquet has to be exported as "
                f"JSON lines first."
            )
        for group in range(parquet.num_row_groups):
            yield conform(parquet.read_row_group(group))


def conform(table: pa.Table) -> pa.Table:
    """A table with the fields of ``EVENT_SCHEMA``: unknown ones dropped, missing ones null."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema.EVENT_SCHEMA
    ]
    return pa.table(columns, schema=schema.EVENT_SCHEMA)
