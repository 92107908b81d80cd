"""Which files of an output a query has to read, and the SQL that reads them.

Files are chosen by the dates and hours in their names before any of them is opened; what the file
names cannot tell, Parquet's statistics of row groups can, as each file is sorted by advertiser.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from adtally.io import views
from adtally.io.files import find, join
from adtally.io.objects import Entry

HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * HOUR_MS
_LISTED_DATES: Final = 62
"""A range of more dates is found in one listing of everything, not in one a date."""

_NAME: Final = re.compile(
    r"/(?:date=(\d{4}-\d\d-\d\d)/)?(?:hour=(\d\d)/)?[^/._][^/]*(?:\.parquet|\.jsonl\.gz)$"
)
_LETTERS: Final = "dead-letters"
_SCHEMA: Final = "stored"
_DATE: Final = "regexp_extract(filename, '/date=([0-9-]{10})/', 1)::DATE"
_HOUR: Final = "regexp_extract(filename, '/hour=([0-9]{2})/', 1)::INTEGER"


@dataclass(frozen=True)
class Restriction:
    """What a query is to see of an output.

    Attributes:
        from_ms: base windows that begin at this time or later, milliseconds since the epoch.
        to_ms: and end at this time or earlier.
        advertisers: these alone; empty for all.
    """

    from_ms: int | None = None
    to_ms: int | None = None
    advertisers: tuple[str, ...] = ()

    def overlap(self, start: str, end: str) -> str:
        """A condition of SQL: what lies between the two meets the range."""
        parts = []
        if self.from_ms is not None:
            parts.append(f"{end} > {_instant(self.from_ms)}")
        if self.to_ms is not None:
            parts.append(f"{start} < {_instant(self.to_ms)}")
        return " AND ".join(parts)

    def inside(self, start: str, end: str | None = None) -> str:
        """A condition of SQL: it begins in the range, and ends there too."""
        parts = []
        if self.from_ms is not None:
            parts.append(f"{start} >= {_instant(self.from_ms)}")
        if self.to_ms is not None:
            until = f"{end} <=" if end else f"{start} <"
            parts.append(f"{until} {_instant(self.to_ms)}")
        return " AND ".join(parts)

    def holds(self, date: str | None, hour: str | None) -> bool:
        """Whether a partition may have rows of the range."""
        if date is None:
            return True
        start = _ms(date) + int(hour or 0) * HOUR_MS
        end = start + (HOUR_MS if hour else _DAY_MS)
        return (self.from_ms is None or end > self.from_ms) and (
            self.to_ms is None or start < self.to_ms
        )

    def dates(self) -> Iterator[str]:
        """The dates (UTC) of a range that has both ends and is not long."""
        if self.from_ms is None or self.to_ms is None:
            return
        first, last = self.from_ms // _DAY_MS, (self.to_ms - 1) // _DAY_MS
        if last - first < _LISTED_DATES:
            for day in range(first, last + 1):
                yield _utc(day * _DAY_MS).date().isoformat()


@dataclass(frozen=True)
class Stored:
    """The files of an output that lie in a range, as they were when they were listed.

    Attributes:
        seen: what a query is to see.
        dimensions: of the summaries.
        files: by kind.
    """

    seen: Restriction
    dimensions: tuple[str, ...]
    files: dict[str, list[Entry]]

    @property
    def entries(self) -> list[Entry]:
        """All of the files."""
        return [entry for found in self.files.values() for entry in found]

    def statements(self) -> Iterator[str]:
        """SQL that creates the relations that the views take their rows from."""
        yield f"CREATE SCHEMA {_SCHEMA}"
        for kind, like in _schemas(self.dimensions).items():
            rows = self._rows(kind, like) if like else self._letters()
            yield f"CREATE VIEW {scan('', kind, like)} AS {rows}"

    def _rows(self, kind: str, like: pa.Schema) -> str:
        types = {one.name: views.sql_type(one.type) for one in like}
        partition = {"date": "DATE", "hour": "INTEGER"} if kind == "events" else {}
        if not self.files[kind]:
            return views.no_rows({**types, **partition})
        # Given the columns, DuckDB opens no file that it does not read; it would open all of them
        # to find out about fields that some do not have.
        columns = ", ".join(
            f"{views.quoted(name)}: {{name: {views.quoted(name)}, type: {views.quoted(type_)}, "
            f"default_value: NULL}}"
            for name, type_ in types.items()
        )
        files = _list_of(self.files[kind])
        selected = ", ".join(types)
        if partition:
            selected += f", {_DATE} AS date, {_HOUR} AS hour"
        return (
            f"SELECT {selected} FROM read_parquet({files}, schema = MAP {{{columns}}}, "
            f"filename = true){self._where(kind)}"
        )

    def _where(self, kind: str) -> str:
        seen = self.seen
        parts = []
        if kind == "events":
            parts.append(seen.inside("occurred_at"))
        elif kind == "summaries":
            parts.append(seen.inside("window_start", "window_end"))
        elif kind != "generations":
            parts.append(seen.overlap("window_start", "window_end"))
        if seen.advertisers and kind != "generations":
            parts.append(f"advertiser_id IN ({', '.join(map(views.quoted, seen.advertisers))})")
        told = [part for part in parts if part]
        return f" WHERE {' AND '.join(told)}" if told else ""

    def _letters(self) -> str:
        files = self.files[_LETTERS]
        if self.seen.advertisers:
            reason = "dead letters belong to no advertiser; leave --advertiser out to see them"
            nothing = views.no_rows(views.LETTER_TYPES).removesuffix("false")
            return f"{nothing}error({views.quoted(reason)})::BOOLEAN"
        if not files:
            return views.no_rows(views.LETTER_TYPES)
        where = self.seen.inside("failed_at")
        return f"FROM {views.read_letters(_list_of(files))}" + (f" WHERE {where}" if where else "")


def list_stored(output: str, seen: Restriction, dimensions: tuple[str, ...]) -> Stored:
    """List the files of an output.

    Raises:
        OSError: it cannot be listed.
    """
    files = {kind: sorted(_found(output, kind, seen)) for kind in _schemas(dimensions)}
    return Stored(seen, dimensions, files)


def _found(output: str, kind: str, seen: Restriction) -> Iterator[Entry]:
    folder = join(output, kind)
    dates = list(seen.dates()) if kind in ("events", _LETTERS) else []
    for pattern in [join(folder, f"date={date}", "**") for date in dates] or [join(folder, "**")]:
        for entry in find(pattern):
            match = _NAME.search(entry.path)
            if match and seen.holds(match[1], match[2]):
                yield entry


def scan(output: str, kind: str, like: pa.Schema | None) -> str:
    """Name of the relation of a kind's rows; as :data:`adtally.io.views.Scan`."""
    return f'{_SCHEMA}."{kind}"'


def partition_columns(window_seconds: int) -> str:
    """Columns of the log's partitions that copies of an event share, for the views."""
    if 3_600 % window_seconds == 0:
        return "date, hour, "
    return "date, " if 86_400 % window_seconds == 0 else ""


def _schemas(dimensions: tuple[str, ...]) -> dict[str, pa.Schema | None]:
    return {**views.stored_schemas(dimensions), _LETTERS: None}  # JSON


def _list_of(files: list[Entry]) -> str:
    return f"[{', '.join(views.quoted(entry.path) for entry in files)}]"


def _utc(ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)


def _ms(date: str) -> int:
    at = datetime.datetime.combine(datetime.date.fromisoformat(date), datetime.time(), datetime.UTC)
    return round(at.timestamp() * 1000)


def _instant(ms: int) -> str:
    return f"TIMESTAMPTZ '{_utc(ms):%Y-%m-%d %H:%M:%S.%f}+00'"
