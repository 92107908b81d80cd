"""Windows and versions: what every summary and flag row is stamped with."""

from __future__ import annotations

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
