"""Finds lines, keys, nulls and unknown fields in a block of JSON lines with numpy, without parsing.

What the scan says about a line is exact only together with the parser's word that the line is
valid JSON; `adtally.transforms.json_lines` combines the two. All positions are byte offsets in
the block; every result of a line depends on the bytes of that line alone.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]
Flags: TypeAlias = NDArray[np.bool_]
Bytes: TypeAlias = NDArray[np.uint8]

CHUNK_BYTES = 1 << 20
"""Bytes scanned at a time: the working set stays in the processor's cache."""

_PAD = 128
"""Newlines put around a chunk, so that a look back (a name) or ahead (a word) stays inside."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9_.$@-]{1,64}")
"""Names recognised byte by byte: no escapes, nothing that could end in a colon or a space."""

_EXACT_DIGITS = 15
"""Decimals of up to 15 significant digits survive a double (IEEE 754, DBL_DIG)."""

_LONGEST_NUMBER = 32
"""Bytes; Polars reads integers of up to 38 digits exactly."""

_LONGEST_EXTRA = 4096
"""Bytes of an unknown field's text that the scan looks for; it advances eight bytes a step."""

_OTHER, _STRING, _NUMBER, _LITERAL, _NULL = range(5)
_KIND = np.full(256, _OTHER, np.uint8)
_KIND[ord('"')] = _STRING
_KIND[list(b"-0123456789")] = _NUMBER
_KIND[list(b"tf")] = _LITERAL
_KIND[ord("n")] = _NULL
_SPACE = np.zeros(256, np.bool_)
_SPACE[list(b" \t\r")] = True


UNCLEAN = r"[\x00-\x1f\x7f-\x9f\x{fffd}]"
"""Control characters, and what stands for text that was lost (in the syntax of Rust)."""


def _table(values: Iterable[int]) -> Flags:
    table = np.zeros(256, np.bool_)
    table[list(values)] = True
    return table


_UNCLEAN_BYTES: list[tuple[int, Flags | None]] = [
    (ord("\\"), _table(b"bfnrtu")),
    (0x7F, None),
    (0xC2, _table(range(0x80, 0xA0))),
    (0xEF, _table([0xBF])),
]
"""First bytes of what UNCLEAN finds, escaped or in UTF-8, with the second bytes that matter."""


@dataclass(frozen=True)
class Lines:
    """Byte ranges [start, end) of the lines of a block, without their line ends."""

    starts: Ints
    ends: Ints


@dataclass(frozen=True)
class Extras:
    """Unknown fields found, in order of position: `"key":` at [key, colon], its value's range."""

    line: Ints
    key: Ints
    colon: Ints
    value: Ints
    end: Ints


@dataclass(frozen=True)
class Scan:
    """What the scan found, per line and per explicit null or unknown field.

    ``keys`` counts the bytes `":` of a line, so it is at least the number of its keys where no
    space stands before a colon. ``odd`` lines need the exact decoder whatever else is found.
    """

    keys: Ints
    odd: Flags
    null_line: Ints
    null_field: Ints
    extras: Extras


def find_lines(block: Bytes, begin: int) -> Lines:
    """Lines of the block from byte ``begin``; they end with LF, CR LF or with the block."""
    steps = range(begin, len(block), CHUNK_BYTES)
    feeds = [np.flatnonzero(block[at : at + CHUNK_BYTES] == 10) + at for at in steps]
    ends = np.concatenate([*feeds, np.array([len(block)])]).astype(np.int64, copy=False)
    starts = np.empty_like(ends)
    starts[0] = begin
    starts[1:] = ends[:-1] + 1
    if starts[-1] >= len(block):
        starts, ends = starts[:-1], ends[:-1]
    if not len(starts):
        return Lines(starts, ends)
    ends = ends - ((ends > starts) & (block[np.maximum(ends - 1, 0)] == 13))
    return Lines(starts, ends)


def safe_names(names: Sequence[str]) -> list[tuple[int, str]]:
    """The names, with their index, that the scan can recognise byte by byte."""
    return [(index, name) for index, name in enumerate(names) if _SAFE_NAME.fullmatch(name)]


def scan(block: Bytes, lines: Lines, fields: Sequence[str], extra_names: Sequence[str]) -> Scan:
    """Count keys and resolve nulls of ``fields`` and values of ``extra_names`` in every line."""
    named = safe_names(fields)
    unknown = [name for _, name in safe_names(extra_names)]
    parts = [
        _scan_chunk(_Chunk(block, lines, first, last), named, unknown)
        for first, last in _chunks(lines)
    ]
    extras = [part.extras for part in parts]
    return Scan(
        keys=_join([part.keys for part in parts]),
        odd=_join([part.odd for part in parts]).astype(np.bool_),
        null_line=_join([part.null_line for part in parts]),
        null_field=_join([part.null_field for part in parts]),
        extras=Extras(
            *(
                _join([getattr(extra, name) for extra in extras])
                for name in ("line", "key", "colon", "value", "end")
            )
        ),
    )


