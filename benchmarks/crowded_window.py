"""``python -m benchmarks.crowded_window``: memory when a window has a million addresses.

The same number of clicks, from ever more addresses and users, spread over an hour and over 2,000
advertisers, in one minute, and in one minute of one advertiser, which is one group of the shuffle.
All rules are on. Prints a table for docs/benchmarks.md.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks import usage

EVENTS = int(os.environ.get("ADTALLY_BENCH_EVENTS", "2000000"))
START_MS = 1_772_366_400_000  # 2026-03-01T12:00:00Z


@dataclass(frozen=True)
class Case:
    addresses: int
    advertisers: int
    minutes: int


CASES = (
    Case(1_000, 2_000, 60),
    Case(1_000_000, 2_000, 60),
    Case(1_000_000, 2_000, 1),
    Case(1_000, 1, 1),
    Case(1_000_000, 1, 1),
)


def main() -> None:
    print("| addresses | advertisers | minutes | wall s | CPU s | peak MB |")
    print("|--:|--:|--:|--:|--:|--:|")
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="adtally-crowded-") as scratch:
            folder = Path(scratch)
            write(case, folder / "logs")
            paths = ("--input", str(folder / "logs"), "--output", str(folder / "out"))
            wall, used = usage.backfill(folder, *paths)
        print(
            f"| {case.addresses:,} | {case.advertisers:,} | {case.minutes} "
            f"| {wall:.1f} | {used.cpu:.1f} | {used.peak_mb:,.0f} |",
            flush=True,
        )


def write(case: Case, folder: Path) -> None:
    """Clicks in a file for each 100,000; every address comes equally often."""
    folder.mkdir()
    at = pl.col("number")
    ms = START_MS + (at * case.minutes * 60_000 // EVENTS)
    who = at % case.addresses
    clicks = pl.DataFrame({"number": range(EVENTS)}).select(
        event_type=pl.lit("click"),
        event_id=pl.format("e{}", at),
        occurred_at=pl.from_epoch(ms, "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        received_at=pl.from_epoch(ms + 500, "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        advertiser_id=pl.format("adv{}", at * 7 % case.advertisers),
        user_id=pl.format("user{}", who),
        ip=pl.format(
            "{}.{}.{}.{}", 1 + who // 2**24, who // 65_536 % 256, who // 256 % 256, who % 256
        ),
        user_agent=pl.lit("Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"),
        cost_micros=pl.lit(1_000),
        currency=pl.lit("EUR"),
    )
    for number, part in enumerate(clicks.iter_slices(100_000)):
        part.write_ndjson(folder / f"{number:03d}.jsonl")


if __name__ == "__main__":
    main()
