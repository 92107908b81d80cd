"""What Athena needs to query an output on S3: tables and views, made from the schemas.

Events, late events and dead letters are partitioned by date through partition projection, so no
partition is ever added by hand. Everything else is one table over its folder, as a partition by
generation would hide the rows of a correction until somebody tells Athena of it.
"""

from __future__ import annotations

import importlib.resources
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from adtally.io import schema
from adtally.io.files import join
from adtally.io.generations import COMMIT_SCHEMA
from adtally.io.views import is_folded, placed

SQL_NAME: Final = "athena.sql"
FIRST_DATE: Final = "2000-01-01"
"""Earlier times are dead letters."""

PREFIX: Final = "stored_"
"""Names of tables begin so; the views have the plain names."""

_DAY_SECONDS: Final = 86_400
_EPOCH: Final = "TIMESTAMP '1970-01-01 00:00:00.000'"
_HIVE_TYPES: Final = {
    pa.string(): "string",
    pa.string_view(): "string",
    pa.int64(): "bigint",
    pa.int32(): "int",
    schema.TIMESTAMP: "timestamp",
}
LATE_SCHEMA: Final = schema.EVENT_SCHEMA.append(pa.field("window_start", schema.TIMESTAMP))
LETTER_SCHEMA: Final = pa.schema(
    [
        *(
            pa.field(name, pa.string())
            for name in (
                "failed_at",  # ISO 8601, which the reader of JSON does not take for a time
                "stage",
                "error_type",
                "message",
                "source",
                "position",
                "payload",
                "payload_encoding",
            )
        ),
        pa.field("version", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Table:
    """A table over one folder of an output.

    Attributes:
        name: of the table.
        folder: below the output.
        columns: as they are in the files.
        dated: whether the folder is divided by ``date=``.
    """

    name: str
    folder: str
    columns: pa.Schema
    dated: bool = False

    @property
    def is_json(self) -> bool:
        """JSON lines; otherwise Parquet."""
        return self.folder == "dead-letters"


def tables(dimensions: Sequence[str]) -> list[Table]:
    """The tables of an output whose summaries have these dimensions."""
    return [
        Table(f"{PREFIX}events", "events", schema.EVENT_SCHEMA, dated=True),
        Table(f"{PREFIX}late", "late", LATE_SCHEMA, dated=True),
        Table(f"{PREFIX}summaries", "summaries", schema.summary_schema(dimensions)),
        Table(f"{PREFIX}flags", "flags", schema.FLAG_SCHEMA),
        Table(f"{PREFIX}verdicts", "verdicts", schema.verdict_schema(dimensions)),
        Table(f"{PREFIX}anomalies", "anomalies", schema.ANOMALY_SCHEMA),
        Table(f"{PREFIX}generations", "generations", COMMIT_SCHEMA),
        Table(f"{PREFIX}dead_letters", "dead-letters", LETTER_SCHEMA, dated=True),
    ]


def table_sql(table: Table, location: str, since: str = FIRST_DATE) -> str:
    """The CREATE EXTERNAL TABLE statement of a table.

    Args:
        table: what to create.
        location: address of the output on S3.
        since: the first date, YYYY-MM-DD; rows of earlier ones are not seen.
    """
    folder = join(location, table.folder) + "/"
    columns = ",\n".join(f"  `{field.name}` {hive_type(field.type)}" for field in table.columns)
    lines = [f"CREATE EXTERNAL TABLE IF NOT EXISTS {table.name} (\n{columns}\n)"]
    if table.dated:
        lines.append("PARTITIONED BY (`date` string)")
    lines.append(
        "ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'"
        if table.is_json
        else "STORED AS PARQUET"
    )
    lines.append(f"LOCATION {_quoted(folder)}")
    if table.dated:
        properties = {
            "projection.enabled": "true",
            "projection.date.type": "date",
            "projection.date.format": "yyyy-MM-dd",
            "projection.date.range": f"{since},NOW+2DAYS",
            "projection.date.interval": "1",
            "projection.date.interval.unit": "DAYS",
            "storage.location.template": f"{folder}date=${{date}}/",
        }
        pairs = ",\n".join(f"  {_quoted(k)} = {_quoted(v)}" for k, v in properties.items())
        lines.append(f"TBLPROPERTIES (\n{pairs}\n)")
    return "\n".join(lines) + ";\n"


def views_sql(window_seconds: int, allowed_lateness_seconds: int, dimensions: Sequence[str]) -> str:
    """The CREATE VIEW statements over the tables, in an order in which they can be run."""
    template = importlib.resources.files("adtally.io").joinpath(SQL_NAME)
    row = ["advertiser_id", *dimensions, "currency"]
    summary = schema.summary_schema(dimensions).names
    adjustment = [field.name for field in schema.adjustment_type(dimensions)]
    flag_row = [name for name in schema.FLAG_SCHEMA.names if name != "flags"]
    identity = [*row, "window_seconds", "window_start"]
    return string.Template(template.read_text(encoding="utf-8")).substitute(
        prefix=PREFIX,
        date=', "date"' if window_seconds <= _DAY_SECONDS else "",
        epoch=_EPOCH,
        window_ms=window_seconds * 1000,
        allowed_lateness_ms=allowed_lateness_seconds * 1000,
        event_columns=", ".join(schema.EVENT_SCHEMA.names),
        summary_columns=", ".join(summary),
        s_identity=", ".join(f"s.{name}" for name in identity),
        folded=is_folded(dimensions, "s."),
        placed=", ".join(placed(dimensions)),
        marked_measures=", ".join(f"a.{name}" for name in schema.ADJUSTED),
        latest_flags=_latest("flags", schema.FLAG_SCHEMA),
        latest_verdicts=_latest("verdicts", schema.verdict_schema(dimensions)),
        latest_anomalies=_latest("anomalies", schema.ANOMALY_SCHEMA),
        flag_row=", ".join(flag_row),
        flag_columns=", ".join(field.name for field in schema.FLAG_TYPE),
        look_back_columns=", ".join(field.name for field in schema.LOOK_BACK_FLAG_TYPE),
        verdict_columns=", ".join(schema.verdict_schema(dimensions).names),
        row=", ".join(row),
        matched=" AND ".join(f"a.{name} IS NOT DISTINCT FROM s.{name}" for name in row),
        adjustment_columns=", ".join(adjustment),
        adjusted_measures=", ".join(schema.ADJUSTED),
        adjusted_sums=", ".join(f"sum({name}) AS {name}" for name in schema.ADJUSTED),
        net_columns=", ".join(_net_columns(summary)),
    )


def hive_type(type_: pa.DataType) -> str:
    """What Athena calls a type of ours."""
    if pa.types.is_list(type_):
        return f"array<{hive_type(type_.value_type)}>"
    if pa.types.is_struct(type_):
        return f"struct<{','.join(f'{x.name}:{hive_type(x.type)}' for x in type_)}>"
    return _HIVE_TYPES[type_]


def _net_columns(summary: Sequence[str]) -> list[str]:
    """Columns of a summary with what rules that look back add to them, and what they suspect."""
    measures = [name.removeprefix("sivt_") for name in schema.ADJUSTED if name.startswith("sivt_")]
    replaced = {f"givt_{m}": f"s.givt_{m} + coalesce(a.givt_{m}, 0)" for m in measures}
    replaced |= {f"net_{m}": f"s.net_{m} - coalesce(a.givt_{m} + a.sivt_{m}, 0)" for m in measures}
    columns = [f"{replaced.get(name, f's.{name}')} AS {name}" for name in summary]
    return columns + [f"coalesce(a.sivt_{m}, 0) AS sivt_{m}" for m in measures]


def _latest(kind: str, columns: pa.Schema) -> str:
    """A WITH clause: of each window the ruling generation, of each row the highest version."""
    return f"""WITH ruling AS (
    SELECT w.window_start, coalesce(max(g.generation), 0) AS generation
    FROM (SELECT DISTINCT window_start, window_end FROM {PREFIX}{kind}) w
    LEFT JOIN generations g
        ON w.window_start >= g.range_from AND w.window_end <= g.range_to
    GROUP BY w.window_start
), placed AS (
    SELECT
        s.*,
        row_number() OVER (
            PARTITION BY s.advertiser_id, s.window_start ORDER BY s.version DESC
        ) AS place
    FROM {PREFIX}{kind} s
    JOIN ruling r ON s.window_start = r.window_start AND s.generation = r.generation
), latest AS (
    SELECT {", ".join(columns.names)} FROM placed WHERE place = 1
)"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
