"""``adtally query``: what it shows is what the views and stored roll-ups have; it reads little, and
nothing but the output."""

from __future__ import annotations

import csv
import datetime
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from adtally.io.parquet import LogWriter, write_table
from adtally.io.schema import EVENT_SCHEMA, summary_schema
from adtally.io.stored import Restriction
from adtally.pipelines.cli import cli
from adtally.pipelines.query import Limits, Query, QueryError, QueryFailed
from tests.io.test_views import START, table
from tests.pipelines.test_oracle import made_up, run, views
from tests.stores import ObjectStore
from tests.streams import until

HOUR = 3_600_000
MARCH = 1_772_323_200_000  # 2026-03-01
VIEWS = ("event_rows", "events", "events_on_time", "summaries", "net_summaries", "flags")
VIEWS += ("verdicts", "look_back_flags", "anomalies", "dead_letters", "generations")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days, broken down by country, with an hour corrected."""
    folder = tmp_path_factory.mktemp("query")
    logs, _ = made_up(folder, 11, events=6_000, hours=26, start_ms=MARCH)
    out = folder / "out"
    given = ("--dimensions", "country", "--rollup", "1h,1d")
    run("backfill", "--input", str(logs), "--output", str(out), *given)
    again = ("--from", "2026-03-01T03:00:00Z", "--to", "2026-03-01T04:00:00Z", "--rollup", "1h")
    run("backfill", "--input", f"{out}/events", "--output", str(out), *again)
    return out


def asked(output: Path | str, sql: str, seen: Restriction | None = None) -> list[dict[str, Any]]:
    with Query(str(output), seen) as query:
        return query.ask(sql).read_all().to_pylist()


def adtally(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["query", *arguments], input=text)


@pytest.mark.parametrize("view", VIEWS)
def test_views_have_what_the_shipped_ones_have(output: Path, view: str) -> None:
    # Of copies that are alike any may be the one that counts, so where it lay is not compared.
    left_out = " EXCLUDE (position)" if view.startswith("events") else ""
    shipped = views(output).sql(f"SELECT *{left_out} FROM {view}").to_arrow_table()
    names = ", ".join(f'"{name}"' for name in shipped.column_names)
    with Query(str(output)) as query:
        ours = query.ask(f"SELECT {names} FROM {view}").read_all()
    assert shipped.num_rows or view in ("anomalies",)
    assert sorted(map(repr, ours.to_pylist())) == sorted(map(repr, shipped.to_pylist()))


@pytest.mark.parametrize(("grain", "seconds"), [("hour", 3_600), ("day", 86_400)])
def test_roll_ups_are_those_that_adtally_stores(output: Path, grain: str, seconds: int) -> None:
    stored = f"FROM summaries WHERE window_seconds = {seconds}"
    where = ""
    if grain == "day":  # the corrected hour cuts the day, whose stored row is of before
        where = "WHERE window_start >= TIMESTAMPTZ '2026-03-02 00:00:00+00'"
        stored += " AND" + where.removeprefix("WHERE")
    made = f"FROM summaries_by('{grain}') {where}"
    assert asked(output, f"SELECT count(*) AS n FROM ({made})")[0]["n"] > 20
    assert asked(output, f"{made} EXCEPT ALL {stored}") == []
    assert asked(output, f"{stored} EXCEPT ALL {made}") == []


def test_users_beyond_the_hashes_kept_are_estimated_as_in_roll_ups(tmp_path: Path) -> None:
    logs, _ = made_up(tmp_path, 12, events=9_000, hours=3, start_ms=MARCH, advertisers=1)
    given = ("--input", str(logs), "--output", str(tmp_path / "out"), "--rollup", "1d")
    run("backfill", *given)
    columns = "currency, unique_users, unique_user_hashes"
    stored = f"SELECT {columns} FROM summaries WHERE window_seconds = 86400"
    made = f"SELECT {columns} FROM summaries_by('month')"
    found = asked(tmp_path / "out", stored)
    assert any(len(row["unique_user_hashes"]) == 1_024 for row in found)
    key = str
    assert sorted(asked(tmp_path / "out", made), key=key) == sorted(found, key=key)


def test_months_add_up_and_days_may_begin_elsewhere(output: Path) -> None:
    sums = "sum(net_clicks) AS clicks, sum(net_cost_micros) AS cost, sum(sivt_clicks) AS sivt"
    whole = asked(output, f"SELECT {sums} FROM net_summaries WHERE window_seconds = 60")
    assert whole[0]["clicks"] > 0
    for made in (
        "net_summaries_by('month')",
        "net_summaries_by('year', of_seconds := 3600)",
        "net_summaries_by('week', zone := 'Asia/Kolkata')",
    ):
        assert asked(output, f"SELECT {sums} FROM {made}") == whole, made
    local = asked(
        output,
        """SELECT window_start::VARCHAR AS began, window_seconds, sum(clicks) AS n
        FROM summaries_by('day', zone := 'America/New_York') GROUP BY ALL ORDER BY ALL""",
    )
    expected = asked(
        output,
        """SELECT (date_trunc('day', window_start - INTERVAL 5 HOUR) + INTERVAL 5 HOUR)::VARCHAR
            AS began, 86400 AS window_seconds, sum(clicks) AS n
        FROM summaries WHERE window_seconds = 60 GROUP BY ALL ORDER BY ALL""",
    )
    assert len(local) == 2
    assert local == expected


@pytest.mark.parametrize("start", ["2026-03-28T23:00Z", "2026-10-24T23:00Z"])
def test_hours_that_clocks_show_twice_or_never_are_hours(tmp_path: Path, start: str) -> None:
    start_ms = round(datetime.datetime.fromisoformat(start).timestamp() * 1000)
    logs, _ = made_up(tmp_path, 4, events=2_000, hours=4, start_ms=start_ms, advertisers=2)
    run("backfill", "--input", str(logs), "--output", str(tmp_path / "out"))
    shown = "SELECT * EXCLUDE (unique_user_hashes) FROM summaries_by('hour'"
    utc = asked(tmp_path / "out", f"{shown}) ORDER BY ALL")
    assert len({row["window_start"] for row in utc}) >= 4
    berlin = asked(tmp_path / "out", f"{shown}, zone := 'Europe/Berlin') ORDER BY ALL")
    assert berlin == utc


@pytest.mark.parametrize(
    ("macro", "said"),
    [
        ("summaries_by('minute')", "write hour, day, week, month, quarter or year"),
        ("summaries_by('hour', of_seconds := 86400)", "86400 s do not fit into one hour"),
    ],
)
def test_a_roll_up_that_cannot_be_is_refused(output: Path, macro: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        asked(output, f"FROM {macro}")


def test_a_range_and_an_advertiser_restrict_every_view(output: Path) -> None:
    shipped = views(output)
    hours = "SELECT advertiser_id FROM {} WHERE hour(window_start) BETWEEN 2 AND 9"
    both = f"{hours.format('flags')} INTERSECT {hours.format('verdicts')} ORDER BY 1 LIMIT 1"
    [[advertiser]] = shipped.execute(both).fetchall()
    seen = Restriction(MARCH + 2 * HOUR, MARCH + 10 * HOUR, (advertiser, "o'no"))
    for view, where in {
        "events": "occurred_at >= $1 AND occurred_at < $2",
        "summaries": "window_start >= $1 AND window_end <= $2",
        "net_summaries": "window_start >= $1 AND window_end <= $2",
        "flags": "window_start >= $1 AND window_end <= $2",
        "verdicts": "window_start >= $1 AND window_end <= $2",
    }.items():
        columns = "* EXCLUDE (date, hour, position)" if view == "events" else "*"
        shown = "* EXCLUDE (position)" if view == "events" else "*"
        ours = asked(output, f"SELECT {columns} FROM {view}", seen)
        query = f"SELECT {shown} FROM {view} WHERE advertiser_id = '{advertiser}' AND {where}"
        times = ["2026-03-01 02:00:00+00", "2026-03-01 10:00:00+00"]
        expected = shipped.sql(query, params=times).to_arrow_table().to_pylist()
        assert expected, view
        assert sorted(map(repr, ours)) == sorted(map(repr, expected)), view
    with pytest.raises(QueryError, match="dead letters belong to no advertiser"):
        asked(output, "FROM dead_letters", seen)
    cut = "window_start >= TIMESTAMPTZ '2026-03-01 04:00:00+00'"
    half = Restriction(MARCH + 4 * HOUR + HOUR // 2, MARCH + 5 * HOUR)
    late = cut.replace("04:00", "04:30") + " AND window_start < TIMESTAMPTZ '2026-03-01 05:00+00'"
    net = "SELECT sum(net_clicks) AS n, sum(sivt_clicks) AS s FROM net_summaries"
    where = f"WHERE window_seconds = 60 AND {late}"
    assert asked(output, net, half) == asked(output, f"{net} {where}")


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hours of 300,000 events in row groups of many advertisers, without a backfill."""
    out = tmp_path_factory.mktemp("tenants")
    one = table(EVENT_SCHEMA, [{"event_type": "click", "source": "s"}])
    writer = LogWriter(str(out / "events"))
    random = numpy.random.default_rng(1)
    for hour in range(3):
        numbers = pa.array(range(300_000))
        columns: dict[str, Any] = {
            "event_id": pa.array(random.integers(1 << 62, size=300_000)).cast(pa.string()),
            "advertiser_id": pc.utf8_lpad(pc.divide(numbers, 150).cast(pa.string()), 5, "0"),
            "occurred_at": pa.array([START + hour * HOUR] * 300_000, pa.int64()),
            "position": numbers,
        }
        events = pa.table(
            [
                columns[field.name].cast(field.type)
                if field.name in columns
                else pa.repeat(one[field.name][0], 300_000)
                for field in EVENT_SCHEMA
            ],
            schema=EVENT_SCHEMA,
        )
        writer.write(events, f"b{hour}", "0")
    writer.close()
    settings = {"window_seconds": 60, "dimensions": [], "allowed_lateness_seconds": 3_600}
    (out / "adtally.json").write_text(json.dumps(settings))
    return out


