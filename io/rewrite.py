"""Files written again without some of what they hold: each is the old one or the new one, whole.

Names, schemas, row groups and notes in footers stay; what does not change is not written.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adtally.io.files import atomic_write, delete, find, open_file, read_bytes
from adtally.io.objects import Entry
from adtally.io.parquet import parquet_writer

Change = Callable[[pa.Table], tuple[pa.Table, Counter[str]]]
"""Gives a row group as it is to be, and what was changed in it, by name; nothing for none."""

Keep = Callable[[bytes], bool]
"""Whether a line stays."""

_SPOOLED_BYTES: Final = 8 << 20
_PARQUET_OWN: Final = b"ARROW:schema"


class ChangedMeanwhile(RuntimeError):
    """Somebody else wrote a file while it was written again; theirs stays."""


class UnreadableFile(RuntimeError):
    """A file cannot be searched, so nobody can say that it does not hold what is looked for."""


def rewrite_parquet(
    path: str, change: Change, write: bool = True, only: tuple[str, str] | None = None
) -> Counter[str]:
    """Change a file row group by row group; says what was changed.

    A file that has no rows left is removed, unless its footer has notes: those of the log say how
    far a stream was read, and a restart goes by them.

    Args:
        path: address of the file.
        change: see :data:`Change`.
        write: False only looks.
        only: a column and a value: row groups that cannot have it are not asked.

    Raises:
        UnreadableFile: it is no whole Parquet file.
        ChangedMeanwhile: another run wrote it.
    """
    before = find(path)
    with open_file(path) as file:
        parquet = _opened(file, path)
        groups = range(parquet.num_row_groups)
        asked = [at for at in groups if only is None or may_hold(parquet, at, *only)]
        counts: Counter[str] = Counter()
        for at in asked:
            counts += change(parquet.read_row_group(at, use_threads=False))[1]
        if not counts or not write:
            return counts
        notes = _notes(parquet)
        left = 0
        with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as spool:
            with parquet_writer(spool, parquet.schema_arrow) as writer:
                for at in groups:
                    table = parquet.read_row_group(at, use_threads=False)
                    table = change(table)[0] if at in asked else table
                    left += table.num_rows
                    if table.num_rows:
                        writer.write_table(table, row_group_size=table.num_rows)
                if notes:
                    writer.add_key_value_metadata(notes)
            _check_same(path, before)
            if left or notes:
                spool.seek(0)
                with atomic_write(path) as target:
                    while piece := spool.read(1 << 20):
                        target.write(piece)
                return counts
    delete([path])
    return counts


def rows_where(path: str, column: str, value: str, columns: Sequence[str]) -> pl.DataFrame | None:
    """Rows of a file in which a text column has a value; None where it has none.

    Other columns are read of row groups that have one only, and nothing of those whose statistics
    rule it out. Columns that an older file lacks are left out.
    """
    found = []
    with open_file(path) as file:
        parquet = _opened(file, path)
        names = [name for name in columns if name in parquet.schema_arrow.names]
        for at in range(parquet.num_row_groups):
            if not may_hold(parquet, at, column, value):
                continue
            asked = parquet.read_row_group(at, columns=[column], use_threads=False)
            where = pc.equal(asked[column], value)
            if pc.any(where).as_py():
                rows = parquet.read_row_group(at, columns=names, use_threads=False)
                found.append(rows.filter(where))
    return pl.DataFrame(pl.from_arrow(pa.concat_tables(found))) if found else None


def read_columns(path: str, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of a file."""
    with open_file(path) as file:
        table = _opened(file, path).read(columns=list(columns), use_threads=False)
    return pl.DataFrame(pl.from_arrow(table))


def without_value(column: str, value: str) -> Change:
    """A change that takes the rows away in which a text column has a value."""

    def change(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
        where = pc.fill_null(pc.equal(table[column], value), False)
        count = pc.sum(where).as_py() or 0
        if not count:
            return table, Counter()
        return table.filter(pc.invert(where)), Counter(rows=count)

    return change


def may_hold(parquet: pq.ParquetFile, group: int, column: str, value: str) -> bool:
    """Whether a row group's statistics allow a column to have a value."""
    index = parquet.schema_arrow.get_field_index(column)
    if index < 0:
        return False
    names = [parquet.schema.column(at).path for at in range(len(parquet.schema))]
    statistics = parquet.metadata.row_group(group).column(names.index(column)).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    least, most = (str(bound).encode() for bound in (statistics.min, statistics.max))
    return least <= value.encode() <= most


def rewrite_lines(path: str, keep: Keep, write: bool = True) -> int:
    """Take lines out of a file of JSON lines, gzip by its name or plain; says how many.

    Those that stay are the same bytes. A file without any left is removed.

    Raises:
        UnreadableFile: it is not whole.
    """
    packed = path.endswith(".gz")
    before = find(path)
    data = read_bytes(path)
    try:
        lines = (gzip.decompress(data) if packed else data).splitlines(keepends=True)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile(
            f"{path} is no whole file ({error}), so it cannot be searched; nothing says what it "
            f"holds. Restore or remove it, and run again."
        ) from error
    kept = [line for line in lines if not line.strip() or keep(line)]
    removed = len(lines) - len(kept)
    if removed and write:
        _check_same(path, before)
        if any(line.strip() for line in kept):
            text = b"".join(kept)
            with atomic_write(path) as target:
                target.write(gzip.compress(text, mtime=0) if packed else text)
        else:
            delete([path])
    return removed


def rewrite_shared_lines(path: Path, keep: Keep, write: bool = True) -> int:
    """As :func:`rewrite_lines`, of a local file that others append to under a lock."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # writers wait, and then find the file that is new
        lines = file.read().splitlines(keepends=True)
        kept = [line for line in lines if not line.strip() or keep(line)]
        if len(kept) < len(lines) and write:
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            temporary.write_bytes(b"".join(kept))
            temporary.chmod(path.stat().st_mode & 0o7777)
            temporary.replace(path)
    return len(lines) - len(kept)


def _check_same(path: str, before: list[Entry]) -> None:
    if find(path) != before:
        raise ChangedMeanwhile(
            f"{path} was written by another run meanwhile; it stays as that has left it. Let one "
            f"erasure end before the next, and run this one again."
        )


def _opened(file: object, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise UnreadableFile(
            f"{path} is no whole Parquet file ({error}), so it cannot be searched; nothing says "
            f"what it holds. Restore or remove it, and run again."
        ) from error


def _notes(parquet: pq.ParquetFile) -> dict[str, str]:
    noted = parquet.metadata.metadata or {}
    return {key.decode(): value.decode() for key, value in noted.items() if key != _PARQUET_OWN}
