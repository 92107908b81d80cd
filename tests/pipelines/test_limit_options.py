"""Limits on the command line, and hostile input through whole runs."""

from __future__ import annotations

import gzip
import json
import logging
import os
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result

from adtally.io import read_logs, sinks
from adtally.io.dead_letters import DeadLetter, decode_lines
from adtally.io.kinesis_producer import PutError
from adtally.io.limits import Limits
from adtally.pipelines import feed_cli, limit_options
from adtally.pipelines.cli import cli

GOOD = {
    "event_id": "e1",
    "event_type": "click",
    "occurred_at": "2026-03-01T10:00:00Z",
    "advertiser_id": "adv-1",
}
HOSTILE = (
    *(
        "../../../../tmp/x",
        "/etc/passwd",
        "a/b",
        "a,b",
        "..",
        "date=1999-01-01",
        "a'; DROP TABLE x",
    ),
    *(
        '"',
        "\\",
        "%2e%2e%2f",
        "{}",
        "[red]a[/red]",
        "a b",
        "é" * 128,
        "\u202ea",
        "$(id)",
        "-rf",
        "*",
    ),
)
"""Ids within the limits that would do harm as a path, a key or a statement."""


def adtally(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(cli, list(arguments), prog_name="adtally")


def letters_of(output: Path) -> list[DeadLetter]:
    files = sorted((output / "dead-letters").rglob("*.jsonl.gz"))
    return [letter for path in files for letter in decode_lines(path.read_bytes())]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    long = {**GOOD, "event_id": "e2", "user_agent": "x" * 500}
    (folder / "a.jsonl").write_text(json.dumps(GOOD) + "\n" + json.dumps(long) + "\n")
    return folder


def test_every_limit_has_an_option_and_reaches_the_run() -> None:
    every = {
        "max_record_bytes": 100,
        "max_id_bytes": 33,
        "max_text_bytes": 34,
        "id_controls": True,
        "max_depth": 5,
        "max_fields": 66,
        "max_expansion": 7,
        "max_file_bytes": 8,
        "max_dead_letters_per_mib": 9,
    }
    assert limit_options.limits_of(every) == Limits(100, 33, 34, True, 5, 66, 7, 8, 9)
    assert limit_options.limits_of({}) == Limits()
    for command in ("backfill", "replay", "stream"):
        shown = adtally(command, "--help").output
        missing = [name for name in every if f"--{name.replace('_', '-')}" not in shown]
        assert missing == []


def test_a_limit_from_flag_environment_or_file_and_only_wider_the_next_time(
    logs: Path, tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("max-text-bytes = 499\n")
    ways: list[tuple[list[str], dict[str, str]]] = [
        (["--max-text-bytes", "499"], {}),
        ([], {"ADTALLY_MAX_TEXT_BYTES": "499"}),
        (["--config", str(config)], {}),
    ]
    for number, (given, env) in enumerate(ways):
        output = tmp_path / f"out{number}"
        done = adtally("backfill", "--input", str(logs), "--output", str(output), *given, env=env)
        assert done.exit_code == 0, done.output
        assert [letter.error_type for letter in letters_of(output)] == ["text_too_long"]
        assert "over a limit" in done.output
    wider = adtally("backfill", "--input", str(logs), "--output", str(output))
    assert (wider.exit_code, letters_of(output)) == (0, [])
    narrower = adtally("backfill", "--input", str(logs), "--output", str(output), *ways[0][0])
    assert narrower.exit_code == 2
    assert "limit text_bytes of 32768, now 499" in narrower.output
    refused = adtally(
        "backfill", "--input", str(logs), "--output", str(output), "--max-depth", "101"
    )
    assert refused.exit_code == 2


def test_a_bomb_and_a_record_without_end_leave_letters_that_a_replay_keeps(tmp_path: Path) -> None:
    logs, output = tmp_path / "logs", tmp_path / "out"
    logs.mkdir()
    good = json.dumps(GOOD).encode() + b"\n"
    filler = b" " * 9_999 + b"\n"
    (logs / "bomb.jsonl.gz").write_bytes(gzip.compress(good + filler * 9_000, 9))
    (logs / "long.jsonl").write_bytes(b"y" * 3_000_000 + b"\n" + good)
    done = adtally("backfill", "--input", str(logs), "--output", str(output))
    assert done.exit_code == 0, done.output
    assert "files not readable" in done.output
    kept = {letter.error_type: letter for letter in letters_of(output)}
    assert set(kept) == {"expands_too_much", "record_too_large"}
    assert kept["expands_too_much"].source == str(logs / "bomb.jsonl.gz")
    long = kept["record_too_large"]
    assert (long.position, len(long.payload)) == ("0", 65_536)
    events = f"SELECT count(*) FROM read_parquet('{output}/events/*/*/*.parquet')"
    assert duckdb.sql(events).fetchall() == [(2,)]
    again = adtally("replay", "--output", str(output))
    assert again.exit_code == 0, again.output
    assert duckdb.sql(events).fetchall() == [(2,)]
    left = {letter.error_type for letter in letters_of(output)}
    assert left == set(kept)


def test_no_id_leaves_its_partition_or_breaks_a_view(tmp_path: Path) -> None:
    logs, output = tmp_path / "logs", tmp_path / "out"
    logs.mkdir()
    records = [
        {
            **GOOD,
            "event_id": f"e{n}",
            "advertiser_id": text,
            "campaign_id": text,
            "user_id": text,
        }
        for n, text in enumerate(HOSTILE)
    ]
    (logs / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    before = {path for path in tmp_path.parent.rglob("*") if output not in path.parents}
    done = adtally(
        *("backfill", "--input", str(logs), "--output", str(output)),
        *("--dimensions", "campaign_id", "--rollup", "1h"),
    )
    assert done.exit_code == 0, done.output
    after = {path for path in tmp_path.parent.rglob("*") if output not in path.parents}
    assert after - before == {output}
    folders = {str(p.parent.relative_to(output)) for p in output.rglob("*.parquet")}
    assert folders == {
        "events/date=2026-03-01/hour=10",
        "summaries/window=60s/generation=0/date=2026-03-01",
        "summaries/window=3600s/generation=0/date=2026-03-01",
    } | {folder for folder in folders if folder.startswith(("flags/", "verdicts/"))}
    connection = duckdb.connect()
    connection.execute((output / "views.sql").read_text())
    counted = connection.execute(
        "SELECT advertiser_id, campaign_id, clicks FROM summaries WHERE window_seconds = 60"
    ).fetchall()
    assert sorted(counted) == sorted((text, text, 1) for text in HOSTILE)


def test_a_log_line_cannot_be_forged_by_what_is_read(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "x\n2026-01-01 ERROR adtally: forged\x1b[2J.md").write_text("x")
    (logs / "a.jsonl").write_text(json.dumps(GOOD) + "\n")
    done = adtally("backfill", "--input", str(logs), "--output", str(tmp_path / "out"))
    assert done.exit_code == 0
    assert "x\\n2026-01-01 ERROR adtally: forged\\x1b[2J.md (no log by its name)" in done.output
    bad = adtally(
        "backfill", "--input", str(logs / "\x1b[2Jgone"), "--output", str(tmp_path / "o2")
    )
    assert bad.exit_code == 2
    assert "\x1b" not in bad.output
    assert logging.getLogger("adtally").level == logging.INFO


def test_a_name_that_is_no_text_is_read_and_written_so_that_it_can_be_told(tmp_path: Path) -> None:
    logs, output = tmp_path / "logs", tmp_path / "out"
    logs.mkdir()
    (logs / os.fsdecode(b"caf\xe9.jsonl")).write_text(json.dumps(GOOD) + "\nno json\n")
    done = adtally("backfill", "--input", str(logs), "--output", str(output))
    assert done.exit_code == 0, done.output
    events = f"SELECT source FROM read_parquet('{output}/events/*/*/*.parquet')"
    assert duckdb.sql(events).fetchall() == [(f"{logs}/caf\\udce9.jsonl",)]
    assert [letter.source for letter in letters_of(output)] == [f"{logs}/caf\\udce9.jsonl"]


def test_letters_of_a_block_that_fails_whole_lie_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "LETTER_FILE_BYTES", 1_000)
    monkeypatch.setattr(read_logs, "CHUNK_BYTES", 100)
    monkeypatch.setattr(read_logs.read_chunks, "__defaults__", (100, None))
    logs, output = tmp_path / "logs", tmp_path / "out"
    logs.mkdir()
    lines = [f"no json {n:04}" for n in range(100)]
    (logs / "a.jsonl").write_text("\n".join(lines))
    for _ in range(2):  # a second run replaces them
        done = adtally("backfill", "--input", str(logs), "--output", str(output))
        assert done.exit_code == 0, done.output
        assert sorted(letter.payload for letter in letters_of(output)) == lines
    assert len(list((output / "dead-letters").rglob("*.jsonl.gz"))) > 1
    again = adtally("replay", "--output", str(output))
    assert again.exit_code == 0, again.output
    assert sorted(letter.payload for letter in letters_of(output)) == lines


def test_no_line_is_fed_in_part(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n" + b"z" * 20_000_000 + b"\n{}\n")
    with pytest.raises(PutError, match=r"20,000,000 bytes in .*a\.jsonl at byte 3 is longer"):
        list(feed_cli.lines_of([str(path)]))
