"""Bounded runs: the backfill of logs, and the re-tally of a range from the event log."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from adtally.io import generations, manifest
from adtally.io.dead_letters import remove_dead_letters, writable
from adtally.io.event_log import files_in, hour_of, is_streamed
from adtally.io.files import join, remove_leftovers
from adtally.io.logs import BLOCK_BYTES, LogFile, absolute, list_files, pack
from adtally.io.views import write_views
from adtally.pipelines.graph import build
from adtally.pipelines.job import (
    BEFORE,
    ConfigError,
    Job,
    Settings,
    mapping_fingerprint,
    shown_time,
    whole_range,
)
from adtally.pipelines.progress import Watch
from adtally.pipelines.report import Report
from adtally.runners.direct import NAME, run_bounded
from adtally.transforms.mapping import Mapping, identity_mapping
from adtally.transforms.windows import Ranges

if TYPE_CHECKING:  # the client takes a fifth of a second to import; most runs need none
    from adtally.io.elasticsearch import ElasticsearchConfig

HOUR_MS = 3_600_000
LOG_LAG_MS = 900_000
"""A stream's log holds what arrived this long ago: it is written every ten minutes or sooner."""
OUTPUT_KINDS = (
    "dead-letters",
    "late",
    "summaries",
    "flags",
    "verdicts",
    "anomalies",
    "generations",
    "runs",
)
RECORDED_INPUTS = 1_000
"""Input addresses that a run's record names; all are in the event log's ``source``."""

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a user asked for; see ``adtally backfill --help``."""

    inputs: tuple[str, ...]
    output: str
    settings: Settings
    mapping: Mapping = field(default_factory=identity_mapping)
    elasticsearch: ElasticsearchConfig | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    block_bytes: int = BLOCK_BYTES
    runner: str = NAME
    beam_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a run did, and the address of its record."""

    report: Report
    job: Job
    record: str
    passed_over: tuple[str, ...] = ()
    removed_documents: int = 0


def backfill(request: Request, watch: Watch) -> Outcome:
    """Read logs, or this output's own event log, and write everything that follows from them.

    Raises:
        ConfigError, NoInput: before anything is written.
        CountsDiffer: the counts of the steps do not add up.
    """
    output = checked_output(request.output)
    ranges = whole_range(request.from_ms, request.to_ms, request.settings)
    files, passed_over = list_files(request.inputs)
    if _is_own_log(files, output):
        return retally(request, _closed(ranges, files, request.settings), watch)
    _check_are_logs(files, output)
    job = Job(
        output=output,
        blocks=tuple(pack(files, request.block_bytes)),
        settings=request.settings,
        started_ms=now_ms(),
        mapping=request.mapping,
        elasticsearch=request.elasticsearch,
        ranges=ranges,
    )
    _check_earlier_run(job)  # first, so that a run which is refused leaves nothing
    settle_manifest(job)
    remove_dead_letters(job.folder("dead-letters"), {block.name for block in job.blocks})
    report = execute(job, request, watch)
    return Outcome(report, job, record_run(job, report), tuple(passed_over))


def checked_output(output: str) -> str:
    """The absolute address of an output.

    Raises:
        ConfigError: it has signs that Beam's filesystems take for a pattern.
    """
    if any(sign in output for sign in "*?["):
        raise ConfigError(
            f"output {output!r} has one of * ? [, which Beam's filesystems take for a pattern; "
            f"files there could not be found again. Use another name."
        )
    return absolute(output)


def retally(request: Request, ranges: Ranges, watch: Watch) -> Outcome:
    """Tally whole windows of some ranges again from the complete event log, as a new generation.

    Its rows win in Elasticsearch by version, its Parquet is seen through one commit marker, and
    documents that no longer exist are deleted. Late events count.
    """
    output = absolute(request.output)
    check_final(output, ranges, request.settings)
    if manifest.read_manifest(output) is None:
        raise ConfigError(f"{output} has no {manifest.MANIFEST_NAME}; it is no output of adtally.")
    job = Job(
        output=output,
        blocks=tuple(
            pack(files_in(output, known_ranges(ranges, request.settings)), request.block_bytes)
        ),
        settings=request.settings,
        started_ms=now_ms(),
        elasticsearch=request.elasticsearch,
        ranges=ranges,
        retally=True,
    )
    settle_manifest(job)  # first, so that a run which is refused takes no generation
    job = replace(job, generation=generations.allocate(output))
    report = execute(job, request, watch)
    generations.commit(output, job.generation, ranges, now_ms())
    leave_views(job)
    removed = _delete_stale(job)
    return Outcome(report, job, record_run(job, report), (), removed)


