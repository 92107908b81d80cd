"""Faults of the machine that adtally runs on: disks and clocks."""

from __future__ import annotations

import random
import time

from tests.faults.stage import Stage

FULL_SECONDS = 40.0
HUNG_SECONDS = 40.0
JUMPED_SECONDS = 30.0
HOUR, MINUTE = 3_600, 60
AGAIN_SECONDS = 30
"""Of load: some 2,700 events for 240 groups of windows."""


def fill_output(stage: Stage, rng: random.Random) -> float:
    """The file system of the output is full."""
    return _fill(stage, "output", rng)


def fill_output_of_prism(stage: Stage, rng: random.Random) -> float:
    """The same; a stream that ended of it is started again, as whoever watches it would."""
    seconds = _fill(stage, "output", rng)
    if stage.process is not None and stage.process.poll() is not None:
        stage.start_prism()
    return seconds


def fill_checkpoints(stage: Stage, rng: random.Random) -> float:
    """The file system of Flink's checkpoints is full."""
    return _fill(stage, "checkpoints", rng)


def _fill(stage: Stage, disk: str, rng: random.Random) -> float:
    seconds = FULL_SECONDS * rng.uniform(0.75, 1.5)
    with stage.small_disk(disk).full():
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
    stage.clock.jump(HOUR)
    time.sleep(JUMPED_SECONDS)
    stage.clock.jump(-HOUR)


def jump_back(stage: Stage, rng: random.Random) -> None:
    """The clock jumps an hour back, and after a while to the right time."""
    stage.clock.jump(-HOUR)
    time.sleep(JUMPED_SECONDS)
    stage.clock.jump(HOUR)


def stay_ahead(stage: Stage, rng: random.Random) -> None:
    """The clock jumps an hour ahead, and stays there."""
    stage.clock.jump(HOUR)
    time.sleep(JUMPED_SECONDS)


def step_back(stage: Stage, rng: random.Random) -> float:
    """The clock is set back by a minute.

    Beam's triggers take it that processing time only advances: what waits for a pane waits until
    the clock has caught up and the next event of its window comes, so both have to come.
    """
    stage.clock.jump(-MINUTE)
    time.sleep(MINUTE + AGAIN_SECONDS)
    return MINUTE + AGAIN_SECONDS
