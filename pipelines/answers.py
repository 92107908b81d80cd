"""Answers of queries, written out: tables to look at, CSV, JSON lines, Parquet."""

from __future__ import annotations

import codecs
import csv
import datetime
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from adtally.io.shown import shown_line

FORMATS: Final = ("table", "csv", "json", "parquet")
ENDINGS: Final = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=str)


def write_csv(rows: pa.RecordBatchReader, file: BinaryIO) -> int:
    """A header and a line a row; times in ISO 8601, lists and structs as JSON, null as nothing."""
    lines = csv.writer(codecs.getwriter("utf-8")(file), lineterminator="\n")
    lines.writerow(rows.schema.names)
    return _each(rows, lambda batch: lines.writerows(zip(*map(_texts, batch.columns), strict=True)))


def write_json(rows: pa.RecordBatchReader, file: BinaryIO) -> int:
    """An object a line; times in ISO 8601, decimals as numbers, bytes as base64."""
    return _each(rows, lambda batch: file.write(_ENCODER.encode_lines(batch.to_pylist())))


def write_parquet(rows: pa.RecordBatchReader, file: BinaryIO) -> int:
    """One file with the types of the answer."""
    with pq.ParquetWriter(file, rows.schema, compression="zstd") as writer:
        return _each(rows, writer.write_batch)


WRITERS: Final[dict[str, Callable[[pa.RecordBatchReader, BinaryIO], int]]] = {
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}
"""Each writes all rows, and returns how many they are."""


def show(rows: pa.RecordBatchReader, console: Console, most: int) -> int:
    """Draw at most so many rows; returns how many there are, of those that had to be fetched."""
    table = Table()
    for field in rows.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(field.name, justify="right" if number else "left", overflow="fold")
    seen = 0
    for batch in rows:
        for row in zip(*map(_texts, batch.slice(0, max(0, most - seen)).columns), strict=True):
            table.add_row(*map(shown_line, row))
        seen += batch.num_rows
        if seen > most:
            break
    console.print(table, markup=False, highlight=False)
    return seen


def _each(rows: Iterable[pa.RecordBatch], write: Callable[[pa.RecordBatch], Any]) -> int:
    total = 0
    for batch in rows:
        write(batch)
        total += batch.num_rows
    return total


def _texts(column: pa.Array) -> list[str]:
    return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | bytes | list | dict | datetime.datetime):
        text = _ENCODER.encode(value).decode()
        return text[1:-1] if text.startswith('"') else text
    return str(value)
