"""Streams of bytes out of compressed files, keeping what can be read of a broken one.

However little is stored, no step gives more than some megabytes, and a file that expands beyond
its limits ends there: a frame of zstd holds 128 KiB in four bytes, a block of bzip2 900 kB in 40.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

import zstandard
from isal import isal_zlib

from adtally.io.limits import EXPANDS_TOO_MUCH, RATIO_FROM_BYTES, Limits

READ_BYTES: Final = 1 << 20

STORED_BYTES: Final = 128 << 10
"""Compressed bytes decoded at a time."""

_CAREFUL_BYTES: Final = 512
"""Compressed bytes decoded at a time before damage: what these hold is lost, some kilobytes."""

_PIECE_BYTES: Final = 1 << 20
_ZSTD_BYTES: Final = 1 << 10
"""Compressed bytes given to zstd at a time, which cannot be told to stop: 32 MiB come at most."""

ZSTD_WINDOW_BYTES: Final = 128 << 20
"""Memory that a frame of zstd may ask for; ``zstd --long`` without a number asks for as much."""

_GZIP_WINDOW: Final = 31  # zlib's wbits for a gzip header and a 32 kB window

SUFFIXES: Final = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2"}
"""File name endings that mean compression."""

EXPANSION: Final = {"none": 1, "gzip": 8, "zstd": 9, "bzip2": 11}
"""Uncompressed bytes per stored byte, a planning figure: JSON logs gave 7.5 with gzip."""


_DATA_ERRORS: tuple[Any, ...] = (isal_zlib.error, zlib.error, zstandard.ZstdError, OSError)


class BrokenFile(Exception):
    """A file's compressed data ends early or is damaged; what came before it was delivered."""

    error_type = "broken_file"


class ExpandsTooMuch(BrokenFile):
    """A file holds more than its limits allow; what came before that was delivered."""

    error_type = EXPANDS_TOO_MUCH


def decompressed(
    file: BinaryIO,
    compression: str,
    limits: Limits | None = None,
    step_bytes: int = STORED_BYTES,
) -> Iterator[bytes]:
    """Yield the uncompressed bytes of ``file`` in pieces, over all its members or frames.

    Raises:
        BrokenFile: after what is readable was yielded, up to a few kilobytes before the damage.
        ExpandsTooMuch: after what the limits allow was yielded.
        OSError: reading failed; the caller may try again.
    """
    if compression == "none":
        yield from iter(lambda: file.read(READ_BYTES), b"")
        return
    limits = limits or Limits()
    make, steps_of = _MACHINES[compression]
    machine, started, stored, done = make(), False, 0, 0
    while data := file.read(step_bytes):
        stored += len(data)
        while data:
            if machine.eof:  # another member follows; zero padding after the last is common
                data = data.lstrip(b"\0")
                if not data:
                    break
                machine, started = make(), False
            try:
                for piece in steps_of(machine, data):
                    started = True
                    if piece:
                        yield piece
                        done += len(piece)
                        _check(stored, done, limits)
            except _DATA_ERRORS as error:
                if step_bytes > _CAREFUL_BYTES:  # the step's sound part went with the error
                    yield from _carefully(file, compression, limits, done)
                raise BrokenFile(
                    f"damaged {compression} data after {done:,} uncompressed bytes: {error}"
                ) from error
            data = machine.unused_data if machine.eof else b""
    if started and not machine.eof:
        raise BrokenFile(f"truncated {compression} data after {done:,} uncompressed bytes")


def _check(stored: int, done: int, limits: Limits) -> None:
    if done > limits.file_bytes:
        raise ExpandsTooMuch(
            f"expands to more than {limits.file_bytes:,} bytes; raise --max-file-bytes if it may"
        )
    if done > RATIO_FROM_BYTES and done > stored * limits.ratio:
        raise ExpandsTooMuch(
            f"{stored:,} stored bytes expand to more than {done:,}, over {limits.ratio} for one; "
            f"raise --max-expansion if they may"
        )


def _gzip_step(machine: Any, data: bytes) -> Iterator[bytes]:
    while True:
        piece = machine.decompress(data, _PIECE_BYTES)
        yield piece
        data = machine.unconsumed_tail
        if machine.eof or (not data and len(piece) < _PIECE_BYTES):
            return


def _bzip2_step(machine: Any, data: bytes) -> Iterator[bytes]:
    while True:
        yield machine.decompress(data, _PIECE_BYTES)
        if machine.eof or machine.needs_input:
            return
        data = b""


class _Zstd:
    """A decompressor of one frame that is given little at a time, and knows what it did not use."""

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    def steps(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _ZSTD_BYTES):
            piece = self._frame.decompress(data[at : at + _ZSTD_BYTES])
            if self._frame.eof:
                self.unused_data = self._frame.unused_data + data[at + _ZSTD_BYTES :]
            for begin in range(0, len(piece), _PIECE_BYTES) or (0,):
                yield piece[begin : begin + _PIECE_BYTES]
            if self._frame.eof:
                return


_MACHINES: Final[dict[str, tuple[Callable[[], Any], Callable[[Any, bytes], Iterator[bytes]]]]] = {
    "gzip": (lambda: isal_zlib.decompressobj(wbits=_GZIP_WINDOW), _gzip_step),
    "zstd": (_Zstd, _Zstd.steps),
    "bzip2": (bz2.BZ2Decompressor, _bzip2_step),
}
"""Compression name to a maker of incremental decompressors, and what it makes of some bytes."""


def _carefully(file: BinaryIO, compression: str, limits: Limits, skip: int) -> Iterator[bytes]:
    """Decompress a damaged file again in small steps, and yield what comes after ``skip`` bytes."""
    file.seek(0)
    for piece in decompressed(file, compression, limits, _CAREFUL_BYTES):
        if len(piece) > skip:
            yield piece[skip:]
        skip = max(0, skip - len(piece))
