"""Faults of the machine that adtally runs on: disks and clocks."""

from __future__ import annotations

import random
import time

from tests.faults.stage import Stage

FULL_SECONDS = 40.0
HUNG_SECONDS = 40.0
JUMPED_SECONDS = 30.0
HOUR = 3_600


def fill_disk(stage: Stage, rng: random.Random) -> float:
    """The file system of the output, or of Flink's checkpoints, is full."""
    seconds = FULL_SECONDS * rng.uniform(0.75, 1.5)
    with stage.small.full():
        time.sleep(seconds)
    return seconds


def slow_disk(stage: Stage, rng: random.Random) -> None:
    """Nothing more than the load: the disk is slow all the time."""
    time.sleep(30)


def hang_disk(stage: Stage, rng: random.Random) -> float:
    """Writes do not return."""
    stage.slow.hang()
    try:
        time.sleep(HUNG_SECONDS)
    finally:
        stage.slow.go_on()
    return HUNG_SECONDS


def jump_ahead(stage: Stage, rng: random.Random) -> None:
    """The clock jumps an hour ahead, and after a while back to the right time."""
    _jump(stage, HOUR)


def jump_back(stage: Stage, rng: random.Random) -> None:
    """The clock jumps an hour back, and after a while to the right time."""
    _jump(stage, -HOUR)


def _jump(stage: Stage, seconds: int) -> None:
    stage.clock.jump(seconds)
    time.sleep(JUMPED_SECONDS)
    stage.clock.jump(0)