def known_ranges(ranges: Ranges, settings: Settings) -> Ranges:
    """Ranges with what rules look back before them."""
    past_ms = settings.past_seconds * 1000
    return tuple((start - past_ms, end) for start, end in ranges)


def check_final(output: str, ranges: Ranges, settings: Settings) -> None:
    """Refuse to re-tally windows that a stream may still add to.

    A generation above the stream's would win over every event that comes after it.

    Raises:
        ConfigError: names the latest border that works.
    """
    if not is_streamed(output):
        return
    border = final_border(settings)
    if any(end > border for _, end in ranges):
        raise ConfigError(
            f"the range reaches into windows that are not final: a stream writes into {output}, "
            f"and what it adds later would not count in the correction. Give --to "
            f"{shown_time(border)} or earlier, or wait."
        )


def final_border(settings: Settings) -> int:
    """Windows of a stream that end by now are final, and so is the log of them; a whole hour."""
    wait_ms = settings.allowed_lateness_seconds * 1000 + LOG_LAG_MS
    step_ms = max(HOUR_MS, settings.window_seconds * 1000)
    return (now_ms() - wait_ms) // step_ms * step_ms


def execute(job: Job, request: Request, watch: Watch) -> Report:
    """Run a job, watched; check that its counts add up; leave the views beside the data."""
    check_elasticsearch(job)
    if "://" not in job.output:
        remove_leftovers(job.output)
    stored = sum(block.stored_bytes for block in job.blocks)
    files = len({span.file.path for block in job.blocks for span in block.spans})
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="adtally-") as folder:
        local = replace(job, scratch_folder=folder if request.runner == NAME else "")
        with watch.watching(folder, files, stored):
            wire = partial(build, job=local)
            counters = run_bounded(wire, request.runner, request.beam_arguments)
    seconds = time.monotonic() - started
    report = Report(counters, seconds, files, stored, job.retally, job.tally)
    report.check()
    leave_views(job)
    return report


def check_elasticsearch(job: Job) -> None:
    """Make sure of the cluster and its templates before an hour of decoding, not after."""
    if job.elasticsearch is None:
        return
    from adtally.io.elasticsearch import check_templates, connect
    from adtally.io.elasticsearch_bulk import BulkWriter

    config = job.elasticsearch
    with contextlib.closing(connect(config)) as client:
        BulkWriter(client, config).when_up(lambda: check_templates(client, config))


def leave_views(job: Job) -> None:
    """Write the SQL views over what the output holds now."""
    settings = job.settings
    write_views(
        job.output,
        settings.window_seconds,
        settings.allowed_lateness_seconds,
        settings.dimensions,
    )


def _is_own_log(files: Sequence[LogFile], output: str) -> bool:
    own = [file.path.startswith(join(output, "events") + "/") for file in files]
    if any(own) and not all(own):
        raise ConfigError(
            f"the input mixes the event log of {output} with other files; a re-tally reads that "
            f"log alone. Back-fill the other files first, then re-tally."
        )
    return all(own)


def _closed(ranges: Ranges, files: Sequence[LogFile], settings: Settings) -> Ranges:
    """The range asked for; where none was, all that the log holds, in whole windows."""
    if ranges:
        return ranges
    hours = [hour_of(file.path) for file in files]
    return aligned([(hour, hour + HOUR_MS) for hour in hours], settings)


