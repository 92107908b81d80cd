"""Messages to a Pub/Sub topic: logs, to try a stream with those that there are, alerts, letters."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.api_core import exceptions, retry

from adtally.io.pubsub_client import PubSubError, connect_publisher, is_passing

MESSAGES_A_CALL: Final = 1_000
BYTES_A_CALL: Final = 8 << 20
"""A call of Publish takes 1,000 messages and 10 MB."""

LONGEST_MESSAGE: Final = 8 << 20
GIVE_UP_SECONDS: Final = 300.0
_NAME: Final = re.compile(r"projects/[^/]+/topics/[^/]+")
_OVERHEAD: Final = 64

Outgoing = tuple[bytes, dict[str, str]]
"""Data and attributes of a message."""


@dataclass(frozen=True)
class Topic:
    """A topic to write to. Holds no secret: credentials are the application default ones.

    Attributes:
        name: ``projects/PROJECT/topics/NAME``.
        endpoint: HOST:PORT of an emulator; empty for the service itself.
    """

    name: str
    endpoint: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"topic {self.name!r} is none; write pubsub://projects/PROJECT/topics/NAME."
            )

    def check(self) -> None:
        """Make sure that it is there; needs pubsub.topics.get (role pubsub.viewer).

        Raises:
            PubSubError: it is not, or cannot be reached.
        """
        with connect_publisher(self.endpoint) as client:
            try:
                client.get_topic(request={"topic": self.name}, timeout=30.0)
            except exceptions.GoogleAPIError as error:
                raise PubSubError(
                    f"nothing can be sent to {self.name} at {self.endpoint or 'Google Cloud'}: "
                    f"{error}. Create it, or correct its name, or grant pubsub.publisher and "
                    f"pubsub.viewer on it."
                ) from error


def publish(client: Any, topic: Topic, messages: Iterable[Outgoing]) -> None:
    """Publish messages, all of them before it returns.

    A call that gets no answer is made again, so a message can arrive twice, as two messages.

    Raises:
        PubSubError: a message is too long, Pub/Sub refuses for good, or it is away for longer than
            ``GIVE_UP_SECONDS``.
    """
    for batch in _batches(messages, MESSAGES_A_CALL):
        _publish(client, topic, batch)


def publish_lines(
    topic: Topic, lines: Iterable[bytes], messages_a_second: float = 0
) -> Iterator[int]:
    """Publish every line as a message of its own; gives the count after each call.

    Args:
        topic: where to.
        lines: none of them blank.
        messages_a_second: the pace; 0 for as fast as Pub/Sub takes them.

    Raises:
        PubSubError: as :func:`publish`.
    """
    begun, count = time.monotonic(), 0
    most = max(1, min(MESSAGES_A_CALL, round(messages_a_second / 5) or MESSAGES_A_CALL))
    with connect_publisher(topic.endpoint) as client:
        for batch in _batches(((line, {}) for line in lines), most):
            if messages_a_second:
                time.sleep(max(0.0, begun + count / messages_a_second - time.monotonic()))
            _publish(client, topic, batch)
            count += len(batch)
            yield count


def _batches(messages: Iterable[Outgoing], most: int) -> Iterator[list[Outgoing]]:
    batch: list[Outgoing] = []
    size = 0
    for data, attributes in messages:
        if len(data) > LONGEST_MESSAGE:
            raise PubSubError(
                f"a message of {len(data):,} bytes is longer than the {LONGEST_MESSAGE:,} that are "
                f"sent; nothing of its batch was. Shorten or leave out that record."
            )
        bytes_now = len(data) + _OVERHEAD + sum(len(k) + len(v) for k, v in attributes.items())
        if batch and (len(batch) == most or size + bytes_now > BYTES_A_CALL):
            yield batch
            batch, size = [], 0
        batch.append((data, attributes))
        size += bytes_now
    if batch:
        yield batch


def _publish(client: Any, topic: Topic, batch: list[Outgoing]) -> None:
    messages = [{"data": data, "attributes": attributes} for data, attributes in batch]
    again = retry.Retry(predicate=is_passing, initial=0.2, maximum=10.0, timeout=GIVE_UP_SECONDS)
    try:
        client.publish(
            request={"topic": topic.name, "messages": messages}, retry=again, timeout=60.0
        )
    except exceptions.GoogleAPIError as error:
        raise PubSubError(f"{topic.name} takes no messages: {error}") from error
