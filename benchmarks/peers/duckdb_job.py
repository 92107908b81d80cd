"""The job in DuckDB."""

import json
import sys

import duckdb

from benchmarks.peers.sql import COUNTED, FIELDS, FLAGS, GOOD, SUMMARIES


def main(logs: str, output: str) -> None:
    sql = duckdb.connect()
    sql.execute("SET TimeZone = 'UTC'; SET threads = 2")
    columns = ", ".join(f"{name}: 'VARCHAR'" for name in FIELDS)
    sql.execute(
        f"""CREATE TABLE events AS SELECT *, date_trunc('minute', happened) AS minute FROM (
            SELECT *, try_cast(occurred_at AS TIMESTAMPTZ)::TIMESTAMP AS happened,
                try_cast(cost_micros AS BIGINT) AS cost,
                try_cast(revenue_micros AS BIGINT) AS revenue
            FROM read_json('{logs}/*/*.jsonl.gz', format = 'newline_delimited',
                ignore_errors = true, columns = {{{columns}}})) WHERE {GOOD}"""
    )
    sql.execute(
        f"""COPY (SELECT * EXCLUDE (happened, minute, cost, revenue),
                strftime(happened, '%Y-%m-%d') AS date, hour(happened) AS hour FROM events)
            TO '{output}/events' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (date, hour))"""
    )
    sql.execute(f"CREATE TABLE counted AS {COUNTED}")
    sql.execute(f"CREATE TABLE summaries AS {SUMMARIES}")
    sql.execute(f"COPY summaries TO '{output}/summaries.parquet' (FORMAT parquet)")
    sql.execute(f"CREATE TABLE flags AS {FLAGS}")
    sql.execute(f"COPY flags TO '{output}/flags.parquet' (FORMAT parquet)")
    row = sql.execute(
        """SELECT (SELECT count(*) FROM events), sum(impressions), sum(clicks), sum(conversions),
            sum(cost_micros), count(*), (SELECT count(*) FROM flags) FROM summaries"""
    ).fetchall()[0]
    names = ("events", "impressions", "clicks", "conversions", "cost", "rows", "flags")
    print(json.dumps(dict(zip(names, map(int, row), strict=True))))


main(*sys.argv[1:])