COUNT = "SELECT count(*) AS n FROM events"
HOUR_2 = "date = '2024-01-01' AND hour = 2"


@pytest.mark.parametrize(
    ("where", "seen"),
    [
        (f"WHERE advertiser_id = '00700' AND {HOUR_2}", None),
        ("", Restriction(START + 2 * HOUR, START + 3 * HOUR, ("00700",))),
    ],
)
def test_one_tenant_and_hour_reads_one_row_group_of_one_file(
    tenants: Path, where: str, seen: Restriction | None
) -> None:
    with Query(str(tenants), seen) as query:
        assert query.ask(f"{COUNT} {where}").read_all().to_pylist() == [{"n": 150}]
        cost = query.explain(f"{COUNT} {where}")
    assert (cost.files_read, cost.row_groups_read, cost.row_groups) == (1, 1, 74)
    stored = sum(path.stat().st_size for path in (tenants / "events").rglob("*.parquet"))
    assert cost.bytes_read is not None
    assert 1_000 < cost.bytes_read < stored / 30


def test_objects_are_read_by_the_ranges_that_a_query_needs(
    tenants: Path, store: ObjectStore
) -> None:
    bucket = store.make_bucket()
    whole = 0
    for path in tenants.rglob("*"):
        if path.is_file():
            store.put(bucket, f"out/{path.relative_to(tenants)}", path.read_bytes())
            whole += path.stat().st_size
    with Query(f"{store.scheme}://{bucket}/out") as query:
        sql = f"{COUNT} WHERE advertiser_id = '00700' AND {HOUR_2}"
        cost = query.explain(sql)
        assert query.ask(sql).read_all().to_pylist() == [{"n": 150}]
        assert cost.files_read == 1
        assert cost.bytes_read is not None
        assert 1_000 < cost.bytes_read < whole / 30
        with pytest.raises(QueryError, match="disabled"):
            query.ask(f"FROM read_text('{store.scheme}://{bucket}/out/adtally.json')")
    with Query(f"{store.scheme}://{bucket}/out") as query:
        store.put(bucket, "out/events/date=2024-01-01/hour=02/b2-00000.parquet", b"PAR1")
        with pytest.raises((QueryError, QueryFailed), match="hour=02"):
            query.ask(sql).read_all()


