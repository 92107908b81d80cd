"""Generations: a number is given once, whoever asks at the same time; commits appear whole."""

from __future__ import annotations

import datetime
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from adtally.io import generations
from adtally.io.files import list_paths
from adtally.io.generations import COMMIT_SCHEMA, allocate, commit

START = 1_704_067_200_000  # 2024-01-01T00:00:00Z


def test_numbers_rise_from_one(tmp_path: Path) -> None:
    assert [allocate(str(tmp_path)) for _ in range(12)] == list(range(1, 13))


def test_each_output_counts_for_itself(tmp_path: Path) -> None:
    assert allocate(str(tmp_path / "a")) == 1
    assert allocate(str(tmp_path / "b")) == 1
    assert allocate(str(tmp_path / "a")) == 2


def test_threads_never_get_a_number_twice(tmp_path: Path) -> None:
    start = threading.Barrier(6)

    def take(_: int) -> list[int]:
        start.wait()
        return [allocate(str(tmp_path)) for _ in range(5)]

    with ThreadPoolExecutor(6) as pool:
        taken = [number for numbers in pool.map(take, range(6)) for number in numbers]
    assert len(set(taken)) == 30
    assert min(taken) >= 1


@pytest.mark.parametrize("late_name", ["0" * 32, "f" * 32])
def test_a_claim_decided_before_a_rival_appears_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late_name: str
) -> None:
    """Two runs list at the same time; one claims and decides before the other claims."""
    real = generations.list_paths
    early: list[int] = []

    def listing(pattern: str) -> list[str]:
        before = real(pattern)
        if not early:  # between the late run's first look and its claim, an early run comes by
            early.append(0)
            monkeypatch.setattr(generations.uuid, "uuid4", lambda: Name("8" * 32))
            early[0] = allocate(str(tmp_path))
            names = iter([late_name, *(f"{n:032}" for n in range(1, 50))])
            monkeypatch.setattr(generations.uuid, "uuid4", lambda: Name(next(names)))
        return before

    monkeypatch.setattr(generations, "list_paths", listing)
    assert allocate(str(tmp_path)) != early[0]


class Name:
    def __init__(self, hex: str) -> None:
        self.hex = hex


def test_a_claim_being_written_or_left_over_is_no_claim(tmp_path: Path) -> None:
    assert allocate(str(tmp_path)) == 1
    claims = tmp_path / "generations" / "_claims"
    (claims / ".7-abc.def.tmp").write_bytes(b"")  # of a run that was killed
    assert allocate(str(tmp_path)) == 2


def test_a_commit_says_its_ranges(tmp_path: Path) -> None:
    number = allocate(str(tmp_path))
    ranges = [(START, START + 3_600_000), (START + 7_200_000, START + 7_200_001)]
    path = commit(str(tmp_path), number, ranges, START + 5)
    assert path == f"{tmp_path}/generations/generation=1.parquet"
    assert list_paths(f"{tmp_path}/generations/*.parquet") == [path]
    table = pq.ParquetFile(path).read()
    assert table.schema.equals(COMMIT_SCHEMA)

    def at(ms: int) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)

    assert table.to_pylist() == [
        {
            "generation": 1,
            "range_from": at(start),
            "range_to": at(end),
            "committed_at": at(START + 5),
        }
        for start, end in ranges
    ]


def test_a_commit_that_fails_is_not_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(table: Any, file: Any) -> None:
        file.write(b"PAR1 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(generations.pq, "write_table", fail)
    with pytest.raises(OSError, match="No space left"):
        commit(str(tmp_path), 1, [(START, START + 1)], START)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
