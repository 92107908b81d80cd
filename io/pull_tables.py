"""Tables of a tenant's database: what they look like, and documents as their rows.

Columns follow from :mod:`adtally.io.schema`, so a field that is added there becomes a column here.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyarrow as pa
import sqlalchemy as sa

from adtally.io import schema

SCHEMA_VERSION: Final = 2
"""Rises with every change of the tables. What they lack is added; documents are read again."""

KEY: Final = ("doc_id", "origin", "primary_term", "seq_no")
"""Of every row that is a document: its ``_id``, the shard that it came from, and Elasticsearch's
number of the operation that wrote it there. A primary that takes over from one that failed gives
numbers again that the failed one gave to what nobody had acknowledged; its term is higher."""

CHILD_KEY: Final = ("doc_id", "position", "advertiser_id", "window_start", "generation")
"""Of every row that is one of a document's list; ``position`` in the list, from 0."""

_LEFT_OUT: Final = frozenset({"unique_user_hashes"})
_ADDED: Final = (
    pa.field("updated_at", schema.TIMESTAMP),
    pa.field("pane_timing", pa.string()),
    pa.field("pane_index", pa.int64()),
)
_TIME_LENGTH: Final = len("2026-03-01T00:00:00.000Z")
_NUL: Final = b"\\u0000"


@dataclass(frozen=True)
class Child:
    """One list of a document, as a table.

    Attributes:
        field: name of the list.
        table: name of the table.
        fields: of an element.
    """

    field: str
    table: str
    fields: tuple[pa.Field, ...]


@dataclass(frozen=True)
class Layout:
    """The tables of one kind of document."""

    kind: str
    table: str
    fields: tuple[pa.Field, ...]
    children: tuple[Child, ...]


def _layout(kind: str, table: str, source: pa.Schema, children: dict[str, str]) -> Layout:
    made = [
        Child(name, child, tuple(source.field(name).type.value_type))
        for name, child in children.items()
    ]
    fields = [f for f in source if f.name not in children and f.name not in _LEFT_OUT]
    return Layout(kind, table, (*fields, *_ADDED), tuple(made))


LAYOUTS: Final = {
    layout.kind: layout
    for layout in (
        _layout("summaries", "summaries", schema.summary_schema(schema.DIMENSIONS), {}),
        _layout("flags", "flag_windows", schema.FLAG_SCHEMA, {"flags": "flags"}),
        _layout(
            "verdicts",
            "verdict_hours",
            schema.verdict_schema(schema.DIMENSIONS),
            {"flags": "look_back_flags", "adjustments": "adjustments"},
        ),
        _layout("anomalies", "anomaly_hours", schema.ANOMALY_SCHEMA, {"flags": "anomalies"}),
    )
}

_TIME: Final = sa.TIMESTAMP(timezone=True).with_variant(sa.Text(), "sqlite")
"""In SQLite the text that Elasticsearch has, ``2026-03-01T00:00:00.000Z``: it sorts as time does,
and SQLite's own functions read it."""


def _type(field: pa.Field) -> sa.types.TypeEngine[Any]:
    if pa.types.is_timestamp(field.type):
        return _TIME
    return sa.BigInteger() if pa.types.is_integer(field.type) else sa.Text()


