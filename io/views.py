"""The SQL views that are shipped with an output."""

from __future__ import annotations

import importlib.resources
import string
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from adtally.io import schema
from adtally.io.dead_letters import encode_lines
from adtally.io.files import atomic_write, join, list_paths
from adtally.io.generations import COMMIT_SCHEMA
from adtally.io.parquet import write_table
from adtally.transforms.overflow import OTHER
from adtally.transforms.uniques import UNIQUES_K
from adtally.transforms.windows import GENERATION_BITS, SEEN_MASK

VIEWS_NAME = "views.sql"
ROLLUPS_NAME = "rollups.sql"

Scan = Callable[[str, str, pa.Schema | None], str]
"""Output, kind and its schema (none for dead letters) to a relation of SQL that has its rows."""

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.string_view(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    schema.TIMESTAMP: "TIMESTAMPTZ",
}
_SUSPECTED = tuple(name for name in schema.ADJUSTED if name.startswith("sivt_"))
LETTER_TYPES = {
    "failed_at": "TIMESTAMPTZ",
    "stage": "VARCHAR",
    "error_type": "VARCHAR",
    "message": "VARCHAR",
    "source": "VARCHAR",
    "position": "VARCHAR",
    "payload": "VARCHAR",
    "payload_encoding": "VARCHAR",
    "version": "INT",
}


def views_sql(
    output: str,
    window_seconds: int,
    allowed_lateness_seconds: int,
    dimensions: Sequence[str],
    scan: Scan | None = None,
    partition: str = "",
) -> str:
    """SQL that creates the views over ``output``; kinds with no files yet become empty views.

    Args:
        output: address of the output.
        window_seconds: the base window.
        allowed_lateness_seconds: of events, after their window's end.
        dimensions: of the summaries.
        scan: gives the files of a kind; by default all that are there when a query runs.
        partition: columns of the event log's partitions, each followed by a comma, which tell
            copies apart: a filter on them reaches the files.
    """
    scan = scan or _scan
    summary = schema.summary_schema(dimensions)
    row = ["advertiser_id", *dimensions, "currency"]
    identity = [*row, "window_seconds", "window_start"]
    views = _template(VIEWS_NAME).substitute(
        partition=partition,
        window_ms=window_seconds * 1000,
        allowed_lateness_ms=allowed_lateness_seconds * 1000,
        identity=", ".join(identity),
        void=_void(dimensions),
        placed=", ".join(placed(dimensions)),
        events=scan(output, "events", schema.EVENT_SCHEMA),
        summaries=scan(output, "summaries", summary),
        flags=scan(output, "flags", schema.FLAG_SCHEMA),
        anomalies=scan(output, "anomalies", schema.ANOMALY_SCHEMA),
        verdicts=scan(output, "verdicts", schema.verdict_schema(dimensions)),
        adjusted=", ".join(f"sum({name})::BIGINT AS {name}" for name in schema.ADJUSTED),
        moved=", ".join(f"sum(a.{name})::BIGINT AS {name}" for name in schema.ADJUSTED),
        row=", ".join(row),
        matched=" AND ".join(f"a.{name} IS NOT DISTINCT FROM s.{name}" for name in row),
        net=_net(),
        suspected=_suspected(),
        generations=scan(output, "generations", COMMIT_SCHEMA),
        dead_letters=scan(output, "dead-letters", None),
    )
    rolled = {"summaries": schema.MEASURES, "net_summaries": (*schema.MEASURES, *_SUSPECTED)}
    return views + "".join(
        _template(ROLLUPS_NAME).substitute(
            view=view,
            row=", ".join(row),
            measures=", ".join(measures),
            sums=", ".join(f"sum({name})::BIGINT AS {name}" for name in measures),
            k=UNIQUES_K,
            seen_mask=SEEN_MASK,
            generation_bits=GENERATION_BITS,
            window_seconds=window_seconds,
            allowed_lateness_seconds=allowed_lateness_seconds,
        )
        for view, measures in rolled.items()
    )


def _template(name: str) -> string.Template:
    text = importlib.resources.files("adtally.io").joinpath(name).read_text(encoding="utf-8")
    return string.Template(text)


def is_folded(dimensions: Sequence[str], prefix: str = "") -> str:
    """SQL for whether a row of summaries is the one that others are folded into."""
    others = [f"{prefix}{name} IS NOT DISTINCT FROM {quoted(OTHER)}" for name in dimensions]
    return " AND ".join(others) or "false"


def _void(dimensions: Sequence[str]) -> str:
    """A join that leaves out rows of a lower version than the one that others were folded into."""
    if not dimensions:
        return ""
    keys = ("advertiser_id", "window_seconds", "window_start", "generation")
    same = " AND ".join(f"f.{key} = stored.{key}" for key in keys)
    return f"""
ANTI JOIN (
    SELECT {", ".join(keys)}, max(version) AS version FROM stored
    WHERE {is_folded(dimensions)} GROUP BY ALL
) f ON {same} AND f.version > stored.version"""


