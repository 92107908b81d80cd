"""Text columns to typed columns, whole columns at a time; what cannot be converted is null.

Each function takes a string column (null = absent) and returns one of the same length; the
caller finds the failures as "there was text and now there is null".
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from adtally.transforms.mapping import EPOCH_UNITS, OFFSET_DIRECTIVE, FieldRule

_INT64: Final = (-(1 << 63), (1 << 63) - 1)
# Eighty digits times a factor of 19: never rounded, and an error if it were.
_EXACT: Final = decimal.Context(prec=100, traps=[decimal.InvalidOperation, decimal.Inexact])
_NUMBER: Final = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,2})?", re.ASCII)

_TIME_SHAPE: Final = (
    r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:[Zz]|[+-]\d\d:?\d\d)$"
)
"""RFC 3339, and two liberties that logs take: no seconds, and an offset without its colon."""

_NANOSECONDS: Final = pa.timestamp("ns", "UTC")
_MILLISECONDS: Final = pa.timestamp("ms", "UTC")


def cast_leniently(values: pa.Array, target: pa.DataType) -> pa.Array:
    """Cast text, with null where the text does not fit.

    Arrow's parser reads 49 million timestamps a second but fails a whole column for one bad
    value; halving finds the bad ones.
    """
    try:
        return pc.cast(values, target)
    except pa.ArrowInvalid:
        if len(values) == 1:
            return pa.nulls(1, target)
    middle = len(values) // 2
    return pa.concat_arrays(
        [cast_leniently(values[:middle], target), cast_leniently(values[middle:], target)]
    )


def parse_times(column: pl.Series, rule: FieldRule) -> pl.Series:
    """Milliseconds since the epoch (int64), fractions of a millisecond dropped (floor)."""
    if rule.time_format == "rfc3339":
        return _rfc3339(column, rule.time_zone)
    if rule.time_format in EPOCH_UNITS:
        return _epoch(column, EPOCH_UNITS[rule.time_format])
    return _strptime(column, rule.time_format, rule.time_zone)


def _rfc3339(column: pl.Series, time_zone: str | None) -> pl.Series:
    if time_zone is not None:  # offsets are optional: a time without one is in that zone
        has_offset = column.str.contains(r"(?:[zZ]|[+-]\d{2}:?\d{2})$")
        zoned = _rfc3339(pl.select(pl.when(has_offset).then(column)).to_series(), None)
        naive = _rfc3339(pl.select(pl.when(~has_offset).then(column + "Z")).to_series(), None)
        return zoned.fill_null(_in_zone(naive.cast(pl.Datetime("ms")), time_zone))
    text = _arrow(column)
    shaped = pc.match_substring_regex(text, _TIME_SHAPE)
    text = pc.if_else(shaped, text, pa.scalar(None, pa.string()))
    try:
        return pl.Series(pc.cast(pc.cast(text, _NANOSECONDS), pa.int64())) // 1_000_000
    except pa.ArrowInvalid:  # capitals for 't' and 'z', and null for days that never were
        # Nanoseconds end in 2262; cutting digits off a fraction is a floor, before 1970 too.
        text = pc.replace_substring_regex(pc.utf8_upper(text), r"(\.\d{3})\d+", r"\1")
        return pl.Series(pc.cast(cast_leniently(text, _MILLISECONDS), pa.int64()))


def _epoch(column: pl.Series, ms_per_unit: int) -> pl.Series:
    whole = column.cast(pl.Int64, strict=False)
    if ms_per_unit < 0:
        result = whole // -ms_per_unit
    else:
        limit = _INT64[1] // ms_per_unit
        inside = pl.select(pl.when(whole.is_between(-limit, limit)).then(whole)).to_series()
        result = inside * ms_per_unit
    missing = column.is_not_null() & result.is_null()
    if not missing.any():
        return result
    factor = decimal.Decimal(ms_per_unit) if ms_per_unit > 0 else decimal.Decimal(1) / -ms_per_unit
    exact = _by_value(column.filter(missing), lambda text: _scaled(text, factor, "floor"))
    return result.scatter(missing.arg_true(), exact)


def _strptime(column: pl.Series, pattern: str, time_zone: str | None) -> pl.Series:
    if OFFSET_DIRECTIVE.search(pattern):
        times = column.str.to_datetime(pattern, strict=False, time_unit="ms", time_zone="UTC")
        return times.dt.epoch("ms")
    return _in_zone(column.str.to_datetime(pattern, strict=False, time_unit="ms"), time_zone)


def _in_zone(times: pl.Series, time_zone: str | None) -> pl.Series:
    """Milliseconds since the epoch of times on the clocks of a zone.

    A clock turned back shows an hour twice: the first is taken. One turned forward skips an hour:
    such a time never was, and becomes a dead letter.
    """
    if time_zone not in (None, "UTC"):
        times = times.dt.replace_time_zone(time_zone, ambiguous="earliest", non_existent="null")
    return times.dt.epoch("ms")


def parse_money(column: pl.Series, rule: FieldRule) -> pl.Series:
    """Micros (int64), exactly: decimal arithmetic on the text, never a float."""
    rounding = rule.rounding
    factor = decimal.Decimal(rule.micros_per_unit)
    if rule.micros_per_unit != 1:
        return _by_value(column, lambda text: _scaled(text, factor, rounding))
    plain = column.cast(pl.Int64, strict=False)
    missing = column.is_not_null() & plain.is_null()
    if not missing.any():
        return plain
    # Only what is no plain number, or what becomes of one would hang on its neighbours.
    exact = _by_value(column.filter(missing), lambda text: _scaled(text, factor, rounding))
    return plain.scatter(missing.arg_true(), exact)


def _scaled(text: str, factor: decimal.Decimal, rounding: str) -> int | None:
    """``text`` times ``factor`` as a whole number, or None where it is none or does not fit."""
    if not _NUMBER.fullmatch(text):
        return None
    value = _EXACT.multiply(decimal.Decimal(text), factor)
    mode = {"half_even": decimal.ROUND_HALF_EVEN, "floor": decimal.ROUND_FLOOR}.get(rounding)
    whole = value.to_integral_value(mode or decimal.ROUND_DOWN)
    if mode is None and whole != value:
        return None
    return int(whole) if _INT64[0] <= whole <= _INT64[1] else None


def _by_value(column: pl.Series, convert: Callable[[str], int | None]) -> pl.Series:
    """Convert each distinct text once: prices repeat."""
    encoded = pc.dictionary_encode(_arrow(column))
    values = pa.array([convert(text) for text in encoded.dictionary.to_pylist()], pa.int64())
    return pl.Series(pc.take(values, encoded.indices))


def _arrow(column: pl.Series) -> pa.Array:
    array = column.to_arrow(compat_level=pl.CompatLevel.newest())
    return pc.cast(array, pa.string()) if array.type == pa.string_view() else array
