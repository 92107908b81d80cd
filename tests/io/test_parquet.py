"""Parquet files of the event log: partitions, order, determinism, and failure in the thread."""

from __future__ import annotations

import datetime
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adtally.io import parquet
from adtally.io.arrow import with_tag
from adtally.io.parquet import LogWriter, date_partition, log_partition, write_table
from adtally.io.schema import EVENT_SCHEMA, TIMESTAMP
from adtally.io.sinks import split_by_date

START = 1_704_067_200_000  # 2024-01-01T00:00:00Z
HOUR = 3_600_000


def events(rows: list[tuple[int, str]], first: int = 0) -> pa.Table:
    """Events of (milliseconds, advertiser), numbered from ``first``."""
    count = len(rows)
    columns: dict[str, Any] = {
        "event_id": [f"e{first + n:06}" for n in range(count)],
        "event_type": ["click"] * count,
        "occurred_at": [at for at, _ in rows],
        "advertiser_id": [advertiser for _, advertiser in rows],
        "user_agent": [None if n % 3 else f"agent {n % 5} é" for n in range(count)],
        "source": ["/logs/a.jsonl"] * count,
        "position": [n * 100 for n in range(count)],
        "record_index": [0] * count,
        "content_hash": list(range(count)),
    }
    arrays = [
        pa.array(columns.get(field.name, [None] * count), field.type) for field in EVENT_SCHEMA
    ]
    return pa.table(arrays, schema=EVENT_SCHEMA)


def random_rows(count: int, hours: int, seed: int = 1) -> list[tuple[int, str]]:
    rng = random.Random(seed)
    return [
        (START + rng.randrange(hours * HOUR), f"advertiser-{rng.randrange(20):02}")
        for _ in range(count)
    ]


def visible(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(folder: Path, *tables: pa.Table, block: str = "b") -> dict[str, bytes]:
    writer = LogWriter(str(folder))
    for number, table in enumerate(tables):
        writer.write(table, block, str(number))
    writer.close()
    return visible(folder)


def read_all(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(folder.rglob("*.parquet")):
        rows += pq.ParquetFile(path).read().to_pylist()
    return sorted(rows, key=lambda row: row["event_id"])


def test_partitions_are_hours_in_utc() -> None:
    assert log_partition(START) == "date=2024-01-01/hour=00"
    assert log_partition(START - 1) == "date=2023-12-31/hour=23"
    assert log_partition(START + HOUR - 1) == "date=2024-01-01/hour=00"
    assert log_partition(-1) == "date=1969-12-31/hour=23"
    assert date_partition(START - 1) == "date=2023-12-31"


def test_events_lie_in_the_partition_of_their_hour(tmp_path: Path) -> None:
    edges = [START, START + HOUR - 1, START + HOUR, START - 1, START + 23 * HOUR, -1, -HOUR]
    written = write(tmp_path, events([(at, "a") for at in edges]))
    assert set(written) == {f"{log_partition(at)}/b-00000.parquet" for at in edges}
    for name in written:
        for at in pq.ParquetFile(tmp_path / name).read()["occurred_at"].to_pylist():
            assert name.startswith(f"date={at:%Y-%m-%d}/hour={at:%H}/")


def test_every_row_comes_back_as_it_was(tmp_path: Path) -> None:
    tables = [events(random_rows(500, 5, seed), seed * 500) for seed in range(3)]
    write(tmp_path, *tables)
    assert read_all(tmp_path) == pa.concat_tables(tables).to_pylist()


def test_row_groups_are_sorted_by_advertiser(tmp_path: Path) -> None:
    chunks = [events(random_rows(2_000, 2, seed), seed * 2_000) for seed in range(3)]
    written = write(tmp_path, *chunks)
    assert len(written) == 2
    for name in written:
        file = pq.ParquetFile(tmp_path / name)
        assert file.num_row_groups == 3  # one of each chunk
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            advertisers = table["advertiser_id"].to_pylist()
            assert advertisers == sorted(advertisers)
            # Those of one advertiser keep the order of the input.
            keys = list(zip(advertisers, table["event_id"].to_pylist(), strict=True))
            assert keys == sorted(keys)


def test_files_say_plain_strings_and_utc_to_other_readers(tmp_path: Path) -> None:
    (name,) = write(tmp_path, with_tag(events([(START, "a")]), block="b"))
    schema = pq.ParquetFile(tmp_path / name).schema_arrow
    assert schema.names == EVENT_SCHEMA.names
    for field, ours in zip(schema, EVENT_SCHEMA, strict=True):
        assert field.type == (pa.string() if ours.type == pa.string_view() else ours.type)
        assert field.nullable == ours.nullable
    assert pq.ParquetFile(tmp_path / name).metadata.metadata is None


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    tables = [events(random_rows(3_000, 4, seed)) for seed in range(2)]
    first = write(tmp_path / "one", *tables)
    assert first == write(tmp_path / "two", *tables)
    assert first == write(tmp_path / "one", *tables)  # again, over the files of the first time
    assert len(first) == 4


@pytest.mark.parametrize("open_files", [1, 3, 32])
def test_more_partitions_than_open_files_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_files: int
) -> None:
    monkeypatch.setattr(parquet, "MAX_OPEN_FILES", open_files)
    hours = 2 * open_files + 5
    tables = [events(random_rows(400, hours, seed), seed * 400) for seed in range(4)]
    written = write(tmp_path, *tables)
    assert all(name.endswith(".parquet") for name in written)
    assert len(written) > hours
    assert read_all(tmp_path) == pa.concat_tables(tables).to_pylist()


def test_a_new_block_finishes_the_files_of_the_one_before(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path))
    writer.write(events([(START, "a")]), "one", "0")
    writer.write(events([(START, "a")], 1), "two", "0")
    assert "date=2024-01-01/hour=00/one-00000.parquet" in visible(tmp_path)
    writer.close()
    assert set(visible(tmp_path)) == {
        "date=2024-01-01/hour=00/one-00000.parquet",
        "date=2024-01-01/hour=00/two-00000.parquet",
    }


