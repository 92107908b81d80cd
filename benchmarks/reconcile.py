"""``python -m benchmarks.reconcile``: what it takes to hold stored numbers against the log.

A day of made-up logs is back-filled, and then compared, beside the backfill that wrote it: without
Elasticsearch, with late events and without, and with documents. Prints a table for
docs/reconcile.md. ``ADTALLY_BENCH_EVENTS`` says how many events; documents are of a tenth of them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from benchmarks import usage

EVENTS = int(os.environ.get("ADTALLY_BENCH_EVENTS", "2000000"))


def main() -> None:
    print("| | events | backfill s | CPU s | reconcile s | CPU s | peak MB | ratio of CPU |")
    print("|:--|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="adtally-reconcile-") as scratch:
        folder = Path(scratch)
        row(folder / "on-time", "files, nothing late", EVENTS, 0.0)
        row(folder / "late", "files, 0.2% late: tallied twice", EVENTS, 0.002)
        node = ElasticsearchNode()
        node.start()
        try:
            there = ("--elasticsearch", node.url, "--elasticsearch-setup")
            row(folder / "documents", "files and documents, 0.2% late", EVENTS // 10, 0.002, there)
        finally:
            node.stop()


def row(
    folder: Path, name: str, events: int, late: float, elasticsearch: tuple[str, ...] = ()
) -> None:
    folder.mkdir()
    logs = str(folder / "made")
    generate(GenerateConfig(events=events, seed=1, output=logs, late_ratio=late))
    out = ("--output", str(folder / "out"), "--quiet")
    rollup = ("--rollup", "1h", "--dimensions", "campaign_id")
    made = ("backfill", "--input", f"{logs}/logs", *rollup)
    wrote, writing = usage.adtally(folder, *made, *out, *elasticsearch)
    took, asking = usage.adtally(folder, "reconcile", *out, *elasticsearch[:2], "--rows", "0")
    print(
        f"| {name} | {events:,} | {wrote:.1f} | {writing.cpu:.1f} | {took:.1f} | "
        f"{asking.cpu:.1f} | {asking.peak_mb:,.0f} | {asking.cpu / writing.cpu:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