def _join(arrays: Sequence[NDArray]) -> NDArray:
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)


def _chunks(lines: Lines) -> Iterator[tuple[int, int]]:
    """Ranges of whole lines of about CHUNK_BYTES each."""
    first, count = 0, len(lines.starts)
    while first < count:
        last = int(np.searchsorted(lines.starts, lines.starts[first] + CHUNK_BYTES))
        yield first, last
        first = last


class _Chunk:
    """A padded copy of some whole lines. Its positions are the block's, shifted by ``shift``."""

    def __init__(self, block: Bytes, lines: Lines, first: int, last: int) -> None:
        begin, end = int(lines.starts[first]), int(lines.ends[last - 1])
        self.bytes = np.full(end - begin + 2 * _PAD, 10, np.uint8)
        self.bytes[_PAD : _PAD + end - begin] = block[begin:end]
        self.words: Words = np.ndarray(
            (len(self.bytes) - 7,), dtype="<u8", buffer=self.bytes, strides=(1,)
        )
        self.shift = begin - _PAD
        self.first = first
        self.starts = lines.starts[first:last] - self.shift
        self.odd = np.zeros(last - first, np.bool_)

    def line_of(self, positions: Ints) -> Ints:
        return np.searchsorted(self.starts, positions, side="right") - 1

    def mark(self, positions: Ints) -> None:
        if len(positions):
            self.odd[self.line_of(positions)] = True

    def count(self, positions: Ints) -> Ints:
        bounds = np.searchsorted(positions, self.starts)
        return np.diff(bounds, append=len(positions))


def _scan_chunk(chunk: _Chunk, fields: list[tuple[int, str]], unknown: Sequence[str]) -> Scan:
    colons = np.flatnonzero(chunk.bytes == ord(":"))
    before = chunk.bytes[colons - 1]
    chunk.mark(colons[_SPACE[before]])
    _mark_surrogates(chunk)
    keys = colons[before == ord('"')]
    values = keys + 1
    values += chunk.bytes[values] == ord(" ")
    kinds = _KIND[chunk.bytes[values]]
    chunk.mark(keys[kinds == _OTHER])
    _mark_inexact_numbers(chunk, values[kinds == _NUMBER])
    is_extra, extras = _find_extras(chunk, unknown, keys, values, kinds)
    nulls = keys[(kinds == _NULL) & ~is_extra]
    null_field = np.full(len(nulls), -1, np.int64)
    tails = chunk.words[nulls - 9]
    for index, name in fields:
        null_field[_named(chunk, nulls, tails, name)] = index
    chunk.mark(nulls[null_field < 0])
    return Scan(
        keys=chunk.count(keys),
        odd=chunk.odd,
        null_line=chunk.line_of(nulls) + chunk.first,
        null_field=null_field,
        extras=extras,
    )


def _named(chunk: _Chunk, colons: Ints, tails: Words, name: str) -> Ints:
    """Indexes of the colons whose key is exactly ``name``; ``tails`` are words at colon - 9.

    In valid JSON a quote that no backslash precedes is no part of a string, so the match cannot
    be the end of a longer name, nor stand in a value.
    """
    quoted = b'"' + name.encode()
    unused = np.uint64(8 * max(8 - len(quoted), 0))
    found = np.flatnonzero(tails >> unused == _word(quoted[-8:]))
    for at in {max(at, 0) for at in range(len(quoted) - 16, -8, -8)}:
        heads = chunk.words[colons[found] - 1 - len(quoted) + at]
        found = found[heads == _word(quoted[at : at + 8])]
    return found[chunk.bytes[colons[found] - 2 - len(quoted)] != ord("\\")]


def _word(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text, "little"))


def _has_byte(words: Words, byte: str) -> Words:
    """High bits set where a byte of the word equals ``byte``; exact up to the lowest one set."""
    ones, highs = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
    mixed = words ^ (np.uint64(ord(byte)) * ones)
    return (mixed - ones) & ~mixed & highs


def _below(marks: Words) -> Words:
    """All bits below the lowest one set, all 64 where none is."""
    return (marks & (~marks + np.uint64(1))) - np.uint64(1)


