"""What is on its way: when it is acknowledged, and when it is given back; on a real server."""

from __future__ import annotations

import pytest
from google.api_core import exceptions

from adtally.io.pubsub_client import Message, PubSub
from adtally.io.pubsub_leases import (
    ALIVE_SECONDS,
    HOLD_SECONDS,
    LEASE_SECONDS,
    Bundle,
    Leases,
    Recent,
)
from adtally.runners.local.pubsub_server import PubSubServer
from tests import streams, topics


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Case:
    """A subscription with messages, pulled by one reader in bundles of one."""

    def __init__(self, server: PubSubServer, name: str, messages: int) -> None:
        self.place = topics.place(server, name)
        self.place.put([b"%d" % number for number in range(messages)])
        self.pubsub = self.place.open()
        self.clock = Clock()
        self.leases = Leases(self.pubsub, self.clock)
        self.left = topics.drained(self.pubsub)

    def bundle(self, messages: int = 1, reader: int = 0) -> Bundle:
        bundle = self.leases.begin(reader)
        some, self.left = self.left[:messages], self.left[messages:]
        self.leases.hold(bundle, some)
        return bundle

    def acknowledged(self) -> int:
        return self.leases.counts()["pubsub_acks"]


@pytest.fixture
def case(pubsub_server: PubSubServer, request: pytest.FixtureRequest) -> Case:
    name = "".join(c if c.isalnum() else "-" for c in f"leases-{request.node.name}")
    return Case(pubsub_server, name, 6)


def test_one_word_of_the_runner_is_not_enough(case: Case) -> None:
    first = case.bundle()
    case.leases.finalized(0, first.number)
    assert case.acknowledged() == 0, "Flink may have given it for a checkpoint that lacks it"
    second = case.bundle()
    case.leases.finalized(0, second.number)
    assert case.acknowledged() == 1, "the first: its bundle is in the second's checkpoint"
    assert case.leases.outstanding == 1


def test_bundles_of_one_checkpoint_do_not_vouch_for_each_other(case: Case) -> None:
    first, second, third = case.bundle(), case.bundle(), case.bundle()
    for bundle in (second, third, first):  # in any order
        case.leases.finalized(0, bundle.number)
    assert case.acknowledged() == 0
    fourth = case.bundle()
    case.leases.finalized(0, fourth.number)
    assert case.acknowledged() == 3


def test_an_idle_reader_acknowledges_too(case: Case) -> None:
    first = case.bundle()
    case.leases.finalized(0, first.number)
    empty = case.bundle(0)
    case.leases.finalized(0, empty.number)
    assert case.acknowledged() == 1


def test_readers_do_not_vouch_for_each_other(case: Case) -> None:
    first = case.bundle()
    case.leases.finalized(0, first.number)
    other = case.bundle(reader=1)
    case.leases.finalized(1, other.number)
    assert case.acknowledged() == 0


def test_bundles_that_the_runner_lost_are_delivered_again_at_once(case: Case) -> None:
    lost = case.bundle(2)
    first = case.bundle()  # after the runner went on from a checkpoint before `lost`
    case.leases.finalized(0, first.number)
    second = case.bundle()
    case.leases.finalized(0, second.number)
    counts = case.leases.counts()
    assert (counts["pubsub_acks"], counts["pubsub_given_back"]) == (1, 2)
    again = topics.drained(case.pubsub)
    assert len(again) == 2
    assert set(lost.ack_ids).isdisjoint(one.ack_id for one in again), "another delivery each"


def test_a_bundle_that_fails_is_delivered_again_at_once(case: Case) -> None:
    bundle = case.bundle(3)
    case.leases.failed(0, bundle.number)
    assert len(topics.drained(case.pubsub)) == 3
    case.leases.failed(0, bundle.number)  # told twice
    case.leases.finalized(0, bundle.number)
    assert case.acknowledged() == 0


def test_leases_of_a_reader_that_is_gone_end(case: Case) -> None:
    case.bundle(2)
    case.clock.now += ALIVE_SECONDS
    case.leases.keep()
    assert topics.drained(case.pubsub) == []
    case.clock.now += 1
    case.leases.keep()
    assert len(topics.drained(case.pubsub)) == 2
    assert case.leases.outstanding == 0


def test_nothing_is_held_for_ever(case: Case) -> None:
    case.bundle(2)
    for _ in range(int(HOLD_SECONDS / LEASE_SECONDS)):
        case.clock.now += LEASE_SECONDS
        case.leases.begin(0)  # the reader lives
        case.leases.keep()
    assert case.leases.outstanding == 2
    case.clock.now += 1
    case.leases.keep()
    assert case.leases.outstanding == 0
    assert len(topics.drained(case.pubsub)) == 2


def test_leases_are_extended_beyond_the_subscription_s_deadline(
    pubsub_server: PubSubServer,
) -> None:
    case = Case(pubsub_server, "leases-deadline", 2)  # of ten seconds
    case.bundle(1)
    (other,) = case.left
    streams.until(
        lambda: (
            bool(found := topics.drained(case.pubsub)) and [one.id for one in found] == [other.id]
        ),
        "the one that is not held comes again",
    )
    assert topics.drained(case.pubsub) == []


def test_an_acknowledgement_that_fails_is_counted_and_does_not_raise(case: Case) -> None:
    first = case.bundle(2)
    case.leases.finalized(0, first.number)
    second = case.bundle(0)
    with case.pubsub.client as client:
        client.delete_subscription(request={"subscription": case.place.config.subscription})
    case.leases._pubsub = PubSub(case.place.config, case.place.open().client)
    case.leases.finalized(0, second.number)
    counts = case.leases.counts()
    assert (counts["pubsub_acks"], counts["pubsub_acks_failed"]) == (0, 2)
    with pytest.raises(exceptions.NotFound):
        case.place.open().pull(1)


def message(published_ms: int) -> Message:
    return Message("", "", published_ms, b"", {})


def test_the_watermark_follows_the_oldest_of_late() -> None:
    clock = Clock()
    recent = Recent(clock)
    assert recent.settled_ms(99_000) is None, "nothing is known at the start"
    recent.saw([message(50_000), message(40_000)])
    clock.now += Recent.WINDOW_SECONDS - 1
    recent.saw([message(60_000)])
    assert recent.settled_ms(99_000) == 40_000
    clock.now += 2
    assert recent.settled_ms(99_000) == 60_000
    clock.now += Recent.WINDOW_SECONDS
    assert recent.settled_ms(99_000) is None, "nothing came, and nobody said that nothing waits"


def test_an_idle_subscription_is_read_up_to_now() -> None:
    clock = Clock()
    recent = Recent(clock)
    recent.saw([])
    clock.now += Recent.IDLE_SECONDS - 1
    recent.saw([])
    assert recent.settled_ms(99_000) is None
    clock.now += 2
    assert recent.settled_ms(99_000) == 99_000
    recent.failed()  # an outage is not idleness
    clock.now += 60
    assert recent.settled_ms(99_000) is None
