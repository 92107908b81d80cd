"""What a runner tracks of a Pub/Sub source: readers without positions."""

from __future__ import annotations

import apache_beam as beam
import msgspec
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker


class Reader(msgspec.Struct, frozen=True):
    """What a checkpoint knows of a reader: positions it has none.

    Attributes:
        number: of the reader; -1 for all, before they are split.
        call: identity of the call that claimed last; empty before the first.
        turns: pulls that were claimed.
        ended: whether the rest was handed back.
    """

    number: int = -1
    call: str = ""
    turns: int = 0
    ended: bool = False

    def next(self, call: str) -> Reader:
        """The reader after another pull."""
        return msgspec.structs.replace(self, call=call, turns=self.turns + 1)


class ReaderCoder(beam.coders.Coder):
    """JSON: a checkpoint is readable by people and by later versions, and never unpickled."""

    def encode(self, value: Reader) -> bytes:
        return msgspec.json.encode(value)

    def decode(self, encoded: bytes) -> Reader:
        return msgspec.json.decode(encoded, type=Reader)

    def is_deterministic(self) -> bool:
        return True


class ReaderTracker(RestrictionTracker):
    """Tracks a reader: it has no end, and can be checkpointed between two pulls."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def current_restriction(self) -> Reader:
        return self._reader

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(fraction=0.0)

    def try_claim(self, position: Reader) -> bool:
        """Claim the next turn, given as the reader after it."""
        if self._reader.ended:
            return False
        self._reader = position
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Reader, Reader] | None:
        if fraction_of_remainder != 0 or self._reader.ended:
            return None
        rest = self._reader
        self._reader = msgspec.structs.replace(rest, ended=True)
        return self._reader, rest

    def check_done(self) -> None:
        if not self._reader.ended:
            raise ValueError(f"reader {self._reader.number} was not handed back")

    def is_bounded(self) -> bool:
        return False
