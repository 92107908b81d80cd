"""The event log as a place: hours of its files, and which files a range needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adtally.io.event_log import HOUR_MS, files_in, hour_of
from adtally.io.logs import NoInput
from adtally.io.parquet import log_partition

LAST = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z


@given(at=st.integers(0, LAST))
def test_the_hour_of_a_path_is_the_hour_that_the_writer_chose(at: int) -> None:
    assert hour_of(f"/out/events/{log_partition(at)}/b-00000.parquet") == at // HOUR_MS * HOUR_MS


def test_the_innermost_partition_counts() -> None:
    path = "/in/date=2020-01-01/hour=05/out/events/date=2024-01-01/hour=00/b-00000.parquet"
    assert hour_of(path) == 1_704_067_200_000


@pytest.mark.parametrize(
    "path",
    [
        "/out/events/b.parquet",
        "/out/events/date=2024-01-01/b.parquet",
        "/out/events/date=2024-01-01/hour=00/more/b.parquet",
    ],
)
def test_a_file_outside_a_partition_is_an_error_that_names_it(path: str) -> None:
    with pytest.raises(ValueError, match="no date=/hour= folder") as raised:
        hour_of(path)
    assert path in str(raised.value)


def test_a_range_takes_the_hours_that_it_touches_and_no_other(tmp_path: Path) -> None:
    hours = [n * HOUR_MS for n in (0, 1, 2, 30)]
    for hour in hours:
        path = tmp_path / "events" / log_partition(hour) / "b-00000.parquet"
        path.parent.mkdir(parents=True)
        path.touch()
        (path.parent / ".b-00001.parquet.0123.tmp").touch()

    def found(*ranges: tuple[int, int]) -> list[int]:
        return [hour_of(file.path) // HOUR_MS for file in files_in(str(tmp_path), ranges)]

    assert found((0, 31 * HOUR_MS)) == [0, 1, 2, 30]
    assert found((HOUR_MS, 2 * HOUR_MS)) == [1]  # the end is exclusive
    assert found((HOUR_MS - 1, HOUR_MS + 1)) == [0, 1]
    assert found((0, 1), (30 * HOUR_MS + 5, 30 * HOUR_MS + 6)) == [0, 30]
    with pytest.raises(NoInput, match="nothing in the range"):
        found((3 * HOUR_MS, 30 * HOUR_MS))


def test_no_event_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match="events"):
        files_in(str(tmp_path), [(0, HOUR_MS)])
