"""Unbounded runs: a live stream through the same graph as logs."""

from __future__ import annotations

import datetime
import logging
import uuid
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from adtally.io.event_log import STREAM_PREFIX, reached_ms
from adtally.io.kinesis_shards import TRIM_HORIZON
from adtally.io.pubsub import ReadFromPubSub
from adtally.io.reads import Read, address, of_run
from adtally.io.views import seed_views
from adtally.pipelines import subscriptions
from adtally.pipelines.backfill import (
    Outcome,
    Request,
    checked_output,
    execute,
    leave_views,
    now_ms,
    record_run,
    settle_manifest,
)
from adtally.pipelines.graph import build
from adtally.pipelines.job import ConfigError, Job, Settings, Streaming
from adtally.pipelines.progress import Watch
from adtally.runners.unbounded import start
from adtally.transforms.alerts import AlertSpec
from adtally.transforms.mapping import Mapping, identity_mapping
from adtally.transforms.rules.history import LOOK_BACK_MS

if TYPE_CHECKING:
    from adtally.io.alerts import AlertSink
    from adtally.io.elasticsearch import ElasticsearchConfig
    from adtally.io.pubsub_publisher import Topic
    from adtally.runners.dataflow import DataflowConfig

RESTART_MARGIN_MS: Final = 600_000
"""Read again before the point where reading has to begin after a start without state: events may
have been dated ahead, and the log may have been written a little earlier than summaries."""

MOST_FLUSH_SECONDS: Final = 600
"""The longest that events may wait before they are in the log: a fresh start reads again what a run
before it, whatever its setting was, had not written; a correction waits until the log is whole."""

_LOG = logging.getLogger("adtally")


@dataclass(frozen=True)
class StreamRequest:
    """What a user asked for; see ``adtally stream --help``.

    Attributes:
        reads: the streams; where reading them begins is settled by :func:`prepare`.
        resume: begin where the output ends (DESIGN: a start without state never begins at the
            tip), whatever ``reads`` say.
        explicit: where reading begins was asked for.
        stateless: the runner keeps its state in memory alone.
        tolerant: go on where records left the stream unread.
        alerts: where alerts go; None for nowhere.
        alert_spec: what they tell.
        letter_topic: where dead letters are sent, beside their files; None for nowhere.
        dataflow: how the job runs there; None for other runners.
        arguments: Beam options, with the runner.
    """

    reads: tuple[Read, ...]
    output: str
    settings: Settings
    mapping: Mapping = field(default_factory=identity_mapping)
    elasticsearch: ElasticsearchConfig | None = None
    pane_seconds: int = 10
    look_back_seconds: int = 300
    flush_seconds: int = 300
    writers: int = 2
    alerts: AlertSink | None = None
    alert_spec: AlertSpec = AlertSpec()
    letter_topic: Topic | None = None
    resume: bool = True
    explicit: bool = False
    stateless: bool = True
    tolerant: bool = False
    dataflow: DataflowConfig | None = None
    arguments: tuple[str, ...] = ()


def prepare(request: StreamRequest) -> Job:
    """Settle an output's manifest and where reading begins; nothing is read yet.

    Raises:
        ConfigError: a setting cannot work.
    """
    job = planned(request)
    settle_manifest(job)
    subscriptions.note_begin(job.reads, job.output, now_ms())
    seed_views(job.output, job.settings.dimensions)
    leave_views(job)
    return job


def planned(request: StreamRequest) -> Job:
    """The job that was asked for, with where reading begins; nothing is written.

    Raises:
        ConfigError: a setting cannot work.
    """
    if request.flush_seconds > MOST_FLUSH_SECONDS:
        raise ConfigError(
            f"flush_seconds is {request.flush_seconds}: a fresh start and a correction count on "
            f"events being in the log after {MOST_FLUSH_SECONDS} s; give that or less."
        )
    output = checked_output(request.output)
    job_id = f"{STREAM_PREFIX}{uuid.uuid4().hex[:12]}"
    reads = tuple(of_run(read, job_id) for read in settled_reads(request, output))
    return Job(
        output=output,
        blocks=(),
        settings=request.settings,
        started_ms=now_ms(),
        mapping=request.mapping,
        elasticsearch=request.elasticsearch,
        reads=reads,
        streaming=Streaming(
            id=job_id,
            pane_seconds=request.pane_seconds,
            look_back_seconds=request.look_back_seconds,
            flush_seconds=request.flush_seconds,
            writers=request.writers,
        ),
        alerts=request.alerts,
        alert_spec=told_from(request.alert_spec, reads, request.settings),
        letter_topic=request.letter_topic,
    )