def test_an_output_in_a_store_gives_what_the_disk_gives(output: Path, store: ObjectStore) -> None:
    bucket = store.make_bucket()
    for path in output.rglob("*"):
        if path.is_file():
            store.put(bucket, f"out/{path.relative_to(output)}", path.read_bytes())
    for sql in ("FROM summaries_by('day') ORDER BY ALL", "FROM dead_letters ORDER BY ALL"):
        assert asked(f"{store.scheme}://{bucket}/out", sql) == asked(output, sql)


def test_files_of_older_schemas_are_read_with_newer_ones(tmp_path: Path, tenants: Path) -> None:
    shutil.copy(tenants / "adtally.json", tmp_path)
    row = {"window_start": START, "window_end": START + 60_000, "window_seconds": 60, "clicks": 3}
    new = table(summary_schema(), [row | {"advertiser_id": "new"}])
    old = table(summary_schema(), [row | {"advertiser_id": "old"}]).drop_columns(["net_clicks"])
    folder = tmp_path / "summaries" / "window=60s" / "generation=0" / "date=2024-01-01"
    write_table(new, str(folder / "1.parquet"))
    write_table(old, str(folder / "0.parquet"))
    write_table(new, str(folder / "_empty.parquet"))  # names that begin so are nobody's rows
    found = asked(tmp_path, "SELECT advertiser_id, clicks, net_clicks FROM summaries ORDER BY ALL")
    assert [tuple(row.values()) for row in found] == [("new", 3, 0), ("old", 3, None)]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{0}'",
        "WITH t AS (COPY (SELECT 1) TO '{0}') SELECT * FROM t",
        "FROM query('WITH t AS (COPY (SELECT 1) TO ''{0}'') SELECT * FROM t')",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{0}'",
        "SELECT 1; COPY (SELECT 1) TO '{0}'",
        "SELECT 1) AS a; COPY (SELECT 1) TO '{0}'; SELECT * FROM (SELECT 1",
        "ATTACH '{0}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "CREATE TABLE t AS SELECT 1",
        "WITH t AS (INSERT INTO events VALUES (1) RETURNING *) SELECT * FROM t",
        "DROP VIEW events",
        "PRAGMA database_list",
        "",
        "-- nothing",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('s3://elsewhere/x.parquet')",
        "SELECT * FROM read_csv('https://example.org/x.csv')",
        "SELECT getenv('HOME')",
        "SELECT * FROM sql",  # a variable of Python's
    ],
)
def test_nothing_is_written_and_nothing_else_read(output: Path, tmp_path: Path, sql: str) -> None:
    event_file = next((output / "events").rglob("*.parquet"))
    before = event_file.read_bytes()
    with Query(str(output)) as query:
        for target in (tmp_path / "written", event_file):
            text = sql.replace("{0}", str(target))
            with pytest.raises((QueryError, QueryFailed)):
                query.ask(text).read_all()
            with pytest.raises((QueryError, QueryFailed)):
                query.explain(text)
    assert list(tmp_path.iterdir()) == []
    assert event_file.read_bytes() == before


