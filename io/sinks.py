"""Sinks of the graph that write files: event log, tables, dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.metrics import Metrics

from adtally.io.arrow import from_ipc, tag
from adtally.io.dead_letters import (
    DeadLetter,
    LetterBatch,
    decode_lines,
    encode_lines,
    write_dead_letters,
)
from adtally.io.event_log import arrival_notes, reached_by_readers
from adtally.io.files import join
from adtally.io.flush import Collect, Flush, digest, table_pieces
from adtally.io.logs import identity
from adtally.io.objects import Storing
from adtally.io.parquet import (
    LOG_ROW_GROUP_ROWS,
    LogWriter,
    date_partition,
    split_by_hour,
    write_table,
)
from adtally.io.sources import NAMESPACE

LETTER_FILE_BYTES: Final = 32 << 20
"""Of payloads and envelopes in memory before a file of dead letters is written: all of a block may
fail, and a compressed one may hold gigabytes."""

_ENVELOPE_BYTES: Final = 400


@dataclass
class WriteEventLog(beam.PTransform):
    """Append batches of events to ``folder``, in hourly partitions ``date=/hour=``.

    Guarantee: at least once. Files appear whole when the bundle ends. Batches carry the tags
    ``block`` and ``sequence``.

    Bounded, files are named BLOCK-SEQUENCE, and a bundle that is run again writes the same names.
    With ``flush``, batches are collected over blocks, and files named JOB-KEY-PANE-DIGEST: after a
    restore a row may be there twice, and the views count it once.

    Attributes:
        folder: such as ``OUTPUT/events``.
        flush: for streams: when files are written. None for bounded runs.
    """

    folder: str
    flush: Flush | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, events: Any) -> Any:
        if self.flush is not None:
            return (
                events
                | Collect(self.flush, _block, table_pieces)
                | "Write log" >> beam.ParDo(_WriteLogPane(self.folder, self.flush))
            )
        return events | "Write log" >> beam.ParDo(_WriteLog(self.folder))


class _WriteLog(Storing):
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._writer: LogWriter | None = None

    def setup(self) -> None:
        self._rows = Metrics.counter(NAMESPACE, "log_rows")

    def start_bundle(self) -> None:
        if self._writer is not None:  # the bundle before this one failed half-way
            self._writer.abort()
        self._writer = LogWriter(self._folder)

    def process(self, events: pa.Table) -> None:
        if events.num_rows:
            assert self._writer is not None
            self._writer.write(events, tag(events, "block"), tag(events, "sequence"))
            self._rows.inc(events.num_rows)

    def finish_bundle(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def teardown(self) -> None:
        if self._writer is not None:  # another step of the bundle failed
            self._writer.abort()


def _block(events: pa.Table) -> str:
    return tag(events, "block")


class _WriteLogPane(Storing):
    """Writes what was collected for a key: one file for each hour that it has events of."""

    def __init__(self, folder: str, flush: Flush) -> None:
        self._folder = folder
        self._flush = flush

    def setup(self) -> None:
        self._rows = Metrics.counter(NAMESPACE, "log_rows")
        self._written = FilesWritten("log")

    def process(
        self, element: tuple[int, Iterable[bytes]], pane: Any = beam.DoFn.PaneInfoParam
    ) -> None:
        key, collected = element
        pieces = list(collected)
        name = self._flush.name(key, pane.index, digest(pieces))
        tables = [from_ipc(piece) for piece in pieces]
        reached = reached_by_readers(tables)
        events = pa.concat_tables(table.replace_schema_metadata(None) for table in tables)
        for partition, part in split_by_hour(events):
            path = join(self._folder, partition, f"{name}.parquet")
            notes = arrival_notes(part, reached)
            self._written.add(write_table(part, path, notes, LOG_ROW_GROUP_ROWS))
            self._rows.inc(part.num_rows)


class FilesWritten:
    """Counts files and their bytes."""

    def __init__(self, kind: str) -> None:
        self._files = Metrics.counter(NAMESPACE, f"{kind}_files")
        self._bytes = Metrics.counter(NAMESPACE, f"{kind}_bytes")

    def add(self, size: int) -> None:
        self._files.inc()
        self._bytes.inc(size)


@dataclass
class WriteToParquet(beam.PTransform):
    """Write tables below ``folder`` as ``date=/JOB-PART.parquet``, by date of ``window_start``.

    Guarantee: effectively once. Names follow from the job and the tag ``part`` of each table, so
    a retry replaces a file by the same content. With ``flush``, tables are collected first and
    files named JOB-KEY-PANE-DIGEST; after a restore a row may be there twice, or in an older
    version, and the views take the latest.

    Attributes:
        folder: such as ``OUTPUT/summaries/window=60s/generation=0``.
        job: identity of the run's inputs.
        rows_counter: name of the metric that counts rows.
        flush: for streams: when files are written. None for bounded runs.
    """

    folder: str
    job: str
    rows_counter: str
    flush: Flush | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, tables: Any) -> Any:
        if self.flush is not None:
            return (
                tables
                | Collect(self.flush, _nowhere, table_pieces)
                | "Write tables"
                >> beam.ParDo(_WriteTablesPane(self.folder, self.flush, self.rows_counter))
            )
        return tables | "Write tables" >> beam.ParDo(
            _WriteTables(self.folder, self.job, self.rows_counter)
        )


class _WriteTables(Storing):
    def __init__(self, folder: str, job: str, rows_counter: str) -> None:
        self._folder = folder
        self._job = job
        self._rows_counter = rows_counter

    def setup(self) -> None:
        self._rows = Metrics.counter(NAMESPACE, self._rows_counter)

    def process(self, table: pa.Table) -> None:
        for date, part in split_by_date(table):
            name = f"{self._job}-{tag(table, 'part')}.parquet"
            write_table(part, join(self._folder, date, name))
        self._rows.inc(table.num_rows)


def _nowhere(element: Any) -> str:
    return ""


class _WriteTablesPane(Storing):
    def __init__(self, folder: str, flush: Flush, rows_counter: str) -> None:
        self._folder = folder
        self._flush = flush
        self._rows_counter = rows_counter

    def setup(self) -> None:
        self._rows = Metrics.counter(NAMESPACE, self._rows_counter)
        self._written = FilesWritten("table")

    def process(
        self, element: tuple[int, Iterable[bytes]], pane: Any = beam.DoFn.PaneInfoParam
    ) -> None:
        key, collected = element
        pieces = list(collected)
        name = self._flush.name(key, pane.index, digest(pieces))
        tables = pa.concat_tables(from_ipc(piece).replace_schema_metadata(None) for piece in pieces)
        for date, part in split_by_date(tables):
            self._written.add(write_table(part, join(self._folder, date, f"{name}.parquet")))
        self._rows.inc(tables.num_rows)


def split_by_date(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The parts of a table by the date of ``window_start``, with their partition folders."""
    plain = table.replace_schema_metadata(None)
    frame = pl.DataFrame(pl.from_arrow(plain))
    starts = frame["window_start"].dt.truncate("1d").dt.epoch("ms")
    days = starts.unique().sort().to_list()
    for day in days:
        if len(days) == 1:
            yield date_partition(day), plain
            continue
        part = frame.filter(starts == day).to_arrow(compat_level=pl.CompatLevel.newest())
        yield date_partition(day), part.cast(plain.schema)