def placed(dimensions: Sequence[str]) -> list[str]:
    """SQL for the row of summaries ``s`` that an adjustment ``a`` belongs to, joined to its own."""
    folded = [
        f"CASE WHEN s.advertiser_id IS NULL THEN {quoted(OTHER)} ELSE a.{name} END AS {name}"
        for name in dimensions
    ]
    return ["a.advertiser_id AS advertiser_id", *folded, "a.currency AS currency"]


def write_views(
    output: str, window_seconds: int, allowed_lateness_seconds: int, dimensions: Sequence[str]
) -> str:
    """Leave the views beside the data; returns their address."""
    path = join(output, VIEWS_NAME)
    text = views_sql(output, window_seconds, allowed_lateness_seconds, dimensions)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))
    return path


def stored_schemas(dimensions: Sequence[str]) -> dict[str, pa.Schema]:
    """What lies in Parquet and has views, by kind."""
    return {
        "events": schema.EVENT_SCHEMA,
        "summaries": schema.summary_schema(dimensions),
        "flags": schema.FLAG_SCHEMA,
        "anomalies": schema.ANOMALY_SCHEMA,
        "verdicts": schema.verdict_schema(dimensions),
        "generations": COMMIT_SCHEMA,
    }


def seed_views(output: str, dimensions: Sequence[str]) -> None:
    """Leave an empty file for each kind that a stream writes, so that views know it from the start.

    A view over files that are not there yet could only say that there are none, and nobody writes
    the views of a stream again. The names begin with ``_``, which Spark, Athena and our own listing
    pass over.
    """
    for kind, like in stored_schemas(dimensions).items():
        if not _any(output, kind, ".parquet"):
            write_table(like.empty_table(), join(output, kind, "_empty.parquet"))
    if not _any(output, "dead-letters", ".jsonl.gz"):
        with atomic_write(join(output, "dead-letters", "_empty.jsonl.gz")) as file:
            file.write(encode_lines([]))


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _net() -> str:
    """Measures of a summary, with what rules that look back add to them."""
    names = [name.removeprefix("sivt_") for name in _SUSPECTED]
    general = [f"s.givt_{name} + coalesce(a.givt_{name}, 0) AS givt_{name}" for name in names]
    net = [
        f"s.net_{name} - coalesce(a.givt_{name} + a.sivt_{name}, 0) AS net_{name}" for name in names
    ]
    return ", ".join([*general, *net])


def _suspected() -> str:
    return ", ".join(f"coalesce(a.{name}, 0) AS {name}" for name in _SUSPECTED)


def sql_type(type_: pa.DataType) -> str:
    """DuckDB's name of a type of our schemas."""
    if pa.types.is_list(type_):
        return f"{sql_type(type_.value_type)}[]"
    if pa.types.is_struct(type_):
        return f"STRUCT({', '.join(f'{inner.name} {sql_type(inner.type)}' for inner in type_)})"
    return _SQL_TYPES[type_]


def _scan(output: str, kind: str, like: pa.Schema | None) -> str:
    return _letters(output) if like is None else _parquet(output, kind, like)


def _parquet(output: str, kind: str, like: pa.Schema) -> str:
    pattern = join(output, kind, "**", "*.parquet")
    nothing = no_rows({field.name: sql_type(field.type) for field in like})
    if not _any(output, kind, ".parquet"):
        return f"({nothing})"
    files = f"read_parquet({quoted(pattern)}, hive_partitioning = false, union_by_name = true)"
    # Fields that were added since all of the files were written are null.
    return f"(SELECT * FROM {files} UNION ALL BY NAME {nothing})"


def _letters(output: str) -> str:
    if not _any(output, "dead-letters", ".jsonl.gz"):
        return f"({no_rows(LETTER_TYPES)})"
    return read_letters(quoted(join(output, "dead-letters", "**", "*.jsonl.gz")))


def read_letters(files: str) -> str:
    """The rows of files of dead letters, which are a pattern or a list, as SQL writes it."""
    columns = ", ".join(f"{name}: {quoted(type_)}" for name, type_ in LETTER_TYPES.items())
    return (
        f"read_json({files}, format = 'newline_delimited', columns = {{{columns}}}, "
        f"maximum_object_size = 1073741824)"
    )


def no_rows(types: Mapping[str, str]) -> str:
    """A query with these columns and no rows."""
    columns = (f"CAST(NULL AS {type_}) AS {name}" for name, type_ in types.items())
    return f"SELECT {', '.join(columns)} WHERE false"


def _any(output: str, kind: str, ending: str) -> bool:
    return any(path.endswith(ending) for path in list_paths(join(output, kind, "**")))
