"""A worker process's connection to a Pub/Sub subscription."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from google.api_core import exceptions

from adtally.io.kinesis_errors import backoff_seconds
from adtally.io.pubsub_client import (
    MESSAGES_A_PULL,
    Message,
    PubSub,
    PubSubConfig,
    PubSubError,
    is_passing,
)
from adtally.io.pubsub_leases import OUTSTANDING, Leases

_LOG = logging.getLogger(__name__)


class Desk:
    """Pulls, and keeps what is on its way; shared by the threads of a worker.

    Args:
        pubsub: calls.
        monotonic: a clock in seconds.
        first_idle_seconds: see :class:`adtally.io.pubsub_leases.Recent`.
    """

    def __init__(
        self,
        pubsub: PubSub,
        monotonic: Callable[[], float] = time.monotonic,
        first_idle_seconds: float | None = None,
    ) -> None:
        self.leases = Leases(pubsub, monotonic, first_idle_seconds)
        self._pubsub = pubsub
        self._monotonic = monotonic
        self._failures = 0
        self._not_before = 0.0

    def pulled(self, count: Callable[[str, int], None]) -> list[Message]:
        """What a pull gives; nothing while Pub/Sub is away, or too much is on its way.

        Args:
            count: gets ``(metric, amount)``.

        Raises:
            PubSubError: what time does not mend.
        """
        if self.leases.outstanding >= OUTSTANDING:
            self.leases.recent.unknown()
            count("pubsub_held", 1)
            return []
        if self._monotonic() < self._not_before:
            return []
        try:
            messages = self._pubsub.pull(MESSAGES_A_PULL)
        except exceptions.GoogleAPIError as error:
            self._failed(error)
            count("pubsub_retries", 1)
            return []
        self._failures = 0
        self.leases.recent.saw(messages)
        count("pubsub_pulls", 1)
        count("pubsub_messages", len(messages))
        count("pubsub_bytes", sum(len(one.data) for one in messages))
        return messages

    def _failed(self, error: exceptions.GoogleAPIError) -> None:
        """Wait, longer each time: what was not acknowledged waits in the subscription."""
        name = self._pubsub.config.subscription
        if not is_passing(error):
            raise PubSubError(
                f"{name} cannot be read any more: {error}. What was not acknowledged waits there. "
                f"Restore the subscription or the permission."
            ) from error
        self.leases.recent.unknown()
        self._failures += 1
        wait = backoff_seconds(self._failures)
        self._not_before = self._monotonic() + wait
        if self._failures.bit_count() == 1:  # the 1st, 2nd, 4th, ...: an hour leaves few lines
            _LOG.warning(
                "pubsub waits: subscription=%s failures=%d wait_s=%.1f error=%s",
                *(name, self._failures, wait, error),
            )


_DESKS: Final[dict[tuple[PubSubConfig, str], Desk]] = {}
_OPENING: Final = threading.Lock()


def desk_of(
    config: PubSubConfig,
    run: str,
    make_client: Callable[[PubSubConfig], Any],
    first_idle_seconds: float | None = None,
) -> Desk:
    """This process's desk of a job. Beam makes a DoFn for each bundle that is not finalized yet;
    all of them share it, and it lives as long as the process."""
    with _OPENING:
        if (config, run) not in _DESKS:
            pubsub = PubSub(config, make_client(config))
            _DESKS[config, run] = Desk(pubsub, first_idle_seconds=first_idle_seconds)
        return _DESKS[config, run]
