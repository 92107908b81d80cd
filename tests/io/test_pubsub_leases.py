"""What is on its way: when it is acknowledged, and when it is given back; on a real server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.api_core import exceptions

from adtally.io.pubsub_client import Message, PubSub, connect
from adtally.io.pubsub_leases import (
    ALIVE_SECONDS,
    FORGET_SECONDS,
    HOLD_SECONDS,
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
        self.last_calls: dict[int, str] = {}

    def bundle(self, messages: int = 1, reader: int = 0) -> Bundle:
        """A whole call of a reader that goes on from its last one."""
        bundle = self.leases.begin(reader, self.last_calls.get(reader, ""))
        some, self.left = self.left[:messages], self.left[messages:]
        self.leases.hold(reader, bundle, some)
        self.leases.ended(reader)
        self.last_calls[reader] = bundle.call
        return bundle

    def restored(self, call: str, reader: int = 0) -> None:
        """The runner goes on from the state that it had after a call."""
        self.last_calls[reader] = call

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
    """Flink finalizes some that are in no checkpoint, and their words must not count then."""
    kept = case.bundle()
    lost = case.bundle(2)
    for bundle in (kept, lost):
        case.leases.finalized(0, bundle.number)
    case.restored(kept.call)
    first = case.bundle()
    assert case.leases.counts()["pubsub_given_back"] == 3, "nobody vouches for them any more"
    case.leases.finalized(0, first.number)
    second = case.bundle()
    case.leases.finalized(0, second.number)
    case.leases.finalized(0, lost.number)  # a word that comes late
    assert case.acknowledged() == 1
    again = topics.drained(case.pubsub)
    assert len(again) == 3
    assert set(lost.ack_ids).isdisjoint(one.ack_id for one in again), "another delivery each"


def test_a_call_that_claimed_nothing_is_no_break(case: Case) -> None:
    first = case.bundle()
    case.leases.finalized(0, first.number)
    case.leases.begin(0, first.call)  # the runner took its checkpoint before the first pull
    case.leases.ended(0)
    second = case.bundle()
    case.leases.finalized(0, second.number)
    assert case.acknowledged() == 1


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


def test_a_reader_that_works_for_long_is_not_gone(case: Case) -> None:
    bundle = case.leases.begin(0, "")
    case.leases.hold(0, bundle, case.left[:2])
    case.clock.now += HOLD_SECONDS - 1  # of backpressure
    case.leases.keep()
    assert case.leases.outstanding == 2
    case.leases.ended(0)
    case.clock.now += 1
    case.leases.keep()
    assert case.leases.outstanding == 2


def test_what_is_held_for_too_long_comes_again_and_can_still_be_acknowledged(case: Case) -> None:
    first = case.bundle(2)
    case.clock.now += HOLD_SECONDS + 1
    case.bundle(0)  # the reader lives
    case.leases.keep()
    assert case.leases.outstanding == 0
    assert len(topics.drained(case.pubsub)) == 2
    case.leases.finalized(0, first.number)
    last = case.bundle(0)
    case.leases.finalized(0, last.number)
    assert case.acknowledged() == 2


def test_what_nobody_speaks_of_is_forgotten(case: Case) -> None:
    first = case.bundle(2)
    case.clock.now += FORGET_SECONDS + 1
    case.leases.keep()
    case.leases.finalized(0, first.number)
    last = case.bundle(0)
    case.leases.finalized(0, last.number)
    assert case.acknowledged() == 0


def test_an_outage_harms_neither_the_reader_nor_the_leases(case: Case) -> None:
    first = case.bundle(2)
    case.leases.finalized(0, first.number)
    closed = replace(case.place.config, endpoint="127.0.0.1:1")
    reached = case.leases._pubsub
    case.leases._pubsub = PubSub(closed, connect(closed), call_seconds=0.2)
    case.leases.keep()
    second = case.bundle(1)
    case.leases.finalized(0, second.number)
    case.leases._pubsub = reached
    counts = case.leases.counts()
    assert (counts["pubsub_retries"], counts["pubsub_acks_failed"]) == (2, 2)


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


def idle(recent: Recent, clock: Clock, seconds: float) -> int | None:
    """Pulls that give nothing, each second; what is settled after them."""
    for _ in range(int(seconds)):
        recent.saw([])
        clock.now += 1
    return recent.settled_ms(99_000)


def test_an_idle_subscription_is_read_up_to_now() -> None:
    clock = Clock()
    recent = Recent(clock)
    assert idle(recent, clock, Recent.IDLE_SECONDS) is None
    assert idle(recent, clock, 1) == 99_000
    recent.unknown()  # an outage is not idleness, nor is a pull that was left out
    clock.now += 60
    assert recent.settled_ms(99_000) is None
    assert idle(recent, clock, Recent.IDLE_SECONDS) is None
    assert idle(recent, clock, 1) == 99_000


def test_a_pause_between_two_pulls_tells_nothing() -> None:
    clock = Clock()
    recent = Recent(clock)
    assert idle(recent, clock, 20) == 99_000
    clock.now += 1_200  # backpressure
    assert recent.settled_ms(99_000) is None
    recent.saw([])
    assert recent.settled_ms(99_000) is None


def test_after_a_seek_nothing_is_idle_until_it_may_have_taken_effect() -> None:
    clock = Clock()
    recent = Recent(clock, first_idle_seconds=180)
    assert idle(recent, clock, 180) is None
    assert idle(recent, clock, 1) == 99_000
    recent = Recent(clock, first_idle_seconds=180)
    recent.saw([message(50_000)])
    clock.now += Recent.WINDOW_SECONDS + 1
    assert idle(recent, clock, 17) == 99_000, "it has, as a message came"
