"""Messages that are on their way: leased until the runner has made sure of them, then acknowledged.

The runner tells that a bundle is durable by finalizing it. Flink does that when a checkpoint is
complete, for all bundles that ended by then (Beam's ``ExecutableStageDoFnOperator``): also for
those that ended after the checkpoint was taken, and are in none yet. So a message is acknowledged
one round later: when a bundle of the same reader is finalized that began after its own was. That
one's checkpoint was taken after the first was complete, and holds both, provided that the reader
went on from its state in between: the identity of its last call, which is in the state, tells.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from adtally.io.pubsub_client import Message, PubSub

LEASE_SECONDS: Final = 30
"""A lease is extended by this much, three times as often. Of a worker that died, messages come
again after it."""

ALIVE_SECONDS: Final = 120.0
"""A reader that is in no call, and was in none for this long, has moved to another worker, or its
job has ended: its messages are given back."""

HOLD_SECONDS: Final = 600.0
"""A message is leased no longer than this: then it comes again, and counts once all the same."""

FORGET_SECONDS: Final = 3_600.0
"""Bundles that the runner has said nothing of for this long are forgotten."""

OUTSTANDING: Final = 100_000
"""Messages of a worker that are on their way. Each waits for two checkpoints, so 20 s at the
least, and costs some 300 bytes meanwhile."""

_LOG = logging.getLogger(__name__)
Clock = Callable[[], float]


@dataclass
class Bundle:
    """Messages that one call of a reader handed on.

    Attributes:
        number: of the call in this process, rising.
        call: identity of the call, also in other processes.
        begun: when, by the monotonic clock.
        ack_ids: of its messages.
        finalized_before: number of the first call that began after the runner finalized it.
        given_back: its messages are delivered again; an acknowledgement still helps.
    """

    number: int
    call: str
    begun: float
    ack_ids: list[str] = field(default_factory=list)
    finalized_before: int | None = None
    given_back: bool = False


@dataclass
class _Reader:
    """Bundles of a reader that are not acknowledged.

    Attributes:
        call: that claimed last in this process.
        seen: when its last call ended.
        calls: that are under way.
    """

    next_number: int = 0
    call: str = ""
    seen: float = 0.0
    calls: int = 0
    bundles: dict[int, Bundle] = field(default_factory=dict)


class Leases:
    """What a worker process holds of a subscription, for all readers in it.

    Args:
        pubsub: calls.
        first_idle_seconds: see :class:`Recent`.
        monotonic: a clock in seconds.
    """

    def __init__(
        self,
        pubsub: PubSub,
        monotonic: Clock = time.monotonic,
        first_idle_seconds: float | None = None,
    ) -> None:
        self._pubsub = pubsub
        self._monotonic = monotonic
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._readers: dict[int, _Reader] = {}
        self._keeper: threading.Thread | None = None
        self.recent = Recent(monotonic, first_idle_seconds)

    @property
    def outstanding(self) -> int:
        """Messages that are leased."""
        with self._lock:
            return sum(
                len(bundle.ack_ids)
                for reader in self._readers.values()
                for bundle in reader.bundles.values()
                if not bundle.given_back
            )

    def begin(self, reader: int, last_call: str) -> Bundle:
        """A bundle for a call of a reader; each has one, or what came before it would wait.

        Args:
            reader: its number.
            last_call: that claimed last, as the runner remembers. Where this process remembers
                another one, the runner went on from an earlier state, or the reader was elsewhere
                meanwhile: nobody will vouch for its bundles any more, and they are given back.
        """
        with self._lock:
            known = self._readers.setdefault(reader, _Reader())
            lost = list(known.bundles.values()) if known.call != last_call else []
            for bundle in lost:
                del known.bundles[bundle.number]
            known.calls += 1
            begun = Bundle(known.next_number, uuid.uuid4().hex, self._monotonic())
            known.next_number += 1
            known.bundles[begun.number] = begun
        self._give_back(one for bundle in lost for one in bundle.ack_ids)
        return begun

    def ended(self, reader: int) -> None:
        """The call of a reader is over."""
        with self._lock:
            known = self._readers[reader]
            known.calls -= 1
            known.seen = self._monotonic()

    def hold(self, reader: int, bundle: Bundle, messages: Sequence[Message]) -> None:
        """Keep messages that were claimed leased until their bundle is sure."""
        ack_ids = [one.ack_id for one in messages]
        with self._lock:
            self._readers[reader].call = bundle.call
            bundle.ack_ids += ack_ids
            if self._keeper is None:
                self._keeper = threading.Thread(
                    target=self._keep, name="adtally-pubsub-leases", daemon=True
                )
                self._keeper.start()
        self._extend(ack_ids, LEASE_SECONDS)  # a subscription's own deadline may be 10 s

    def give_back(self, messages: Sequence[Message]) -> None:
        """Have messages that were not handed on delivered again at once."""
        self._give_back(one.ack_id for one in messages)

    def finalized(self, reader: int, number: int) -> None:
        """The runner finalized a bundle: acknowledge those whose second round this is.

        Never raises: a message that is not acknowledged comes again, and counts once.
        """
        with self._lock:
            known = self._readers[reader]
            mine = known.bundles.get(number)
            if mine is None:  # lost: the runner went on without it
                return
            mine.finalized_before = known.next_number
            sure = [
                bundle
                for bundle in known.bundles.values()
                if bundle.finalized_before is not None and bundle.finalized_before <= number
            ]
            for bundle in sure:
                del known.bundles[bundle.number]
        self._acknowledge([one for bundle in sure for one in bundle.ack_ids])

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
        refused = self._pubsub.acknowledge(ack_ids)
        if refused:
            _LOG.warning(
                "pubsub acks failed: subscription=%s messages=%d; they come again, and count once",
                *(self._pubsub.config.subscription, refused),
            )
        self._count("pubsub_acks", len(ack_ids) - refused)
        self._count("pubsub_acks_failed", refused)

    def _keep(self) -> None:
        """Extend leases for as long as the process lives."""
        while True:
            time.sleep(LEASE_SECONDS / 3)
            try:
                self.keep()
            except Exception:  # noqa: BLE001 - without this thread no lease would hold any more
                _LOG.exception("pubsub leases were not extended; messages may come again")

    def keep(self) -> None:
        """Extend all leases once; end those of what is held for too long, or for nobody."""
        kept, ended = self._sorted()
        self._extend(kept, LEASE_SECONDS)
        self._give_back(ended)

    def _give_back(self, ack_ids: Iterable[str]) -> None:
        some = list(ack_ids)
        self._count("pubsub_given_back", len(some))
        self._extend(some, 0)

    def _extend(self, ack_ids: list[str], seconds: int) -> None:
        """Never raises: what is not extended comes again, and counts once."""
        failures = self._pubsub.extend(ack_ids, seconds)
        self._count("pubsub_retries", failures)

    def _sorted(self) -> tuple[list[str], list[str]]:
        """Messages whose leases go on, and those whose end now."""
        now = self._monotonic()
        kept: list[str] = []
        ended: list[str] = []
        with self._lock:
            for known in self._readers.values():
                gone = not known.calls and now - known.seen > ALIVE_SECONDS
                for bundle in list(known.bundles.values()):
                    if now - bundle.begun > FORGET_SECONDS:
                        del known.bundles[bundle.number]
                    if bundle.given_back:
                        continue
                    if gone or now - bundle.begun > HOLD_SECONDS:
                        bundle.given_back = True
                        ended += bundle.ack_ids
                    else:
                        kept += bundle.ack_ids
        return kept, ended


class Recent:
    """When messages of late were published: Pub/Sub gives them in no order.

    Args:
        monotonic: a clock in seconds.
        first_idle_seconds: how long pulls have to give nothing before the first message came; None
            for ``IDLE_SECONDS``. A seek takes effect within a minute or so.
    """

    WINDOW_SECONDS: Final = 10.0
    """Messages this far apart may come in any order without holding anything up."""

    IDLE_SECONDS: Final = 15.0
    """Pulls that gave nothing for this long mean that nothing waits; one alone means little."""

    GAP_SECONDS: Final = 5.0
    """Between two pulls: after a longer pause, nobody knows what came meanwhile."""

    def __init__(
        self, monotonic: Clock = time.monotonic, first_idle_seconds: float | None = None
    ) -> None:
        self._monotonic = monotonic
        self._idle_seconds = first_idle_seconds or self.IDLE_SECONDS
        self._lock = threading.Lock()
        self._oldest: deque[tuple[float, int]] = deque()
        self._empty_since: float | None = None
        self._last = 0.0

    def saw(self, messages: Sequence[Message]) -> None:
        """Note what a pull gave."""
        now = self._monotonic()
        with self._lock:
            if messages:
                self._empty_since, self._idle_seconds = None, self.IDLE_SECONDS
                self._oldest.append((now, min(one.published_ms for one in messages)))
            elif self._empty_since is None or now - self._last > self.GAP_SECONDS:
                self._empty_since = now
            self._last = now

    def unknown(self) -> None:
        """Note that a pull gave no answer, or was left out: nobody knows what waits."""
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
            if self._empty_since is None or now - self._last > self.GAP_SECONDS:
                return None
            return now_ms if now - self._empty_since > self._idle_seconds else None
