"""``python -m benchmarks.capacity``: what an event costs, from 1x to 100x, for docs/capacity.md.

A day of events of 2,000 advertisers, ten and a hundred times as many, is back-filled by one process
with all rules; the same again with ten times the advertisers. The smaller days go into a real
Elasticsearch node as well, whose indices are merged before they are weighed. Writes
docs/capacity.json as it goes; ``python -m benchmarks.cost`` makes the tables of it. Days that are
there already are kept: remove the file to measure all again.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from adtally.io.arrow import to_ipc
from adtally.io.elasticsearch import KINDS, ElasticsearchConfig, connect
from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.pipelines.job import Settings
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.transforms.slices import HistoryCut, SliceSpec, slice_events
from benchmarks import usage

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "capacity.json"
UNIT = int(os.environ.get("ADTALLY_BENCH_EVENTS", "50000"))
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Case:
    """A day of events.

    Attributes:
        name: what grew.
        events: how many, about.
        advertisers: of how many.
        dimensions: that summaries are broken down by.
        indexed: whether it goes into Elasticsearch, too.
    """

    name: str
    events: int
    advertisers: int = 2_000
    dimensions: str = ""
    indexed: bool = False


CASES = (
    Case("1x", UNIT, indexed=True),
    Case("10x", 10 * UNIT, indexed=True),
    Case("100x", 100 * UNIT),
    Case("10x, 20,000 advertisers", 10 * UNIT, advertisers=20_000),
    Case("10x, by campaign and country", 10 * UNIT, dimensions="campaign_id,country", indexed=True),
)


@dataclass
class Measured:
    """What one day took. Sizes are bytes; ``documents`` and ``index_bytes`` are by kind."""

    case: Case
    events: int = 0
    input_bytes: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    log_bytes: int = 0
    other_bytes: int = 0
    summary_rows: int = 0
    advertiser_hours: int = 0
    documents: dict[str, int] = field(default_factory=dict)
    index_bytes: dict[str, int] = field(default_factory=dict)


def main() -> None:
    found: dict[str, Any] = {"cores": os.cpu_count(), "days": [], "slice_bytes_per_event": {}}
    if DATA.exists():
        found = json.loads(DATA.read_text(encoding="utf-8"))
    known = {day["case"]["name"] for day in found["days"]}
    for case in CASES:
        if case.name not in known:
            with tempfile.TemporaryDirectory(prefix="adtally-capacity-") as scratch:
                found["days"].append(asdict(_measured(case, Path(scratch))))
            _save(found)
    if not found["slice_bytes_per_event"]:
        found["slice_bytes_per_event"] = _slice_bytes()
        _save(found)


def _save(found: dict[str, Any]) -> None:
    order = [case.name for case in CASES]
    found["days"].sort(key=lambda day: order.index(day["case"]["name"]))
    DATA.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _measured(case: Case, folder: Path) -> Measured:
    made = GenerateConfig(case.events, 1, str(folder / "made"), advertisers=case.advertisers)
    generate(made)
    output = folder / "out"
    found = Measured(case, input_bytes=_bytes(folder / "made" / "logs"))
    wall_s, used = usage.backfill(
        folder,
        *("--input", str(folder / "made" / "logs"), "--output", str(output)),
        *(("--dimensions", case.dimensions) if case.dimensions else ()),
    )
    found.wall_s = round(wall_s, 1)
    found.cpu_s, found.peak_mb = round(used.cpu, 1), round(used.peak_mb)
    found.log_bytes = _bytes(output / "events")
    found.other_bytes = _bytes(output) - found.log_bytes
    sql = duckdb.connect()
    sql.execute((output / "views.sql").read_text())
    found.events, found.summary_rows, found.advertiser_hours = sql.execute(
        """SELECT (SELECT count(*) FROM event_rows), count(*),
            count(DISTINCT (advertiser_id, date_trunc('hour', window_start))) FROM summaries"""
    ).fetchall()[0]
    if case.indexed:
        _index(output, case, found)
    return found


def _index(output: Path, case: Case, found: Measured) -> None:
    """Tally the log again into a node of its own, and weigh the indices when they are merged."""
    node = ElasticsearchNode()
    node.start()
    try:
        usage.backfill(
            output.parent,
            *("--input", str(output / "events"), "--output", str(output)),
            *("--from", "2026-02-28", "--to", "2026-03-04"),
            *("--elasticsearch", node.url, "--elasticsearch-setup"),
            *(("--dimensions", case.dimensions) if case.dimensions else ()),
        )
        with contextlib.closing(connect(ElasticsearchConfig(urls=(node.url,)))) as client:
            for kind in KINDS:
                pattern = f"adtally-{kind}-*"
                client.indices.forcemerge(index=pattern, max_num_segments=1)
                client.indices.refresh(index=pattern)
                stats = client.indices.stats(index=pattern)["_all"]["primaries"]
                found.documents[kind] = int(client.count(index=pattern)["count"])
                found.index_bytes[kind] = int(stats.get("store", {}).get("size_in_bytes", 0))
    finally:
        node.stop()


def _slice_bytes() -> dict[str, float]:
    """Bytes of an event in the state of a stream, by events in a batch."""
    settings = Settings()
    window_ms = settings.window_seconds * 1000
    with tempfile.TemporaryDirectory(prefix="adtally-capacity-") as scratch:
        generate(GenerateConfig(UNIT, 1, str(Path(scratch) / "made"), hours=1))
        output = Path(scratch) / "out"
        paths = ("--input", str(Path(scratch) / "made" / "logs"), "--output", str(output))
        usage.backfill(Path(scratch), *paths)
        files = sorted(str(path) for path in (output / "events").rglob("*.parquet"))
        events = pl.read_parquet(files).sort("received_at").to_arrow()
    spec = SliceSpec(
        base_window_ms=window_ms,
        beam_window_ms=window_ms,
        allowed_lateness_ms=None,
        shards=4,
        keep_position=True,
        history=HistoryCut(HOUR_MS, HOUR_MS),
    )
    found: dict[str, float] = {}
    for size in (100, 1_000, 10_000):
        part: Any = events.slice(0, min(events.num_rows, 10 * size))
        stored = sum(
            len(to_ipc(piece.table))
            for at in range(0, part.num_rows, size)
            for piece in slice_events(part.slice(at, size), spec).slices
        )
        found[str(size)] = round(stored / part.num_rows, 1)
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
