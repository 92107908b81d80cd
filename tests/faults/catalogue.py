"""Every fault of the campaign."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import places, processes, storms
from tests.faults.stage import Setting, Stage

FLINK = Setting("flink", proxied=True, output="small", small_checkpoints=True, clock="workers")
S3 = Setting("s3", output="s3")
SLOW = Setting("slow", output="slow")
MACHINE_CLOCK = Setting("machine-clock", clock="machine")
PRISM = Setting("prism", runner="prism", output="small")


@dataclass(frozen=True)
class FaultCase:
    """One fault: how it is called, in which setting it happens, and what does it."""

    name: str
    title: str
    setting: Setting
    inject: Callable[[Stage, random.Random], float | None]


def nothing(stage: Stage, rng: random.Random) -> None:
    """What the measurement itself costs."""


FAULTS = (
    FaultCase("none", "none", FLINK, nothing),
    FaultCase("workers", "kill -9 of the SDK workers", FLINK, processes.kill_workers),
    FaultCase("pool", "kill -9 of the worker pool with its workers", FLINK, processes.kill_pool),
    FaultCase("taskmanager", "kill -9 of the TaskManager", FLINK, processes.kill_task_manager),
    FaultCase(
        *("frozen-taskmanager", "the TaskManager frozen for 25 s, given up, awake again", FLINK),
        processes.freeze_task_manager,
    ),
    FaultCase("frozen-workers", "the workers frozen for 25 s", FLINK, processes.freeze_workers),
    FaultCase("jobserver", "kill -9 of Beam's job server", FLINK, processes.kill_job_server),
    FaultCase("reshard", "a split and a merge of shards", FLINK, processes.reshard),
    FaultCase(
        *("elasticsearch-away", "Elasticsearch killed, away for 60 s", FLINK),
        processes.lose_elasticsearch,
    ),
    FaultCase("kinesis-away", "Kinesis away for 60 s", FLINK, processes.lose_kinesis),
    FaultCase(
        *("jobmanager", "kill -9 of the JobManager, resumed from its checkpoint", FLINK),
        processes.kill_job_manager,
    ),
    FaultCase(
        *("savepoint", "stop with savepoint, resumed with parallelism 3 or 4", FLINK),
        processes.move_to_other_parallelism,
    ),
    FaultCase(
        *("client", "kill -9 of the process that submits, 2 to 20 s after its start", FLINK),
        processes.kill_client,
    ),
    FaultCase(
        *("429", "429 to every bulk request for 60 s, with and without Retry-After", FLINK),
        storms.refuse_bulks,
    ),
    FaultCase(
        *("429-items", "429 and 503 to nine of ten items inside a 200, for 60 s", FLINK),
        storms.refuse_items,
    ),
    FaultCase(
        *("partial", "items: 30% 429 or 503, 2% refused by the mapping, for 60 s", FLINK),
        storms.partly_broken,
    ),
    FaultCase(
        *("elasticsearch-broken", "Elasticsearch: half of all requests broken for 60 s", FLINK),
        storms.break_elasticsearch,
    ),
    FaultCase(
        *("throttled", "Kinesis refuses every call for 60 s: throughput exceeded", FLINK),
        storms.throttle_kinesis,
    ),
    FaultCase(
        *("kinesis-broken", "Kinesis: half of all calls broken for 60 s", FLINK),
        storms.break_kinesis,
    ),
    FaultCase(
        *("iterators", "every second iterator of Kinesis expired, for 60 s", FLINK),
        storms.expire_iterators,
    ),
    FaultCase(
        *("s3-slow-down", "output on s3://: every request 503 SlowDown or 500, for 60 s", S3),
        storms.slow_s3_down,
    ),
    FaultCase(
        *("s3-broken", "output on s3://: half of all requests broken for 60 s", S3),
        storms.break_s3,
    ),
    FaultCase("disk-full", "the disk of the output full for 30 to 60 s", FLINK, places.fill_output),
    FaultCase(
        *("checkpoints-full", "the disk of Flink's checkpoints full for 30 to 60 s"),
        *(FLINK, places.fill_checkpoints),
    ),
    FaultCase("disk-slow", "the output on a disk that writes 100 kB/s", SLOW, places.slow_disk),
    FaultCase("disk-hung", "the disk of the output hangs for 40 s", SLOW, places.hang_disk),
    FaultCase(
        *("clock-ahead", "the workers' clock an hour ahead for 30 s", FLINK),
        places.jump_ahead,
    ),
    FaultCase(
        *("clock-back", "the workers' clock an hour back for 30 s", FLINK),
        places.jump_back,
    ),
    FaultCase(
        *("machine-ahead", "the clock of TaskManager and workers an hour ahead, for good"),
        *(MACHINE_CLOCK, places.stay_ahead),
    ),
    FaultCase(
        *("machine-back", "the clock of TaskManager and workers set back by a minute"),
        *(MACHINE_CLOCK, places.step_back),
    ),
    FaultCase(
        "prism", "kill -9 of Prism and its workers, started again without state", PRISM,
        processes.kill_prism,
    ),
    FaultCase(
        *("prism-disk-full", "Prism: the disk of the output full for 30 to 60 s", PRISM),
        places.fill_output_of_prism,
    ),
)  # fmt: skip
