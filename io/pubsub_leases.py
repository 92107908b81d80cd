"""Messages that are on their way: leased until the runner has made sure of them, then acknowledged.

The runner tells that a bundle is durable by finalizing it. Flink does that when a checkpoint is
complete, for all bundles that ended by then (Beam's ``ExecutableStageDoFnOperator``): also for
those that ended after the checkpoint was taken, and are in none yet. So a message is acknowledged
one round later: when a bundle of the same reader is finalized that began after its own was. That
one's checkpoint was taken after the first was complete, and holds both.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.api_core import exceptions

from adtally.io.pubsub_client import Message, PubSub, is_passing

LEASE_SECONDS: Final = 60
"""A lease is extended by this much, three times as often. Of a worker that died, messages come
again after it."""

ALIVE_SECONDS: Final = 120.0
"""A reader that did not come back for this long has moved to another worker, or died: its messages
are given back."""

HOLD_SECONDS: Final = 600.0
"""No message is held longer than this: then it comes again, and counts once all the same."""

OUTSTANDING: Final = 100_000
"""Messages of a worker that are on their way. Each waits for two checkpoints, so 20 s at the
least, and costs some 300 bytes meanwhile."""

_LOG = logging.getLogger(__name__)
Clock = Callable[[], float]


@dataclass
class Bundle:
    """Messages that one call of a reader handed on."""

    number: int
    begun: float
    ack_ids: list[str] = field(default_factory=list)
    finalized_before: int | None = None


@dataclass
class _Reader:
    """Bundles of a reader that are not acknowledged."""

    next_number: int = 0
    seen: float = 0.0
    bundles: dict[int, Bundle] = field(default_factory=dict)


class Leases:
    """What a worker process holds of a subscription, for all readers in it.

    Args:
        pubsub: calls.
        monotonic: a clock in seconds.
    """

    def __init__(self, pubsub: PubSub, monotonic: Clock = time.monotonic) -> None:
        self._pubsub = pubsub
        self._monotonic = monotonic
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._readers: dict[int, _Reader] = {}
        self._keeper: threading.Thread | None = None
        self.recent = Recent(monotonic)

    @property
    def outstanding(self) -> int:
        """Messages that are neither acknowledged nor given back."""
        with self._lock:
            return sum(
                len(bundle.ack_ids)
                for reader in self._readers.values()
                for bundle in reader.bundles.values()
            )

    def begin(self, reader: int) -> Bundle:
        """A bundle for a call of a reader; each has one, or what came before it would wait."""
        with self._lock:
            known = self._readers.setdefault(reader, _Reader())
            known.seen = self._monotonic()
            bundle = Bundle(known.next_number, known.seen)
            known.next_number += 1
            known.bundles[bundle.number] = bundle
            return bundle

    def hold(self, bundle: Bundle, messages: Sequence[Message]) -> None:
        """Keep messages leased until their bundle is sure."""
        ack_ids = [one.ack_id for one in messages]
        with self._lock:
            bundle.ack_ids += ack_ids
            if self._keeper is None:
                self._keeper = threading.Thread(
                    target=self._keep, name="adtally-pubsub-leases", daemon=True
                )
                self._keeper.start()
        self._extend(ack_ids, LEASE_SECONDS)  # a subscription's own deadline may be 10 s

    def give_back(self, messages: Sequence[Message]) -> None:
        """Have messages that were not handed on delivered again at once."""
        self._give_back([one.ack_id for one in messages])

    def _give_back(self, ack_ids: list[str]) -> None:
        self._count("pubsub_given_back", len(ack_ids))
        self._extend(ack_ids, 0)

    def finalized(self, reader: int, number: int) -> None:
        """The runner finalized a bundle: acknowledge those whose second round this is.

        Bundles before those that were not finalized meanwhile never will be: the runner failed, and
        went on from an earlier state. Their messages are given back.

        Never raises: a message that is not acknowledged comes again, and counts once.
        """
        with self._lock:
            known = self._readers[reader]
            mine = known.bundles.get(number)
            if mine is not None:
                mine.finalized_before = known.next_number
            sure = [
                bundle
                for bundle in known.bundles.values()
                if bundle.finalized_before is not None and bundle.finalized_before <= number
            ]
            newest = max((bundle.number for bundle in sure), default=-1)
            failed = [
                bundle
                for bundle in known.bundles.values()
                if bundle.finalized_before is None and bundle.number < newest
            ]
            for bundle in sure + failed:
                del known.bundles[bundle.number]
        self._acknowledge([one for bundle in sure for one in bundle.ack_ids])
        self._give_back([one for bundle in failed for one in bundle.ack_ids])

    def failed(self, reader: int, number: int) -> None:
        """A bundle did not come to its end: have its messages delivered again at once."""
        with self._lock:
            bundle = self._readers[reader].bundles.pop(number, None)
        if bundle is not None:
            self._give_back(bundle.ack_ids)

    def counts(self) -> Counter[str]:
        """What happened since this was asked last: threads of our own have no metrics of Beam's."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        return counts

    def _count(self, name: str, amount: int) -> None:
        if amount:
            with self._lock:
                self._counts[name] += amount

    def _acknowledge(self, ack_ids: list[str]) -> None:
        if not ack_ids:
            return
        try:
            refused = self._pubsub.acknowledge(ack_ids)
        except exceptions.GoogleAPICallError as error:
            refused = len(ack_ids)
            _LOG.warning(
                "pubsub acks failed: subscription=%s messages=%d error=%s; they come again, and "
                "count once",
                self._pubsub.config.subscription,
                refused,
                error,
            )
        self._count("pubsub_acks", len(ack_ids) - refused)
        self._count("pubsub_acks_failed", refused)

    def _keep(self) -> None:
        """Extend leases for as long as the process lives."""
        while True:
            time.sleep(LEASE_SECONDS / 3)
            self.keep()

    def keep(self) -> None:
        """Extend all leases once; give back what will not be acknowledged any more."""
        kept, lost = self._sorted()
        self._extend(kept, LEASE_SECONDS)
        self._give_back(lost)

    def _extend(self, ack_ids: list[str], seconds: int) -> None:
        """Never raises: what is not extended comes again, and counts once."""
        try:
            self._pubsub.extend(ack_ids, seconds)
        except exceptions.GoogleAPICallError as error:
            self._count("pubsub_retries", 1)
            level = logging.INFO if is_passing(error) else logging.WARNING
            _LOG.log(level, "pubsub leases were not extended: %s; messages may come again", error)

    def _sorted(self) -> tuple[list[str], list[str]]:
        """Messages to keep, and those to give back, which are forgotten."""
        now = self._monotonic()
        kept: list[str] = []
        lost: list[str] = []
        with self._lock:
            for known in self._readers.values():
                gone = now - known.seen > ALIVE_SECONDS
                for bundle in list(known.bundles.values()):
                    if gone or now - bundle.begun > HOLD_SECONDS:
                        lost += bundle.ack_ids
                        del known.bundles[bundle.number]
                    else:
                        kept += bundle.ack_ids
        return kept, lost


