"""Read blocks of historical logs: bytes cut at line ends, with every line's address kept."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import tenacity

from adtally.io.decompress import READ_BYTES, BrokenFile, decompressed
from adtally.io.files import open_file
from adtally.io.limits import Limits
from adtally.io.logs import Block, Span

CHUNK_BYTES: Final = 8 << 20
"""Uncompressed bytes decoded at a time. Smaller costs calls, larger costs memory: decoding needs
about four times this."""

READ_ATTEMPTS: Final = 4
_TAIL_BYTES: Final = 64 << 10  # read at a time to find a line end
_BOM: Final = b"\xef\xbb\xbf"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Segment:
    """From ``chunk_offset`` of a chunk on, bytes come from ``source`` at ``source_offset``.

    ``arrived_ms`` is when a stream took them (milliseconds since the epoch); None for files.
    """

    chunk_offset: int
    source: str
    source_offset: int
    arrived_ms: int | None = None


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A file, or the rest of one, that could not be read, and why."""

    source: str
    position: int
    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class CutLine:
    """A line too long to be held: of the chunk's line at an offset, how long it is in its file."""

    chunk_offset: int
    line_bytes: int


@dataclass(slots=True)
class LogChunk:
    """Whole lines of JSON from one or more files of a block.

    Attributes:
        block: name of the block that the lines belong to.
        sequence: number of the chunk within its block.
        data: the bytes; every line ends with a line feed.
        segments: where they came from, by rising ``chunk_offset``.
        unreadable: files that failed while this chunk was read.
        cut: lines of which the chunk holds the begin, one byte more than a record may have.
        stored_bytes: bytes of the files as stored, for progress.
        files: files finished within this chunk, for progress.
        watermark_ms: of the stream when it gave the lines, where it may give lines behind it;
            windows that have ended by then may be gone.
    """

    block: str
    sequence: int
    data: bytes = b""
    segments: list[Segment] = field(default_factory=list)
    unreadable: list[UnreadableFile] = field(default_factory=list)
    cut: list[CutLine] = field(default_factory=list)
    stored_bytes: int = 0
    files: int = 0
    watermark_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """Whole lines from an offset on, or the begin of one line of ``line_bytes``."""

    offset: int
    data: bytes
    line_bytes: int = 0


def read_chunks(
    block: Block, chunk_bytes: int = CHUNK_BYTES, limits: Limits | None = None
) -> Iterator[LogChunk]:
    """Read a block of JSON logs as chunks of whole lines, never losing the rest of a file.

    A file that cannot be opened or read, after retries, becomes an ``UnreadableFile``; what was
    read of it before stays. Line ends are added where a file's last line has none. Of a line that
    is longer than a chunk and than ``limits`` allow, the rest is passed over.
    """
    limits = limits or Limits()
    pieces: list[bytes] = []
    size = 0
    chunk = LogChunk(block.name, 0)
    for span in block.spans:
        for part in _parts_of(span, chunk_bytes, limits):
            if isinstance(part, UnreadableFile):
                chunk.unreadable.append(part)
                continue
            data = part.data if part.data.endswith(b"\n") else part.data + b"\n"
            chunk.segments.append(Segment(size, span.file.path, part.offset))
            if part.line_bytes:
                chunk.cut.append(CutLine(size, part.line_bytes))
            pieces.append(data)
            size += len(data)
            if size >= chunk_bytes:
                chunk.data = b"".join(pieces) if len(pieces) > 1 else pieces[0]
                yield chunk
                chunk, pieces, size = LogChunk(block.name, chunk.sequence + 1), [], 0
        chunk.files += 1 if span.end in (-1, span.file.stored_bytes) else 0
        chunk.stored_bytes += span.stored_bytes
    chunk.data = b"".join(pieces)
    yield chunk


def _parts_of(span: Span, chunk_bytes: int, limits: Limits) -> Iterator[_Part | UnreadableFile]:
    """Yield the lines of a span, and what went wrong as an ``UnreadableFile``.

    The last line may lack its end. The position of what went wrong is that of the first byte that
    was not read.
    """
    position = span.start
    try:
        for part in _whole_lines(_pieces(span, limits), chunk_bytes, limits.record_bytes):
            yield part
            position = part.offset + (part.line_bytes or len(part.data))
    except BrokenFile as error:
        yield UnreadableFile(span.file.path, position, error.error_type, str(error))
    except OSError as error:
        message = f"cannot be read after {READ_ATTEMPTS} attempts: {error}"
        yield UnreadableFile(span.file.path, position, "unreadable_file", message)


