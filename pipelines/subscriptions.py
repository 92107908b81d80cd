"""Where reading a Pub/Sub subscription begins: it has no positions, but can be set back in time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from google.api_core import exceptions

from adtally.io import manifest
from adtally.io.kinesis_shards import TRIM_HORIZON
from adtally.io.pubsub import ReadFromPubSub
from adtally.io.pubsub_client import PubSub, SubscriptionUnfit, connect
from adtally.pipelines.job import ConfigError, shown_time

EVERYTHING_MS: Final = 1
"""A seek to it brings all that a subscription retains."""

_BEGUN: Final = "pubsub_begun_ms"
_LOG = logging.getLogger("adtally")


def settled(
    read: ReadFromPubSub,
    output: str,
    *,
    explicit: bool,
    resume: bool,
    resumed_ms: int | None,
    needed_ms: int,
    stateless: bool,
    tolerant: bool,
    now_ms: int,
) -> ReadFromPubSub:
    """A read with its topic, and the time that :func:`begin` sets its subscription back to.

    A start without state goes back to before the oldest window that was open, as with Kinesis;
    where no event is in the log yet, to the beginning of the first run. Never past a message that
    waits: a seek drops those before it.

    Args:
        read: as given.
        output: address of the output.
        explicit: ``start_ms`` was asked for, and is taken as it is.
        resume: the start has no state. One that has goes on with what waits.
        resumed_ms: where the output ends; None where no stream has written.
        needed_ms: how far a start without state may have to go back.
        stateless: a kill loses what the runner has in memory.
        tolerant: losing that is accepted.
        now_ms: the time.

    Raises:
        ConfigError: the subscription does not retain what would have to be read again.
        SubscriptionUnfit: it cannot be read at all.
    """
    with _opened(read) as pubsub:
        details = pubsub.details()
        if details.ordered:
            _LOG.warning(
                "%s keeps the order of keys, so messages of a key wait for the acknowledgement of "
                "the one before, one checkpoint each; adtally needs no order, use a subscription "
                "without",
                read.config.subscription,
            )
        read = replace(read, config=replace(read.config, topic=details.topic))
        if explicit:
            read = replace(read, start_ms=max(EVERYTHING_MS, read.start_ms))
        if read.service:
            return read
        lost = _what_is_missing(read, details.replays_ms, needed_ms)
        if lost and stateless and not tolerant:
            raise ConfigError(lost)
        if lost:
            _LOG.warning("%s", lost)
        if explicit or not resume:
            return read
        begun = (manifest.read_manifest(output) or {}).get(_BEGUN, {})
        back_ms = resumed_ms or begun.get(read.config.subscription)
        if back_ms is None:
            return read
        if back_ms > EVERYTHING_MS and now_ms - back_ms > details.replays_ms:
            gone = (
                f"{read.config.subscription} retains {details.replays_ms / 3_600_000:.1f} h of "
                f"acknowledged messages, and would have to be read again from "
                f"{shown_time(back_ms)} on. Give --on-data-loss trim_horizon to go on with what "
                f"there is, and back-fill the gap from your logs, or --start with a time."
            )
            if stateless and not tolerant:
                raise ConfigError(gone)
            _LOG.warning("%s", gone)
        waiting_ms = pubsub.oldest_waiting_ms()
        back_ms = min(back_ms, now_ms if waiting_ms is None else waiting_ms)
        return replace(read, start_ms=back_ms)


def _what_is_missing(read: ReadFromPubSub, replays_ms: int, needed_ms: int) -> str:
    if replays_ms >= needed_ms:
        return ""
    hours = -(-needed_ms // 3_600_000)
    return (
        f"{read.config.subscription} retains {replays_ms / 3_600_000:.1f} h of acknowledged "
        f"messages; a start without state reads {hours} h again, and what it cannot would be "
        f"missing in summaries and in the log. Set --retain-acked-messages "
        f"--message-retention-duration={max(hours, 24)}h on it, or accept the loss with "
        f"--on-data-loss trim_horizon."
    )


def note_begin(reads: tuple[Any, ...], output: str, now_ms: int) -> None:
    """Note in an output from when on each subscription was read, at the earliest.

    A run that is killed before it has written anything leaves nothing else behind.
    """
    known = manifest.read_manifest(output) or {}
    begun = dict(known.get(_BEGUN, {}))
    for read in reads:
        if not isinstance(read, ReadFromPubSub):
            continue
        from_ms = read.start_ms
        if from_ms == TRIM_HORIZON:
            with _opened(read) as pubsub:
                from_ms = pubsub.oldest_waiting_ms() or now_ms
        name = read.config.subscription
        begun[name] = min(from_ms, begun.get(name, from_ms))
    if begun != known.get(_BEGUN, {}):
        manifest.write_manifest(output, {**known, _BEGUN: begun})


def check_apart(reads: tuple[Any, ...], targets: dict[str, str]) -> None:
    """Refuse to write to a topic that is read: what is written would come back, and grow.

    Args:
        reads: the streams.
        targets: topics that are written to, by option.

    Raises:
        ConfigError: names the option.
    """
    for option, topic in targets.items():
        if any(isinstance(read, ReadFromPubSub) and read.config.topic == topic for read in reads):
            raise ConfigError(
                f"{option} {topic} is the topic that this stream reads: what is sent there would "
                f"come back as records. Give another topic."
            )


def begin(reads: tuple[Any, ...]) -> None:
    """Set subscriptions back to where reading begins; nothing must read them meanwhile."""
    for read in reads:
        if isinstance(read, ReadFromPubSub) and read.start_ms != TRIM_HORIZON:
            with _opened(read) as pubsub:
                pubsub.seek(read.start_ms)


@contextlib.contextmanager
def _opened(read: ReadFromPubSub) -> Iterator[PubSub]:
    with connect(read.config) as client:
        try:
            yield PubSub(read.config, client)
        except exceptions.GoogleAPIError as error:
            raise SubscriptionUnfit(
                f"{read.config.subscription} cannot be read: {error}. Grant pubsub.subscriber and "
                f"pubsub.viewer on it to who starts the stream."
            ) from error
