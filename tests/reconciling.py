"""An output and its documents to be broken in known ways, for tests of ``adtally reconcile``."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import polars as pl
from click.testing import CliRunner, Result

from adtally.io.elasticsearch import ElasticsearchConfig, connect
from adtally.io.elasticsearch_bulk import BulkWriter
from adtally.io.elasticsearch_pages import pages
from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.pipelines.cli import cli

Finding = dict[str, Any]

SETTINGS: Final = ("--rollup", "1h,1d", "--dimensions", "campaign_id", "--quiet")
SOME: Final = 100_000
"""Findings to tell: all."""


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == code, result.output
    return result


def logs_with_late(folder: Path, events: int = 3_000, seed: int = 5) -> Path:
    """Made-up logs of three hours and some advertisers, with late events and duplicates."""
    config = GenerateConfig(
        seed=seed,
        output=str(folder),
        events=events,
        advertisers=12,
        hours=3,
        late_ratio=0.02,
        duplicate_ratio=0.02,
    )
    generate(config)
    return folder / "logs"


@dataclass(frozen=True)
class Place:
    """An output, and its corner of a node."""

    output: Path
    url: str
    prefix: str

    @property
    def cluster(self) -> tuple[str, ...]:
        return ("--elasticsearch", self.url, "--elasticsearch-index-prefix", self.prefix)

    @property
    def config(self) -> ElasticsearchConfig:
        return ElasticsearchConfig((self.url,), index_prefix=self.prefix)

    @classmethod
    def of(cls, folder: Path, url: str) -> Place:
        return cls(folder / "out", url, f"rec-{uuid.uuid4().hex[:8]}")

    def backfill(self, logs: Path, *more: str, elasticsearch: bool = True) -> None:
        there = (*self.cluster, "--elasticsearch-setup") if elasticsearch else ()
        run(
            "backfill", "--input", str(logs), "--output", str(self.output), *SETTINGS, *there, *more
        )

    def retally(self, *more: str, elasticsearch: bool = True) -> None:
        self.backfill(self.output / "events", *more, elasticsearch=elasticsearch)

    def reconcile(self, *more: str, code: int = 0, elasticsearch: bool = True) -> dict[str, Any]:
        there = self.cluster if elasticsearch else ()
        result = run(
            *("reconcile", "--output", str(self.output), "--format", "json", "--quiet"),
            *("--rows", str(SOME), *there, *more),
            code=code,
        )
        return dict(json.loads(result.stdout))

    def files(self, pattern: str) -> list[Path]:
        found = sorted(self.output.glob(pattern))
        assert found, pattern
        return found

    def copy(self, folder: Path) -> Place:
        """The same documents, and files of its own."""
        shutil.copytree(self.output, folder / "out")
        return Place(folder / "out", self.url, self.prefix)

    def documents(self, kind: str) -> list[dict[str, Any]]:
        """All of them with their addresses and versions."""
        with connect(self.config) as client:
            writer, pattern = BulkWriter(client, self.config), self.config.index_pattern(kind)
            return [hit for hits in pages(writer, pattern, {"match_all": {}}, True) for hit in hits]

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """What the views say, by an engine that knows nothing of reconcile."""
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute((self.output / "views.sql").read_text())
        return connection.execute(query).fetchall()


def windows(findings: list[Finding], **wanted: Any) -> set[tuple[Any, ...]]:
    """Windows of the findings that have these values."""
    return {
        (one["advertiser_id"], one["window_seconds"], one["window_start"])
        for one in findings
        if all(one[name] == value for name, value in wanted.items())
    }


def windows_of(frame: pl.DataFrame) -> set[tuple[Any, ...]]:
    """Windows of stored rows, as findings write them."""
    shown = frame.with_columns(pl.col("window_start").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return set(shown.select("advertiser_id", "window_seconds", "window_start").rows())


def states(told: dict[str, Any]) -> dict[str, set[str]]:
    """Which states there are, by side, of all kinds."""
    return {
        side: {state for by_state in kinds.values() for state in by_state}
        for side, kinds in told["windows"].items()
    }
