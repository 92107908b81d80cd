"""Pub/Sub as the source sees it: few calls, every failure sorted into what to do about it."""

from __future__ import annotations

import datetime
import logging
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.api_core import exceptions, retry
from google.rpc.error_details_pb2 import ErrorInfo

from adtally.io.endpoints import on_this_machine, refusal, warn_once

MESSAGES_A_PULL: Final = 1_000
"""What one pull may give; the service gives no more than that."""

IDS_A_CALL: Final = 1_000
"""Acknowledgement ids in one call: the service takes 512 KiB, and an id has some 200 bytes."""

CALL_SECONDS: Final = 5.0
SAMPLED_PULLS: Final = 5
_LOOK_SECONDS: Final = 0.2
_LOG = logging.getLogger(__name__)
_NAME: Final = re.compile(r"projects/[^/]+/(subscriptions|topics)/[^/]+")

PASSING: Final = (
    exceptions.ServerError,
    exceptions.TooManyRequests,
    exceptions.Aborted,
    exceptions.Cancelled,
    exceptions.RetryError,
)
"""What time mends: 5xx, deadlines and lost connections, exhausted quotas."""


class PubSubError(RuntimeError):
    """Reading or publishing cannot go on without a person; the message says what to do."""


class SubscriptionUnfit(PubSubError, ValueError):
    """The subscription is not there, or cannot be read as it is set up."""


@dataclass(frozen=True)
class PubSubConfig:
    """How to reach a subscription. Holds no secret: credentials are the application default ones.

    Attributes:
        subscription: ``projects/PROJECT/subscriptions/NAME``.
        topic: ``projects/PROJECT/topics/NAME`` that it belongs to; empty until :meth:`PubSub.check`
            has told it.
        endpoint: HOST:PORT of an emulator; empty for the service itself.
        id_attribute: attribute by which a message is known however often it was published; empty
            for the id that the service gives.
        attributes_field: field of a record that its message's attributes are put into, as an
            object, for mappings; empty for none.
    """

    subscription: str
    topic: str = ""
    endpoint: str = ""
    id_attribute: str = ""
    attributes_field: str = ""

    def __post_init__(self) -> None:
        match = _NAME.fullmatch(self.subscription)
        if match is None or match[1] != "subscriptions":
            raise ValueError(
                f"subscription {self.subscription!r} is none; write "
                f"pubsub://projects/PROJECT/subscriptions/NAME."
            )


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery of a message.

    Attributes:
        ack_id: of this delivery.
        id: given by the service, unique in the topic.
        published_ms: when the service got it, in milliseconds since the epoch.
        data: its payload.
        attributes: as published.
    """

    ack_id: str
    id: str
    published_ms: int
    data: bytes
    attributes: dict[str, str]


@dataclass(frozen=True)
class Details:
    """What a subscription is like.

    Attributes:
        topic: that it belongs to.
        replays_ms: how far back a seek brings messages again that were acknowledged; 0 for not.
        ordered: whether messages of an ordering key wait for each other.
    """

    topic: str
    replays_ms: int
    ordered: bool


class PubSub:
    """Calls for one subscription; may be used by several threads.

    Args:
        config: which.
        client: of :func:`connect`.
        call_seconds: the longest that a call of a lease or an acknowledgement may take.
    """

    def __init__(
        self, config: PubSubConfig, client: Any, call_seconds: float = CALL_SECONDS
    ) -> None:
        self.config = config
        self.client = client
        self._call_seconds = call_seconds

    def pull(self, most: int, timeout_seconds: float = CALL_SECONDS) -> list[Message]:
        """What is there now, at once; nothing may mean that nothing is there.

        Waiting on the server would lease messages to calls that are given up, until their deadline.
        Google advises against pulls that return at once, for the cost of each; one a second and
        reader is what a poll of Kinesis costs as well.

        Raises:
            google.api_core.exceptions.GoogleAPICallError: see :func:`is_passing`.
        """
        request = {
            "subscription": self.config.subscription,
            "max_messages": min(most, MESSAGES_A_PULL),
            "return_immediately": True,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            answer = self.client.pull(request=request, retry=None, timeout=timeout_seconds)
        # The messages below the wrappers: reading fields of those costs ten times as much.
        raw = type(answer).pb(answer)
        return [
            Message(
                one.ack_id,
                one.message.message_id,
                one.message.publish_time.ToMilliseconds(),
                one.message.data,
                dict(one.message.attributes),
            )
            for one in raw.received_messages
        ]

    def extend(self, ack_ids: Sequence[str], seconds: int) -> int:
        """Lease messages for ``seconds`` from now; 0 gives them back at once.

        It is tried once, as the next time comes soon. Never raises; returns how many calls failed.
        """
        failed = 0
        for some in _parts(ack_ids):
            request = {
                "subscription": self.config.subscription,
                "ack_ids": some,
                "ack_deadline_seconds": seconds,
            }
            within = self._call_seconds
            try:
                self.client.modify_ack_deadline(request=request, retry=None, timeout=within)
            except exceptions.GoogleAPIError as error:
                failed += 1
                _LOG.info("pubsub leases of %d were not set to %d s: %s", len(some), seconds, error)
        return failed

    def acknowledge(self, ack_ids: Sequence[str]) -> int:
        """Acknowledge messages; returns how many the service did not take, which come again.

        Subscriptions with exactly-once delivery tell of each: ids that have expired are lost, of
        others the call is made again. Never raises.
        """
        return sum(self._acknowledged_not(list(some)) for some in _parts(ack_ids))

    def _acknowledged_not(self, left: list[str]) -> int:
        refused = 0
        for attempt in range(3):
            try:
                self._acknowledge(left)
            except exceptions.GoogleAPIError as error:
                told = failures(error)
                if not told:
                    _LOG.warning("pubsub acks of %d messages failed: %s", len(left), error)
                    return refused + len(left)
                refused += sum(kind.startswith("PERMANENT") for kind in told.values())
                left = [one for one, kind in told.items() if kind.startswith("TRANSIENT")]
            else:
                return refused
            if not left:
                return refused
            time.sleep(0.1 * 2**attempt)
        return refused + len(left)

    def _acknowledge(self, ack_ids: list[str]) -> None:
        request = {"subscription": self.config.subscription, "ack_ids": ack_ids}
        seconds = self._call_seconds
        again = retry.Retry(predicate=is_passing, initial=0.1, maximum=5.0, timeout=6 * seconds)
        self.client.acknowledge(request=request, retry=again, timeout=seconds)

    def seek(self, ms: int) -> None:
        """Have all messages published from a time on delivered again, and none from before it."""
        moment = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
        self.client.seek(request={"subscription": self.config.subscription, "time": moment})

    def details(self) -> Details:
        """What the subscription is like; needs pubsub.subscriptions.get (role pubsub.viewer).

        Raises:
            SubscriptionUnfit: it is not there, or is not one that can be pulled from.
        """
        name = self.config.subscription
        try:
            found = self.client.get_subscription(request={"subscription": name})
        except exceptions.GoogleAPICallError as error:
            where = self.config.endpoint or "Google Cloud"
            raise SubscriptionUnfit(
                f"{name} cannot be read at {where}: {error.message}. Create it, or correct "
                f"--source, or grant pubsub.viewer and pubsub.subscriber on it."
            ) from error
        for kind in ("push_config", "bigquery_config", "cloud_storage_config"):
            if getattr(found, kind):
                raise SubscriptionUnfit(
                    f"{name} delivers by its {kind}, so nothing can be pulled from it; make a pull "
                    f"subscription of {found.topic} for adtally."
                )
        if found.detached or found.topic == "_deleted-topic_":
            raise SubscriptionUnfit(f"{name} has lost its topic; make a new subscription.")
        kept = [found.topic_message_retention_duration]
        if found.retain_acked_messages:
            kept.append(found.message_retention_duration)
        return Details(
            found.topic,
            max(round(one.total_seconds() * 1000) for one in kept),
            found.enable_message_ordering,
        )

    def oldest_waiting_ms(self) -> int | None:
        """When the oldest of some messages that wait was published; None where none is seen.

        They are given back. The service gives older messages first, roughly.
        """
        oldest: list[int] = []
        held: list[str] = []
        try:
            for _ in range(SAMPLED_PULLS):
                messages = self.pull(MESSAGES_A_PULL)
                oldest += [one.published_ms for one in messages]
                held += [one.ack_id for one in messages]
                if not messages:
                    time.sleep(_LOOK_SECONDS)
        finally:
            self.extend(held, 0)
        return min(oldest, default=None)


def connect(config: PubSubConfig) -> Any:
    """A subscriber client of Google's library."""
    from google.pubsub_v1 import SubscriberClient
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    if not config.endpoint:
        return SubscriberClient()
    return SubscriberClient(transport=SubscriberGrpcTransport(channel=_plain(config.endpoint)))