def test_nothing_is_visible_before_close_and_nothing_remains_after_abort(tmp_path: Path) -> None:
    writer = LogWriter(str(tmp_path))
    writer.write(events(random_rows(100, 3)), "b", "0")
    writer.write(events(random_rows(100, 3)), "b", "1")
    assert not [name for name in visible(tmp_path) if not name.endswith(".tmp")]
    writer.abort()
    assert visible(tmp_path) == {}


def test_abort_right_after_a_write_leaves_nothing(tmp_path: Path) -> None:
    for number in range(5):
        writer = LogWriter(str(tmp_path / str(number)))
        writer.write(events(random_rows(20_000, 30)), "b", "0")  # still running in the thread
        writer.abort()
    assert visible(tmp_path) == {}


def test_close_raises_what_failed_in_the_thread_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = parquet._OpenFile.write
    written = []

    def write(self: Any, table: pa.Table) -> None:
        written.append(table.num_rows)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        original(self, table)

    monkeypatch.setattr(parquet._OpenFile, "write", write)
    writer = LogWriter(str(tmp_path))
    writer.write(events(random_rows(500, 5)), "b", "0")
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert visible(tmp_path) == {}


def test_a_failure_is_raised_by_the_next_write_at_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet._OpenFile, "write", fail)
    writer = LogWriter(str(tmp_path))
    writer.write(events(random_rows(500, 5)), "b", "0")
    with pytest.raises(OSError, match="No space left"):
        writer.write(events(random_rows(500, 5)), "b", "1")
    writer.abort()
    assert visible(tmp_path) == {}


def test_a_failure_while_a_file_is_finished_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "MAX_OPEN_FILES", 2)
    monkeypatch.setattr(parquet.AtomicFile, "commit", fail)
    writer = LogWriter(str(tmp_path))
    writer.write(events(random_rows(500, 5)), "b", "0")
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert visible(tmp_path) == {}


# --- whole tables --------------------------------------------------------------------------------


def test_write_table_gives_the_same_file_each_time(tmp_path: Path) -> None:
    table = events(random_rows(1_000, 5))
    path = tmp_path / "deep" / "er" / "t.parquet"
    write_table(table, str(path))
    first = path.read_bytes()
    assert pq.ParquetFile(path).read().to_pylist() == table.to_pylist()
    write_table(table, str(path))
    assert path.read_bytes() == first
    assert list(visible(tmp_path)) == ["deep/er/t.parquet"]


def test_write_table_of_no_rows_can_be_read(tmp_path: Path) -> None:
    write_table(EVENT_SCHEMA.empty_table(), str(tmp_path / "t.parquet"))
    assert pq.ParquetFile(tmp_path / "t.parquet").read().num_rows == 0


def windows(*starts: int) -> pa.Table:
    return pa.table(
        {"window_start": pa.array(starts, TIMESTAMP), "n": pa.array(range(len(starts)), pa.int64())}
    )


def test_split_by_date_gives_each_row_once_to_its_day() -> None:
    day = 24 * HOUR
    table = windows(START + day, START, START + day - 1, START - 1, START + 2 * day - 1, -1)
    parts = dict(split_by_date(with_tag(table, part="p")))
    assert {name: part["n"].to_pylist() for name, part in parts.items()} == {
        "date=1969-12-31": [5],
        "date=2023-12-31": [3],
        "date=2024-01-01": [1, 2],
        "date=2024-01-02": [0, 4],
    }
    for part in parts.values():
        assert part.schema == table.schema
        assert part.schema.metadata is None


def test_split_by_date_of_one_day_or_no_rows() -> None:
    ((name, part),) = split_by_date(windows(START, START + 5))
    assert (name, part.num_rows) == ("date=2024-01-01", 2)
    assert list(split_by_date(windows())) == []


def test_split_by_date_of_chunked_tables() -> None:
    day = 24 * HOUR
    table = pa.concat_tables([windows(START, START + day), windows(START + day, START)])
    parts = {name: part["n"].to_pylist() for name, part in split_by_date(table)}
    assert parts == {"date=2024-01-01": [0, 1], "date=2024-01-02": [1, 0]}


def test_dates_are_utc_whatever_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert datetime.datetime.fromtimestamp(START / 1000).hour == 13  # noqa: DTZ006
        assert log_partition(START) == "date=2024-01-01/hour=00"
        assert [name for name, _ in split_by_date(windows(START))] == ["date=2024-01-01"]
    finally:
        monkeypatch.undo()
        time.tzset()
