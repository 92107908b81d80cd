"""``python -m benchmarks.query [bytes] [time]``: what ``adtally query`` reads, and its time.

Bytes: a tenant's hour of a day's log of 2,000 tenants, on a disk (``/proc/self/io``) and on S3
(ranges that the server gave), against the whole. Time: a month's roll-up of 2,000 tenants with
their users merged, in turns with Spark SQL over the same files; start-up included, answers have to
agree.
Prints tables for docs/analysis.md.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import pyarrow as pa

from adtally.io.generations import commit
from adtally.io.parquet import write_table
from adtally.io.schema import MEASURES, summary_schema
from adtally.io.stored import Restriction
from adtally.pipelines.query import Query
from adtally.runners.direct import use_storage
from benchmarks.usage import Usage
from tests.stores import S3Store

ROOT = Path(__file__).parent.parent
DATA = ROOT / "benchmarks" / "data"
EVENTS = int(os.environ.get("ADTALLY_BENCH_EVENTS", "2000000"))
ROUNDS = int(os.environ.get("ADTALLY_BENCH_ROUNDS", "3"))
TENANTS = 2_000
DAYS = 30
MINUTES = 60  # of a day in which a tenant has events
USERS = 4  # of a tenant in a minute
MARCH = 1_772_323_200_000
HOUR = 3_600_000
DAY = 24 * HOUR


def main(parts: list[str]) -> None:
    if "bytes" in parts or not parts:
        tenant_hour(day())
    if "time" in parts or not parts:
        month_roll_up(month())


def day() -> Path:
    """A backfill of a day, made once."""
    folder = DATA / f"query-day-{EVENTS}"
    if not (folder / "out" / "views.sql").exists():
        made = ("--events", str(EVENTS), "--seed", "1", "--hours", "24")
        _adtally("generate", *made, "--advertisers", str(TENANTS), "--output", str(folder))
        _adtally("backfill", "--input", str(folder / "logs"), "--output", str(folder / "out"))
    return folder / "out"


def tenant_hour(output: Path) -> None:
    stored = sum(path.stat().st_size for path in (output / "events").rglob("*.parquet"))
    seen = Restriction(MARCH + 5 * HOUR, MARCH + 6 * HOUR)
    print(f"log of a day: {EVENTS:,} events, {TENANTS:,} tenants, {stored:,} bytes\n")
    print(
        "| tenant | events in the hour | query | bytes, disk | of the log | bytes, S3 | requests |"
    )
    print("|---|--:|---|--:|--:|--:|--:|")
    store = S3Store()
    os.environ.update(store.environment(store.url))
    use_storage(store.arguments(store.url))
    bucket = store.make_bucket()
    for path in output.rglob("*"):
        if path.is_file():
            store.put(bucket, f"out/{path.relative_to(output)}", path.read_bytes())
    try:
        for tenant in ("adv-00000", "adv-00010", "adv-01000"):
            for what in ("count(*), sum(cost_micros)", "*"):
                sql = f"SELECT {what} FROM events WHERE advertiser_id = '{tenant}'"
                with Query(str(output), seen) as query:
                    rows = query.ask(f"SELECT * FROM ({sql.replace(what, 'event_id')})")
                    count = rows.read_all().num_rows
                with Query(str(output), seen) as query:
                    disk = query.explain(sql).bytes_read or 0
                with Query(f"s3://{bucket}/out", seen) as query:
                    remote = query.explain(sql)
                print(
                    f"| {tenant} | {count:,} | {what} | {disk:,} | {disk / stored:.2%} | "
                    f"{remote.bytes_read:,} | {remote.requests} |"
                )
    finally:
        store.stop()
        use_storage([])


def month() -> Path:
    """Base summaries of a month, made once, with a day corrected by a generation."""
    output = DATA / f"query-month-{TENANTS}x{DAYS}x{MINUTES}"
    if (output / "adtally.json").exists():
        return output
    shutil.rmtree(output, ignore_errors=True)
    random = numpy.random.default_rng(1)
    for number in range(DAYS):
        for generation in (0, 1) if number == 10 else (0,):
            table = _summaries(random, MARCH + number * DAY, generation)
            date = datetime.datetime.fromtimestamp((MARCH + number * DAY) / 1000, datetime.UTC)
            folder = output / "summaries" / "window=60s" / f"generation={generation}"
            write_table(table, str(folder / f"date={date:%Y-%m-%d}" / "a.parquet"))
    commit(str(output), 1, [(MARCH + 10 * DAY, MARCH + 11 * DAY)], MARCH)
    settings = {"window_seconds": 60, "dimensions": [], "allowed_lateness_seconds": 3_600}
    (output / "adtally.json").write_text(json.dumps(settings))
    return output


def _summaries(random: Any, start: int, generation: int) -> pa.Table:
    rows = TENANTS * MINUTES
    tenants = numpy.repeat(numpy.arange(TENANTS), MINUTES)
    minutes = numpy.concatenate(
        [numpy.sort(random.choice(1_440, MINUTES, replace=False)) for _ in range(TENANTS)]
    )
    users = random.integers(0, 5_000, (rows, USERS)) + tenants[:, None] * 5_000
    hashes = numpy.sort((users.astype("uint64") * 11_400_714_819_323_198_485).astype("int64"), 1)
    begun = pa.array(start + minutes * 60_000)
    text = pa.array([f"adv-{tenant:05d}" for tenant in range(TENANTS)])
    columns: dict[str, Any] = {
        "window_start": begun,
        "window_end": pa.array(start + minutes * 60_000 + 60_000),
        "window_seconds": pa.array(numpy.full(rows, 60)),
        "advertiser_id": text.take(pa.array(tenants)),
        "currency": pa.array(["EUR"] * rows),
        **{name: pa.array(random.integers(0, 1_000, rows)) for name in MEASURES},
        "unique_users": pa.array(numpy.full(rows, USERS)),
        "unique_user_hashes": pa.ListArray.from_arrays(
            pa.array(numpy.arange(0, rows * USERS + 1, USERS, "int32")), pa.array(hashes.ravel())
        ),
        "generation": pa.array(numpy.full(rows, generation)),
        "version": pa.array(numpy.full(rows, (generation << 40) + USERS)),
    }
    schema = summary_schema()
    return pa.table(
        [columns.get(field.name, begun).cast(field.type) for field in schema], schema=schema
    )


def month_roll_up(output: Path) -> None:
    rows = TENANTS * DAYS * MINUTES
    sql = "SELECT count(*) AS n, sum(clicks) AS c, sum(cost_micros) AS m, sum(unique_users) AS u"
    asked = f"{sql} FROM summaries_by('month')"
    adtally = (sys.executable, "-m", "adtally.pipelines", "query", asked, "--format", "json")
    jobs = {
        "adtally query": (*adtally, "--output", str(output)),
        "Spark SQL": (sys.executable, "-m", "benchmarks.peers.spark_rollup", str(output)),
    }
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in jobs}
    answers = set()
    for _ in range(ROUNDS):
        for name, command in jobs.items():
            begun = time.monotonic()
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            with Usage(process.pid) as used:
                out, _ = process.communicate()
                wall = time.monotonic() - begun
            if process.returncode:
                raise RuntimeError(f"{name} ended with {process.returncode}")
            answers.add(json.dumps(json.loads(out.splitlines()[-1]), sort_keys=True))
            runs[name].append((wall, used.cpu, used.peak_mb))
            print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    if len(answers) != 1:
        raise RuntimeError(f"the answers differ: {answers}")
    print(f"\nmonth: {rows:,} base rows of {TENANTS:,} tenants; answer {answers.pop()}\n")
    print("| engine | wall s | CPU s | peak MB | wall / adtally |")
    print("|---|--:|--:|--:|--:|")
    medians = {name: [statistics.median(x) for x in zip(*runs[name], strict=True)] for name in jobs}
    for name, (wall, cpu, peak) in medians.items():
        ratio = wall / medians["adtally query"][0]
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {peak:,.0f} | {ratio:.1f} |")


def _adtally(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "adtally.pipelines", *arguments], check=True, cwd=ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
