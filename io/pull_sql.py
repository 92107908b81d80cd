"""Statements on a tenant's tables, made once for each kind of database."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from adtally.io.pull_net import NET_VIEW, net_view
from adtally.io.pull_tables import LAYOUTS, Rows, metadata

ROWS_AT_A_TIME: Final = 5_000
"""Of one statement: some 10 MB of parameters."""


class Sql:
    """Statements for one dialect; see :func:`sql_of`.

    Rows travel as PostgreSQL's arrays, one a column, and one by one to SQLite, which is in
    this process: each the fastest way that needs no temporary table.

    Args:
        dialect: ``sqlite`` or ``postgresql``.
    """

    def __init__(self, dialect: str) -> None:
        self._arrays = dialect == "postgresql"
        self._tables = metadata().tables
        known = postgresql.dialect() if self._arrays else sqlite.dialect()
        made = [
            statement for table in self._tables.values() for statement in table_sql(table, known)
        ]
        self.create = [*made, view_sql(dialect)]
        self.has_tables = (
            "SELECT to_regclass('pull_meta')"
            if self._arrays
            else "SELECT 1 FROM sqlite_master WHERE name = 'pull_meta'"
        )
        mine = "advertiser_id = :advertiser"
        self.add_state = sa.text(
            "INSERT INTO pull_state (advertiser_id, step) VALUES (:advertiser, 0) "
            "ON CONFLICT DO NOTHING"
        )
        self.step = sa.text(f"SELECT step FROM pull_state WHERE {mine}")
        self.advance = sa.text(
            "UPDATE pull_state SET step = step + 1, pulled_at = "
            f"{self._cast(':now')} WHERE {mine} AND step = :step"
        )
        self.origins = sa.text(
            f"SELECT origin, kind, index_name, seq_no, documents FROM pull_origins WHERE {mine}"
        )
        self.save_origin = sa.text(
            "INSERT INTO pull_origins (advertiser_id, origin, kind, index_name, seq_no, documents) "
            "VALUES (:advertiser, :origin, :kind, :index_name, :seq_no, :documents) "
            "ON CONFLICT (advertiser_id, origin) DO UPDATE SET "
            "seq_no = excluded.seq_no, documents = excluded.documents"
        )
        self.drop_origin = sa.text(f"DELETE FROM pull_origins WHERE {mine} AND origin = :origin")
        self.count: dict[str, sa.TextClause] = {}
        self.windows: dict[str, sa.TextClause] = {}
        self.ids: dict[str, sa.TextClause] = {}
        self.between: dict[str, sa.TextClause] = {}
        self.known: dict[str, str] = {}
        self.delete: dict[str, str] = {}
        for kind, layout in LAYOUTS.items():
            table = layout.table
            self.count[kind] = sa.text(
                f"SELECT origin, count(*) FROM {table} WHERE {mine} GROUP BY origin"
            )
            ours = f"FROM {table} WHERE origin = :origin AND {mine}"
            self.windows[kind] = sa.text(
                f"SELECT window_start, count(*) {ours} GROUP BY window_start"
            )
            self.ids[kind] = sa.text(f"SELECT doc_id {ours}")
            self.between[kind] = sa.text(
                f"SELECT doc_id {ours} AND window_start >= {self._cast(':low')} "
                f"AND window_start < {self._cast(':high')}"
            )
            among = f"FROM {table} WHERE doc_id {self._among}"
            self.known[kind] = f"SELECT origin, count(*) {among} GROUP BY origin"
            for name in (table, *(child.table for child in layout.children)):
                self.delete[name] = f"DELETE FROM {name} WHERE doc_id {self._among}"

    def _cast(self, parameter: str) -> str:
        return f"CAST({parameter} AS TIMESTAMPTZ)" if self._arrays else parameter

    @property
    def _among(self) -> str:
        return "= ANY(%s)" if self._arrays else "IN (SELECT value FROM json_each(?))"

    def with_ids(self, connection: sa.Connection, statement: str, ids: Sequence[str]) -> Any:
        """Run a statement on the documents with these ids; gives its result."""
        return connection.exec_driver_sql(
            statement, (list(ids) if self._arrays else json.dumps(list(ids)),)
        )

    def insert(self, connection: sa.Connection, rows: Rows, *, upsert: bool = False) -> None:
        """Insert rows.

        Args:
            connection: in a transaction.
            rows: of a table.
            upsert: they are documents; what is there gives way to what a later operation of
                the same shard wrote, and to another shard's.
        """
        statement = self._insert(rows.table, rows.columns, upsert)
        for start in range(0, len(rows.rows), ROWS_AT_A_TIME):
            some = rows.rows[start : start + ROWS_AT_A_TIME]
            if self._arrays:
                columns = tuple(list(column) for column in zip(*some, strict=True))
                connection.exec_driver_sql(statement, columns)
            else:
                connection.exec_driver_sql(statement, some)

    @functools.lru_cache(maxsize=64)  # noqa: B019 (there is one for each dialect, for good)
    def _insert(self, table: str, columns: tuple[str, ...], upsert: bool) -> str:
        names = [f'"{name}"' for name in columns]
        if self._arrays:
            types = [
                column.type.compile(dialect=postgresql.dialect())
                for column in (self._tables[table].c[name] for name in columns)
            ]
            # Times come as text, which PostgreSQL reads in less time than Python.
            arrays = [f"%s::{'BIGINT' if kind == 'BIGINT' else 'TEXT'}[]" for kind in types]
            cast = [f"{name}::{kind}" for name, kind in zip(names, types, strict=True)]
            source = (
                f"SELECT {', '.join(cast)} FROM unnest({', '.join(arrays)}) "
                f"AS given ({', '.join(names)})"
            )
        else:
            source = f"VALUES ({', '.join('?' * len(names))})"
        statement = f"INSERT INTO {table} ({', '.join(names)}) {source}"
        if upsert:
            sets = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
            statement += (
                f" ON CONFLICT (doc_id) DO UPDATE SET {sets} WHERE excluded.origin <> "
                f"{table}.origin OR (excluded.primary_term, excluded.seq_no) > "
                f"({table}.primary_term, {table}.seq_no)"
            )
        return statement


@functools.cache
def sql_of(dialect: str) -> Sql:
    """The statements for a dialect."""
    return Sql(dialect)


def table_sql(table: sa.Table, dialect: sa.Dialect) -> list[str]:
    """Statements that make a table and its indices."""
    indices = [sa.schema.CreateIndex(index) for index in table.indexes]
    parts: list[sa.schema.ExecutableDDLElement] = [sa.schema.CreateTable(table), *indices]
    return [str(part.compile(dialect=dialect)) for part in parts]


def view_sql(dialect: str) -> str:
    """Statement that makes the view of net summaries."""
    return f"CREATE VIEW {NET_VIEW} AS {net_view(dialect)}"


def advertisers_of(path: Path) -> list[str]:
    """Whose rows a file of SQLite has; none where it is no file of ours."""
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as file:
            return [name for (name,) in file.execute("SELECT advertiser_id FROM pull_state")]
    except sqlite3.Error:
        return []
