"""What each place says of a range, side by side in one database: the summaries in Parquet, the
documents in Elasticsearch, and the event log tallied afresh."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import duckdb
import pyarrow as pa

from adtally.io import schema
from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_client import ElasticsearchConfig, connect
from adtally.io.indexed import document_schema, indexed
from adtally.io.stored import Restriction
from adtally.pipelines.query import Limits, Query
from adtally.transforms.windows import GENERATION_BITS, SEEN_MASK

PARQUET: Final = "parquet"
ELASTICSEARCH: Final = "elasticsearch"
LOG: Final = "log"
"""Tallied afresh, with late events."""
ON_TIME: Final = "on_time"
"""Tallied afresh, without late events: what first summaries say."""

WINDOW: Final = ("advertiser_id", "window_seconds", "window_start")
STATE: Final = ("generation", "seen")
"""What a row says of itself: its generation, and how many events its window had seen."""


@dataclass(frozen=True)
class Kind:
    """Something that is compared, row by row.

    Attributes:
        name: as findings call it.
        documents: the kind of document that has it.
        identity: columns that tell rows of a window apart.
        values: columns that must be equal.
        rows: SQL that gives all of these and ``version``, from the views of an output.
        nested: field of the documents that has a list of such rows; None where a document is one.
    """

    name: str
    documents: str
    identity: tuple[str, ...]
    values: tuple[str, ...]
    rows: str
    nested: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (*WINDOW, *self.identity, *self.values)

    def select(self, relation: str, inside: str) -> str:
        """SQL for its rows of a relation whose windows lie inside a range, and what they say of
        themselves."""
        state = f"version >> {GENERATION_BITS} AS generation, version & {SEEN_MASK} AS seen"
        columns = ", ".join([*self.columns, state, "ruleset_version", "touched", "other_id"])
        return f"SELECT {columns} FROM ({relation}) WHERE {inside}"


def kinds(dimensions: Sequence[str], looks_back: bool) -> tuple[Kind, ...]:
    """What is compared of an output."""
    measures = (*schema.MEASURES, "unique_users", "first_event_at", "last_event_at")
    flag = tuple(field.name for field in schema.FLAG_TYPE)
    found = [
        Kind(
            *("summaries", "summaries", (*dimensions, "currency"), measures),
            rows="SELECT *, NULL::VARCHAR AS ruleset_version FROM summaries",
        ),
        Kind("flags", "flags", flag[:4], flag[4:], "FROM flags", "flags"),
    ]
    if looks_back:
        look_back = tuple(field.name for field in schema.LOOK_BACK_FLAG_TYPE)
        about = ("adjusted_at", *dimensions, "currency")
        each = (
            "SELECT * EXCLUDE (flags, adjustments, adjustment), adjustment.* "
            "FROM (SELECT *, unnest(adjustments) AS adjustment FROM verdicts)"
        )
        found += [
            Kind(
                *("look-back flags", "verdicts", look_back[:5], look_back[5:]),
                *("FROM look_back_flags", "flags"),
            ),
            Kind("adjustments", "verdicts", about, schema.ADJUSTED, each, "adjustments"),
        ]
    return tuple(found)


class Sides:
    """A database of this run alone, with a table for each side and kind. Use it as a context
    manager.

    Args:
        compared: what it is to hold.
        seen: of which range and advertisers.
        dimensions: of the summaries.
        limits: of memory and processors.
    """

    def __init__(
        self,
        compared: Sequence[Kind],
        seen: Restriction,
        dimensions: tuple[str, ...],
        limits: Limits,
    ) -> None:
        self.kinds = tuple(compared)
        self.seen = seen
        self.dimensions = dimensions
        self._limits = limits
        self._closing = contextlib.ExitStack()
        scratch = tempfile.TemporaryDirectory(prefix="adtally-reconcile-", dir=limits.folder)
        self.connection = self._closing.enter_context(duckdb.connect())
        run = self.connection.execute
        run("SET temp_directory = ?", [self._closing.enter_context(scratch)])
        run("SET TimeZone = 'UTC'")
        run("SET enable_external_access = false")
        if limits.memory:
            run("SET memory_limit = ?", [limits.memory])
        if limits.threads:
            run("SET threads = ?", [limits.threads])

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def load_output(self, side: str, output: str) -> None:
        """Take a side from the views of an output.

        Raises:
            QueryError, QueryFailed: its files cannot be read.
        """
        with Query(output, self.seen, self._limits) as asked:
            for kind in self.kinds:
                rows = f"SELECT *, false AS touched, false AS other_id FROM ({kind.rows})"
                self.put(table(side, kind), asked.ask(kind.select(rows, self._inside())))
            if side == PARQUET:
                self.put("ruling", asked.ask(_RULING))
                self.put("copies", asked.ask(self._copies()))

    def load_documents(self, config: ElasticsearchConfig) -> frozenset[str]:
        """Take the side of Elasticsearch; returns the names of its indices.

        Raises:
            ElasticsearchUnavailable, AccessDenied, RequestRefused: it does not answer.
        """
        assert self.seen.from_ms is not None and self.seen.to_ms is not None
        indices: set[str] = set()
        with contextlib.closing(connect(config)) as client:
            writer = BulkWriter(client, config)
            for documents in dict.fromkeys(kind.documents for kind in self.kinds):
                pattern = config.index_pattern(documents)
                indices |= set(writer.when_up(partial(client.indices.get_settings, index=pattern)))
                like = document_schema(documents, self.dimensions)
                found = indexed(
                    *(writer, config, documents, self.dimensions),
                    *(self.seen.from_ms, self.seen.to_ms, self.seen.advertisers),
                )
                self.put(f"documents_{documents}", like.empty_table())
                for page in found:
                    self._append(f"documents_{documents}", page)
        for kind in self.kinds:
            self._of_documents(kind)
        return frozenset(indices)

    def load_like(self, side: str, other: str) -> None:
        """Let a side say what another one says."""
        for kind in self.kinds:
            self.connection.execute(
                f"CREATE OR REPLACE VIEW {table(side, kind)} AS FROM {table(other, kind)}"
            )

    def load_nothing(self, side: str, like: str) -> None:
        """Let a side say nothing, in the columns of another one."""
        for kind in self.kinds:
            self.connection.execute(
                f"CREATE OR REPLACE TABLE {table(side, kind)} AS FROM {table(like, kind)} LIMIT 0"
            )

    def put(self, name: str, rows: Any) -> None:
        """Make a table of Arrow's."""
        self.connection.register("incoming", rows)
        self.connection.execute(f"CREATE OR REPLACE TABLE {name} AS FROM incoming")
        self.connection.unregister("incoming")

    def _append(self, name: str, rows: pa.Table) -> None:
        self.connection.register("incoming", rows)
        self.connection.execute(f"INSERT INTO {name} BY NAME FROM incoming")
        self.connection.unregister("incoming")

    def _of_documents(self, kind: Kind) -> None:
        relation = f"FROM documents_{kind.documents}"
        if kind.nested is None:
            relation = f"SELECT *, NULL::VARCHAR AS ruleset_version {relation}"
        else:
            other = "flags" if kind.nested == "adjustments" else "adjustments"
            left_out = [kind.nested, "item", *([other] if kind.documents == "verdicts" else [])]
            relation = (
                f"SELECT * EXCLUDE ({', '.join(left_out)}), item.* "
                f"FROM (SELECT *, unnest({kind.nested}) AS item {relation})"
            )
        rows = kind.select(relation, "true")
        self.connection.execute(f"CREATE OR REPLACE TABLE {table(ELASTICSEARCH, kind)} AS {rows}")

    def _inside(self) -> str:
        end = "window_start + to_seconds(window_seconds)"
        return self.seen.inside("window_start", end) or "true"

    def _copies(self) -> str:
        """Rows that files hold more than once with one version, and how many of them differ."""
        (summaries,) = (kind for kind in self.kinds if kind.name == "summaries")
        same = ", ".join([*WINDOW, *summaries.identity, "version"])
        values = ", ".join(summaries.values)
        return (
            f"SELECT {', '.join(WINDOW)}, generation, sum(n - 1)::BIGINT AS copies, "
            f"sum(differing - 1)::BIGINT AS conflicts FROM ("
            f"SELECT {same}, version >> {GENERATION_BITS} AS generation, count(*) AS n, "
            f"count(DISTINCT row({values})) AS differing "
            f'FROM stored."summaries" GROUP BY ALL HAVING n > 1) '
            f"WHERE {self._inside()} GROUP BY ALL"
        )


_RULING: Final = "SELECT generation, range_from, range_to, committed_at FROM generations"


def table(side: str, kind: Kind) -> str:
    """Name of the table of a side's rows of a kind."""
    return f'"{side} {kind.name}"'


def names(columns: Iterable[str], prefix: str = "") -> str:
    """Columns as SQL lists them."""
    return ", ".join(prefix + column for column in columns)
