"""``python -m benchmarks.skew``: the same events from many advertisers, from one, and from ten.

A backfill with two workers, and with ``stream`` as argument the stream on Flink with parallelism 2.
Groups of the shuffle are by advertiser, so most of what one advertiser sends is one worker's.
Prints a table for docs/skew.md.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from adtally.pipelines.job import STREAM_SHARDS, Settings
from adtally.pipelines.stream import StreamRequest, stream
from adtally.transforms.slices import SHARDS
from benchmarks import usage
from benchmarks.usage import Usage

EVENTS = int(os.environ.get("ADTALLY_BENCH_EVENTS", "1000000"))
ROUNDS = int(os.environ.get("ADTALLY_BENCH_ROUNDS", "2"))
START_MS = 1_772_366_400_000  # 2026-03-01T12:00:00Z
SPAN_MS = 3_600_000 * int(os.environ.get("ADTALLY_BENCH_HOURS", "1"))
MIXED = 2_654_435_761  # spreads consecutive numbers, Knuth's multiplicative hash
TWO = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@dataclass(frozen=True)
class Measured:
    """Seconds, processor seconds of all and of the busiest process, MB of all and the largest."""

    wall: float
    cpu: float
    busiest: float
    peak_mb: float
    largest_mb: float


def measured(wall: float, used: Usage) -> Measured:
    return Measured(wall, used.cpu, used.busiest, used.peak_mb, used.largest_mb)


def zipf(draw: pl.Expr) -> pl.Expr:
    """Of 2,000 advertisers, the n-th with a share as 1/n: the draw's logarithm is even."""
    return ((draw * math.log(2_001)).exp().floor() - 1).cast(pl.Int64)


def nine_in_ten(draw: pl.Expr) -> pl.Expr:
    return pl.when(draw < 0.9).then(0).otherwise(1 + ((draw - 0.9) * 19_990).cast(pl.Int64))


def ten(draw: pl.Expr) -> pl.Expr:
    return (draw * 10).cast(pl.Int64)


CASES: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "2,000 advertisers, Zipf": zipf,
    "90% from one of 2,000": nine_in_ten,
    "ten advertisers": ten,
}


def main() -> None:
    run = on_flink if sys.argv[1:] == ["stream"] else backfill
    shards = STREAM_SHARDS if run is on_flink else SHARDS
    found: dict[str, list[Measured]] = {}
    groups: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="adtally-skew-") as scratch:
        for name, advertisers in CASES.items():
            folder = Path(scratch) / str(len(groups))
            groups[name] = write(advertisers, folder / "logs", shards)
        for turn in range(ROUNDS):
            for number, name in enumerate(CASES):
                one = run(Path(scratch) / str(number))
                found.setdefault(name, []).append(one)
                print(f"round {turn + 1}, {name}: {one}", file=sys.stderr, flush=True)
    report(found, groups)


def report(found: dict[str, list[Measured]], groups: dict[str, int]) -> None:
    columns = ("largest group", "wall s", "", "CPU s", "busiest process", "all MB", "largest MB")
    print(f"| {EVENTS:,} events | {' | '.join(columns)} |")
    print("|:--|" + "--:|" * len(columns))
    first = min(one.wall for one in next(iter(found.values())))
    for name, several in found.items():
        best = min(several, key=lambda one: one.wall)
        print(
            f"| {name} | {groups[name] / EVENTS:.0%} | {best.wall:.1f} "
            f"| {best.wall / first:.2f} x | {best.cpu:.1f} | {best.busiest:.1f} "
            f"| {best.peak_mb:,.0f} | {best.largest_mb:,.0f} |",
            flush=True,
        )


def write(advertisers: Callable[[pl.Expr], pl.Expr], folder: Path, shards: int) -> int:
    """Logs in a file for each 50,000 events; returns how many the largest shard has."""
    import polars_hash as plh

    folder.mkdir(parents=True)
    at = pl.col("number")
    ms = START_MS + at * SPAN_MS // EVENTS
    draw = (at * MIXED % (1 << 32)).cast(pl.Float64) / float(1 << 32)
    who = at * 7_919 % (EVENTS // 10)
    events = pl.DataFrame({"number": range(EVENTS)}).select(
        event_type=pl.when(at % 10 < 8).then(pl.lit("impression")).otherwise(pl.lit("click")),
        event_id=pl.format("e{}", at),
        occurred_at=pl.from_epoch(ms, "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        received_at=pl.from_epoch(ms + 500, "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        advertiser_id=pl.format("adv{}", advertisers(draw)),
        user_id=pl.format("user{}", who),
        ip=pl.format("10.{}.{}.{}", who // 65_536, who // 256 % 256, who % 256),
        user_agent=pl.lit("Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"),
        cost_micros=pl.lit(1_000),
        currency=pl.lit("EUR"),
    )
    for number, part in enumerate(events.iter_slices(50_000)):
        part.write_ndjson(folder / f"{number:03d}.jsonl")
    shard = plh.col("advertiser_id").nchash.xxh3_64() % shards
    return int(events.select(shard.alias("shard")).to_series().value_counts()["count"].max())


def backfill(folder: Path) -> Measured:
    shutil.rmtree(folder / "out", ignore_errors=True)
    paths = ("--input", str(folder / "logs"), "--output", str(folder / "out"))
    return measured(*usage.backfill(folder, *TWO, *paths))


def on_flink(folder: Path) -> Measured:
    """The logs in order of arrival, as fast as they can be read; start-up is not counted."""
    from adtally.io.kinesis import KinesisConfig, ReadFromKinesis
    from adtally.runners.local.flink_cluster import FlinkCluster
    from benchmarks.run import ROOT
    from benchmarks.stream_throughput import counted, seconds_of
    from tests import canned_kinesis, streams

    shards = folder / "shards"
    if not shards.exists():
        lines = canned_kinesis.in_order(streams.lines_of(folder / "logs"))
        canned_kinesis.write(lines, shards, 2)
    os.environ["PYTHONPATH"] = str(ROOT)  # workers have to import the canned client
    output = folder / "streamed"
    shutil.rmtree(output, ignore_errors=True)
    read = ReadFromKinesis(
        KinesisConfig("bench", "us-east-1", call_seconds=0.0, shard_bytes_a_second=1e12),
        make_client=canned_kinesis.CannedKinesis(shards),
    )
    with FlinkCluster() as cluster:
        request = StreamRequest(
            (read,),
            str(output),
            Settings(shards=STREAM_SHARDS),
            flush_seconds=5,
            resume=False,
            arguments=streams.flink_options(cluster),
        )
        parts = [cluster.manager, *cluster.task_managers, cluster.pool]
        with Usage(*(part.pid for part in parts)) as used:
            stream(request)
            streams.until(lambda: counted(output)[0] == EVENTS, "all is counted")
            wall = seconds_of(cluster)
    return measured(wall, used)


if __name__ == "__main__":
    main()
