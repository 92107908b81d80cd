"""Streams to files: what is written together is collected first, by size and time.

A stream has no end that could close a file, and a file per batch would be a file per second. So
pieces wait in the runner's state, in the global window (where nothing is ever late), until there
is enough of them or the oldest has waited long enough.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
import xxhash
from apache_beam.transforms import trigger
from apache_beam.transforms.window import GlobalWindows

from adtally.io.arrow import to_ipc
from adtally.io.panes import GroupPanes

PIECE_BYTES: Final = 256 << 10
"""Arrow bytes of a piece: large batches are cut, so that counting pieces bounds bytes."""

PIECES: Final = 512
"""Pieces that are written at once at the latest: 128 MB."""


@dataclass(frozen=True)
class Flush:
    """When what a stream writes becomes files.

    Attributes:
        job: identity of the run; part of every name.
        seconds: the longest that something waits (processing time).
        keys: files that are collected side by side.
        pieces: written at the latest when there are so many, of ``PIECE_BYTES``.
    """

    job: str
    seconds: int = 300
    keys: int = 1
    pieces: int = PIECES

    def name(self, key: int, pane_index: int, digest: str) -> str:
        """Name of a file, without its ending.

        After a restore a pane may be cut in another way: its contents are part of the name, so
        nothing that was written is ever replaced by something else.
        """
        return f"{self.job}-{key:04d}-{pane_index:06d}-{digest}"


@dataclass
class Collect(beam.PTransform):
    """Bytes to ``(key, all bytes of a pane)``, at least every ``flush.seconds``.

    Attributes:
        flush: when.
        place: elements of the same place are collected together, as far as there are keys.
        pieces: an element as bytes.
    """

    flush: Flush
    place: Callable[[Any], str]
    pieces: Callable[[Any], Iterable[bytes]]

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, elements: Any) -> Any:
        place, pieces, keys = self.place, self.pieces, self.flush.keys

        def keyed(element: Any) -> Iterable[tuple[int, bytes]]:
            key = zlib.crc32(place(element).encode()) % keys
            return [(key, piece) for piece in pieces(element)]

        ready = trigger.AfterAny(
            trigger.AfterCount(self.flush.pieces), trigger.AfterProcessingTime(self.flush.seconds)
        )
        return (
            elements
            | "Cut" >> beam.FlatMap(keyed).with_output_types(tuple[int, bytes])
            | "Wait"
            >> beam.WindowInto(
                GlobalWindows(),
                trigger=trigger.Repeatedly(ready),
                accumulation_mode=trigger.AccumulationMode.DISCARDING,
            )
            | "Collect" >> GroupPanes()
        )


def table_pieces(table: pa.Table) -> list[bytes]:
    """A table as Arrow IPC streams of about ``PIECE_BYTES``; none of an empty one."""
    if not table.num_rows:
        return []
    own = without_views(table)
    count = min(own.num_rows, max(1, -(-own.nbytes // PIECE_BYTES)))
    step = -(-own.num_rows // count)
    return [to_ipc(own.slice(start, step)) for start in range(0, own.num_rows, step)]


def without_views(table: pa.Table) -> pa.Table:
    """Texts in plain arrays: a slice of string views is serialised with the text of all rows."""
    fields = [
        field.with_type(pa.string()) if field.type == pa.string_view() else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields, table.schema.metadata))


def digest(pieces: Iterable[bytes]) -> str:
    """Short name of what some pieces hold, in whatever order they come."""
    hashes = sorted(xxhash.xxh3_128_digest(piece) for piece in pieces)
    return xxhash.xxh3_64_hexdigest(b"".join(hashes))
