"""Windows that a stream may still add to are not tallied again, and the refusal says up to when."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adtally.io.event_log import STREAM_PREFIX
from adtally.io.parquet import write_table
from adtally.io.schema import EVENT_SCHEMA
from adtally.pipelines import backfill
from adtally.pipelines.backfill import HOUR_MS, LOG_LAG_MS, check_final
from adtally.pipelines.cli import cli
from adtally.pipelines.job import OPEN_MS, ConfigError, Settings, shown_time
from tests.io.test_views import table

NOON = 1_772_366_400_000  # 2026-03-01T12:00:00Z
MINUTE = 60_000


def write_log(output: Path, name: str, arrived_ms: int | None) -> None:
    rows = [{"occurred_at": NOON, "arrived_at": arrived_ms}]
    path = output / "events" / "date=2026-03-01" / "hour=12" / f"{name}.parquet"
    write_table(table(EVENT_SCHEMA, rows), str(path))


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An output that a stream has written into."""
    folder = tmp_path_factory.mktemp("streamed")
    write_log(folder, f"{STREAM_PREFIX}a-0000-000000-0", NOON)
    return str(folder)


def at(monkeypatch: pytest.MonkeyPatch, now_ms: int) -> None:
    """Let it be this time."""
    monkeypatch.setattr(backfill, "now_ms", lambda: now_ms)


def refused(output: str, end_ms: int, lateness_seconds: int = 3600, start_ms: int = 0) -> bool:
    try:
        check_final(
            output, ((start_ms, end_ms),), Settings(allowed_lateness_seconds=lateness_seconds)
        )
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize(
    ("minutes", "lateness_seconds", "border_hours"),
    [
        (0, 0, -1),  # a quarter of an hour may not be in the log yet
        (14, 0, -1),
        (15, 0, 0),
        (59, 0, 0),
        (74, 0, 0),
        (75, 0, 1),
        (0, 3600, -2),
        (14, 3600, -2),
        (15, 3600, -1),
        (15, 86_400, -24),
        (45, 1800, 0),
        (44, 1800, -1),
    ],
)
def test_what_is_final_ends_at_a_full_hour(
    streamed: str,
    monkeypatch: pytest.MonkeyPatch,
    minutes: int,
    lateness_seconds: int,
    border_hours: int,
) -> None:
    at(monkeypatch, NOON + minutes * MINUTE)
    border = NOON + border_hours * HOUR_MS
    assert not refused(streamed, border, lateness_seconds)
    assert refused(streamed, border + 1, lateness_seconds)
    assert refused(streamed, border + MINUTE, lateness_seconds)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    now_ms=st.integers(NOON, NOON + 40 * HOUR_MS),
    lateness=st.integers(0, 100_000),
    back=st.integers(-HOUR_MS, 60 * HOUR_MS),
)
def test_nothing_is_taken_that_may_change_and_nothing_refused_that_is_old(
    streamed: str, monkeypatch: pytest.MonkeyPatch, now_ms: int, lateness: int, back: int
) -> None:
    at(monkeypatch, now_ms)
    end_ms = now_ms - back
    settled_ms = end_ms + lateness * 1000 + LOG_LAG_MS
    if settled_ms > now_ms:
        assert refused(streamed, end_ms, lateness)
    elif settled_ms + HOUR_MS <= now_ms:
        assert not refused(streamed, end_ms, lateness)


def test_the_last_millisecond_decides(streamed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, NOON + LOG_LAG_MS - 1)
    assert refused(streamed, NOON, 0)
    at(monkeypatch, NOON + LOG_LAG_MS)
    assert not refused(streamed, NOON, 0)


def test_one_range_of_several_is_enough(streamed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, NOON + LOG_LAG_MS)
    old, new = (NOON - 9 * HOUR_MS, NOON - 8 * HOUR_MS), (NOON, NOON + HOUR_MS)
    given = Settings(allowed_lateness_seconds=0)
    check_final(streamed, (old,), given)
    for ranges in ((old, new), (new, old)):
        with pytest.raises(ConfigError, match="not final"):
            check_final(streamed, ranges, given)


def test_a_range_without_an_end_reaches_what_is_not_final(
    streamed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, NOON + 1000 * HOUR_MS)
    assert refused(streamed, OPEN_MS)
    assert not refused(streamed, NOON, start_ms=-OPEN_MS)


@pytest.mark.parametrize("name", [None, "backfilled-00000"])
def test_an_output_that_no_stream_writes_into_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    if name is not None:
        write_log(tmp_path, name, NOON)
    at(monkeypatch, NOON)
    assert not refused(str(tmp_path), OPEN_MS)


def test_the_refusal_names_the_output_the_reason_and_the_border(
    streamed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, NOON + 30 * MINUTE)
    with pytest.raises(ConfigError) as raised:
        check_final(streamed, ((0, NOON),), Settings())
    message = str(raised.value)
    assert "the range reaches into windows that are not final" in message
    assert f"a stream writes into {streamed}" in message
    assert "would not count in the correction" in message
    assert message.endswith("Give --to 2026-03-01T11:00:00Z or earlier, or wait.")


def test_the_border_lies_on_a_window_where_windows_are_longer_than_an_hour(
    streamed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, NOON + 30 * MINUTE)
    with pytest.raises(ConfigError, match=r"Give --to 2026-03-01T00:00:00Z or earlier"):
        check_final(streamed, ((0, NOON),), Settings(window_seconds=86_400))


# From the command line.


def adtally(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["backfill", *arguments], prog_name="adtally")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output of one click at noon, whose log a stream has written."""
    click = {
        "event_id": "e1",
        "event_type": "click",
        "occurred_at": "2026-03-01T12:00:00Z",
        "advertiser_id": "adv-1",
    }
    logs = tmp_path / "logs.jsonl"
    logs.write_text(json.dumps(click))
    folder = tmp_path / "out"
    assert adtally("--input", str(logs), "--output", str(folder)).exit_code == 0
    (path,) = (folder / "events").rglob("*.parquet")
    with pq.ParquetFile(path) as file:
        events = file.read()
    at = events.schema.get_field_index("arrived_at")
    arrived = pa.array([NOON], events.schema.field(at).type)
    streamed = path.with_name(f"{STREAM_PREFIX}a-0000-000000-0.parquet")
    write_table(events.set_column(at, events.schema.field(at), arrived), str(streamed))
    path.unlink()
    return folder


def test_the_border_that_the_command_line_is_told_works(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("--input", f"{output}/events", "--output", str(output), "--from", "2026-03-01")
    at(monkeypatch, NOON + 3 * HOUR_MS)
    result = adtally(*run, "--to", "2026-03-02")
    assert result.exit_code == 2, result.output
    told = re.search(r"Give --to (\S+) or earlier", " ".join(result.output.split()))
    assert told is not None
    assert told[1] == shown_time(NOON + HOUR_MS)
    assert not (output / "generations").exists()
    result = adtally(*run, "--to", told[1])
    assert result.exit_code == 0, result.output
    assert list((output / "generations").rglob("*.parquet"))


def test_all_of_the_log_is_refused_while_its_last_hour_is_open(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("--input", f"{output}/events", "--output", str(output))
    at(monkeypatch, NOON + HOUR_MS + HOUR_MS + LOG_LAG_MS - 1)
    assert adtally(*run).exit_code == 2
    at(monkeypatch, NOON + HOUR_MS + HOUR_MS + LOG_LAG_MS)
    assert adtally(*run).exit_code == 0
