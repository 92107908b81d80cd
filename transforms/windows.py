"""Windows and versions: what every summary and flag row is stamped with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

GENERATION_BITS: Final = 40
"""A version is ``generation << 40`` plus the events seen: a trillion events a window fit."""

SEEN_MASK: Final = (1 << GENERATION_BITS) - 1


Ranges = tuple[tuple[int, int], ...]
"""Ranges ``[from, to)`` of event time, in milliseconds since the epoch."""


def within(start: pl.Expr, end: pl.Expr, ranges: Ranges) -> pl.Expr:
    """True where ``[start, end)`` lies whole inside one of the ranges."""
    return pl.any_horizontal((start >= low) & (end <= high) for low, high in ranges)


def utc(ms: pl.Expr) -> pl.Expr:
    """Milliseconds since the epoch as a timestamp."""
    return ms.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")


def window_columns(window_ms: int, allowed_lateness_ms: int) -> list[pl.Expr]:
    """Columns that follow from ``window``, the start of a window in milliseconds."""
    start = pl.col("window")
    return [
        utc(start).alias("window_start"),
        utc(start + window_ms).alias("window_end"),
        pl.lit(window_ms // 1000, pl.Int64).alias("window_seconds"),
        utc(start + window_ms + allowed_lateness_ms).alias("final_after"),
    ]


class SumOverflow(OverflowError):
    """Money of one row that 64 bits do not hold."""


def exact_sum(micros: pl.Expr) -> pl.Expr:
    """A sum in 128 bits, because Polars wraps 64 around without a word; see checked_sums."""
    return micros.cast(pl.Int128).sum()


def checked_sums(sums: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Sums of :func:`exact_sum` as int64, for rows with a ``window``, advertiser and currency.

    Raises:
        SumOverflow: one does not fit; names the row.
    """
    for name in names:
        beyond = sums.filter(~pl.col(name).is_between(-(1 << 63), (1 << 63) - 1))
        if beyond.height:
            row = beyond.with_columns(utc(pl.col("window"))).row(0, named=True)
            raise SumOverflow(
                f"{name} of advertiser {row['advertiser_id']!r} in {row['currency']} is "
                f"{row[name]} in the window that begins at {row['window']:%Y-%m-%dT%H:%M:%SZ}, "
                f"more than 64 bits hold; no summary would be right. Correct the amounts, or "
                f"their unit in the mapping (micros_per_unit), and run again."
            )
    return sums.with_columns(pl.col(name).cast(pl.Int64) for name in names)
