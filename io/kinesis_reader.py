"""Reads the shards of a group, step by step; every failure ends in a decision, none in silence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from adtally.io.kinesis_client import ITERATOR_SECONDS, Kinesis, Polled, Record
from adtally.io.kinesis_errors import (
    DataLoss,
    IteratorExpired,
    ShardGone,
    StreamRecreated,
    backoff_seconds,
    is_passing,
    is_throttling,
)
from adtally.io.kinesis_shards import TRIM_HORIZON, Group, Position, replaced

FAIL: Final = "fail"
CONTINUE: Final = "trim_horizon"
ON_DATA_LOSS: Final = (FAIL, CONTINUE)
"""What to do when records left the stream unread: end with an error, or count it and go on with
the oldest record that there is."""

SHORTEST_RETENTION_MS: Final = 24 * 3_600_000
_MARGIN_MS: Final = 60_000
SAME_STREAM_SECONDS: Final = 60.0
"""A stream that was the same is not asked about again for this long: the calls are few."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What one look at a shard gave.

    Attributes:
        shard: which.
        after: the group afterwards; None where nothing is known that was not before.
        records: to hand on, once ``after`` is claimed.
        wait_seconds: when it is worth looking again.
        behind_ms: how far the shard's tip is away; None where that is not known.
        asked_ms: when the server answered, or 0.
        iterator: where the next look continues.
    """

    shard: str
    after: Group | None
    wait_seconds: float
    records: list[Record] = field(default_factory=list)
    behind_ms: int | None = None
    asked_ms: int = 0
    iterator: str | None = None


@dataclass
class _Cursor:
    """What is known of a shard beside its position, and lost without harm."""

    sequence: str = ""
    iterator: str | None = None
    issued: float = 0.0
    not_before: float = 0.0
    failures: int = 0


class GroupReader:
    """Looks at shards; keeps iterators and pauses between looks, never positions.

    Args:
        kinesis: calls for the stream.
        on_data_loss: one of ``ON_DATA_LOSS``.
        poll_seconds: pause at the tip of a shard.
        count: gets ``(metric, amount)``.
        monotonic: a clock in seconds.
    """

    def __init__(
        self,
        kinesis: Kinesis,
        on_data_loss: str,
        poll_seconds: float,
        count: Callable[[str, int], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kinesis = kinesis
        self._on_data_loss = on_data_loss
        self._poll_seconds = poll_seconds
        self._count = count
        self._monotonic = monotonic
        self._cursors: dict[str, _Cursor] = {}
        self._same: tuple[int, float] | None = None

    def due(self, group: Group) -> list[str]:
        """The shards of a group, the longest due first: none starves where time is short."""
        fresh = _Cursor()
        return sorted(
            group.shards, key=lambda name: (self._cursors.get(name, fresh).not_before, name)
        )

    def step(self, group: Group, shard: str) -> Step:
        """Look at one shard of a group; call :meth:`done` when the step is claimed.

        Raises:
            KinesisSourceError: reading cannot go on.
        """
        position = group.shards[shard]
        cursor = self._cursors.setdefault(shard, _Cursor())
        pause = cursor.not_before - self._monotonic()
        if pause > 0:
            return Step(shard, None, pause)
        try:
            try:
                return self._look(group, shard, position, cursor)
            except ShardGone as error:
                cursor.iterator = None
                return self._gone(group, shard, str(error))
        except IteratorExpired:
            self._count("kinesis_iterators_expired", 1)
            cursor.iterator = None
            return self._later(shard, cursor)
        except Exception as error:
            if not is_passing(error):
                raise
            return self._backed_off(shard, cursor, error)

    def done(self, step: Step) -> None:
        """The step was claimed: the next look goes on from it."""
        cursor = self._cursors.setdefault(step.shard, _Cursor())
        if step.after is None or step.shard not in step.after.shards:
            self._cursors.pop(step.shard, None)
            return
        cursor.iterator, cursor.issued = step.iterator, self._monotonic()
        cursor.sequence = step.after.shards[step.shard].sequence
        cursor.not_before = cursor.issued + step.wait_seconds

    def _look(self, group: Group, shard: str, position: Position, cursor: _Cursor) -> Step:
        fresh = self._monotonic() - cursor.issued < ITERATOR_SECONDS
        if cursor.iterator is None or cursor.sequence != position.sequence or not fresh:
            self._same_stream(group)
            in_doubt = self._in_doubt(position)
            sequence = position.sequence
            if in_doubt and not (sequence and self._kinesis.has(shard, sequence)):
                return self._gone(group, shard, "retention has passed since it was last read")
            cursor.iterator = self._kinesis.iterator(shard, position)
            cursor.sequence = sequence
            cursor.issued = self._monotonic()
            if in_doubt:  # that was a call for records already
                return self._later(shard, cursor)
        polled = self._kinesis.poll(cursor.iterator, position)
        cursor.failures = 0
        self._later(shard, cursor)
        self._count("kinesis_polls", 1)
        after = group.moved(shard, _advanced(position, polled))
        if polled.next_iterator is None:
            return self._at_end(after, shard, polled)
        return self._step(after, shard, polled, self._pause(polled))

    def _later(self, shard: str, cursor: _Cursor) -> Step:
        """Nothing new, and no other call for records before Kinesis allows it."""
        wait = self._kinesis.config.call_seconds
        cursor.not_before = self._monotonic() + wait
        return Step(shard, None, wait)

    def _pause(self, polled: Polled) -> float:
        """Kinesis's limits per shard while there is more to read, patience at its tip."""
        config = self._kinesis.config
        allowed = max(config.call_seconds, polled.bytes / config.shard_bytes_a_second)
        return allowed if polled.behind_ms else max(allowed, self._poll_seconds)

    def _step(self, after: Group, shard: str, polled: Polled, wait: float) -> Step:
        return Step(
            shard,
            after,
            wait,
            polled.records,
            polled.behind_ms,
            polled.asked_ms,
            polled.next_iterator,
        )

    def _at_end(self, after: Group, shard: str, polled: Polled) -> Step:
        """The end of a shard counts only with its children known: else it is asked again."""
        listed = self._kinesis.list_shards()
        if replaced(shard, after.shards[shard], listed):
            self._count("kinesis_shards_finished", 1)
            return self._step(after.ended(shard, listed), shard, polled, 0.0)
        self._count("kinesis_ends_without_children", 1)
        return self._step(after, shard, polled, self._poll_seconds)

    def _in_doubt(self, position: Position) -> bool:
        """Whether retention may have taken something between the position and the next read."""
        age_ms = self._kinesis.now_ms() - position.settled_ms
        if age_ms < SHORTEST_RETENTION_MS - _MARGIN_MS:
            return False
        if position.sequence:
            return age_ms > self._kinesis.retention_ms() - _MARGIN_MS
        # Never looked at, and neither was a parent: whatever there is is the beginning.
        if position.settled_ms <= max(0, position.start_ms):
            return False
        return age_ms > self._kinesis.retention_ms() + _MARGIN_MS

    def _same_stream(self, group: Group) -> None:
        """Positions without a sequence number would be good for any stream of the name."""
        now = self._monotonic()
        if self._same and self._same[0] == group.stream_created_ms and now < self._same[1]:
            return
        if abs(self._kinesis.created_ms() - group.stream_created_ms) > 1_000:
            raise StreamRecreated(
                f"stream {self._kinesis.config.stream} is not the one that was being read: it was "
                f"made anew. Positions in the old one mean nothing here, and what was not read of "
                f"it is gone. Start without the saved state to read the new one."
            )
        self._same = (group.stream_created_ms, now + SAME_STREAM_SECONDS)

    def _gone(self, group: Group, shard: str, reason: str) -> Step:
        name = self._kinesis.config.stream
        self._same = None
        self._same_stream(group)
        if self._on_data_loss == FAIL:
            raise DataLoss(
                f"shard {shard} of {name} cannot be read on after sequence number "
                f"{group.shards[shard].sequence or '(its beginning)'}: {reason}. Records may have "
                f"left the stream unread. --on-data-loss {CONTINUE} counts this and goes on with "
                f"the oldest record; then back-fill the gap from your logs."
            )
        self._count("kinesis_data_loss", 1)
        _LOG.error(
            "kinesis data loss: stream=%s shard=%s after=%s reason=%s; going on with the oldest "
            "record there is, back-fill the gap from logs",
            name,
            shard,
            group.shards[shard].sequence,
            reason,
        )
        listed = self._kinesis.list_shards()
        if shard in listed:
            start = msgspec.structs.replace(
                group.shards[shard], sequence="", start_ms=TRIM_HORIZON, settled_ms=0
            )
            return Step(shard, group.moved(shard, start), self._kinesis.config.call_seconds)
        return Step(shard, group.lost(shard, listed), 0.0)

    def _backed_off(self, shard: str, cursor: _Cursor, error: Exception) -> Step:
        """Wait, longer each time. Nothing is given up: the runner keeps the position meanwhile."""
        cursor.failures += 1
        wait = backoff_seconds(cursor.failures)
        cursor.not_before = self._monotonic() + wait
        self._count("kinesis_throttled" if is_throttling(error) else "kinesis_retries", 1)
        if cursor.failures.bit_count() == 1:  # the 1st, 2nd, 4th, ...: an hour leaves few lines
            _LOG.warning(
                "kinesis waits: stream=%s shard=%s failures=%d wait_s=%.1f error=%s",
                self._kinesis.config.stream,
                shard,
                cursor.failures,
                wait,
                error,
            )
        return Step(shard, None, wait)


def _advanced(position: Position, polled: Polled) -> Position:
    """The position after a poll. At the tip there was nothing more when the server answered."""
    sequence, settled_ms = position.sequence, position.settled_ms
    if polled.records:
        sequence = polled.records[-1].sequence
        settled_ms = max(settled_ms, polled.records[-1].arrived_ms)
    if polled.behind_ms == 0 and polled.next_iterator is not None:
        settled_ms = max(settled_ms, polled.asked_ms)
    return msgspec.structs.replace(position, sequence=sequence, settled_ms=settled_ms)
