"""``adtally erase``: nothing else changes, nothing is left, and a re-tally gives the same sums."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
import xxhash

from adtally.transforms import pii
from tests import erasing
from tests.erasing import OFFICE, SUBJECTS, TENANT, VICTIM, rows, run, unnamed, views

USER = ("--user", VICTIM, "--yes", "--quiet")
ROLLUP = ("--rollup", "1h,1d", "--quiet")
RETALLY = ("--from", "2026-03-01T00:00Z", "--to", "2026-03-02T00:00Z", "--quiet")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return erasing.logs_with(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def made(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "out"
    run("backfill", "--input", str(logs), "--output", str(output), *ROLLUP)
    assert not unnamed(output, VICTIM) and not unnamed(output, TENANT)
    return output


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def retallied(output: Path) -> Path:
    run("backfill", "--input", f"{output}/events", "--output", str(output), *RETALLY)
    return output


def test_a_user_is_gone_and_everything_counts_as_before(out: Path, made: Path) -> None:
    before = rows(made)
    assert {row[6] for row in before["flags"]} >= {"givt_click_rate_ip", "givt_duplicate_click"}
    assert before["look_back_flags"]
    run("erase", "--output", str(out), *USER)
    assert unnamed(out, VICTIM)
    assert rows(out) == before
    assert rows(out, SUBJECTS) == _renamed(made, out)

    # Tallied again, the log gives the same sums as the one that was not erased, late events too.
    plain = retallied(Path(shutil.copytree(made, out.parent / "plain")))
    assert rows(retallied(out)) == rows(plain) != before
    assert rows(out, SUBJECTS) == _renamed(plain, out)  # and names who was erased by the token


def test_rows_of_others_stay_as_they_are(out: Path, made: Path) -> None:
    run("erase", "--output", str(out), *USER)
    changed: dict[str, int] = {}
    for kind in ("events", "late", "summaries", "flags", "verdicts", "anomalies"):
        for path in sorted((made / kind).rglob("*.parquet")):
            old, new = pq.ParquetFile(path), pq.ParquetFile(out / path.relative_to(made))
            assert new.schema == old.schema
            assert new.metadata.num_row_groups == old.metadata.num_row_groups
            assert new.metadata.metadata == old.metadata.metadata
            assert new.metadata.row_group(0).column(0).compression == "ZSTD"
            if (out / path.relative_to(made)).read_bytes() == path.read_bytes():
                continue
            changed[kind] = changed.get(kind, 0) + 1
            assert old.read().num_rows == new.read().num_rows
            if kind not in ("events", "late"):
                continue
            pairs = zip(old.read().to_pylist(), new.read().to_pylist(), strict=True)
            for was, now in pairs:
                differing = {name for name in was if was[name] != now[name]}
                if was["user_id"] == VICTIM:
                    assert differing >= {"user_id", "ip", "content_hash"}
                    assert differing <= set(erasing.REPLACED)
                else:  # clicks from the address that they shared, in the minute that they shared it
                    shared = was["ip"] in (OFFICE, "203.0.113.9")
                    assert differing in ((set(), {"ip"}) if shared else (set(),)), was
    assert changed.keys() == {"events", "late", "summaries", "flags", "verdicts"}


def test_at_one_tenant_only(out: Path, made: Path) -> None:
    run("erase", "--output", str(out), "--advertiser", TENANT, *USER)
    count = "SELECT advertiser_id, count(*) FROM event_rows WHERE user_id = ? GROUP BY 1"
    assert views(made).execute(count, [VICTIM]).fetchall() != []
    left = dict(views(out).execute(count, [VICTIM]).fetchall())
    assert left.keys() == {"acme"}


def test_a_tenant_is_gone_and_nobody_else(out: Path, made: Path) -> None:
    said = run("erase", "--output", str(out), "--advertiser", TENANT, "--yes", "--quiet").output
    assert "erased" in said and "6 rows" in said and "1 dead letters" in said
    assert unnamed(out, TENANT)
    for view in ("event_rows", "summaries", "flags", "verdicts", "anomalies", "net_summaries"):
        others = f"SELECT * FROM {view} WHERE advertiser_id <> ? ORDER BY ALL"
        wanted = views(made).execute(others, [TENANT]).fetchall()
        assert views(out).execute(f"SELECT * FROM {view} ORDER BY ALL").fetchall() == wanted, view
    letters = "SELECT payload FROM dead_letters ORDER BY ALL"
    kept = views(made).execute(letters).fetchall()
    assert len(views(out).execute(letters).fetchall()) == len(kept) - 1
    # What is tallied again does not bring it back.
    assert unnamed(retallied(out), TENANT)


def test_what_killed_runs_left_goes_too(out: Path) -> None:
    """Temporary files of tables and dead letters: no reader sees them, but they hold people."""
    left = [
        shutil.copy(path, path.parent / f".{path.name}.0f.tmp")
        for kind in ("events", "dead-letters")
        for path in [next(p for p in (out / kind).rglob("*.*") if p.name[0] != "_" and p.is_file())]
    ] + [shutil.copy(out / "views.sql", out / ".views.sql.0f.tmp")]
    for path in left[:-1]:
        os.utime(path, (0, 0))
    tenant = ("erase", "--output", str(out), "--advertiser", TENANT)
    assert "left by runs that were killed" in run(*tenant, "--dry-run").output
    assert all(path.exists() for path in left)
    said = run(*tenant, "--yes", "--quiet").output
    assert [path.exists() for path in left] == [False] * (len(left) - 1) + [True]
    assert left[-1].name in said and "was not searched" in said.replace("\n", " ")


def test_the_only_tenant_leaves_an_output_that_can_be_read(tmp_path: Path) -> None:
    line = {"event_type": "click", "event_id": "1", "advertiser_id": "a", "user_id": "u"}
    line |= {"occurred_at": "2026-03-01T00:00:00Z"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n{}\n")
    out = str(tmp_path / "out")
    run("backfill", "--input", str(tmp_path / "a.jsonl"), "--output", out, "--quiet")
    run("erase", "--output", out, "--advertiser", "a", "--yes", "--quiet")
    sql = (tmp_path / "out" / "views.sql").read_text()
    connection = duckdb.connect()
    connection.execute(sql)
    assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM dead_letters").fetchone() == (1,)
    run("backfill", "--input", str(tmp_path / "a.jsonl"), "--output", out, "--quiet")


def test_a_dry_run_changes_nothing_and_says_what_there_is(out: Path, made: Path) -> None:
    said = run("erase", "--output", str(out), "--user", VICTIM, "--dry-run", "--quiet").output
    assert "would be erased" in said and "clicks of others" in said
    # Nobody was asked, so nothing is done either.
    refused = run("erase", "--output", str(out), "--user", VICTIM, "--quiet", code=2)
    assert "--yes" in refused.output
    old = {path.relative_to(made): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    new = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert old | {Path("views.sql"): b""} == new | {Path("views.sql"): b""}  # the tests' own


def test_a_record_says_what_was_done_and_names_nobody(out: Path) -> None:
    run("erase", "--output", str(out), *USER)
    run("erase", "--output", str(out), *USER)  # nothing is left, which is said as well
    paths = sorted(out.glob("runs/erasure-*"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.suffix for path in paths] == [".json", ".json"]
    first, second = (json.loads(path.read_text()) for path in paths)
    assert first["found"]["events"]["rows"] > 40 and second["found"] == {}
    assert first["subject_type"] == "user" and first["looked_again"] == "nothing left"
    assert first["subject_hash"] != second["subject_hash"]


def test_killed_in_the_middle_it_goes_on_with_the_same_tokens(out: Path, made: Path) -> None:
    """Killed when some files are new and others not; the same again completes it."""
    old = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    command = [sys.executable, "-m", "adtally.pipelines", "erase", "--output", str(out), *USER]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while True:
        begun = list(out.glob("runs/*.pending"))
        new = sum(path.stat().st_mtime_ns != at for path, at in old.items())
        if begun and new >= 2:
            break
        assert time.monotonic() < limit and process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("runs/*.pending"))) == 1 and not unnamed(out, VICTIM)

    run("erase", "--output", str(out), *USER)
    assert unnamed(out, VICTIM) and not list(out.glob("runs/*.pending"))
    assert rows(out) == rows(made)
    tokens = "SELECT count(DISTINCT user_id) FROM event_rows WHERE user_id LIKE 'erased-%'"
    assert views(out).execute(tokens).fetchone() == (1,)


def test_pseudonyms_are_found_by_their_key(logs: Path, tmp_path: Path) -> None:
    key, out = tmp_path / "key", tmp_path / "out"
    key.write_bytes(b"0123456789abcdef-a key")
    pii._key.cache_clear()
    given = ("--pii", "hash", "--pii-key-file", str(key))
    run("backfill", "--input", str(logs), "--output", str(out), *ROLLUP, *given)
    stored = pii.Pii.hashed(str(key)).stored_user(VICTIM)
    assert stored is not None and not unnamed(out, stored)
    before = rows(out)
    key.rename(tmp_path / "elsewhere")
    pii._key.cache_clear()
    refused = run("erase", "--output", str(out), *USER, code=2)
    assert "key" in refused.output
    run("erase", "--output", str(out), *USER, "--pii-key-file", str(tmp_path / "elsewhere"))
    assert unnamed(out, stored) and unnamed(out, VICTIM)
    assert rows(out) == before


def test_who_was_on_an_allow_list_stays_so(logs: Path, tmp_path: Path) -> None:
    rules, out = tmp_path / "rules.toml", tmp_path / "out"
    rules.write_text(f"[advertisers.acme]\nallow_users = [{json.dumps(VICTIM)}]\n")
    run("backfill", "--input", str(logs), "--output", str(out), *ROLLUP, "--rules", str(rules))
    plain = retallied(Path(shutil.copytree(out, tmp_path / "plain")))
    run("erase", "--output", str(out), *USER)
    assert _summed(retallied(out)) == _summed(plain)
    marked = "SELECT count(*) FROM event_rows WHERE list_contains(ivt_reasons, 'allowed')"
    assert views(out).execute(marked).fetchone() > (0,)


def test_alerts_that_name_the_subject_go(out: Path, tmp_path: Path) -> None:
    def alert(subject_type: str, subject: str, advertiser: str = "acme") -> str:
        start = "2026-03-01T00:10:00.000Z"
        record = {"kind": "alert", "advertiser_id": advertiser, "window_start": start}
        return json.dumps({**record, "subject_type": subject_type, "subject": subject})

    lines = [
        alert("user", "somebody"),
        alert("user", VICTIM),
        alert("ip", OFFICE),
        alert("ip", "192.0.2.1"),
        alert("advertiser", TENANT, TENANT),
        '{"kind": "alert", "cut sho',
    ]
    file, folder = tmp_path / "alerts.jsonl", tmp_path / "alerts"
    folder.mkdir()
    for path in (file, folder / "alerts-1.jsonl"):
        path.write_text("\n".join(lines) + "\n")
    given = ("--alerts", str(file), "--alerts", str(folder))
    run("erase", "--output", str(out), *USER, *given)
    run("erase", "--output", str(out), "--advertiser", TENANT, "--yes", "--quiet", *given)
    kept = "\n".join((lines[0], lines[3], lines[5])) + "\n"
    assert file.read_text() == (folder / "alerts-1.jsonl").read_text() == kept
    run("erase", "--output", str(out), *USER, "--alerts", str(tmp_path / "none.jsonl"), code=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--output", "{out}"), "--advertiser"),
        (("--output", "{out}/nothing", "--user", "u", "--yes"), "adtally.json"),
        (("--output", "{out}", "--user", "", "--yes"), "say whom"),
    ],
)
def test_wrong_use_is_said(out: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run("erase", *(text.format(out=out) for text in arguments), code=2)
    assert said in result.output


def test_a_file_that_cannot_be_searched_fails_it(out: Path) -> None:
    path = next(iter(out.glob("dead-letters/*/*.gz")))
    path.write_bytes(path.read_bytes()[:-9])
    result = run("erase", "--output", str(out), "--advertiser", TENANT, "--yes", "--quiet", code=1)
    assert path.name in result.output.replace("\n", "") and "searched" in result.output


def test_what_a_stream_writes_meanwhile_is_told(out: Path, monkeypatch: Any) -> None:
    """A file that appears after its folder was looked through fails the second look."""
    from adtally.pipelines import erase_places

    path = next(iter(out.glob("events/*/hour=00/*.parquet")))
    plain = pl.read_parquet(path)
    events = erase_places.person_rows

    def first(*given: Any, **named: Any) -> Any:
        found = events(*given, **named)
        if named["write"]:
            plain.write_parquet(path.with_name("stream-x.parquet"))
        return found

    monkeypatch.setattr(erase_places, "person_rows", first)
    result = run("erase", "--output", str(out), *USER, code=1)
    assert "run the same command again" in result.output.replace("\n", " ")
    monkeypatch.undo()
    run("erase", "--output", str(out), *USER)
    assert unnamed(out, VICTIM)
    tokens = "SELECT count(DISTINCT user_id) FROM event_rows WHERE user_id LIKE 'erased-%'"
    assert views(out).execute(tokens).fetchone() == (1,)


def _renamed(plain: Path, out: Path) -> dict[str, list[Any]]:
    """What an output says of subjects, with those of another's log in their places."""
    views(out)  # where they are now
    connection = views(plain)
    connection.execute(
        f"""CREATE TABLE pairs AS
        SELECT p.advertiser_id, p.window_start, p.event_type, p.user_id, p.ip, o.user_id AS user,
            o.ip AS address
        FROM event_rows p
        JOIN read_parquet('{out}/events/*/*/*.parquet') o USING (source, position, record_index)"""
    )
    users = dict(connection.execute("SELECT DISTINCT user_id, user FROM pairs").fetchall())
    addresses = {
        tuple(row[:3]): row[3]
        for row in connection.execute(
            """SELECT DISTINCT window_start, advertiser_id, ip, address FROM pairs
            WHERE event_type = 'click'"""
        ).fetchall()
    }
    hashes = {_hash(user): _hash(new) for user, new in users.items() if user}
    renamed = rows(plain, SUBJECTS)
    for view in ("flags", "look_back_flags"):
        renamed[view] = sorted(
            (*row[:4], users[row[4]])
            if row[3] == "user"
            else (*row[:4], addresses[row[0], row[1], row[4]])
            if row[3] == "ip"
            else row
            for row in renamed[view]
        )
    renamed["summaries"] = sorted((hashes[value],) for (value,) in renamed["summaries"])
    return renamed


def _hash(user: str) -> int:
    unsigned = xxhash.xxh3_64_intdigest(user.encode())
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned


def _summed(output: Path) -> dict[str, Any]:
    return {view: found for view, found in rows(output).items() if view != "event_rows"}
