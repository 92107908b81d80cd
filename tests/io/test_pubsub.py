"""The Pub/Sub source without a runner: what it gives, tracks, and expands to; what is published."""

from __future__ import annotations

import datetime
from typing import Any

import apache_beam as beam
import msgspec
import pyarrow as pa
import pytest
import xxhash
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.portability import common_urns
from apache_beam.utils.timestamp import Timestamp

from adtally.io.alerts import AlertSinkError
from adtally.io.dead_letters import DeadLetter, LetterBatch
from adtally.io.pubsub import SLACK_MS, PubSubBatch, ReadFromPubSub, _Collect, _Pull, _Source
from adtally.io.pubsub_chunks import to_chunk
from adtally.io.pubsub_client import (
    Message,
    PubSubConfig,
    PubSubError,
    connect,
    connect_publisher,
)
from adtally.io.pubsub_leases import HOLD_SECONDS, LEASE_SECONDS
from adtally.io.pubsub_publisher import LONGEST_MESSAGE, Topic, publish, publish_lines
from adtally.io.pubsub_readers import Reader, ReaderCoder, ReaderTracker
from adtally.io.pubsub_sinks import PublishDeadLetters, PubSubAlerts
from adtally.io.read_logs import Segment
from adtally.runners.direct import run_bounded
from adtally.runners.local.pubsub_server import PubSubServer
from adtally.transforms.decode import decode
from adtally.transforms.mapping import parse_mapping
from tests import topics

TOPIC = "projects/some-project/topics/clicks"
CONFIG = PubSubConfig("projects/some-project/subscriptions/clicks", TOPIC)


def message(number: int, data: bytes = b"{}", **attributes: str) -> Message:
    return Message(f"ack{number}", f"m{number}", 1_000 + number, data, attributes)


def test_attributes_are_put_in_once_where_a_record_has_a_carriage_return() -> None:
    record = b'{"a":\r{"b":1}}'
    chunk = to_chunk(PubSubBatch(TOPIC, [message(1, record + b"\n{}", x="y")]), "", "about")
    assert chunk.data == b'{"about":{"x":"y"},"a":\r{"b":1}}\n{"about":{"x":"y"}}\n'
    assert [segment.source_offset for segment in chunk.segments] == [0, len(record) + 1]


def test_an_address_tells_the_message_and_not_the_delivery() -> None:
    batch = PubSubBatch(TOPIC, [message(1, b'{"a":1}'), message(2, b"x\ny\n")])
    chunk = to_chunk(batch)
    assert chunk.data == b'{"a":1}\nx\ny\n'
    assert chunk.segments == [
        Segment(0, f"pubsub://{TOPIC}/m1", 0, 1_001),
        Segment(8, f"pubsub://{TOPIC}/m2", 0, 1_002),
    ]
    assert (chunk.block, chunk.watermark_ms) == ("clicks-0", None)
    later = to_chunk(PubSubBatch(TOPIC, [message(1)], "s-3", 5_000))
    assert (later.block, later.watermark_ms) == ("clicks-s-3", 5_000)


def test_an_attribute_can_tell_messages_that_were_published_twice() -> None:
    messages = [message(1, b"x", id="k"), message(2, b"x", id="k"), message(3), message(4, id="")]
    messages.append(message(5, b"y", id="k"))
    batch = PubSubBatch(TOPIC, messages)
    sources = [segment.source for segment in to_chunk(batch, "id").segments]
    first, second, *others = (source.removeprefix(f"pubsub://{TOPIC}/") for source in sources)
    assert first == second == f"id=k/{xxhash.xxh3_128_hexdigest(b'x')}"
    assert others[:2] == ["m3", "m4"], "those that lack it are known by their own id"
    assert others[2].startswith("id=k/") and others[2] != first, "it says something else"


def test_attributes_are_put_into_records_for_mappings() -> None:
    lines = b'{"a": 1}\n {}\n[1]\n\n{broken\n'
    chunk = to_chunk(PubSubBatch(TOPIC, [message(1, lines, b="x", a='"')]), "", "about")
    about = b'{"about":{"a":"\\"","b":"x"}'
    assert chunk.data.split(b"\n") == [
        about + b',"a": 1}',
        about + b"}",
        b"[1]",
        b"",
        about + b",broken",
        b"",
    ]
    again = to_chunk(PubSubBatch(TOPIC, [message(2, lines, a='"', b="x")]), "", "about")
    assert again.data == chunk.data, "whatever the order of attributes"
    offsets = [segment.source_offset for segment in chunk.segments]
    assert offsets == [0, 9, 13, 17, 18], "as published: an address does not depend on attributes"
    other = to_chunk(PubSubBatch(TOPIC, [message(1, lines, c="longer")]), "", "about")
    assert [segment.source_offset for segment in other.segments] == offsets


