"""``make faults``: break a running stream in every way, and count what it cost.

A producer sends events to three shards without pause. Each fault happens under that load; then the
producer holds, and the clock runs until Elasticsearch and the views over the event log say exactly
what SQL says over the lines that were sent. Ten minutes; prints a table for docs/streaming.md.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from adtally.pipelines.cli import cli
from adtally.runners.local.elasticsearch_node import ElasticsearchNode
from adtally.runners.local.flink_cluster import FlinkCluster
from adtally.runners.local.kinesis_server import KinesisServer
from tests import sql_oracle, streams

EVENTS = int(os.environ.get("ADTALLY_FAULTS_EVENTS", "60000"))
LINES_A_SECOND = 100
OUTAGE_SECONDS = float(os.environ.get("ADTALLY_FAULTS_OUTAGE", "60"))
QUICK = ("--watermark-lag", "2s", "--pane-every", "2s", "--flush-every", "5s")
STREAM = "faults"


class Producer(threading.Thread):
    """Sends lines at a steady pace; holds between two puts where asked to."""

    def __init__(self, client: Any, lines: list[bytes], log: Path) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._lines = iter(lines)
        self._log = log
        self._turn = threading.Lock()
        self.sent = 0
        self.ended = False

    def run(self) -> None:
        seed = 0
        while not self.ended:
            seed += 1
            with self._turn:
                some = [line for line, _ in zip(self._lines, range(LINES_A_SECOND), strict=False)]
                streams.put(self._client, STREAM, some, seed)
                with self._log.open("ab") as log:
                    log.writelines(line + b"\n" for line in some)
                self.sent += len(some)
            time.sleep(1)

    @contextmanager
    def held(self) -> Iterator[None]:
        """No put is under way, and none begins."""
        with self._turn:
            yield


@dataclass
class Row:
    """What one fault cost."""

    fault: str
    sent: int
    counted: int
    expected: int
    again: int
    seconds: float


@dataclass
class Faults:
    """A stream on Flink with all that it needs."""

    folder: Path
    kinesis: KinesisServer
    node: ElasticsearchNode
    flink: FlinkCluster
    rows: list[Row] = field(default_factory=list)

    def prepare(self) -> None:
        logs = streams.recent_logs(self.folder / "made", EVENTS)
        lines = streams.lines_of(logs)
        self.sent = self.folder / "sent"
        self.sent.mkdir()
        self.client = streams.create_stream(self.kinesis.url, STREAM, 3)
        self.live = self.folder / "live"
        self.producer = Producer(self.client, lines, self.sent / "sent.jsonl")

    def start(self, *more: str) -> None:
        arguments = (
            *("stream", "--source", f"kinesis://{STREAM}", "--kinesis-region", "us-east-1"),
            *("--kinesis-endpoint", self.kinesis.url, "--output", str(self.live), *QUICK),
            *("--allowed-lateness", f"{streams.LATENESS_SECONDS}s"),
            *("--elasticsearch", self.node.url, "--elasticsearch-setup"),
            *("--elasticsearch-index-prefix", STREAM, *self.flink.arguments(), "--detach"),
            *("--flink-checkpoint-every", "5s", *more),
        )
        result = CliRunner().invoke(cli, list(arguments))
        assert result.exit_code == 0, result.output

    def during_load(self, fault: str, inject: Callable[[], float | None]) -> None:
        """Let a fault happen, and measure until nothing is missing and nothing double.

        Args:
            fault: what it is called.
            inject: does it; returns how long something was away, which is not counted.
        """
        print(f"{time.strftime('%H:%M:%S')} {fault}", file=sys.stderr, flush=True)
        before = self.producer.sent
        time.sleep(3)  # so that the load is on
        began = time.monotonic()
        away = inject() or 0.0
        time.sleep(3)
        with self.producer.held():
            sql = streams.oracle(self.sent)
            expected = sql_oracle.summaries(sql, 60)
            events = int(sql.execute("SELECT count(*) FROM events").fetchall()[0][0])
            streams.until_equal(self._searchable, expected, f"{fault}: Elasticsearch")
            streams.until(lambda: self._logged()[0] == events, f"{fault}: the event log")
            seconds = time.monotonic() - began - away
            rows, files = self._logged()
            counted = sum(sum(row[3:6]) for row in self._searchable())
            wanted = sum(sum(row[3:6]) for row in expected)
            sent = self.producer.sent - before
            self.rows.append(Row(fault, sent, counted, wanted, files - rows, seconds))
            print(self.rows[-1], file=sys.stderr, flush=True)

    def _searchable(self) -> list[Any]:
        return streams.searchable(self.node.url, STREAM)

    def _logged(self) -> tuple[int, int]:
        """Events in the views over the log, and rows in its files."""
        if not list(self.live.glob("events/**/*.parquet")):
            return 0, 0
        query = """SELECT (SELECT count(*) FROM event_rows),
            (SELECT count(*) FROM read_parquet('{}/events/**/*.parquet'))"""
        found = streams.views(self.live).execute(query.format(self.live)).fetchall()[0]
        return int(found[0]), int(found[1])

    def kill_job_manager(self) -> None:
        (job,) = self.flink.jobs()
        self.flink.manager.kill()
        checkpoint = self.flink.newest_checkpoint(job)
        self.flink.manager.start()
        self.flink.pool.restart()
        streams.until(self.flink.task_managers[0].healthy, "the TaskManager is back")
        self.start("--flink-savepoint", checkpoint)

    def move_to_other_parallelism(self) -> None:
        (job,) = self.flink.jobs()
        savepoint = self.flink.stop_with_savepoint(job)
        self.flink.pool.restart()
        self.start("--flink-savepoint", savepoint, "--flink-parallelism", "4")

    def kill_workers(self) -> None:
        assert self.flink.pool.kill_workers() > 0

    def kill_task_manager(self) -> None:
        self.flink.task_managers[0].kill()
        self.flink.task_managers[0].start()

    def lose_elasticsearch(self) -> float:
        self.node.kill()
        time.sleep(OUTAGE_SECONDS)
        self.node.start()
        return OUTAGE_SECONDS

    def lose_kinesis(self) -> float:
        with self.producer.held():
            self.kinesis.end()  # its last second of data would not outlive a kill
            time.sleep(OUTAGE_SECONDS)
            self.kinesis.start()
        return OUTAGE_SECONDS

    def reshard(self) -> None:
        shards = [
            shard
            for shard in self.client.list_shards(StreamName=STREAM)["Shards"]
            if "EndingSequenceNumber" not in shard["SequenceNumberRange"]
        ]
        first = shards[0]["HashKeyRange"]
        middle = (int(first["StartingHashKey"]) + int(first["EndingHashKey"])) // 2
        self.client.split_shard(
            StreamName=STREAM, ShardToSplit=shards[0]["ShardId"], NewStartingHashKey=str(middle)
        )
        time.sleep(3)  # load on the children, before the next change
        self.client.merge_shards(
            StreamName=STREAM,
            ShardToMerge=shards[1]["ShardId"],
            AdjacentShardToMerge=shards[2]["ShardId"],
        )

    def run(self) -> None:
        self.prepare()
        self.producer.start()
        self.start()
        self.during_load("none", lambda: None)
        self.during_load("kill -9 of the SDK workers", self.kill_workers)
        self.during_load("kill -9 of the TaskManager", self.kill_task_manager)
        self.during_load("kill -9 of the TaskManager, again", self.kill_task_manager)
        self.during_load("a split and a merge of shards", self.reshard)
        self.during_load("Elasticsearch killed, away for 60 s", self.lose_elasticsearch)
        self.during_load("Kinesis away for 60 s", self.lose_kinesis)
        self.during_load(
            "kill -9 of the JobManager, resumed from its checkpoint", self.kill_job_manager
        )
        self.during_load(
            "stop with savepoint, resumed with parallelism 4", self.move_to_other_parallelism
        )
        with self.producer.held():
            self.producer.ended = True
            sql = streams.oracle(self.sent)
            expected = sql_oracle.summaries(sql, 60)
            streams.until_equal(lambda: streams.stored(self.live), expected, "Parquet equals SQL")
            flags = sql_oracle.flags(sql)
            streams.until(lambda: streams.stored_flags(self.live) == flags, "flags")

    def table(self) -> str:
        lines = [
            "| fault, under load | lines sent | events in summaries | as SQL says "
            "| rows written again | equal again after |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {row.fault} | {row.sent:,} | {row.counted:,} | {row.expected:,} "
            f"| {row.again:,} | {row.seconds:.0f} s |"
            for row in self.rows
        ]
        return "\n".join(lines)


def main() -> None:
    os.environ.update(streams.AWS)
    sql_oracle.LATENESS_MS = streams.LATENESS_SECONDS * 1000
    folder = Path(tempfile.mkdtemp(prefix="adtally-faults-"))
    faults = Faults(
        folder,
        KinesisServer(folder / "kinesis"),
        ElasticsearchNode(),
        FlinkCluster(slots=4),
    )
    try:
        faults.kinesis.start()
        faults.node.start()
        faults.flink.start()
        faults.run()
    finally:
        faults.flink.stop()
        faults.node.stop()
        faults.kinesis.stop()
        print(faults.table())
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
