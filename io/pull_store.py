"""A tenant's database: rows and the cursor that belongs to them, in one transaction."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from adtally.io.pull_databases import Target
from adtally.io.pull_net import NET_VIEW
from adtally.io.pull_sql import sql_of, table_sql, view_sql
from adtally.io.pull_tables import (
    LAYOUTS,
    SCHEMA_VERSION,
    Pulled,
    metadata,
    rows_of,
)

UNREAD: Final = -1
"""Cursor of a shard of which nothing was read; Elasticsearch counts from 0."""

_LOCK: Final = 0x6164_7461_6C6C_79  # "adtally"
_MANY: Final = 10_000
"""Ids in one statement."""


class PullConflict(RuntimeError):
    """Another puller has moved the cursor; what was read here is read again from there."""


class SchemaTooNew(RuntimeError):
    """The tables were made by a newer adtally."""


@dataclass
class Origin:
    """What a database has of one shard.

    Attributes:
        seq_no: every document whose last operation has this number, or a lower one, is there.
        documents: how many documents of the shard are there.
    """

    kind: str
    index_name: str
    seq_no: int = UNREAD
    documents: int = 0


@dataclass
class State:
    """What a database says of itself; ``step`` counts its transactions."""

    step: int
    origins: dict[int, Origin] = field(default_factory=dict)


class TenantStore:
    """One tenant's rows. Everything raises what SQLAlchemy raises.

    Every transaction begins with the step that the caller believes the database to be at. Of two
    pullers with the same belief one succeeds, so the states that a database goes through
    are one chain, and each is newer than the one before: nothing older comes back.

    Args:
        engine: see ``open_engine``.
        target: says the schema.
        advertiser_id: whose rows.
    """

    def __init__(self, engine: sa.Engine, target: Target, advertiser_id: str) -> None:
        self._engine = engine
        self._schema = target.schema
        self._advertiser = advertiser_id.replace("\0", "�")
        self._sql = sql_of(target.dialect)

    @contextlib.contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            if self._schema:
                quoted = connection.dialect.identifier_preparer.quote_identifier(self._schema)
                connection.exec_driver_sql(f"SET LOCAL search_path TO {quoted}")
            yield connection

    def load(self) -> State:
        """The state; tables are made or brought up to date before.

        Documents that are gone without a pull are noticed here: their shard is read again.

        Raises:
            SchemaTooNew: nothing is changed.
        """
        with self._begin() as connection:
            if self._version(connection) != SCHEMA_VERSION:
                self._prepare(connection)
            connection.execute(self._sql.add_state, {"advertiser": self._advertiser})
            mine = {"advertiser": self._advertiser}
            state = State(connection.execute(self._sql.step, mine).scalar_one())
            counted: dict[int, int] = {}
            for layout in LAYOUTS.values():
                found = connection.execute(self._sql.count[layout.kind], mine)
                counted.update((origin, count) for origin, count in found)
            for origin, kind, index_name, seq_no, documents in connection.execute(
                self._sql.origins, mine
            ):
                there = counted.get(origin, 0)
                cursor = seq_no if there == documents else UNREAD
                state.origins[origin] = Origin(kind, index_name, cursor, there)
            return state

    def _version(self, connection: sa.Connection) -> int | None:
        """Of the tables; None where there are none."""
        if not connection.exec_driver_sql(self._sql.has_tables).scalar():
            return None
        version = connection.exec_driver_sql("SELECT max(schema_version) FROM pull_meta").scalar()
        if version is not None and version > SCHEMA_VERSION:
            raise SchemaTooNew(
                f"its tables are of schema {version}, and this adtally knows {SCHEMA_VERSION}; "
                f"nothing was changed. Pull with the newer adtally."
            )
        return version or 0

    def _prepare(self, connection: sa.Connection) -> None:
        """Make the tables, or add what they lack."""
        if connection.dialect.name == "postgresql":  # two that make the same table would collide
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            if self._schema:
                quoted = connection.dialect.identifier_preparer.quote_identifier(self._schema)
                connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {quoted}")
        version = self._version(connection)
        if version == SCHEMA_VERSION:  # another was first
            return
        for statement in self._sql.create if version is None else self._missing(connection):
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("DELETE FROM pull_meta")
        connection.exec_driver_sql(f"INSERT INTO pull_meta VALUES ({SCHEMA_VERSION})")

    def _missing(self, connection: sa.Connection) -> Iterator[str]:
        """Statements that add what tables of an earlier version lack."""
        inspector = sa.inspect(connection)
        schema = self._schema or None
        there = set(inspector.get_table_names(schema=schema))
        yield f"DROP VIEW IF EXISTS {NET_VIEW}"
        for table in metadata().sorted_tables:
            if table.name not in there:
                yield from table_sql(table, connection.dialect)
                continue
            known = {column["name"] for column in inspector.get_columns(table.name, schema)}
            for column in table.columns:
                if column.name not in known:
                    made = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                    yield f"ALTER TABLE {table.name} ADD COLUMN {made}"
        yield view_sql(connection.dialect.name)

    def write(
        self, state: State, documents: dict[str, dict[str, Pulled]], origins: dict[int, Origin]
    ) -> State:
        """Write documents, and the cursors that they bring; returns the state after it.

        Args:
            state: as the caller believes it to be.
            documents: of each kind by ``_id``; each is the newest that its shard had.
            origins: the cursors after it, of the shards that were read; ``documents`` of them is
                passed over.

        Raises:
            PullConflict: nothing was written.
        """
        after = State(state.step + 1, dict(state.origins))
        with self._begin() as connection:
            self._step(connection, state)
            counts = {key: origin.documents for key, origin in state.origins.items()}
            for kind, found in documents.items():
                if found:
                    self._count(connection, kind, found, counts)
                    self._put(connection, kind, found)
            for key in {*origins, *(k for k, n in counts.items() if self._differs(state, k, n))}:
                known = origins.get(key) or state.origins[key]
                origin = Origin(known.kind, known.index_name, known.seq_no, counts.get(key, 0))
                after.origins[key] = origin
                self._save(connection, key, origin)
        return after

    @staticmethod
    def _differs(state: State, key: int, count: int) -> bool:
        return key in state.origins and state.origins[key].documents != count

    def remove(self, state: State, gone: dict[int, list[str]], dropped: Sequence[int]) -> State:
        """Delete documents by shard, and all of shards that are no more; returns the state after.

        Raises:
            PullConflict: nothing was deleted.
        """
        after = State(state.step + 1, dict(state.origins))
        with self._begin() as connection:
            self._step(connection, state)
            for key, ids in gone.items():
                origin = after.origins[key]
                deleted = self._delete(connection, origin.kind, ids)
                count = origin.documents - deleted
                after.origins[key] = Origin(origin.kind, origin.index_name, origin.seq_no, count)
                self._save(connection, key, after.origins[key])
            for key in dropped:
                kind = after.origins.pop(key).kind
                mine = {"advertiser": self._advertiser, "origin": key}
                found = connection.execute(self._sql.ids[kind], mine)
                self._delete(connection, kind, [doc_id for (doc_id,) in found])
                connection.execute(self._sql.drop_origin, mine)
        return after

    def windows(self, kind: str, origin: int) -> dict[str, int]:
        """How many documents of a shard there are, by ``window_start`` as ISO text."""
        with self._begin() as connection:
            values = {"advertiser": self._advertiser, "origin": origin}
            found = connection.execute(self._sql.windows[kind], values)
            return {_iso(start): count for start, count in found}

    def ids(self, kind: str, origin: int, low: str, high: str) -> set[str]:
        """``_id`` of a shard's documents with ``low <= window_start < high``, ISO text."""
        mine = {"advertiser": self._advertiser, "origin": origin}
        with self._begin() as connection:
            found = connection.execute(self._sql.between[kind], {**mine, "low": low, "high": high})
            return {doc_id for (doc_id,) in found}

    def _step(self, connection: sa.Connection, state: State) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        values = {"advertiser": self._advertiser, "step": state.step, "now": now}
        if connection.execute(self._sql.advance, values).rowcount != 1:
            raise PullConflict("another puller was first")

    def _save(self, connection: sa.Connection, key: int, origin: Origin) -> None:
        values = {
            "advertiser": self._advertiser,
            "origin": key,
            "kind": origin.kind,
            "index_name": origin.index_name,
            "seq_no": origin.seq_no,
            "documents": origin.documents,
        }
        connection.execute(self._sql.save_origin, values)

    def _count(
        self,
        connection: sa.Connection,
        kind: str,
        documents: dict[str, Pulled],
        counts: dict[int, int],
    ) -> None:
        """Bring ``counts`` to what they are once the documents are written."""
        for pulled in documents.values():
            counts[pulled.origin] = counts.get(pulled.origin, 0) + 1
        for ids in _chunks(list(documents)):
            known = self._sql.with_ids(connection, self._sql.known[kind], ids)
            for origin, count in known:
                counts[origin] = counts.get(origin, 0) - count

    def _put(self, connection: sa.Connection, kind: str, documents: dict[str, Pulled]) -> None:
        own, *children = rows_of(kind, documents)
        self._sql.insert(connection, own, upsert=True)
        for child in children:
            for ids in _chunks(list(documents)):
                self._sql.with_ids(connection, self._sql.delete[child.table], ids)
            self._sql.insert(connection, child)

    def _delete(self, connection: sa.Connection, kind: str, ids: Sequence[str]) -> int:
        layout = LAYOUTS[kind]
        deleted = 0
        for some in _chunks(ids):
            for child in layout.children:
                self._sql.with_ids(connection, self._sql.delete[child.table], some)
            deleted += self._sql.with_ids(connection, self._sql.delete[layout.table], some).rowcount
        return deleted


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _MANY):
        yield ids[start : start + _MANY]


def _iso(start: Any) -> str:
    if isinstance(start, datetime.datetime):
        at = start.astimezone(datetime.UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
    return str(start)