class Recent:
    """When messages of late were published: Pub/Sub gives them in no order.

    Args:
        monotonic: a clock in seconds.
    """

    WINDOW_SECONDS: Final = 10.0
    """Messages this far apart may come in any order without holding anything up."""

    IDLE_SECONDS: Final = 5.0
    """Pulls that gave nothing for this long mean that nothing waits."""

    def __init__(self, monotonic: Clock = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._oldest: deque[tuple[float, int]] = deque()
        self._empty_since: float | None = None

    def saw(self, messages: Sequence[Message]) -> None:
        """Note what a pull gave."""
        now = self._monotonic()
        with self._lock:
            if messages:
                self._empty_since = None
                self._oldest.append((now, min(one.published_ms for one in messages)))
            elif self._empty_since is None:
                self._empty_since = now

    def failed(self) -> None:
        """Note that a pull gave no answer: nobody knows what waits."""
        with self._lock:
            self._empty_since = None

    def settled_ms(self, now_ms: int) -> int | None:
        """Before this nothing waits, as far as one can tell; None where one cannot.

        Args:
            now_ms: the time, in milliseconds since the epoch.
        """
        now = self._monotonic()
        with self._lock:
            while self._oldest and now - self._oldest[0][0] > self.WINDOW_SECONDS:
                self._oldest.popleft()
            if self._oldest:
                return min(published for _, published in self._oldest)
            idle = self._empty_since is not None and now - self._empty_since > self.IDLE_SECONDS
            return now_ms if idle else None