def test_a_mapping_takes_the_time_from_an_attribute_and_bad_ones_are_dead_letters() -> None:
    mapping = parse_mapping(
        """
        [fields]
        event_type = "event_type"
        advertiser_id = "advertiser_id"
        [fields.occurred_at]
        from = "about"
        path = "$.at"
        time_format = "epoch_ms"
        """
    )
    line = b'{"event_type":"click","advertiser_id":"a"}'
    messages = [
        Message("", at, 1_772_323_201_000, line, {"at": at}) for at in ("1772323200123", "soon")
    ]
    decoded = decode(to_chunk(PubSubBatch(TOPIC, messages), "", "about"), mapping, now_ms=10**13)
    assert decoded.events["occurred_at"].cast(pa.int64()).to_pylist() == [1_772_323_200_123]
    assert [one.error_type for one in decoded.dead_letters] == ["invalid_timestamp"]


def test_a_reader_is_checkpointed_between_pulls_and_has_no_end() -> None:
    tracker = ReaderTracker(Reader(3))
    assert not tracker.is_bounded()
    assert tracker.try_split(0.5) is None, "there is nothing to divide"
    assert tracker.try_claim(tracker.current_restriction().next("call"))
    with pytest.raises(ValueError, match="reader 3 was not handed back"):
        tracker.check_done()
    done, rest = tracker.try_split(0) or pytest.fail("no checkpoint")
    assert (rest.number, rest.call, rest.turns, rest.ended) == (3, "call", 1, False)
    assert done.ended
    tracker.check_done()
    assert not tracker.try_claim(rest.next("other")), "nothing is handed on after a checkpoint"
    assert tracker.try_split(0) is None


def test_readers_survive_their_coder_and_fields_that_later_versions_add() -> None:
    coder = ReaderCoder()
    reader = Reader(2, "call", 7)
    assert coder.decode(coder.encode(reader)) == reader
    later = msgspec.json.encode({"number": 2, "call": "call", "turns": 7, "new": 1})
    assert coder.decode(later) == reader


def test_the_source_splits_into_readers_once() -> None:
    pull = _Pull(_Source(CONFIG, "run", 3, 0, connect))
    readers = list(pull.split("s", pull.initial_restriction("s")))
    assert [reader.number for reader in readers] == [0, 1, 2]
    assert list(pull.split("s", readers[1])) == [readers[1]]


def test_a_batch_carries_the_watermark_that_its_messages_met() -> None:
    pull = _Pull(_Source(CONFIG, "run", 1, 0, connect))
    old, new = Message("", "old", 9_999_999, b"", {}), Message("", "new", 10_000_000, b"", {})
    batch = pull._batch(2, [new, old], Timestamp(micros=123_456_789))
    assert batch.timestamp == Timestamp(micros=9_999_999_000)
    assert batch.value.watermark_ms == 123_456
    assert batch.value.reader.endswith("-2")
    other = PubSubConfig("projects/other-project/subscriptions/clicks", TOPIC)
    elsewhere = _Pull(_Source(other, "run", 1, 0, connect))._batch(2, [new], None)
    assert elsewhere.value.reader != batch.value.reader, "readers of two regions are told apart"
    assert pull._batch(2, [new], None).value.watermark_ms is None


def test_windows_are_kept_for_what_is_held_the_longest() -> None:
    assert (HOLD_SECONDS + LEASE_SECONDS) * 1000 + 120_000 <= SLACK_MS


def test_a_lag_below_a_second_is_refused() -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        ReadFromPubSub(CONFIG, watermark_lag_seconds=0.5)


def test_on_dataflow_the_service_reads_and_elsewhere_it_does_not() -> None:
    def urns(service: bool) -> set[str]:
        pipeline = beam.Pipeline()
        pipeline | "Read" >> ReadFromPubSub(CONFIG, service=service)
        proto = pipeline.to_runner_api()
        return {one.spec.urn for one in proto.components.transforms.values()}

    read = common_urns.composites.PUBSUB_READ.urn
    assert read in urns(service=True)
    assert read not in urns(service=False)


