"""What a stream was asked for: its source, where reading begins, and what is refused before."""

from __future__ import annotations

import datetime
import functools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, PrismRunnerOptions
from apache_beam.runners.runner import PipelineState
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from adtally.io.event_log import LAG_MS, STREAM_PREFIX, arrival_notes, reached_ms
from adtally.io.files import join
from adtally.io.kinesis import TRIM_HORIZON, KinesisConfig, ReadFromKinesis
from adtally.io.manifest import read_manifest
from adtally.io.parquet import write_table
from adtally.pipelines.backfill import now_ms
from adtally.pipelines.cli import cli
from adtally.pipelines.job import (
    STREAM_SHARDS,
    ConfigError,
    Settings,
    Streaming,
    whole_range,
)
from adtally.pipelines.sources import parse_kinesis
from adtally.pipelines.stream import (
    MOST_FLUSH_SECONDS,
    RESTART_MARGIN_MS,
    StreamRequest,
    prepare,
    resume_ms,
    settled_reads,
    told_from,
)
from adtally.pipelines.stream_cli import attend, line, stream, stream_request
from adtally.transforms.alerts import AlertSpec
from adtally.transforms.rules.ruleset import Ruleset
from tests import streams
from tests.io.test_views import EVENT_SCHEMA, table

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NEAR = Ruleset(history_rules=(), series_rules=())  # no rule looks back
ARRIVED = 1_772_366_400_000 + 12_345  # 2026-03-01T12:00:12.345Z
ARN = "arn:aws:kinesis:eu-central-1:123456789012:stream/events"


