"""``make bench-stream``: the streaming graph on Flink, beside Flink SQL on the same cluster.

Both read the same events as fast as they can, with checkpoints every 10 s and parallelism 2, and
count per advertiser, currency and minute. adtally reads through its Kinesis source, from a client
that answers from files; Flink SQL reads JSON files. Prints a table for docs/streaming.md.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from adtally.io.kinesis import KinesisConfig, ReadFromKinesis
from adtally.io.synthetic import GenerateConfig
from adtally.io.synthetic_logs import generate
from adtally.io.views import views_sql
from adtally.pipelines.job import STREAM_SHARDS, Settings
from adtally.pipelines.stream import StreamRequest, stream
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.flink_parts import install_flink
from benchmarks.run import DATA, ROOT
from benchmarks.usage import Usage
from tests import canned_kinesis, streams

EVENTS = int(os.environ.get("ADTALLY_BENCH_STREAM_EVENTS", "1000000"))
ROUNDS = int(os.environ.get("ADTALLY_BENCH_ROUNDS", "3"))
PEER = ROOT / "benchmarks" / "peers" / "flink_sql"
DISTINCT = """(
  SELECT * FROM (
    SELECT *, ROW_NUMBER() OVER (
      PARTITION BY window_start, window_end, advertiser_id, event_type, event_id ORDER BY `at`
    ) AS nth
    FROM TABLE(TUMBLE(TABLE lines, DESCRIPTOR(`at`), INTERVAL '1' MINUTE))
  ) WHERE nth = 1
)"""
TUMBLE = "TABLE(TUMBLE(TABLE lines, DESCRIPTOR(`at`), INTERVAL '1' MINUTE))"
PEERS = {
    "Flink SQL, counts and sums": {"@EVENTS": TUMBLE, "@USERS": "CAST(0 AS BIGINT)"},
    "Flink SQL, each event once, distinct users": {
        "@EVENTS": DISTINCT,
        "@USERS": "COUNT(DISTINCT user_id)",
    },
}


@dataclass
class Measured:
    """Seconds that a job ran, processor seconds of the cluster and its workers, what it counted."""

    wall: float
    cpu: float
    peak_mb: float
    impressions: int


def main() -> None:
    folder = data()
    runs: dict[str, list[Measured]] = {}
    for turn in range(ROUNDS):
        jobs: dict[str, Callable[[FlinkCluster, Path], int]] = {"adtally": adtally}
        jobs |= {name: peer(words) for name, words in PEERS.items()}
        for name, job in jobs.items():
            one = measured(folder, job)
            runs.setdefault(name, []).append(one)
            print(f"round {turn + 1}, {name}: {one}", file=sys.stderr, flush=True)
    report(runs, folder)


def data() -> Path:
    """Make the events once, in order of arrival."""
    folder = DATA / f"stream-{EVENTS}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        config = GenerateConfig(
            EVENTS, 1, str(folder / "made"), advertisers=2_000, hours=1, late_ratio=0.0,
            malformed_ratio=0.0,
        )  # fmt: skip
        generate(config)
        lines = canned_kinesis.in_order(streams.lines_of(folder / "made" / "logs"))
        canned_kinesis.write(lines, folder / "shards", 2)
        (folder / "lines").mkdir()
        for part in range(2):
            with (folder / "lines" / f"{part}.jsonl").open("wb") as target:
                target.writelines(line + b"\n" for _, line in lines[part::2])
        (folder / "done").touch()
    return folder


def measured(folder: Path, job: Callable[[FlinkCluster, Path], int]) -> Measured:
    """Run a job once on a fresh cluster; start-up of the cluster is not counted, the job's is."""
    os.environ["PYTHONPATH"] = str(ROOT)  # workers have to import the canned client
    with FlinkCluster() as cluster:
        parts = [cluster.manager, *cluster.task_managers, cluster.pool]
        with Usage(*(part.pid for part in parts)) as used:
            impressions = job(cluster, folder)
            wall = seconds_of(cluster)
    return Measured(wall, used.cpu, used.peak_mb, impressions)


def seconds_of(cluster: FlinkCluster) -> float:
    """From when Flink took the job to its end, or until now."""
    (job,) = cluster.manager.get("/jobs/overview")["jobs"]
    assert job["state"] in ("RUNNING", "FINISHED"), job
    return float(job["duration"]) / 1000


def adtally(cluster: FlinkCluster, folder: Path) -> int:
    output = DATA / "out"
    shutil.rmtree(output, ignore_errors=True)
    shards = folder / "shards"
    read = ReadFromKinesis(
        KinesisConfig("bench", "us-east-1", call_seconds=0.0, shard_bytes_a_second=1e12),
        make_client=canned_kinesis.CannedKinesis(shards),
    )
    request = StreamRequest(
        (read,),
        str(output),
        Settings(shards=STREAM_SHARDS),
        flush_seconds=5,
        resume=False,
        arguments=streams.flink_options(cluster),
    )
    stream(request)
    truth = json.loads((folder / "made" / "truth" / "truth.json").read_text())
    streams.until(lambda: counted(output)[0] == truth["counted"], "all is counted")
    return counted(output)[1]


def counted(output: Path) -> tuple[int, int]:
    """Events, and impressions, in the summaries as they are now."""
    if not list(output.glob("summaries/**/*.parquet")):
        return 0, 0
    with duckdb.connect() as sql:
        sql.execute(views_sql(str(output), 60, 3_600, ()))
        query = "SELECT sum(impressions + clicks + conversions), sum(impressions) FROM summaries"
        events, impressions = sql.execute(query).fetchall()[0]
    return int(events or 0), int(impressions or 0)


def peer(words: dict[str, str]) -> Callable[[FlinkCluster, Path], int]:
    def run(cluster: FlinkCluster, folder: Path) -> int:
        output = DATA / "flink-out"
        shutil.rmtree(output, ignore_errors=True)
        text = (PEER / "tally.sql").read_text()
        names = {"@INPUT": str(folder / "lines"), "@OUTPUT": str(output), "@LAG": "30"}
        for word, replacement in {**words, **names}.items():
            text = text.replace(word, replacement)
        statements = DATA / "tally.sql"
        statements.write_text(text)
        command = ["java", "--add-opens=java.base/java.util=ALL-UNNAMED"]
        command += ["-cp", f"{install_flink()}/*", str(PEER / "FlinkSqlJob.java")]
        subprocess.run(
            [*command, str(cluster.manager.port), str(statements)], check=True, stdout=sys.stderr
        )
        files = [path for path in output.rglob("part-*") if path.is_file()]
        return sum(int(row[3]) for path in files for row in csv.reader(path.open()))

    return run


def report(runs: dict[str, list[Measured]], folder: Path) -> None:
    lines = len(streams.lines_of(folder / "made" / "logs"))
    print("| job | wall s | CPU s | lines/s | lines/s per core | impressions counted |")
    print("|---|---|---|---|---|---|")
    for name, several in runs.items():
        wall = statistics.median(one.wall for one in several)
        cpu = statistics.median(one.cpu for one in several)
        print(
            f"| {name} | {wall:.1f} | {cpu:.1f} | {lines / wall:,.0f} | {lines / cpu:,.0f} | "
            f"{several[0].impressions:,} |"
        )


if __name__ == "__main__":
    main()