def test_messages_that_the_service_reads_are_batched_alike() -> None:
    collect = _Collect(TOPIC)
    collect.start_bundle()
    at = datetime.datetime(2026, 3, 1, 12, 0, 0, 123_999, datetime.UTC)
    read = [
        PubsubMessage(b"x", {"id": "k"}, str(number), at + datetime.timedelta(seconds=number))
        for number in range(1_001)
    ]
    full = [batch for one in read for batch in collect.process(one)]
    rest = list(collect.finish_bundle())
    assert [len(one.value.messages) for one in (*full, *rest)] == [1_000, 1]
    first = full[0].value.messages[0]
    ms = 1_772_366_400_123  # not rounded up, as elsewhere
    assert (first.id, first.published_ms, first.data) == ("0", ms, b"x")
    assert full[0].timestamp == ms / 1000
    assert first.attributes == {"id": "k"}
    assert list(collect.finish_bundle()) == []


def test_batches_are_cut_below_the_limits_of_a_call(pubsub_server: PubSubServer) -> None:
    place = topics.place(pubsub_server, "publish-large")
    large = b"x" * 1_250_000
    with connect_publisher(place.host) as client:
        publish(client, place.topic, ((large, {}) for _ in range(4)))
    assert list(publish_lines(place.topic, (b"%d" % n for n in range(2_500)))) == [
        1_000,
        2_000,
        2_500,
    ]
    assert len(topics.drained(place.open())) == 2_504
    with connect_publisher(place.host) as client, pytest.raises(PubSubError, match="longer than"):
        publish(client, place.topic, [(b"x" * (LONGEST_MESSAGE + 1), {})])


def test_a_topic_that_is_not_there(pubsub_server: PubSubServer) -> None:
    topic = Topic("projects/local-project/topics/none", pubsub_server.host)
    with pytest.raises(PubSubError, match="nothing can be sent to projects/local-project/topics"):
        topic.check()
    with pytest.raises(AlertSinkError, match="--alerts: nothing can be sent"):
        PubSubAlerts(topic).check()
    with connect_publisher(topic.endpoint) as client, pytest.raises(PubSubError, match="takes no"):
        publish(client, topic, [(b"x", {})])


@pytest.mark.parametrize("name", ["t", "projects/p/subscriptions/s", "projects/p/topics/"])
def test_names_that_are_no_topic(name: str) -> None:
    with pytest.raises(ValueError, match="projects/PROJECT/topics/NAME"):
        Topic(name)


def test_alerts_are_messages_with_their_advertiser(pubsub_server: PubSubServer) -> None:
    place = topics.place(pubsub_server, "alerts")
    sink = PubSubAlerts(place.topic)
    sink.check()
    writer = sink.open()
    writer.write([("acme", b'{"id":"1"}'), ("", b'{"id":"2"}')])
    writer.write([])
    writer.close()
    found = {(one.data, one.attributes["advertiser_id"]) for one in topics.drained(place.open())}
    assert found == {(b'{"id":"1"}', "acme"), (b'{"id":"2"}', "")}


def test_dead_letters_are_messages_that_say_what_their_lines_say(
    pubsub_server: PubSubServer,
) -> None:
    place = topics.place(pubsub_server, "letters")
    letters = [
        DeadLetter.of(
            failed_at=1_000,
            stage="decode",
            error_type="invalid_json",
            message="it is none",
            source="s",
            position=str(number),
            payload=payload,
        )
        for number, payload in enumerate([b"{", b"\xff", b'"' * LONGEST_MESSAGE])
    ]

    def wire(pipeline: beam.Pipeline) -> None:
        batches: Any = pipeline | beam.Create([LetterBatch("b", 0, letters)])
        batches | PublishDeadLetters(place.topic)

    counts = run_bounded(wire, "DirectRunner", [])
    assert (counts["dead_letters_published"], counts["dead_letters_too_long"]) == (2, 1)
    found = topics.drained(place.open())
    assert {one.attributes["error_type"] for one in found} == {"invalid_json"}
    assert {one.attributes["stage"] for one in found} == {"decode"}
    lines = sorted((msgspec.json.decode(one.data) for one in found), key=lambda x: x["position"])
    assert [(one["payload"], one["payload_encoding"]) for one in lines] == [
        ("{", "utf-8"),
        ("/w==", "base64"),
    ]
    assert lines[0]["failed_at"] == "1970-01-01T00:00:01Z"