def write_log(
    output: Path,
    name: str,
    *arrivals: int | None,
    occurred_ms: int | None = None,
    shard: str = "shardId-0",
) -> None:
    """A file of an output's event log whose events arrived at these times."""
    at = occurred_ms if occurred_ms is not None else (arrivals[0] or 0)
    moment = datetime.datetime.fromtimestamp(at / 1000, datetime.UTC)
    folder = join(str(output), "events", f"date={moment:%Y-%m-%d}", f"hour={moment:%H}")
    source = f"kinesis://arn:aws:kinesis:eu-west-1:1:stream/events/{shard}/7/0"
    rows = [{"occurred_at": at, "arrived_at": one, "source": source} for one in arrivals]
    events = table(EVENT_SCHEMA, rows)
    write_table(events, join(folder, f"{name}.parquet"), arrival_notes(events))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a stream left whose newest event arrived at ``ARRIVED``."""
    folder = tmp_path_factory.mktemp("output")
    write_log(folder, f"{STREAM_PREFIX}a-0000-000000-0", ARRIVED - HOUR, ARRIVED)
    return folder


@pytest.fixture
def prism(tmp_path: Path) -> str:
    """A file in the place of Prism, which nothing here starts."""
    path = tmp_path / "prism"
    path.touch()
    return str(path)


def reading(*streams: str, **given: Any) -> tuple[ReadFromKinesis, ...]:
    return tuple(ReadFromKinesis(KinesisConfig(name), **given) for name in streams)


def requested(prism: str, *arguments: str, beam: tuple[str, ...] = ()) -> StreamRequest:
    """The request that the command line makes of its options."""
    base = ("--source", "kinesis://events", "--output", "out", "--prism", prism)
    given = stream.make_context("stream", [*base, *arguments]).params
    request: StreamRequest = stream_request(given, beam, None)
    return request


# The source.


def test_a_stream_is_named_or_given_by_its_arn() -> None:
    assert parse_kinesis("kinesis://events", "eu-central-1", "http://localhost:1") == KinesisConfig(
        "events", "eu-central-1", "http://localhost:1"
    )
    by_arn = parse_kinesis(f"kinesis://{ARN}", "", "")
    assert by_arn.name == "events"
    assert by_arn.target == {"StreamARN": ARN}


@pytest.mark.parametrize(
    "text", ["events", "kinesis:events", "kinesis://", "s3://bucket/logs", "Kinesis://events", ""]
)
def test_another_source_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_kinesis(text, "", "")
    assert str(raised.value) == (
        f"stream {text!r} is not known; write kinesis://STREAM or kinesis://ARN to read or to "
        f"write, pubsub://projects/PROJECT/subscriptions/NAME to read, or "
        f"pubsub://projects/PROJECT/topics/NAME to write."
    )


# The options as a request.


def test_what_is_not_said_is_as_the_help_says(prism: str) -> None:
    request = requested(prism)
    (read,) = request.reads
    assert read.config == KinesisConfig("events")
    assert (read.start_ms, read.stop_ms, read.readers) == (TRIM_HORIZON, None, 32)
    assert (read.on_data_loss, read.watermark_lag_seconds) == ("fail", 30)
    assert (request.pane_seconds, request.flush_seconds, request.writers) == (10, 300, 2)
    assert request.resume
    assert request.settings == Settings(shards=STREAM_SHARDS)
    assert PipelineOptions(request.arguments).view_as(PrismRunnerOptions).prism_location == prism


def test_what_is_said_is_in_the_request(prism: str) -> None:
    request = requested(
        prism,
        *("--source", f"kinesis://{ARN}", "--kinesis-region", "eu-central-1"),
        *("--kinesis-endpoint", "http://localhost:1", "--readers", "3"),
        *("--on-data-loss", "trim_horizon", "--watermark-lag", "2m", "--pane-every", "5s"),
        *("--flush-every", "1m", "--writers", "4", "--window", "5m", "--rollup", "1h,1d"),
        beam=("--job_name=mine",),
    )
    assert [read.config.stream for read in request.reads] == ["events", ARN]
    for read in request.reads:
        assert read.config.region == "eu-central-1"
        assert read.config.endpoint_url == "http://localhost:1"
        assert (read.readers, read.on_data_loss, read.watermark_lag_seconds) == (
            3,
            "trim_horizon",
            120,
        )
    assert (request.pane_seconds, request.flush_seconds, request.writers) == (5, 60, 4)
    assert request.settings == Settings(
        window_seconds=300, rollup_seconds=(3600, 86_400), shards=STREAM_SHARDS
    )
    assert request.arguments[-1] == "--job_name=mine"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("TRIM_HORIZON", TRIM_HORIZON),
        ("trim_horizon", TRIM_HORIZON),
        ("2026-03-01", 1_772_323_200_000),
        ("2026-03-01T12:00:00.5Z", 1_772_366_400_500),
        ("2026-03-01T12:00:00+02:00", 1_772_359_200_000),
        ("1970-01-01", 0),
    ],
)
def test_a_start_that_is_given_is_kept(prism: str, given: str, expected: int) -> None:
    request = requested(prism, "--start", given)
    assert [read.start_ms for read in request.reads] == [expected]
    assert not request.resume


@pytest.mark.parametrize("position", ["LATEST", "latest"])
def test_the_tip_is_the_present_for_all_streams_alike(prism: str, position: str) -> None:
    before = now_ms()
    request = requested(prism, "--source", "kinesis://more", "--start", position)
    (start_ms,) = {read.start_ms for read in request.reads}
    assert before <= start_ms <= now_ms()
    assert not request.resume


def test_a_bounded_read_runs_without_prism(prism: str) -> None:
    before = now_ms()
    request = requested(prism, "--stop-at", "LATEST", "--prism", "/nowhere")
    (stop_ms,) = [read.stop_ms for read in request.reads]
    assert stop_ms is not None
    assert before <= stop_ms <= now_ms()
    assert request.resume
    assert request.arguments == ()
    (until,) = requested(prism, "--stop-at", "2026-03-01").reads
    assert until.stop_ms == 1_772_323_200_000


def test_a_savepoint_says_where_to_begin_and_not_the_output(prism: str) -> None:
    flink = ("--runner", "FlinkRunner", "--flink-job-endpoint", "localhost:1")
    assert requested(prism, *flink).resume
    assert not requested(prism, *flink, "--flink-savepoint", "file:///s").resume


def test_a_stream_keeps_its_number_of_groups_or_starts_afresh(prism: str, tmp_path: Path) -> None:
    def shards(*more: str) -> int:
        return requested(prism, "--output", str(tmp_path), *more).settings.shards

    flink = ("--runner", "FlinkRunner", "--flink-job-endpoint", "localhost:1")
    savepoint = (*flink, "--flink-savepoint", "file:///s")
    assert shards() == STREAM_SHARDS
    assert shards("--shards", "8") == 8
    prepare(StreamRequest(reading("events"), str(tmp_path), Settings(shards=8)))
    assert shards() == shards(*savepoint) == shards(*savepoint, "--shards", "8") == 8
    assert shards("--shards", "6") == 6
    with pytest.raises(ConfigError, match="--shards 6 does not fit the savepoint, whose windows"):
        shards(*savepoint, "--shards", "6")
    assert (read_manifest(str(tmp_path)) or {})["stream_shards"] == 8


def test_another_runner_is_handed_on_to_beam(prism: str) -> None:
    assert requested(prism, "--runner", "SparkRunner").arguments == ("--runner=SparkRunner",)


# Where reading begins.


def test_an_output_without_events_of_a_stream_has_no_place_to_resume(tmp_path: Path) -> None:
    assert reached_ms(str(tmp_path)) is None
    write_log(tmp_path, "backfilled-00000", ARRIVED)
    assert reached_ms(str(tmp_path)) is None
    assert resume_ms(str(tmp_path), Settings()) is None


def test_events_that_never_arrived_in_a_stream_tell_nothing(tmp_path: Path) -> None:
    write_log(tmp_path, f"{STREAM_PREFIX}a-0000-000000-0", None, None)
    assert reached_ms(str(tmp_path)) is None


@pytest.mark.parametrize(
    "files",
    [
        ((ARRIVED, ARRIVED), (ARRIVED - HOUR, ARRIVED - HOUR)),
        ((ARRIVED, ARRIVED - 3 * HOUR), (ARRIVED - HOUR, ARRIVED)),  # a late event is the newest
        ((ARRIVED, ARRIVED - 13 * HOUR), (ARRIVED - DAY, ARRIVED - HOUR)),  # of the day before
        ((ARRIVED - 5 * DAY, ARRIVED - 5 * DAY), (ARRIVED, ARRIVED)),
    ],
)
def test_the_newest_arrival_is_found_whichever_file_has_it(
    tmp_path: Path, files: tuple[tuple[int, int], ...]
) -> None:
    for number, (arrived, occurred) in enumerate(files):
        name = f"{STREAM_PREFIX}a-0000-{number:06d}-0"
        write_log(tmp_path, name, arrived, arrived - 5, occurred_ms=occurred)
    assert reached_ms(str(tmp_path)) == ARRIVED


def test_an_event_dated_ahead_hides_no_later_arrival(tmp_path: Path) -> None:
    now = now_ms()
    write_log(tmp_path, f"{STREAM_PREFIX}a-0", now - 1000, occurred_ms=now + 2 * DAY)
    write_log(tmp_path, f"{STREAM_PREFIX}a-1", now, occurred_ms=now)
    assert reached_ms(str(tmp_path)) == now


def test_a_shard_that_lags_holds_reading_back(tmp_path: Path) -> None:
    write_log(tmp_path, f"{STREAM_PREFIX}a-0", ARRIVED, shard="shardId-1")
    for number, arrived in enumerate((ARRIVED - 30 * HOUR, ARRIVED - 29 * HOUR)):
        write_log(tmp_path, f"{STREAM_PREFIX}b-{number}", arrived, shard="shardId-2")
    assert reached_ms(str(tmp_path)) == ARRIVED - 29 * HOUR


def test_a_shard_that_is_gone_for_long_does_not_hold_reading_back(tmp_path: Path) -> None:
    write_log(tmp_path, f"{STREAM_PREFIX}a-0", ARRIVED, shard="shardId-1")
    write_log(tmp_path, f"{STREAM_PREFIX}a-1", ARRIVED - LAG_MS - 1, shard="shardId-2")
    assert reached_ms(str(tmp_path)) == ARRIVED


def test_reading_begins_before_every_roll_up_that_was_open(output: Path) -> None:
    start_ms = resume_ms(str(output), Settings(rollup_seconds=(3600, 86_400), ruleset=NEAR))
    assert start_ms is not None
    assert start_ms % DAY == 0
    assert start_ms <= ARRIVED - DAY - HOUR


def test_a_log_that_is_written_too_seldom_is_refused(tmp_path: Path) -> None:
    reads = reading("events", start_ms=TRIM_HORIZON)
    request = StreamRequest(reads, str(tmp_path), Settings(), flush_seconds=601)
    with pytest.raises(ConfigError, match=r"flush_seconds is 601.*give that or less"):
        prepare(request)


@given(
    window=st.sampled_from([1, 10, 60, 300, 3600, 86_400, 7 * 86_400]),
    lateness=st.integers(0, 3 * 86_400),
)
def test_reading_begins_before_every_window_that_was_open(
    output: Path, window: int, lateness: int
) -> None:
    settings = Settings(window_seconds=window, allowed_lateness_seconds=lateness, ruleset=NEAR)
    start_ms = resume_ms(str(output), settings)
    assert start_ms is not None
    assert start_ms % (window * 1000) == 0
    known_ms = ARRIVED - MOST_FLUSH_SECONDS * 1000 - RESTART_MARGIN_MS
    oldest_open = known_ms - (window + lateness) * 1000
    assert start_ms <= oldest_open
    assert start_ms > oldest_open - window * 1000
    # Rules that look back: their window, an hour or more, and the hour before it.
    looking_ms = resume_ms(str(output), replace(settings, ruleset=Ruleset()))
    assert looking_ms is not None
    history = max(HOUR, window * 1000)
    oldest_open = known_ms - history - lateness * 1000
    assert oldest_open - history - HOUR < looking_ms <= oldest_open - HOUR
    assert looking_ms % HOUR == 0


def test_reading_begins_not_before_the_epoch(tmp_path: Path) -> None:
    write_log(tmp_path, f"{STREAM_PREFIX}a-0", MINUTE)
    assert resume_ms(str(tmp_path), Settings()) == 0


def test_all_streams_resume_at_the_same_time_and_keep_what_else_they_have(output: Path) -> None:
    reads = reading("events", "more", start_ms=ARRIVED, stop_ms=ARRIVED + 1, readers=3)
    request = StreamRequest(reads, str(output), Settings())
    again = settled_reads(request, str(output))
    expected = resume_ms(str(output), Settings())
    assert [read.start_ms for read in again] == [expected, expected]
    assert [read.config.stream for read in again] == ["events", "more"]
    assert {(read.stop_ms, read.readers) for read in again} == {(ARRIVED + 1, 3)}
    assert reads[0].start_ms == ARRIVED


def test_a_start_that_is_given_wins_over_the_output(output: Path) -> None:
    reads = reading("events", start_ms=ARRIVED)
    request = StreamRequest(reads, str(output), Settings(), resume=False)
    assert settled_reads(request, str(output)) == reads


def test_a_new_output_begins_where_it_was_told(tmp_path: Path) -> None:
    reads = reading("events")
    assert settled_reads(StreamRequest(reads, str(tmp_path), Settings()), str(tmp_path)) == reads


# The job.


def test_a_prepared_output_has_its_settings_and_views_and_no_data(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    settings = Settings(window_seconds=300, rollup_seconds=(3600,), dimensions=("country",))
    request = StreamRequest(
        reading("events"), str(folder), settings, pane_seconds=7, flush_seconds=60, writers=3
    )
    job = prepare(request)
    assert job.output == str(folder)
    assert job.reads == request.reads
    assert job.streaming == Streaming(job.id, pane_seconds=7, flush_seconds=60, writers=3)
    names = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert [name for name in names if not name.startswith("_empty.")] == [
        "adtally.json",
        "views.sql",
    ]
    views = streams.views(folder)
    assert views.execute("SELECT count(*) FROM event_rows").fetchall() == [(0,)]
    manifest = read_manifest(str(folder)) or {}
    assert manifest["window_seconds"] == 300
    assert manifest["rollup_seconds"] == [3600]
    connection = duckdb.connect()
    connection.execute((folder / "views.sql").read_text())
    assert connection.execute("SELECT count(*) FROM summaries").fetchall() == [(0,)]


def test_every_start_is_a_run_of_its_own_whose_files_are_known_as_a_streams(tmp_path: Path) -> None:
    request = StreamRequest(reading("events"), str(tmp_path / "out"), Settings())
    first, second = prepare(request), prepare(request)
    assert first.id != second.id
    for job in (first, second):
        flush = job.flush(job.log_writers)
        assert flush is not None
        assert flush.name(0, 0, "0").startswith(STREAM_PREFIX)
        assert (flush.job, flush.seconds, flush.keys) == (job.id, 300, 2)


def test_an_event_of_a_stream_has_the_time_that_it_was_decoded_at(tmp_path: Path) -> None:
    job = prepare(StreamRequest(reading("events"), str(tmp_path / "out"), Settings()))
    assert job.decoded_at_ms is None


def test_a_relative_output_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = prepare(StreamRequest(reading("events"), "out", Settings()))
    assert job.output == str(tmp_path / "out")
    assert (tmp_path / "out" / "adtally.json").is_file()


def test_a_start_again_begins_before_what_the_first_had_open(tmp_path: Path) -> None:
    request = StreamRequest(reading("events"), str(tmp_path), Settings())
    first = prepare(request)
    assert [read.start_ms for read in first.reads] == [TRIM_HORIZON]
    write_log(tmp_path, f"{first.id}-0000-000000-0", ARRIVED)
    (read,) = prepare(request).reads
    assert read.start_ms == resume_ms(str(tmp_path), Settings())


def test_other_settings_than_the_output_has_are_refused(tmp_path: Path) -> None:
    prepare(StreamRequest(reading("events"), str(tmp_path), Settings()))
    before = (tmp_path / "adtally.json").read_bytes()
    with pytest.raises(ConfigError) as raised:
        prepare(StreamRequest(reading("events"), str(tmp_path), Settings(window_seconds=300)))
    message = str(raised.value)
    assert "window_seconds 60, now 300" in message
    assert "would not add up" in message
    assert "Use the same settings, or another --output." in message
    assert (tmp_path / "adtally.json").read_bytes() == before


@pytest.mark.parametrize("sign", ["*", "?", "["])
def test_an_output_that_reads_as_a_pattern_is_refused(tmp_path: Path, sign: str) -> None:
    with pytest.raises(ConfigError, match="take for a pattern"):
        prepare(StreamRequest(reading("events"), f"{tmp_path}/a{sign}b", Settings()))
    assert list(tmp_path.iterdir()) == []


# What the command line refuses.


def adtally(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["stream", *arguments], prog_name="adtally")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "events"), "'events' is not known; write kinesis://STREAM"),
        (("--source", "kinesis://"), "write kinesis://STREAM"),
        (("--start", "soon"), "write it as 2026-03-01"),
        (("--start", "NEWEST"), "write it as 2026-03-01"),
        (("--stop-at", "TRIM_HORIZON"), "would read nothing; give LATEST or a time"),
        (("--stop-at", "soon"), "write it as 2026-03-01"),
        (("--stop-at", "LATEST", "--runner", "FlinkRunner"), "leave --runner out"),
        (("--watermark-lag", "0"), "give 1 or more"),
        (("--watermark-lag", "0.5"), "write it as 90s"),
        (("--pane-every", "soon"), "write it as 90s"),
        (("--flush-every", "-1"), "write it as 90s"),
        (("--readers", "0"), "--readers"),
        (("--writers", "0"), "--writers"),
        (("--on-data-loss", "ignore"), "trim_horizon"),
        (("--runner", "FlinkRunner"), "needs --flink-job-endpoint HOST:PORT"),
        (("--flink-parallelism", "1"), "--flink-parallelism"),
        (("--prism", "/nowhere/prism"), "there is no Prism at /nowhere/prism"),
        (("--flsh-every", "1m"), "Did you mean --flush-every"),
        (("--window", "7m"), "does not divide a day"),
        (("--dimensions", "colour"), "choose from campaign_id"),
        (("--mapping", "none.toml"), "none.toml"),
        (("--output", "out[1]"), "take for a pattern"),
        (("--elasticsearch", "localhost"), "https://HOST:9200"),
    ],
)
def test_wrong_usage_is_refused_with_the_remedy(
    tmp_path: Path, prism: str, arguments: tuple[str, ...], words: str
) -> None:
    base = ("--source", "kinesis://events", "--prism", prism, "--output", str(tmp_path / "out"))
    result = adtally(*base, *arguments)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["--source", "--output"])
def test_what_is_needed_is_asked_for(tmp_path: Path, missing: str) -> None:
    given = {"--source": "kinesis://events", "--output": str(tmp_path / "out")}
    del given[missing]
    result = adtally(*[word for pair in given.items() for word in pair])
    assert result.exit_code == 2
    assert f"Missing option '{missing}'" in result.output


def test_settings_of_an_output_are_held_against_a_stream_before_it_starts(
    tmp_path: Path, prism: str
) -> None:
    prepare(StreamRequest(reading("events"), str(tmp_path), Settings()))
    base = ("--source", "kinesis://events", "--prism", prism, "--output", str(tmp_path))
    result = adtally(*base, "--allowed-lateness", "2h")
    assert result.exit_code == 2
    assert "allowed_lateness_seconds 3600, now 7200" in result.output


# Staying with it.


class Ending:
    """A job that does something when its state is asked for, and has ended at the next time."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act
        self.asked = 0
        self.waited = False

    @property
    def state(self) -> str:
        self.asked += 1
        if self.asked == 1:
            self.act()
            return PipelineState.RUNNING
        return PipelineState.DONE

    def wait_until_finish(self) -> None:
        self.waited = True


