"""Logs with people to be erased, and what an output says before and after, for tests of erasure."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from click.testing import CliRunner, Result

from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.io.views import write_views
from adtally.pipelines.cli import cli

VICTIM = 'victim-ä/"1'
"""A user with signs that JSON, paths and patterns write in their own ways."""

TENANT = "te nant*/1"
OFFICE = "198.51.100.7"
"""An address that the victim shares: 31 clicks within a minute, of which none may be missing."""

REPLACED = ("user_id", "ip", "user_agent", "url", "extra", "content_hash")
COUNTED = {
    "summaries": "* EXCLUDE (unique_user_hashes, version, generation)",
    "net_summaries": "* EXCLUDE (unique_user_hashes, version, generation)",
    "flags": "* EXCLUDE (subject, version, generation)",
    "look_back_flags": "* EXCLUDE (subject, version, generation)",
    "anomalies": "* EXCLUDE (version, generation)",
    "event_rows": f"* EXCLUDE ({', '.join(REPLACED)})",
}
"""What has to be the same after a user was erased: all but the names."""

SUBJECTS = {
    "flags": "window_start, advertiser_id, rule, subject_type, subject",
    "look_back_flags": "flagged_at, advertiser_id, rule, subject_type, subject",
    "summaries": "DISTINCT unnest(unique_user_hashes)",
}
"""What a re-tally of an erased log has to give again: who is named, or counted."""


def run(*arguments: str, code: int = 0, given: str | None = None) -> Result:
    result = CliRunner().invoke(cli, list(arguments), input=given)
    assert result.exit_code == code, result.output
    return result


def logs_with(folder: Path, events: int = 500, seed: int = 3) -> Path:
    """Made-up logs, and beside them what an erasure can get wrong."""
    generate(
        GenerateConfig(
            seed=seed, output=str(folder), events=events, advertisers=40, hours=2, late_ratio=0.01
        )
    )
    lines = [line for number in range(2) for line in _of_hour(number)]
    packed = gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    broken = json.dumps(VICTIM)[1:-1].encode()
    packed += gzip.compress(
        b'{"advertiser_id": "acme", "user_id": "%s"\n' % broken  # cut short
        + json.dumps({"advertiser_id": TENANT, "event_type": "no such type"}).encode()
        + b'\n{"advertiser_id": "acme", "user_id": "someone", "event_type": "none"}\n'
    )
    (folder / "logs" / "own.jsonl.gz").write_bytes(packed)
    return folder / "logs"


def _of_hour(hour: int) -> list[dict[str, Any]]:
    def event(number: int, second: int, **fields: Any) -> dict[str, Any]:
        at = f"2026-03-01T{hour:02}:{10 + second // 60:02}:{second % 60:02}"
        base = {"event_type": "click", "event_id": f"{hour}-{number}", "occurred_at": f"{at}.5Z"}
        base |= {"advertiser_id": "acme", "user_id": f"colleague-{number}", "ip": OFFICE}
        base |= {"user_agent": "Mozilla/5.0 (own)", "cost_micros": 1_000 + number}
        return base | {"currency": "EUR", "url": f"https://a.example/?n={number}", **fields}

    lines = [event(number, number) for number in range(28)]
    lines += [event(28 + n, 30 + n, user_id=VICTIM) for n in range(3)]
    # Copies of one click that differ, of the victim and of another; the first of them counts.
    for cost, user in ((7, VICTIM), (8, "other"), (9, VICTIM), (11, "another")):
        lines.append(event(100, 40, ip="203.0.113.9", user_id=user, cost_micros=cost))
    # Clicks of one moment on one creative: all but one are invalid, and they differ in cost.
    for number in range(5):
        lines.append(
            event(200 + number, 90, user_id=VICTIM, ip="203.0.113.9", creative_id="c", nick=VICTIM)
        )
    # More than ten within three minutes: a rule that looks back names the user.
    lines += [
        event(300 + n, 120 + 3 * n * n % 170, user_id=VICTIM, ip=f"203.0.113.{n}")
        | {"creative_id": str(n)}
        for n in range(14)
    ]
    lines += [event(400 + n, n, user_id=VICTIM, advertiser_id=TENANT) for n in range(3)]
    lines.append(event(500, 50, user_id=VICTIM, received_at=f"2026-03-01T{hour + 4:02}:00:00Z"))
    return lines


def views(output: Path, window: int = 60) -> duckdb.DuckDBPyConnection:
    write_views(str(output), window, 3600, ())
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute((output / "views.sql").read_text())
    return connection


def rows(output: Path, wanted: dict[str, str] = COUNTED) -> dict[str, list[Any]]:
    """All that the views of an output show."""
    connection = views(output)
    return {
        view: connection.execute(f"SELECT {columns} FROM {view} ORDER BY ALL").fetchall()
        for view, columns in wanted.items()
    }


def texts(output: Path) -> str:
    """Everything that is written anywhere below an output, as one text."""
    found = []
    for path in sorted(output.rglob("*")):
        if path.suffix == ".parquet":
            found.append(pl.read_parquet(path).write_ndjson())
        elif path.suffix == ".gz":
            found.append(gzip.decompress(path.read_bytes()).decode())
        elif path.is_file():
            found.append(path.read_text())
    return "\n".join(found)


def names(name: str) -> tuple[str, ...]:
    """How a name may be spelled in :func:`texts`."""
    return name, json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1]


def unnamed(output: Path, name: str) -> bool:
    text = texts(output)
    return not any(spelled in text for spelled in names(name))
