"""Where reading a Pub/Sub subscription begins: it has no positions, but can be set back in time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from adtally.io import manifest
from adtally.io.kinesis_shards import TRIM_HORIZON
from adtally.io.pubsub import ReadFromPubSub
from adtally.io.pubsub_client import PubSub, connect
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
        resumed_ms: where the output ends; None where no stream has written, or with a savepoint.
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
        if read.service:
            return read
        lost = _what_is_missing(read, details.replays_ms, needed_ms)
        if lost and stateless and not tolerant:
            raise ConfigError(lost)
        if lost:
            _LOG.warning("%s", lost)
        if explicit:
            return replace(read, start_ms=max(EVERYTHING_MS, read.start_ms))
        back_ms = resumed_ms or (manifest.read_manifest(output) or {}).get(_BEGUN, {}).get(
            details.topic
        )
        if back_ms is None:
            return read
        waiting_ms = pubsub.oldest_waiting_ms()
        back_ms = min(back_ms, now_ms if waiting_ms is None else waiting_ms)
        if now_ms - back_ms > details.replays_ms:
            _LOG.warning(
                "reading %s goes back to %s, and the subscription retains %.1f h of what was "
                "acknowledged: what left it before is missing where no log has it",
                *(read.config.subscription, shown_time(back_ms), details.replays_ms / 3_600_000),
            )
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
    """Note in an output when each topic was first read: what waits now is older than that.

    A run that is killed before it has written anything leaves nothing else behind.
    """
    known = manifest.read_manifest(output) or {}
    begun = dict(known.get(_BEGUN, {}))
    for read in reads:
        if isinstance(read, ReadFromPubSub) and read.config.topic not in begun:
            with _opened(read) as pubsub:
                waiting_ms = pubsub.oldest_waiting_ms()
            asked_ms = now_ms if read.start_ms == TRIM_HORIZON else read.start_ms
            begun[read.config.topic] = min(asked_ms, waiting_ms or now_ms)
    if begun != known.get(_BEGUN, {}):
        manifest.write_manifest(output, {**known, _BEGUN: begun})


def begin(reads: tuple[Any, ...]) -> None:
    """Set subscriptions back to where reading begins; nothing must read them meanwhile."""
    for read in reads:
        if isinstance(read, ReadFromPubSub) and read.start_ms != TRIM_HORIZON:
            with _opened(read) as pubsub:
                pubsub.seek(read.start_ms)


@contextlib.contextmanager
def _opened(read: ReadFromPubSub) -> Iterator[PubSub]:
    with connect(read.config) as client:
        yield PubSub(read.config, client)
