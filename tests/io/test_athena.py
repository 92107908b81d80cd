"""Tables and views for Athena: the SQL is parsed, held against the schemas, and run in DuckDB.

No Athena was asked. sqlglot parses the statements as Athena and Trino would, and turns them into
DuckDB's SQL, in which the tables are filled with the files that their definitions name.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import sqlglot
from click.testing import CliRunner
from sqlglot import exp

from adtally.io import athena, schema
from adtally.pipelines.cli import cli
from adtally.transforms.overflow import OTHER
from tests import streams

BUCKET = "s3://bucket/out"
HOUR = ("--from", "2026-03-01T00:00:00Z", "--to", "2026-03-01T01:00:00Z")
DIMENSIONS = ["campaign_id", "country"]
VIEWS = (
    "event_rows",
    "events",
    "events_on_time",
    "generations",
    "summaries",
    "flags",
    "verdicts",
    "look_back_flags",
    "anomalies",
    "net_summaries",
    "dead_letters",
)

ARBITRARY = ("source", "position", "record_index", "arrived_at")
"""Of copies that are equal, views.sql shows any."""


def call(*arguments: str) -> str:
    done = CliRunner().invoke(cli, [*arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def created(sql: str) -> list[exp.Create]:
    """The statements for tables, as Athena reads them (in Hive's dialect)."""
    found = sqlglot.parse(sql[: sql.index("-- Views")], dialect="athena")
    return [one for one in found if isinstance(one, exp.Create)]


def views(sql: str) -> list[exp.Create]:
    """The statements for views, as Trino reads them; Athena has to read them too."""
    text = sql[sql.index("-- Views") :]
    found = [one for one in sqlglot.parse(text, dialect="trino") if isinstance(one, exp.Create)]
    assert len(sqlglot.parse(text, dialect="athena")) == len(found)
    return found


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with rows in every view: roll-ups, anomalies, an hour that was tallied again."""
    folder = tmp_path_factory.mktemp("athena")
    rules = folder / "rules.toml"
    rules.write_text(streams.EASY_ANOMALIES)
    made = ("--events", "2000", "--seed", "7", "--hours", "2", "--late", "0.02")
    call("generate", *made, "--output", str(folder))
    out = str(folder / "out")
    tallied = ("--output", out, "--rules", str(rules), "--rollup", "1h")
    by = ("--dimensions", ",".join(DIMENSIONS), "--max-rows-per-window", "1")
    call("backfill", "--input", str(folder / "logs"), *tallied, *by)
    call("backfill", "--input", f"{out}/events", *HOUR, *tallied, *by)
    stale(folder / "out")
    return folder / "out"


def stale(output: Path) -> None:
    """Rows of an earlier pane, which the row of all others holds since."""
    (base,) = output.glob("summaries/window=60s/generation=0/date=2026-03-01")
    rows = pa.concat_tables([pq.read_table(path) for path in base.glob("*.parquet")])
    folded = rows.filter(pc.equal(rows["campaign_id"], OTHER))
    assert folded.num_rows
    for name, value in (("campaign_id", "random"), ("version", 1)):
        column = pa.repeat(pa.scalar(value, rows.schema.field(name).type), folded.num_rows)
        folded = folded.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    pq.write_table(folded, base / "stale.parquet")


@pytest.fixture(scope="module")
def printed(output: Path) -> str:
    return call("athena", "--output", str(output), "--location", BUCKET, "--since", "2026-01-01")


def test_the_columns_of_the_tables_are_those_of_the_schemas(printed: str) -> None:
    expected = {
        "events": schema.EVENT_SCHEMA,
        "summaries": schema.summary_schema(DIMENSIONS),
        "flags": schema.FLAG_SCHEMA,
        "verdicts": schema.verdict_schema(DIMENSIONS),
        "anomalies": schema.ANOMALY_SCHEMA,
        "late": athena.LATE_SCHEMA,
        "generations": athena.COMMIT_SCHEMA,
        "dead_letters": athena.LETTER_SCHEMA,
    }
    found = {table.find(exp.Table).name: table for table in created(printed)}
    assert found.keys() == {f"stored_{name}" for name in expected}
    for name, columns in expected.items():
        defined = found[f"stored_{name}"].this.expressions
        types = [(x.name, arrow_type(x.args["kind"])) for x in defined]
        assert types == [(field.name, plain(field.type)) for field in columns]


def arrow_type(found: exp.DataType) -> pa.DataType:
    """What a type of the DDL, as sqlglot read it, is in Arrow."""
    kind = found.this.name
    if kind == "ARRAY":
        return pa.list_(arrow_type(found.expressions[0]))
    if kind == "STRUCT":
        return pa.struct([(x.name, arrow_type(x.args["kind"])) for x in found.expressions])
    simple = {
        "TEXT": pa.string(),
        "BIGINT": pa.int64(),
        "INT": pa.int32(),
        "TIMESTAMP": schema.TIMESTAMP,
    }
    return simple[kind]


def plain(type_: pa.DataType) -> pa.DataType:
    """A type of ours as it is in files: text is text, and lists and structs have no other names."""
    if pa.types.is_list(type_):
        return pa.list_(plain(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, plain(field.type)) for field in type_])
    return pa.string() if type_ == pa.string_view() else type_


def test_files_have_the_types_that_the_tables_say(output: Path) -> None:
    for table in athena.tables(DIMENSIONS):
        paths = list((output / table.folder).rglob("*.parquet"))
        assert paths or table.is_json, table.name
        for path in paths:
            stored = pq.read_schema(path)
            assert [(x.name, plain(x.type)) for x in stored] == [
                (x.name, plain(x.type)) for x in table.columns
            ]


def test_what_is_no_table_is_not_read_as_one(output: Path) -> None:
    """Athena reads all below a location but names that begin with a sign for hidden ones."""
    for table in athena.tables(DIMENSIONS):
        ending = ".jsonl.gz" if table.is_json else ".parquet"
        for path in (output / table.folder).rglob("*"):
            hidden = any(x[0] in "._" for x in path.relative_to(output / table.folder).parts)
            assert path.is_dir() or hidden or path.name.endswith(ending)


def test_locations_and_partitions(printed: str) -> None:
    assert f"LOCATION '{BUCKET}/dead-letters/'" in printed
    assert f"'storage.location.template' = '{BUCKET}/events/date=${{date}}/'" in printed
    assert printed.count("'projection.date.range' = '2026-01-01,NOW+2DAYS'") == 3
    assert printed.count("PARTITIONED BY (`date` string)") == 3
    assert printed.count("CREATE EXTERNAL TABLE") == 8
    assert printed.count("CREATE OR REPLACE VIEW") == len(VIEWS)


def in_duckdb(sql: str, output: Path) -> duckdb.DuckDBPyConnection:
    """The statements in DuckDB, with tables filled from the files below their locations."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for create in created(sql):
        name, columns = create.find(exp.Table).name, create.this.expressions
        folder = create.find(exp.LocationProperty).this.name.replace(BUCKET, str(output))
        types = {x.name: x.args["kind"].sql("duckdb") for x in columns}
        dated = {"date": "VARCHAR"} if "date=" in create.sql("athena") else {}
        defined = ", ".join(f'"{k}" {v}' for k, v in (types | dated).items())
        connection.execute(f"CREATE TABLE {name} ({defined})")
        listed = ", ".join(f'"{column}"' for column in types | dated)
        hive = f"hive_partitioning = {bool(dated)}, hive_types = {{'date': VARCHAR}}"
        if not dated:
            hive = "hive_partitioning = false"
        if "dead" in name:
            known = ", ".join(f"{column}: {kind!r}" for column, kind in types.items())
            source = f"read_json('{folder}**/*.jsonl.gz', columns = {{{known}}}, {hive})"
        else:
            source = f"read_parquet('{folder}**/*.parquet', {hive})"
        connection.execute(f"INSERT INTO {name} SELECT {listed} FROM {source}")
    for create in views(sql):
        connection.execute(create.transform(lateral).sql("duckdb"))
    return connection


def lateral(node: exp.Expression) -> exp.Expression:
    """Trino gives the fields of a row in a list as columns; DuckDB is asked for the same so."""
    if not isinstance(node, exp.Unnest):
        return node
    (items,) = node.expressions
    return sqlglot.parse_one(
        f"SELECT * FROM LATERAL (SELECT UNNEST({items.sql('duckdb')}, max_depth := 2)) x",
        dialect="duckdb",
    ).find(exp.Lateral)


def without_zone(value: Any) -> Any:
    """Times of Athena have no zone, and are UTC."""
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, list):
        return [without_zone(one) for one in value]
    if isinstance(value, dict):
        return {name: without_zone(one) for name, one in value.items()}
    return value


