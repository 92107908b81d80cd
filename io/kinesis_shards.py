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
        finished: shards read to their end whose child still waits for others of the group.
        adopted: children whose first parent had left the stream before reading began, so that they
            belong to the group of the second.
    """

    stream_created_ms: int = 0
    start_ms: int = TRIM_HORIZON
    shards: dict[str, Position] = {}
    finished: tuple[str, ...] = ()
    adopted: tuple[str, ...] = ()

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

    def owner(self, child: Shard) -> str:
        """The parent whose group reads a child: never another, whatever has left the stream."""
        return child.adjacent_parent if child.id in self.adopted else child.parent

    def ended(self, shard: str, listed: Mapping[str, Shard]) -> Group:
        """The group after the end of a shard: its children take its place.

        A child with two parents belongs to the group of its first (the other group's watermark
        holds back what that one has not read). It waits for all of its ancestors in the group.
        """
        at = self.shards[shard]
        others = dict(self.without(shard).shards)
        finished = {*self.finished, shard}
        coming = {
            child.id: child
            for name in finished
            for child in children(name, listed)
            if self.owner(child) == name and child.id not in others
        }
        unread = {*others, *coming}
        waited_for = set()
        for child in coming.values():
            if unread.isdisjoint(ancestors(child, listed)):
                others[child.id] = self._beginning(child, at.settled_ms)
            else:
                waited_for.add(self.owner(child))
        return msgspec.structs.replace(self, shards=others, finished=tuple(sorted(waited_for)))

    def _beginning(self, shard: Shard, settled_ms: int) -> Position:
        return Position(
            start_ms=self.start_ms,
            settled_ms=settled_ms,
            first_hash=shard.first_hash,
            last_hash=shard.last_hash,
        )

    def lost(self, shard: str, listed: Mapping[str, Shard]) -> Group:
        """The group after a shard has gone from the stream unread, as retention had ended.

        Its children are begun; where they are gone as well, the oldest shards of its hash keys.
        """
        at = msgspec.structs.replace(self.shards[shard], settled_ms=0)
        after = self.moved(shard, at).ended(shard, listed)
        heirs = {
            root.id: self._beginning(root, 0)
            for root in roots(listed.values())
            if int(at.first_hash) <= int(root.first_hash) <= int(at.last_hash)
            and shard not in root.parents
            and self.owner(root) not in after.shards
        }
        return msgspec.structs.replace(after, shards={**heirs, **after.shards})


def children(shard: str, listed: Mapping[str, Shard]) -> list[Shard]:
    """Shards that came out of one."""
    return [child for child in listed.values() if shard in child.parents]


def ancestors(shard: Shard, listed: Mapping[str, Shard]) -> set[str]:
    """Its parents, theirs, and so on as far as the stream has them."""
    found: set[str] = set()
    ahead = list(shard.parents)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += listed[name].parents if name in listed else ()
    return found


def replaced(shard: str, position: Position, listed: Mapping[str, Shard]) -> bool:
    """Whether all children of a shard are known: together they have its range of hash keys."""
    first, last = int(position.first_hash), int(position.last_hash)
    shared = sum(
        min(last, int(child.last_hash)) - max(first, int(child.first_hash)) + 1
        for child in children(shard, listed)
    )
    return shared == last - first + 1


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
    names = {shard.id for shard in listed}
    adopted = sorted(
        shard.id for shard in listed if shard.parent not in names and shard.adjacent_parent in names
    )
    return Group(
        stream_created_ms=stream_created_ms,
        start_ms=start_ms,
        shards=positions,
        adopted=tuple(adopted),
    )


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