def _mark_surrogates(chunk: _Chunk) -> None:
    r"""Lines with \ud8 to \udf: half a pair is not text, and parsers disagree about it."""
    slashes = np.flatnonzero(chunk.bytes == ord("\\"))
    if len(slashes):
        is_unicode = chunk.bytes[slashes + 1] == ord("u")
        is_d = (chunk.bytes[slashes + 2] | 32) == ord("d")
        chunk.mark(slashes[is_unicode & is_d & (chunk.bytes[slashes + 3] >= ord("8"))])


def _mark_inexact_numbers(chunk: _Chunk, begins: Ints) -> None:
    """Lines with a number that a double would change: long decimals, exponents, huge integers."""
    lengths, dotted, exponent = _measure_numbers(chunk, begins)
    too_long = (lengths > _LONGEST_NUMBER) | (dotted & (lengths > _EXACT_DIGITS + 1))
    chunk.mark(begins[too_long | exponent])


def _measure_numbers(chunk: _Chunk, begins: Ints) -> tuple[Ints, Flags, Flags]:
    """Length (up to 40), whether it has a decimal point, whether it has an exponent."""
    lengths = np.zeros(len(begins), np.int64)
    dotted, exponent = np.zeros((2, len(begins)), np.bool_)
    active = np.arange(len(begins))
    for _ in range(_LONGEST_NUMBER // 8 + 1):
        words = chunk.words[begins[active] + lengths[active]]
        stops = np.bitwise_or.reduce([_has_byte(words, byte) for byte in ",} \t\r\n"])
        inside = _below(stops)
        dotted[active] |= (_has_byte(words, ".") & inside) != 0
        lower = words | np.uint64(0x2020202020202020)
        exponent[active] |= (_has_byte(lower, "e") & inside) != 0
        lengths[active] += np.bitwise_count(inside) // 8
        active = active[stops == 0]
        if not len(active):
            break
    return lengths, dotted, exponent


def _find_extras(
    chunk: _Chunk, names: Sequence[str], keys: Ints, values: Ints, kinds: Bytes
) -> tuple[Flags, Extras]:
    """Unknown fields by name: which keys they are, and where their raw values stand."""
    is_extra = np.zeros(len(keys), np.bool_)
    key_bytes = np.zeros(len(keys), np.int64)
    tails = chunk.words[keys - 9] if names else np.empty(0, np.uint64)
    for name in names:
        found = _named(chunk, keys, tails, name)
        owners = chunk.line_of(keys[found])
        chunk.odd[owners[1:][owners[1:] == owners[:-1]]] = True
        is_extra[found] = True
        key_bytes[found] = len(name) + 2
    chosen = np.flatnonzero(is_extra)
    colons, begins = keys[chosen], values[chosen]
    ends = _value_ends(chunk, begins, kinds[chosen] == _STRING)
    return is_extra, Extras(
        line=chunk.line_of(colons) + chunk.first,
        key=colons - key_bytes[chosen] + chunk.shift,
        colon=colons + chunk.shift,
        value=begins + chunk.shift,
        end=ends + chunk.shift,
    )


def _value_ends(chunk: _Chunk, begins: Ints, is_string: Flags) -> Ints:
    """End of each scalar value; a string with a backslash, or a long one, makes its line odd."""
    ends = begins + is_string
    active = np.arange(len(begins))
    for _ in range(_LONGEST_EXTRA // 8):
        words = chunk.words[ends[active]]
        quotes = _has_byte(words, '"') | _has_byte(words, "\\") | _has_byte(words, "\n")
        marks = np.bitwise_or.reduce([_has_byte(words, byte) for byte in ",} \t\r\n"])
        stops = np.where(is_string[active], quotes, marks)
        ends[active] += np.bitwise_count(_below(stops)) // 8
        active = active[stops == 0]
        if not len(active):
            break
    chunk.mark(begins[active])
    chunk.mark(begins[is_string & (chunk.bytes[ends] != ord('"'))])
    return ends + is_string


def suspects(block: bytes, offsets: Ints) -> Flags:
    """Which lines, by their offsets, may hold text that ``UNCLEAN`` finds, escaped or as it is."""
    found = np.zeros(len(offsets), np.bool_)
    every = np.frombuffer(block, np.uint8)
    for first, seconds in _UNCLEAN_BYTES:
        if bytes([first]) not in block:
            continue
        places = np.flatnonzero(every == first)
        if seconds is not None:
            following = every[np.minimum(places + 1, len(every) - 1)]
            places = places[seconds[following]]
        lines = np.searchsorted(offsets, places, side="right") - 1
        found[lines[lines >= 0]] = True
    return found
