"""Parquet files: the event log, the late events, summaries and flags.

Files have deterministic names, made of the identity of the inputs, and appear whole by rename:
the same backfill run twice leaves the same files, and a killed one leaves no half file visible.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from adtally.io.files import AtomicFile, atomic_write, join

ROW_GROUP_ROWS: Final = 128 * 1024
"""Rows of a row group of anything but the event log."""

LOG_ROW_GROUP_ROWS: Final = 4 * 1024
"""Rows of a row group of the event log, whose rows are sorted by advertiser within each piece that
was written at once (some 15,000 of a backfill): a query for one advertiser and hour reads a third
of what it reads of pieces in one, for files that are 3% larger (docs/decisions/0025)."""

COMPRESSION_LEVEL: Final = 1
"""Of zstd. Level 3 gave files 4% larger on click logs, and took a quarter longer."""

MAX_OPEN_FILES: Final = 32
"""Partitions that one writer holds open; past this the oldest is finished. Bounds memory."""

# Ids are different in every row: a dictionary of them costs time and space.
_PLAIN = {"event_id", "impression_id", "click_id", "occurred_at", "received_at"}
_PLAIN |= {"position", "content_hash", "user_id", "extra", "record_index"}


def log_partition(occurred_at_ms: int) -> str:
    """Folder of an event in the log: ``date=YYYY-MM-DD/hour=HH``, in UTC."""
    at = datetime.datetime.fromtimestamp(occurred_at_ms / 1000, datetime.UTC)
    return f"date={at:%Y-%m-%d}/hour={at:%H}"


def split_by_hour(events: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The events of each hour with their partition folder, sorted by advertiser."""
    frame = pl.DataFrame(pl.from_arrow(events))
    hour = pl.col("occurred_at").dt.truncate("1h")
    ordered = frame.sort(hour, "advertiser_id", maintain_order=True)
    hours = ordered.select(hour.dt.epoch("ms")).to_series().rle().struct.unnest()
    start = 0
    for length, hour_ms in hours.iter_rows():
        part = ordered.slice(start, length).to_arrow(compat_level=pl.CompatLevel.newest())
        start += length
        yield log_partition(hour_ms), part.cast(events.schema.remove_metadata())


def date_partition(at_ms: int) -> str:
    """Folder of a window: ``date=YYYY-MM-DD``, in UTC."""
    return f"date={datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC):%Y-%m-%d}"


class LogWriter:
    """Writes batches of events into hourly partitions, one file per block of input and hour.

    Chunks of a block come one after another; their rows are sorted by hour and advertiser, so
    every row group is sorted by advertiser and a query for one skips most of the file. Encoding
    and writing run in one thread beside the caller; :meth:`close` waits for all of it and raises
    what went wrong.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._open: dict[tuple[str, str], _OpenFile] = {}
        self._thread = ThreadPoolExecutor(1, "adtally-event-log")
        self._pending: Future[None] | None = None
        self._block = ""

    def write(self, events: pa.Table, block: str, sequence: str) -> None:
        """Add a chunk of ``block``; a new block finishes the files of the one before."""
        try:
            self._wait()
            if block != self._block:
                self._finish()
                self._block = block
        except BaseException:
            self.abort()
            raise
        self._pending = self._thread.submit(self._write, events, block, sequence)

    def close(self) -> None:
        """Finish every file; nothing is durable before this returns."""
        try:
            self._wait()
            self._finish()
        except BaseException:
            self.abort()
            raise
        finally:
            self._thread.shutdown()

    def abort(self) -> None:
        """Remove unfinished files; the writer can not be used any more."""
        self._thread.shutdown(cancel_futures=True)  # waits for a chunk being written
        self._pending = None
        for file in self._open.values():
            file.abort()
        self._open.clear()

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, events: pa.Table, block: str, sequence: str) -> None:
        for partition, part in split_by_hour(events):
            self._file(partition, block, sequence, part.schema).write(part)

    def _file(self, partition: str, block: str, sequence: str, schema: pa.Schema) -> _OpenFile:
        key = (block, partition)
        if key not in self._open:
            if len(self._open) >= MAX_OPEN_FILES:
                self._open.pop(next(iter(self._open))).finish()
            path = join(self._folder, partition, f"{block}-{int(sequence):05d}.parquet")
            self._open[key] = _OpenFile(path, schema)
        return self._open[key]

    def _finish(self) -> None:
        while self._open:
            self._open.pop(next(iter(self._open))).finish()


class _OpenFile:
    """A Parquet file being written."""

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._target = AtomicFile(path)
        self._writer = parquet_writer(self._target.file, schema)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=LOG_ROW_GROUP_ROWS)

    def finish(self) -> None:
        try:
            self._writer.close()
            self._target.commit()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._writer.is_open = False  # or it would close itself again when it is collected
        self._target.abort()


def parquet_writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with the options that all our files share."""
    dictionary = [name for name in schema.names if name not in _PLAIN]
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=dictionary,
        # Views of text are how we hold it in memory; files say plain strings to every reader.
        store_schema=False,
    )


def write_table(
    table: pa.Table,
    path: str,
    notes: dict[str, str] | None = None,
    row_group_rows: int = ROW_GROUP_ROWS,
) -> int:
    """Write a whole table as one file, atomically, with notes in its footer; returns its bytes."""
    with atomic_write(path) as file:
        with parquet_writer(file, table.schema) as writer:
            writer.write_table(table, row_group_size=row_group_rows)
            if notes:
                writer.add_key_value_metadata(notes)
        return file.tell()
