"""Replay: dead letters decoded again, appended to the log, and their windows tallied again."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace

from adtally.io.event_log import HOUR_MS, hour_of
from adtally.io.files import find, join, list_paths, move
from adtally.io.logs import Block, LogFile, NoInput, absolute, pack
from adtally.pipelines.backfill import (
    Outcome,
    Request,
    aligned,
    checked_output,
    execute,
    now_ms,
    record_run,
    retally,
    settle_manifest,
)
from adtally.pipelines.job import Job
from adtally.pipelines.progress import Watch
from adtally.pipelines.report import Report

REPLAYED = "dead-letters-replayed"


@dataclass(frozen=True)
class Replayed:
    """What a replay did: the decoding, and the re-tally where there was something to tally."""

    decoded: Report
    correction: Outcome | None


def replay(request: Request, dead_letters: str, watch: Watch) -> Replayed:
    """Decode dead letters again and correct the windows that they touch.

    Records keep the identity that they had. Files of dead letters move to
    ``dead-letters-replayed`` at the very end; what failed again, and letters that are no records
    (files, refused documents), lie in ``dead-letters`` afterwards. A replay that is killed is
    repeated whole, and changes nothing that it had done.

    Raises:
        NoInput: there are no dead letters.
    """
    output = checked_output(request.output)
    folder = absolute(dead_letters).rstrip("/")
    blocks = _blocks(folder, request.block_bytes)
    job = Job(
        output=output,
        blocks=blocks,
        settings=request.settings,
        started_ms=now_ms(),
        mapping=request.mapping,
        tally=False,
    )
    settle_manifest(job)
    report = execute(job, request, watch)
    record_run(job, report)
    correction = None
    hours = _hours_of(output, blocks)
    if hours:
        ranges = aligned([(hour, hour + HOUR_MS) for hour in hours], request.settings)
        correction = retally(replace(request, from_ms=None, to_ms=None), ranges, watch)
    _put_away(blocks, folder)
    return Replayed(report, correction)


def _blocks(folder: str, block_bytes: int) -> tuple[Block, ...]:
    files = [
        LogFile(entry.path, entry.size, "dead_letters", "gzip")
        for entry in find(join(folder, "**"))
        if entry.path.endswith(".jsonl.gz")
    ]
    if not files:
        raise NoInput(f"there are no dead letters (*.jsonl.gz) below {folder}.")
    return tuple(pack(files, block_bytes))


def _hours_of(output: str, blocks: tuple[Block, ...]) -> list[int]:
    """Hours of the log that received events of these blocks."""
    names = {block.name for block in blocks}
    paths = list_paths(join(output, "events", "date=*", "hour=*", "*.parquet"))
    return [hour_of(p) for p in paths if posixpath.basename(p).rsplit("-", 1)[0] in names]


def _put_away(blocks: tuple[Block, ...], folder: str) -> None:
    """Move replayed files beside the folder of dead letters, in the same partitions."""
    base = join(posixpath.dirname(folder), REPLAYED)
    for block in blocks:
        for span in block.spans:
            target = join(base, span.file.path.removeprefix(folder).lstrip("/"))
            move(span.file.path, target)