def test_the_views_show_what_those_of_duckdb_show(output: Path, printed: str) -> None:
    theirs = in_duckdb(printed, output)
    ours = duckdb.connect()
    ours.execute("SET TimeZone = 'UTC'")
    ours.execute((output / "views.sql").read_text())
    for view in VIEWS:
        names = [row[0] for row in ours.execute(f"DESCRIBE {view}").fetchall() if row[0] != "date"]
        more = [row[0] for row in theirs.execute(f"DESCRIBE {view}").fetchall()]
        assert set(more) - set(names) <= {"date"}
        arbitrary = ARBITRARY if view in ("events", "events_on_time") else ()
        listed = ", ".join(f'"{name}"' for name in names if name not in arbitrary)
        query = f"SELECT {listed} FROM {view} ORDER BY ALL"
        expected = [without_zone(list(row)) for row in ours.execute(query).fetchall()]
        found = [list(row) for row in theirs.execute(query).fetchall()]
        assert expected, f"{view} is empty, so nothing is compared"
        assert found == expected, view
    shown = "SELECT DISTINCT campaign_id FROM net_summaries WHERE campaign_id IN (?, ?)"
    assert theirs.execute(shown, [OTHER, "random"]).fetchall() == [(OTHER,)]
    (late,) = theirs.execute("SELECT count(*) FROM stored_late").fetchone() or (0,)
    assert late


def test_fields_of_lists_are_named_in_their_order(printed: str) -> None:
    """Trino names the fields of a row by their place."""
    lists = {
        "flags": [field.name for field in schema.FLAG_TYPE],
        "look_back_flags": [field.name for field in schema.LOOK_BACK_FLAG_TYPE],
        "anomalies": [field.name for field in schema.LOOK_BACK_FLAG_TYPE],
        "net_summaries": [field.name for field in schema.adjustment_type(DIMENSIONS)],
    }
    found = {
        create.this.name: [column.name for column in unnest.args["alias"].columns]
        for create in views(printed)
        for unnest in create.find_all(exp.Unnest)
    }
    assert found == lists


def test_windows_of_more_than_a_day_keep_copies_of_two_dates_together() -> None:
    assert 'window_ms, "date"' in athena.views_sql(86_400, 0, ())
    assert 'window_ms, "date"\n            ORDER' not in athena.views_sql(172_800, 0, ())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "say with --location"),
        (("--location", BUCKET), "has no adtally.json"),
        (("--location", BUCKET, "--since", "March"), "is no date"),
    ],
)
def test_what_cannot_be_printed(tmp_path: Path, more: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(cli, ["athena", "--output", str(tmp_path), *more])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())
