"""Files written again without some rows or lines: what has to stay stays."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adtally.io.alerts import FileAlerts
from adtally.io.parquet import parquet_writer
from adtally.io.rewrite import (
    ChangedMeanwhile,
    UnreadableFile,
    may_hold,
    rewrite_lines,
    rewrite_parquet,
    rewrite_shared_lines,
    rows_where,
    without_value,
)


def written(path: Path, groups: list[list[str]], notes: dict[str, str] | None = None) -> Path:
    schema = pa.schema([pa.field("who", pa.string(), nullable=False), ("n", pa.int32())])
    with parquet_writer(str(path), schema) as writer:
        for group in groups:
            table = pa.table({"who": group, "n": list(range(len(group)))}, schema)
            writer.write_table(table)
        if notes:
            writer.add_key_value_metadata(notes)
    return path


def test_row_groups_and_notes_stay(tmp_path: Path) -> None:
    path = written(tmp_path / "f.parquet", [["a", "b"], ["b"], ["c"]], {"adtally.arrivals": "{}"})
    change, only = without_value("who", "b"), ("who", "b")
    assert rewrite_parquet(str(path), change, write=False, only=only) == {"rows": 2}
    assert rewrite_parquet(str(path), change, only=only) == {"rows": 2}
    parquet = pq.ParquetFile(path)
    assert parquet.metadata.num_row_groups == 2  # the second had no other rows
    assert parquet.read().to_pylist() == [{"who": "a", "n": 0}, {"who": "c", "n": 0}]
    assert parquet.metadata.metadata == {b"adtally.arrivals": b"{}"}
    assert not parquet.schema_arrow.field("who").nullable
    assert rewrite_parquet(str(path), change, only=only) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["f.parquet"]


def test_a_file_without_rows_stays_for_its_notes_alone(tmp_path: Path) -> None:
    noted = written(tmp_path / "noted.parquet", [["b"]], {"adtally.arrivals": '{"s": 5}'})
    plain = written(tmp_path / "plain.parquet", [["b"], ["b"]])
    for path in (noted, plain):
        rewrite_parquet(str(path), without_value("who", "b"))
    assert not plain.exists()
    assert pq.ParquetFile(noted).metadata.metadata == {b"adtally.arrivals": b'{"s": 5}'}
    assert pq.read_table(noted).num_rows == 0


def test_statistics_rule_groups_out(tmp_path: Path) -> None:
    parquet = pq.ParquetFile(written(tmp_path / "f.parquet", [["a", "c"], ["d", "é"]]))
    held = {name: [may_hold(parquet, at, "who", name) for at in (0, 1)] for name in ("b", "é", "z")}
    assert held == {"b": [True, False], "é": [False, True], "z": [False, True]}
    assert not may_hold(parquet, 0, "nothing", "b")


def test_rows_that_are_looked_for(tmp_path: Path) -> None:
    path = str(written(tmp_path / "f.parquet", [["a", "b"], ["b", "a"]]))
    found = rows_where(path, "who", "b", ["n", "not there"])
    assert found is not None and found.to_dict(as_series=False) == {"n": [1, 0]}
    assert rows_where(path, "who", "aa", ["n"]) is None


def test_what_another_run_wrote_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path / "f.parquet", [["a", "b"]])

    def change(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
        written(path, [["c"] * 3])
        return without_value("who", "b")(table)

    with pytest.raises(ChangedMeanwhile):
        rewrite_parquet(str(path), change)
    assert pq.read_table(path)["who"].to_pylist() == ["c"] * 3


def test_a_file_that_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(b"PAR1")
    with pytest.raises(UnreadableFile, match=r"f\.parquet"):
        rewrite_parquet(str(tmp_path / "f.parquet"), without_value("who", "b"))


@pytest.mark.parametrize("name", ["f.jsonl", "f.jsonl.gz"])
def test_lines_that_stay_are_the_same_bytes(tmp_path: Path, name: str) -> None:
    path, lines = tmp_path / name, [b'{"a":1}\n', b"drop\n", b'{ "a" : 2 }\r\n', b"\n", b"no end"]
    pack, unpack = (gzip.compress, gzip.decompress) if name.endswith("gz") else (bytes, bytes)
    path.write_bytes(pack(b"".join(lines)))
    assert rewrite_lines(str(path), lambda line: line != b"drop\n", write=False) == 1
    assert rewrite_lines(str(path), lambda line: line != b"drop\n") == 1
    assert unpack(path.read_bytes()) == b"".join(lines[:1] + lines[2:])
    assert rewrite_lines(str(path), lambda line: False) == 3
    assert not path.exists()


def test_lines_appended_while_a_file_is_written_again_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    writers = [FileAlerts(str(path)).open() for _ in range(3)]
    ended = threading.Event()

    def append(number: int) -> None:
        for at in range(300):
            writers[number].write([("a", b'{"keep": "%d-%d"}' % (number, at)), ("a", b"drop")])

    threads = [threading.Thread(target=append, args=(number,)) for number in range(3)]

    def again() -> None:
        while not ended.is_set():
            if path.exists():
                rewrite_shared_lines(path, lambda line: line != b"drop\n")

    rewriting = threading.Thread(target=again)
    for thread in (*threads, rewriting):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    rewriting.join()
    rewrite_shared_lines(path, lambda line: line != b"drop\n")
    kept = path.read_bytes().splitlines()
    sent = [b'{"keep": "%d-%d"}' % (number, at) for number in range(3) for at in range(300)]
    assert sorted(kept) == sorted(sent)
