"""Reading files of the event log: old ones, foreign ones, whole ones.

``tests/data/event_log_1-0-0.parquet`` was written once by this and is never written again; it
stands for files of the first version, from before some nullable fields were added::

    import pyarrow as pa, pyarrow.parquet as pq
    at = pa.timestamp("ms", tz="UTC")
    need = lambda name, type: pa.field(name, type, nullable=False)
    schema = pa.schema([
        need("event_id", pa.string()), need("event_type", pa.string()), need("occurred_at", at),
        need("advertiser_id", pa.string()), pa.field("campaign_id", pa.string()),
        pa.field("cost_micros", pa.int64()), pa.field("dropped_since", pa.string()),
        need("source", pa.string()), need("position", pa.int64()),
        need("record_index", pa.int32()), need("content_hash", pa.int64()),
    ])
    start = 1_704_067_200_000
    table = pa.table([
        ["e1", "e2", "e3"], ["impression", "click", "conversion"],
        pa.array([start, start + 1, start + 2], at), ["a", "b", "é"], ["c1", None, "c3"],
        [1, None, -3], ["x", "y", "z"], ["/logs/a.jsonl"] * 3, [0, 10, 20],
        pa.array([0, 0, 1], pa.int32()), [1, -(2**63), 2**63 - 1],
    ], schema=schema)
    pq.write_table(table, "tests/data/event_log_1-0-0.parquet", row_group_size=2)
"""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adtally.io.schema import EVENT_SCHEMA
from adtally.io.sources import conform, read_event_file

OLD = Path(__file__).parents[1] / "data" / "event_log_1-0-0.parquet"
KNOWN = {
    "event_id",
    "event_type",
    "occurred_at",
    "advertiser_id",
    "campaign_id",
    "cost_micros",
    "source",
    "position",
    "record_index",
    "content_hash",
}


def test_an_old_file_gives_null_for_fields_that_came_later() -> None:
    tables = list(read_event_file(str(OLD)))
    assert [table.num_rows for table in tables] == [2, 1]
    assert all(table.schema.equals(EVENT_SCHEMA) for table in tables)
    rows = pa.concat_tables(tables).to_pylist()
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    assert [row["occurred_at"] - start for row in rows] == [
        datetime.timedelta(milliseconds=n) for n in range(3)
    ]
    assert [row["event_id"] for row in rows] == ["e1", "e2", "e3"]
    assert [row["advertiser_id"] for row in rows] == ["a", "b", "é"]
    assert [row["campaign_id"] for row in rows] == ["c1", None, "c3"]
    assert [row["cost_micros"] for row in rows] == [1, None, -3]
    assert [row["content_hash"] for row in rows] == [1, -(2**63), 2**63 - 1]
    for name in set(EVENT_SCHEMA.names) - KNOWN:
        assert [row[name] for row in rows] == [None] * 3


def test_fields_that_old_files_lack_are_nullable() -> None:
    """Whoever adds a field that must not be null makes every log written so far unreadable."""
    assert {field.name for field in EVENT_SCHEMA if not field.nullable} <= KNOWN


def test_foreign_parquet_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"event_id": ["1"], "time": [5]}), path)
    with pytest.raises(ValueError, match="is not a file of an adtally event log") as raised:
        list(read_event_file(str(path)))
    assert str(path) in str(raised.value)
    assert "advertiser_id, content_hash" in str(raised.value)
    assert "event_id," not in str(raised.value)


@pytest.mark.parametrize("data", [b"", b'{"a":1}\n' * 10, OLD.read_bytes()[:-100]])
def test_a_file_that_is_no_parquet_is_an_error_with_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"broken\.parquet"):
        list(read_event_file(str(path)))


def test_a_field_of_another_type_is_an_error_and_not_null(tmp_path: Path) -> None:
    table = pq.ParquetFile(OLD).read()
    at = table.column_names.index("position")
    path = tmp_path / "typed.parquet"
    pq.write_table(table.set_column(at, "position", pa.array(["x", "y", "z"])), path)
    with pytest.raises(ValueError, match="int64"):
        list(read_event_file(str(path)))


def test_conform_puts_columns_in_order() -> None:
    table = pq.ParquetFile(OLD).read()
    turned = table.select(list(reversed(table.column_names)))
    assert conform(turned).equals(conform(table))
