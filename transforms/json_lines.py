"""Parses a block of JSON lines into text columns, exactly and fast.

Three parts share the work, and which part decodes a line depends on the line alone:

1. `adtally.transforms.json_scan` counts keys with numpy, without parsing;
2. Polars parses all ordinary lines at once, into one text column per requested field;
3. `adtally.transforms.json_rows` decodes the others one by one: whatever Polars would ignore,
   round or refuse.

**Nothing is ignored.** Polars takes the first of duplicate keys and ignores unknown ones, so each
of its rows is accounted for. Where no space stands before a colon, every key of a line contributes
one occurrence of the bytes `":`, and a string value can only add more. So if their number
equals the non-null values plus the recognised explicit nulls plus the recognised unknown fields,
the line has no other keys and none twice. Every other line goes to part 3.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from adtally.io.limits import KEPT_BYTES, RECORD_TOO_LARGE, Limits
from adtally.transforms.json_pieces import compose_extras, line_views
from adtally.transforms.json_rows import (
    Rejection,
    Rows,
    are_json,
    decode_rows,
    field_names,
    is_json,
)
from adtally.transforms.json_scan import Scan, find_lines, safe_names, scan

_BOM = b"\xef\xbb\xbf"
_SAMPLED_LINES = 8
_MAX_EXTRA_NAMES = 16
_HINTED_LINES = 32
_MAX_READS = 64
"""Reads spent on finding lines that Polars refuses; the rest is decoded one by one, alike."""


@dataclass(frozen=True)
class RejectedLine:
    """A line that is no record: where it starts, why, and its bytes without the line end.

    ``error_type`` is ``invalid_json``, ``invalid_utf8``, ``not_an_object``, or what says that it is
    over a limit. Of a line that is too large, ``payload`` is the begin.
    """

    offset: int
    error_type: str
    message: str
    payload: bytes


@dataclass(frozen=True)
class ParsedLines:
    """The records of a block, in the order of the lines, and the lines that are none.

    Attributes:
        columns: One ``string_view`` column per requested field; null where absent or JSON null.
        extra: ``string_view``: the fields not requested as a compact JSON object, null if none.
        offsets: int64: byte offset of each record's line in the block.
        content_hash: int64: XXH3-64 of the line's bytes without its line end, reinterpreted.
        rejected: Lines that are no records, in the order of their offsets.
        blank_lines: Lines of nothing but white space, which are skipped.
    """

    columns: pa.Table
    extra: pa.Array
    offsets: pa.Int64Array
    content_hash: pa.Int64Array
    rejected: list[RejectedLine]
    blank_lines: int


def parse_lines(
    block: bytes | memoryview | pa.Buffer,
    fields: Sequence[str],
    *,
    first: bool = False,
    limits: Limits | None = None,
    cut: Mapping[int, int] | None = None,
) -> ParsedLines:
    """Parse a block of whole JSON lines into one text column per field.

    Lines end with LF, CR LF or with the block; lines of white space are skipped. Every other line
    is a record, if it is a JSON object (RFC 8259) in UTF-8 within the limits, or rejected. What
    becomes of a line depends on the line alone, never on its neighbours, on where the block is cut,
    or on threads.

    A requested field's value becomes text: a string its text; a number its exact value in plain
    notation, without trailing zeros (``1.10`` is ``1.1``, ``1e5`` is ``100000``; above some 40
    digits it keeps the exponent); ``true`` and ``false`` themselves; an object or array compact
    JSON. Of duplicate keys the last one wins. Half a surrogate pair becomes U+FFFD. Unknown
    fields keep their values as written, but for white space inside objects and arrays.

    Args:
        block: Less than 2 GiB of whole lines.
        fields: Names of the fields wanted, each once.
        first: Whether the block starts a file; a byte order mark is skipped there.
        limits: Of size, depth and number of fields.
        cut: By offset, the length of lines of which the block has the begin only.

    Raises:
        ValueError: The block is too large, or no field is requested, or one twice.
    """
    if not fields or len(set(fields)) != len(fields):
        raise ValueError(f"fields {list(fields)} are none or repeated; request each once")
    data = memoryview(block).cast("B")
    if len(data) >= 2**31:
        raise ValueError(f"a block of {len(data)} bytes is too large; cut it below 2 GiB")
    begin = len(_BOM) if first and data[:3] == _BOM else 0
    return _Parser(data, list(fields), begin, limits or Limits(), cut or {}).parse()


@dataclass(frozen=True)
class _Fast:
    """Rows that Polars parsed: which of them to keep, and the index of the line of each kept."""

    columns: pl.DataFrame
    rows: NDArray[np.int64]
    lines: NDArray[np.int64]


class _Parser:
    """One block on its way through the three parts."""

    def __init__(
        self,
        data: memoryview,
        fields: list[str],
        begin: int,
        limits: Limits,
        cut: Mapping[int, int],
    ) -> None:
        self.data = data
        self.limits = limits
        self.cut = cut
        self.fields = fields
        self.schema = pl.Schema(dict.fromkeys(fields, pl.String))
        self.bytes = np.frombuffer(data, np.uint8)
        self.lines = find_lines(self.bytes, begin)

    def parse(self) -> ParsedLines:
        ordinary, odd, large = self._sort_lines()
        found = scan(self.bytes, self.lines, self.fields, self._extra_names(ordinary))
        fast = self._read(np.flatnonzero(ordinary & ~found.odd))
        fast, extra = self._account(fast, found)
        decoded = np.zeros(len(ordinary), np.bool_)
        decoded[fast.lines] = True
        left = np.flatnonzero((ordinary | odd) & ~decoded)
        rows = decode_rows(map(self._line, left.tolist()), self.fields, self.limits)
        blank = int((~ordinary & ~odd & ~large).sum())
        parsed = self._assemble(fast, extra, rows, left, blank)
        parsed.rejected.extend(map(self._too_large, np.flatnonzero(large).tolist()))
        parsed.rejected.sort(key=lambda line: line.offset)
        return parsed

    def _line(self, index: int) -> bytes:
        return bytes(self.data[self.lines.starts[index] : self.lines.ends[index]])

    def _sort_lines(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Lines from `{"` to `}`, all others that are not blank, and those that are too large."""
        starts, ends = self.lines.starts, self.lines.ends
        large = ends - starts > self.limits.record_bytes
        ordinary = (ends - starts >= 4) & ~large
        ordinary &= self.bytes[np.minimum(starts, len(self.bytes) - 1)] == ord("{")
        ordinary &= self.bytes[np.minimum(starts + 1, len(self.bytes) - 1)] == ord('"')
        ordinary &= self.bytes[np.maximum(ends - 1, 0)] == ord("}")
        odd = np.zeros(len(starts), np.bool_)
        for index in np.flatnonzero(~ordinary & ~large & (ends > starts)).tolist():
            odd[index] = not self._line(index).isspace()
        return ordinary, odd, large

    def _extra_names(self, ordinary: NDArray[np.bool_]) -> list[str]:
        """Unknown fields of some first lines: a hint that makes the rest fast, nothing more."""
        names: dict[str, None] = {}
        for index in np.flatnonzero(ordinary)[:_SAMPLED_LINES].tolist():
            names.update(dict.fromkeys(field_names(self._line(index))))
        unknown = [name for name in names if name not in self.schema]
        return [name for _, name in safe_names(unknown)][:_MAX_EXTRA_NAMES]

    def _read(self, lines: NDArray[np.int64]) -> _Fast:
        """Polars' rows of those of the lines that it accepts."""
        if (columns := self._read_all(lines)) is None:
            lines = lines[self._seem_valid(lines)]
            parts = list(self._bisect(lines))
            lines = np.concatenate([lines[:0], *(part for _, part in parts)])
            columns = pl.concat([self.schema.to_frame(), *(frame for frame, _ in parts)])
        return _Fast(columns, np.arange(len(lines)), lines)

    def _seem_valid(self, lines: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which lines are JSON to msgspec; a hint, tried on some neighbours at a time."""
        valid = np.zeros(len(lines), np.bool_)
        starts, ends = self.lines.starts[lines].tolist(), self.lines.ends[lines].tolist()
        for first in range(0, len(lines), _HINTED_LINES):
            last = min(first + _HINTED_LINES, len(lines))
            if are_json(bytes(self.data[starts[first] : ends[last - 1]])):
                valid[first:last] = True
                continue
            for at in range(first, last):
                valid[at] = is_json(bytes(self.data[starts[at] : ends[at]]))
        return valid

    def _bisect(self, lines: NDArray[np.int64]) -> Iterator[tuple[pl.DataFrame, NDArray[np.int64]]]:
        """Rows and lines of the parts that Polars accepts."""
        pending, reads = [lines], 0
        while pending and reads < _MAX_READS:
            lines = pending.pop()
            reads += 1
            if (columns := self._read_all(lines)) is not None:
                yield columns, lines
            elif len(lines) > 1:
                half = len(lines) // 2
                pending += [lines[half:], lines[:half]]

    def _read_all(self, lines: NDArray[np.int64]) -> pl.DataFrame | None:
        """All lines in one read, None if Polars refuses any."""
        if not len(lines):
            return self.schema.to_frame()
        try:
            columns = pl.read_ndjson(self._join(lines), schema=self.schema)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return None
        return columns if columns.height == len(lines) else None

    def _join(self, lines: NDArray[np.int64]) -> bytes:
        """The lines with their line ends; runs of neighbours are copied in one piece."""
        breaks = np.flatnonzero(np.diff(lines) != 1)
        first = lines[np.concatenate([[0], breaks + 1])]
        last = lines[np.concatenate([breaks, [len(lines) - 1]])]
        starts, ends = self.lines.starts[first], self.lines.ends[last]
        if len(starts) == 1 and isinstance(self.data.obj, bytes) and self._is_all(starts, ends):
            return self.data.obj
        runs = zip(starts.tolist(), ends.tolist(), strict=True)
        return b"\n".join([self.data[start:end] for start, end in runs])

    def _is_all(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> bool:
        """Whether one run of lines is the whole block, but for a last line end."""
        return starts[0] == 0 and not bytes(self.data[ends[0] :]).strip()

    def _account(self, fast: _Fast, found: Scan) -> tuple[_Fast, pl.Series]:
        """The rows of which every key is accounted for, and their unknown fields."""
        count = len(self.lines.starts)
        present = np.zeros(count, np.int64)
        filled = np.zeros(len(fast.lines), np.int64)
        for column in fast.columns:
            filled += column.is_not_null().to_numpy() if column.null_count() else 1
        present[fast.lines] = filled
        present += np.bincount(found.null_line, minlength=count)
        present += np.bincount(found.extras.line, minlength=count)
        exact = (present == found.keys)[fast.lines] & ~found.odd[fast.lines]
        exact &= ~self._contradicted_nulls(fast, found)[fast.lines]
        fast = _Fast(fast.columns, fast.rows[exact], fast.lines[exact])
        return fast, pl.Series(
            compose_extras(self.bytes, found.extras, fast.lines), dtype=pl.String
        )

    def _contradicted_nulls(self, fast: _Fast, found: Scan) -> NDArray[np.bool_]:
        """Lines where a field is null once and something else another time."""
        count = len(self.lines.starts)
        wrong = np.zeros(count, np.bool_)
        row_of = np.full(count, -1, np.int64)
        row_of[fast.lines] = np.arange(len(fast.lines))
        for index in np.unique(found.null_field[found.null_field >= 0]):
            lines = found.null_line[found.null_field == index]
            lines = lines[row_of[lines] >= 0]
            filled = fast.columns[self.fields[index]].is_not_null().to_numpy()
            wrong[lines] = filled[row_of[lines]]
        return wrong

    def _assemble(
        self, fast: _Fast, extra: pl.Series, rows: Rows, left: NDArray[np.int64], blank: int
    ) -> ParsedLines:
        decoded = left[rows.accepted]
        lines = np.concatenate([fast.lines, decoded])
        columns, picked = fast.columns, fast.rows
        hashes = np.concatenate([self._hash(fast.lines), self._hash_alone(decoded)])
        if len(decoded):
            extra = pl.concat([extra, pl.Series(rows.extra, dtype=pl.String)])
            order = np.argsort(lines, kind="stable")
            picked = np.concatenate([picked, columns.height + np.arange(len(decoded))])[order]
            columns = pl.concat([columns, rows.columns])
            extra, lines, hashes = extra[order], lines[order], hashes[order]
        if len(picked) < columns.height or len(decoded):
            columns = columns[picked]
        return ParsedLines(
            columns=columns.to_arrow(compat_level=pl.CompatLevel.newest()),
            extra=extra.to_arrow(compat_level=pl.CompatLevel.newest()),
            offsets=pa.array(self.lines.starts[lines]),
            content_hash=pa.array(hashes),
            rejected=[self._rejected(left[index], why) for index, why in rows.rejected],
            blank_lines=blank,
        )

    def _hash(self, lines: NDArray[np.int64]) -> NDArray[np.int64]:
        """XXH3-64 of lines known to be UTF-8, through views on the block."""
        if not len(lines):
            return np.empty(0, np.int64)
        texts = line_views(self.bytes, self.lines.starts[lines], self.lines.ends[lines])
        frame = pl.DataFrame({"line": pl.Series(texts, dtype=pl.String)})
        hashes = frame.select(plh.col("line").nchash.xxh3_64())["line"]
        return hashes.to_numpy().view(np.int64)

    def _hash_alone(self, lines: NDArray[np.int64]) -> NDArray[np.int64]:
        hashes = [xxhash.xxh3_64_intdigest(self._line(index)) for index in lines.tolist()]
        return np.array(hashes, np.uint64).view(np.int64)

    def _too_large(self, index: int) -> RejectedLine:
        start, end = int(self.lines.starts[index]), int(self.lines.ends[index])
        size = self.cut.get(start, end - start)
        payload = _whole_characters(bytes(self.data[start : min(end, start + KEPT_BYTES)]))
        message = (
            f"{size:,} bytes are more than --max-record-bytes {self.limits.record_bytes:,}; the "
            f"record was not counted. The payload lacks {size - len(payload):,} bytes here, so it "
            f"cannot be replayed: raise the limit and read its source again."
        )
        return RejectedLine(start, RECORD_TOO_LARGE, message, payload)

    def _rejected(self, index: int, why: Rejection) -> RejectedLine:
        offset = int(self.lines.starts[index])
        return RejectedLine(offset, why.error_type, why.message, self._line(index))


def _whole_characters(data: bytes) -> bytes:
    """Bytes without the begin of a character that they were cut in."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return data[: error.start] if error.start >= len(data) - 3 else data
    return data
