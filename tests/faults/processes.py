"""Faults of processes and servers: killed, frozen, away, moved."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

from tests import streams
from tests.faults.stage import STREAM, Stage

OUTAGE_SECONDS = 60.0
FROZEN_SECONDS = 25.0
"""More than twice Flink's heartbeat timeout here: the JobManager gives the TaskManager up."""


def kill_workers(stage: Stage, rng: random.Random) -> None:
    assert stage.flink.pool.kill_workers() > 0


def kill_pool(stage: Stage, rng: random.Random) -> None:
    stage.flink.pool.kill()
    stage.flink.pool.start()


def kill_task_manager(stage: Stage, rng: random.Random) -> None:
    stage.flink.task_managers[0].kill()
    stage.flink.task_managers[0].start()


def freeze_task_manager(stage: Stage, rng: random.Random) -> float:
    """It is given up meanwhile, and wakes up with bundles that it takes for its own."""
    stage.flink.task_managers[0].pause()
    time.sleep(FROZEN_SECONDS)
    stage.flink.task_managers[0].resume()
    return FROZEN_SECONDS


def freeze_workers(stage: Stage, rng: random.Random) -> float:
    stage.flink.pool.pause()
    time.sleep(FROZEN_SECONDS)
    stage.flink.pool.resume()
    return FROZEN_SECONDS


def kill_job_server(stage: Stage, rng: random.Random) -> None:
    """Only submissions need it; the job that runs must not notice."""
    stage.flink.job_server.kill()
    time.sleep(rng.uniform(2, 10))
    stage.flink.job_server.start()


def _running_job(stage: Stage) -> str:
    streams.until(lambda: len(stage.flink.jobs()) == 1, "the job runs")
    (job,) = stage.flink.jobs()
    return job


def kill_job_manager(stage: Stage, rng: random.Random) -> None:
    """Once there is a checkpoint to resume from: a job without one is begun anew."""
    flink = stage.flink
    streams.until_checkpoint(flink)
    job = _running_job(stage)
    flink.manager.kill()
    checkpoint = flink.newest_checkpoint(job)
    flink.manager.start()
    flink.pool.restart()
    streams.until(flink.task_managers[0].healthy, "the TaskManager is back")
    stage.submit("--flink-savepoint", checkpoint)


def move_to_other_parallelism(stage: Stage, rng: random.Random) -> None:
    flink = stage.flink
    streams.until_checkpoint(flink)
    job = _running_job(stage)
    savepoint = flink.stop_with_savepoint(job)
    flink.pool.restart()
    stage.submit("--flink-savepoint", savepoint, "--flink-parallelism", str(rng.choice((3, 4))))


def kill_client(stage: Stage, rng: random.Random) -> None:
    """Whoever submits dies at any moment of it; where no job came of it, it is submitted again."""
    flink = stage.flink
    streams.until_checkpoint(flink)
    job = _running_job(stage)
    savepoint = flink.stop_with_savepoint(job)
    flink.pool.restart()
    with (stage.folder / "client.log").open("ab") as log:
        client = subprocess.Popen(
            [
                *(sys.executable, "-m", "adtally.pipelines"),
                *stage.arguments("--flink-savepoint", savepoint),
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    time.sleep(rng.uniform(2, 20))
    streams.end(client, signal.SIGKILL)
    time.sleep(10)  # what was on its way to the cluster has arrived
    begun = ("INITIALIZING", "CREATED", "RUNNING", "RESTARTING")
    if not any(flink.jobs(status) for status in begun):
        flink.pool.restart()
        stage.submit("--flink-savepoint", savepoint)


def kill_prism(stage: Stage, rng: random.Random) -> None:
    assert stage.process is not None
    streams.end(stage.process, signal.SIGKILL)
    stage.start_prism()


def lose_elasticsearch(stage: Stage, rng: random.Random) -> float:
    stage.node.kill()
    time.sleep(OUTAGE_SECONDS)
    stage.node.start()
    return OUTAGE_SECONDS


def lose_kinesis(stage: Stage, rng: random.Random) -> float:
    with stage.producer.held():
        stage.kinesis.end()  # its last second of data would not outlive a kill
        time.sleep(OUTAGE_SECONDS)
        stage.kinesis.start()
    return OUTAGE_SECONDS


def reshard(stage: Stage, rng: random.Random) -> None:
    """A split of one open shard, and a merge of two neighbours, under load."""
    shards = _open_shards(stage)
    split = rng.randrange(len(shards))
    first, last = _hashes(shards[split])
    stage.client.split_shard(
        StreamName=STREAM,
        ShardToSplit=shards[split]["ShardId"],
        NewStartingHashKey=str((first + last) // 2),
    )
    time.sleep(3)  # load on the children, before the next change
    shards = _open_shards(stage)
    left = rng.randrange(len(shards) - 1)
    stage.client.merge_shards(
        StreamName=STREAM,
        ShardToMerge=shards[left]["ShardId"],
        AdjacentShardToMerge=shards[left + 1]["ShardId"],
    )


def _open_shards(stage: Stage) -> list[dict[str, dict[str, str]]]:
    """In the order of their hash keys."""
    found = stage.client.list_shards(StreamName=STREAM)["Shards"]
    open_now = [one for one in found if "EndingSequenceNumber" not in one["SequenceNumberRange"]]
    return sorted(open_now, key=lambda one: _hashes(one)[0])


def _hashes(shard: dict[str, dict[str, str]]) -> tuple[int, int]:
    found = shard["HashKeyRange"]
    return int(found["StartingHashKey"]), int(found["EndingHashKey"])