def connect_publisher(endpoint: str = "") -> Any:
    """A publisher client of Google's library.

    Args:
        endpoint: HOST:PORT of an emulator; empty for the service itself.
    """
    from google.pubsub_v1 import PublisherClient
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

    if not endpoint:
        return PublisherClient()
    return PublisherClient(transport=PublisherGrpcTransport(channel=_plain(endpoint)))


def is_passing(error: BaseException) -> bool:
    """Whether time mends it."""
    return isinstance(error, PASSING) and not refusal(error, "")


def failures(error: exceptions.GoogleAPIError) -> dict[str, str]:
    """What became of acknowledgement ids of an exactly-once subscription, as the error tells."""
    details = getattr(error, "details", [])
    told = [dict(one.metadata) for one in details if isinstance(one, ErrorInfo)]
    return {
        key: value
        for metadata in told
        for key, value in metadata.items()
        if value.startswith(("PERMANENT_FAILURE", "TRANSIENT_FAILURE"))
    }


def _plain(endpoint: str) -> grpc.Channel:
    """An emulator speaks without TLS, and gets no credentials; messages may be larger than gRPC's
    usual limit."""
    if not on_this_machine(endpoint.rpartition(":")[0].strip("[]")):
        warn_once(_LOG, f"{endpoint} is not encrypted: messages can be read on the way")
    unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    return grpc.insecure_channel(endpoint, options=unlimited)


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), IDS_A_CALL):
        yield ids[start : start + IDS_A_CALL]