def stream(request: StreamRequest) -> tuple[Job, Any]:
    """Start a stream; returns its job and Beam's result."""
    from adtally.pipelines.backfill import check_elasticsearch
    from adtally.runners.dataflow import check_running

    if request.dataflow is not None and request.dataflow.update:
        check_running(list(request.arguments), request.dataflow.job_name)
    job = prepare(request)
    subscriptions.check_apart(job.reads, _topics(job))
    check_elasticsearch(job)
    if job.alerts is not None:
        job.alerts.check()
    if job.letter_topic is not None:
        job.letter_topic.check()
    for read in job.reads:
        _LOG.info("reading stream=%s from=%s job=%s", address(read), _shown(read.start_ms), job.id)
    subscriptions.begin(job.reads)
    return job, start(partial(build, job=job), request.arguments)


def _topics(job: Job) -> dict[str, str]:
    """Topics of Pub/Sub that a job writes to, by option."""
    told = {"--dead-letters-to": job.letter_topic, "--alerts": getattr(job.alerts, "topic", None)}
    return {option: topic.name for option, topic in told.items() if topic is not None}


def dry_run(request: StreamRequest) -> Any:
    """Build a stream's graph for Dataflow, as Beam would send it; nothing is sent or written."""
    return start(partial(build, job=planned(request)), request.arguments).job


def read_up_to_now(request: StreamRequest, runner: str, watch: Watch) -> Outcome:
    """Read what the streams hold by now, as a bounded run, and end.

    Into the output of a stream that was cancelled it begins where that one has to be read again,
    and finishes all windows: a drain.
    """
    stop_ms = now_ms()
    output = checked_output(request.output)
    reads = settled_reads(request, output)
    job = Job(
        output=output,
        blocks=(),
        settings=request.settings,
        started_ms=stop_ms,
        mapping=request.mapping,
        elasticsearch=request.elasticsearch,
        reads=tuple(
            replace(read, stop_ms=stop_ms if read.stop_ms is None else read.stop_ms)
            for read in reads
        ),
    )
    settle_manifest(job)
    bounded = Request(
        inputs=(),
        output=job.output,
        settings=request.settings,
        runner=runner,
        beam_arguments=request.arguments,
    )
    report = execute(job, bounded, watch)
    return Outcome(report, job, record_run(job, report))


def settled_reads(request: StreamRequest, output: str) -> tuple[Read, ...]:
    """The streams, with where reading them begins."""
    begun_ms = resume_ms(output, request.settings) if request.resume else None

    def settled(read: Read) -> Read:
        if isinstance(read, ReadFromPubSub):
            return subscriptions.settled(
                read,
                output,
                explicit=request.explicit,
                resume=request.resume,
                resumed_ms=begun_ms,
                needed_ms=now_ms() - again_from_ms(now_ms(), request.settings),
                stateless=request.stateless,
                tolerant=request.tolerant,
                now_ms=now_ms(),
            )
        return read if begun_ms is None else replace(read, start_ms=begun_ms)

    return tuple(map(settled, request.reads))


def resume_ms(output: str, settings: Settings) -> int | None:
    """Where a stream without saved state begins: None where the output has no stream's events.

    It is the start of the oldest window, roll-ups and history too, that was open when the log was
    last written, less what may not have been in the log yet, and what rules look back. So every
    window that could still change is counted from its first event on, and windows before it keep
    their fuller rows, as versions say.
    """
    reached = reached_ms(output)
    return None if reached is None else again_from_ms(reached, settings)


def again_from_ms(reached: int, settings: Settings) -> int:
    """Where reading begins again when everything that arrived before ``reached`` is in the log."""
    known_ms = reached - MOST_FLUSH_SECONDS * 1000 - RESTART_MARGIN_MS

    def oldest_open_ms(window_seconds: int) -> int:
        window_ms = window_seconds * 1000
        open_ms = known_ms - window_ms - settings.allowed_lateness_seconds * 1000
        return open_ms // window_ms * window_ms

    start_ms = oldest_open_ms(max(settings.window_seconds, *settings.rollup_seconds, 0))
    if settings.past_seconds:  # long windows need a longer past than a stream keeps
        past_ms = min(settings.past_seconds * 1000, LOOK_BACK_MS)
        start_ms = min(start_ms, oldest_open_ms(settings.history_seconds) - past_ms)
    return max(0, start_ms)


def told_from(spec: AlertSpec, reads: tuple[Read, ...], settings: Settings) -> AlertSpec:
    """Alerts of windows that are read from their first event on, and of hours with their past.

    Of what came before, only events that arrived late are read: a window has few of them, and the
    first whole one after it looks like a surge.
    """
    start_ms = max(read.start_ms for read in reads)
    if start_ms == TRIM_HORIZON:
        return spec
    hour_ms = settings.history_seconds * 1000
    whole_ms = -(-(start_ms + LOOK_BACK_MS) // hour_ms) * hour_ms
    return replace(spec, from_ms=start_ms, look_back_from_ms=whole_ms)


def _shown(start_ms: int) -> str:
    if start_ms == TRIM_HORIZON:
        return "TRIM_HORIZON"
    return datetime.datetime.fromtimestamp(start_ms / 1000, datetime.UTC).isoformat()
