"""Backfill from and to object stores of this machine, beside the same on disk, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from adtally.io.views import write_views
from adtally.pipelines.cli import cli
from tests.fault_proxy import FaultProxy
from tests.stores import ObjectStore, save

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


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """Logs, and what a disk holds of them: after a backfill, and with an hour tallied again."""
    folder = tmp_path_factory.mktemp("local")
    run("generate", "--events", "1500", "--seed", "5", "--hours", "1", "--output", str(folder))
    logs, out = folder / "logs", str(folder / "out")
    run("backfill", "--input", str(logs), "--output", out)
    first = rows(folder / "out")
    assert first["event_rows"] and first["dead_letters"] and first["flags"]
    run("backfill", "--input", f"{out}/events", "--output", out, *HOUR)
    return logs, first, rows(folder / "out")


def test_a_store_holds_what_a_disk_would(
    tmp_path: Path, store: ObjectStore, proxy: FaultProxy, local: tuple[Path, Any, Any]
) -> None:
    logs, first, second = local
    source, bucket = store.make_bucket(), store.make_bucket()
    for path in logs.rglob("*"):
        if path.is_file():
            store.put(source, f"in/{path.relative_to(logs)}", path.read_bytes())
    given = (*store.arguments(proxy.url), *store.encryption)
    out = f"{store.scheme}://{bucket}/a"

    run("backfill", "--input", f"{store.scheme}://{source}/in/", "--output", out, *given)
    before = store.objects(bucket)
    there = save(before, tmp_path / "first") / "a"
    assert rows(there) == first
    assert not [path for path in there.rglob("*") if path.suffix == ".tmp"]

    # An hour tallied again is a generation of its own.
    run("backfill", "--input", f"{out}/events", "--output", out, *HOUR, *given)
    again = save(store.objects(bucket), tmp_path / "second") / "a"
    assert rows(again) == second != first
    added = {key for key in store.objects(bucket) if key.endswith(".parquet")} - before.keys()
    assert added and {"generation=1" in key for key in added} == {True}
    assert store.unencrypted(bucket, proxy.seen) == []
