"""``--pii`` end to end: what outputs hold of addresses and users, and what stays the same."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import xxhash
from click.testing import CliRunner

from adtally.pipelines.cli import cli
from adtally.transforms import pii
from tests import sql_oracle


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef-a key")
    pii._key.cache_clear()
    return str(path)


LOGS = 6_000


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pii")
    run("generate", "--output", str(folder), "--events", str(LOGS), "--hours", "1", "--seed", "1")
    return folder / "logs"


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output
    return result


def backfilled(logs: Path, output: Path, *arguments: str) -> duckdb.DuckDBPyConnection:
    run("backfill", "--input", str(logs), "--output", str(output), "--quiet", *arguments)
    return views(output)


def views(output: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute((output / "views.sql").read_text())
    return connection


def summaries(connection: duckdb.DuckDBPyConnection) -> list[Any]:
    keys = "window_start, advertiser_id, currency"
    return connection.execute(
        f"SELECT {keys}, {sql_oracle.MEASURES} FROM summaries ORDER BY ALL"
    ).fetchall()


def verdicts(connection: duckdb.DuckDBPyConnection) -> list[Any]:
    """Flags without the subject's own name."""
    return connection.execute(
        """SELECT window_start, advertiser_id, rule, subject_type, count, threshold, evidence
        FROM flags ORDER BY ALL"""
    ).fetchall()


def plain_values(logs: Path) -> set[str]:
    values = set()
    for path in logs.rglob("*.gz"):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                values |= {record.get("ip"), record.get("user_id")}
    return {value for value in values if isinstance(value, str) and len(value) > 3}


def stored_texts(output: Path) -> set[str]:
    """Every text in every Parquet file of an output, lists and structs too."""
    texts: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, str):
            texts.add(value)
        elif isinstance(value, dict):
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    for path in output.rglob("*.parquet"):
        for column in pl.read_parquet(path).get_columns():
            if column.dtype == pl.String:
                texts |= set(column.drop_nulls().unique().to_list())
            elif column.dtype.is_nested():
                collect(column.to_list())
    return texts


def test_pseudonyms_change_no_count_and_no_verdict(logs: Path, tmp_path: Path, key: str) -> None:
    plain = backfilled(logs, tmp_path / "plain")
    hashed = backfilled(logs, tmp_path / "hashed", "--pii", "hash", "--pii-key-file", key)
    # Of copies of the same millisecond that differ, another one may count: its money, and no more.
    money = slice(11, 15)
    for mine, theirs in zip(summaries(hashed), summaries(plain), strict=True):
        assert mine == theirs or mine[6] > 0
        assert (mine[:11], mine[15:]) == (theirs[:11], theirs[15:]), mine[money]
    assert verdicts(hashed) == verdicts(plain)
    assert {row[3] for row in verdicts(plain)} >= {"user", "ip"}


@pytest.mark.parametrize("mode", ["hash", "truncate"])
def test_no_output_has_the_plain_values(logs: Path, tmp_path: Path, key: str, mode: str) -> None:
    values = plain_values(logs)
    backfilled(logs, tmp_path / "plain")
    assert values & stored_texts(tmp_path / "plain"), "the search would find them"
    more = ("--pii-key-file", key) if mode == "hash" else ()
    output = tmp_path / mode
    backfilled(logs, output, "--pii", mode, *more, "--allowed-lateness", "1s", "--rollup", "1h")
    assert list(output.glob("late/**/*.parquet")), "late events are an output too"
    networks = {value for value in values if value.endswith(".0")}
    assert not (values - networks) & stored_texts(output)
    for path in output.rglob("*.json"):
        assert not any(value in path.read_text() for value in values)


def test_a_tally_from_the_log_says_the_same_and_needs_no_key(
    logs: Path, tmp_path: Path, key: str
) -> None:
    output = tmp_path / "out"
    given = ("--pii", "hash", "--pii-key-file", key, "--allowed-lateness", "30d")
    first = backfilled(logs, output, *given)
    before = summaries(first), verdicts(first)
    Path(key).unlink()
    pii._key.cache_clear()
    again = backfilled(output / "events", output)
    assert (summaries(again), verdicts(again)) == before
    generation = "SELECT DISTINCT generation FROM summaries"
    assert again.execute(generation).fetchall() == [(1,)]
    manifest = (output / "adtally.json").read_text()
    named = backfilled(output / "events", output, "--pii", "hash", "--pii-key-file", "gone")
    assert (summaries(named), verdicts(named)) == before, "nor one that a --config still names"
    assert (output / "adtally.json").read_text() == manifest


ALLOWED = """
[advertisers.acme]
allow_ips = ["198.51.100.0/24"]
allow_users = ["tester"]
"""


