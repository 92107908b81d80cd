"""The shipped views: they work on an empty output too, and count every event once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from adtally.io.dead_letters import DeadLetter, write_dead_letters
from adtally.io.generations import commit
from adtally.io.parquet import LogWriter, write_table
from adtally.io.schema import EVENT_SCHEMA, FLAG_SCHEMA, summary_schema
from adtally.io.views import seed_views, views_sql, write_views

START = 1_704_067_200_000  # 2024-01-01T00:00:00Z
MINUTE = 60_000


def opened(output: Path, dimensions: Sequence[str] = ()) -> duckdb.DuckDBPyConnection:
    path = write_views(str(output), 60, 3_600, dimensions)
    connection = duckdb.connect()
    connection.execute(Path(path).read_text(encoding="utf-8"))
    return connection


def table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows with what they do not say null, or some value where null is not allowed."""
    filler = {pa.string(): "-", pa.string_view(): "-", pa.list_(pa.int64()): []}
    arrays = [
        pa.array(
            [
                row.get(field.name, None if field.nullable else filler.get(field.type, 0))
                for row in rows
            ],
            field.type,
        )
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def write_events(output: Path, *rows: dict[str, Any]) -> None:
    writer = LogWriter(str(output / "events"))
    writer.write(table(EVENT_SCHEMA, list(rows)), "b", "0")
    writer.close()


def write_summary(output: Path, generation: int, minute: int, clicks: int, version: int) -> None:
    start = START + minute * MINUTE
    row = {
        "window_start": start,
        "window_end": start + MINUTE,
        "window_seconds": 60,
        "advertiser_id": "a",
        "currency": "XXX",
        "clicks": clicks,
        "generation": generation,
        "version": version,
    }
    folder = output / "summaries" / "window=60s" / f"generation={generation}" / "date=2024-01-01"
    write_table(
        table(summary_schema(), [row]), str(folder / f"{minute}-{version}-{clicks}.parquet")
    )


@pytest.mark.parametrize("dimensions", [(), ("campaign_id", "country")])
def test_an_empty_output_has_empty_views_with_typed_columns(
    tmp_path: Path, dimensions: tuple[str, ...]
) -> None:
    connection = opened(tmp_path, dimensions)
    for view in ("events", "events_on_time", "generations", "summaries", "flags", "dead_letters"):
        assert connection.execute(f"SELECT * FROM {view}").fetchall() == []
    columns = connection.execute("SELECT * FROM summaries").description
    assert columns is not None
    assert [name for name, *_ in columns] == summary_schema(dimensions).names
    types = {row[0]: row[1] for row in connection.execute("DESCRIBE dead_letters").fetchall()}
    assert types["failed_at"] == "TIMESTAMP WITH TIME ZONE"
    assert types["payload"] == "VARCHAR"
    connection.execute(
        "SELECT rule, subject, evidence[1], window_start + INTERVAL 1 DAY FROM flags"
    )


def test_an_output_may_hold_quotes_and_blanks_in_its_name(tmp_path: Path) -> None:
    output = tmp_path / "it's an $output ${events}"
    write_events(output, {"event_id": "1", "occurred_at": START})
    assert opened(output).execute("SELECT count(*) FROM events").fetchall() == [(1,)]


def test_an_event_counts_once_whatever_the_log_holds(tmp_path: Path) -> None:
    first = {"event_id": "1", "occurred_at": START + 5, "position": 0, "content_hash": 9}
    write_events(
        tmp_path,
        first,
        first,  # the same row twice, as the log may have it
        first | {"position": 10, "occurred_at": START + 3},  # a duplicate; the earliest wins
        first | {"position": 20, "occurred_at": START + 3, "content_hash": 8},  # and the least hash
        first | {"position": 30, "event_type": "click"},
        first | {"position": 40, "advertiser_id": "b"},
        first | {"position": 50, "occurred_at": START + MINUTE},  # another window
    )
    connection = opened(tmp_path)
    assert connection.execute("SELECT count(*) FROM event_rows").fetchall() == [(6,)]
    assert connection.execute("SELECT position FROM events ORDER BY 1").fetchall() == [
        (20,),
        (30,),
        (40,),
        (50,),
    ]


def test_late_events_count_in_one_view_only(tmp_path: Path) -> None:
    end = START + MINUTE + 3_600_000  # of the allowed lateness
    write_events(
        tmp_path,
        {"event_id": "1", "occurred_at": START, "received_at": end},
        {"event_id": "2", "occurred_at": START, "received_at": end + 1},
        {"event_id": "3", "occurred_at": START},
    )
    connection = opened(tmp_path)
    ids = "SELECT event_id FROM {} ORDER BY 1"
    assert connection.execute(ids.format("events")).fetchall() == [("1",), ("2",), ("3",)]
    assert connection.execute(ids.format("events_on_time")).fetchall() == [("1",), ("3",)]


def test_a_generation_is_seen_when_it_is_committed_and_only_in_its_range(tmp_path: Path) -> None:
    for minute in range(3):
        write_summary(tmp_path, 0, minute, clicks=1, version=5)
    write_summary(tmp_path, 0, 0, clicks=2, version=6)  # a later state of the same row
    write_summary(tmp_path, 1, 1, clicks=30, version=(1 << 40) + 1)
    seen = "SELECT epoch_ms(window_start), clicks FROM summaries ORDER BY 1"
    before = [(START, 2), (START + MINUTE, 1), (START + 2 * MINUTE, 1)]
    assert opened(tmp_path).execute(seen).fetchall() == before
    commit(str(tmp_path), 1, [(START + MINUTE, START + 2 * MINUTE)], START)
    after = [(START, 2), (START + MINUTE, 30), (START + 2 * MINUTE, 1)]
    assert opened(tmp_path).execute(seen).fetchall() == after


def test_flags_are_one_row_a_verdict_of_the_highest_version(tmp_path: Path) -> None:
    def row(version: int, subjects: list[str]) -> dict[str, Any]:
        flags = [{"rule": "r", "subject": subject, "count": 7} for subject in subjects]
        times = {"window_start": START, "window_end": START + MINUTE}
        return {**times, "advertiser_id": "a", "flags": flags, "version": version}

    folder = tmp_path / "flags" / "generation=0" / "date=2024-01-01"
    rows = [row(1, ["x", "y", "z"]), row(2, ["x", "y"])]
    write_table(table(FLAG_SCHEMA, rows), str(folder / "a.parquet"))
    found = opened(tmp_path).execute("SELECT advertiser_id, subject, count FROM flags ORDER BY 2")
    assert found.fetchall() == [("a", "x", 7), ("a", "y", 7)]


def test_dead_letters_are_readable_also_very_long_ones(tmp_path: Path) -> None:
    letters = [
        DeadLetter.of(
            failed_at=START,
            stage="decode",
            error_type="invalid_json",
            message="m",
            source="/logs/a.jsonl",
            position=str(n),
            payload=payload,
        )
        for n, payload in enumerate([b"text", b"\xff", b'"\\\r\t\x00', b"z" * (20 << 20)])
    ]
    write_dead_letters(letters, str(tmp_path / "dead-letters"), "b-00000")
    found = opened(tmp_path).execute(
        "SELECT epoch_ms(failed_at), payload_encoding, length(payload), version"
        " FROM dead_letters ORDER BY position"
    )
    assert found.fetchall() == [
        (START, "utf-8", 4, 1),
        (START, "base64", 4, 1),
        (START, "utf-8", 5, 1),
        (START, "utf-8", 20 << 20, 1),
    ]


def test_the_text_says_where_the_data_is(tmp_path: Path) -> None:
    write_events(tmp_path, {"event_id": "1", "occurred_at": START})
    text = views_sql(str(tmp_path), 10, 60, ())
    assert f"'{tmp_path}/events/**/*.parquet'" in text
    assert "// 10000 * 10000" in text
    assert "${" not in text


def test_views_of_a_stream_are_written_once_and_see_what_comes_later(tmp_path: Path) -> None:
    seed_views(str(tmp_path), ())
    connection = opened(tmp_path)
    kinds = ("events", "summaries", "flags", "verdicts", "anomalies", "dead_letters", "generations")

    def rows() -> dict[str, int]:
        return {
            kind: connection.execute(f"SELECT count(*) FROM {kind}").fetchall()[0][0]
            for kind in kinds
        }

    assert set(rows().values()) == {0}
    event = {"event_type": "click", "event_id": "e", "advertiser_id": "a", "occurred_at": START}
    write_events(tmp_path, event)
    write_summary(tmp_path, 0, 0, 1, 1)
    letter = DeadLetter.of(
        failed_at=START, stage="decode", error_type="x", message="m", source="s", position="1",
        payload=b"{",
    )  # fmt: skip
    for number in range(2):  # read again by a stream that was started again
        again = dataclasses.replace(letter, failed_at=START + number)
        write_dead_letters([again], str(tmp_path / "dead-letters"), f"b-{number}")
    assert {kind: count for kind, count in rows().items() if count} == {
        "events": 1,
        "summaries": 1,
        "dead_letters": 1,
    }
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    seed_views(str(tmp_path), ())
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
