"""What a record, a file or a chunk may be at most: input is written by others, and some attack."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

MAX_DEPTH: Final = 100
"""Levels of nesting that are decoded at all: JSONPath gives up at 128, and stacks end somewhere."""

RATIO_FROM_BYTES: Final = 64 << 20
"""A file may expand to this whatever its ratio: it costs a second, and repetitive files exist."""

KEPT_BYTES: Final = 64 << 10
"""Bytes of an over-long record that its dead letter keeps: enough to see who sends it."""

LETTERS_AT_LEAST: Final = 1_000
"""Dead letters of a chunk that are written whatever its size."""

READ_STAGE: Final = "read"
"""Of dead letters that hold no whole record: a replay keeps them as they are."""


class LimitError(ValueError):
    """A limit that cannot be used; the message says which, and what to write instead."""


@dataclass(frozen=True)
class Limits:
    """Every breach is a dead letter, or counted in one that stands for many; ``docs/limits.md``.

    Attributes:
        record_bytes: of a line or message. Events have some 500 bytes; 1 MiB is what a record of
            Kinesis held for ten years.
        id_bytes: of each identifier. Every id may become a key elsewhere, of which a partition key
            of Kinesis takes the least, 256 characters.
        text_bytes: of ``user_agent``, ``url`` and ``schema_version``: 32 KiB, as web servers take
            headers and addresses of 8 to 32 KiB at most.
        id_controls: identifiers with control characters, or with U+FFFD, count. It stands for text
            that was lost on the way: two ids that lost something become one.
        depth: levels of nesting.
        fields: of a record, at its top level.
        ratio: uncompressed bytes of a file per stored byte, beyond ``RATIO_FROM_BYTES``. JSON logs
            have 10 to 30, lines that differ in a counter alone 60; gzip cannot exceed 1,032.
        file_bytes: uncompressed bytes of a compressed file. Plain files are as large as they are.
        letters_per_mib: dead letters of a chunk, per MiB of it, before the rest shares one. No
            event fits into 32 bytes; a letter takes ten times that.
    """

    record_bytes: int = 1 << 20
    id_bytes: int = 256
    text_bytes: int = 32 << 10
    id_controls: bool = False
    depth: int = MAX_DEPTH
    fields: int = 1_000
    ratio: int = 500
    file_bytes: int = 256 << 30
    letters_per_mib: int = 1 << 15

    def __post_init__(self) -> None:
        lowest = {"record_bytes": 64, "id_bytes": 32, "text_bytes": 32, "fields": 64}
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), lowest.get(field.name, 1)
            if field.name != "id_controls" and value < least:
                raise LimitError(
                    f"limit {field.name} is {value:,}; honest records would be refused. Give "
                    f"{least:,} or more."
                )
        if self.depth > MAX_DEPTH:
            raise LimitError(f"limit depth is {self.depth}; at most {MAX_DEPTH} can be decoded.")
        if self.record_bytes > 1 << 30:
            raise LimitError(
                f"limit record_bytes is {self.record_bytes:,}; a record has to fit into memory "
                f"several times. Give {1 << 30:,} or less."
            )

    def letters(self, chunk_bytes: int) -> int:
        """Dead letters that a chunk of so many bytes may have."""
        return LETTERS_AT_LEAST + chunk_bytes * self.letters_per_mib // (1 << 20)


RECORD_TOO_LARGE: Final = "record_too_large"
TOO_DEEP: Final = "too_deep"
TOO_MANY_FIELDS: Final = "too_many_fields"
ID_TOO_LONG: Final = "id_too_long"
INVALID_ID: Final = "invalid_id"
TEXT_TOO_LONG: Final = "text_too_long"
EXPANDS_TOO_MUCH: Final = "expands_too_much"
TOO_MANY_LETTERS: Final = "too_many_dead_letters"

OF_RECORDS: Final = frozenset(
    {RECORD_TOO_LARGE, TOO_DEEP, TOO_MANY_FIELDS, ID_TOO_LONG, INVALID_ID, TEXT_TOO_LONG}
)
"""Error types of records that are over a limit."""