def _whole_lines(
    pieces: Iterator[tuple[int, bytes]], chunk_bytes: int, longest: int
) -> Iterator[_Part]:
    """Cut a stream of (offset, bytes) at line ends into parts of about ``chunk_bytes``.

    A line that no part can hold is given up to one byte more than ``longest``, when its end is
    found: memory stays bounded whatever a file holds.
    """
    offset = 0
    held: list[bytes] = []
    size, limit = 0, chunk_bytes
    passed = 0  # length so far of a line that is too long, of which `held` is the begin
    error: BrokenFile | OSError | None = None
    try:
        for at, piece in pieces:
            if passed:
                end = piece.find(b"\n")
                passed += len(piece) if end < 0 else end
                if end < 0:
                    continue
                yield _Part(*_without_mark(offset, held[0]), passed)
                at, piece = at + end + 1, piece[end + 1 :]
                held, size, passed = [], 0, 0
            if not held:
                offset = at
            held.append(piece)
            size += len(piece)
            if size >= limit:
                data = b"".join(held)
                end = data.rfind(b"\n") + 1
                if end:
                    yield _Part(*_without_mark(offset, data[:end]))
                    offset += end
                held, size = [data[end:]], len(data) - end
                limit = max(chunk_bytes, 2 * size)  # a very long line is joined few times
                if size > max(longest, chunk_bytes):
                    held, passed, limit = [data[end : end + longest + 1]], size, chunk_bytes
    except (BrokenFile, OSError) as failure:
        error = failure
    offset, data = _without_mark(offset, b"".join(held))
    if data:
        yield _Part(offset, data, passed)
    if error is not None:
        raise error


def _without_mark(offset: int, data: bytes) -> tuple[int, bytes]:
    """A file's bytes without the byte order mark that some programs begin it with."""
    if offset == 0 and data.startswith(_BOM):
        return len(_BOM), data[len(_BOM) :]
    return offset, data


def _pieces(span: Span, limits: Limits) -> Iterator[tuple[int, bytes]]:
    """(offset, uncompressed bytes) of a span, read again without what came when reading fails."""
    reached = 0
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(OSError),
        stop=tenacity.stop_after_attempt(READ_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
        before_sleep=tenacity.before_sleep_log(_LOG, logging.WARNING),
    ):
        with attempt, _errors_of_reading():
            for at, piece in _span_bytes(span, limits):
                end = at + len(piece)
                if end > reached:
                    fresh = max(at, reached)
                    reached = end
                    yield fresh, piece[fresh - at :]


@contextlib.contextmanager
def _errors_of_reading() -> Iterator[None]:
    """Turn what filesystems raise into OSError: S3 and Google's clients have types of their own."""
    try:
        yield
    except (BrokenFile, OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _span_bytes(span: Span, limits: Limits) -> Iterator[tuple[int, bytes]]:
    return _file_bytes(span, limits) if span.end < 0 else _range_bytes(span)


def _file_bytes(span: Span, limits: Limits) -> Iterator[tuple[int, bytes]]:
    """All bytes of a file."""
    at = 0
    with open_file(span.file.path) as file:
        for piece in decompressed(file, span.file.compression, limits):
            yield at, piece
            at += len(piece)


def _range_bytes(span: Span) -> Iterator[tuple[int, bytes]]:
    """Lines that begin within ``[start, end)`` of a plain file.

    A line over many ranges is read by the one that it begins in; the others read their own bytes.
    """
    with open_file(span.file.path) as file:
        position, data = span.start, b""
        if position:
            position -= 1
            file.seek(position)
            while (found := data.find(b"\n")) < 0:
                position += len(data)
                if position >= span.end:
                    return
                data = file.read(_TAIL_BYTES)
                if not data:
                    return
            position, data = position + found + 1, data[found + 1 :]
        while position < span.end:
            room = span.end - position
            data = data or file.read(min(READ_BYTES, room))
            if not data:
                return
            if len(data) >= room:
                yield from _to_line_end(file, position, data, room - 1)
                return
            yield position, data
            position, data = position + len(data), b""


def _to_line_end(
    file: BinaryIO, position: int, data: bytes, begin: int
) -> Iterator[tuple[int, bytes]]:
    """``data``, and what follows in the file, up to the first line end from ``begin`` on."""
    while data:
        end = data.find(b"\n", begin)
        if end >= 0:
            yield position, data[: end + 1]
            return
        yield position, data
        position, begin = position + len(data), 0
        data = file.read(_TAIL_BYTES)


def prefetched(chunks: Iterator[LogChunk], depth: int = 1) -> Iterator[LogChunk]:
    """Read ahead in a thread, so that reading and gunzip overlap with decoding."""
    ready: queue.Queue[LogChunk | BaseException | None] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def offer(item: LogChunk | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for chunk in chunks:
                if not offer(chunk):
                    return
            offer(None)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            offer(error)

    thread = threading.Thread(target=read, name="adtally-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
