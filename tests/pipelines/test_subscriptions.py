"""Where reading a subscription begins: first, again, and when asked for; on a real server."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adtally.io.kinesis_shards import TRIM_HORIZON
from adtally.io.manifest import read_manifest, write_manifest
from adtally.io.pubsub import SLACK_MS, ReadFromPubSub
from adtally.pipelines import subscriptions
from adtally.pipelines.cli import cli
from adtally.pipelines.job import ConfigError, Settings
from adtally.pipelines.stream import StreamRequest, prepare
from adtally.pipelines.stream_cli import stream_request
from adtally.runners.local.pubsub_server import PROJECT, PubSubServer
from tests import topics

HOUR_MS = 3_600_000
SOURCE = f"pubsub://projects/{PROJECT}/subscriptions/s"
NOW_MS = 1_900_000_000_000


def settled(read: ReadFromPubSub, output: Path, **changes: Any) -> ReadFromPubSub:
    given = {
        "explicit": False,
        "resume": True,
        "resumed_ms": None,
        "needed_ms": 4 * HOUR_MS,
        "stateless": True,
        "tolerant": False,
        "now_ms": NOW_MS,
    }
    return subscriptions.settled(read, str(output), **{**given, **changes})


def test_a_first_start_takes_what_waits_and_learns_the_topic(
    tmp_path: Path, pubsub_server: PubSubServer
) -> None:
    place = topics.place(pubsub_server, "begin-first")
    read = settled(ReadFromPubSub(replace(place.config, topic="")), tmp_path)
    assert read.start_ms == TRIM_HORIZON
    assert read.config.topic == place.topic.name


def test_a_start_again_goes_back_but_never_past_what_waits(
    tmp_path: Path, pubsub_server: PubSubServer
) -> None:
    place = topics.place(pubsub_server, "begin-again")
    read = ReadFromPubSub(place.config)
    back_ms = NOW_MS - 6 * HOUR_MS
    assert settled(read, tmp_path, resumed_ms=back_ms).start_ms == back_ms
    place.put([b"waits"])
    (waits,) = topics.drained(place.open())
    place.open().extend([waits.ack_id], 0)
    assert waits.published_ms < back_ms, "of this year; the other moment is years ahead"
    again = settled(read, tmp_path, resumed_ms=back_ms)
    assert again.start_ms == waits.published_ms, "a seek beyond would drop it"


def test_a_start_with_state_goes_on_with_what_waits(
    tmp_path: Path, pubsub_server: PubSubServer
) -> None:
    place = topics.place(pubsub_server, "begin-state")
    write_manifest(str(tmp_path), {"pubsub_begun_ms": {place.config.subscription: 1}})
    read = ReadFromPubSub(place.config)
    assert settled(read, tmp_path, stateless=False, tolerant=True).start_ms == 1
    assert settled(read, tmp_path, resume=False).start_ms == TRIM_HORIZON


def test_what_retention_took_while_the_stream_was_down_is_told(
    tmp_path: Path, pubsub_server: PubSubServer, caplog: pytest.LogCaptureFixture
) -> None:
    place = topics.place(pubsub_server, "begin-down")
    read = ReadFromPubSub(place.config)
    gone_ms = NOW_MS - 8 * 24 * HOUR_MS  # a week is retained
    with pytest.raises(ConfigError, match="have to be read again from 2030"):
        settled(read, tmp_path, resumed_ms=gone_ms)
    with caplog.at_level(logging.WARNING):
        assert settled(read, tmp_path, resumed_ms=gone_ms, tolerant=True).start_ms == gone_ms
    assert "retains 168.0 h of acknowledged messages" in caplog.text


def test_a_run_that_wrote_nothing_is_begun_where_it_began(
    tmp_path: Path, pubsub_server: PubSubServer
) -> None:
    place = topics.place(pubsub_server, "begin-nothing")
    place.put([b"x"])
    pubsub = place.open()
    request = StreamRequest(
        (ReadFromPubSub(replace(place.config, topic="")),), str(tmp_path), Settings()
    )
    first = prepare(request)
    (x,) = topics.drained(pubsub)
    pubsub.acknowledge([x.ack_id])
    noted = (read_manifest(str(tmp_path)) or {})["pubsub_begun_ms"]
    assert noted == {place.config.subscription: x.published_ms}
    second = prepare(request)
    assert first.reads[0].start_ms == TRIM_HORIZON
    assert second.reads[0].start_ms == x.published_ms
    assert first.id != second.id
    assert [job.reads[0].run for job in (first, second)] == [first.id, second.id]
    assert read_manifest(str(tmp_path))["pubsub_begun_ms"] == noted, "of the first start alone"
    subscriptions.begin(second.reads)
    assert [one.id for one in topics.drained(pubsub)] == [x.id]


def test_what_was_asked_for_is_taken_as_it_is(tmp_path: Path, pubsub_server: PubSubServer) -> None:
    place = topics.place(pubsub_server, "begin-asked")
    place.put([b"x"])

    def start(position: str) -> int:
        given = (*place.source, "--output", str(tmp_path / "out"), "--start", position)
        params = cli.commands["stream"].make_context("stream", list(given)).params
        return prepare(stream_request(params, (), None)).reads[0].start_ms

    assert start("2026-03-01T00:00:00Z") == 1_772_323_200_000
    assert start("TRIM_HORIZON") == subscriptions.EVERYTHING_MS
    (x,) = topics.drained(place.open())
    latest = start("LATEST")
    assert latest > x.published_ms
    begun = (read_manifest(str(tmp_path / "out")) or {})["pubsub_begun_ms"]
    assert begun == {place.config.subscription: subscriptions.EVERYTHING_MS}, "the earliest"
    again = (*place.source, "--output", str(tmp_path / "out"))
    params = cli.commands["stream"].make_context("stream", list(again)).params
    assert (
        prepare(stream_request(params, (), None)).reads[0].start_ms == subscriptions.EVERYTHING_MS
    )


def test_a_subscription_that_forgets_is_refused_where_a_kill_would_lose_events(
    tmp_path: Path, pubsub_server: PubSubServer, caplog: pytest.LogCaptureFixture
) -> None:
    place = topics.place(pubsub_server, "begin-forgets")
    bare = ReadFromPubSub(topics.bare_subscription(place, "begin-bare"))
    with pytest.raises(ConfigError) as told:
        settled(bare, tmp_path)
    assert "retains 0.0 h of acknowledged messages" in str(told.value)
    assert "--retain-acked-messages --message-retention-duration=24h" in str(told.value)
    with caplog.at_level(logging.WARNING):
        assert settled(bare, tmp_path, tolerant=True).start_ms == TRIM_HORIZON
        assert settled(bare, tmp_path, stateless=False).start_ms == TRIM_HORIZON
    assert caplog.text.count("retains 0.0 h") == 2
    kept = topics.bare_subscription(
        place,
        "begin-kept",
        retain_acked_messages=True,
        message_retention_duration=topics.days(1),
    )
    settled(ReadFromPubSub(kept), tmp_path, needed_ms=23 * HOUR_MS)
    with pytest.raises(ConfigError, match=r"retains 24\.0 h"):
        settled(ReadFromPubSub(kept), tmp_path, needed_ms=25 * HOUR_MS)


def test_what_is_written_must_not_be_read(pubsub_server: PubSubServer) -> None:
    place = topics.place(pubsub_server, "begin-loop")
    reads = (ReadFromPubSub(place.config),)
    subscriptions.check_apart(reads, {"--dead-letters-to": place.topic.name + "-letters"})
    with pytest.raises(ConfigError, match=r"--dead-letters-to .* would come back as records"):
        subscriptions.check_apart(reads, {"--dead-letters-to": place.topic.name})


def test_ordering_is_warned_of(
    tmp_path: Path, pubsub_server: PubSubServer, caplog: pytest.LogCaptureFixture
) -> None:
    place = topics.place(pubsub_server, "begin-ordered")
    ordered = topics.bare_subscription(place, "begin-keys", enable_message_ordering=True)
    with caplog.at_level(logging.WARNING):
        settled(ReadFromPubSub(ordered), tmp_path, tolerant=True)
    assert "keeps the order of keys" in caplog.text


def test_windows_of_such_a_stream_are_kept_longer_and_copies_are_told_apart(
    tmp_path: Path, pubsub_server: PubSubServer
) -> None:
    place = topics.place(pubsub_server, "begin-windows")
    request = StreamRequest((ReadFromPubSub(place.config),), str(tmp_path), Settings())
    job = prepare(request)
    lateness_ms = job.windowing(60).allowed_lateness_ms
    assert lateness_ms == 3_600_000 + SLACK_MS + 120_000
    assert job.slice_spec.keep_position


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stop-at", "LATEST"), "--stop-at needs positions, which Pub/Sub has not"),
        (("--dead-letters-to", "pubsub://t"), "topic 't' is none"),
        (("--alerts", "pubsub://t"), "topic 't' is none"),
        (("--watermark-lag", "0s"), "give 1 or more"),
        (("--source", SOURCE), "is given twice"),
        (("--start", "2199-01-01"), "is still to come"),
        (
            ("--runner", "FlinkRunner", "--flink-checkpoint-every", "5m"),
            "give 200s or less, or it would be delivered over and over",
        ),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(
        cli, ["stream", "--source", SOURCE, "--output", str(tmp_path), *options]
    )
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())


def test_addresses_of_another_kind_are_told_what_to_write(tmp_path: Path) -> None:
    for source in ("kafka://x", "clicks", "pubsub://projects/p/topics/t"):
        command = ["stream", "--source", source, "--output", str(tmp_path)]
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 2, result.output
        assert "pubsub://projects/PROJECT/subscriptions/NAME" in " ".join(result.output.split())


def test_an_emulator_is_found_by_google_s_variable(
    tmp_path: Path, pubsub_server: PubSubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = topics.place(pubsub_server, "begin-variable")
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", place.host)
    given = (*place.source[:2], "--output", str(tmp_path / "out"))
    params = cli.commands["stream"].make_context("stream", list(given)).params
    (read,) = stream_request(params, (), None).reads
    assert read.config.endpoint == place.host, "workers elsewhere have no such variable"


def test_logs_are_fed_to_a_topic(tmp_path: Path, pubsub_server: PubSubServer) -> None:
    place = topics.place(pubsub_server, "fed")
    log = tmp_path / "log.jsonl"
    log.write_text('{"a": 1}\n\n{"b": 2}\n')
    command = ["feed", "--input", str(log), "--to", f"pubsub://{place.topic.name}"]
    result = CliRunner().invoke(cli, [*command, "--pubsub-endpoint", place.host])
    assert result.exit_code == 0, result.output
    assert f"2 records put into {place.topic.name}" in result.output
    assert {one.data for one in topics.drained(place.open())} == {b'{"a": 1}', b'{"b": 2}'}