def test_an_end_is_waited_for_and_signals_are_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    job = Ending(lambda: None)
    attend(job, quiet=True)
    assert job.waited
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_to_end_is_an_interrupt_and_signals_are_as_before() -> None:
    held = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        job = Ending(functools.partial(os.kill, os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            attend(job, quiet=True)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert not job.waited
    finally:
        signal.signal(signal.SIGTERM, held)


def test_the_line_of_a_running_stream_has_every_count_and_no_other() -> None:
    told = line({"events": 12, "events_late": 3, "windows": 9})
    pairs = dict(pair.split("=") for pair in told.split(" "))
    assert (pairs["events"], pairs["events_late"], pairs["records_dead"]) == ("12", "3", "0")
    assert "windows" not in pairs


def test_alerts_are_of_what_is_read_from_its_first_event_on() -> None:
    read = ReadFromKinesis(KinesisConfig("events"), start_ms=ARRIVED // MINUTE * MINUTE)
    spec = told_from(AlertSpec(), (read, replace(read, start_ms=5)), Settings())
    noon = ARRIVED // HOUR * HOUR
    assert (spec.from_ms, spec.look_back_from_ms) == (noon, noon + HOUR)
    spec = told_from(AlertSpec(), (replace(read, start_ms=noon + 1),), Settings())
    assert (spec.from_ms, spec.look_back_from_ms) == (noon + 1, noon + 2 * HOUR)
    oldest = replace(read, start_ms=TRIM_HORIZON)
    assert told_from(AlertSpec(), (oldest,), Settings()) == AlertSpec()


@pytest.mark.parametrize(
    ("begin", "end", "rollups", "warned"),
    [
        (0, HOUR, (), []),
        (0, MINUTE, (), ["--to"]),
        (MINUTE, 2 * MINUTE, (), ["--from", "--to"]),
        (0, HOUR, (86_400,), ["--to"]),
    ],
)
def test_a_range_that_cuts_longer_windows_is_told(
    begin: int,
    end: int,
    rollups: tuple[int, ...],
    warned: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(rollup_seconds=rollups)
    assert whole_range(begin, end, settings) == ((begin, end),)
    assert [record.getMessage().split()[0] for record in caplog.records] == warned
    near = replace(settings, ruleset=NEAR, rollup_seconds=())
    caplog.clear()
    whole_range(begin, end, near)
    assert not caplog.records
