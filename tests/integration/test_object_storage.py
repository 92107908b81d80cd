"""Backfill from and to S3, on a server of this machine, beside the same on disk, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from adtally.io.views import write_views
from adtally.pipelines.cli import cli
from adtally.runners.local.s3_server import S3Server
from tests import streams

VIEWS = {
    "event_rows": "* EXCLUDE (source, arrived_at)",
    "summaries": "* EXCLUDE (version)",
    "flags": "* EXCLUDE (version)",
    "verdicts": "* EXCLUDE (version)",
    "anomalies": "* EXCLUDE (version)",
    "net_summaries": "*",
    "dead_letters": "error_type, position, payload",
}
HOUR = ("--from", "2026-03-01T00:00:00Z", "--to", "2026-03-01T01:00:00Z")


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in streams.AWS.items():
        monkeypatch.setenv(name, value)
    with S3Server(tmp_path / "s3") as server:
        yield server


def run(*arguments: str) -> None:
    result = CliRunner().invoke(cli, [*arguments])
    assert result.exit_code == 0, result.output


def rows(output: Path) -> dict[str, list[Any]]:
    """All that the views of an output show."""
    write_views(str(output), 60, 3600, ())
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute((output / "views.sql").read_text())
    return {
        view: connection.execute(f"SELECT {columns} FROM {view} ORDER BY ALL").fetchall()
        for view, columns in VIEWS.items()
    }


def copied(client: Any, bucket: str, folder: Path) -> Path:
    """The objects of a bucket, as files."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            path = folder / entry["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, entry["Key"], str(path))
    return folder


def test_s3_holds_what_a_disk_would(tmp_path: Path, s3: S3Server) -> None:
    made = tmp_path / "made"
    run("generate", "--events", "1500", "--seed", "5", "--hours", "1", "--output", str(made))
    client = streams.aws_client("s3", s3.url)
    for bucket in ("logs", "out"):
        client.create_bucket(Bucket=bucket)
    for path in (made / "logs").rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "logs", f"in/{path.relative_to(made / 'logs')}")
    endpoint = f"--s3_endpoint_url={s3.url}"

    local = tmp_path / "local"
    run("backfill", "--input", str(made / "logs"), "--output", str(local))
    run("backfill", "--input", "s3://logs/in/", "--output", "s3://out/a", endpoint)
    there = copied(client, "out", tmp_path / "first") / "a"
    assert rows(there) == rows(local)
    assert rows(there)["event_rows"] and rows(there)["dead_letters"] and rows(there)["flags"]
    assert not [path for path in there.rglob("*") if path.suffix == ".tmp"]

    # An hour tallied again is a generation of its own.
    run("backfill", "--input", "s3://out/a/events", "--output", "s3://out/a", *HOUR, endpoint)
    run("backfill", "--input", str(local / "events"), "--output", str(local), *HOUR)
    again = copied(client, "out", tmp_path / "second") / "a"
    assert rows(again) == rows(local) != rows(there)
    before = {path.relative_to(there) for path in there.rglob("*.parquet")}
    after = {path.relative_to(again) for path in again.rglob("*.parquet")}
    assert before < after
    assert {"generation=1" in str(path) for path in after - before} == {True}