def test_what_does_not_fit_into_memory_spills(tenants: Path, tmp_path: Path) -> None:
    sql = "SELECT count(DISTINCT event_id || advertiser_id || hour) AS n FROM event_rows"
    with Query(str(tenants), limits=Limits("150MB", 1, str(tmp_path))) as query:
        assert query.ask(sql).read_all().to_pylist() == [{"n": 900_000}]
        spilled = "SELECT max(size) AS n FROM duckdb_temporary_files()"
        assert [path.name[:14] for path in tmp_path.iterdir()] == ["adtally-query-"]
        query.ask(spilled).read_all()
    assert list(tmp_path.iterdir()) == []
    with (
        Query(str(tenants), limits=Limits("10MB", 1, str(tmp_path))) as query,
        pytest.raises(QueryFailed, match="higher --memory"),
    ):
        query.ask("SELECT list(event_id) FROM event_rows").read_all()


def test_a_query_that_is_interrupted_ends_as_such(output: Path, tmp_path: Path) -> None:
    endless = "SELECT count(*) FROM range(1000000000000) t(i) WHERE i % 7 = random()"
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from adtally.pipelines.cli import main; main()"
    )
    arguments = ("query", endless, "--output", str(output), "--temp", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: any(tmp_path.iterdir()), "the output is opened")
        used = psutil.Process(process.pid).cpu_times
        before = used().user
        until(lambda: used().user > before + 1, "it computes")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "adtally: interrupted; nothing was changed\n")
    assert list(tmp_path.iterdir()) == []