@pytest.mark.parametrize("mode", ["keep", "hash", "truncate"])
def test_who_is_allowed_stays_allowed(
    tmp_path: Path, key: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """40 clicks a minute from the own office, from a tester, and from a stranger."""
    (tmp_path / "rules.toml").write_text(ALLOWED)
    (tmp_path / "logs").mkdir()
    people = [("198.51.100.7", "office"), ("203.0.113.1", "tester"), ("203.0.114.1", "stranger")]
    records = [
        {
            "event_id": f"{user}-{number}",
            "event_type": "click",
            "occurred_at": f"2026-03-01T10:00:{number:02}Z",
            "advertiser_id": "acme",
            "creative_id": f"c{number}",
            "ip": ip,
            "user_id": user,
            "user_agent": "Mozilla/5.0",
        }
        for ip, user in people
        for number in range(40)
    ]
    lines = "\n".join(json.dumps(record) for record in records)
    (tmp_path / "logs" / "a.jsonl").write_text(lines)
    more = ("--pii-key-file", key) if mode == "hash" else ()
    output = tmp_path / "out"
    rules = ("--rules", str(tmp_path / "rules.toml"), "--pii", mode, *more)
    counts = "SELECT sum(clicks), sum(givt_clicks) FROM summaries"
    assert backfilled(tmp_path / "logs", output, *rules).execute(counts).fetchall() == [(120, 40)]
    again = backfilled(output / "events", output)
    assert again.execute(counts).fetchall() == [(120, 40)], "and in a tally from the log"

    # A new list takes effect where the log still tells who is who; elsewhere one is warned.
    allowed = ALLOWED.replace('["tester"]', '["tester", "stranger"]')
    (tmp_path / "rules.toml").write_text(allowed)
    caplog.clear()
    again = backfilled(output / "events", output, "--rules", str(tmp_path / "rules.toml"))
    assert again.execute(counts).fetchall() == [(120, 0 if mode == "keep" else 40)]
    warned = "stays as it was when the events were decoded" in caplog.text
    assert warned == (mode != "keep")


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["backfill", *arguments])
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def test_what_cannot_be_is_refused(logs: Path, tmp_path: Path, key: str) -> None:
    given = ("--input", str(logs), "--output", str(tmp_path / "out"), "--quiet")
    assert "needs a key" in refused(*given, "--pii", "hash")
    assert "--pii is keep" in refused(*given, "--pii-key-file", key)
    assert not (tmp_path / "out").exists()
    run("backfill", *given, "--pii", "hash", "--pii-key-file", key)
    assert "made with other settings" in refused(*given, "--pii", "keep")
    Path(key).write_bytes(b"another key of 16 bytes or more")
    pii._key.cache_clear()
    assert "is not the one" in refused(*given, "--pii-key-file", key)
    assert "is not the one" in refused(*given)
    Path(key).unlink()
    pii._key.cache_clear()
    missing = refused(*given)
    assert "Bring the key that this output was made with back" in missing
    assert "openssl" not in missing, "a new key is no remedy"


@pytest.mark.parametrize("place", ["input", "output"])
def test_a_key_in_what_is_given_away_is_refused(
    logs: Path, tmp_path: Path, key: str, place: str
) -> None:
    output = tmp_path / "out"
    folder = {"input": tmp_path / "logs", "output": output}[place]
    shutil.copytree(logs, tmp_path / "logs")
    folder.mkdir(exist_ok=True)
    misplaced = folder / "key.log"
    Path(key).rename(misplaced)
    given = ("--input", str(tmp_path / "logs"), "--output", str(output))
    said = refused(*given, "--pii", "hash", "--pii-key-file", str(misplaced))
    assert f"lies in the {place}" in said
    assert not (output / "adtally.json").exists()


def test_an_output_from_before_there_was_a_choice_keeps(logs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    backfilled(logs, output)
    manifest = json.loads((output / "adtally.json").read_text())
    for name in ("pii", "pii_key_file"):
        del manifest[name]
    (output / "adtally.json").write_text(json.dumps(manifest))
    backfilled(logs, output)
    given = ("--input", str(logs), "--output", str(output), "--quiet")
    assert "made with other settings" in refused(*given, "--pii", "truncate")


def test_the_log_of_another_output_is_not_taken_over(logs: Path, tmp_path: Path, key: str) -> None:
    """It is decoded already: its plain addresses would be stored as they are."""
    backfilled(logs, tmp_path / "plain")
    output = tmp_path / "out"
    given = ("--input", str(tmp_path / "plain" / "events"), "--output", str(output), "--quiet")
    assert "is Parquet, and not the event log" in refused(
        *given, "--pii", "hash", "--pii-key-file", key
    )
    assert not output.exists()


def test_a_tally_that_is_refused_takes_no_generation(logs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    backfilled(logs, output)
    given = ("--input", str(output / "events"), "--output", str(output), "--quiet")
    assert "made with other settings" in refused(*given, "--pii", "truncate")
    assert not (output / "generations").exists()


@pytest.mark.parametrize("mode", ["hash", "truncate"])
def test_a_hash_of_the_record_tells_no_address(tmp_path: Path, key: str, mode: str) -> None:
    """Records that differ in what is not stored have the same, so that nobody can try addresses."""
    more = ("--pii-key-file", key) if mode == "hash" else ()
    hashes = []
    for ip in ("203.0.113.7", "203.0.113.8"):
        record = {
            "event_id": "1",
            "event_type": "click",
            "occurred_at": "2026-03-01T10:00:00Z",
            "advertiser_id": "acme",
            "ip": ip,
        }
        folder = tmp_path / ip
        folder.mkdir()
        (folder / "a.jsonl").write_text(json.dumps(record))
        log = backfilled(folder, tmp_path / f"out-{ip}", "--pii", mode, *more)
        stored = log.execute("SELECT content_hash FROM event_rows").fetchall()[0][0]
        as_it_came = xxhash.xxh3_64_intdigest(json.dumps(record).encode())
        assert stored % 2**64 != as_it_came
        hashes.append(stored)
    assert (hashes[0] == hashes[1]) == (mode == "truncate")
