"""The job in Polars. It cannot pass over malformed lines, so those are looked for first."""

import gzip
import json
import sys
from pathlib import Path

import msgspec
import polars as pl

from benchmarks.peers.sql import FIELDS


def read(path: Path) -> pl.DataFrame:
    data = gzip.decompress(path.read_bytes())
    schema = dict.fromkeys(FIELDS, pl.String)
    check = msgspec.json.Decoder(msgspec.Raw).decode
    lines = []
    for line in data.split(b"\n"):
        if line.startswith(b"{") and line.endswith(b"}"):
            try:
                check(line)
                line.decode()
            except ValueError:
                continue
            lines.append(line)
    return pl.read_ndjson(b"\n".join(lines), schema=schema)


def main(logs: str, output: str) -> None:
    folder = Path(output)
    frame = pl.concat([read(path) for path in sorted(Path(logs).glob("*/*.jsonl.gz"))])
    happened = pl.col("occurred_at").str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.fZ", strict=False, time_unit="ms"
    )
    frame = frame.with_columns(
        happened.alias("happened"),
        pl.col("cost_micros").cast(pl.Int64, strict=False).alias("cost"),
        pl.col("revenue_micros").cast(pl.Int64, strict=False).alias("revenue"),
    )
    money = (pl.col("cost").fill_null(0) != 0) | (pl.col("revenue").fill_null(0) != 0)
    events = frame.filter(
        pl.col("happened").dt.year().is_between(2000, 2049),
        pl.col("advertiser_id").is_not_null(),
        pl.col("event_type").is_in(["impression", "click", "conversion"]),
        pl.col("cost").is_not_null() | pl.col("cost_micros").is_null(),
        pl.col("revenue").is_not_null() | pl.col("revenue_micros").is_null(),
        pl.col("currency").is_not_null() | ~money,
    ).with_columns(pl.col("happened").dt.truncate("1m").alias("minute"))
    by_hour = events.with_columns(pl.col("happened").dt.truncate("1h").alias("h"))
    hours = by_hour.partition_by("h", as_dict=True)
    for (hour,), part in hours.items():
        target = folder / "events" / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
        target.mkdir(parents=True, exist_ok=True)
        part.select(FIELDS).write_parquet(target / "part.parquet", compression="zstd")
    counted = events.sort("happened", "cost").unique(
        ["advertiser_id", "event_type", "event_id", "minute"], keep="first"
    )
    kinds = ("impression", "click", "conversion")
    summaries = (
        counted.lazy()
        .group_by("minute", "advertiser_id", pl.col("currency").fill_null("XXX"))
        .agg(
            *((pl.col("event_type") == kind).sum().alias(f"{kind}s") for kind in kinds),
            pl.col("cost").sum().alias("cost_micros"),
            pl.col("revenue").sum().alias("revenue_micros"),
            pl.col("user_id").drop_nulls().n_unique().alias("unique_users"),
            pl.col("happened").min().alias("first_event_at"),
            pl.col("happened").max().alias("last_event_at"),
        )
        .collect()
    )
    summaries.write_parquet(folder / "summaries.parquet")
    clicks = counted.filter(pl.col("event_type") == "click", pl.col("ip").is_not_null())
    flags = clicks.group_by("minute", "advertiser_id", "ip").len().filter(pl.col("len") > 30)
    flags.write_parquet(folder / "flags.parquet")
    totals = summaries.select(pl.sum("impressions", "clicks", "conversions", "cost_micros"))
    impressions, clicked, conversions, cost = totals.row(0)
    found = {"events": events.height, "impressions": impressions, "clicks": clicked}
    found |= {"conversions": conversions, "cost": cost, "rows": summaries.height}
    print(json.dumps({**found, "flags": flags.height}))


main(*sys.argv[1:])