ROWS = "SELECT 1 AS a, 'x,y' AS b, [1, 2] AS c, NULL AS d, window_start FROM summaries"
ROWS += " ORDER BY window_start LIMIT 1"


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("csv", 'a,b,c,d,window_start\n1,"x,y","[1,2]",,2026-03-01T'),
        ("json", '{"a":1,"b":"x,y","c":[1,2],"d":null,"window_start":"2026-03-01T'),
    ],
)
def test_answers_are_saved_and_printed(
    output: Path, tmp_path: Path, ending: str, expected: str
) -> None:
    arguments = (ROWS, "--output", str(output))
    done = adtally(*arguments, "--save", str(tmp_path / f"x.{ending}"))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "1 rows in" in done.stderr
    saved = (tmp_path / f"x.{ending}").read_text()
    assert saved.startswith(expected)
    assert adtally(*arguments, "--format", ending).stdout == saved


def test_a_saved_answer_has_every_row_in_order(output: Path, tmp_path: Path) -> None:
    sql = "SELECT i, i % 7 AS b FROM range(150000) t(i) ORDER BY b, i DESC; -- the end\n"
    for name in ("x.csv", "x.parquet"):
        done = adtally("-", "--output", str(output), "--save", str(tmp_path / name), text=sql)
        assert done.exit_code == 0, done.output
    expected = sorted(((i, i % 7) for i in range(150_000)), key=lambda row: (row[1], -row[0]))
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["i", "b"]
    assert [(int(i), int(b)) for i, b in rows[1:]] == expected
    stored = pq.read_table(tmp_path / "x.parquet")
    assert list(zip(*(column.to_pylist() for column in stored.columns), strict=True)) == expected


def test_a_table_says_where_it_ends_and_how_it_was_read(output: Path) -> None:
    shown = adtally("SELECT i, '[x]' AS m FROM range(9) t(i)", "--output", str(output), "--rows=3")
    assert "│ 2 │ [x] │" in shown.stdout
    assert "│ 3 │" not in shown.stdout
    assert "--rows shows more than 3" in shown.stderr
    told = adtally(
        "FROM events", "--output", str(output), "--explain", "--to", "2026-03-01T01:00:00Z"
    ).stdout
    assert "files read       1 of" in told
    assert "Projections" in told


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("SELECT 1\nFROM sumaries",), 2, "Did you mean summaries?\nLINE 2: FROM sumaries"),
        (("FROM nowhere",), 2, "There are anomalies, dead_letters"),
        (("FROM summaries_bi('day')",), 2, "Did you mean summaries_by?"),
        (("SELECT cliks FROM summaries",), 2, '"clicks"'),
        (("SELECT\n1 +",), 2, "LINE 2"),
        (("SELECT 1", "--from", "2026-03-01T00:00:30Z"), 2, "cuts a window of 60 s"),
        (("SELECT 1", "--from", "2026-03-02", "--to", "2026-03-01"), 2, "is not before --to"),
        (("SELECT 1", "--memory", "lots"), 2, "--memory lots"),
        (("SELECT 1", "--format", "parquet"), 2, "--save FILE.parquet"),
        (("SELECT 1", "--save", "x.txt"), 2, "give --format too"),
        (("SELECT 1", "--save", "{0}/events/x.csv"), 2, "inside of the output"),
        (("SELECT 1", "--advertsier", "x"), 2, "Did you mean --advertiser?"),
        (("SELECT 9223372036854775807::HUGEINT * 2 AS n",), 1, "column n has numbers beyond"),
        (("SELECT 1", "--output", "{0}/events"), 2, "is no output of adtally"),
    ],
)
def test_mistakes_are_told_in_a_line(
    output: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    given = [argument.replace("{0}", str(output)) for argument in arguments]
    done = adtally("--output", str(output), *given)
    assert done.exit_code == code
    assert said in done.output
    assert "Traceback" not in done.output


def test_options_come_from_a_file_and_the_environment(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q.toml").write_text(f"output = '{output}'\nformat = 'json'\nthreads = 1\n")
    assert adtally("SELECT 1 AS a", "--config", str(tmp_path / "q.toml")).stdout == '{"a":1}\n'
    monkeypatch.setenv("ADTALLY_FORMAT", "csv")
    assert adtally("SELECT 1 AS a", "--output", str(output)).stdout == "a\n1\n"
