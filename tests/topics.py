"""Topics and subscriptions of a real Pub/Sub server, for tests."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adtally.io.pubsub_client import Message, PubSub, PubSubConfig, connect, connect_publisher
from adtally.io.pubsub_publisher import Topic, publish
from adtally.runners.local.pubsub_server import PROJECT, PubSubServer, make_subscription


@dataclass(frozen=True)
class Place:
    """A topic and a subscription of it, both of one name.

    Tests share a server: a name that another has taken would bring its messages.
    """

    host: str
    name: str

    @property
    def topic(self) -> Topic:
        return Topic(f"projects/{PROJECT}/topics/{self.name}", self.host)

    @property
    def config(self) -> PubSubConfig:
        return PubSubConfig(
            f"projects/{PROJECT}/subscriptions/{self.name}", self.topic.name, self.host
        )

    @property
    def source(self) -> tuple[str, ...]:
        """Options of ``adtally stream``."""
        address = f"pubsub://{self.config.subscription}"
        return ("--source", address, "--pubsub-endpoint", self.host)

    def open(self) -> PubSub:
        return PubSub(self.config, connect(self.config))

    def put(self, lines: Sequence[bytes], attributes: dict[str, str] | None = None) -> None:
        with connect_publisher(self.host) as client:
            publish(client, self.topic, ((line, attributes or {}) for line in lines))


def place(server: PubSubServer, name: str) -> Place:
    """A new topic, with a subscription that retains what was acknowledged."""
    make_subscription(server.host, name, name)
    return Place(server.host, name)


def bare_subscription(place: Place, name: str, **settings: Any) -> PubSubConfig:
    """Another subscription of a topic, as Google makes them when nothing is said."""
    config = PubSubConfig(f"projects/{PROJECT}/subscriptions/{name}", "", place.host)
    with connect(config) as client:
        client.create_subscription(
            request={"name": config.subscription, "topic": place.topic.name, **settings}
        )
    return config


def drained(pubsub: PubSub) -> list[Message]:
    """All that waits, not acknowledged."""
    found: list[Message] = []
    while messages := pubsub.pull(1_000):
        found += messages
    return found


def days(number: float) -> datetime.timedelta:
    return datetime.timedelta(days=number)
