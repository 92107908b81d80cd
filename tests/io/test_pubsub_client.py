"""Calls of a real Pub/Sub server; what only Google's own tells, from a server that tells it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.pubsub_v1 import types
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from adtally.io.pubsub_client import (
    PubSub,
    PubSubConfig,
    SubscriptionUnfit,
    connect,
    is_passing,
)
from adtally.runners.local.pubsub_server import PubSubServer
from tests import topics


def test_what_is_pulled_is_what_was_published(pubsub_server: PubSubServer) -> None:
    place = topics.place(pubsub_server, "client-pull")
    before = round(time.time() * 1000)
    place.put([b"one", b"two\n", b"\xff\x00"], {"id": "a"})
    pubsub = place.open()
    messages = topics.drained(pubsub)
    assert sorted(one.data for one in messages) == [b"one", b"two\n", b"\xff\x00"]
    assert {one.attributes["id"] for one in messages} == {"a"}
    assert all(before <= one.published_ms <= time.time() * 1000 for one in messages)
    assert len({one.id for one in messages}) == 3
    assert pubsub.pull(10) == [], "it answers at once where nothing waits"


def test_leases_and_acknowledgements(pubsub_server: PubSubServer) -> None:
    place = topics.place(pubsub_server, "client-ack")
    place.put([b"%d" % number for number in range(2_500)])
    pubsub = place.open()
    messages = topics.drained(pubsub)
    assert len(messages) == 2_500
    assert pubsub.acknowledge([one.ack_id for one in messages[:2_000]]) == 0
    pubsub.extend([one.ack_id for one in messages], 0)
    again = topics.drained(pubsub)
    assert {one.id for one in again} == {one.id for one in messages[2_000:]}


def test_a_seek_brings_back_what_was_acknowledged_and_drops_what_is_older(
    pubsub_server: PubSubServer,
) -> None:
    place = topics.place(pubsub_server, "client-seek")
    other = topics.place(pubsub_server, "client-seek-other")
    other.put([b"of another topic"])
    place.put([b"old"])
    pubsub = place.open()
    (old,) = topics.drained(pubsub)
    middle = old.published_ms + 1
    while time.time() * 1000 < middle + 5:
        time.sleep(0.001)
    place.put([b"new"])
    (new,) = topics.drained(pubsub)
    pubsub.acknowledge([new.ack_id])
    pubsub.seek(middle)
    (again,) = topics.drained(pubsub)
    assert (again.id, again.data) == (new.id, b"new")
    pubsub.seek(1)
    assert {one.data for one in topics.drained(pubsub)} == {b"old", b"new"}


def test_the_oldest_that_waits_is_told_and_still_waits(pubsub_server: PubSubServer) -> None:
    place = topics.place(pubsub_server, "client-oldest")
    pubsub = place.open()
    assert pubsub.oldest_waiting_ms() is None
    place.put([b"first"])
    (first,) = topics.drained(pubsub)
    pubsub.extend([first.ack_id], 0)
    place.put([b"later"] * 20)
    assert pubsub.oldest_waiting_ms() == first.published_ms
    assert len(topics.drained(pubsub)) == 21


def test_details_say_how_far_back_a_seek_reaches(pubsub_server: PubSubServer) -> None:
    place = topics.place(pubsub_server, "client-details")
    details = place.open().details()
    assert details.topic == place.topic.name
    assert details.replays_ms == 7 * 86_400_000
    assert not details.ordered
    bare = topics.bare_subscription(place, "client-bare", enable_message_ordering=True)
    told = PubSub(bare, connect(bare)).details()
    assert told.replays_ms == 0
    assert told.ordered


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"push_config": {"push_endpoint": "http://127.0.0.1:1/"}}, "push_config"),
        ({"bigquery_config": {"table": "p.d.t"}}, "bigquery_config"),
    ],
)
def test_subscriptions_that_cannot_be_pulled_from_are_refused(
    pubsub_server: PubSubServer, settings: dict[str, Any], said: str
) -> None:
    place = topics.place(pubsub_server, f"client-{said.replace('_', '-')}")
    bare = topics.bare_subscription(place, f"{place.name}-bare", **settings)
    with pytest.raises(SubscriptionUnfit, match=said):
        PubSub(bare, connect(bare)).details()


def test_a_subscription_that_is_not_there(pubsub_server: PubSubServer) -> None:
    config = PubSubConfig("projects/local-project/subscriptions/none", "", pubsub_server.host)
    with pytest.raises(SubscriptionUnfit, match="subscriptions/none cannot be read at 127"):
        PubSub(config, connect(config)).details()


@pytest.mark.parametrize("name", ["clicks", "projects/p/topics/t", "projects/p/subscriptions/"])
def test_names_that_are_no_subscription(name: str) -> None:
    with pytest.raises(ValueError, match="projects/PROJECT/subscriptions/NAME"):
        PubSubConfig(name)


def test_nobody_listening_is_something_that_passes() -> None:
    config = PubSubConfig("projects/p/subscriptions/s", "", "127.0.0.1:1")
    with pytest.raises(exceptions.GoogleAPICallError) as told:
        PubSub(config, connect(config)).pull(1)
    assert is_passing(told.value)


def test_silence_is_something_that_passes() -> None:
    server = PubSubServer()
    with server:
        place = topics.place(server, "silence")
        pubsub = place.open()
        assert pubsub.pull(1) == []
        server.pause()
        with pytest.raises(exceptions.GoogleAPICallError) as told:
            pubsub.pull(1, timeout_seconds=0.5)
        assert is_passing(told.value)
        server.resume()
        place.put([b"x"])
        assert topics.drained(pubsub)


class _ExactlyOnce:
    """Answers acknowledgements as Google documents it for exactly-once subscriptions."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def acknowledge(self, request: Any, context: grpc.ServicerContext) -> Any:
        ids = list(types.AcknowledgeRequest.deserialize(request).ack_ids)
        self.calls.append(sorted(ids))  # failures are told in no order
        told = {one: f"PERMANENT_FAILURE_{one}" for one in ids if one.startswith("expired")}
        if len(self.calls) == 1:
            told |= {one: "TRANSIENT_FAILURE_X" for one in ids if one.startswith("soon")}
        told |= {one: "TRANSIENT_FAILURE_X" for one in ids if one.startswith("never")}
        if told:
            info = error_details_pb2.ErrorInfo(reason="X", domain="x", metadata=told)
            status = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message="some failed")
            status.details.add().Pack(info)
            context.abort_with_status(rpc_status.to_status(status))
        return b""


@pytest.fixture
def exactly_once() -> Iterator[tuple[_ExactlyOnce, PubSub]]:
    servicer = _ExactlyOnce()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.method_handlers_generic_handler(
        "google.pubsub.v1.Subscriber",
        {"Acknowledge": grpc.unary_unary_rpc_method_handler(servicer.acknowledge)},
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    config = PubSubConfig("projects/p/subscriptions/s", "", f"127.0.0.1:{port}")
    yield servicer, PubSub(config, connect(config))
    server.stop(None).wait()


def test_acknowledgements_that_fail_are_made_again_or_counted(
    exactly_once: tuple[_ExactlyOnce, PubSub],
) -> None:
    servicer, pubsub = exactly_once
    assert pubsub.acknowledge(["a", "b"]) == 0
    assert servicer.calls == [["a", "b"]]
    servicer.calls.clear()
    assert pubsub.acknowledge(["a", "expired1", "soon1", "soon2"]) == 1
    assert servicer.calls == [["a", "expired1", "soon1", "soon2"], ["soon1", "soon2"]]
    servicer.calls.clear()
    assert pubsub.acknowledge(["a", "never1", "expired1"]) == 2
    assert servicer.calls == [["a", "expired1", "never1"], ["never1"], ["never1"]]
