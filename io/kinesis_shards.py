"""Which shards are read and how far: the restriction of the Kinesis source, and nothing else.

A *group* is what one restriction reads: some shards with a position in each. When a shard ends, its
group takes over the children. Groups share no state, so they can run on any workers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import apache_beam as beam
import msgspec
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker

TRIM_HORIZON: Final = -1
"""As a start time: the oldest record that the stream still has."""

MAX_HASH: Final = (1 << 128) - 1


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """A shard as ``ListShards`` describes it.

    ``first_hash`` and ``last_hash`` (inclusive) are decimal text: they have 128 bits.
    """

    id: str
    parent: str = ""
    adjacent_parent: str = ""
    first_hash: str = "0"
    last_hash: str = str(MAX_HASH)
    closed: bool = False

    @property
    def parents(self) -> tuple[str, ...]:
        return tuple(name for name in (self.parent, self.adjacent_parent) if name)


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a shard is read.

    Attributes:
        sequence: number of the last record that was handed on; empty before the first.
        start_ms: where to begin while there is no sequence: arrival time, or ``TRIM_HORIZON``.
        settled_ms: no unread record of the shard arrived before this (milliseconds since the
            epoch): the arrival of the last one read, or when there was nothing more to read.
        first_hash: of the shard's range of hash keys.
        last_hash: its end, inclusive.
    """

    sequence: str = ""
    start_ms: int = TRIM_HORIZON
    settled_ms: int = 0
    first_hash: str = "0"
    last_hash: str = str(MAX_HASH)


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Shards that are read together, and how far; immutable.

    Attributes:
        stream_created_ms: when the stream was made; another time is another stream.
        start_ms: where the reading of the stream began.
        shards: positions by shard.
        finished: shards read to their end whose children are not all begun.
    """

    stream_created_ms: int = 0
    start_ms: int = TRIM_HORIZON
    shards: dict[str, Position] = {}
    finished: tuple[str, ...] = ()

    @property
    def settled_ms(self) -> int:
        """No unread record of the group arrived before this."""
        return min((position.settled_ms for position in self.shards.values()), default=0)

    @property
    def done(self) -> bool:
        return not self.shards

    def moved(self, shard: str, position: Position) -> Group:
        """The group with another position in one shard."""
        return msgspec.structs.replace(self, shards={**self.shards, shard: position})

    def without(self, shard: str) -> Group:
        """The group that leaves a shard as it is."""
        others = {name: where for name, where in self.shards.items() if name != shard}
        return msgspec.structs.replace(self, shards=others)

    def ended(self, shard: str, listed: Mapping[str, Shard]) -> Group:
        """The group after the end of a shard: its children take its place.

        A child with two parents waits for both, if both are this group's; it belongs to the group
        of its first parent (the other group's watermark holds back what that one has not read).
        """
        at = self.shards[shard]
        others = dict(self.without(shard).shards)
        finished = {*self.finished, shard}
        for child in children(shard, listed):
            if owner(child, listed) not in finished:
                continue
            if child.id not in others and not any(name in others for name in child.parents):
                others[child.id] = Position(
                    start_ms=self.start_ms,
                    settled_ms=at.settled_ms,
                    first_hash=child.first_hash,
                    last_hash=child.last_hash,
                )
        waited_for = {
            name
            for name in finished
            if any(
                child.id not in others and any(parent in others for parent in child.parents)
                for child in children(name, listed)
            )
        }
        return msgspec.structs.replace(self, shards=others, finished=tuple(sorted(waited_for)))

    def lost(self, shard: str, listed: Mapping[str, Shard]) -> Group:
        """The group after a shard has gone from the stream unread, as retention had ended.

        Its children are begun; if they are gone as well, what is left of its range of hash keys.
        """
        if children(shard, listed):
            return self.ended(shard, listed)
        at = self.shards[shard]
        heirs = {
            root.id: Position(
                start_ms=self.start_ms,
                settled_ms=at.settled_ms,
                first_hash=root.first_hash,
                last_hash=root.last_hash,
            )
            for root in roots(listed.values())
            if int(at.first_hash) <= int(root.first_hash) <= int(at.last_hash)
        }
        return msgspec.structs.replace(self, shards={**heirs, **self.without(shard).shards})


def children(shard: str, listed: Mapping[str, Shard]) -> list[Shard]:
    """Shards that came out of one."""
    return [child for child in listed.values() if shard in child.parents]


def owner(child: Shard, listed: Mapping[str, Shard]) -> str:
    """The parent whose group reads a child: the first that the stream still has."""
    return next((name for name in child.parents if name in listed), child.parent)


def roots(listed: Iterable[Shard]) -> list[Shard]:
    """Shards whose parents the stream has no longer: where reading begins, by hash key."""
    known = list(listed)
    names = {shard.id for shard in known}
    first = [shard for shard in known if not names.intersection(shard.parents)]
    return sorted(first, key=lambda shard: int(shard.first_hash))


def whole_stream(listed: Sequence[Shard], start_ms: int, stream_created_ms: int) -> Group:
    """All shards that reading begins with, as one group."""
    positions = {
        shard.id: Position(
            start_ms=start_ms,
            settled_ms=max(0, start_ms),
            first_hash=shard.first_hash,
            last_hash=shard.last_hash,
        )
        for shard in roots(listed)
    }
    return Group(stream_created_ms=stream_created_ms, start_ms=start_ms, shards=positions)


def cut(group: Group, readers: int) -> list[Group]:
    """A group as at most ``readers`` groups of neighbouring shards."""
    names = sorted(group.shards, key=lambda name: int(group.shards[name].first_hash))
    count = max(1, min(readers, len(names)))
    parts = [
        names[index * len(names) // count : (index + 1) * len(names) // count]
        for index in range(count)
    ]
    return [
        msgspec.structs.replace(group, shards={name: group.shards[name] for name in part})
        for part in parts
    ]


class GroupCoder(beam.coders.Coder):
    """JSON: a checkpoint is readable by people and by later versions, and never unpickled."""

    def encode(self, value: Group) -> bytes:
        return msgspec.json.encode(value)

    def decode(self, encoded: bytes) -> Group:
        return msgspec.json.decode(encoded, type=Group)

    def is_deterministic(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Claim:
    """A step from one state of a group to the next, about to be handed on."""

    before: Group
    after: Group


class GroupTracker(RestrictionTracker):
    """Tracks a group. A claim is a whole batch: records are never cut inside an aggregate."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._checkpointed = False

    def current_restriction(self) -> Group:
        return self._group

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(fraction=0.0)

    def try_claim(self, position: Claim) -> bool:
        if self._checkpointed:
            return False
        if position.before != self._group:
            raise ValueError("a claim has to begin where the last one ended; records would be lost")
        self._group = position.after
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Group, Group] | None:
        """Only a checkpoint: shards are never moved between groups while they are read."""
        if fraction_of_remainder != 0 or self._checkpointed or self._group.done:
            return None
        self._checkpointed = True
        rest = self._group
        self._group = msgspec.structs.replace(rest, shards={}, finished=())
        return self._group, rest

    def check_done(self) -> None:
        if not self._group.done:
            names = ", ".join(sorted(self._group.shards))
            raise ValueError(f"shards {names} are neither read to their end nor handed back")

    def is_bounded(self) -> bool:
        return False
