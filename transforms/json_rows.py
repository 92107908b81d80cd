"""Decodes JSON lines one by one, exactly: what the vectorised parser leaves, and all rejections."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import islice
from operator import attrgetter
from types import NoneType
from typing import Any

import msgspec
import polars as pl

from adtally.io.limits import TOO_DEEP, TOO_MANY_FIELDS, Limits

INVALID_JSON = "invalid_json"
INVALID_UTF8 = "invalid_utf8"
NOT_AN_OBJECT = "not_an_object"

_BATCH_LINES = 2048
"""Lines whose Python objects live at a time: they stay in the cache, and memory stays low."""

_EXPANDED_DIGITS = 40
"""Numbers whose plain notation would take more digits keep their exponent: 1e5 is 100000."""

_DEFAULT = Limits()
_raw: msgspec.json.Decoder[msgspec.Raw] = msgspec.json.Decoder(msgspec.Raw)
_raw_fields: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
)
_string: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode

_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)
_SURROGATES = re.compile(
    rb"\\[^u]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})",
    re.DOTALL,
)


@dataclass(frozen=True)
class Rejection:
    """Why a line is no record; ``message`` says what is wrong and where."""

    error_type: str
    message: str


@dataclass(frozen=True)
class Rows:
    """Decoded lines: one text column per field, unknown fields as JSON, the lines not accepted.

    ``accepted`` are indexes into the lines given, one per row; ``rejected`` the others.
    """

    columns: pl.DataFrame
    extra: list[str | None]
    accepted: list[int]
    rejected: list[tuple[int, Rejection]]


def decode_rows(lines: Iterable[bytes], fields: Sequence[str], limits: Limits = _DEFAULT) -> Rows:
    """Decode every line alone; see `adtally.transforms.json_lines` for what the columns hold."""
    decoder = _RowDecoder(fields)
    frames = [pl.Schema(dict.fromkeys(fields, pl.String)).to_frame()]
    extra: list[str | None] = []
    accepted: list[int] = []
    rejected: list[tuple[int, Rejection]] = []
    numbered = enumerate(lines)
    while batch := list(islice(numbered, _BATCH_LINES)):
        kept, rows = [], []
        for index, line in batch:
            found = _decode_fields(line, limits)
            if isinstance(found, Rejection):
                rejected.append((index, found))
                continue
            line, raws = found
            rows.append(decoder.row(line, raws))
            kept.append(line)
            extra.append(decoder.unknown(raws))
            accepted.append(index)
        frames.append(decoder.frame(rows, kept))
    return Rows(pl.concat(frames), extra, accepted, rejected)


def field_names(line: bytes) -> list[str]:
    """Names of the fields of a line, none where it is no record."""
    found = _decode_fields(line, _DEFAULT)
    return [] if isinstance(found, Rejection) else list(found[1])


def is_json(line: bytes) -> bool:
    """Whether the line is valid JSON in valid UTF-8 with whole surrogate pairs."""
    try:
        _raw.decode(line)
        return line.isascii() or bool(line.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def are_json(lines: bytes) -> bool:
    """Whether lines, each from `{` to `}`, are all valid JSON; a hint."""
    try:
        _raw.decode_lines(lines)
        return lines.isascii() or bool(lines.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def number_text(literal: str) -> str:
    """The exact value of a JSON number in plain notation, without trailing zeros.

    ``1.10`` is ``1.1``, ``1e5`` is ``100000``, ``-0.0`` is ``-0``. Integers stay as they are
    but for ``-0``, which is ``0``. Values that need more than 40 digits for an exponent keep it
    (``1E+400``).
    """
    if literal.lstrip("-").isdigit():
        return "0" if literal == "-0" else literal
    if "e" in literal or "E" in literal:
        return _exponent_text(literal)
    return literal.rstrip("0").rstrip(".")


def _exponent_text(literal: str) -> str:
    mantissa = literal.lower().partition("e")[0]
    if not mantissa.strip("-0."):
        return "-0" if literal[0] == "-" else "0"
    try:
        value = Decimal(literal)
    except InvalidOperation:  # an exponent beyond 10**18 is no Decimal; the literal is exact
        return literal
    digits = len(mantissa)
    if abs(value.adjusted()) > _EXPANDED_DIGITS + digits:
        return str(value)
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _decode_fields(line: bytes, limits: Limits) -> tuple[bytes, dict[str, msgspec.Raw]] | Rejection:
    """The line, with half surrogate pairs replaced, and its fields as they were written."""
    if _is_too_deep(line, limits.depth):
        return _reject(line, limits.depth)
    try:
        if not line.isascii():
            line.decode()
        found = _raw_fields.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        repaired = _repair(line)
        if repaired != line:
            return _decode_fields(repaired, limits)
        return _reject(line, limits.depth)
    if len(found) > limits.fields:
        why = f"{len(found):,} fields are more than --max-fields {limits.fields:,}"
        return Rejection(TOO_MANY_FIELDS, why)
    return line, found


def _reject(line: bytes, depth: int) -> Rejection:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Rejection(INVALID_UTF8, f"the line is not UTF-8: {error.reason}, byte {error.start}")
    if _is_too_deep(line, depth):
        return Rejection(TOO_DEEP, f"nested deeper than {depth} levels, see --max-depth")
    try:
        found = bytes(_raw.decode(line))
    except msgspec.DecodeError as error:
        return Rejection(INVALID_JSON, str(error))
    kinds = {b'"': "a string", b"[": "an array", b"n": "null", b"t": "true", b"f": "false"}
    kind = kinds.get(found[:1], "a number")
    return Rejection(NOT_AN_OBJECT, f"a record is a JSON object, this line is {kind}")


def _is_too_deep(line: bytes, most: int) -> bool:
    if line.count(b"[") + line.count(b"{") <= most:
        return False
    depth = 0
    for match in _BRACKETS.finditer(line):
        byte = match[0]
        depth += (byte in b"[{") - (byte in b"]}")
        if depth > most:
            return True
    return False


def _repair(line: bytes) -> bytes:
    r"""Half surrogate pairs as \ufffd, the replacement character, as in JavaScript and Go."""
    if b"\\u" not in line:
        return line
    return _SURROGATES.sub(lambda match: rb"\ufffd" if match[1] else match[0], line)


class _RowDecoder:
    """Decodes the requested fields of a line in one pass, and composes the others."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        self.known = frozenset(fields)
        names = {f"f{index}": field for index, field in enumerate(fields)}
        row = msgspec.defstruct(
            "Row", [(name, Any, None) for name in names], rename=names, gc=False
        )
        self.decoder = msgspec.json.Decoder(row, float_hook=number_text)
        self.getters = [attrgetter(name) for name in names]

    def row(self, line: bytes, found: dict[str, msgspec.Raw]) -> Any:
        """The requested fields as attributes, in a form that `texts` understands."""
        try:
            return self.decoder.decode(line)
        except msgspec.ValidationError:  # an integer of more than 4,300 digits
            raws = {field: found.get(field) for field in self.known}
            texts = {field: raw and _text(raw) for field, raw in raws.items()}
            return self.decoder.decode(_encode(texts))

    def unknown(self, found: dict[str, msgspec.Raw]) -> str | None:
        known = self.known
        names = [name for name in found if name not in known]
        return _encode({name: _compact(found[name]) for name in names}).decode() if names else None

    def frame(self, rows: Sequence[Any], lines: Sequence[bytes]) -> pl.DataFrame:
        """Rows as text columns."""
        names = enumerate(self.fields)
        return pl.DataFrame([self.texts(index, name, rows, lines) for index, name in names])

    def texts(
        self, index: int, name: str, rows: Sequence[Any], lines: Sequence[bytes]
    ) -> pl.Series:
        """One column; objects and arrays are taken from the lines as they were written."""
        values = list(map(self.getters[index], rows))
        if not set(map(type, values)) <= {str, NoneType}:
            for at, value in enumerate(values):
                if isinstance(value, dict | list):
                    values[at] = _text(_raw_fields.decode(lines[at])[name])
                elif value is not None and type(value) is not str:
                    values[at] = str(value).lower()
        return pl.Series(name, values, pl.String)


def _compact(raw: msgspec.Raw) -> msgspec.Raw:
    value = bytes(raw)
    return msgspec.Raw(msgspec.json.format(value, indent=-1)) if value[0] in b"[{" else raw


def _text(raw: msgspec.Raw) -> str | None:
    value = bytes(raw)
    first = value[:1]
    if first == b'"':
        return _string.decode(value)
    if first == b"n":
        return None
    if first in b"[{":
        return msgspec.json.format(value, indent=-1).decode()
    return value.decode() if first in b"tf" else number_text(value.decode())
