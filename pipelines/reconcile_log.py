"""The event log as a witness: what it says when it is tallied afresh, and what in it looks
counted twice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa

from adtally.io import manifest
from adtally.io.event_log import files_in
from adtally.io.files import join, list_paths, read_bytes
from adtally.io.logs import NoInput, pack
from adtally.io.stored import Restriction
from adtally.pipelines.backfill import Request, execute, known_ranges, now_ms
from adtally.pipelines.job import Job
from adtally.pipelines.progress import Watch
from adtally.pipelines.query import Limits, Query
from adtally.pipelines.reconcile_sides import LOG, ON_TIME, PARQUET, Sides
from adtally.transforms.windows import Ranges


def load_log(sides: Sides, request: Request, ranges: Ranges, limits: Limits, watch: Watch) -> None:
    """Let the log say what it does: with late events, and without where there are any.

    Raises:
        CountsDiffer: the counts of the tally do not add up.
    """
    with tempfile.TemporaryDirectory(prefix="adtally-reconcile-", dir=limits.folder) as scratch:
        whole = str(Path(scratch, "whole"))
        if not _tally(request, ranges, whole, False, watch):
            sides.load_nothing(LOG, PARQUET)
            sides.load_nothing(ON_TIME, PARQUET)
            return
        sides.load_output(LOG, whole)
        if not _holds_late(request, ranges, limits):
            sides.load_like(ON_TIME, LOG)
            return
        on_time = str(Path(scratch, "on-time"))
        _tally(request, ranges, on_time, True, watch)
        sides.load_output(ON_TIME, on_time)


def _tally(request: Request, ranges: Ranges, folder: str, without_late: bool, watch: Watch) -> bool:
    """Tally the log into a folder, by the graph that everything is tallied by; whether there is
    anything in it."""
    settings = request.settings
    try:
        files = files_in(request.output, known_ranges(ranges, settings))
    except NoInput:
        return False
    job = Job(
        output=folder,
        blocks=tuple(pack(files, request.block_bytes)),
        settings=settings,
        started_ms=now_ms(),
        ranges=ranges,
        retally=True,
        without_late=without_late,
    )
    manifest.write_manifest(folder, {"version": 1, **settings.fingerprint})
    execute(job, request, watch)
    return True


def _holds_late(request: Request, ranges: Ranges, limits: Limits) -> bool:
    """Whether an event that these ranges are tallied from is late."""
    settings = request.settings
    window_ms = settings.window_seconds * 1000
    wait_ms = window_ms + settings.allowed_lateness_seconds * 1000
    late = (
        f"epoch_ms(greatest(received_at, arrived_at)) > "
        f"epoch_ms(occurred_at) // {window_ms} * {window_ms} + {wait_ms}"
    )
    for start, end in known_ranges(ranges, settings):
        seen = Restriction(start // window_ms * window_ms, end)
        with Query(request.output, seen, limits) as asked:
            found = asked.ask(f'SELECT 1 FROM stored."events" WHERE {late} LIMIT 1')
            if found.read_all().num_rows:
                return True
    return False


def suspects(output: str, seen: Restriction, limits: Limits) -> pa.Table:
    """Events that have all of another one but its id and address, and are counted beside it.

    That is what a log leaves which is read twice under different names, or a producer that sends
    again, where records have no ``event_id`` of their own. Two real events can be so alike.

    Returns:
        ``advertiser_id``, ``source`` and ``other_source`` (of streams without the record's
        number), ``events`` that are copies, ``first_window`` and ``last_window``; the most first.
    """
    with Query(output, replace(seen), limits) as asked:
        return asked.ask(_SUSPECTS).read_all()


_STREAM: Final = "regexp_replace({}, '^((?:kinesis|pubsub)://[^/]+)/.*$', '\\1')"
_SUSPECTS: Final = f"""
SELECT advertiser_id, {_STREAM.format("one")} AS source,
    {_STREAM.format("other")} AS other_source,
    sum(n - 1)::BIGINT AS events, min(window_start) AS first_window,
    max(window_start) AS last_window
FROM (
    SELECT advertiser_id, event_type, window_start, occurred_at, content_hash,
        count(*) AS n, min(source) AS one, max(source) AS other
    FROM events GROUP BY ALL HAVING n > 1 AND one <> other
) GROUP BY ALL ORDER BY events DESC, advertiser_id, source, other_source
"""


def rules_of_runs(output: str) -> Iterator[tuple[int, str]]:
    """Generations, and versions of rules that runs used for them."""
    for path in list_paths(join(output, "runs", "*.json")):
        record: dict[str, Any] = msgspec.json.decode(read_bytes(path))
        if "generation" in record and "ruleset" in record:
            yield int(record["generation"]), str(record["ruleset"])