@dataclass
class WriteDeadLetters(beam.PTransform):
    """Write dead letters below ``folder`` as ``date=/BLOCK-SEQUENCE.jsonl.gz``.

    Guarantee: at least once, as the event log: one file per block of input, or several large ones,
    whole when the bundle ends, under the same names when it is run again. With ``flush``, letters
    of a stream are collected first and files named JOB-KEY-PANE-DIGEST.
    """

    folder: str
    flush: Flush | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, letters: Any) -> Any:
        if self.flush is not None:
            return (
                letters
                | Collect(self.flush, _nowhere, _lines)
                | "Write letters" >> beam.ParDo(_WriteLettersPane(self.folder, self.flush))
            )
        return letters | "Write letters" >> beam.ParDo(_WriteLetters(self.folder))


class _WriteLetters(Storing):
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._name = ""
        self._letters: list[DeadLetter] = []

    def setup(self) -> None:
        self._written = Metrics.counter(NAMESPACE, "dead_letters_written")

    def start_bundle(self) -> None:
        self._block, self._letters, self._bytes = "", [], 0

    def process(self, batch: LetterBatch) -> None:
        if batch.block != self._block or self._bytes >= LETTER_FILE_BYTES:
            self._write()
            self._block, self._name = batch.block, f"{batch.block}-{batch.sequence:05d}"
        self._letters += batch.letters
        self._bytes += sum(_ENVELOPE_BYTES + len(letter.payload) for letter in batch.letters)

    def finish_bundle(self) -> None:
        self._write()

    def _write(self) -> None:
        letters, self._letters, self._bytes = self._letters, [], 0
        if letters:
            write_dead_letters(letters, self._folder, self._name)
            self._written.inc(len(letters))


def _lines(batch: LetterBatch) -> list[bytes]:
    return [encode_lines(batch.letters)]


class _WriteLettersPane(Storing):
    def __init__(self, folder: str, flush: Flush) -> None:
        self._folder = folder
        self._flush = flush

    def setup(self) -> None:
        self._count = Metrics.counter(NAMESPACE, "dead_letters_written")

    def process(
        self, element: tuple[int, Iterable[bytes]], pane: Any = beam.DoFn.PaneInfoParam
    ) -> None:
        key, collected = element
        pieces = list(collected)
        letters = [letter for piece in pieces for letter in decode_lines(piece)]
        name = self._flush.name(key, pane.index, digest(pieces))
        write_dead_letters(letters, self._folder, name)
        self._count.inc(len(letters))


def batch_by_content(letters: list[DeadLetter]) -> LetterBatch:
    """A batch named after what is in it, for letters that come without a block."""
    ordered = sorted(letters, key=lambda letter: (letter.source, letter.position))
    return LetterBatch(identity((x.source, x.position, x.payload) for x in ordered), 0, ordered)
