"""``python -m benchmarks.noisy_tenant``: one advertiser that sends random campaign ids.

Ten minutes of 200 advertisers with 20 campaigns each, alone, and with a million clicks of another,
each of a campaign of its own, without a limit of rows and with it. With ``elasticsearch`` as
argument, documents are written to a node too. Prints tables for docs/overflow.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from adtally.transforms.slices import narrow_schema
from adtally.transforms.tally import TallySpec, tally
from benchmarks import usage

HONEST = int(os.environ.get("ADTALLY_BENCH_EVENTS", "500000"))
NOISE = 2 * HONEST
START_MS = 1_772_366_400_000  # 2026-03-01T12:00:00Z
SPAN_MS = 600_000
CASES = (("alone", False, 10_000), ("no limit", True, 0), ("10,000 rows", True, 10_000))


def main() -> None:
    tally_alone()
    with tempfile.TemporaryDirectory(prefix="adtally-noisy-") as scratch:
        folder = Path(scratch)
        write(folder / "honest", honest())
        write(folder / "noise", noise())
        with contextlib.ExitStack() as stack:
            url = ""
            if sys.argv[1:] == ["elasticsearch"]:
                from adtally.runners.local.elasticsearch_node import ElasticsearchNode

                node = ElasticsearchNode()
                node.start()
                stack.callback(node.stop)
                url = node.url
            print("| | wall s | CPU s | peak MB | rows | hour's rows | MB | documents | MB |")
            print("|:--|--:|--:|--:|--:|--:|--:|--:|--:|")
            for number, (name, noisy, most) in enumerate(CASES):
                found = backfill(folder, noisy, most, url, f"c{number}")
                print(f"| {name} | {found} |", flush=True)


def tally_alone() -> None:
    """The pure function on a million events of a minute: what the limit itself takes."""
    print("| a million events of a minute | CPU s, no limit | 10,000 rows | rows |")
    print("|:--|--:|--:|--:|")
    for name, campaigns, advertisers in (
        ("2,000 advertisers, 20 campaigns each", 20, 2_000),
        ("one advertiser, 20 campaigns", 20, 1),
        ("one advertiser, a million campaigns", 1_000_000, 1),
    ):
        table = narrow(campaigns, advertisers)
        seconds, rows = [], []
        for most in (0, 10_000):
            spec = TallySpec(60_000, 3_600_000, ("campaign_id",), max_rows=most)
            times = []
            for _ in range(3):
                began = time.process_time()
                rows.append(tally([table], spec).summaries.num_rows)
                times.append(time.process_time() - began)
            seconds.append(min(times))
        print(f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {rows[0]:,} to {rows[-1]:,} |")


def narrow(campaigns: int, advertisers: int) -> pa.Table:
    at = pl.int_range(1_000_000, eager=True).alias("number").to_frame()
    number = pl.col("number")
    frame = at.select(
        advertiser_id=pl.format("adv{}", number % advertisers),
        event_type=pl.lit(1),
        event_id=pl.format("e{}", number),
        occurred_at=START_MS + number * 60_000 // 1_000_000,
        content_hash=number,
        currency=pl.lit("EUR"),
        cost_micros=pl.lit(1_000),
        revenue_micros=pl.lit(0),
        user_hash=number % 100_000,
        campaign_id=pl.format("c{}", number // advertisers % campaigns),
    )
    target = narrow_schema(("campaign_id",))
    missing = [pl.lit(None).alias(name) for name in target.names if name not in frame.columns]
    return frame.with_columns(missing).select(target.names).to_arrow().cast(target)


def honest() -> pl.DataFrame:
    at = pl.col("number")
    return clicks(HONEST, pl.format("adv{}", at % 200), pl.format("c{}", at // 200 % 20))


def noise() -> pl.DataFrame:
    return clicks(NOISE, pl.lit("noisy"), pl.format("{}", pl.col("number").hash(7)))


def clicks(events: int, advertiser: pl.Expr, campaign: pl.Expr) -> pl.DataFrame:
    at = pl.col("number")
    ms = START_MS + at * SPAN_MS // events
    return pl.DataFrame({"number": range(events)}).select(
        event_type=pl.lit("click"),
        event_id=pl.format("e{}", at),
        occurred_at=pl.from_epoch(ms, "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        received_at=pl.from_epoch(ms + 500, "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        advertiser_id=advertiser,
        campaign_id=campaign,
        user_id=pl.format("user{}", at % 100_003),
        cost_micros=pl.lit(1_000),
        currency=pl.lit("EUR"),
    )


def write(folder: Path, events: pl.DataFrame) -> None:
    folder.mkdir()
    for number, part in enumerate(events.iter_slices(100_000)):
        part.write_ndjson(folder / f"{number:03d}.jsonl")


def backfill(folder: Path, noisy: bool, most: int, url: str, prefix: str) -> str:
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    inputs = [
        part
        for name in ("honest", "noise")[: 1 + noisy]
        for part in ("--input", str(folder / name))
    ]
    target = ["--elasticsearch", url, "--elasticsearch-setup", "--elasticsearch-index-prefix"]
    wall, used = usage.backfill(
        folder,
        *(*inputs, "--output", str(output), "--dimensions", "campaign_id", "--rollup", "1h"),
        *("--max-rows-per-window", str(most), *([*target, prefix] if url else [])),
    )
    with duckdb.connect() as sql:
        sql.execute((output / "views.sql").read_text())
        query = "SELECT window_seconds, count(*) FROM summaries GROUP BY 1 ORDER BY 1"
        (_, rows), (_, hours) = sql.execute(query).fetchall()
    size = sum(path.stat().st_size for path in output.glob("summaries/**/*.parquet"))
    found = f"{wall:.1f} | {used.cpu:.1f} | {used.peak_mb:,.0f} | {rows:,} | {hours:,} "
    return f"{found}| {size / 1e6:,.1f} | {indexed(url, prefix)}"


def indexed(url: str, prefix: str) -> str:
    if not url:
        return "- | -"
    from adtally.io.elasticsearch import ElasticsearchConfig, connect

    with contextlib.closing(connect(ElasticsearchConfig((url,), prefix))) as client:
        pattern = f"{prefix}-summaries-*"
        client.indices.refresh(index=pattern)
        total = client.indices.stats(index=pattern)["_all"]["total"]
    return f"{total['docs']['count']:,} | {total['store']['size_in_bytes'] / 1e6:,.0f}"


if __name__ == "__main__":
    main()
