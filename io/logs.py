"""Historical logs: list the inputs and pack them into blocks of even size.

Fifteen thousand small files cost about as much as one big one: files are listed once, sorted,
and packed into blocks of about 64 MB uncompressed; a big plain file is split into byte ranges
whose borders the reader moves to line ends.
"""

from __future__ import annotations

import hashlib
import itertools
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from adtally.io.decompress import EXPANSION, SUFFIXES
from adtally.io.files import find
from adtally.io.local_files import FolderUnreadable, oddities, special

BLOCK_BYTES: Final = 64 << 20
"""Uncompressed bytes of a block: the unit of work of one worker, and of one event-log file."""

JSON_SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".log", ".txt")
PARQUET_SUFFIX: Final = ".parquet"
_PARQUET_EXPANSION: Final = 12  # JSON bytes per stored byte of our own event log, measured 11 to 13


class NoInput(ValueError):
    """An input pattern names nothing that can be read."""


@dataclass(frozen=True, slots=True, order=True)
class LogFile:
    """One input file. ``stored_bytes`` is its size as stored."""

    path: str
    stored_bytes: int
    format: str  # "json" or "parquet"
    compression: str  # "none", "gzip", "zstd", "bzip2"

    @property
    def estimated_bytes(self) -> int:
        """Uncompressed JSON bytes, estimated from the stored size."""
        expansion = _PARQUET_EXPANSION if self.format == "parquet" else EXPANSION[self.compression]
        return self.stored_bytes * expansion


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes ``[start, end)`` of a stored file; ``end`` is -1 for the whole file."""

    file: LogFile
    start: int = 0
    end: int = -1

    @property
    def stored_bytes(self) -> int:
        return (self.file.stored_bytes if self.end < 0 else self.end) - self.start


@dataclass(frozen=True, slots=True)
class Block:
    """A unit of reading: some spans of one format, named by their identity.

    The same inputs give the same names, on any machine and in any run.
    """

    name: str
    spans: tuple[Span, ...]

    @property
    def format(self) -> str:
        return self.spans[0].file.format

    @property
    def stored_bytes(self) -> int:
        return sum(span.stored_bytes for span in self.spans)


def describe(path: str, stored_bytes: int, *, named: bool) -> LogFile | None:
    """What a file is by its name, or None for one that a directory listing should pass over.

    ``named`` says that the user named it (by path or pattern): then any ending is JSON lines.
    """
    name = posixpath.basename(path)
    if name.startswith((".", "_")) and not named:
        return None
    base, suffix = _ending(name)
    if suffix == PARQUET_SUFFIX:
        return LogFile(path, stored_bytes, "parquet", "none")
    compression = SUFFIXES.get(suffix, "none")
    if compression != "none":
        _, suffix = _ending(base)
    if named or suffix in JSON_SUFFIXES:
        return LogFile(path, stored_bytes, "json", compression)
    return None


def _ending(name: str) -> tuple[str, str]:
    base, suffix = posixpath.splitext(name)
    return base, suffix.lower()


def list_files(inputs: Sequence[str]) -> tuple[list[LogFile], list[str]]:
    """Find the files behind paths, directories and patterns, on disk and in object stores.

    Returns:
        The files in order of their address, each once, and the paths passed over, with why: their
        names do not look like logs, or they are links to folders, pipes and the like (only
        directories are filtered so).

    Raises:
        NoInput: a pattern matches nothing, or nothing that can be read, or a folder cannot be
            listed: its logs would be missing without a word.
    """
    found: dict[str, LogFile] = {}
    passed_over: dict[str, str] = {}
    for pattern in inputs:
        named, matches = _match(pattern)
        usable = 0
        try:
            odd = {} if named else oddities(absolute(pattern))
        except FolderUnreadable as error:
            raise NoInput(str(error)) from error
        for path, size in matches:
            file = describe(path, size, named=named)
            if file is None:
                passed_over[path] = "no log by its name"
            elif (kind := special(path)) and named:
                raise NoInput(
                    f"input {path!r} is {kind}, which may never end, and cannot be read again when "
                    f"something fails; nothing was read. Write it to a file first."
                )
            elif kind:
                odd[path] = kind
            else:
                usable += 1
                found[file.path] = file
        passed_over |= odd
        if not usable:
            raise NoInput(
                f"input {pattern!r} matches no log file "
                f"({len(matches)} other files there); nothing would be read. Name a directory, a "
                f"file, or a quoted pattern such as 'logs/**.jsonl.gz'."
            )
    others = passed_over.keys() - found.keys()
    return sorted(found.values()), sorted(f"{path} ({passed_over[path]})" for path in others)


def _match(pattern: str) -> tuple[bool, list[tuple[str, int]]]:
    """The files that a pattern names, and whether it names files (True) or a directory."""
    pattern = absolute(pattern)
    if not any(sign in pattern for sign in "*?["):
        exact = _listing(pattern) if not pattern.endswith("/") else []
        exact = [
            item for item in exact if item[0].rstrip("/") == pattern and not _is_folder(item[0])
        ]
        if exact:
            return True, exact
        return False, _listing(pattern.rstrip("/") + "/**")
    return True, [item for item in _listing(pattern) if not _is_folder(item[0])]


def absolute(path: str) -> str:
    """A local path as an absolute one; a URI as it is: identity must not hang on the folder."""
    if "://" in path:
        return path
    from pathlib import Path

    kept_slash = "/" if path.endswith("/") and path != "/" else ""
    found = Path(path).expanduser().absolute()
    if ".." in found.parts:  # a symbolic link before it counts, so this is more than text
        upward = len(found.parts) - found.parts[::-1].index("..")
        found = Path(*found.parts[:upward]).resolve().joinpath(*found.parts[upward:])
    return str(found) + kept_slash


def _is_folder(path: str) -> bool:
    from pathlib import Path

    return "://" not in path and Path(path).is_dir()


def _listing(pattern: str) -> list[tuple[str, int]]:
    return [(entry.path, entry.size) for entry in find(pattern)]


def pack(files: Iterable[LogFile], block_bytes: int = BLOCK_BYTES) -> list[Block]:
    """Pack files into blocks of about ``block_bytes`` uncompressed, big plain ones split.

    Files keep their order, so neighbours in time stay together.
    """
    blocks: list[Block] = []
    ordered = sorted(files, key=lambda file: (file.format, file))
    for _, group in itertools.groupby(ordered, key=lambda file: file.format):
        current: list[Span] = []
        size = 0
        for span in itertools.chain.from_iterable(_split(file, block_bytes) for file in group):
            span_bytes = (
                span.stored_bytes * span.file.estimated_bytes // max(1, span.file.stored_bytes)
            )
            if current and size + span_bytes > block_bytes:
                blocks.append(_block(current))
                current, size = [], 0
            current.append(span)
            size += span_bytes
        if current:
            blocks.append(_block(current))
    return blocks


def _split(file: LogFile, block_bytes: int) -> Iterator[Span]:
    splittable = file.format == "json" and file.compression == "none"
    if not splittable or file.stored_bytes <= block_bytes * 3 // 2:
        yield Span(file)
        return
    parts = -(-file.stored_bytes // block_bytes)
    step = -(-file.stored_bytes // parts)
    for start in range(0, file.stored_bytes, step):
        yield Span(file, start, min(start + step, file.stored_bytes))


def _block(spans: list[Span]) -> Block:
    return Block(
        identity((s.file.path, s.file.stored_bytes, s.start, s.end) for s in spans), tuple(spans)
    )


def identity(parts: Iterable[object]) -> str:
    """A 128-bit name for a sequence of things, the same in every run."""
    return hashlib.blake2b("\0".join(map(repr, parts)).encode(), digest_size=16).hexdigest()