def aligned(ranges: Sequence[tuple[int, int]], settings: Settings) -> Ranges:
    """Ranges widened to whole windows of every size that the output has, and joined."""
    step = math.lcm(HOUR_MS, 1000 * settings.common_seconds)
    joined: list[tuple[int, int]] = []
    for start, end in sorted((low // step * step, -(-high // step) * step) for low, high in ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)


def settle_manifest(job: Job) -> None:
    """Fix the settings of a new output, or hold the job against those of an old one.

    Raises:
        ConfigError: they differ in what would keep rows from adding up.
        PiiError: the key of pseudonyms is needed, and not there.
    """
    if job.decodes:
        job.settings.pii.check()
        _check_key_apart(job)
    else:
        _warn_of_new_lists(job)
    wanted = job.settings.fingerprint
    found = manifest.read_manifest(job.output)
    known = {**BEFORE, **(found or wanted)}
    differing = [key for key in wanted if known.get(key) != wanted[key]]
    if differing:
        pairs = ", ".join(f"{key} {known.get(key)!r}, now {wanted[key]!r}" for key in differing)
        raise ConfigError(
            f"{job.output} was made with other settings ({pairs}); rows of both would not add "
            f"up. Use the same settings, or another --output."
        )
    rollups = {*job.settings.rollup_seconds, *(found or {}).get("rollup_seconds", [])}
    key_file = job.settings.pii.key_file if job.decodes else (found or {}).get("pii_key_file", "")
    shards = {"stream_shards": job.settings.shards} if job.streaming is not None else {}
    content = {
        **(found or {}),
        "version": 1,
        **wanted,
        **shards,
        "rollup_seconds": sorted(rollups),
        "pii_key_file": key_file,
        "rules": {"file": job.settings.rules_file, "version": job.settings.ruleset.version},
    }
    if content != found:
        manifest.write_manifest(job.output, content)


def _check_key_apart(job: Job) -> None:
    """Who is given the output, or the dead letters of the input, must not be given the key."""
    key = job.settings.pii.key_file
    read = {span.file.path for block in job.blocks for span in block.spans}
    if key and (key in read or key.startswith(job.output.rstrip("/") + "/")):
        where = "input" if key in read else "output"
        raise ConfigError(
            f"the key of pseudonyms, {key}, lies in the {where}: whoever gets the output could "
            f"undo them. Move the key elsewhere, and give its new place as --pii-key-file."
        )


def _warn_of_new_lists(job: Job) -> None:
    """A log of pseudonyms cannot be held against lists: that was done when it was decoded."""
    settings = job.settings
    rules = (manifest.read_manifest(job.output) or {}).get("rules", {})
    if settings.pii.plain or rules.get("version") == settings.ruleset.version:
        return
    if settings.ruleset.allows:
        _LOG.warning(
            "the rules have changed, and the log holds no plain users or addresses (--pii %s): "
            "who is on an allow-list stays as it was when the events were decoded. Thresholds "
            "take effect; see docs/privacy.md.",
            settings.pii.mode,
        )


def _check_earlier_run(job: Job) -> None:
    """The same inputs decoded in another way would leave files of both ways side by side."""
    earlier = manifest.read_run(job.output, job.id)
    for key, now in _ways(job).items():
        if earlier is not None and earlier.get(key) != now:
            raise ConfigError(
                f"these inputs were back-filled into {job.output} with another {key} "
                f"({earlier.get(key)}, now {now}); files of both would mix. Use another "
                f"--output, or, for other rules, re-tally: --input {job.output}/events."
            )
    limits = dataclasses.asdict(job.settings.limits)
    for name, value in ((earlier or {}).get("limits") or {}).items():
        if limits.get(name, value) < value:  # files of events that are now dead would stay
            raise ConfigError(
                f"these inputs were back-filled into {job.output} with a limit {name} of {value}, "
                f"now {limits[name]}: events that it refuses would stay in the log. Give {value} "
                f"or more, or use another --output."
            )


def _ways(job: Job) -> dict[str, str]:
    return {
        "mapping": mapping_fingerprint(job.mapping),
        "ruleset": job.settings.ruleset.version,
    }


def record_run(job: Job, report: Report) -> str:
    """Leave a record of what a run read and did; returns its address."""
    started = datetime.datetime.fromtimestamp(job.started_ms / 1000, datetime.UTC)
    inputs = sorted({span.file.path for block in job.blocks for span in block.spans})
    record: dict[str, Any] = {
        "job": job.id,
        "started_at": started.isoformat(),
        "generation": job.generation,
        "retally": job.retally,
        "ranges_ms": job.ranges,
        **_ways(job),
        "limits": dataclasses.asdict(job.settings.limits),
        **report.record(),
        "inputs": [writable(path) for path in inputs[:RECORDED_INPUTS]],
    }
    return manifest.write_run(job.output, job.id, record)


def _delete_stale(job: Job) -> int:
    """Remove documents of the re-tallied windows that the new generation does not have."""
    if job.elasticsearch is None:
        return 0
    from adtally.io.elasticsearch import connect, delete_stale

    client = connect(job.elasticsearch)
    settings = job.settings
    windows = {settings.window_seconds, *settings.rollup_seconds, settings.history_seconds}
    try:
        return sum(
            delete_stale(
                client,
                job.elasticsearch,
                window_from_ms=start,
                window_to_ms=end,
                generation=job.generation,
                window_seconds=sorted(windows),
            )
            for start, end in job.ranges
        )
    finally:
        client.close()


def _check_are_logs(files: Sequence[LogFile], output: str) -> None:
    for file in files:
        kind = file.path.removeprefix(output + "/").split("/")[0]
        if file.path.startswith(output + "/") and kind in OUTPUT_KINDS:
            raise ConfigError(
                f"input {file.path} is something that adtally wrote; reading it as a log would "
                f"count it again. Use 'adtally replay' for dead letters, or narrow --input."
            )
        if file.format != "json":  # its events would get around what decoding does, such as --pii
            raise ConfigError(
                f"input {file.path} is Parquet, and not the event log of {output}: logs are JSON "
                f"lines. Read the logs that it was made of, or give the output that it belongs to "
                f"as --output."
            )


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return round(time.time() * 1000)