def metadata() -> sa.MetaData:
    """All tables. Only keys are required: what an older adtally wrote may lack a field."""
    tables = sa.MetaData()
    for layout in LAYOUTS.values():
        sa.Table(
            layout.table,
            tables,
            sa.Column("doc_id", sa.Text, primary_key=True),
            sa.Column("origin", sa.BigInteger, nullable=False),
            sa.Column("primary_term", sa.BigInteger, nullable=False, server_default="0"),
            sa.Column("seq_no", sa.BigInteger, nullable=False),
            *(sa.Column(field.name, _type(field)) for field in layout.fields),
            sa.Index(f"{layout.table}_by_window", "window_seconds", "window_start"),
        )
        for child in layout.children:
            sa.Table(
                child.table,
                tables,
                sa.Column("doc_id", sa.Text, primary_key=True),
                sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
                sa.Column("advertiser_id", sa.Text),
                sa.Column("window_start", _TIME),
                sa.Column("generation", sa.BigInteger),
                *(sa.Column(field.name, _type(field)) for field in child.fields),
            )
    sa.Table("pull_meta", tables, sa.Column("schema_version", sa.BigInteger, primary_key=True))
    sa.Table(
        "pull_state",
        tables,
        sa.Column("advertiser_id", sa.Text, primary_key=True),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("pulled_at", _TIME),
    )
    sa.Table(
        "pull_origins",
        tables,
        sa.Column("advertiser_id", sa.Text, primary_key=True),
        sa.Column("origin", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("index_name", sa.Text, nullable=False),
        sa.Column("seq_no", sa.BigInteger, nullable=False),
        sa.Column("documents", sa.BigInteger, nullable=False),
    )
    return tables


@dataclass(frozen=True)
class Rows:
    """Rows of one table, in the order of ``columns``."""

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Pulled:
    """A document as it came: the shard, the number of the operation there, and its JSON."""

    origin: int
    primary_term: int
    seq_no: int
    source: bytes


def rows_of(kind: str, documents: dict[str, Pulled]) -> Iterator[Rows]:
    """Documents as rows: those of their own table, then those of their lists.

    Fields that this adtally does not know are left out. Of text, U+0000 becomes U+FFFD, since
    PostgreSQL holds none.

    Args:
        kind: of all of them.
        documents: by ``_id``.
    """
    layout, decode, convert, listed = _reading(kind)
    own: list[tuple[Any, ...]] = []
    lists: list[list[tuple[Any, ...]]] = [[] for _ in layout.children]
    for doc_id, pulled in documents.items():
        row = decode(pulled.source)
        if _NUL in pulled.source:
            row = _without_nul(row)
        own.append((doc_id, pulled.origin, pulled.primary_term, pulled.seq_no, *convert(row)))
        for child, inner, made in zip(layout.children, listed, lists, strict=True):
            shared = (row.advertiser_id, _time(row.window_start), row.generation)
            for position, element in enumerate(getattr(row, child.field) or ()):
                made.append((doc_id, position, *shared, *inner(element)))
    yield Rows(layout.table, columns_of(layout), own)
    for child, made in zip(layout.children, lists, strict=True):
        yield Rows(child.table, (*CHILD_KEY, *(field.name for field in child.fields)), made)


def columns_of(layout: Layout) -> tuple[str, ...]:
    """Columns of the table of a kind."""
    return (*KEY, *(field.name for field in layout.fields))


Convert = Callable[[Any], Iterable[Any]]


@functools.cache
def _reading(kind: str) -> tuple[Layout, Callable[[bytes], Any], Convert, list[Convert]]:
    layout = LAYOUTS[kind]
    elements = [msgspec.defstruct(x.table, _struct(x.fields)) for x in layout.children]
    lists = [
        (child.field, list[element] | None, None)  # type: ignore[valid-type]
        for child, element in zip(layout.children, elements, strict=True)
    ]
    document = msgspec.defstruct(layout.table, [*_struct(layout.fields), *lists])
    decoder = msgspec.json.Decoder(document)
    inner = [_convert(child.fields) for child in layout.children]
    return layout, decoder.decode, _convert(layout.fields), inner


def _struct(fields: Sequence[pa.Field]) -> list[tuple[str, Any, Any]]:
    def type_of(field: pa.Field) -> Any:
        if pa.types.is_list(field.type):
            return list[str] | None
        return int | None if pa.types.is_integer(field.type) else str | None

    return [(field.name, type_of(field), None) for field in fields]


def _convert(fields: Sequence[pa.Field]) -> Convert:
    """From a decoded document, or element, to the values of its columns."""
    count = len(fields)
    times = [i for i, field in enumerate(fields) if pa.types.is_timestamp(field.type)]
    lists = [i for i, field in enumerate(fields) if pa.types.is_list(field.type)]

    def convert(row: Any) -> list[Any]:
        values = list(msgspec.structs.astuple(row)[:count])
        for index in times:
            values[index] = _time(values[index])
        for index in lists:
            if values[index] is not None:
                values[index] = msgspec.json.encode(values[index]).decode()
        return values

    return convert


def _time(text: str | None) -> str | None:
    """A time as ``2026-03-01T00:00:00.000Z``; those inside lists may come without milliseconds."""
    if text is None or (len(text) == _TIME_LENGTH and text[-1] == "Z"):
        return text
    at = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def _without_nul(row: Any) -> Any:
    for name in row.__struct_fields__:
        value = getattr(row, name)
        if isinstance(value, str):
            setattr(row, name, value.replace("\0", "�"))
        elif isinstance(value, list):
            setattr(row, name, [_clean(item) for item in value])
    return row


def _clean(item: Any) -> Any:
    return item.replace("\0", "�") if isinstance(item, str) else _without_nul(item)
