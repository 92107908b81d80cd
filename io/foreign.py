"""Logs of other systems: what a file is, a sample of its records, and the file as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from adtally.io.limits import Limits
from adtally.io.logs import Block, LogFile, NoInput, Span, describe, list_files
from adtally.io.read_logs import LogChunk, Segment, read_chunks
from adtally.io.views import quoted

SAMPLE_BYTES: Final = 1 << 20
"""Of each file that is looked into."""

SAMPLE_ROWS: Final = 5_000
"""Of each file whose rows have to be converted."""

REJECTED_PREFIX: Final = "_rejected-"
"""Of files of lines that could not be converted: a listing of logs passes over it."""

_PARQUET_MAGIC: Final = b"PAR1"
_ENDINGS: Final = (".csv", ".tsv", ".txt", ".psv", ".log", ".json", ".parquet")
_REASONS: Final = 5
"""Reasons of rejected lines that are told."""


class NotAdLogs(NoInput):
    """A file that is no log of records; the message says what was found, and what to do."""


@dataclass(frozen=True)
class Sample:
    """Records from the begin of some files.

    Attributes:
        format: ``json lines``, or what has to be converted: ``csv``, ``json array``, ``parquet``.
        chunk: the records as lines of JSON.
        detail: what was found of the format, such as the delimiter.
        rejected: lines of the sample that have not the shape of the others.
    """

    format: str
    chunk: LogChunk
    detail: str = ""
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """A file that was made: its rows, and the lines that could not be read, which lie beside."""

    path: Path
    rows: int
    rejected: int = 0
    reasons: tuple[str, ...] = ()


def files_of(inputs: Sequence[str]) -> list[LogFile]:
    """The files behind paths, folders and patterns, also those that only look like tables.

    Raises:
        NoInput: there are none.
    """
    try:
        files, passed_over = list_files(inputs)
    except NoInput:
        files, passed_over = [], [str(one) for name in inputs for one in _inside(name)]
        if not passed_over:
            raise
    for path in passed_over:
        name = posixpath.basename(path)
        wanted = Path(path).is_file() and not name.startswith((".", "_"))
        if wanted and any(ending in name.lower() for ending in _ENDINGS):
            found = describe(path, Path(path).stat().st_size, named=True)
            files += [found] if found else []
    if not files:
        raise NoInput(f"nothing to look into at {', '.join(inputs)}; name files of records.")
    return sorted(set(files))


def _inside(name: str) -> list[Path]:
    path = Path(name)
    return sorted(path.rglob("*")) if "://" not in name and path.is_dir() else []


def spread(files: Sequence[LogFile], most: int) -> list[LogFile]:
    """At most so many of the files, from the first to the last: an old one may look otherwise."""
    if len(files) <= most:
        return list(files)
    return [files[round(at * (len(files) - 1) / (most - 1))] for at in range(most)]


def sample(files: Sequence[LogFile], limits: Limits | None = None) -> Sample:
    """Records from the begin of each file, which all have to be of one format.

    Raises:
        NotAdLogs: a file is empty, binary, or something that no record can be read from.
    """
    parts = [_sample(file, limits or Limits()) for file in files]
    parts = [part for part in parts if part.chunk.data] or parts[:1]
    if not parts[0].chunk.data:
        raise NotAdLogs(f"{files[0].path} is empty; name a log that has records.")
    formats = {part.format for part in parts}
    if len(formats) > 1:
        raise NotAdLogs(
            f"the files are of several formats ({', '.join(sorted(formats))}); look into those of "
            f"one at a time."
        )
    data, segments = b"", []
    for part in parts:
        segments += [
            Segment(one.chunk_offset + len(data), one.source, one.source_offset)
            for one in part.chunk.segments
        ]
        data += part.chunk.data
    rejected = tuple(line for part in parts for line in part.rejected)
    return Sample(parts[0].format, LogChunk("sample", 0, data, segments), parts[0].detail, rejected)


def _sample(file: LogFile, limits: Limits) -> Sample:
    if file.format == "parquet":
        return _rows(file, "parquet")
    chunks = read_chunks(Block("sample", (Span(file),)), SAMPLE_BYTES, limits)
    chunk = next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    if chunk.unreadable and not chunk.data:
        raise NotAdLogs(f"{file.path}: {chunk.unreadable[0].message}")
    head = chunk.data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head or head.startswith(b"{"):
        return Sample("json lines", chunk)
    if head.startswith(_PARQUET_MAGIC):
        return _rows(file, "parquet")
    if head.startswith(b"["):
        return _rows(file, "json array")
    if b"\x00" in head or head.startswith((b"\x1f\x8b", b"BZh", b"(\xb5/\xfd", b"PK\x03\x04")):
        raise NotAdLogs(
            f"{file.path} holds binary data that is no log; a compressed file needs its ending "
            f"(.gz, .zst, .bz2), and archives have to be unpacked."
        )
    return _rows(file, "csv")


def relation(path: str, format: str, detail: dict[str, Any] | None = None) -> str:
    """SQL for the records of a file, text as it came."""
    if format == "parquet":
        return f"read_parquet({quoted(path)})"
    if format == "json array":
        return f"read_json({quoted(path)}, format = 'array', maximum_object_size = 1073741824)"
    found = detail or {}
    given = "".join(
        f", {key} = {quoted(found[column])}"
        for key, column in (("delim", "Delimiter"), ("quote", "Quote"), ("escape", "Escape"))
        if found.get(column) not in (None, "", "\x00", "(empty)")
    )
    header = "true" if found.get("HasHeader", True) else "false"
    return (
        f"read_csv({quoted(path)}, all_varchar = true, header = {header}, store_rejects = true, "
        f"null_padding = false{given})"
    )


@contextlib.contextmanager
def _reading(path: str) -> Iterator[duckdb.DuckDBPyConnection]:
    if "://" in path:
        raise NotAdLogs(f"{path}: only files of this machine can be converted; copy it here.")
    connection = duckdb.connect()
    try:
        connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = true")
        yield connection
    except duckdb.Error as error:
        text = str(error).splitlines()[0]
        raise NotAdLogs(f"{path} cannot be read as records: {text}") from error
    finally:
        connection.close()


def _sniffed(connection: duckdb.DuckDBPyConnection, path: str) -> dict[str, Any]:
    found = connection.execute(
        f"SELECT Delimiter, Quote, Escape, HasHeader, len(Columns) AS columns "
        f"FROM sniff_csv({quoted(path)}, sample_size = 20480, ignore_errors = true)"
    )
    row = found.fetchone()
    assert row is not None and found.description is not None
    told = dict(zip([one[0] for one in found.description], row, strict=True))
    if told["columns"] < 2:
        raise NotAdLogs(
            f"{path} is neither JSON nor a table with a delimiter; adtally reads JSON lines, and "
            f"'adtally convert' makes them from CSV, JSON arrays and Parquet. Have the lines of a "
            f"web server's access log written as JSON, or convert them first."
        )
    return told


def _selected(
    connection: duckdb.DuckDBPyConnection, source: str, decimal_comma: Sequence[str] = ()
) -> str:
    """Records with times as ISO 8601: JSON has no type for them."""
    columns = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    absent = set(decimal_comma) - {name for name, *_ in columns}
    if absent:
        raise NotAdLogs(
            f"there is no column {', '.join(sorted(absent))}; columns are "
            f"{', '.join(name for name, *_ in columns)}."
        )
    shown = []
    for name, type_, *_ in columns:
        safe = '"' + name.replace('"', '""') + '"'
        if type_.startswith("TIMESTAMP"):
            shown.append(f"strftime({safe}, '%Y-%m-%dT%H:%M:%S.%fZ') AS {safe}")
        elif name in decimal_comma:
            shown.append(f"replace(replace({safe}, '.', ''), ',', '.') AS {safe}")
        else:
            shown.append(safe)
    return f"SELECT {', '.join(shown)} FROM {source}"


def _rows(file: LogFile, format: str) -> Sample:
    with _reading(file.path) as connection:
        found = _sniffed(connection, file.path) if format == "csv" else {}
        query = _selected(connection, relation(file.path, format, found))
        columns = connection.execute(f"SELECT to_json(r) FROM ({query} LIMIT {SAMPLE_ROWS}) r")
        data = b"".join(text.encode() + b"\n" for (text,) in columns.fetchall())
        rejected = _rejects(connection) if format == "csv" else []
    chunk = LogChunk("sample", 0, data, [Segment(0, file.path, 0)])
    told = f"{found.get('Delimiter')!r} between fields" if found else ""
    told += ", names in the first line" if found.get("HasHeader") else ""
    told += ", without a line of names" if found and not found["HasHeader"] else ""
    return Sample(format, chunk, told, tuple(reason for _, _, reason in rejected))


def _rejects(connection: duckdb.DuckDBPyConnection) -> list[tuple[int, str, str]]:
    """Number, text and fault of the lines that were passed over."""
    return connection.execute(
        "SELECT line, csv_line, min(error_message) FROM reject_errors GROUP BY ALL ORDER BY line"
    ).fetchall()


def targets(files: Sequence[LogFile], folder: Path, force: bool) -> list[Path]:
    """Where each file's records go.

    Raises:
        NotAdLogs: two would be one, or (without ``force``) something is there.
    """
    paths = [folder / f"{posixpath.basename(file.path)}.jsonl.gz" for file in files]
    twice = [path.name for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise NotAdLogs(
            f"several files would become {folder / twice[0]}, and one be lost; convert their "
            f"folders one at a time, each to a folder of its own."
        )
    there = [path for path in paths if path.exists()]
    if there and not force:
        raise NotAdLogs(
            f"{there[0]} is there already, and may be of another file of that name; --force "
            f"replaces it, or give another --output."
        )
    return paths


def convert(file: LogFile, target: Path, decimal_comma: Sequence[str] = ()) -> Converted:
    """Write a file's records as JSON lines, gzip, in their order.

    Lines of a table that have not the shape of the others are written beside it. The same input
    gives the same file.

    Args:
        file: CSV, a JSON array, or Parquet, of this machine.
        target: see :func:`targets`; it is replaced.
        decimal_comma: columns whose numbers are written as ``1.234,56``.

    Raises:
        NotAdLogs: it cannot be read, or is JSON lines already.
        OSError: the folder cannot be written.
    """
    format = _sample(file, Limits()).format
    if format == "json lines":
        raise NotAdLogs(f"{file.path} is JSON lines already; adtally reads it as it is.")
    folder, name = target.parent, target.name.removesuffix(".jsonl.gz")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{uuid.uuid4().hex}.tmp"
    try:
        with _reading(file.path) as connection:
            found = _sniffed(connection, file.path) if format == "csv" else {}
            query = _selected(connection, relation(file.path, format, found), decimal_comma)
            done = connection.execute(
                f"COPY ({query}) TO {quoted(str(temporary))} (FORMAT json, COMPRESSION gzip)"
            ).fetchone()
            rejected = _rejects(connection) if format == "csv" else []
        _keep(rejected, folder / f"{REJECTED_PREFIX}{name}.jsonl")
        os.replace(temporary, target)  # noqa: PTH105
    finally:
        temporary.unlink(missing_ok=True)
    reasons = tuple(f"line {line}: {reason}" for line, _, reason in rejected[:_REASONS])
    return Converted(target, int(done[0]) if done else 0, len(rejected), reasons)


def _keep(rejected: list[tuple[int, str, str]], path: Path) -> None:
    if not rejected:
        path.unlink(missing_ok=True)
        return
    with path.open("w", encoding="utf-8") as file:
        for line, text, reason in rejected:
            file.write(json.dumps({"line": line, "text": text, "reason": reason}) + "\n")
