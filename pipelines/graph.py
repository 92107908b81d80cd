"""The graph. It reads like the picture in the README; nothing here knows source, sink or runner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from adtally.io import reads
from adtally.io.alerts import SendAlerts
from adtally.io.dead_letter_source import ReadDeadLetters
from adtally.io.dead_letters import DeadLetter
from adtally.io.pubsub_sinks import PublishDeadLetters
from adtally.io.sinks import (
    WriteDeadLetters,
    WriteEventLog,
    WriteToParquet,
    batch_by_content,
)
from adtally.io.sources import ReadEventLog, ReadLogs
from adtally.pipelines.job import Job
from adtally.transforms.anomaly_windows import JudgeSeries
from adtally.transforms.decode_events import DecodeEvents
from adtally.transforms.raise_alerts import RaiseAlerts
from adtally.transforms.rollup_windows import RollUpWindows
from adtally.transforms.tally_windows import (
    FLAGS,
    SUMMARIES,
    SliceByWindow,
    TallyWindows,
    WithoutEarly,
)
from adtally.transforms.verdict_windows import JudgeHistory


def build(pipeline: beam.Pipeline, job: Job) -> None:
    """Wire a run: events in, log, summaries, flags, dead letters out."""
    events, dead_letters = read_events(pipeline, job)
    if not job.retally:
        events | "WriteEventLog" >> WriteEventLog(job.folder("events"), job.flush(job.log_writers))
    if job.tally:
        sliced = events | "SliceByWindow" >> SliceByWindow(job.slice_spec, job.scratch_folder)
        sliced.late | "WriteLate" >> WriteToParquet(
            job.folder("late"), job.id, "late_rows", job.flush()
        )
        windowing = job.windowing(job.settings.window_seconds)
        tallied = sliced.slices | "TallyWindows" >> TallyWindows(
            job.tally_spec, windowing, job.ranges
        )
        dead_letters += write_summaries(tallied.summaries, job)
        dead_letters += write_verdicts(tallied.flags, "flags", job)
        told = {name: tallied[name] for name in (FLAGS, SUMMARIES)}
        if job.settings.looks_back:
            history = one([sliced.slices, sliced.context], "AllHistory")
            told["verdicts"] = history | "JudgeHistory" >> JudgeHistory(
                job.verdict_spec, job.history_windowing
            )
            dead_letters += write_verdicts(told["verdicts"], "verdicts", job)
        if job.settings.ruleset.series_rules:
            settled = without_early(tallied.summaries, "SettledSeries", job)
            told["anomalies"] = (settled, tallied.past) | "JudgeSeries" >> JudgeSeries(
                job.series_spec, job.series_windowing
            )
            dead_letters += write_verdicts(told["anomalies"], "anomalies", job)
        if job.alerts is not None:
            window_ms = job.settings.window_seconds * 1000
            alerts = told | "RaiseAlerts" >> RaiseAlerts(job.alert_spec, window_ms)
            alerts | "SendAlerts" >> SendAlerts(job.alerts)
    if dead_letters:
        letters = one(dead_letters, "AllDeadLetters")
        letters | "WriteDeadLetters" >> WriteDeadLetters(job.folder("dead-letters"), job.flush())
        if job.letter_topic is not None:
            letters | "PublishDeadLetters" >> PublishDeadLetters(job.letter_topic)


def read_events(pipeline: beam.Pipeline, job: Job) -> tuple[Any, list[Any]]:
    """Events from all sources of the job, and the dead letters of reading and decoding."""
    sources, chunks, dead_letters = [], [], []
    limits = job.settings.limits
    if job.json_blocks:
        chunks.append(
            pipeline | "ReadLogs" >> ReadLogs(job.json_blocks, job.scratch_folder, limits)
        )
    if job.dead_letter_blocks:
        letters = pipeline | "ReadDeadLetters" >> ReadDeadLetters(
            job.dead_letter_blocks, job.scratch_folder
        )
        chunks.append(letters.chunks)
        dead_letters.append(letters.kept)
    for index, read in enumerate(job.reads):
        kind = reads.kind(read)
        batches = pipeline | f"Read{kind}{index or ''}" >> read
        chunks.append(batches | f"{kind}Chunks{index or ''}" >> reads.to_chunks(read))
    if chunks:
        decoded = one(chunks, "AllChunks") | "DecodeEvents" >> DecodeEvents(
            job.mapping,
            job.decoded_at_ms,
            job.settings.plausible,
            job.scratch_folder,
            job.settings.ruleset,
            job.settings.pii,
            limits,
        )
        sources.append(decoded.events)
        dead_letters.append(decoded.dead_letters)
    if job.log_blocks:
        sources.append(
            pipeline | "ReadEventLog" >> ReadEventLog(job.log_blocks, job.scratch_folder)
        )
    return one(sources, "AllEvents"), dead_letters


def one(collections: list[Any], label: str) -> Any:
    """Several collections as one."""
    return collections[0] if len(collections) == 1 else collections | label >> beam.Flatten()


def write_summaries(summaries: Any, job: Job) -> list[Any]:
    """Base windows and their roll-ups, to every sink; returns dead letters."""
    base = job.settings.window_seconds
    by_window = {base: summaries}
    settled = without_early(summaries, "SettledSummaries", job)
    for seconds in job.settings.rollup_seconds:
        by_window[seconds] = settled | f"RollUp{seconds}s" >> RollUpWindows(
            job.tally_spec, seconds * 1000, job.windowing(seconds), job.ranges
        )
    dead_letters = []
    for seconds, rows in by_window.items():
        counter = "summary_rows" if seconds == base else f"summary_rows_{seconds}s"
        folder = job.folder("summaries", seconds)
        kept = without_early(rows, f"SettledRollUp{seconds}s", job) if seconds != base else settled
        kept | f"WriteSummaries{seconds}s" >> WriteToParquet(folder, job.id, counter, job.flush())
        dead_letters += write_documents(rows, "summaries", f"IndexSummaries{seconds}s", job)
    return dead_letters


def without_early(tables: Any, label: str, job: Job) -> Any:
    """Without early panes, of which bounded runs have none."""
    return tables if job.streaming is None else tables | label >> WithoutEarly()


def write_verdicts(tables: Any, kind: str, job: Job) -> list[Any]:
    """Flags, or verdicts of rules that look back, to every sink; returns dead letters."""
    label = kind.capitalize()
    settled = without_early(tables, f"Settled{label}", job)
    counter = {"flags": "flag_rows", "verdicts": "verdict_rows"}.get(kind, "anomaly_rows")
    settled | f"Write{label}" >> WriteToParquet(job.folder(kind), job.id, counter, job.flush())
    return write_documents(tables, kind, f"Index{label}", job)


def write_documents(tables: Any, kind: str, label: str, job: Job) -> list[Any]:
    """To Elasticsearch, when the job has one; returns dead letters."""
    if job.elasticsearch is None:
        return []
    from adtally.io.elasticsearch_sink import WriteToElasticsearch

    letters = tables | label >> WriteToElasticsearch(job.elasticsearch, kind)
    collected = (
        letters
        | f"{label}Unwindow" >> beam.WindowInto(GlobalWindows())
        | f"{label}DeadLetters" >> beam.ParDo(_ByContent())
    )
    return [collected]


class _ByContent(beam.DoFn):
    """Collects the few letters of a bundle into one batch."""

    def start_bundle(self) -> None:
        self._letters: list[DeadLetter] = []

    def process(self, letter: DeadLetter) -> None:
        self._letters.append(letter)

    def finish_bundle(self) -> Iterator[Any]:
        if self._letters:
            batch = batch_by_content(self._letters)
            yield WindowedValue(batch, MIN_TIMESTAMP, (GlobalWindow(),))
