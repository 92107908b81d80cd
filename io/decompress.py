"""Streams of bytes out of compressed files, keeping what can be read of a broken one."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

import zstandard
from isal import isal_zlib

READ_BYTES: Final = 1 << 20

STORED_BYTES: Final = 128 << 10
"""Compressed bytes decoded at a time."""

_CAREFUL_BYTES: Final = 512
"""Compressed bytes decoded at a time before damage: what these hold is lost, some kilobytes."""

_GZIP_WINDOW: Final = 31  # zlib's wbits for a gzip header and a 32 kB window

FACTORIES: Final[dict[str, Callable[[], Any]]] = {
    "gzip": lambda: isal_zlib.decompressobj(wbits=_GZIP_WINDOW),
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    "bzip2": bz2.BZ2Decompressor,
}
"""Compression name to a maker of incremental decompressors."""

SUFFIXES: Final = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2"}
"""File name endings that mean compression."""

EXPANSION: Final = {"none": 1, "gzip": 8, "zstd": 9, "bzip2": 11}
"""Uncompressed bytes per stored byte, a planning figure: JSON logs gave 7.5 with gzip."""


_DATA_ERRORS: tuple[Any, ...] = (isal_zlib.error, zlib.error, zstandard.ZstdError, OSError)


class BrokenFile(Exception):
    """A file's compressed data ends early or is damaged; what came before it was delivered."""


def decompressed(
    file: BinaryIO, compression: str, step_bytes: int = STORED_BYTES
) -> Iterator[bytes]:
    """Yield the uncompressed bytes of ``file`` in pieces, over all its members or frames.

    Raises:
        BrokenFile: after what is readable was yielded, up to a few kilobytes before the damage.
        OSError: reading failed; the caller may try again.
    """
    if compression == "none":
        yield from iter(lambda: file.read(READ_BYTES), b"")
        return
    make = FACTORIES[compression]
    machine, started, done = make(), False, 0
    while True:
        data = file.read(step_bytes)
        if not data:
            break
        while data:
            if machine.eof:  # another member follows; zero padding after the last is common
                data = data.lstrip(b"\0")
                if not data:
                    break
                machine, started = make(), False
            try:
                piece = machine.decompress(data)
            except _DATA_ERRORS as error:
                if step_bytes > _CAREFUL_BYTES:  # the step's sound part went with the error
                    yield from _carefully(file, compression, done)
                raise BrokenFile(
                    f"damaged {compression} data after {done:,} uncompressed bytes: {error}"
                ) from error
            started, done = True, done + len(piece)
            data = machine.unused_data if machine.eof else b""
            if piece:
                yield piece
    if started and not machine.eof:
        raise BrokenFile(f"truncated {compression} data after {done:,} uncompressed bytes")


def _carefully(file: BinaryIO, compression: str, skip: int) -> Iterator[bytes]:
    """Decompress a damaged file again in small steps, and yield what comes after ``skip`` bytes."""
    file.seek(0)
    for piece in decompressed(file, compression, _CAREFUL_BYTES):
        if len(piece) > skip:
            yield piece[skip:]
        skip = max(0, skip - len(piece))
