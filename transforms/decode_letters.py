"""Dead letters of a chunk: one for each record that gave no event, until there are too many."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from adtally.io.dead_letters import DeadLetter
from adtally.io.limits import OF_RECORDS, READ_STAGE, RECORD_TOO_LARGE, TOO_MANY_LETTERS
from adtally.io.read_logs import LogChunk, Segment

PART_LINES: Final = 1 << 17
"""Lines decoded at a time: a chunk of 8 MiB has 16,000, one of empty objects millions."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A record that gave no event.

    ``offset`` is that of its line in the chunk, ``payload`` is None for the whole line, ``row``
    its number among the rows that were parsed, or -1.
    """

    offset: int
    error_type: str
    message: str
    payload: bytes | None = None
    row: int = -1


def parts_of(chunk: LogChunk) -> Iterator[LogChunk]:
    """A chunk in parts of so many lines that their Python objects fit into memory."""
    if chunk.data.count(b"\n") <= PART_LINES:
        yield chunk
        return
    ends = np.flatnonzero(np.frombuffer(chunk.data, np.uint8) == 10)[PART_LINES - 1 :: PART_LINES]
    borders = [0, *(int(end) + 1 for end in ends), len(chunk.data)]
    starts = [segment.chunk_offset for segment in chunk.segments]
    for begin, end in itertools.pairwise(borders):
        if begin == end:
            continue
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        last = int(np.searchsorted(starts, end, side="left"))
        yield LogChunk(
            block=chunk.block,
            sequence=chunk.sequence,
            data=chunk.data[begin:end],
            segments=[_moved(one, begin) for one in chunk.segments[first:last]],
            cut=[
                type(one)(one.chunk_offset - begin, one.line_bytes)
                for one in chunk.cut
                if begin <= one.chunk_offset < end
            ],
        )


def _moved(segment: Segment, begin: int) -> Segment:
    """A segment as one of a part of its chunk that begins there."""
    before = max(0, begin - segment.chunk_offset)
    return Segment(
        segment.chunk_offset + before - begin,
        segment.source,
        segment.source_offset + before,
        segment.arrived_ms,
    )


class Letters:
    """Collects the dead records of a chunk, part by part.

    Args:
        now_ms: stamped on them.
        most: letters; beyond, records are counted in one more, with the first and last address.
    """

    def __init__(self, now_ms: int, most: int) -> None:
        self._now_ms = now_ms
        self._most = most
        self._letters: list[DeadLetter] = []
        self._kinds: collections.Counter[str] = collections.Counter()
        self._first = self._last = ("", 0)
        self.dead = self.over_limit = 0

    @property
    def without(self) -> int:
        """Records that have no letter of their own."""
        return self._kinds.total()

    def add(self, chunk: LogChunk, dead: Sequence[Dead]) -> None:
        """Add the dead records of a part, which is a chunk of its own."""
        starts = np.array([one.chunk_offset for one in chunk.segments], dtype=np.int64)
        offsets = np.array([one.offset for one in dead], dtype=np.int64)
        places = (np.searchsorted(starts, offsets, side="right") - 1).tolist()
        self.dead += len(dead)
        self.over_limit += sum(one.error_type in OF_RECORDS for one in dead)
        for one, place in zip(dead, places, strict=True):
            segment = chunk.segments[place]
            address = segment.source, one.offset - segment.chunk_offset + segment.source_offset
            if len(self._letters) < self._most:
                self._letters.append(self._letter(chunk, one, *address))
                continue
            if not self._kinds:
                self._first = address
            self._kinds[one.error_type] += 1
            self._last = address

    def written(self) -> list[DeadLetter]:
        """All letters, with the one that stands for many at the end."""
        if not self._kinds:
            return self._letters
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self._kinds.most_common())
        last, position = self._last
        message = (
            f"{self.without:,} more records of this chunk gave no event ({kinds}), and have no "
            f"letter of their own, being more than --max-dead-letters-per-mib allows; the last is "
            f"at {position} of {last}. Correct who writes them, or raise the limit, and read their "
            f"source again."
        )
        source, position = self._first
        letter = DeadLetter.of(
            failed_at=self._now_ms,
            stage=READ_STAGE,
            error_type=TOO_MANY_LETTERS,
            message=message,
            source=source,
            position=str(position),
            payload=b"",
        )
        return [*self._letters, letter]

    def _letter(self, chunk: LogChunk, dead: Dead, source: str, position: int) -> DeadLetter:
        payload = _line_at(chunk.data, dead.offset) if dead.payload is None else dead.payload
        return DeadLetter.of(
            failed_at=self._now_ms,
            stage=READ_STAGE if dead.error_type == RECORD_TOO_LARGE else "decode",
            error_type=dead.error_type,
            message=dead.message,
            source=source,
            position=str(position),
            payload=payload,
        )


def _line_at(data: bytes, offset: int) -> bytes:
    end = data.find(b"\n", offset)
    return data[offset : end if end >= 0 else len(data)].removesuffix(b"\r")
