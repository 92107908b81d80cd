"""Generations: corrections of the past, allocated, and visible all at once or not at all."""

from __future__ import annotations

import posixpath
import random
import time
import uuid
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from adtally.io.files import atomic_write, join, list_paths
from adtally.io.schema import TIMESTAMP

COMMIT_SCHEMA = pa.schema(
    [
        pa.field("generation", pa.int64(), nullable=False),
        pa.field("range_from", TIMESTAMP, nullable=False),
        pa.field("range_to", TIMESTAMP, nullable=False),
        pa.field("committed_at", TIMESTAMP, nullable=False),
    ]
)
"""One row per range ``[from, to)`` that a generation re-tallied whole."""

CLAIMS: Final = "_claims"
"""Folder of the claims: engines that read a folder as a table pass over names that begin so."""

_STEP_ASIDE_SECONDS: Final = 0.1  # many times what a claim takes on a disk


def allocate(output: str) -> int:
    """Reserve the next generation of an output.

    A claim is a small file, and it holds when no other claim for its number is there once it is
    written: of two runs, the one that looks later sees the other, so they never share a number.
    When both see each other, both try a higher one, after a random moment. Unused numbers are
    harmless.
    """
    while True:
        taken = [int(posixpath.basename(path).split("-")[0]) for path in _claims(output)]
        number = max(taken, default=0) + 1
        mine = join(output, "generations", CLAIMS, f"{number}-{uuid.uuid4().hex}")
        with atomic_write(mine) as file:
            file.write(b"claimed\n")  # Beam cannot write an object of S3 that is empty
        names = [posixpath.basename(path) for path in _claims(output)]
        if sum(name.startswith(f"{number}-") for name in names) == 1:
            return number
        time.sleep(random.uniform(0, _STEP_ASIDE_SECONDS))


def _claims(output: str) -> list[str]:
    return list_paths(join(output, "generations", CLAIMS, "[0-9]*-*"))  # without temporary ones


def commit(
    output: str, generation: int, ranges: Sequence[tuple[int, int]], committed_at_ms: int
) -> str:
    """Make a generation the one that readers see for its ranges (milliseconds); returns the marker.

    Written after everything else, as one atomic file.
    """
    path = join(output, "generations", f"generation={generation}.parquet")
    table = pa.table(
        [
            pa.array([generation] * len(ranges), pa.int64()),
            pa.array([start for start, _ in ranges], TIMESTAMP),
            pa.array([end for _, end in ranges], TIMESTAMP),
            pa.array([committed_at_ms] * len(ranges), TIMESTAMP),
        ],
        schema=COMMIT_SCHEMA,
    )
    with atomic_write(path) as file:
        pq.write_table(table, file)
    return path
